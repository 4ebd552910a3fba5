"""Dipoles, potentials and interaction energies: against OpenMM and formulas of point charges; what they refuse."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import openmm.app as app
import pytest

from diffff import ForceField
from diffff.errors import InputError
from diffff.fit.fragments import fragment_atoms, sub_topology
from diffff.fit.problem import Boltzmann, FitSystem, Sigmas, check_targets, predictions, residuals
from diffff.frontend.reference import periodic_box
from diffff.potentials.base import Potential
from diffff.spec import validate
from diffff.units import COULOMB_CONSTANT, GAS_CONSTANT
from tests.fit.waters import fragments_of, frames_of, waters
from tests.md.systems import SPRING

CHARGED = Sigmas(dipole=0.01, esp=5.0, interaction=1.0)
IONS = """<ForceField>
 <AtomTypes>
  <Type name="na" class="na" element="Na" mass="22.99"/> <Type name="cl" class="cl" element="Cl" mass="35.45"/>
 </AtomTypes>
 <Residues>
  <Residue name="NA"><Atom name="NA" type="na"/></Residue> <Residue name="CL"><Atom name="CL" type="cl"/></Residue>
 </Residues>
 <NonbondedForce coulomb14scale="1" lj14scale="1">
  <Atom type="na" charge="0.8" sigma="0.2" epsilon="0"/> <Atom type="cl" charge="-0.8" sigma="0.4" epsilon="0"/>
 </NonbondedForce>
