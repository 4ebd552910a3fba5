"""Charges of residues: they sum up to integers at the start and ever after, by the smallest change, or are refused."""

import jax.numpy as jnp
import numpy as np
import openmm.app as app
import pytest

from diffff import ForceField
from diffff.errors import InputError
from diffff.fit.free import free_of
from diffff.fit.rules import Numbers, Rule, Treatment, moving
from diffff.fit.ties import Equal, FixedSum, Residue, ResidueCharge, residues_of
from diffff.spec import validate

PATH = "NonbondedForce/charge"
KEEP = {"select": "*", "treatment": {"train": False}}
WATER, ION, OTHER = Residue("HOH", PATH, (0, 1, 1)), Residue("NA", PATH, (2,)), Residue("XYZ", PATH, (0, 1, 1, 3, 4))
RNG = np.random.default_rng(1)


def params_of(*charges):
    return {"NonbondedForce": {"charge": jnp.array(charges), "epsilon": jnp.ones(5)}}


def free(params, *rules, ties, residues=(WATER, ION, OTHER)):
    found = moving(params, {}, [validate(Rule, rule) for rule in (*rules, KEEP)])
    return free_of(params, found, ties, residues)


def charges_in(given, v):
    return np.asarray(given.params(v)["NonbondedForce"]["charge"])


def test_sums_are_integers_whatever_the_optimiser_does():
    given = free(params_of(-0.81, 0.4, 1.0, 0.3, -0.302), {"select": PATH}, ties=[ResidueCharge()])
    assert given.n_free == 2  # of five: O and H of water, the ion, and two that cancel each other in XYZ
    for size in (0.0, 1.0, 30.0):
        q = charges_in(given, jnp.asarray(size * RNG.normal(size=2)))
        np.testing.assert_allclose([q[0] + 2 * q[1], q[2], q[3] + q[4]], [0.0, 1.0, 0.0], rtol=0, atol=1e-12)


def test_the_start_moves_by_the_smallest_change_in_units_of_the_scales():
    """Least ``(d0/s0)^2 + (d1/s1)^2`` with ``d0 + 2 d1 = 0.012``: ``d = 0.012 (s0^2, 2 s1^2) / (s0^2 + 4 s1^2)``."""
    rules = (
        {"select": PATH, "treatment": {"scale": 0.05}},
        {"select": "*/epsilon", "treatment": {"bounds": [0, None]}},
    )
    given = free(params_of(-0.812, 0.4, 0.0, 0.0, 0.0), *rules, ties=[ResidueCharge(residue="HOH")])
    q = charges_in(given, jnp.zeros(given.n_free))
    np.testing.assert_allclose(q, [-0.812 + 0.012 / 5, 0.4 + 0.012 * 2 / 5, 0, 0, 0], rtol=0, atol=1e-14)
    assert given.n_free == 9
    np.testing.assert_array_equal(given.scales[:5], 0.05)


def test_rows_that_stay_are_constants():
    params, rest = params_of(-0.81, 0.4, 1.0, 0.305, -0.3), (PATH, Treatment(), None, (5,))
    some = [Numbers(rest[0], np.array([0, 1]), *rest[1:])]
    given = free_of(params, some, [ResidueCharge(residue="XYZ")], [OTHER])
    assert given.n_free == 1
    q = charges_in(given, jnp.array([0.7]))
    np.testing.assert_allclose(q[0] + 2 * q[1] + 0.005, 0.0, atol=1e-14)
    np.testing.assert_array_equal(q[2:], [1.0, 0.305, -0.3])
    others = [Numbers(rest[0], np.array([2]), *rest[1:])]
    with pytest.raises(InputError, match=r"residue XYZ has charges .* their sum is -0.005 e, no integer, and none of"):
        free_of(params, others, [ResidueCharge(residue="XYZ")], [OTHER])
    with pytest.raises(InputError, match="holds 0 numbers that move"):
        free_of(params_of(-0.8, 0.4, 1.0, 0.3, -0.3), others, [ResidueCharge(residue="XYZ")], [OTHER])


