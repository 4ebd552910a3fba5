"""Geometry of the simulation box. Rows of a box are the lattice vectors; None means no periodicity."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError


def times(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """``rows @ matrix`` of vectors in space, exact on any device: GPUs round the factors in float32 unless told not to.

    Args:
        rows: shape ``(..., 3)``.
        matrix: shape ``(3, 3)``.
    """
    return jnp.matmul(rows, matrix, precision="highest")


def face_distances(box: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of the cell, shape ``(3,)``: ``V / |b x c|`` and so on.

    Args:
        box: shape ``(3, 3)``, any length unit.
    """
    areas = np.linalg.norm(np.cross(np.roll(box, -1, axis=0), np.roll(box, -2, axis=0)), axis=1)
    return abs(np.linalg.det(box)) / areas


def wrap(positions: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move atoms into the cell.

    Args:
        positions: shape ``(n_atoms, 3)``.
        box: shape ``(3, 3)``, same unit.

    Returns:
        Wrapped positions and the integer cell of each atom, ``positions = wrapped + cells @ box``.
    """
    cells = np.floor(positions @ np.linalg.inv(box)).astype(np.int32)
    return positions - cells @ box, cells


def box_of(vectors: np.ndarray, periodic: Sequence[bool]) -> np.ndarray | None:
    """Lattice vectors, or None for atoms that are not periodic.

    Args:
        vectors: shape ``(3, 3)``, one in each row, any unit.
        periodic: along each of them.

    Raises:
        InputError: periodic along one or two of them only.
    """
    if not any(periodic):
        return None
    if not all(periodic):
        kinds = ", ".join("yes" if one else "no" for one in periodic)
        raise InputError(
            f"periodic along a, b, c: {kinds}; diffff needs all or none. "
            "For a surface or a wire, make all periodic and the cell long enough for an empty gap."
        )
    return np.asarray(vectors, float)
