"""Neighbour lists on the device: cells in any box, a list of fixed size, and a flag that says when it was too small.

The host chooses the sizes (`allocate`), a jitted function fills the list (`update`). Along each lattice vector there
are as many cells as fit with the width of the cutoff, at least one; where a cell is narrower than the cutoff, further
cells and images are searched, so that the cutoff may exceed the box.
"""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffff import space
from diffff.errors import InputError
from diffff.neighbors import Neighbors, capacity_for, checked
from diffff.pytree import pytree, static

_BATCH = 1 << 22  # candidates looked at in one go
_SPARE = 1.1  # of cells and rows, so that an allocation serves for long
_MARGIN = 1.02  # of the width of a cell, so that a box may shrink a little
_MOST = 1 << 30  # candidates for the pairs of one cell; each needs some bytes


@pytree
class CellList:
    """The sizes of a list: all static, so that each choice is one compiled program.

    Attributes:
        cutoff: the list holds all pairs up to this distance, nm.
        width: of a cell without a box, nm.
        cells: number of cells along each lattice vector; without a box along x, y and z.
        reach: how many cells are searched in each direction.
        cell_capacity: atoms in a cell.
        row_capacity: pairs of one atom in the half list.
        capacity: entries of the list.
    """

    cutoff: float = static()
    width: float = static()
    cells: tuple[int, int, int] = static()
    reach: tuple[int, int, int] = static()
    cell_capacity: int = static()
    row_capacity: int = static()
    capacity: int = static()


