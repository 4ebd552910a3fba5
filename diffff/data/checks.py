"""Checks that labelled frames make sense: finite numbers, boxes with a volume, atoms that do not sit on each other."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from diffff.errors import InputError

MIN_DISTANCE_ANGSTROM = 0.3
_CHUNK_ATOMS = 50_000  # searched at once; bounds the memory

Array = NDArray[np.float64]


def check_finite(array: Array, where: str, *, per_atom: bool, first: int = 0) -> None:
    """Refuse NaN and infinity.

    Args:
        array: Values, shape (n_frames, ...), or (n_frames, n_atoms, ...) if `per_atom`.
        where: The file, for the message.
        per_atom: The second axis counts atoms.
        first: Number of the first frame in its file.

    Raises:
        InputError: Names the frame and the atom.
    """
    good = np.isfinite(array)
    if good.all():
        return
    at = tuple(np.argwhere(~good)[0])
    place = f"frame {first + at[0]}" + (f", atom {at[1]}" if per_atom else "")
    raise InputError(f"{where}: {place}: the value is {array[at]}. Correct or remove the frame (counted from 0).")


def check_counts(array: Array, where: str) -> None:
    """Refuse values, shape (n_frames,), that are not whole numbers >= 0."""
    wrong = (array < 0) | (array != np.floor(array))
    if wrong.any():
        frame = int(np.argmax(wrong))
        raise InputError(f"{where}: frame {frame}: {array[frame]:g} is not a whole number of copies.")


def right_handed(boxes: Array, where: str) -> Array:
    """Check the boxes and make left-handed ones right-handed by negating the third vector: the lattice is the same.

    Args:
        boxes: Rows are the lattice vectors, Å, shape (n_frames, 3, 3).
        where: The file, for the message.

    Raises:
        InputError: A box has no volume, or is thinner than the shortest distance allowed between two atoms.
    """
    volume = np.linalg.det(boxes)
    lengths = np.linalg.norm(boxes, axis=2)
    flat = np.abs(volume) <= 1e-6 * lengths.prod(axis=1)
    if flat.any():
        frame = int(np.argmax(flat))
        raise InputError(
            f"{where}: frame {frame}: the box has no volume (its rows are {_rows(boxes[frame])} Å). "
            "If the system is not periodic, put an empty file named nopbc beside type.raw."
        )
    thickness = _thickness(boxes).min(axis=1)
    if (thickness < MIN_DISTANCE_ANGSTROM).any():
        frame = int(np.argmax(thickness < MIN_DISTANCE_ANGSTROM))
        raise InputError(f"{where}: frame {frame}: the box is only {thickness[frame]:.3g} Å thick. Is it in Å?")
    third = np.where(volume[:, None] < 0, -boxes[:, 2], boxes[:, 2])
    return np.stack([boxes[:, 0], boxes[:, 1], third], axis=1)


def check_distances(positions: Array, boxes: Array | None, real: NDArray[np.bool_] | None, where: str) -> None:
    """Refuse atoms closer than 0.3 Å, periodic images included.

    Args:
        positions: Å, shape (n_frames, n_atoms, 3).
        boxes: Å, shape (n_frames, 3, 3), thicker than 0.3 Å, or None.
        real: False for the slots that hold no atom, shape (n_frames, n_atoms), or None.
        where: The file, for the message.

    Raises:
        InputError: Names the first frame with such a pair, its closest two atoms and their distance.
    """
    n_frames, n_atoms = positions.shape[:2]
    step = max(1, _CHUNK_ATOMS // n_atoms)
    for start in range(0, n_frames, step):
        part = slice(start, start + step)
        found = _closest_pair(
            positions[part], None if boxes is None else boxes[part], None if real is None else real[part]
        )
        if found is not None:
            frame, (i, j), distance = found
            raise InputError(
                f"{where}: frame {start + frame}: atoms {i} and {j} are {distance:.3g} Å apart, less than "
                f"{MIN_DISTANCE_ANGSTROM} Å. Are coordinates and box in Å? Otherwise remove the frame (counted from 0)."
            )


def _closest_pair(
    positions: Array, boxes: Array | None, real: NDArray[np.bool_] | None
) -> tuple[int, tuple[int, int], float] | None:
    """The closest pair of the first frame that has one below the limit: (frame, atoms, distance)."""
    n_frames, n_atoms = positions.shape[:2]
    frames, atoms = np.divmod(np.arange(n_frames * n_atoms), n_atoms)
    points = positions.reshape(-1, 3)
    if real is not None:
        frames, atoms, points = frames[real.ravel()], atoms[real.ravel()], points[real.ravel()]
    if boxes is not None:
        points, source = _with_images(points, boxes, frames)
        frames, atoms = frames[source], atoms[source]
    # One tree for all frames: a fourth coordinate keeps the frames apart.
    tree = KDTree(np.column_stack([points, frames]), balanced_tree=False, compact_nodes=False)
    pairs = tree.query_pairs(MIN_DISTANCE_ANGSTROM, output_type="ndarray")
    if not len(pairs):
        return None
    frame = int(frames[pairs[:, 0]].min())
    pairs = pairs[frames[pairs[:, 0]] == frame]
    distances = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    i, j = sorted(int(atom) for atom in atoms[pairs[np.argmin(distances)]])
    return frame, (i, j), float(distances.min())


def _with_images(points: Array, boxes: Array, frames: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Wrap points into their boxes and add the images that reach across a face, with the index of each source."""
    fractional = np.einsum("pi,pij->pj", points, np.linalg.inv(boxes)[frames])
    fractional -= np.floor(fractional)
    source = np.arange(len(points))
    margin = MIN_DISTANCE_ANGSTROM / _thickness(boxes)
    for axis in range(3):
        near = np.flatnonzero(fractional[:, axis] < margin[frames[source], axis])
        images = fractional[near]
        images[:, axis] += 1.0
        fractional, source = np.concatenate([fractional, images]), np.concatenate([source, source[near]])
    return np.einsum("pi,pij->pj", fractional, boxes[frames[source]]), source


def _thickness(boxes: Array) -> Array:
    """Distances between opposite faces, Å, shape (n_frames, 3)."""
    return 1.0 / np.linalg.norm(np.linalg.inv(boxes), axis=1)


def _rows(box: Array) -> str:
    return ", ".join("(" + " ".join(f"{x:g}" for x in row) + ")" for row in box)
