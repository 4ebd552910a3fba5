"""Free variables: bounds hold whatever the optimiser does, ties hold exactly, derivatives are those of differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffff import tree
from diffff.errors import InputError
from diffff.fit.free import free_of
from diffff.fit.rules import Rule, moving
from diffff.fit.ties import Equal, FixedSum
from diffff.spec import validate

PARAMS = {
    "A": {"q": jnp.array([0.5, -0.8, 0.4, 0.4]), "k": jnp.array([[1.0, 2.0], [3.0, 4.0]])},
    "B": {"x": jnp.array(7.0)},
}
KEEP = {"select": "*", "treatment": {"train": False}}
RNG = np.random.default_rng(1)


def free(*rules, ties=()):
    found = moving(PARAMS, {}, [validate(Rule, rule) for rule in (*rules, KEEP)])
    return free_of(PARAMS, found, ties)


def test_zeros_are_the_start():
    given = free({"select": "*/q"}, {"select": "A/k", "treatment": {"bounds": [0.5, 5]}})
    assert given.n_free == 8
    new = given.params(jnp.zeros(8))
    for path, leaf in tree.flatten(PARAMS).items():
        np.testing.assert_allclose(tree.flatten(new)[path], leaf, rtol=1e-15)


@pytest.mark.parametrize("bounds", [[0.5, 5.0], [0.5, None], [None, 5.0]])
def test_bounds_hold_and_the_slope_at_the_start_is_the_scale(bounds):
    given = free({"select": "A/k", "treatment": {"bounds": bounds, "scale": 0.3}})
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    for size in (1.0, 30.0):
        k = given.params(jnp.asarray(size * RNG.normal(size=4)))["A"]["k"]
        assert np.all((k >= low) & (k <= high))
    slopes = jax.jacobian(given.numbers)(jnp.zeros(4))
    np.testing.assert_allclose(slopes, 0.3 * np.eye(4), atol=1e-14)
    check_grads(given.numbers, (jnp.asarray(RNG.normal(size=4)),), order=2, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


def test_equal_numbers_stay_equal_and_sums_stay():
    ties = [Equal(select="A/k"), FixedSum(select="A/q")]
    given = free({"select": "A/*"}, ties=ties)
    assert given.n_free == 1 + 3
    new = given.params(jnp.asarray(RNG.normal(size=4)))["A"]
    np.testing.assert_allclose(new["k"], new["k"][0, 0], rtol=1e-14)
    np.testing.assert_allclose(given.params(jnp.zeros(4))["A"]["k"], 2.5)  # they start at their mean
    np.testing.assert_allclose(new["q"].sum(), PARAMS["A"]["q"].sum(), rtol=1e-13)
    assert np.abs(new["q"] - PARAMS["A"]["q"]).min() > 1e-4


def test_priors_pull_towards_the_start_or_a_mean():
    rules = (
        {"select": "A/q", "treatment": {"prior": {"sigma": 0.1}}},
        {"select": "A/k", "treatment": {"prior": {"sigma": 2.0, "mean": 1.0}}},
    )
    pull = free(*rules).prior_residuals(jnp.zeros(8))
    np.testing.assert_allclose(pull, [0.0, 0.5, 1.0, 1.5, 0.0, 0.0, 0.0, 0.0], atol=1e-15)  # k comes before q


def test_equal_numbers_have_equal_bounds():
    rules = ({"select": "A/q"}, {"select": "A/k", "treatment": {"bounds": [0, None]}})
    with pytest.raises(InputError, match="keeps numbers equal that have different bounds"):
        free(*rules, ties=[Equal(select="A/*")])


@pytest.mark.parametrize(
    ("rule", "ties", "message"),
    [
        ({"select": "A/k", "treatment": {"bounds": [1.0, 5.0]}}, (), r"A/k\[0, 0\] is 1, not within its bounds"),
        ({"select": "A/q"}, [Equal(select="A/k")], r'ties\[0\]: "A/k" holds 0 numbers that move'),
        ({"select": "A/q", "treatment": {"bounds": [-1, 1]}}, [FixedSum(select="A/q")], "part of a fixed sum"),
        ({"select": "A/q"}, [Equal(select="A/q"), Equal(select="A/*")], r"ties\[1\].*A/q\[0\], which an earlier tie"),
        ({"select": "B/x"}, [FixedSum(select="B/x")], "holds 1 numbers"),
    ],
)
def test_what_makes_no_sense(rule, ties, message):
    with pytest.raises(InputError, match=message):
        free(rule, ties=ties)


def test_variables_of_numbers():
    """The inverse of the map, with all kinds of bounds, and with ties as far as they allow."""
    rules = (
        {"select": "A/q"},
        {"select": "A/k", "treatment": {"bounds": [0.5, 5.0]}},
        {"select": "B/x", "treatment": {"bounds": [None, 9.0], "scale": 2.0}},
    )
    for ties in ((), [FixedSum(select="A/q"), Equal(select="A/k")]):
        given = free(*rules, ties=ties)
        v = RNG.normal(size=given.n_free)
        np.testing.assert_allclose(given.variables(np.asarray(given.numbers(v))), v, rtol=1e-9, atol=1e-12)
    off = np.asarray(given.numbers(v)) + np.array([0, 0, 0, 0, 0.1, 0, 0, 0, 0])
    assert abs(float(jnp.sum(given.numbers(given.variables(off))[4:8]) - 0.5)) < 1e-12
