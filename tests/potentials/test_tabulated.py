"""Tabulated functions against OpenMM's, through a CustomCompoundBondForce of one particle on the Reference platform."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import pytest

from diffff.errors import InputError
from diffff.potentials.tabulated import Continuous1D, ContinuousND, Discrete

RNG = np.random.default_rng(7)


def in_openmm(function, points):
    """Values ``(m,)`` and derivatives ``(m, n)`` at ``points (m, n)``."""
    n = points.shape[1]
    force = mm.CustomCompoundBondForce(1, ("f(x1)", "f(x1,y1)", "f(x1,y1,z1)")[n - 1])
    force.addTabulatedFunction("f", function)
    force.addBond([0], [])
    system = mm.System()
    system.addParticle(1.0)
    system.addForce(force)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    values, slopes = [], []
    for point in points:
        context.setPositions([np.r_[point, np.zeros(3 - n)]])
        state = context.getState(energy=True, forces=True)
        values.append(state.getPotentialEnergy()._value)
        slopes.append(-state.getForces(asNumpy=True)._value[0, :n])
    return np.array(values), np.array(slopes)


def derivatives(function, values, points):
    @jax.jit
    def of(values, points):
        value, pullback = jax.vjp(lambda points: function.bind(values)(*points.T), points)
        return value, pullback(jnp.ones_like(value))[0]

    return of(jnp.asarray(values), jnp.asarray(points))


def compare(ours, theirs, values, points, tolerance=1e-12):
    value, slope = derivatives(ours, values, points)
    expected, expected_slope = in_openmm(theirs, points)
    np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(slope, expected_slope, rtol=0, atol=100 * tolerance)


def around(*ranges, n=60):
    """Points inside and, a few, outside of the ranges."""
    low, high = np.array(ranges).T
    return low + (high - low) * RNG.uniform(-0.15, 1.15, size=(n, len(ranges)))


def matching_edges(*sizes):
    """Random values, equal at opposite edges; as an array with the last axis first."""
    values = RNG.normal(size=sizes[::-1])
    for axis in range(len(sizes)):
        edge = [slice(None)] * len(sizes)
        edge[axis] = -1
        values[tuple(edge)] = np.take(values, 0, axis)
    return values.ravel()


@pytest.mark.parametrize("size", [2, 3, 4, 40])
def test_natural_splines(size):
    values = RNG.normal(size=size)
    points = np.r_[around((-0.5, 2.0)), [[-0.5]], [[2.0]]]
    compare(Continuous1D(size, -0.5, 2.0), mm.Continuous1DFunction(values.tolist(), -0.5, 2.0), values, points)


@pytest.mark.parametrize("size", [3, 4, 30])
def test_periodic_splines(size):
    values = matching_edges(size)
    theirs = mm.Continuous1DFunction(values.tolist(), -0.5, 2.0, True)
    compare(Continuous1D(size, -0.5, 2.0, True), theirs, values, around((-8.0, 8.0)))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("sizes", [(4, 5), (6, 3)])
def test_bicubic_patches(sizes, periodic):
    values = matching_edges(*sizes) if periodic else RNG.normal(size=sizes[0] * sizes[1])
    ranges = ((-0.5, 2.0), (1.0, 1.6))
    theirs = mm.Continuous2DFunction(*sizes, values.tolist(), *ranges[0], *ranges[1], periodic)
    compare(ContinuousND(sizes, ranges, periodic), theirs, values, around(*ranges))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (5, 4, 3)])
def test_tricubic_patches(sizes, periodic):
    values = matching_edges(*sizes) if periodic else RNG.normal(size=np.prod(sizes))
    ranges = ((-0.5, 2.0), (1.0, 1.6), (0.0, 3.0))
    theirs = mm.Continuous3DFunction(*sizes, values.tolist(), *ranges[0], *ranges[1], *ranges[2], periodic)
    compare(ContinuousND(sizes, ranges, periodic), theirs, values, around(*ranges))


def test_discrete_tables():
    points = np.r_[RNG.uniform(-2.0, 6.0, size=(30, 3)), [[-0.5, 0.5, 1.5], [2.5, 0.49999999999999994, 3.5]]]
    one, two, three = RNG.normal(size=4), RNG.normal(size=12), RNG.normal(size=24)
    compare(Discrete((4,)), mm.Discrete1DFunction(one.tolist()), one, points[:, :1], 0.0)
    compare(Discrete((4, 3)), mm.Discrete2DFunction(4, 3, two.tolist()), two, points[:, :2], 0.0)
    compare(Discrete((4, 3, 2)), mm.Discrete3DFunction(4, 3, 2, three.tolist()), three, points, 0.0)
    assert np.isnan(Discrete((4,)).bind(jnp.asarray(one))(jnp.array(np.nan)))


TABLES = [
    Continuous1D(6, 0.0, 1.0),
    Continuous1D(6, 0.0, 1.0, True),
    ContinuousND((4, 5), ((0.0, 1.0), (0.0, 2.0))),
    ContinuousND((3, 4, 3), ((0.0, 1.0), (0.0, 2.0), (0.0, 1.0)), True),
    Discrete((3, 2)),
]


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{type(t).__name__}{t.n_arguments}")
def test_the_table_is_a_parameter(table):
    """The value is linear in the table, so a finite difference of any size is exact."""
    values, change = RNG.normal(size=(2, table.n_values))
    x = [jnp.asarray(RNG.uniform(0.0, 1.0, size=8)) for _ in range(table.n_arguments)]
    of = jax.jit(lambda v: jnp.sum(table.bind(v)(*x)))
    gradient = jax.jit(jax.grad(of))(jnp.asarray(values))
    np.testing.assert_allclose(gradient @ change, of(values + change) - of(values), atol=1e-12)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{type(t).__name__}{t.n_arguments}")
def test_single_precision_stays_single(table):
    values = RNG.normal(size=table.n_values)
    x = [RNG.uniform(0.0, 1.0, size=5) for _ in range(table.n_arguments)]
    of = jax.jit(lambda values, x: table.bind(values)(*x))
    single = of(jnp.asarray(values, jnp.float32), [jnp.asarray(one, jnp.float32) for one in x])
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, of(values, x), atol=2e-5)


def test_gradients_outside_are_zero_and_nan_is_not_hidden():
    table = Continuous1D(5, 0.0, 1.0)
    values = jnp.arange(5.0)
    _, slopes = derivatives(table, values, jnp.array([[-1.0], [2.0], [np.inf], [-np.inf]]))
    np.testing.assert_array_equal(slopes, 0.0)
    assert np.isnan(table.bind(values)(jnp.array(np.nan)))
    assert not np.any(jax.grad(lambda v: table.bind(v)(jnp.array(3.0)))(values))


def test_what_is_refused():
    with pytest.raises(InputError, match="1 values along an axis; a spline needs 2 or more"):
        Continuous1D(1, 0.0, 1.0)
    with pytest.raises(InputError, match="periodic spline needs 3 or more"):
        ContinuousND((2, 3), ((0.0, 1.0), (0.0, 1.0)), True)
    with pytest.raises(InputError, match=r"goes from 1.0 to 0.5; the maximum must exceed the minimum"):
        Continuous1D(4, 1.0, 0.5)
    with pytest.raises(InputError, match="; give one to three"):
        Discrete(())
    with pytest.raises(InputError, match="3 values for a table of 2 x 3; give 6"):
        Discrete((2, 3)).check_values(np.zeros(3))
    with pytest.raises(InputError, match="value number 2 is nan"):
        Continuous1D(3, 0.0, 1.0).check_values(np.array([1.0, np.nan, 0.0]))
    with pytest.raises(InputError, match="first and last values differ"):
        ContinuousND((3, 3), ((0.0, 1.0), (0.0, 1.0)), True).check_values(np.arange(9.0))
    ContinuousND((3, 4), ((0.0, 1.0), (0.0, 1.0)), True).check_values(matching_edges(3, 4))
