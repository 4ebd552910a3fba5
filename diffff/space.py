"""Geometry of the simulation box. Rows of a box are the lattice vectors; None means no periodicity."""

import numpy as np


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
