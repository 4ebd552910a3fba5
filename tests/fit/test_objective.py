"""The objective of a fit: its normal equations with and without a whole Jacobian, and what is not finite."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.fit import objective as module
from diffff.fit.free import free_of
from diffff.fit.noise import Noise
from diffff.fit.objective import Objective
from diffff.fit.optimizers import LBFGSB, LeastSquares, Start
from diffff.fit.rules import Prior, Rule, Treatment, moving
from diffff.fit.solve import solve
from diffff.fit.ties import Equal

RULES = [
    Rule(select="A/k", treatment=Treatment(bounds=(0.0, None), scale=0.5, prior=Prior(sigma=1.0))),
    Rule(select="A/*", treatment=Treatment(scale=1.0)),
]
START = {"A": {"k": jnp.array([1.0, 2.0]), "x": jnp.array([0.5, 0.4])}}
R = jnp.linspace(0.0, 2.0, 25)


def curves(params):
    a = params["A"]
    return (a["k"][:, None] * jnp.exp(-a["x"][:, None] * R)).ravel() - 1.0


def made(residuals=curves, ties=()):
    found = moving(START, {}, RULES)
    return found, free_of(START, found, ties)


@pytest.mark.parametrize("ties", [(), (Equal(select="A/x"),)])
@pytest.mark.parametrize("weighted", [False, True])
def test_normal_equations_without_a_jacobian(monkeypatch, ties, weighted):
    _, free = made(ties=ties)
    noise = Noise(np.random.default_rng(1).uniform(0.1, 2.0, 50), 3.0) if weighted else None
    one = Objective(curves, free)
    v = np.linspace(-0.3, 0.4, free.n_free)
    whole = one.normal(v, noise)
    monkeypatch.setattr(module, "LARGEST_JACOBIAN", 10.0)
    for at_once in (64e6, 1.0):
        monkeypatch.setattr(module, "_TANGENTS_AT_ONCE", at_once)
        by_columns = one.normal(v, noise)
        for a, b in zip(whole, by_columns, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert whole.n == pytest.approx(50.0 if noise is None else noise.weights.sum() - 3.0)


def test_a_fit_without_room_for_its_jacobian_ends_with_error_bars(monkeypatch):
    found, free = made()
    whole = solve(curves, free, found, optimizer=LBFGSB())
    monkeypatch.setattr(module, "LARGEST_JACOBIAN", 10.0)
    parts = solve(curves, free, found, optimizer=LBFGSB())
    np.testing.assert_allclose(parts.known.errors, whole.known.errors, rtol=1e-8)
    with pytest.raises(InputError, match=r"the Jacobian of 50 residuals in 4 variables takes .*LBFGSB, Adam"):
        solve(curves, free, found, optimizer=LeastSquares())


def test_too_many_variables_are_refused_before_the_fit(monkeypatch):
    found, free = made()
    monkeypatch.setattr(module, "MOST_VARIABLES", 3)
    steps = []
    with pytest.raises(InputError, match=r"4 variables: their error bars take matrices"):
        solve(curves, free, found, callback=lambda step, v, state: steps.append(step))
    assert not steps


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("optimizer", [LeastSquares(), LBFGSB()])
def test_a_run_makes_as_many_steps_as_it_is_told(optimizer, last):
    """Also one that goes on, and one whose first trials lead upwards."""
    _, free = made()
    one, told = Objective(curves, free), []
    far = np.full(free.n_free, 3.0)
    end = optimizer.minimize(one, Start(far, 0), last, lambda step, v, state: told.append(step))
    assert told == list(range(1, last + 1)) and end.n_steps == last and not end.converged
    assert one.residuals(end.free).half_square < one.residuals(far).half_square
    more = optimizer.minimize(one, Start(end.free, last), last + 1, lambda step, v, state: told.append(step))
    assert told[-1] == more.n_steps == last + 1
    assert one.residuals(more.free).half_square < one.residuals(end.free).half_square


def test_what_is_not_finite_is_a_sentence():
    """Square roots of numbers that become negative, slopes of one at zero, and squares beyond all numbers."""
    start = {"A": {"k": jnp.array([1.0, 0.0])}}
    found = moving(start, {}, [Rule(select="A/k", treatment=Treatment(scale=1.0))])
    free = free_of(start, found)
    for optimizer in (LeastSquares(), LBFGSB()):
        with pytest.raises(InputError, match=r"the objective or its slopes are not finite at the start\. Give bounds"):
            solve(lambda tree: jnp.sqrt(tree["A"]["k"]) + 1.0, free, found, optimizer=optimizer)
    with pytest.raises(InputError, match="the objective at the start is too large for a number"):
        solve(lambda tree: 1e200 * tree["A"]["k"], free, found)


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e12])
@pytest.mark.parametrize("sigma", [1e-12, 1e-4, 1.0, 1e12])
def test_small_and_large_scales_and_sigmas(scale, sigma):
    """The error bars of a straight line are those of any other; at the end of what is allowed NumPy has no warning."""
    x, noise = jnp.linspace(0.0, 1.0, 20), np.random.default_rng(1).normal(scale=0.01, size=20)
    params = {"A": {"a": jnp.array([1.0]), "b": jnp.array([2.0])}}

    def fitted(scale, sigma):
        rules = [Rule(select="A/*", treatment=Treatment(scale=scale))]
        found = moving(params, {}, rules)
        free = free_of(params, found)
        return solve(lambda tree: (tree["A"]["a"] + tree["A"]["b"] * x - 3.0 - noise) / sigma, free, found)

    one, other = fitted(scale, sigma), fitted(1.0, 0.01)
    assert np.isfinite(one.known.errors).all() and (one.known.errors > 0.0).all()
    if 1e-5 < scale < 1e5 and sigma < 1e5:
        np.testing.assert_allclose(one.known.errors, other.known.errors, rtol=1e-3)
