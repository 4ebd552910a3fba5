"""The pairs of a frame that a Deep Potential sees: those within the cutoff that the slots of the descriptor hold.

Host side, numpy; lengths in Å.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffff.descriptors.se_e2_a import SeE2A, auto_factor
from diffff.errors import InputError
from diffff.neighbors import directed_pairs, keep_nearest

Ints = NDArray[np.integer]
Array = NDArray[np.float64]

_SLAB = 1 << 16  # pairs whose vectors are computed at a time: in the cache, that takes a fifth of the time


@dataclass(frozen=True, eq=False)
class FramePairs:
    """Directed pairs of one frame.

    Attributes:
        center: shape ``(n_pairs,)`` int32.
        neighbor: shape ``(n_pairs,)`` int32.
        shift: shape ``(n_pairs, 3)`` int32, lattice translation of the neighbour.
        dr: shape ``(n_pairs, 3)``, from the centre to the neighbour, Å.
        truncated: number of pairs that did not fit into the slots.
    """

    center: Ints
    neighbor: Ints
    shift: Ints
    dr: Array
    truncated: int = 0

    def padded(self, capacity: int, n_atoms: int) -> tuple[Ints, Ints, Array]:
        """Centre, neighbour and dr with ``capacity`` entries; unused ones have ``center == neighbor == n_atoms``."""
        index = np.full((2, capacity), n_atoms, np.int32)
        index[0, : len(self.center)], index[1, : len(self.center)] = self.center, self.neighbor
        dr = np.zeros((capacity, 3))
        dr[: len(self.dr)] = self.dr
        return index[0], index[1], dr


def pairs_within(rcut: float, positions: Array, box: Array | None, real: NDArray[np.bool_] | None = None) -> FramePairs:
    """All pairs of a frame within the cutoff.

    Args:
        rcut: cutoff, Å.
        positions: shape ``(n_atoms, 3)``, Å.
        box: shape ``(3, 3)`` or None, Å.
        real: shape ``(n_atoms,)``, False for slots without an atom, which have no neighbours; None: all are atoms.
    """
    slots = None if real is None else np.flatnonzero(real).astype(np.int32)
    atoms = positions if slots is None else positions[slots]
    center, neighbor, shift = directed_pairs(atoms, box, rcut)
    dr = np.empty((len(center), 3))
    for start in range(0, len(center), _SLAB):
        some = slice(start, start + _SLAB)
        dr[some] = atoms[neighbor[some]] - atoms[center[some]]
        if box is not None:
            dr[some] += shift[some] @ box
    if slots is not None:
        center, neighbor = slots[center], slots[neighbor]
    return FramePairs(center, neighbor, shift, dr)


def most_neighbors(center: Ints, neighbor_types: Ints, n_atoms: int, n_types: int) -> NDArray[np.int64]:
    """Largest number of neighbours of each type that an atom has, shape ``(n_types,)``.

    Args:
        center: shape ``(n_pairs,)``.
        neighbor_types: shape ``(n_pairs,)``.
        n_atoms: number of centres.
        n_types: number of types of the model.
    """
    counts = np.bincount(center * np.int64(n_types) + neighbor_types, minlength=n_atoms * n_types)
    return counts.reshape(n_atoms, n_types).max(axis=0, initial=0)


def truncate(pairs: FramePairs, types: Ints, descriptor: SeE2A) -> FramePairs:
    """The pairs that fit into the slots of the descriptor; the same object when all do.

    Args:
        pairs: all pairs of a frame.
        types: type of each atom, shape ``(n_atoms,)``.
        descriptor: has its slots as numbers.

    Raises:
        InputError: not all fit, and ``sel_overflow`` is "error".
    """
    sel = descriptor.slots
    neighbor_types = types[pairs.neighbor]
    most = most_neighbors(pairs.center, neighbor_types, len(types), len(sel))
    if np.all(most <= sel):
        return pairs
    if descriptor.sel_overflow == "error":
        raise InputError(overflow_message(descriptor, most))
    keep = keep_nearest(pairs.center, neighbor_types, np.linalg.norm(pairs.dr, axis=1), sel)
    gone = pairs.truncated + int(len(keep) - keep.sum())
    return FramePairs(pairs.center[keep], pairs.neighbor[keep], pairs.shift[keep], pairs.dr[keep], truncated=gone)


def overflow_message(descriptor: SeE2A, most: Ints) -> str:
    """What to say when an atom has more neighbours than slots."""
    return (
        f"an atom has up to {most.tolist()} neighbours of each type within {descriptor.rcut} Å, but descriptor.sel is "
        f'{list(descriptor.slots)}. Set sel to {list(slots_for("auto", most))} or to "auto".'
    )


def slots_for(sel: str, most: Ints) -> tuple[int, ...]:
    """Slots for ``sel`` "auto" or "auto:factor": the largest counts times the factor (1.1), up to a multiple of 4.

    Example:
        >>> slots_for("auto", np.array([38, 72])), slots_for("auto:1.5", np.array([38, 72]))
        ((44, 80), (60, 108))
    """
    factor = auto_factor(sel)
    return tuple(4 * ((int(n * factor) + 3) // 4) for n in most.tolist())
