"""The product ``D = T T[:axis]^T`` of each atom and its derivatives, each in the form that compiles to fast code.

    outer_sum(a, b)[n, m, k]  = sum_c a[n, c, m] b[n, c, k]      four numbers: a loop over (m, k)
    _left(g, b)[n, c, m]      = sum_k g[n, m, k] b[n, c, k]      derivative with respect to a: a batch of products
    _right(g, a)[n, c, k]     = sum_m g[n, m, k] a[n, c, m]      derivative with respect to b

The derivatives of the three are the three again, to any order.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def outer_sum(a: jax.Array, b: jax.Array) -> jax.Array:
    """``sum_c a[n, c, m] b[n, c, k]``, shape ``(n, m, k)``."""
    first, *rest = (a[:, c, :, None] * b[:, c, None, :] for c in range(a.shape[1]))
    return sum(rest, first)


@jax.custom_vjp
def _left(g: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum("nmk,nck->ncm", g, b, precision="float32")


@jax.custom_vjp
def _right(g: jax.Array, a: jax.Array) -> jax.Array:
    return jnp.einsum("nmk,ncm->nck", g, a, precision="float32")


outer_sum.defvjp(lambda a, b: (outer_sum(a, b), (a, b)), lambda ab, g: (_left(g, ab[1]), _right(g, ab[0])))
_left.defvjp(lambda g, b: (_left(g, b), (g, b)), lambda gb, t: (outer_sum(t, gb[1]), _right(gb[0], t)))
_right.defvjp(lambda g, a: (_right(g, a), (g, a)), lambda ga, t: (outer_sum(ga[1], t), _left(ga[0], t)))
