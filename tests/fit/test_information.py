"""Error bars of a fit: those of a straight line, coverage under noise, and directions that no data determine."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from diffff.fit.combinations import in_words
from diffff.fit.free import free_of
from diffff.fit.information import Normal, known
from diffff.fit.number_record import entries
from diffff.fit.rules import Numbers, Rule, Treatment, moving
from diffff.fit.solve import solve
from diffff.fit.ties import Equal, FixedSum
from diffff.spec import validate

KEEP = {"select": "*", "treatment": {"train": False}}


def normal_of(residuals, jacobian, weights=None, constants=0.0):
    """The normal equations of residuals whose squares count ``weights`` times."""
    w = np.ones(len(residuals)) if weights is None else weights
    noise = jacobian.T @ (w[:, None] * jacobian)
    return Normal(jacobian.T @ jacobian, noise, float(residuals @ residuals), float(w.sum()) - constants)


def of_line(y, sigma, prior=0.0, degenerate=False):
    """What is known of a + b x, x = 0, 1, …; with ``degenerate`` of a + b + c x."""
    x = np.arange(len(y), dtype=float)
    design = np.stack([np.ones_like(x), np.ones_like(x), x] if degenerate else [np.ones_like(x), x], axis=1) / sigma
    found = np.linalg.lstsq(design, y / sigma, rcond=None)[0]
    n = design.shape[1]
    residuals = design @ found - y / sigma
    return known(normal_of(residuals, design), np.eye(n), prior * np.ones(n), found)


def test_a_straight_line_has_the_errors_of_the_textbook():
    """``var(b) = s^2 / sum (x - mean x)^2``, ``var(a) = s^2 (1/n + mean^2 / sum (x - mean x)^2)``."""
    x, y = np.arange(20.0), np.arange(20.0) + np.random.default_rng(1).normal(size=20)
    found = of_line(y, 0.3)
    b, a = np.polyfit(x, y, 1)
    s2 = np.sum((y - a - b * x) ** 2) / 18
    spread = np.sum((x - x.mean()) ** 2)
    np.testing.assert_allclose(found.values, [a, b], rtol=1e-10)
    expected = [np.sqrt(s2 * (1 / 20 + x.mean() ** 2 / spread)), np.sqrt(s2 / spread)]
    np.testing.assert_allclose(found.errors, expected, rtol=1e-10)
    np.testing.assert_allclose(found.informed, 1.0)


def test_error_bars_hold_the_truth_as_often_as_they_say():
    rng, inside = np.random.default_rng(2), []
    for _ in range(400):
        found = of_line(2.0 + 0.5 * np.arange(30.0) + rng.normal(size=30), 10.0)  # sigma was guessed wrong
        inside.append(np.abs(found.values - [2.0, 0.5]) < found.errors)
    np.testing.assert_allclose(np.mean(inside, axis=0), 0.683, atol=0.07)


def test_a_direction_that_no_data_determine_is_told():
    found = of_line(1.0 + np.arange(10.0) + np.random.default_rng(1).normal(size=10), 1.0, degenerate=True)
    assert np.isinf(found.errors[:2]).all() and np.isfinite(found.errors[2])
    np.testing.assert_array_equal(found.informed[:2], 0.0)
    assert found.eigenvalues[0] < 1e-12 * found.eigenvalues[-1]
    words = in_words(found.directions[0], ["a", "b", "c"])
    assert words in ("a against b", "b against a")
    held = of_line(1.0 + np.arange(10.0), 1.0, prior=10.0, degenerate=True)
    assert np.isfinite(held.errors).all()


def test_a_prior_is_what_is_known_without_data():
    """Data and prior of equal weight: each informs one half, and the variance is half of either's."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=400)
    jacobian = np.ones((400, 1)) / np.std(y)
    normal = normal_of((y.mean() - y) / np.std(y), jacobian)
    found = known(normal, np.eye(1), np.array([20.0 / np.std(y)]), np.zeros(1))
    np.testing.assert_allclose(found.informed, 0.5, rtol=0.01)
    np.testing.assert_allclose(found.errors, np.std(y) / np.sqrt(800), rtol=0.01)


