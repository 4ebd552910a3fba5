"""Neighbour lists: integer pairs and image shifts, right for any cell and any cutoff.

A pair ``(i, j, shift)`` stands for the vector ``dr = x[j] - x[i] + shift @ box``. It depends on positions and box only
through that expression, so a list stays differentiable and valid until atoms have moved by half the skin.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from diffff import space
from diffff.errors import InputError
from diffff.pytree import pytree, static

_SLAB = 8192  # atoms whose pairs are looked for at a time
_FLAT = 1e-9  # volume of a box relative to that of a right-angled one, below which it is none


@pytree
class Neighbors:
    """Half list of the pairs within a cutoff, sorted by i, j, shift; unused entries have ``i == j == n_atoms``.

    Attributes:
        i: shape ``(capacity,)`` int32.
        j: shape ``(capacity,)`` int32; ``i <= j``, each pair of images once.
        shift: shape ``(capacity, 3)`` int32, lattice translation of ``j``.
        overflow: bool, whether pairs are missing for want of entries; the energy is NaN then.
        cutoff: the list holds all pairs up to this distance, nm.
    """

    i: jax.Array
    j: jax.Array
    shift: jax.Array
    overflow: jax.Array
    cutoff: float = static()

    @classmethod
    def none(cls) -> "Neighbors":
        """No pairs, for potentials without a cutoff."""
        index = jnp.zeros(0, jnp.int32)
        return cls(i=index, j=index, shift=jnp.zeros((0, 3), jnp.int32), overflow=jnp.zeros((), bool), cutoff=0.0)

    def require(self, cutoff: float, name: str) -> None:
        """Refuse a list that reaches less far than a term of that name needs.

        Raises:
            InputError: it does.
        """
        if self.cutoff < (1.0 - 1e-12) * cutoff:  # 6 Å times 0.1 is not 0.6 nm to the last bit
            raise InputError(
                f"{name}: the neighbour list reaches {self.cutoff} nm, the cutoff is {cutoff} nm; "
                "build the list with at least this cutoff."
            )

    def padded(self, capacity: int, n_atoms: int) -> "Neighbors":
        """The same pairs of ``n_atoms`` atoms in a list of more entries."""
        more = capacity - len(self.i)
        i, j = (jnp.pad(index, (0, more), constant_values=n_atoms) for index in (self.i, self.j))
        return replace(self, i=i, j=j, shift=jnp.pad(self.shift, ((0, more), (0, 0))))

    def directed(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Each pair in both directions: centre, neighbour ``(2 capacity,)`` and shift ``(2 capacity, 3)``."""
        return (
            jnp.concatenate([self.i, self.j]),
            jnp.concatenate([self.j, self.i]),
            jnp.concatenate([self.shift, -self.shift]),
        )


