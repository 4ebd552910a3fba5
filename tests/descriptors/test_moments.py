"""Moments of a neighbourhood against the formula, differentiated by JAX.

The derivative is a `jax.custom_vjp`: reverse mode, and reverse over reverse as in training, but not forward mode.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.descriptors.env import RadialShape, environment
from diffff.descriptors.moments import sum_over_neighbors
from diffff.descriptors.radial import SplineBasis

N_ATOMS, N_TYPES = 4, 2
SHAPE = RadialShape(rcut=4.0, rcut_smth=1.0, protection=0.2)
BASIS = SplineBasis(16, 1.1, 0.2)
OUT = (N_ATOMS, 4, N_TYPES * BASIS.n)
RNG = np.random.default_rng(7)
LENGTHS = np.r_[RNG.uniform(0.8, 4.4, 18), 3.999, 4.001]  # Å, some beyond the cutoff
UNIT = RNG.normal(size=(20, 3))
DR = jnp.asarray(UNIT / np.linalg.norm(UNIT, axis=1)[:, None] * LENGTHS[:, None])
CENTER = jnp.asarray(np.r_[RNG.integers(0, N_ATOMS, 17), [N_ATOMS, N_ATOMS + 3, 0]])  # two entries are unused
TYPES = jnp.asarray(RNG.integers(0, N_TYPES, 20))
WEIGHTS = jnp.asarray(RNG.normal(size=OUT))


def plain(dr):
    """The same by dense matrices, without a derivative of its own."""
    s, a = environment(dr, SHAPE)
    first, values, _ = BASIS.values(s)
    columns = first[:, None] + jnp.arange(6)
    phi = jnp.zeros((len(dr), BASIS.n)).at[jnp.arange(len(dr))[:, None], columns].set(values)
    rows = jnp.concatenate([jnp.ones((len(dr), 1)), a], axis=1)
    of_atom = jax.nn.one_hot(CENTER, N_ATOMS)
    of_type = jax.nn.one_hot(TYPES, N_TYPES)
    return jnp.einsum("pi,pc,pt,pk->ictk", of_atom, rows, of_type, phi).reshape(OUT)


def moments(dr, dtype=jnp.float64):
    return sum_over_neighbors(SHAPE, BASIS, OUT, dr.astype(dtype), CENTER, TYPES)


def energy(function, dr, weights):
    """A smooth function of the moments, as a network is."""
    return jnp.sum(jnp.tanh(weights * function(dr)))


@jax.jit
def both(dr, weights):
    """Moments, gradient and the gradient of a function of the gradient, custom and plain."""

    def force_loss(function, dr, weights):
        g = jax.grad(energy, 1)(function, dr, weights)
        return jnp.sum(jnp.sin(jnp.arange(g.size).reshape(g.shape)) * g + g**2)

    def of(function):
        first = jax.grad(energy, (1, 2))(function, dr, weights)
        return function(dr), first, jax.grad(force_loss, (1, 2))(function, dr, weights)

    return of(moments), of(plain)


@pytest.fixture(scope="module")
def results():
    return both(DR, WEIGHTS)


def test_moments_are_the_sums_of_the_formula(results):
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=0, atol=1e-13)


def test_first_derivative(results):
    for found, expected in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_second_derivative_as_in_the_loss_of_the_forces(results):
    """With respect to positions and to weights: reverse over reverse."""
    for found, expected in zip(results[0][2], results[1][2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_unused_and_distant_pairs_add_nothing_and_feel_nothing(results):
    """A pair beyond the cutoff has s = 0, a constant moment."""
    unused = np.asarray(CENTER) >= N_ATOMS
    gradient = np.asarray(results[0][1][0])
    assert not gradient[unused].any() and not gradient[np.linalg.norm(DR, axis=1) > 4.0].any()
    assert gradient[~unused & (np.linalg.norm(DR, axis=1) < 4.0)].any(axis=1).all()


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(moments, (DR,), (DR,))


def test_sums_in_single_precision():
    found = moments(DR, jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, moments(DR), rtol=0, atol=4e-6)  # 30 units in the last place
    gradient = jax.grad(lambda dr: jnp.sum(WEIGHTS.astype(jnp.float32) * moments(dr, jnp.float32)))(DR)
    assert gradient.dtype == jnp.float64
    exact = jax.grad(lambda dr: jnp.sum(WEIGHTS * moments(dr)))(DR)
    np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
