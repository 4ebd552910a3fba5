"""Lennard-Jones by type with rows for pairs of types, against OpenMM's custom forces and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest

from diffff.errors import InputError
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential
from diffff.potentials.lennard_jones import LennardJones, lennard_jones
from tests.check_term import check_term
from tests.potentials.charged_systems import CUBIC, TRICLINIC, molecules

# four types with rows 2, 0, 1, 0; types 0 and 1 as a pair and type 3 with itself have rows of their own
ROWS = np.array([2, 0, 1, 0])
NBFIX = np.array([[-1, 1, -1, -1], [1, -1, -1, -1], [-1, -1, -1, -1], [-1, -1, -1, 0]])
PARAMS = {
    "sigma": np.array([0.3, 0.26, 0.22]),
    "epsilon": np.array([0.5, 0.8, 0.3]),
    "sigma14": np.array([0.2]),
    "epsilon14": np.array([0.1, 0.2]),
    "nbfix_sigma": np.array([0.33, 0.24]),
    "nbfix_epsilon": np.array([0.25, 0.6]),
    "lj14scale": np.array(0.75),
}
SWITCHED = {"cutoff": 0.9, "switch_distance": 0.7}


def make(n: int, box: np.ndarray | None, **options) -> tuple[LennardJones, np.ndarray]:
    """Chains of four atoms, one of each type, and where they are."""
    system = molecules(n, box)
    term = lennard_jones(
        np.arange(system.n_atoms) % 4,
        ROWS,
        sigma14_rows=[-1, 0, -1, 0],
        epsilon14_rows=[1, 0, -1, -1],
        nbfix_rows=NBFIX,
        excluded=system.chain(1) + system.chain(2),
        pairs14=system.chain(3),
        **options,
    )
    return term, system.positions


energy_of = jax.jit(LennardJones.energy)
slopes_of = jax.jit(jax.value_and_grad(LennardJones.energy, (1, 2)))


def derivatives(term: LennardJones, params: dict, positions: np.ndarray, box: np.ndarray | None):
    listed = neighbor_list(positions, box, 1.05 * term.cutoff)
    arrays = jax.tree.map(jnp.asarray, (params, positions, box))
    energy, (by_params, by_positions) = slopes_of(term, *arrays, listed)
    return energy, -by_positions, by_params


def energy(term: LennardJones, params: dict, positions: np.ndarray, box: np.ndarray) -> float:
    return float(energy_of(term, params, positions, box, neighbor_list(positions, box, term.cutoff)))


def openmm_energy(term: LennardJones, params: dict, positions: np.ndarray, box: np.ndarray | None):
    """Energy and forces of a CustomNonbondedForce with tables, and of a CustomBondForce for the 1-4 pairs."""
    sigma = np.add.outer(params["sigma"][ROWS], params["sigma"][ROWS]) / 2
    epsilon = np.sqrt(np.outer(params["epsilon"][ROWS], params["epsilon"][ROWS]))
    for (a, b), row in (((0, 1), 1), ((1, 0), 1), ((3, 3), 0)):
        sigma[a, b], epsilon[a, b] = params["nbfix_sigma"][row], params["nbfix_epsilon"][row]
    force = openmm.CustomNonbondedForce("4*e(t1,t2)*((s(t1,t2)/r)^12-(s(t1,t2)/r)^6)")
    force.addPerParticleParameter("t")
    for name, table in (("s", sigma), ("e", epsilon)):
        force.addTabulatedFunction(name, openmm.Discrete2DFunction(4, 4, table.ravel(order="F").tolist()))
    force.setNonbondedMethod(getattr(openmm.CustomNonbondedForce, term.method))
    force.setUseLongRangeCorrection(term.dispersion_correction)
    if term.cutoff:
        force.setCutoffDistance(term.cutoff)
    if term.switch_distance is not None:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(term.switch_distance)
    # a 1-4 pair is of types 0 and 3; the epsilon of type 0 is 0.2 there, its sigma the usual one
    bonded = openmm.CustomBondForce("4*scale*e*((s/r)^12-(s/r)^6)")
    bonded.addGlobalParameter("scale", float(params["lj14scale"]))
    bonded.addPerBondParameter("s")
    bonded.addPerBondParameter("e")
    own = (params["sigma"][2] + params["sigma14"][0]) / 2, np.sqrt(params["epsilon14"][1] * params["epsilon"][0])
    for a, b in term.pairs14.tolist():
        bonded.addBond(a, b, [float(v) for v in own])
    for a, b in term.excluded.tolist():
        force.addExclusion(a, b)
    system = openmm.System()
    for kind in term.types.tolist():
        system.addParticle(1.0)
        force.addParticle([kind])
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box.tolist())
    system.addForce(force)
    system.addForce(bonded)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


@pytest.mark.parametrize(
    ("box", "options"),
    [
        (None, {}),
        (None, {"method": "CutoffNonPeriodic", **SWITCHED}),
        (CUBIC, {"method": "CutoffPeriodic", "cutoff": 0.9, "dispersion_correction": False}),
        (TRICLINIC, {"method": "CutoffPeriodic", "dispersion_correction": False, **SWITCHED}),
    ],
    ids=["no cutoff", "cutoff", "cubic", "triclinic"],
)
def test_energy_and_forces_of_openmm(box, options):
    term, positions = make(27, box, **options)
    energy, forces, _ = derivatives(term, PARAMS, positions, box)
    expected, expected_forces = openmm_energy(term, PARAMS, positions, box)
    np.testing.assert_allclose(energy, expected, rtol=1e-12)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-12 * np.abs(expected_forces).max())


@pytest.mark.parametrize("switch_distance", [None, 0.7])
def test_what_is_beyond_the_cutoff_is_that_of_openmm(switch_distance):
    """OpenMM's quadrature is good to about 1e-6; its NonbondedForce, without rows of pairs, has closed forms."""
    options = {"method": "CutoffPeriodic", "cutoff": 0.9, "switch_distance": switch_distance}
    tails, expected = [], []
    for correct in (True, False):
        term, positions = make(27, CUBIC, dispersion_correction=correct, **options)
        tails.append(energy(term, PARAMS, positions, CUBIC))
        expected.append(openmm_energy(term, PARAMS, positions, CUBIC)[0])
    np.testing.assert_allclose(tails[0] - tails[1], expected[0] - expected[1], rtol=2e-6)
    assert expected[0] - expected[1] < -1.0
    force, system = openmm.NonbondedForce(), openmm.System()
    system.setDefaultPeriodicBoxVectors(*CUBIC.tolist())
    for i, row in enumerate(ROWS[np.arange(len(positions)) % 4]):
        system.addParticle(1.0)
        force.addParticle(0.0, PARAMS["sigma"][row], PARAMS["epsilon"][row])
        for j in range(i):
            force.addException(i, j, 0.0, 1.0, 0.0)  # nothing but the correction is left
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.9)
    if switch_distance is not None:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(switch_distance)
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    plain = {**PARAMS, **{f"nbfix_{c}": np.zeros(0) for c in ("sigma", "epsilon")}}
    found = []
    for correct in (True, False):
        term = lennard_jones(np.arange(len(positions)) % 4, ROWS, dispersion_correction=correct, **options)
        found.append(energy(term, plain, positions, CUBIC))
    alone = context.getState(energy=True).getPotentialEnergy()._value
    np.testing.assert_allclose(found[0] - found[1], alone, rtol=1e-9)