def test_a_fit_with_bounds_and_ties_finds_the_truth_and_its_errors():
    """Morse curves with one shared width: ``D_i (1 - exp(-a (r - r_i)))^2`` from noisy points."""
    start = {"M": {"D": jnp.array([300.0, 500.0]), "r": jnp.array([0.12, 0.12]), "a": jnp.array([18.0, 22.0])}}
    rules = [{"select": "M/D", "treatment": {"bounds": [0, None]}}, {"select": "M/*"}, KEEP][:2]
    free = free_of(start, moving(start, {}, [validate(Rule, r) for r in rules]), [Equal(select="M/a")])
    r = jnp.linspace(0.08, 0.2, 60)

    def curves(params):
        m = params["M"]
        return (m["D"][:, None] * (1.0 - jnp.exp(-m["a"][:, None] * (r - m["r"][:, None]))) ** 2).ravel()

    truth = {"M": {"D": jnp.array([400.0, 350.0]), "r": jnp.array([0.11, 0.13]), "a": jnp.array([19.0, 19.0])}}
    noisy = np.asarray(curves(truth)) + np.random.default_rng(4).normal(size=120)

    @jax.jit
    def residuals(v):
        return curves(free.params(v)) - noisy

    slope = jax.jit(jax.jacobian(residuals))
    end = least_squares(residuals, np.zeros(free.n_free), slope, method="lm")
    x = np.asarray(free.numbers(end.x))
    by_number = np.asarray(jax.jacobian(free.numbers)(jnp.asarray(end.x)))
    normal = normal_of(end.fun, np.asarray(slope(end.x)))
    found = known(normal, by_number, np.zeros(6), x, np.asarray(free.ties))
    expected = np.concatenate([truth["M"][name] for name in ("D", "a", "r")])  # in the order of the tree
    assert np.all(np.abs(x - expected) < 3.5 * found.errors)
    assert np.all(found.errors < 0.05 * np.abs(expected))
    np.testing.assert_allclose(found.scatter, 1.0, atol=0.2)


def test_each_direction_that_no_data_determine_is_of_few_numbers():
    """Eigenvectors of one eigenvalue may be any mixture; the words are those of the simplest."""
    rng, labels = np.random.default_rng(5), ["a", "b", "c", "d", "e"]
    x = np.arange(10.0)
    design = np.stack([x, x, 0 * x, np.ones(10), 0 * x], axis=1)
    found = known(normal_of(rng.normal(size=10), design), np.eye(5), np.zeros(5), np.zeros(5))
    sloppy = found.sloppy(labels, 4)
    assert {one.words for one in sloppy[:3]} <= {"c", "e", "a against b", "b against a"}
    assert len({frozenset(one.words.split(" against ")) for one in sloppy[:3]}) == 3
    assert list(found.relative_eigenvalues() < 1e-14) == [True, True, True, False, False]
    assert found.stiff(labels, 1)[0].words == "a with b" and found.stiff(labels, 1)[0].relative == 1.0
    assert len(found.stiff(labels, 9)) == 2 and len(found.sloppy(labels, 9)) == 3  # no one in both
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1.0)
    np.testing.assert_allclose(design @ found.directions[:3].T, 0.0, atol=1e-12)


def test_what_is_known_does_not_depend_on_scales():
    """A number of huge effect does not make the others unknown, nor is what is unknown lost among others."""
    rng, residuals = np.random.default_rng(6), np.random.default_rng(7).normal(size=30)
    design = rng.normal(size=(30, 5))
    design[:, 3], design[:, 4] = design[:, 2], 0.0

    def of(units):
        return known(normal_of(residuals, design / units), np.eye(5), np.zeros(5), np.zeros(5))

    units = np.array([1e4, 1e-4, 1e4, 1.0, 1e4])
    plain, scaled = of(np.ones(5)), of(units)
    np.testing.assert_array_equal(np.isfinite(plain.errors), [True, True, False, False, False])
    np.testing.assert_allclose(scaled.errors, plain.errors * units, rtol=1e-6)
    np.testing.assert_allclose(scaled.scatter, np.sqrt(residuals @ residuals / (30 - 3)), rtol=1e-6)
    np.testing.assert_allclose(scaled.informed, [1.0, 1.0, 0.0, 0.0, 0.0])


