"""Sums over pairs of atoms: those of a neighbour list, all of a molecule, or those of an explicit table.

    E = sum over pairs of  pair(r^2, a_i, b_j)

Excluded pairs are left out of the sums, never added and subtracted again.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.space import times

Columns = tuple[jax.Array, ...]
PairEnergy = Callable[..., jax.Array]  # of r^2, columns of the first and of the second atom, what is shared

_BLOCKS = 8  # in which the slopes of a list are computed
_SMALL = 32  # half the atoms of a molecule all of whose pairs are one step
_TILE = 8  # neighbours of every atom that one step of `sum_all` takes


def require_box(box: jax.Array | None, method: str, name: str) -> None:
    """Refuse a box for a term with a cutoff that is not periodic, or none for one that is.

    Raises:
        InputError: it is so.
    """
    if (box is not None) != (method == "CutoffPeriodic"):
        has, other = ("no box", "CutoffNonPeriodic") if box is None else ("a box", "CutoffPeriodic")
        raise InputError(f"{name}: the method is {method}, but there is {has}; use {other}.")


# ------------------------------------------------------------------ formulas
def lennard_jones(squared: jax.Array, sigma: jax.Array, epsilon: jax.Array) -> jax.Array:
    """``4 epsilon [(sigma/r)^12 - (sigma/r)^6]``, kJ/mol.

    Args:
        squared: r^2, nm^2.
        sigma: nm.
        epsilon: kJ/mol.
    """
    sixth = (sigma * sigma / squared) ** 3
    return 4.0 * epsilon * (sixth * sixth - sixth)


def switch(r: jax.Array, start: float, cutoff: float) -> jax.Array:
    """``1 - 10 t^3 + 15 t^4 - 6 t^5`` with ``t = (r - start) / (cutoff - start)``, 1 below ``start``."""
    t = jnp.maximum((r - start) / (cutoff - start), 0.0)
    return 1.0 + t**3 * (-10.0 + t * (15.0 - 6.0 * t))


def reaction_field(r: jax.Array, cutoff: float, dielectric: float) -> jax.Array:
    """What takes the place of 1/r when a dielectric begins at the cutoff, 1/nm.

    ``1/r + k r^2 - c``, ``k = (d - 1) / ((2 d + 1) cutoff^3)``, ``c = 3 d / ((2 d + 1) cutoff)``
    (Tironi et al., doi:10.1063/1.469273).
    """
    k = (dielectric - 1.0) / (2.0 * dielectric + 1.0) / cutoff**3
    c = 3.0 * dielectric / (2.0 * dielectric + 1.0) / cutoff
    return 1.0 / r + k * r * r - c


def root(x: jax.Array) -> jax.Array:
    """Square root whose derivative at zero is zero instead of infinite."""
    return jnp.where(x == 0.0, 0.0, jnp.sqrt(jnp.where(x == 0.0, 1.0, x)))


# ------------------------------------------------------------------ sums
def sum_listed(
    pair: PairEnergy,
    positions: jax.Array,
    box: jax.Array | None,
    columns: Columns,
    neighbors: Neighbors,
    excluded: jax.Array,
    cutoff: float,
    shared: tuple = (),
) -> jax.Array:
    """Sum over the pairs of a list that are nearer than the cutoff and not excluded.

    Args:
        pair: energy of each pair from r^2, the columns of its first and of its second atom, and what is shared; it may
            not hold traced values of its own.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
        columns: parameters of the atoms, shape ``(n_atoms,)`` each.
        neighbors: sorted by i, then j, then shift, as `diffff.neighbors.neighbor_list` makes it.
        excluded: shape ``(n_excluded, 2)``, the smaller index first; the nearest image of each is left out.
        cutoff: nm.
        shared: parameters that are the same for all pairs.
    """
    i, j = neighbors.i, neighbors.j
    dr = _rows(positions, j) - _rows(positions, i)
    if box is not None:
        dr = dr + sum(neighbors.shift[:, c, None].astype(dr.dtype) * box[c] for c in range(3))
    squared = jnp.sum(dr * dr, axis=-1)
    used = (i < len(positions)) & (squared < cutoff**2) & included(positions, box, neighbors, excluded)
    table = jnp.stack(columns, axis=-1)
    first, second = (tuple(jnp.moveaxis(_rows(table, k), -1, 0)) for k in (i, j))
    energies = _listed(pair, jnp.where(used, squared, cutoff**2), first, second, shared)
    return jnp.sum(jnp.where(used, energies, 0.0))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _listed(pair: PairEnergy, squared: jax.Array, first: Columns, second: Columns, shared: tuple) -> jax.Array:
    return pair(squared, first, second, *shared)


@_listed.defjvp
def _listed_jvp(pair: PairEnergy, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """Slopes in r^2 as an array of their own: a loop over blocks, which the compiler does not merge with its users.

    Otherwise it computes them again for each component of each force.
    """
    squared, first, second, shared = primals

    def slope(block: tuple) -> jax.Array:
        at, *columns = block
        return jax.jvp(lambda x: pair(x, *columns, *shared), (at,), (jnp.ones_like(at),))[1]

    blocks = _BLOCKS if len(squared) % _BLOCKS == 0 else 1
    slopes = lax.map(slope, jax.tree.map(lambda x: x.reshape(blocks, -1), primals[:3])).reshape(squared.shape)
    energies, change = jax.jvp(lambda a, b, c: pair(squared, a, b, *c), (first, second, shared), tangents[1:])
    return energies, slopes * tangents[0] + change


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    return table.at[index].get(mode="clip")


def included(positions: jax.Array, box: jax.Array | None, neighbors: Neighbors, excluded: jax.Array) -> jax.Array:
    """Which entries of a list are not excluded, shape ``(capacity,)``, bool; arguments as in `sum_listed`.

    Few pairs are excluded and the list is sorted, so each excluded pair is searched in the list by bisection.
    """
    capacity = len(neighbors.i)
    wanted = (excluded[:, 0], excluded[:, 1])
    keys = (neighbors.i, neighbors.j)
    if box is not None:
        apart = lax.stop_gradient(positions[excluded[:, 1]] - positions[excluded[:, 0]])
        wanted += tuple(jnp.moveaxis(nearest_image(apart, lax.stop_gradient(box)), -1, 0))
        keys += tuple(jnp.moveaxis(neighbors.shift, -1, 0))

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) // 2
        smaller = jnp.zeros(low.shape, bool)
        for key, want in zip(reversed(keys), reversed(wanted), strict=True):
            there = key[jnp.minimum(middle, capacity - 1)]
            smaller = (there < want) | ((there == want) & smaller)
        go_up = smaller & (low < high)
        return jnp.where(go_up, middle + 1, low), jnp.where(go_up, high, middle)

    ends = (jnp.zeros(len(excluded), jnp.int32), jnp.full(len(excluded), capacity, jnp.int32))
    place, _ = lax.fori_loop(0, capacity.bit_length(), halve, ends)
    found = place < capacity
    for key, want in zip(keys, wanted, strict=True):
        found &= key[jnp.minimum(place, capacity - 1)] == want
    return jnp.ones(capacity, bool).at[jnp.where(found, place, capacity)].set(False, mode="drop")


def nearest_image(dr: jax.Array, box: jax.Array) -> jax.Array:
    """Lattice translation that brings a vector nearest to zero, ``(n, 3)`` int32.

    Right wherever the result is shorter than half the distance between opposite faces.

    Args:
        dr: shape ``(n, 3)``, nm.
        box: shape ``(3, 3)``, nm.
    """
    return -jnp.round(times(dr, jnp.linalg.inv(box))).astype(jnp.int32)


def sum_all(pair: PairEnergy, positions: jax.Array, columns: Columns, excluded: jax.Array) -> jax.Array:
    """Sum over all pairs of atoms that are not excluded, without periodicity; arguments as in `sum_listed`.

    Atom i meets the atoms i + 1 ... i + n/2 of the ring of atoms, which is each pair once; no index is looked up.
    """
    n = len(positions)
    half = n // 2
    if half == 0:
        return jnp.zeros((), positions.dtype)
    tile = half if half <= _SMALL else _TILE
    n_steps = -(-half // tile)
    offsets = jnp.arange(1, n_steps * tile + 1)[:, None]
    used = (offsets < half) | ((offsets == half) & ((n % 2 == 1) | (jnp.arange(n) < half)))
    apart = excluded[:, 1] - excluded[:, 0]
    behind = apart > half
    used = used.at[jnp.where(behind, n - apart, apart) - 1, jnp.where(behind, excluded[:, 1], excluded[:, 0])].set(
        False
    )
    here = (*jnp.moveaxis(positions, -1, 0), *columns)  # apart, so that what does not vary has no derivative
    ring = [jnp.concatenate([column, column, column[:tile]]) for column in here]

    def step(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        start, keep = block
        there = [jnp.stack([lax.dynamic_slice_in_dim(one, start + t, n) for t in range(tile)]) for one in ring]
        squared = sum((there[c] - here[c]) ** 2 for c in range(3))
        energies = pair(jnp.where(keep, squared, 1.0), tuple(here[3:]), tuple(there[3:]))
        return total + jnp.sum(jnp.where(keep, energies, 0.0)), None

    starts, zero = jnp.arange(n_steps) * tile + 1, jnp.zeros((), positions.dtype)
    if n_steps == 1:  # a small molecule, of which many frames are computed at once
        return step(zero, (starts[0], used.reshape(tile, n)))[0]
    return lax.scan(jax.checkpoint(step), zero, (starts, used.reshape(n_steps, tile, n)))[0]


def squared_distances(positions: jax.Array, box: jax.Array | None, pairs: jax.Array) -> jax.Array:
    """r^2 of explicit pairs, ``(n_pairs,)``, nm^2.

    Args:
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)``, nm, for the nearest image; None for the atoms where they are.
        pairs: shape ``(n_pairs, 2)``.
    """
    dr = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    if box is not None:
        dr = dr + times(lax.stop_gradient(nearest_image(dr, box)).astype(dr.dtype), box)
    return jnp.sum(dr * dr, axis=-1)