def capacity_for(n_pairs: int) -> int:
    """A capacity that holds ``n_pairs``, from a ladder of steps of at most 1/16, so that programs are shared.

    Example:
        >>> capacity_for(0), capacity_for(257), capacity_for(17064)
        (256, 512, 17408)
    """
    step = max(256, 1 << max(0, n_pairs.bit_length() - 5))
    return max(1, -(-n_pairs // step)) * step


def directed_pairs(
    positions: np.ndarray, box: np.ndarray | None, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All ordered pairs within the cutoff, images included, on the host.

    Args:
        positions: shape ``(n_atoms, 3)``, any length unit, not necessarily inside the cell.
        box: shape ``(3, 3)`` or None, same unit. Any shape and size: images beyond the first are found.
        cutoff: same unit.

    Returns:
        ``i (n_pairs,)``, ``j (n_pairs,)``, ``shift (n_pairs, 3)``; int32, sorted by i, then j, then shift.
    """
    n_atoms = len(positions)
    wrapped, cells = (positions, np.zeros((n_atoms, 3), np.int32)) if box is None else space.wrap(positions, box)
    atoms, shifts, images = _images(wrapped, box, cutoff)
    side_by_side = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], atoms))  # images of one atom
    atoms, shifts, images = atoms[side_by_side], shifts[side_by_side], images[side_by_side]
    tree, parts = KDTree(images), []
    for first in range(0, max(1, n_atoms), _SLAB):
        some = wrapped[first : first + _SLAB]
        found = KDTree(some).sparse_distance_matrix(tree, cutoff, output_type="ndarray")
        i, image = np.divmod(np.sort(found["i"] * len(images) + found["j"]), len(images))
        i, j, shift = i + first, atoms[image], shifts[image]
        other = (i != j) | shift.any(axis=1)
        i, j, shift = i[other], j[other], shift[other]
        shift = shift - cells[j] + cells[i]
        parts.append((i.astype(np.int32), j.astype(np.int32), shift.astype(np.int32)))
    i, j, shift = (np.concatenate(column) for column in zip(*parts, strict=True))
    return i, j, shift


def _images(wrapped: np.ndarray, box: np.ndarray | None, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atom index, shift and position of each atom and of its images that can be within the cutoff of the cell."""
    n_atoms = len(wrapped)
    if box is None:
        return np.arange(n_atoms), np.zeros((n_atoms, 3), np.int32), wrapped
    reach = np.ceil(cutoff / space.face_distances(box)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    fractional = wrapped @ np.linalg.inv(box)
    margin = cutoff / space.face_distances(box) + 1e-9
    candidates = fractional[None] + grid[:, None]
    near = np.all((candidates >= -margin) & (candidates <= 1 + margin), axis=-1)
    cell, atom = np.nonzero(near)
    return atom, grid[cell].astype(np.int32), wrapped[atom] + grid[cell] @ box


def neighbor_list(
    positions: np.ndarray, box: np.ndarray | None, cutoff: float, capacity: int | None = None
) -> Neighbors:
    """Half list for given positions, built on the host.

    Args:
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
        cutoff: nm.
        capacity: number of entries; by default that of `capacity_for`.

    Raises:
        InputError: positions or box have another shape, are not finite, or the box has no volume.
        ValueError: more pairs than ``capacity``.
    """
    i, j, shift = directed_pairs(*checked(positions, box), cutoff)
    first = np.argmax(shift != 0, axis=1)
    leading = np.take_along_axis(shift, first[:, None], axis=1)[:, 0]
    half = (i < j) | ((i == j) & (leading > 0))
    i, j, shift = i[half], j[half], shift[half]
    capacity = capacity_for(len(i)) if capacity is None else capacity
    if len(i) > capacity:
        raise ValueError(f"{len(i)} pairs within {cutoff} nm exceed the capacity {capacity}; allocate a larger list")
    padded = np.full((capacity, 2), len(positions), np.int32)
    padded[: len(i), 0], padded[: len(i), 1] = i, j
    padded_shift = np.zeros((capacity, 3), np.int32)
    padded_shift[: len(i)] = shift
    return Neighbors(
        i=jnp.asarray(padded[:, 0]),
        j=jnp.asarray(padded[:, 1]),
        shift=jnp.asarray(padded_shift),
        overflow=jnp.zeros((), bool),
        cutoff=cutoff,
    )


def checked(positions: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and box as arrays, if they make sense.

    Raises:
        InputError: positions or box are no numbers, have another shape or are not finite, or the box has no volume.
    """
    positions = _numbers(positions, "positions", "an array (n_atoms, 3)")
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise InputError(f"positions have the shape {positions.shape}; give (n_atoms, 3), in nm.")
    if len(bad := np.flatnonzero(~np.isfinite(positions).all(axis=1))):
        raise InputError(f"the position of atom {bad[0]} (from 0) is {positions[bad[0]]}; give finite numbers.")
    if box is None:
        return positions, None
    box = _numbers(box, "the box", "an array (3, 3)")
    flat = box.shape != (3, 3) or not np.isfinite(box).all()
    if flat or abs(np.linalg.det(box)) <= _FLAT * np.prod(np.linalg.norm(box, axis=1)):
        raise InputError(f"the box is {box.tolist()}; give three lattice vectors (3, 3) that span a volume, in nm.")
    return positions, box


def _numbers(values: np.ndarray, name: str, wanted: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray("")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} must be {wanted} of real numbers, in nm, but is a {type(values).__name__} of others.")
    return array


def keep_nearest(center: np.ndarray, types: np.ndarray, distance: np.ndarray, sel: tuple[int, ...]) -> np.ndarray:
    """Which pairs fit into the slots: the nearest ``sum(sel)`` of each centre, and of these ``sel[t]`` of each type.

    This is DeePMD-kit's order of truncation.

    Args:
        center: shape ``(n_pairs,)``.
        types: shape ``(n_pairs,)``, types of the neighbours.
        distance: shape ``(n_pairs,)``.
        sel: slots per type.

    Returns:
        Shape ``(n_pairs,)``, bool; all True when nothing overflows.
    """
    keep = _rank_within(center, distance) < sum(sel)
    kept = np.flatnonzero(keep)
    group = center[kept].astype(np.int64) * len(sel) + types[kept]
    keep[kept] = _rank_within(group, distance[kept]) < np.asarray(sel)[types[kept]]
    return keep


def _rank_within(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Rank of each value among the members of its group, 0 for the smallest."""
    order = np.lexsort((value, group))
    sorted_group = group[order]
    starts = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]]) if len(group) else np.zeros(0, int)
    rank = np.empty(len(group), int)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    return rank
