"""The switch and the environment rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.descriptors.env import RadialShape, environment

SHAPE = RadialShape(rcut=4.0, rcut_smth=1.0, protection=0.3)


def test_the_switch_by_hand():
    """Halfway u = 1/2: 1 + (1/8) (-6/4 + 15/2 - 10) = 1/2."""
    r = jnp.array([0.0, 0.5, 1.0, 2.5, 4.0, 5.0])
    np.testing.assert_array_equal(SHAPE.switch(r), [1.0, 1.0, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(("end", "value"), [(1.0, 1.0), (4.0, 0.0)])
def test_value_slope_and_curvature_are_continuous_at_both_ends(end, value):
    """The third derivative jumps, so value, slope and curvature leave the constant as h^3, h^2 and h."""
    slope, curvature = jax.grad(SHAPE.switch), jax.grad(jax.grad(SHAPE.switch))
    for h in (1e-2, 1e-4):
        for r in (end - h, end + h):
            assert abs(SHAPE.switch(jnp.array(r)) - value) < 2.0 * h**3
            assert abs(slope(r)) < 4.0 * h**2
            assert abs(curvature(r)) < 8.0 * h


def test_the_written_slope_is_the_derivative():
    r = jnp.linspace(0.3, 4.7, 45)
    np.testing.assert_allclose(SHAPE.switch_slope(r), jax.vmap(jax.grad(SHAPE.switch))(r), rtol=0, atol=1e-14)


def test_the_switch_falls_monotonically():
    assert (np.diff(SHAPE.switch(jnp.linspace(0.0, 5.0, 200))) <= 0.0).all()


def test_environment_rows_by_hand():
    s, a = environment(jnp.array([[0.0, 0.6, 0.8], [2.5, 0.0, 0.0], [0.0, 5.0, 0.0]]), SHAPE)
    np.testing.assert_allclose(s, [1 / 1.3, 0.5 / 2.8, 0.0], rtol=1e-14)
    np.testing.assert_allclose(a, [[0.0, 0.6 / 1.69, 0.8 / 1.69], [0.5 * 2.5 / 2.8**2, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_without_protection_the_rows_are_s_times_the_unit_vector():
    dr = jnp.array([[0.3, -0.4, 1.2], [1.0, 1.0, 2.0]])
    s, a = environment(dr, RadialShape(4.0, 1.0))
    np.testing.assert_allclose(a, s[:, None] * dr / jnp.linalg.norm(dr, axis=1)[:, None], rtol=1e-14)