def test_ties_work_together_and_may_say_the_same_twice():
    ties = [FixedSum(select=PATH), Equal(select="*/epsilon"), ResidueCharge(), ResidueCharge(residue="X*")]
    given = free(params_of(-0.8, 0.4, 1.0, 0.3, -0.3), {"select": "*"}, ties=ties)
    assert given.n_free == 1 + 1  # one epsilon, and the two charges beside water: the sums leave O and H where they are
    new = given.params(jnp.asarray(RNG.normal(size=2)))["NonbondedForce"]
    q = np.asarray(new["charge"])
    np.testing.assert_allclose([q[0], q[1], q.sum()], [-0.8, 0.4, 0.6], atol=1e-12)
    np.testing.assert_allclose(new["epsilon"], new["epsilon"][0])


@pytest.mark.parametrize(
    ("charges", "rule", "ties", "message"),
    [
        ((-0.8, 0.47, 1, 0, 0), {}, [ResidueCharge()], r'"\*charge": residue HOH has charges that cannot sum up to an '
         "integer: their sum is 0.14 e, further than 0.02 e"),
        ((-0.8, 0.4, 1, 0, 0), {}, [ResidueCharge(residue="ALA")], 'no residue is "ALA"; the topologies have HOH, NA'),
        ((-0.8, 0.4, 1, 0, 0), {}, [ResidueCharge(select="GBSA*/charge")], "selects no charges; those of the residues"),
        ((-0.8, 0.4, 1, 0, 0), {"bounds": [-2, 2]}, [ResidueCharge()], r"HOH: NonbondedForce/charge\[0\] has bounds"),
    ],
)  # fmt: skip
def test_what_cannot_be(charges, rule, ties, message):
    with pytest.raises(InputError, match=message):
        free(params_of(*charges), {"select": PATH, "treatment": rule}, ties=ties)


def test_directions_are_of_numbers_that_ties_connect():
    """Those of the charges leave the epsilons alone, and others are each a number."""
    ties = [ResidueCharge(residue="HOH"), FixedSum(select="*/epsilon")]
    given = free(params_of(-0.8, 0.4, 1.0, 0.3, -0.3), {"select": "*"}, ties=ties)
    moved = np.abs(np.asarray(given.ties)) > 1e-12
    assert moved.shape == (10, 1 + 3 + 4)
    assert not np.any(moved[:5].any(axis=0) & moved[5:].any(axis=0))
    np.testing.assert_array_equal(moved[2:5].sum(axis=1), 1)
    np.testing.assert_allclose(given.ties.T @ given.ties, np.eye(8), atol=1e-14)


def test_ties_that_contradict_each_other():
    ties, whole = [FixedSum(select=PATH), ResidueCharge()], Residue("ALL", PATH, (0, 1, 2, 3, 4))
    with pytest.raises(InputError, match=r"residue ALL has charges .* the other ties keep them 0.005 e from it"):
        free(params_of(-0.8, 0.4, 0.4, 0.305, -0.3), {"select": PATH}, ties=ties, residues=[whole])


def test_a_tie_of_residues_needs_residues_and_no_rows():
    with pytest.raises(InputError, match="ties charges, but the potential has none"):
        free(params_of(-0.8, 0.4, 1, 0, 0), {"select": PATH}, ties=[ResidueCharge()], residues=())
    with pytest.raises(InputError, match='is about whole residues: "where"'):
        validate(ResidueCharge, {"type": "residue_charge", "where": {"type": "O"}})


def test_residues_know_the_rows_of_their_charges():
    topology = app.Topology()
    chain = topology.addChain()
    for name in ("HOH", "NA", "HOH"):
        residue = topology.addResidue(name, chain)
        atoms = ("O", "H1", "H2") if name == "HOH" else ("Na",)
        first, *others = [
            topology.addAtom(a.upper(), app.Element.getBySymbol(a[0] if a[0] in "OH" else a), residue) for a in atoms
        ]
        for other in others:
            topology.addBond(first, other)
    field = ForceField("amber14/tip3p.xml")
    found = residues_of(field.create_potential(topology), topology)
    assert [(one.name, one.charge_path) for one in found] == [("HOH", PATH), ("NA", PATH)]
    charges = np.asarray(field.params()["NonbondedForce"]["charge"])
    np.testing.assert_allclose(sorted(charges[list(found[0].rows)]), [-0.834, 0.417, 0.417])
    np.testing.assert_allclose(charges[list(found[1].rows)], [1.0])
