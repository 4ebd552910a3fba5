"""Residuals of a fit: their derivatives, and the force field that made the data comes back with its error bars."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff import ForceField
from diffff.errors import InputError
from diffff.fit.free import free_of
from diffff.fit.problem import Boltzmann, FitSystem, Sigmas, all_residuals, predictions, residuals
from diffff.fit.rules import Rule, moving
from diffff.fit.solve import solve
from diffff.fit.ties import Equal, ResidueCharge, residues_of
from diffff.spec import validate
from tests.fit.waters import fragments_of, waters
from tests.md.systems import SPRING

FORCES = """<HarmonicAngleForce><Angle class1="H" class2="O" class3="H" angle="1.82" k="620"/></HarmonicAngleForce>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">
  <Atom type="o" charge="-0.8" sigma="0.3" epsilon="0.6"/> <Atom type="h" charge="0.4" sigma="0.1" epsilon="0"/>
 </NonbondedForce>
</ForceField>"""
XML = SPRING.replace('length="0.097" k="5000"', 'length="0.0957" k="4600"').replace("</ForceField>", FORCES)
SIGMAS = Sigmas(energy=0.5, force=20.0, virial=5.0)
SPREADS = {"dipole": 0.005, "esp": 3.0, "interaction": 0.7}
X = np.array([[0.0, 0, 0], [0.0957, 0, 0], [-0.024, 0.0927, 0]])
predicted, left = jax.jit(predictions), jax.jit(residuals)
BONDED = ("HarmonicBondForce", "HarmonicAngleForce")


@pytest.fixture
def field(tmp_path) -> ForceField:
    (tmp_path / "water.xml").write_text(XML)
    return ForceField(tmp_path / "water.xml")


def system_of(field: ForceField, noise=0.0, seed=1, n_frames=60) -> FitSystem:
    """Two molecules of water around 0.35 nm apart, with labels of the field and noise in units of the sigmas."""
    rng = np.random.default_rng(seed)
    potential = field.create_potential(waters(("O", "H1", "H2")), rigid_water=False)
    apart = np.array([1.0, 0, 0]) * rng.uniform(0.28, 0.45, (n_frames, 1, 1))
    x = np.concatenate([np.broadcast_to(X, (n_frames, 3, 3)), X[None] + apart], axis=1)
    x = jnp.asarray(x + rng.normal(scale=0.004, size=x.shape))
    none = {"energy": jnp.zeros(n_frames), "forces": jnp.zeros_like(x), "virial": jnp.zeros((n_frames, 3, 3))}
    system = FitSystem(potential=potential, positions=x, **none)
    found = predicted(system, field.params(), SIGMAS)

    def noisy(name, sigma):
        return found[name] + noise * sigma * rng.normal(size=found[name].shape)

    labels = {"energy": noisy("energy", 0.5) + 123.0, "forces": noisy("force", 20.0), "virial": noisy("virial", 5.0)}
    return FitSystem(potential=potential, positions=x, **labels)


@pytest.mark.slow
def test_the_right_force_field_leaves_nothing_even_up_to_a_constant(field):
    system = system_of(field)
    found = left(system, field.params(), SIGMAS)
    assert {name: part.shape for name, part in found.items()} == {"energy": (60,), "force": (1080,), "virial": (540,)}
    for part in found.values():
        np.testing.assert_allclose(part, 0.0, atol=1e-8)
    absolute = left(system, field.params(), Sigmas(energy=0.5, relative=False))
    np.testing.assert_allclose(absolute["energy"], -246.0, rtol=1e-10)


def charged(field: ForceField, system: FitSystem) -> FitSystem:
    """The system with labels of all other targets, a little off."""
    n_frames, rng = len(system.positions), np.random.default_rng(5)
    topology = waters(("O", "H1", "H2"))
    parts = fragments_of(field, topology, [0, 0, 0, 1, 1, 1], range(6), rigid_water=False)
    points = rng.normal(scale=0.1, size=(n_frames, 5, 3)) + np.array([0.0, 0.4, 0.1])
    none = {"dipole": jnp.zeros((n_frames, 3)), "esp": jnp.zeros((n_frames, 5)), "interaction": jnp.zeros(n_frames)}
    some = replace(system, fragments=parts, esp_points=jnp.asarray(points), **none)
    found = predicted(some, field.params(), Sigmas(**SPREADS))
    noisy = {name: v + SPREADS[name] * rng.normal(size=v.shape) for name, v in found.items()}
    return replace(some, **noisy)


EVERYTHING = [
    {"select": "Harmonic*Force/k", "treatment": {"bounds": [0, None], "prior": {"sigma": 500.0, "mean": 3000.0}}},
    {"select": "NonbondedForce/sigma", "treatment": {"bounds": [0.05, 0.5]}},
    {"select": "NonbondedForce/charge", "treatment": {"scale": 0.05, "prior": {"sigma": 0.1}}},
    {"select": "*14scale", "treatment": {"train": False}},
    {"select": "*"},
]


@pytest.mark.slow
def test_derivatives_of_the_objective_are_differences(tmp_path):
    """That of each kind of target and of the priors, with bounds and ties; forward and backward, to 1e-6."""
    (tmp_path / "water.xml").write_text(XML.replace('epsilon="0"', 'epsilon="0.05"'))  # whose root has a slope
    field = ForceField(tmp_path / "water.xml")
    system = charged(field, system_of(field, noise=1.0, n_frames=4))
    residues = residues_of(system.potential, waters(("O", "H1", "H2")))
    found = moving(field.params(), field.rows, [validate(Rule, rule) for rule in EVERYTHING])
    free = free_of(field.params(), found, [ResidueCharge(), Equal(select="NonbondedForce/epsilon")], residues)
    assert free.n_free == 8  # of k and length of a bond, those of an angle, two charges, sigmas and epsilons
    whole = Sigmas(energy=0.5, force=20.0, virial=5.0, **SPREADS)
    weighted = Sigmas(energy=0.5, weights=Boltzmann(temperature=500.0))

    def parts(v):
        """The objective by target."""
        each = residuals(system, free.params(v), whole)
        each |= {"weighted": residuals(system, free.params(v), weighted)["energy"], "prior": free.prior_residuals(v)}
        return {name: 0.5 * jnp.sum(values**2) for name, values in each.items()}

    v, h = jnp.asarray(np.random.default_rng(7).normal(scale=0.3, size=free.n_free)), 1e-4
    around = jax.jit(jax.vmap(parts))(jnp.concatenate([v + h * jnp.eye(free.n_free), v - h * jnp.eye(free.n_free)]))
    forward, backward = jax.jit(jax.jacfwd(parts))(v), jax.jit(jax.jacrev(parts))(v)
    assert set(forward) == {"energy", "weighted", "force", "virial", "dipole", "esp", "interaction", "prior"}
    for name, values in around.items():
        differences = (values[: free.n_free] - values[free.n_free :]) / (2.0 * h)
        size = float(jnp.abs(differences).max())
        np.testing.assert_allclose(forward[name], differences, rtol=1e-6, atol=1e-9 * size, err_msg=name)
        np.testing.assert_allclose(backward[name], forward[name], rtol=1e-9, atol=1e-12 * size, err_msg=name)


def fitted(field, system, rules, seed=3):
    """The fit, from numbers that are a fifth off."""
    params, rng = field.params(), np.random.default_rng(seed)
    for group in BONDED:
        for column, values in params[group].items():
            params[group][column] = values * (1.0 + 0.2 * rng.choice([-1.0, 1.0], values.shape))
    found = moving(params, field.rows, [validate(Rule, rule) for rule in rules])
    return solve(lambda tree: all_residuals([system], tree, SIGMAS), free_of(params, found), found)


BONDS = [{"select": f"{group}/*"} for group in BONDED] + [{"select": "*", "treatment": {"train": False}}]


@pytest.mark.sampling
@pytest.mark.slow
def test_rows_come_back_within_three_of_their_error_bars(field):
    for seed in range(3):
        fit = fitted(field, system_of(field, noise=1.0, seed=seed), BONDS, seed)
        found, labels = fit.known, fit.labels
        assert fit.converged and fit.end < 0.1 * fit.start
        truth = {"angle(H–O–H)": 1.82, "k(H–O–H)": 620.0, "k(O–H)": 4600.0, "length(O–H)": 0.0957}
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
        solve(lambda tree: all_residuals([system_of(field)], tree, Sigmas(esp=1.0)), free_of(params, found), found)
    with pytest.raises(InputError, match="3 of 3 residuals are not finite at the start"):
        solve(lambda tree: jnp.full(3, jnp.nan), free_of(params, found), found)
