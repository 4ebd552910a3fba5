"""Numbers on which no frame depends are left out of a fit, but for those that are tied to others."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.fit.free import free_of
from diffff.fit.rules import Rule, Treatment, moving
from diffff.fit.ties import Equal
from diffff.fit.used import without_unused
from tests.fit.small_fit import small_fit

KEEP = Rule(select="*", treatment=Treatment(train=False))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_fit(tmp_path_factory.mktemp("small"))


def left_of(small, rules, ties=()):
    params = small.field.params()
    found = moving(params, small.field.rows, [Rule.model_validate(rule) for rule in rules])
    free = free_of(params, found, ties)
    left, free, out = without_unused(found, free, small.train)
    return [some.label(k) for some in left for k in range(len(some.index))], free, out


def test_rows_that_no_topology_uses_are_left_out(small):
    labels, free, out = left_of(small, [{"select": "Harmonic*/*"}, KEEP])
    assert sorted(labels) == ["angle(H–O–H)", "k(H–O–H)", "k(O–H)", "length(O–H)"]
    assert out == {"HarmonicBondForce/length": 1, "HarmonicBondForce/k": 1}
    assert free.n_free == 4
    begun = small.field.params()["HarmonicBondForce"]
    moved = free.params(jnp.ones(4))["HarmonicBondForce"]
    assert np.array_equal(moved["k"] != begun["k"], [True, False])


def test_of_a_spring_of_no_strength_the_length_counts_if_the_strength_may_change(small):
    params = small.field.params()
    bonds = params["HarmonicBondForce"]
    slack = {**params, "HarmonicBondForce": {**bonds, "k": jnp.zeros_like(bonds["k"])}}
    for select, n in (("HarmonicBondForce/*", 2), ("HarmonicBondForce/k", 1)):
        found = moving(slack, small.field.rows, [Rule(select=select), KEEP])
        left, free, _ = without_unused(found, free_of(slack, found), small.train)
        assert sum(len(some.index) for some in left) == free.n_free == n


def test_numbers_tied_to_some_that_count_stay(small):
    tie = Equal(select="HarmonicBondForce/k")
    labels, free, out = left_of(small, [{"select": "HarmonicBondForce/*"}, KEEP], [tie])
    assert sorted(labels) == ["k(H–H)", "k(O–H)", "length(O–H)"]
    assert out == {"HarmonicBondForce/length": 1}
    assert free.n_free == 2
    k = free.params(jnp.ones(2))["HarmonicBondForce"]["k"]
    assert k[0] == k[1]


def test_numbers_that_change_nothing_at_all_are_refused(small):
    with pytest.raises(InputError, match="no frame of the data depends on any number that moves"):
        left_of(small, [{"select": "HarmonicBondForce/*", "where": {"atoms": ["H", "H"]}}, KEEP])