def test_two_atoms_by_hand():
    """Well depth at 2^(1/6) sigma of the mean, and of the pair's own row."""
    nothing = {"sigma14": jnp.zeros(0), "epsilon14": jnp.zeros(0)}
    pair = {"nbfix_sigma": jnp.array([0.35]), "nbfix_epsilon": jnp.array([0.7]), "lj14scale": jnp.array(1.0)}
    params = {"sigma": jnp.array([0.2, 0.4]), "epsilon": jnp.array([0.4, 0.9]), **nothing, **pair}
    for sigma, depth, table in ((0.3, 0.6, None), (0.35, 0.7, [[-1, 0], [0, -1]])):
        term = lennard_jones([0, 1], [0, 1], nbfix_rows=table)
        x = jnp.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + 2 ** (1 / 6) * sigma]])
        energy, slope = jax.value_and_grad(term.energy, 1)(params, x, None, neighbor_list(np.asarray(x), None, 0.0))
        np.testing.assert_allclose(energy, -depth, rtol=1e-13)
        np.testing.assert_allclose(slope, 0.0, atol=1e-11)


@pytest.mark.parametrize(
    ("box", "options"),
    [(None, {}), (0.55 * TRICLINIC, {"method": "CutoffPeriodic", "cutoff": 0.7, "switch_distance": 0.5})],
    ids=["no cutoff", "triclinic"],
)
def test_contract(box, options):
    if box is None:
        term, positions = make(2, None)
    else:  # without 1-4 pairs, which do not know of periodic images
        positions = molecules(2, box).positions
        term = lennard_jones(np.arange(8) % 4, ROWS, nbfix_rows=NBFIX, excluded=[(0, 1), (4, 5), (2, 3)], **options)
    check_term(term, PARAMS, positions, box, tolerance=1e-6)


