"""Positions and box as a user gives them, made sure of before anything is computed."""

from typing import Any

import numpy as np
from openmm import unit

from diffff.errors import InputError
from diffff.neighbors import checked
from diffff.space import face_distances

_COARSE = 1e-4  # nm, between neighbouring numbers of a precision: too much to place an atom
_CELLS = 2**30  # across which atoms may be spread: they are counted by integers of 32 bits


def positions_and_box(positions: Any, box: Any, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays in nm.

    Args:
        positions: shape ``(n_atoms, 3)``, nm, or an ``openmm.unit.Quantity``.
        box: shape ``(3, 3)``, nm, or a Quantity; None without periodicity.
        dtype: in which they will be computed with.

    Raises:
        InputError: they make no sense (see `diffff.neighbors.checked`), or atoms are so far away from the origin that
            the precision does not place them.
    """
    positions, box = checked(_in_nm(positions), _in_nm(box))
    if not len(positions):
        raise InputError("there are no atoms: the positions are empty.")
    far = float(np.abs(positions).max())
    with np.errstate(over="ignore", invalid="ignore"):
        apart = float(np.spacing(np.asarray(far, dtype)))
    cells = 0.0 if box is None else far / float(face_distances(box).min())
    where = f"positions are up to {far:.3g} nm from the origin"
    if not apart < _COARSE:
        double = " Or compute in float64." if np.dtype(dtype) == np.float32 and far < 1e9 else ""
        raise InputError(
            f"{where}, where the numbers of {np.dtype(dtype)} are too coarse to place an atom. Move the atoms nearer, "
            f"in a box by whole lattice vectors.{double}"
        )
    if not cells < _CELLS:
        raise InputError(f"{where}, more than {_CELLS} boxes. Move the atoms nearer by whole lattice vectors.")
    return positions, box


def check_skin(skin: float) -> None:
    """Refuse what is no skin of a neighbour list.

    Raises:
        InputError: it is not positive, not finite, or no number.
    """
    if not isinstance(skin, int | float | np.number) or not 0.0 < skin < np.inf:
        raise InputError(f"skin is {skin} nm; give a positive number.")


def _in_nm(lengths: Any) -> Any:
    if not isinstance(lengths, unit.Quantity):
        return lengths
    try:
        return lengths.value_in_unit(unit.nanometer)  # pyright: ignore[reportAttributeAccessIssue]
    except TypeError as error:
        raise InputError(f"positions or box have a unit that is no length ({error}).") from error
