"""Sums over the neighbours of each atom: those of a list, or all other atoms.

    S_i = sum over j of  pair(r^2_ij, a_i, b_j)

A pair counts for both of its atoms, as first and as second, with the arguments changing places.
"""

import jax
import jax.numpy as jnp
from jax import lax

from diffff.neighbors import Neighbors
from diffff.potentials.pairwise import Columns, PairEnergy, included

_TILE = 8  # neighbours of every atom that one step of `sums_all` takes


def sums_listed(
    pair: PairEnergy,
    positions: jax.Array,
    box: jax.Array | None,
    columns: Columns,
    neighbors: Neighbors,
    excluded: jax.Array,
    cutoff: float,
) -> jax.Array:
    """Sums over the pairs of a list that are nearer than the cutoff and not excluded, shape ``(n_atoms,)``.

    Args:
        pair: from r^2 and the columns of the first and of the second atom.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
        columns: parameters of the atoms, shape ``(n_atoms,)`` each.
        neighbors: sorted by i, then j, then shift, as `diffff.neighbors.neighbor_list` makes it.
        excluded: shape ``(n_excluded, 2)``, the smaller index first; the nearest image of each is left out.
        cutoff: nm.
    """
    i, j, n = neighbors.i, neighbors.j, len(positions)
    dr = positions.at[j].get(mode="clip") - positions.at[i].get(mode="clip")
    if box is not None:
        dr = dr + sum(neighbors.shift[:, c, None].astype(dr.dtype) * box[c] for c in range(3))
    squared = jnp.sum(dr * dr, axis=-1)
    used = (i < n) & (squared < cutoff**2)
    if len(excluded):
        used &= included(positions, box, neighbors, excluded)
    squared = jnp.where(used, squared, cutoff**2)
    table = jnp.stack(columns, axis=-1)
    first, second = (tuple(jnp.moveaxis(table.at[k].get(mode="clip"), -1, 0)) for k in (i, j))
    there = jnp.where(used, pair(squared, first, second), 0.0)
    back = jnp.where(used, pair(squared, second, first), 0.0)
    sums = jax.ops.segment_sum(there, i, num_segments=n, indices_are_sorted=True)
    return sums + jax.ops.segment_sum(back, j, num_segments=n)


def sums_all(pair: PairEnergy, positions: jax.Array, columns: Columns, excluded: jax.Array) -> jax.Array:
    """Sums over all other atoms that are not excluded, without periodicity; arguments as in `sums_listed`.

    Atom i meets the atoms i + 1 ... i + n - 1 of the ring of atoms; no index is looked up.
    """
    n = len(positions)
    if n < 2:
        return jnp.zeros(n, positions.dtype)
    tile = min(_TILE, n - 1)
    n_steps = -(-(n - 1) // tile)
    here = jnp.stack([*jnp.moveaxis(positions, -1, 0), *columns])
    ring = jnp.concatenate([here, here, here[:, :tile]], axis=1)
    keep = jnp.ones((n_steps * tile, n), bool) if len(excluded) else None
    if keep is not None:
        for one, other in (excluded.T, excluded.T[::-1]):
            keep = keep.at[(other - one) % n - 1, one].set(False)
        keep = keep.reshape(n_steps, tile, n)

    @jax.checkpoint
    def step(sums: jax.Array, block: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, None]:
        start, kept = block
        window = lax.dynamic_slice_in_dim(ring, start, n + tile - 1, axis=1)
        there = jnp.stack([window[:, t : t + n] for t in range(tile)], axis=1)
        used = (start + jnp.arange(tile) < n)[:, None]
        used = used if kept is None else used & kept
        squared = sum((there[c] - here[c]) ** 2 for c in range(3))
        found = pair(jnp.where(used, squared, 1.0), tuple(here[3:]), tuple(there[3:]))
        return sums + jnp.sum(jnp.where(used, found, 0.0), axis=0), None

    starts = jnp.arange(n_steps) * tile + 1
    return lax.scan(step, jnp.zeros_like(here[0]), (starts, keep))[0]
