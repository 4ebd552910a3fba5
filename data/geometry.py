"""Molecules from bond lengths, angles and dihedrals, and back (shared by the scripts beside it). Å and degrees."""

import numpy as np

TETRAHEDRAL = 109.47


def place(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, dihedral: float, angle: float = TETRAHEDRAL
) -> np.ndarray:
    """The point at `length` from c with the angle (b, c, new) and the dihedral (a, b, c, new)."""
    axis = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, axis)
    normal /= np.linalg.norm(normal)
    bend, turn = np.deg2rad(angle), np.deg2rad(dihedral)
    x, y = length * np.sin(bend) * np.array([np.cos(turn), np.sin(turn)])
    return c - length * np.cos(bend) * axis + x * np.cross(normal, axis) + y * normal


def dihedral(positions: np.ndarray, atoms: tuple[int, int, int, int]) -> float:
    """The dihedral of four atoms, -180 to 180; positive when, seen along the middle bond, the far one is clockwise."""
    a, b, c, d = positions[list(atoms)]
    first, axis, last = b - a, c - b, d - c
    normals = np.cross(first, axis), np.cross(axis, last)
    sine = np.linalg.norm(axis) * (first @ normals[1])
    return float(np.rad2deg(np.arctan2(sine, normals[0] @ normals[1])))


def turned(positions: np.ndarray, atoms: tuple[int, int, int, int], moving: list[int], to: float) -> np.ndarray:
    """The atoms `moving` rotated about the middle bond of four `atoms`, so that their dihedral is `to`."""
    angle = np.deg2rad(to - dihedral(positions, atoms))
    origin = positions[atoms[1]]
    axis = positions[atoms[2]] - origin
    axis = axis / np.linalg.norm(axis)
    r = positions[moving] - origin
    parallel = (r @ axis)[:, None] * axis
    out = positions.copy()
    out[moving] = origin + parallel + np.cos(angle) * (r - parallel) + np.sin(angle) * np.cross(axis, r)
    return out


def centred(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Positions (n_atoms, 3) about the centre of mass; masses (n_atoms, 1)."""
    return positions - np.sum(masses * positions, axis=0) / np.sum(masses)
