"""Molecules that a boundary has cut: bonded terms, which know no images, would be as long as the box."""

import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.potentials.base import Potential
from diffff.potentials.bonded import HarmonicAngle, HarmonicBond
from diffff.space import face_distances


def bonded_pairs(potential: Potential) -> np.ndarray:
    """Pairs of atoms whose springs know no images, shape ``(n_pairs, 2)``."""
    pairs = [np.zeros((0, 2), int)]
    for term in potential.terms:
        if isinstance(term, HarmonicBond | HarmonicAngle) and not term.periodic:
            atoms = np.asarray(term.atoms)
            pairs += [atoms[:, k : k + 2] for k in range(atoms.shape[1] - 1)]
    return np.concatenate(pairs)


def require_whole(pairs: np.ndarray, positions: np.ndarray, box: np.ndarray | None) -> None:
    """Refuse molecules that are not whole.

    Args:
        pairs: from `bonded_pairs`.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.

    Raises:
        InputError: a bond is longer than half the box, and twice as long as to an image of its second atom.
    """
    if box is None or not len(pairs) or pairs.max() >= len(positions):
        return
    box = np.asarray(box, float)
    dr = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    long = np.linalg.norm(dr, axis=1) > 0.5 * face_distances(box).min()
    if not long.any():
        return
    pairs, dr = pairs[long], dr[long]
    nearest = dr - np.round(dr @ np.linalg.inv(box)) @ box
    r = np.linalg.norm(dr, axis=1)
    cut = np.where(r > 2.0 * np.linalg.norm(nearest, axis=1), r, 0.0)
    worst = int(np.argmax(cut))
    if cut[worst] > 0.0:
        (i, j), apart = pairs[worst], r[worst] * units.ANGSTROM_PER_NM
        raise InputError(
            f"atoms {i} and {j} (from 0) are bonded, but {apart:.1f} Å apart, more than half the box: "
            "wrapped atoms have cut molecules; give whole ones."
        )
