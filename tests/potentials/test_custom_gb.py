"""CustomGBForce against OpenMM's Reference platform, the contract of terms, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest

from diffff.errors import InputError
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential
from diffff.potentials.custom_gb import CustomGB, Formula, GBLaw, custom_gb
from diffff.potentials.tabulated import Continuous1D
from tests.check_term import check_term
from tests.potentials.solvent_systems import BOX, CUTOFF, METHODS, apart, compare, derivatives

N_ATOMS = 13
EXCLUDED = np.array([[1, 0], [2, 5], [0, 12], [3, 4]])
VALUES = (
    ("n", Formula("width*a2*exp(-r/b1)", "ParticlePair")),
    ("u", Formula("a+f(0.5+0.4*tanh(n))", "SingleParticle")),
    ("v", Formula("u*n+1", "SingleParticle")),
)
ENERGIES = (
    Formula("a*u^2-v", "SingleParticle"),
    Formula("width*u1*u2*exp(-s^2/(0.1+b1*b2)); s=r", "ParticlePair"),
    Formula("(n1+n2)/(r+0.1)", "ParticlePairNoExclusions"),
)
LAW = GBLaw(
    values=VALUES,
    energies=ENERGIES,
    parameters=("a", "b"),
    global_parameters=("width",),
    functions=(("f", Continuous1D(size=6, low=0.0, high=1.0)),),
)


def setup(method: str, law: GBLaw = LAW) -> tuple[CustomGB, dict, np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 4, N_ATOMS)
    params = {"a": rng.normal(size=4), "b": rng.uniform(0.2, 0.6, 4), "width": np.array(1.3), "f": rng.normal(size=6)}
    term = custom_gb(law=law, rows=rows, excluded=EXCLUDED, method=method, cutoff=CUTOFF)
    return term, params, apart(N_ATOMS), BOX if method == "CutoffPeriodic" else None


def openmm_force(params: dict, rows: np.ndarray, method: str) -> openmm.CustomGBForce:
    force = openmm.CustomGBForce()
    names = ("SingleParticle", "ParticlePair", "ParticlePairNoExclusions")
    kinds = {name: getattr(openmm.CustomGBForce, name) for name in names}
    force.addPerParticleParameter("a")
    force.addPerParticleParameter("b")
    force.addGlobalParameter("width", float(params["width"]))
    force.addTabulatedFunction("f", openmm.Continuous1DFunction(params["f"].tolist(), 0.0, 1.0))
    for name, (text, kind) in VALUES:
        force.addComputedValue(name, text, kinds[kind])
    for text, kind in ENERGIES:
        force.addEnergyTerm(text, kinds[kind])
    for row in rows:
        force.addParticle([params["a"][row], params["b"][row]])
    for i, j in EXCLUDED.tolist():
        force.addExclusion(i, j)
    force.setNonbondedMethod(METHODS.index(method))
    force.setCutoffDistance(CUTOFF)
    return force


@jax.jit
def energy(term, params, x):
    return term.energy(params, x, None, None)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_force_of_openmm(method):
    term, params, x, box = setup(method)
    rows = np.asarray(term.rows["a"])
    compare(term, params, x, box, lambda changed: openmm_force(changed, rows, method))


def test_it_keeps_the_contract_of_terms():
    falling = GBLaw(
        values=(("n", Formula("(1-r/0.52)^3*step(0.52-r)*a1*width*b2", "ParticlePair")), *VALUES[1:]),
        energies=(ENERGIES[0], Formula("(1-r/0.52)^3*step(0.52-r)*(u1*v2+v1*u2)", "ParticlePairNoExclusions")),
        parameters=LAW.parameters,
        global_parameters=LAW.global_parameters,
        functions=LAW.functions,
    )
    term, params, x, box = setup("CutoffPeriodic", falling)
    check_term(term, jax.tree.map(jnp.asarray, params), x, box)


def test_every_parameter_may_have_rows_of_its_own():
    term, params, x, _ = setup("NoCutoff")
    rows = np.asarray(term.rows["a"])
    other = custom_gb(law=LAW, rows={"a": rows, "b": np.arange(N_ATOMS)}, excluded=EXCLUDED)
    spread = params | {"b": params["b"][rows]}
    energies = energy(other, spread, x), energy(term, params, x)
    np.testing.assert_allclose(*energies, rtol=1e-13)


def test_single_precision_stays_single():
    term, params, x, _ = setup("NoCutoff")
    single = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)
    found, forces, _ = derivatives(term, single, jnp.asarray(x, jnp.float32), None, None)
    assert found.dtype == forces.dtype == jnp.float32
    np.testing.assert_allclose(found, energy(term, params, x), rtol=1e-4)


def test_few_atoms():
    law = GBLaw(values=(("n", Formula("1/r", "ParticlePair")),), energies=(Formula("n", "SingleParticle"),))
    rows = np.zeros(2, int)
    one = custom_gb(law=GBLaw(values=law.values, energies=law.energies, parameters=("a",)), rows=rows[:1])
    assert one.energy({"a": jnp.zeros(1)}, jnp.zeros((1, 3)), None, None) == 0.0
    two = custom_gb(law=one.law, rows=rows)
    assert two.energy({"a": jnp.zeros(1)}, jnp.array([[0.0, 0, 0], [0, 0.5, 0]]), None, None) == 4.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"values": (("n", Formula("a", "SingleParticle")),)}, "first"),
        ({"values": (VALUES[0], ("u", Formula("a1", "ParticlePair")))}, "others of the kind SingleParticle"),
        ({"values": (("a", Formula("r", "ParticlePair")),)}, "'a' stands for two things"),
        ({"energies": (Formula("q", "SingleParticle"),)}, "'q' has no value here"),
        ({"energies": (Formula("u", "ParticlePair"),)}, "'u' has no value here"),
        ({"energies": (Formula("u", "Single"),)}, "of the kind 'Single'"),
    ],
)
def test_impossible_expressions(change, message):
    good = {"values": VALUES, "energies": ENERGIES, "parameters": ("a", "b"), "global_parameters": ("width",)}
    with pytest.raises(InputError, match=message):
        GBLaw(**good | {"functions": LAW.functions} | change)


def test_impossible_terms():
    rows = np.zeros(3, int)
    with pytest.raises(InputError, match="rows for"):
        custom_gb(law=LAW, rows={"a": rows})
    with pytest.raises(InputError, match="a row for each atom"):
        custom_gb(law=LAW, rows={"a": rows, "b": rows[:2]})
    with pytest.raises(InputError, match="excluded pair"):
        custom_gb(law=LAW, rows=rows, excluded=[[0, 3]])
    with pytest.raises(InputError, match="positive"):
        custom_gb(law=LAW, rows=rows, method="CutoffPeriodic")
    term, params, x, box = setup("CutoffPeriodic")
    with pytest.raises(InputError, match="no box"):
        term.energy(params, x, None, neighbor_list(x, None, CUTOFF))
    with pytest.raises(InputError, match=r"reaches 0\.2 nm"):
        Potential(terms=(term,)).energy({term.name: params}, x, box, neighbor_list(x, box, 0.2))
    with pytest.raises(InputError, match="no 'width'"):
        term.energy({"a": params["a"], "b": params["b"]}, x, box, neighbor_list(x, box, CUTOFF))
