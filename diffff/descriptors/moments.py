"""Moments of a neighbourhood in the spline basis, with the derivative written out.

    A[i, 0, (t, k)] = sum_j phi_k(s_ij)              j: neighbours of type t
    A[i, c, (t, k)] = sum_j phi_k(s_ij) a_ij,c       c = x, y, z;   a = alpha(r) dr,  alpha = s / (r + p)

With ``G = dE/dA``, each pair needs the window of G that its six spline functions touch:

    dE/d(dr) = [sum_k (G_0k + sum_c a_c G_ck) phi'_k] ds/d(dr) + alpha q + (alpha'/r) (q . dr) dr
         q_c = sum_k G_ck phi_k

Differentiating through the pieces instead would evaluate the splines again for each of the 24 numbers of a window.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from diffff.blocks import blocks, joined
from diffff.descriptors.env import RadialShape
from diffff.descriptors.radial import DEGREE, SplineBasis
from diffff.pytree import pytree

_Given = tuple[jax.Array, jax.Array, jax.Array]  # dr, centres, types


@pytree
class _Pair:
    """What each pair contributes to the moments and to their derivative."""

    window: jax.Array  # (n_pairs, 2) centre and first column
    phi: jax.Array  # (n_pairs, 6)
    slope: jax.Array  # (n_pairs, 6) d(phi)/ds
    dr: jax.Array  # (n_pairs, 3)
    ds: jax.Array  # (n_pairs, 3) ds/d(dr)
    alpha: jax.Array  # (n_pairs,)
    beta: jax.Array  # (n_pairs,) alpha'/r


def _pairs(shape: RadialShape, basis: SplineBasis, dr: jax.Array, center: jax.Array, types: jax.Array) -> _Pair:
    r = jnp.sqrt(jnp.sum(dr**2, axis=-1))
    inverse = 1.0 / (r + shape.protection)
    s = shape.switch(r) * inverse
    ds_dr = (shape.switch_slope(r) - s) * inverse
    alpha = s * inverse
    first, phi, slope = basis.values(s)
    return _Pair(
        window=jnp.stack([center, types * basis.n + first], axis=-1),
        phi=phi,
        slope=slope,
        dr=dr,
        ds=(ds_dr / r)[:, None] * dr,
        alpha=alpha,
        beta=(ds_dr - alpha) * inverse / r,
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 6))
def sum_over_neighbors(
    shape: RadialShape,
    basis: SplineBasis,
    out_shape: tuple[int, int, int],
    dr: jax.Array,
    center: jax.Array,
    types: jax.Array,
    block: int | None = None,
) -> jax.Array:
    """Moments A, shape ``out_shape = (n_atoms, 4, n_types * basis.n)``.

    Args:
        shape: radial function s(r).
        basis: spline functions of s.
        out_shape: see above.
        dr: shape ``(n_pairs, 3)``, vectors to the neighbours, in the unit of ``shape``.
        center: shape ``(n_pairs,)``; pairs with ``center >= n_atoms`` are left out.
        types: shape ``(n_pairs,)``, types of the neighbours.
        block: pairs whose splines are computed at a time, and again for the derivative; None: all, and once.
    """
    return _forward(shape, basis, out_shape, dr, center, types, block)[0]


def _forward(
    shape: RadialShape,
    basis: SplineBasis,
    out_shape: tuple[int, int, int],
    dr: jax.Array,
    center: jax.Array,
    types: jax.Array,
    block: int | None = None,
) -> tuple[jax.Array, _Pair | _Given]:
    moments = jnp.zeros(out_shape, dr.dtype)
    if block is None or len(center) <= block:
        pairs = _pairs(shape, basis, dr, center, types)
        return _added(moments, pairs), pairs
    pairs = dr, center, types
    some = _divided(shape, out_shape, pairs, block)
    moments, _ = lax.scan(lambda sums, some: (_added(sums, _pairs(shape, basis, *some)), None), moments, some)
    return moments, pairs


def _backward(
    shape: RadialShape,
    basis: SplineBasis,
    out_shape: tuple[int, int, int],
    block: int | None,
    residuals: _Pair | _Given,
    g: jax.Array,
) -> tuple[jax.Array, None, None]:
    if isinstance(residuals, _Pair):
        return _slopes(residuals, g), None, None
    assert block is not None  # else they are not what was given
    some = _divided(shape, out_shape, residuals, block)
    slopes = lax.map(lambda some: _slopes(_pairs(shape, basis, *some), g), some)
    return joined(slopes, len(residuals[0])), None, None


sum_over_neighbors.defvjp(_forward, _backward)


def _divided(shape: RadialShape, out_shape: tuple[int, int, int], pairs: _Given, block: int) -> _Given:
    """Vectors, centres and types in blocks; what fills these up belongs to no atom."""
    dr, center, types = pairs
    return blocks(dr, block, 2.0 * shape.rcut), blocks(center, block, out_shape[0]), blocks(types, block)


def _added(moments: jax.Array, pairs: _Pair) -> jax.Array:
    """The moments with the contributions of some pairs."""
    rows = jnp.concatenate([jnp.ones_like(pairs.alpha)[:, None], pairs.alpha[:, None] * pairs.dr], axis=-1)
    return lax.scatter_add(
        moments,
        pairs.window,
        rows[:, :, None] * pairs.phi[:, None, :],
        lax.ScatterDimensionNumbers((1, 2), (0,), (0, 2)),
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )


def _slopes(pairs: _Pair, g: jax.Array) -> jax.Array:
    """``dE/d(dr)`` of some pairs, shape ``(n_pairs, 3)``."""
    g = lax.gather(
        g,
        pairs.window,
        lax.GatherDimensionNumbers((1, 2), (0,), (0, 2)),
        (1, 4, DEGREE + 1),
        mode=lax.GatherScatterMode.FILL_OR_DROP,
        fill_value=0.0,
    )
    along = g[:, 0] + sum((pairs.alpha * pairs.dr[:, c])[:, None] * g[:, c + 1] for c in range(3))
    g_s = jnp.sum(along * pairs.slope, axis=-1)
    q = jnp.sum(g[:, 1:] * pairs.phi[:, None, :], axis=-1)
    radial = pairs.beta * jnp.sum(q * pairs.dr, axis=-1)
    return g_s[:, None] * pairs.ds + pairs.alpha[:, None] * q + radial[:, None] * pairs.dr
