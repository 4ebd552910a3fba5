"""Total charges in fits: dipoles need them fixed, other fits say where they have gone."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffff import ForceField
from diffff.errors import InputError
from diffff.fit.free import free_of
from diffff.fit.neutrality import changed_charges, require_fixed_charges
from diffff.fit.problem import FitSystem
from diffff.fit.rules import Rule, moving
from diffff.fit.ties import FixedSum, ResidueCharge, residues_of
from diffff.spec import validate
from tests.fit.waters import frames_of, waters

KEEP = {"select": "*", "treatment": {"train": False}}


@pytest.fixture(scope="module")
def field():
    return ForceField("tip4pew.xml")


@pytest.fixture(scope="module")
def system(field):
    x = jnp.asarray(frames_of(2))
    potential = field.create_potential(waters())
    return FitSystem(potential=potential, positions=x, dipole=jnp.zeros((2, 3)), name="dimer")


def made(field, system, rule, ties=()):
    found = moving(field.params(), field.rows, [validate(Rule, one) for one in (rule, KEEP)])
    return found, free_of(field.params(), found, ties, residues_of(system.potential, waters()))


@pytest.mark.parametrize(
    ("rule", "ties", "told"),
    [
        ({"select": "NonbondedForce/charge"}, (), r"charge\(tip4pew-\w+\)"),
        ({"select": "NonbondedForce/charge"}, (FixedSum(select="*/charge"),), r"charge\(tip4pew-\w+\)"),  # one O, two H
        ({"select": "NonbondedForce/charge"}, (ResidueCharge(),), None),
        ({"select": "NonbondedForce/sigma"}, (), None),
    ],
)
def test_dipoles_need_total_charges_that_stay(field, system, rule, ties, told):
    found, free = made(field, system, rule, ties)
    if told is None:
        require_fixed_charges([system], free, found)
        return
    with pytest.raises(InputError, match=rf"dimer: dipole: .* as {told} does, .*residue_charge"):
        require_fixed_charges([system], free, found)


def test_total_charges_that_have_changed_are_told(field, system):
    found, free = made(field, system, {"select": "NonbondedForce/charge"})
    before = field.params()
    charge = before["NonbondedForce"]["charge"]
    after = {**before, "NonbondedForce": {**before["NonbondedForce"], "charge": charge * 0.5 + 0.01}}
    potentials = {"dimer": system.potential}
    assert changed_charges(potentials, before, before) == []
    (told,) = changed_charges(potentials, before, after)
    n_charged = 2 * 4  # sites and atoms
    assert told.startswith(f"dimer: the charges sum up to {0.01 * n_charged:.4g} e now, and to 0 e at the start.")
    np.testing.assert_allclose(free.params(jnp.zeros(free.n_free))["NonbondedForce"]["charge"], charge)
    assert len(found) == 1