def test_constants_that_are_fitted_along_count_as_numbers():
    """Slopes of many short lines, each with a constant of its own: the scatter is that of the noise."""
    rng, x = np.random.default_rng(8), np.arange(2.0) - 0.5
    y = rng.normal(size=(300, 2))
    y -= y.mean(axis=1, keepdims=True)
    design = np.tile(x, 300)[:, None]
    slope = float(design[:, 0] @ y.ravel() / (design[:, 0] @ design[:, 0]))
    found = known(
        normal_of(slope * design[:, 0] - y.ravel(), design, constants=300.0), np.eye(1), np.zeros(1), np.zeros(1)
    )
    np.testing.assert_allclose(found.scatter, 1.0, atol=0.1)
    np.testing.assert_allclose(found.errors, 1.0 / np.sqrt(150.0), rtol=0.1)


def test_weights_are_no_smaller_noise():
    """A mean weighted by w has the variance ``s^2 sum w^2 / (sum w)^2``; without priors all is known from the data."""
    rng = np.random.default_rng(9)
    w = np.exp(-rng.exponential(2.0, size=40))
    w /= w.mean()
    design, means, errors, scatters = np.sqrt(w)[:, None], [], [], []
    for _ in range(400):
        y = rng.normal(size=40)
        means.append(w @ y / w.sum())
        found = known(normal_of(np.sqrt(w) * (means[-1] - y), design, w), np.eye(1), np.zeros(1), np.zeros(1))
        errors.append(found.errors[0])
        scatters.append(found.scatter**2)
        assert found.informed[0] == 1.0
    np.testing.assert_allclose(np.mean(scatters), 1.0, atol=0.05)
    np.testing.assert_allclose(np.mean(errors), np.sqrt(np.sum(w**2)) / np.sum(w), rtol=0.05)
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.1)


def test_combinations_are_named_where_numbers_have_no_bounds():
    """A number that a bound has let move 400 times its scale is not named for that."""
    turn = np.array([[np.cos(0.02), -np.sin(0.02)], [np.sin(0.02), np.cos(0.02)]])
    jacobian = np.vstack([np.diag([10.0, 1.0]) @ turn, np.zeros((8, 2))])
    found = known(normal_of(np.ones(10), jacobian), np.diag([400.0, 1.0]), np.zeros(2), np.zeros(2))
    assert [one.words for one in (*found.sloppy(["a", "b"]), *found.stiff(["a", "b"]))] == ["b", "a"]


def test_without_any_information_nothing_is_determined_best():
    """As of the relative energy of one frame."""
    found = known(normal_of(np.zeros(1), np.zeros((1, 3))), np.eye(3), np.zeros(3), np.zeros(3))
    assert found.stiff(["a", "b", "c"]) == []
    assert {one.words for one in found.sloppy(["a", "b", "c"])} == {"a", "b", "c"}
    assert found.standing == ("not determined",) * 3


@pytest.mark.parametrize("bounds", [[0.0, None], [None, 0.0], [0.0, 3.0]])
def test_numbers_at_their_bounds_and_in_ties_are_told(bounds):
    """The data want the first beyond its bound; the second is fixed by the ties, the third and fourth are free."""
    sign = -1.0 if bounds[0] is None else 1.0
    start = {"M": {"k": sign * jnp.array([1.0]), "q": jnp.array([0.5, 0.2, 0.3])}}
    rules = [{"select": "M/k", "treatment": {"bounds": bounds}}, {"select": "M/q"}]
    found = moving(start, {}, [validate(Rule, rule) for rule in rules])
    q = [Numbers("M/q", np.array(one), Treatment(), None, (3,)) for one in ([0], [1, 2])]
    free = free_of(start, [found[0], *q], [FixedSum(select="M/q")])
    ties = np.asarray(free.ties).copy()
    ties[1] = 0.0
    free = replace(free, ties=jnp.asarray(ties))
    noise = np.random.default_rng(12).normal(size=(40, 4))

    def residuals(params):
        x = jnp.concatenate([params["M"]["k"] + 2.0 * sign, params["M"]["q"]])
        return jnp.ravel(x - 0.1 * noise)

    fit = solve(residuals, free, [found[0], *q])
    assert fit.known.standing == ("at its bound", "held by a tie", "", "")
    table = fit.table().splitlines()
    assert re.search(r"M/k\[0\] .* at its bound$", table[1]) and re.search(r"held by a tie$", table[2])
    notes = [one["standing"] for one in entries(fit.known, [found[0], *q], free, {})]
    assert notes == ["at its bound", "held by a tie", None, None]