</ForceField>"""

predicted = jax.jit(predictions)


def openmm_of(system, positions) -> tuple[float, np.ndarray]:
    """Energy, kJ/mol, and positions with all sites, nm."""
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    context.computeVirtualSites()
    state = context.getState(getEnergy=True, getPositions=True)
    return state.getPotentialEnergy()._value, np.array(state.getPositions(asNumpy=True)._value)


def charges_in(system) -> np.ndarray:
    force = next(f for f in system.getForces() if isinstance(f, mm.NonbondedForce))
    return np.array([force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())])


def potential_by_probe(q: np.ndarray, x: np.ndarray, point: np.ndarray) -> float:
    """How much energy it takes to bring a unit charge there."""
    system, force = mm.System(), mm.NonbondedForce()
    for charge in (*q, 1.0):
        system.addParticle(1.0)
        force.addParticle(charge, 0.1, 0.0)
    system.addForce(force)
    where = np.vstack([x, point])
    full, _ = openmm_of(system, where)
    force.setParticleParameters(len(q), 0.0, 0.1, 0.0)
    return full - openmm_of(system, where)[0]


def test_four_site_water_has_the_dipole_potential_and_interaction_of_openmm():
    topology, field = waters(), ForceField("tip4pew.xml")
    params, real = field.params(), np.array([0, 1, 2, 4, 5, 6])
    x = frames_of(3)
    points = np.random.default_rng(1).normal(scale=0.1, size=(3, 4, 3)) + np.array([0.0, 0.5, 0.1])
    system = FitSystem(
        potential=field.create_potential(topology),
        positions=jnp.asarray(x),
        dipole=jnp.zeros((3, 3)),
        esp=jnp.zeros((3, 4)),
        esp_points=jnp.asarray(points),
        interaction=jnp.zeros(3),
        fragments=fragments_of(field, topology, [0, 0, 0, 1, 1, 1], real),
    )
    found = predicted(system, params, CHARGED)
    assert {name: values.shape for name, values in found.items()} == {
        "dipole": (3, 3), "esp": (3, 4), "interaction": (3,)
    }  # fmt: skip
    whole, one = field.create_system(topology, params), field.create_system(waters(n=1), params)
    q = charges_in(whole)
    for frame in range(3):
        energy, placed = openmm_of(whole, x[frame])
        np.testing.assert_allclose(found["dipole"][frame], q @ placed, rtol=0, atol=1e-14)
        phi = [potential_by_probe(q, placed, point) for point in points[frame]]
        np.testing.assert_allclose(found["esp"][frame], phi, rtol=1e-10)
        alone = openmm_of(one, x[frame, :4])[0] + openmm_of(one, x[frame, 4:])[0]
        np.testing.assert_allclose(found["interaction"][frame], energy - alone, rtol=1e-10)
    check_targets([system], params, CHARGED)


@pytest.fixture
def ions(tmp_path) -> tuple[ForceField, app.Topology]:
    (tmp_path / "ions.xml").write_text(IONS)
    topology = app.Topology()
    chain = topology.addChain()
    for symbol in ("Na", "Cl"):
        topology.addAtom(symbol.upper(), app.Element.getBySymbol(symbol), topology.addResidue(symbol.upper(), chain))
    return ForceField(tmp_path / "ions.xml"), topology


def pair_of(ions, **labels) -> FitSystem:
    """Charges of 0.8 e and -0.8 e at -0.15 nm and 0.15 nm, far from the origin in y."""
    field, topology = ions
    x = jnp.array([[[-0.15, 7.0, 0], [0.15, 7.0, 0]]])
    return FitSystem(potential=field.create_potential(topology), positions=x, name="pair", **labels)


def test_two_charges_are_as_coulomb_has_them(ions):
    """``mu = q d``, ``phi = K q (1/|p - x1| - 1/|p - x2|)``, ``E_int = -K q^2 / d``."""
    points = jnp.array([[[0.0, 7.5, 0.3], [0.35, 7.0, 0], [0.15, 7.4, 0.0]]])
    labels = {"dipole": jnp.zeros((1, 3)), "esp": jnp.zeros((1, 3)), "interaction": jnp.zeros(1)}
    system = pair_of(ions, esp_points=points, fragments=fragments_of(*ions, [0, 1], [0, 1]), **labels)
    found = predicted(system, ions[0].params(), CHARGED)
    np.testing.assert_allclose(found["dipole"], [[-0.8 * 0.3, 0.0, 0.0]], atol=1e-15)
    phi = 0.8 * COULOMB_CONSTANT * np.array([0.0, 1 / 0.5 - 1 / 0.2, 1 / 0.5 - 1 / 0.4])
    np.testing.assert_allclose(found["esp"][0], phi, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(found["interaction"], -COULOMB_CONSTANT * 0.64 / 0.3, rtol=1e-12)


def test_the_dipole_of_what_is_almost_neutral_does_not_jump_with_the_origin(ions):
    params = ions[0].params()
    params["NonbondedForce"]["charge"] = jnp.array([0.81, -0.8])
    system = pair_of(ions, dipole=jnp.zeros((1, 3)))
    moved = replace(system, positions=system.positions + 5.0)
    first, second = (predicted(one, params, Sigmas(dipole=1.0))["dipole"] for one in (system, moved))
    np.testing.assert_allclose(first, second, atol=1e-14)


def test_energies_of_low_states_count_by_boltzmann():
    energy = jnp.array([0.0, GAS_CONSTANT * 300.0, 2.0 * GAS_CONSTANT * 300.0])
    still = FitSystem(potential=Potential(terms=()), positions=jnp.zeros((3, 1, 3)), energy=energy + 1e5)
    given = validate(Sigmas, {"energy": 2, "relative": False, "weights": {"type": "boltzmann", "temperature": 300}})
    assert given == Sigmas(energy=2.0, relative=False, weights=Boltzmann(temperature=300.0))
    weights = np.exp(-np.arange(3.0))
    weights /= weights.mean()
    found = residuals(still, {}, given)["energy"]
    np.testing.assert_allclose(found, -np.sqrt(weights) * np.asarray(still.energy) / 2.0, rtol=1e-10)
    relative = residuals(still, {}, given.model_copy(update={"relative": True}))["energy"]
    away = -np.asarray(energy) + np.mean(weights * np.asarray(energy))
    np.testing.assert_allclose(relative, np.sqrt(weights) * away / 2.0, rtol=0, atol=1e-8)


def test_taken_frames_have_their_own_labels():
    field, topology = ForceField("tip4pew.xml"), waters()
    x = frames_of(4)
    whole = FitSystem(
        potential=field.create_potential(topology),
        positions=jnp.asarray(x),
        interaction=jnp.arange(4.0),
        fragments=fragments_of(field, topology, [0, 0, 0, 1, 1, 1], [0, 1, 2, 4, 5, 6]),
        name="x",
    )
    some = whole.take(np.array([3, 1]))
    np.testing.assert_array_equal(some.positions, x[[3, 1]])
    np.testing.assert_array_equal(some.interaction, [3.0, 1.0])
    assert (some.name, some.energy, len(some.fragments)) == ("x", None, 2)


def spring_waters(tmp_path) -> tuple[ForceField, app.Topology]:
    (tmp_path / "spring.xml").write_text(SPRING)
    return ForceField(tmp_path / "spring.xml"), waters(("O", "H1", "H2"), 1)


def test_what_needs_charges_says_so(tmp_path, ions):
    field, topology = spring_waters(tmp_path)
    springs = FitSystem(
        potential=field.create_potential(topology, rigid_water=False),
        positions=jnp.zeros((1, 3, 3)),
        dipole=jnp.zeros((1, 3)),
    )
    with pytest.raises(InputError, match="dipole: it needs charges, but the potential, which is HarmonicBondForce"):
        predictions(springs, field.params(), Sigmas(dipole=1.0))
    params, system = ions[0].params(), pair_of(ions, dipole=jnp.zeros((1, 3)))
    twice = replace(system, potential=system.potential + system.potential)
    with pytest.raises(InputError, match="dipole: 2 parts of the potential have charges"):
        predictions(twice, params, Sigmas(dipole=1.0))
    half = replace(system, potential=system.potential.weighted(0.5))
    with pytest.raises(InputError, match=r"NonbondedForce counts 0.5 times in the sum"):
        predictions(half, params, Sigmas(dipole=1.0))


def test_targets_that_mean_nothing_are_refused_before_a_fit(ions):
    params, of = ions[0].params(), Sigmas(dipole=1.0)
    system = pair_of(ions, dipole=jnp.zeros((1, 3)), interaction=jnp.zeros(1))
    check_targets([system], params, of)
    with pytest.raises(InputError, match=r"esp: it has a sigma, but no system has esp.npy"):
        check_targets([system], params, Sigmas(esp=1.0))
    with pytest.raises(InputError, match="pair: interaction: the fragments have no potentials"):
        check_targets([system], params, Sigmas(interaction=1.0))
    with pytest.raises(InputError, match="interaction: it needs the potentials of the fragments"):
        predictions(system, params, Sigmas(interaction=1.0))
    with pytest.raises(InputError, match="pair: dipole: the frames are periodic"):
        check_targets([replace(system, boxes=jnp.eye(3)[None])], params, of)
    params["NonbondedForce"]["charge"] = jnp.array([1.0, -0.8])
    with pytest.raises(InputError, match=r"pair: dipole: the charges of the topology sum up to 0.2 e"):
        check_targets([system], params, of)


def test_sigmas_without_a_target_or_below_zero_are_refused():
    with pytest.raises(InputError, match=r"\$: names no target; give the sigma of at least one of energy, force"):
        validate(Sigmas, {"relative": False})
    with pytest.raises(InputError, match=r"\$.esp: must be at least 1e-12"):
        validate(Sigmas, {"esp": 0})


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([3, 3, 3, 3, 3, 3], "all atoms are in one fragment"),
        ([0, 0, 1, 1, 1, 1], r"atoms 0 and 2 \(from 0\) are bonded, but in different fragments"),
        ([0, 0, 1, 2, 2, 2], r"virtual site 3 \(from 0\) is in residue HOH, whose atoms are in 2 fragments"),
    ],
)
def test_fragments_are_whole_molecules(numbers, message):
    sites = "site" in message
    topology, real = (waters(), [0, 1, 2, 4, 5, 6]) if sites else (waters(("O", "H1", "H2")), range(6))
    with pytest.raises(InputError, match=message):
        fragment_atoms(topology, np.array(numbers), np.array(real), "here")


def test_the_topology_of_a_fragment_keeps_names_bonds_and_the_box():
    topology = waters()
    topology.setPeriodicBoxVectors(np.eye(3))
    part = sub_topology(topology, np.array([4, 5, 6, 7]))
    assert [atom.name for atom in part.atoms()] == ["O", "H1", "H2", "M"]
    assert [residue.name for residue in part.residues()] == ["HOH"]
    assert [(one.index, other.index) for one, other in part.bonds()] == [(0, 1), (0, 2)]
    np.testing.assert_array_equal(periodic_box(part), np.eye(3))