def test_the_derivative_where_epsilon_is_zero():
    """That of a type is given as zero, that of a pair of types is exact."""
    term, positions = make(8, None)
    zero = {**PARAMS, "epsilon": np.array([0.5, 0.0, 0.3]), "nbfix_epsilon": np.array([0.0, 0.6])}
    *_, gradient = derivatives(term, zero, positions, None)
    assert all(np.isfinite(leaf).all() for leaf in gradient.values())
    assert gradient["epsilon"][1] == 0.0
    one = {**zero, "nbfix_epsilon": np.array([1.0, 0.6])}
    difference = derivatives(term, one, positions, None)[0] - derivatives(term, zero, positions, None)[0]
    np.testing.assert_allclose(gradient["nbfix_epsilon"][0], difference, rtol=1e-9)


def test_single_precision_stays_single():
    term, positions = make(27, CUBIC, method="CutoffPeriodic", **SWITCHED)
    exact, forces, _ = derivatives(term, PARAMS, positions, CUBIC)
    params, positions, box = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (PARAMS, positions, CUBIC))
    energy, single, gradient = derivatives(term, params, positions, box)
    assert {a.dtype for a in (energy, single, *gradient.values())} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(energy, exact, rtol=1e-4)
    np.testing.assert_allclose(single, forces, rtol=0, atol=1e-4 * np.abs(forces).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "PME"}, "method 'PME' is unknown; use one of NoCutoff"),
        ({"method": "CutoffPeriodic", "cutoff": -1.0}, "the cutoff is -1.0 nm"),
        ({"method": "CutoffPeriodic", "cutoff": 1.0, "switch_distance": 1.2}, "switch_distance 1.2 nm must lie"),
        ({"types": [0, 2]}, "must be numbers of 0 to 1"),
        ({"nbfix_rows": [[-1, 0], [-1, -1]]}, "as a symmetric table"),
        ({"sigma14_rows": [0]}, "give one row to each"),
        ({"pairs14": [(0, 2)]}, "not of two of the atoms 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(InputError) as refused:
        lennard_jones(**{"types": [0, 1], "rows": [0, 1], **arguments})
    assert message in str(refused.value)


def test_lists_and_boxes_that_do_not_fit_are_refused():
    term, positions = make(1, None, method="CutoffPeriodic", cutoff=0.9)
    with pytest.raises(InputError, match=r"the neighbour list reaches 0\.5 nm"):
        Potential(terms=(term,)).energy({term.name: PARAMS}, positions, CUBIC, neighbor_list(positions, CUBIC, 0.5))
    with pytest.raises(InputError, match="the method is CutoffPeriodic, but there is no box"):
        term.energy(PARAMS, positions, None, neighbor_list(positions, None, 0.9))
