"""Residuals of a fit: their derivatives, and the force field that made the data comes back with its error bars."""

import re

import jax.numpy as jnp
import numpy as np
import openmm.app as app
import pytest
from jax.test_util import check_grads

from diffff import ForceField
from diffff.errors import InputError
from diffff.fit.free import free_of
from diffff.fit.problem import FitSystem, Sigmas, all_residuals, predictions, residuals
from diffff.fit.rules import Rule, moving
from diffff.fit.solve import solve
from diffff.spec import validate
from tests.md.systems import SPRING

FORCES = """<HarmonicAngleForce><Angle class1="H" class2="O" class3="H" angle="1.82" k="620"/></HarmonicAngleForce>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">
  <Atom type="o" charge="-0.8" sigma="0.3" epsilon="0.6"/> <Atom type="h" charge="0.4" sigma="0.1" epsilon="0"/>
 </NonbondedForce>
</ForceField>"""
XML = SPRING.replace('length="0.097" k="5000"', 'length="0.0957" k="4600"').replace("</ForceField>", FORCES)
SIGMAS = Sigmas(energy=0.5, force=20.0, virial=5.0)
X = np.array([[0.0, 0, 0], [0.0957, 0, 0], [-0.024, 0.0927, 0]])
BONDED = ("HarmonicBondForce", "HarmonicAngleForce")


@pytest.fixture
def field(tmp_path) -> ForceField:
    (tmp_path / "water.xml").write_text(XML)
    return ForceField(tmp_path / "water.xml")


def system_of(field: ForceField, noise=0.0, seed=1, n_frames=60) -> FitSystem:
    """Two molecules of water around 0.35 nm apart, with labels of the field and noise in units of the sigmas."""
    topology, rng = app.Topology(), np.random.default_rng(seed)
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("HOH", chain)
        o, *others = (topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in ("O", "H1", "H2"))
        for h in others:
            topology.addBond(o, h)
    potential = field.create_potential(topology, rigid_water=False)
    apart = np.array([1.0, 0, 0]) * rng.uniform(0.28, 0.45, (n_frames, 1, 1))
    x = np.concatenate([np.broadcast_to(X, (n_frames, 3, 3)), X[None] + apart], axis=1)
    x = jnp.asarray(x + rng.normal(scale=0.004, size=x.shape))
    none = {"energy": jnp.zeros(n_frames), "forces": jnp.zeros_like(x), "virial": jnp.zeros((n_frames, 3, 3))}
    system = FitSystem(potential=potential, positions=x, **none)
    found = predictions(system, field.params(), SIGMAS)

    def noisy(name, sigma):
        return found[name] + noise * sigma * rng.normal(size=found[name].shape)

    labels = {"energy": noisy("energy", 0.5) + 123.0, "forces": noisy("force", 20.0), "virial": noisy("virial", 5.0)}
    return FitSystem(potential=potential, positions=x, **labels)


def test_the_right_force_field_leaves_nothing_even_up_to_a_constant(field):
    found = residuals(system_of(field), field.params(), SIGMAS)
    assert {name: part.shape for name, part in found.items()} == {"energy": (60,), "force": (1080,), "virial": (540,)}
    for part in found.values():
        np.testing.assert_allclose(part, 0.0, atol=1e-8)
    absolute = residuals(system_of(field), field.params(), Sigmas(energy=0.5, relative=False))
    np.testing.assert_allclose(absolute["energy"], -246.0, rtol=1e-10)


@pytest.mark.parametrize("target", ["force", *(pytest.param(t, marks=pytest.mark.slow) for t in ("energy", "virial"))])
def test_derivatives_of_the_objective_are_differences(tmp_path, target):
    (tmp_path / "water.xml").write_text(XML.replace('epsilon="0"', 'epsilon="0.05"'))  # whose root has a slope
    field = ForceField(tmp_path / "water.xml")
    system = system_of(field, noise=1.0, n_frames=6)
    sigmas = Sigmas(**{target: getattr(SIGMAS, target)})

    def objective(params):
        return 0.5 * jnp.sum(all_residuals([system], params, sigmas) ** 2) / 1e3

    check_grads(objective, (field.params(),), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6, eps=1e-6)


def fitted(field, system, rules, seed=3):
    """The fit, from numbers that are a fifth off."""
    params, rng = field.params(), np.random.default_rng(seed)
    for group in BONDED:
        for column, values in params[group].items():
            params[group][column] = values * (1.0 + 0.2 * rng.choice([-1.0, 1.0], values.shape))
    found = moving(params, field.rows, [validate(Rule, rule) for rule in rules])
    return solve(lambda tree: all_residuals([system], tree, SIGMAS), free_of(params, found), found)


BONDS = [{"select": f"{group}/*"} for group in BONDED] + [{"select": "*", "treatment": {"train": False}}]


@pytest.mark.slow
def test_rows_come_back_within_three_of_their_error_bars(field):
    for seed in range(3):
        fit = fitted(field, system_of(field, noise=1.0, seed=seed), BONDS, seed)
        found, labels = fit.known, fit.labels
        assert fit.converged and fit.end < 0.1 * fit.start
        truth = {"angle(H-O-H)": 1.82, "k(H-O-H)": 620.0, "k(O-H)": 4600.0, "length(O-H)": 0.0957}
        for label, value, error in zip(labels, found.values, found.errors, strict=True):
            assert abs(value - truth[label]) < 3.0 * error < 0.2 * truth[label]
        np.testing.assert_allclose(found.scatter, 1.0, atol=0.1)


def test_what_the_data_do_not_determine_is_named(field):
    """Neither epsilon of H, which is zero in the geometric mean, nor the sigma beside it has any effect."""
    rules = [{"select": "NonbondedForce/sigma", "where": {"type": "h"}}, *BONDS]
    fit = fitted(field, system_of(field, noise=1.0), rules)
    found, k = fit.known, fit.labels.index("sigma(h)")
    assert np.isinf(found.errors[k])
    assert np.isfinite(np.delete(found.errors, k)).all()
    assert fit.sloppy()[0] == "sigma(h)"
    assert re.search(r"(?m)^sigma\(h\) +0\.1 +0\.1 +not determined$", fit.table())


def test_a_fit_without_data_is_refused(field):
    params = field.params()
    found = moving(params, field.rows, [validate(Rule, rule) for rule in BONDS])
    with pytest.raises(InputError, match="the fit has no data"):
        solve(lambda tree: all_residuals([system_of(field)], tree, Sigmas()), free_of(params, found), found)
    with pytest.raises(InputError, match="3 of 3 residuals are not finite at the start"):
        solve(lambda tree: jnp.full(3, jnp.nan), free_of(params, found), found)
