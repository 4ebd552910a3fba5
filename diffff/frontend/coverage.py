"""Whether every bond, angle and torsion of a topology has a row."""

from collections.abc import Collection

import numpy as np

from diffff.errors import InputError
from diffff.frontend.group import among
from diffff.frontend.trace import Trace

_TAGS = {  # what, its list in the System, number of atoms, the tags that give it an energy
    "bond": ("Bonds", 2, ("HarmonicBondForce", "CustomBondForce")),
    "angle": ("Angles", 3, ("HarmonicAngleForce", "CustomAngleForce")),
    "torsion": ("Torsions", 4, ("PeriodicTorsionForce", "RBTorsionForce", "CustomTorsionForce")),
}
_ROWS = {"bond": "a <Bond …>", "angle": "an <Angle …>", "torsion": "a <Proper …>"}


def require_rows(trace: Trace, tags: Collection[str]) -> None:
    """Refuse a topology some of whose bonds, angles or torsions have no row in any tag of their kind.

    Args:
        trace: of the topology.
        tags: those of the force field; a kind without tags is not looked at.

    Raises:
        InputError: names the first of them, and how many there are.
    """
    wanted = {"bond": trace.bonds, "angle": trace.angles, "torsion": trace.propers}
    for what, (items, n_atoms, kinds) in _TAGS.items():
        present = [tag for tag in kinds if tag in tags]
        if not present:
            continue
        columns = [f"p{i + 1}" for i in range(n_atoms)]
        found = np.concatenate([trace.force(kind, items, columns) for kind in kinds])
        missing = wanted[what][~among(wanted[what], found)]
        if len(missing):
            others = f", and for {len(missing) - 1} others" if len(missing) > 1 else ""
            raise InputError(
                f"{' and '.join(present)}: no row for {what} {trace.describe(missing[0])}{others}. Add {_ROWS[what]} "
                'for these types, or give missing="skip" to leave them out as OpenMM does.'
            )
