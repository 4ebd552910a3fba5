"""Rows in blocks: the same numbers and derivatives as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.blocks import blocks, each_in_blocks, joined

X = jnp.asarray(np.random.default_rng(0).normal(size=(11, 3)))
W = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)))


@pytest.mark.parametrize(("n", "size", "shape"), [(11, 4, (3, 4)), (12, 4, (3, 4)), (9, 4, (3, 3)), (3, 4, (1, 3))])
def test_blocks_are_even(n, size, shape):
    divided = blocks(jnp.arange(n), size, fill=7)
    assert divided.shape == shape
    np.testing.assert_array_equal(joined(divided, n), np.arange(n))
    assert (np.ravel(divided)[n:] == 7).all()


@pytest.mark.parametrize("size", [1, 4, 11, 20])
def test_values_and_derivatives(size):
    def energy(w, rows):
        return jnp.sum(jnp.tanh(rows["x"] @ w), axis=1) * jnp.sin(rows["y"])

    rows = {"x": X, "y": X[:, 0]}

    def value(of, w, rows):
        return jnp.sum(jnp.cos(of(w, rows)))

    def length(of, w, rows):
        slopes = jax.grad(value, argnums=2)(of, w, rows)
        return sum(jnp.sum(jnp.sin(s)) for s in slopes.values())

    def in_blocks(w, rows):
        return each_in_blocks(energy, size, w, rows)

    np.testing.assert_allclose(in_blocks(W, rows), energy(W, rows), rtol=1e-14)
    for function in (value, length):  # first and second derivatives, with respect to both
        found = jax.jit(jax.grad(function, argnums=(1, 2)), static_argnums=0)(in_blocks, W, rows)
        expected = jax.grad(function, argnums=(1, 2))(energy, W, rows)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