def straight(rng, scatter, n_draws, sigma=3.0):
    """Fits of a line and a third number, all with priors of the sigma 1, to data of which the sigmas are not right.

    Yields the deviations of each fit from the truth, and what it says of itself.
    """
    x = np.linspace(0.0, 1.0, 60)
    design = np.stack([np.ones_like(x), x - 0.5, 0.2 * (x - 0.5) ** 2], axis=1) / sigma
    slopes = np.linalg.solve(design.T @ design + np.eye(3), design.T)
    for _ in range(n_draws):
        truth = rng.normal(size=3)  # the priors, of the mean 0, are right
        y = design @ truth + scatter * rng.normal(size=60)
        found = slopes @ y
        yield found - truth, known(normal_of(design @ found - y, design), np.eye(3), np.ones(3), found)


@pytest.mark.parametrize("scatter", [0.1, 1.0, 5.0])
def test_error_bars_beside_priors_hold_whatever_the_sigmas_were_guessed(scatter):
    """Over many draws of truth and noise the root mean squares of deviations are those that are told."""
    off, told = zip(*straight(np.random.default_rng(10), scatter, 1000), strict=True)
    rms = np.sqrt(np.mean(np.square(off), axis=0))
    errors = np.sqrt(np.mean([one.errors**2 for one in told], axis=0))
    np.testing.assert_allclose(errors, rms, rtol=0.1)
    np.testing.assert_allclose(np.mean([one.scatter for one in told]), scatter, atol=0.03, rtol=0.03)
    assert 0.9 > told[0].informed[0] > told[0].informed[1] > told[0].informed[2] and told[0].informed[2] < 0.01


def test_error_bars_with_weights_and_priors_are_those_of_noise():
    """Of a mean with the weights w and a prior of sigma 1: ``(s^2 sum w^2 + 1) / (sum w + 1)^2``."""
    rng, off, errors = np.random.default_rng(11), [], []
    w = np.exp(-rng.exponential(2.0, size=40))
    w *= 0.2 / w.mean()
    for _ in range(1000):
        y = (truth := rng.normal()) + 2.0 * rng.normal(size=40)
        mean = w @ y / (w.sum() + 1.0)
        normal = normal_of(np.sqrt(w) * (mean - y), np.sqrt(w)[:, None], w)
        off.append(mean - truth)
        errors.append(known(normal, np.eye(1), np.ones(1), np.array([mean])).errors[0])
    expected = np.sqrt(4.0 * np.sum(w**2) + 1.0) / (w.sum() + 1.0)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors))), expected, rtol=0.03)
    np.testing.assert_allclose(np.std(off), expected, rtol=0.1)


@pytest.mark.parametrize(
    ("scatter", "told"),
    [(5.1, "5.1 times the sigmas .* priors count 26 times less"), (0.2, "priors count 25 times more")],
)
def test_priors_beside_sigmas_that_are_not_right_are_told(scatter, told):
    found = known(Normal(np.eye(1), np.eye(1), 99.0 * scatter**2, 100.0), np.eye(1), np.zeros(1), np.zeros(1))
    assert re.search(told, found.unbalanced(np.array([0.0, 3.0])) or "")
    assert found.unbalanced(np.zeros(1)) is None
    assert found._replace(scatter=1.9).unbalanced(np.array([3.0])) is None