def allocate(positions: np.ndarray, box: np.ndarray | None, cutoff: float) -> CellList:
    """Sizes that hold the pairs of these positions, and some more.

    Args:
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm; any shape and size.
        cutoff: nm.

    Raises:
        InputError: positions or box make no sense (see `diffff.neighbors.checked`), or they need more memory than any
            computer has: atoms on top of each other, a box of very skewed vectors, a few atoms far away from all.
    """
    positions, box = checked(positions, box)
    if not len(positions):
        raise InputError("there are no atoms: the positions are empty.")
    extent = np.ptp(positions, axis=0) if box is None else space.face_distances(box)
    width = _MARGIN * cutoff
    while np.prod(np.maximum(1, extent // width)) > max(27, len(positions)):  # a thin gas
        width *= 1.26
    a, b, c = (max(1, int(length // width)) for length in extent)
    x, y, z = (1, 1, 1) if box is None else (math.ceil(width * n / w) for n, w in zip((a, b, c), extent, strict=True))
    sizes = CellList(
        cutoff=cutoff,
        width=width,
        cells=(a, b, c),
        reach=(x, y, z),
        cell_capacity=1,
        row_capacity=1,
        capacity=1,
    )
    _require_memory(sizes, positions, box)
    where = jnp.asarray(positions), None if box is None else jnp.asarray(box)
    cell, *_ = _placed(sizes, *where)
    most = int(np.bincount(np.asarray(cell)).max(initial=0))
    sizes = replace(sizes, cell_capacity=_ladder(most))
    _require_memory(sizes, positions, box)
    counts = np.asarray(_row_counts(sizes, *where))
    return replace(
        sizes,
        row_capacity=_ladder(int(counts.max(initial=0))),
        capacity=capacity_for(math.ceil(_SPARE * int(counts.sum()))),
    )


def update(sizes: CellList, positions: jax.Array, box: jax.Array | None) -> Neighbors:
    """The list for new positions; its ``overflow`` is True if the sizes are too small for them.

    Args:
        sizes: from `allocate`, for a box of the same kind.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
    """
    n_atoms = len(positions)
    cell, inside, lattice = _placed(sizes, positions, box)
    atoms, places, slot, too_full = _table(sizes, cell, inside)
    shifts = jnp.asarray(_shifts(sizes))

    def rows_of(cell: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys, near = _candidates(sizes, cell, atoms, places, box, n_atoms)
        picked, count = _true_places(near, sizes.row_capacity)
        return keys[picked], count

    rows, counts = lax.map(rows_of, jnp.arange(math.prod(sizes.cells)), batch_size=_batch(sizes))
    rows, counts = rows.reshape(-1, sizes.row_capacity), counts.reshape(-1)[slot]
    ends = jnp.cumsum(counts)
    entry = jnp.arange(sizes.capacity, dtype=jnp.int32)
    used = entry < ends[-1]
    i = jnp.repeat(jnp.arange(n_atoms, dtype=jnp.int32), counts, total_repeat_length=sizes.capacity)
    place = jnp.minimum(entry - (ends - counts)[i], sizes.row_capacity - 1)
    key = jnp.where(used, rows[slot[i], place], 0)
    j, code = key // len(shifts), key % len(shifts)
    shift = shifts[code] + lattice[i] - lattice[j]
    too_many = (ends[-1] > sizes.capacity) | (jnp.max(counts) > sizes.row_capacity)
    return Neighbors(
        i=jnp.where(used, i, n_atoms),
        j=jnp.where(used, j, n_atoms),
        shift=jnp.where(used[:, None], shift, 0),
        overflow=too_full | too_many | _too_narrow(sizes, box),
        cutoff=sizes.cutoff,
    )


def _ladder(number: int) -> int:
    return 8 * math.ceil((_SPARE * number + 2) / 8)


def _n_candidates(sizes: CellList) -> int:
    return sizes.cell_capacity**2 * math.prod(2 * reach + 1 for reach in sizes.reach)


def _batch(sizes: CellList) -> int:
    return max(1, min(math.prod(sizes.cells), _BATCH // _n_candidates(sizes)))


def _require_memory(sizes: CellList, positions: np.ndarray, box: np.ndarray | None) -> None:
    n_keys = (len(positions) + 1) * math.prod(2 * int(n) + 1 for n in _images(sizes))  # numbers of atoms and images
    if _n_candidates(sizes) <= _MOST and n_keys < 2**31:
        return
    why = f"there are {len(positions)} atoms, too close to each other. Are the positions in nm?"
    if box is not None:
        faces, lengths = space.face_distances(box), np.linalg.norm(box, axis=1)
        if (faces < 0.1 * lengths).any():
            why = f"the box is very skewed: {box.tolist()} nm. Give reduced vectors of the same lattice."
        elif sizes.cutoff > 10.0 * faces.min():
            why = f"the box is tiny, {faces.min():.3g} nm between two faces. Is it in nm?"
    elif sizes.width > 2.0 * sizes.cutoff:
        why = (
            f"there is no box, and {len(positions)} atoms are spread over {np.ptp(positions, axis=0).max():.3g} nm, "
            "most of them close together. Take out those that are far away, or give a box."
        )
    raise InputError(f"a neighbour list up to {sizes.cutoff:.3g} nm does not fit into memory: {why}")


def _images(sizes: CellList) -> np.ndarray:
    """How far the shift of a pair of atoms inside the box can be from zero, shape ``(3,)``."""
    return -(-np.array(sizes.reach) // np.array(sizes.cells))


def _shifts(sizes: CellList) -> np.ndarray:
    """All shifts that a pair of atoms inside the box can have, in ascending order, shape ``(n_shifts, 3)``."""
    return _lattice(_images(sizes))


def _lattice(most: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3).astype(np.int32)


def _placed(sizes: CellList, positions: jax.Array, box: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cell of each atom ``(n_atoms,)``, its position inside the box, and the lattice translation that is left."""
    cells = np.array(sizes.cells, np.int32)
    if box is None:
        index = jnp.floor((positions - jnp.min(positions, axis=0)) / sizes.width)
        inside, lattice = positions, jnp.zeros(positions.shape, jnp.int32)
    else:
        fractional = space.times(positions, jnp.linalg.inv(box))
        whole = jnp.floor(fractional)
        index = jnp.floor((fractional - whole) * cells)
        inside, lattice = positions - space.times(whole, box), whole.astype(jnp.int32)
    index = jnp.clip(index, 0, cells - 1).astype(jnp.int32)
    return (index[:, 0] * cells[1] + index[:, 1]) * cells[2] + index[:, 2], inside, lattice


def _table(sizes: CellList, cell: jax.Array, inside: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Atoms and positions by cell, the place of each atom there, and whether a cell is too full.

    The atoms are ``(n_cells + 1, cell_capacity)``, filled up with ``n_atoms``; the last cell is empty.
    """
    n_atoms, n_cells = len(cell), math.prod(sizes.cells)
    order = jnp.argsort(cell).astype(jnp.int32)
    of_order = cell[order]
    first = jnp.searchsorted(of_order, jnp.arange(n_cells + 1, dtype=of_order.dtype)).astype(jnp.int32)
    rank = jnp.arange(n_atoms, dtype=jnp.int32) - first[of_order]
    atoms = jnp.full((n_cells + 1, sizes.cell_capacity), n_atoms, jnp.int32)
    atoms = atoms.at[of_order, rank].set(order, mode="drop")
    slot = jnp.zeros(n_atoms, jnp.int32).at[order].set(of_order * sizes.cell_capacity + rank)
    places = inside[jnp.minimum(atoms, n_atoms - 1)]
    return atoms, places, slot, jnp.max(jnp.diff(first)) > sizes.cell_capacity


def _candidates(
    sizes: CellList, cell: jax.Array, atoms: jax.Array, places: jax.Array, box: jax.Array | None, n_atoms: int
) -> tuple[jax.Array, jax.Array]:
    """Whom the atoms of a cell may meet.

    Returns:
        Keys ``(n_candidates,)``, ascending numbers made of j and the shift; and ``(cell_capacity, n_candidates)``,
        whether it is a pair of the half list within the cutoff.
    """
    cells, offsets = np.array(sizes.cells, np.int32), _lattice(sizes.reach)
    here = jnp.stack(jnp.unravel_index(cell, sizes.cells))
    there = here + offsets
    if box is None:
        shift = jnp.zeros_like(there)
        outside = jnp.any((there < 0) | (there >= cells), axis=1)
        moved = jnp.zeros(there.shape, places.dtype)
    else:
        shift = there // cells
        outside = jnp.zeros(len(there), bool)
        moved = space.times(shift.astype(places.dtype), box)
    there = there - shift * cells
    flat = jnp.where(outside, math.prod(sizes.cells), (there[:, 0] * cells[1] + there[:, 1]) * cells[2] + there[:, 2])
    images = _images(sizes)
    code = jnp.ravel_multi_index(tuple((shift + images).T), tuple((2 * images + 1).tolist()), mode="clip")
    n_shifts = math.prod(2 * images + 1)
    keys = (atoms[flat] * n_shifts + code.astype(jnp.int32)[:, None]).reshape(-1)
    order = jnp.argsort(keys)
    keys, other = keys[order], (places[flat] + moved[:, None]).reshape(-1, 3)[order]
    squared = sum((other[:, c] - places[cell][:, None, c]) ** 2 for c in range(3))
    i, j = atoms[cell][:, None], keys // n_shifts
    once = (i < j) | ((i == j) & (keys % n_shifts > n_shifts // 2))
    return keys, (squared <= sizes.cutoff**2) & (i < n_atoms) & (j < n_atoms) & once


def _true_places(mask: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Where the first ``most`` true values of each row are ``(n_rows, most)``, and how many there are ``(n_rows,)``.

    The row is packed into words, whose numbers of bits tell the word of the k-th value; halving finds it in there.
    """
    n_rows, n_columns = mask.shape
    padded = jnp.pad(mask, ((0, 0), (0, -n_columns % 32))).reshape(n_rows, -1, 32)
    words = jnp.sum(padded.astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32), axis=2, dtype=jnp.uint32)
    bits = lax.population_count(words).astype(jnp.int32)
    ends = jnp.cumsum(bits, axis=1)
    rank = jnp.broadcast_to(jnp.arange(1, most + 1, dtype=jnp.int32), (n_rows, most))
    word = jnp.minimum(jax.vmap(jnp.searchsorted)(ends, rank), words.shape[1] - 1)
    rest = rank - jnp.take_along_axis(ends - bits, word, axis=1)
    left, place = jnp.take_along_axis(words, word, axis=1), 32 * word
    for half in (16, 8, 4, 2, 1):
        below = lax.population_count(left & np.uint32((1 << half) - 1)).astype(jnp.int32)
        above = rest > below
        left, rest = jnp.where(above, left >> half, left), jnp.where(above, rest - below, rest)
        place = jnp.where(above, place + half, place)
    return jnp.minimum(place, n_columns - 1), ends[:, -1]


@jax.jit
def _row_counts(sizes: CellList, positions: jax.Array, box: jax.Array | None) -> jax.Array:
    """Pairs of each place of each cell in the half list."""
    cell, inside, _ = _placed(sizes, positions, box)
    atoms, places, *_ = _table(sizes, cell, inside)

    def counts(cell: jax.Array) -> jax.Array:
        return jnp.sum(_candidates(sizes, cell, atoms, places, box, len(positions))[1], axis=1, dtype=jnp.int32)

    return lax.map(counts, jnp.arange(math.prod(sizes.cells)), batch_size=_batch(sizes)).reshape(-1)


def _too_narrow(sizes: CellList, box: jax.Array | None) -> jax.Array:
    """Whether the box has become so narrow that pairs are farther apart in cells than is searched."""
    if box is None:
        return jnp.zeros((), bool)
    normals = jnp.stack([jnp.cross(box[(k + 1) % 3], box[(k + 2) % 3]) for k in range(3)])
    distances = jnp.abs(jnp.linalg.det(box)) / jnp.linalg.norm(normals, axis=1)
    return jnp.any(sizes.cutoff * np.array(sizes.cells) > distances * np.array(sizes.reach))
