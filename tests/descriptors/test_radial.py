"""The B-spline basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.descriptors.radial import DEGREE, SplineBasis, spline_weights

BASIS = SplineBasis(12, 1.5, 0.4)
S = np.linspace(0.0, BASIS.upper, 300)


def dense(basis, s):
    """Values and slopes of all functions as dense matrices, from the sparse ones."""
    first, values, slopes = basis.values(jnp.asarray(s))
    columns = np.asarray(first)[:, None] + np.arange(DEGREE + 1)
    out = np.zeros((2, len(s), basis.n))
    np.put_along_axis(out[0], columns, np.asarray(values), axis=1)
    np.put_along_axis(out[1], columns, np.asarray(slopes), axis=1)
    return out


def test_cardinal_splines_at_a_knot():
    """At a knot the quintic cardinal spline takes the values 1, 26, 66, 26, 1 over 120."""
    weights, slopes = spline_weights(np.array(0.0))
    np.testing.assert_allclose(np.array(weights) * 120, [1, 26, 66, 26, 1, 0], atol=1e-13)
    np.testing.assert_allclose(np.array(slopes) * 24, [-1, -10, 0, 10, 1, 0], atol=1e-13)


def test_partition_of_unity():
    values, slopes = dense(BASIS, S)
    np.testing.assert_allclose(values.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(slopes.sum(axis=1), 0.0, atol=1e-12)
    assert values.min() >= -1e-16


def test_the_design_matrix_on_the_host_is_the_same():
    np.testing.assert_allclose(BASIS.design_matrix(S), dense(BASIS, S)[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("degree", range(DEGREE + 1))
def test_polynomials_up_to_degree_five_are_reproduced(degree):
    """Of the logarithm in which the knots are evenly spaced."""
    x = np.log1p(S / BASIS.scale)
    coefficients = BASIS.coefficients(jnp.asarray(np.log1p(BASIS.sites / BASIS.scale) ** degree)[:, None])[:, 0]
    values, slopes = dense(BASIS, S)
    np.testing.assert_allclose(values @ coefficients, x**degree, rtol=0, atol=2e-12)
    wanted = degree * x ** max(degree - 1, 0) / (S + BASIS.scale)
    np.testing.assert_allclose(slopes @ coefficients, wanted, rtol=0, atol=2e-11)


def test_knots_are_as_far_apart_as_their_place_and_the_scale_say():
    basis = SplineBasis(2000, 1.5, 0.1)
    between = np.diff(basis.evenly(basis.n - DEGREE + 1))
    np.testing.assert_allclose(between / between[0], (basis.evenly(basis.n - DEGREE + 1)[:-1] + 0.1) / 0.1, rtol=1e-9)


def test_structure_at_small_arguments_is_followed():
    """A step of the width 0.02, which a uniform grid meets with the same number of functions only once."""

    def error(scale):
        basis, s = SplineBasis(128, 1.2, scale), np.linspace(0.0, 1.2, 3000)
        f = lambda s: np.tanh((s - 0.03) / 0.01)  # noqa: E731
        return np.abs(basis.design_matrix(s) @ basis.from_sites @ f(basis.sites) - f(s)).max()

    assert error(0.1) < 0.01 * error(1e6)


def test_slopes_are_the_derivatives_of_the_values():
    s, h = S[1:-1], 1e-6
    difference = (dense(BASIS, s + h)[0] - dense(BASIS, s - h)[0]) / (2 * h)
    np.testing.assert_allclose(dense(BASIS, s)[1], difference, rtol=0, atol=1e-7)
    exact = jax.jacfwd(lambda x: BASIS.values(x[None])[1][0])(jnp.array(0.4))
    np.testing.assert_allclose(BASIS.values(jnp.array([0.4]))[2][0], exact, rtol=1e-12)


def test_sites_cover_the_range_and_are_interpolated():
    sites = BASIS.sites
    assert sites.shape == (12,) and sites[0] == 0.0 and sites[-1] == pytest.approx(1.5, rel=1e-15)
    assert (np.diff(sites) > 0).all()
    np.testing.assert_allclose(BASIS.from_sites @ BASIS.design_matrix(sites), np.eye(12), atol=1e-11)
    assert np.linalg.cond(SplineBasis(256, 1.5, 0.1).from_sites) < 1e5


@pytest.mark.parametrize("upper", [1.1**3, 1.1**-2, 0.7])
def test_the_largest_site_is_not_beyond_the_range(upper):
    basis = SplineBasis(24, upper, 0.1)
    assert np.isfinite(basis.values(jnp.asarray(basis.sites))[1]).all()


def test_beyond_the_range_there_is_no_number():
    _, values, slopes = BASIS.values(jnp.array([1.5, 1.5 + 1e-9, 7.0, -0.0]))
    assert np.isnan(values).all(axis=1).tolist() == np.isnan(values).any(axis=1).tolist() == [False, True, True, False]
    assert np.isnan(slopes).all(axis=1).tolist() == [False, True, True, False]


def test_the_error_falls_with_the_sixth_power_of_the_spacing():
    def error(n):
        basis = SplineBasis(n + DEGREE, 1.5, 1.0)
        matrix = basis.design_matrix(S) @ basis.from_sites
        return np.abs(matrix @ np.sin(4 * basis.sites) - np.sin(4 * S)).max()

    orders = [np.log2(error(n) / error(2 * n)) for n in (16, 32, 64)]
    assert all(5.5 < order < 6.6 for order in orders), orders


def test_single_precision_stays_single():
    first, values, slopes = BASIS.values(jnp.asarray(S, jnp.float32))
    assert first.dtype == jnp.int32 and values.dtype == slopes.dtype == jnp.float32
    np.testing.assert_allclose(values.sum(axis=1), 1.0, rtol=1e-6)


def test_the_smallest_basis_is_one_polynomial():
    basis = SplineBasis(6, 2.0, 1.0)
    assert basis.spacing == pytest.approx(np.log(3.0), rel=1e-15)
    np.testing.assert_allclose(basis.values(jnp.array([0.3, 1.9]))[1].sum(axis=1), 1.0, rtol=1e-14)
