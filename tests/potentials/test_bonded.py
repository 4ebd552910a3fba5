"""Bonds, angles and Urey-Bradley against hand numbers and OpenMM."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest

from diffff.errors import InputError
from diffff.neighbors import neighbor_list
from diffff.potentials.bonded import HarmonicAngle, HarmonicBond, UreyBradley, harmonic, urey_bradley
from tests.check_term import check_term
from tests.potentials.openmm_forces import BOX, chains, compare, derivatives, openmm_energy, scattered

N = 12
ROWS = np.random.default_rng(2).integers(0, 5, N).astype(np.int32)
_rng = np.random.default_rng(3)
LENGTHS = {"length": _rng.uniform(0.1, 0.2, 5), "k": _rng.uniform(1e5, 4e5, 5)}
ANGLES = {"angle": _rng.uniform(1.5, np.pi, 5), "k": _rng.uniform(100.0, 800.0, 5)}
UREYS = {"d": _rng.uniform(0.1, 0.3, 5), "k": _rng.uniform(1e3, 4e4, 5)}


def bond_force(atoms):
    def force(params):
        made = openmm.HarmonicBondForce()
        for (i, j), row in zip(atoms.tolist(), ROWS, strict=True):
            made.addBond(i, j, params["length"][row], params["k"][row])
        return made

    return force


def angle_force(atoms):
    def force(params):
        made = openmm.HarmonicAngleForce()
        for (i, j, k), row in zip(atoms.tolist(), ROWS, strict=True):
            made.addAngle(i, j, k, params["angle"][row], params["k"][row])
        return made

    return force


def urey_force(atoms):
    def force(params):
        return bond_force(atoms)({"length": params["d"], "k": 2.0 * params["k"]})

    return force


CASES = {
    "bond": (HarmonicBond, 2, LENGTHS, bond_force),
    "angle": (HarmonicAngle, 3, ANGLES, angle_force),
    "Urey-Bradley": (UreyBradley, 2, UREYS, urey_force),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request):
    return request.param


def test_formulas_by_hand():
    assert harmonic(jnp.array(1.5), jnp.array(8.0), jnp.array(1.0)) == 1.0
    assert urey_bradley(jnp.array(1.5), jnp.array(8.0), jnp.array(1.0)) == 2.0


def test_water_by_hand():
    """Bonds of 0.1 and 0.2 nm at a right angle."""
    positions = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.2, 0.0]])
    bonds = HarmonicBond(atoms=jnp.array([[0, 1], [0, 2]]), rows=jnp.array([0, 0]))
    energy, forces, gradient = derivatives(
        bonds, {"length": jnp.array([0.12]), "k": jnp.array([1000.0])}, positions, None
    )
    np.testing.assert_allclose(energy, 500.0 * (0.02**2 + 0.08**2), rtol=1e-13)
    np.testing.assert_allclose(forces, [[-20.0, 80.0, 0.0], [20.0, 0.0, 0.0], [0.0, -80.0, 0.0]], atol=1e-11)
    np.testing.assert_allclose(gradient["k"], [0.5 * (0.02**2 + 0.08**2)], rtol=1e-12)
    np.testing.assert_allclose(gradient["length"], [-1000.0 * (-0.02 + 0.08)], rtol=1e-12)
    angles = HarmonicAngle(atoms=jnp.array([[1, 0, 2]]), rows=jnp.array([0]))
    energy, forces, _ = derivatives(angles, {"angle": jnp.array([np.pi]), "k": jnp.array([10.0])}, positions, None)
    np.testing.assert_allclose(energy, 5.0 * (np.pi / 2) ** 2, rtol=1e-13)
    torque = 10.0 * np.pi / 2
    np.testing.assert_allclose(forces[1], [0.0, -torque / 0.1, 0.0], atol=1e-11)
    np.testing.assert_allclose(forces[2], [-torque / 0.2, 0.0, 0.0], atol=1e-11)


@pytest.mark.parametrize("box", [None, BOX], ids=["molecules", "triclinic"])
def test_against_openmm(case, box):
    kind, size, params, make = case
    positions, atoms = chains(N, size)
    if box is not None:
        positions = scattered(positions, box)
    term = kind(atoms=jnp.asarray(atoms), rows=jnp.asarray(ROWS), periodic=box is not None)
    compare(term, params, positions, box, make(atoms))


def test_a_box_does_not_wrap_bonds_unless_asked_to(case):
    kind, size, params, make = case
    positions, atoms = chains(N, size)
    positions = scattered(positions, BOX)
    term = kind(atoms=jnp.asarray(atoms), rows=jnp.asarray(ROWS))
    expected, expected_forces = openmm_energy(make(atoms)(params), positions, None)
    energy, forces, _ = derivatives(term, params, positions, BOX)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())


@pytest.mark.parametrize("bend", [0.3, 1e-2, 1e-3])
@pytest.mark.parametrize("folded", [False, True], ids=["straight", "folded"])
def test_angles_close_to_a_line(bend, folded):
    """OpenMM replaces |u x v| below 1e-6 nm^2 by that number in its forces, so the bends stop well above."""
    straight = np.array([[0.0, 0.1, 0.0], [0.0, 0.0, 0.0], [0.13 * np.sin(bend), -0.13 * np.cos(bend), 0.0]])
    straight[2] *= -1 if folded else 1
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    atoms = np.array([[0, 1, 2]])
    term = HarmonicAngle(atoms=jnp.asarray(atoms), rows=jnp.array([0]))
    made = openmm.HarmonicAngleForce()
    made.addAngle(0, 1, 2, 2.0, 500.0)
    expected, expected_forces = openmm_energy(made, straight @ turn, None)
    energy, forces, _ = derivatives(term, {"angle": jnp.array([2.0]), "k": jnp.array([500.0])}, straight @ turn, None)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())


def test_contract(case):
    kind, size, params, _ = case
    positions, atoms = chains(3, size)
    term = kind(atoms=jnp.asarray(atoms), rows=jnp.asarray(ROWS[:3]))
    assert term.cutoff == 0.0
    check_term(term, params, positions, None)
    check_term(kind(atoms=term.atoms, rows=term.rows, periodic=True), params, positions, BOX)


def test_single_precision_stays(case):
    kind, size, params, _ = case
    positions, atoms = chains(N, size)
    exact, exact_forces, exact_gradient = derivatives(kind(atoms=atoms, rows=ROWS), params, positions, None)
    single = jax.tree.map(np.float32, (params, positions, BOX))
    for periodic in (False, True):
        term = kind(atoms=jnp.asarray(atoms), rows=jnp.asarray(ROWS), periodic=periodic)
        energy, forces, gradient = derivatives(term, *single)
        assert {leaf.dtype for leaf in jax.tree.leaves((energy, forces, gradient))} == {jnp.dtype("float32")}
        np.testing.assert_allclose(energy, exact, rtol=1e-4)
        np.testing.assert_allclose(forces, exact_forces, atol=1e-4 * np.abs(exact_forces).max())
        for column in params:
            np.testing.assert_allclose(gradient[column], exact_gradient[column], rtol=1e-3)


def test_no_terms(case):
    kind, size, params, _ = case
    positions, _ = chains(2, size)
    term = kind(atoms=jnp.zeros((0, size), int), rows=jnp.zeros(0, int))
    energy, forces, gradient = derivatives(term, {column: jnp.zeros(0) for column in params}, positions, None)
    assert energy == 0.0 and not forces.any() and all(len(g) == 0 for g in gradient.values())
    _, _, gradient = derivatives(term, params, positions, None)
    assert not any(g.any() for g in gradient.values())


def test_periodic_terms_need_a_box():
    positions, atoms = chains(2, 2)
    term = HarmonicBond(atoms=jnp.asarray(atoms), rows=jnp.zeros(2, int), periodic=True)
    with pytest.raises(InputError, match="there is no box"):
        term.energy(
            jax.tree.map(jnp.asarray, LENGTHS), jnp.asarray(positions), None, neighbor_list(positions, None, 0.0)
        )
