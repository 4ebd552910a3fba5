"""Large arrays a block of rows at a time, so that what is computed on the way takes the memory of one block.

`each_in_blocks` evaluates a function whose values depend on one row each. Values and slopes ``d(value_i)/d(row_i)``
come from the same pass, so that a derivative with respect to the rows costs no more than without blocks; for one with
respect to the parameters, and for second derivatives, each block is computed once more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def blocks(x: jax.Array, size: int, fill: float = 0) -> jax.Array:
    """An array ``(n, ...)`` as ``(n_blocks, m, ...)`` with ``m <= size``, filled up with as few rows as possible.

    Example:
        >>> blocks(jnp.arange(5), 3, fill=-1).tolist()
        [[0, 1, 2], [3, 4, -1]]
    """
    n_blocks = -(-len(x) // size)
    m = -(-len(x) // n_blocks)
    if missing := n_blocks * m - len(x):
        x = jnp.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:])), constant_values=fill)
    return x.reshape(n_blocks, m, *x.shape[1:])


def joined(x: jax.Array, n: int) -> jax.Array:
    """The ``n`` rows that `blocks` has divided."""
    return x.reshape(-1, *x.shape[2:])[:n]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def each_in_blocks(function: Callable[[Any, Any], jax.Array], size: int, params: Any, rows: Any) -> jax.Array:
    """``function(params, rows)``, shape ``(n,)``, computed for at most ``size`` rows at a time.

    Args:
        function: its value number i depends on no row but i, and is finite for rows of zeros.
        size: rows in a block.
        params: tree of floating-point arrays.
        rows: tree of floating-point arrays ``(n, ...)``.
    """
    values = lax.map(partial(function, params), jax.tree.map(lambda x: blocks(x, size), rows))
    return joined(values, _count(rows))


def _count(rows: Any) -> int:
    return len(jax.tree.leaves(rows)[0])


def _forward(
    function: Callable[[Any, Any], jax.Array], size: int, params: Any, rows: Any
) -> tuple[jax.Array, tuple[Any, Any, Any]]:
    @jax.checkpoint
    def values_and_slopes(some: Any) -> tuple[jax.Array, Any]:
        values, back = jax.vjp(partial(function, params), some)
        return values, *back(jnp.ones_like(values))

    found = lax.map(values_and_slopes, jax.tree.map(lambda x: blocks(x, size), rows))
    values, slopes = jax.tree.map(lambda x: joined(x, _count(rows)), found)
    return values, (params, rows, slopes)


def _backward(
    function: Callable[[Any, Any], jax.Array], size: int, residuals: tuple[Any, Any, Any], g: jax.Array
) -> tuple[Any, Any]:
    params, rows, slopes = residuals

    @jax.checkpoint
    def added(total: Any, some: Any) -> tuple[Any, None]:
        rows, g = some
        _, back = jax.vjp(lambda params: function(params, rows), params)
        return jax.tree.map(jnp.add, total, *back(g)), None

    zero = jax.tree.map(jnp.zeros_like, params)
    of_params, _ = lax.scan(added, zero, jax.tree.map(lambda x: blocks(x, size), (rows, g)))
    return of_params, jax.tree.map(lambda slope: slope * g.reshape(-1, *(1,) * (slope.ndim - 1)), slopes)


each_in_blocks.defvjp(_forward, _backward)
