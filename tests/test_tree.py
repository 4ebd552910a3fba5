"""Names of parameters: what goes flat comes back, and rules find what they name."""

import jax
import jax.numpy as jnp
import pytest

from diffff.errors import InputError
from diffff.tree import flatten, paths, select, unflatten, unused

PARAMS = {
    "DeepPot": {
        "bias": jnp.zeros(2),
        "fitting": {"nets": {"O": [{"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}, {"w": jnp.ones((2, 1))}]}},
        "descriptor": {"davg": jnp.zeros((2, 4))},
    },
    "HarmonicBondForce": {"k": jnp.ones(5)},
}


def test_the_name_is_the_key_path():
    assert paths(PARAMS) == [
        "DeepPot/bias",
        "DeepPot/descriptor/davg",
        "DeepPot/fitting/nets/O/0/b",
        "DeepPot/fitting/nets/O/0/w",
        "DeepPot/fitting/nets/O/1/w",
        "HarmonicBondForce/k",
    ]


def test_leaves_are_in_the_order_of_jax():
    assert all(a is b for a, b in zip(flatten(PARAMS).values(), jax.tree.leaves(PARAMS), strict=True))


def test_round_trip_keeps_structure_and_leaves():
    again = unflatten(flatten(PARAMS))
    assert jax.tree.structure(again) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(PARAMS), strict=True))


def test_round_trip_of_a_list_longer_than_ten_and_of_a_bare_leaf_list():
    tree = {"nets": [{"w": float(i)} for i in range(12)]}
    assert unflatten(flatten(tree)) == tree
    assert unflatten(flatten([1.0, [2.0]])) == [1.0, [2.0]]
    assert flatten({}) == {}
    assert unflatten({}) == {}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": {}}, "a: an empty dict"),
        ({"a": [1.0, []]}, "a/1: an empty list"),
        ({"a": {"b/c": 1.0}}, "'b/c' cannot be a key"),
        ({"a": {"0": 1.0}}, "'0' cannot be a key"),
        ({"a": {1: 1.0}}, "1 cannot be a key"),
        ({"a": {"b": None}}, "a/b: None"),
    ],
)
def test_trees_without_a_unique_flat_form_are_refused(tree, words):
    with pytest.raises(ValueError, match=words):
        flatten(tree)


def test_unflatten_refuses_gaps_and_leaves_above_leaves():
    with pytest.raises(ValueError, match="a: list item '1' is missing"):
        unflatten({"a/0": 1.0, "a/2": 2.0})
    with pytest.raises(ValueError, match="a is a leaf, yet a/b lies below it"):
        unflatten({"a": 1.0, "a/b": 2.0})
    with pytest.raises(ValueError, match="a is a leaf, yet a/b lies below it"):
        unflatten({"a/b": 2.0, "a": 1.0})


def test_the_first_rule_that_matches_wins():
    rules = [("DeepPot/fitting/*/b", "frozen"), ("DeepPot/fitting/*", "fitting"), ("*", "rest")]
    chosen = select(rules, PARAMS)
    assert jax.tree.structure(chosen) == jax.tree.structure(PARAMS)
    assert flatten(chosen) == {
        "DeepPot/bias": "rest",
        "DeepPot/descriptor/davg": "rest",
        "DeepPot/fitting/nets/O/0/b": "frozen",
        "DeepPot/fitting/nets/O/0/w": "fitting",
        "DeepPot/fitting/nets/O/1/w": "fitting",
        "HarmonicBondForce/k": "rest",
    }


def test_a_treatment_may_be_any_value():
    assert select([("*", {"lr": 1e-3})], {"a": 1.0}) == {"a": {"lr": 1e-3}}


def test_uncovered_leaves_are_listed():
    with pytest.raises(InputError, match=r"DeepPot/bias, HarmonicBondForce/k \(rules: 'DeepPot/\*/\*'\)"):
        select([("DeepPot/*/*", "adam")], PARAMS)
    with pytest.raises(InputError, match="none given"):
        select([], PARAMS)


def test_names_are_told_apart_by_case():
    assert unused([("deeppot/*", 1), ("HarmonicBondForce/?", 2)], PARAMS) == ["deeppot/*"]
