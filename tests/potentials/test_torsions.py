"""Torsions against hand numbers and OpenMM."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest

from diffff.potentials.torsions import PeriodicTorsion, RBTorsion, fourier, ryckaert_bellemans
from tests.check_term import check_term
from tests.potentials.openmm_forces import BOX, chains, compare, derivatives, openmm_energy, scattered

N = 12
_rng = np.random.default_rng(3)
ROWS = _rng.integers(0, 6, N).astype(np.int32)
PERIODICITY = np.array([1, 2, 3, 4, 2, 6], np.int32)[ROWS]
FOURIER = {"phase": np.array([0.0, np.pi, 0.3, 0.0, -2.0, np.pi]), "k": _rng.normal(size=6) * 20.0}
RYCKAERT = {f"c{m}": _rng.normal(size=6) * 20.0 for m in range(6)}


def periodic_force(atoms):
    def force(params):
        made = openmm.PeriodicTorsionForce()
        for chain, row, n in zip(atoms.tolist(), ROWS, PERIODICITY.tolist(), strict=False):
            i, j, k, m = chain
            made.addTorsion(i, j, k, m, n, params["phase"][row], params["k"][row])
        return made

    return force


def rb_force(atoms):
    def force(params):
        made = openmm.RBTorsionForce()
        for chain, row in zip(atoms.tolist(), ROWS, strict=False):
            made.addTorsion(*chain, *[params[f"c{m}"][row] for m in range(6)])  # pyright: ignore[reportCallIssue]
        return made

    return force


def periodic_term(atoms, periodic=False):
    n = len(atoms)
    return PeriodicTorsion(
        atoms=jnp.asarray(atoms),
        rows=jnp.asarray(ROWS[:n]),
        periodicity=jnp.asarray(PERIODICITY[:n]),
        periodic=periodic,
    )


def rb_term(atoms, periodic=False):
    return RBTorsion(atoms=jnp.asarray(atoms), rows=jnp.asarray(ROWS[: len(atoms)]), periodic=periodic)


CASES = {"periodic": (periodic_term, FOURIER, periodic_force), "RB": (rb_term, RYCKAERT, rb_force)}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request):
    return request.param


def chain_with(phi: float) -> np.ndarray:
    """Four atoms with this dihedral, turned and moved."""
    plain = np.array([[0.1, 0.0, -0.05], [0, 0, 0], [0, 0, 0.15], [0.1 * np.cos(phi), 0.1 * np.sin(phi), 0.19]])
    return plain @ np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0] + 0.3


def test_formulas_by_hand():
    """A threefold barrier is 2k at cis and 0 at 60 degrees; trans is psi = 0, where all c_m add up."""
    phi = jnp.array([0.0, np.pi / 3, np.pi])
    np.testing.assert_allclose(fourier(phi, jnp.array(5.0), jnp.array(3), jnp.array(0.0)), [10.0, 0.0, 0.0], atol=1e-14)
    np.testing.assert_allclose(
        fourier(phi, jnp.array(5.0), jnp.array(1), jnp.array(np.pi)), [0.0, 2.5, 10.0], atol=1e-14
    )
    c = [jnp.array(float(m + 1)) for m in range(6)]
    np.testing.assert_allclose(ryckaert_bellemans(phi, c)[jnp.array([0, 2])], [1 - 2 + 3 - 4 + 5 - 6, 21.0], rtol=1e-14)
    halves = sum((m + 1) * (-0.5) ** m for m in range(6))
    np.testing.assert_allclose(ryckaert_bellemans(phi, c)[1], halves, rtol=1e-14)


@pytest.mark.parametrize("box", [None, BOX], ids=["molecules", "triclinic"])
def test_against_openmm(case, box):
    bind, params, force = case
    positions, atoms = chains(N, 4)
    if box is not None:
        positions = scattered(positions, box)
    compare(bind(atoms, box is not None), params, positions, box, force(atoms))


@pytest.mark.parametrize("phi", [0.0, 1e-7, -1e-3, np.pi, np.pi - 1e-7, -np.pi + 1e-3, np.pi / 2])
def test_flat_and_trans_chains(case, phi):
    """Where sin(phi) is zero a formula with it in a denominator breaks."""
    bind, params, force = case
    atoms = np.repeat([[0, 1, 2, 3], [3, 2, 1, 0]], 6, axis=0)
    expected, expected_forces = openmm_energy(force(atoms)(params), chain_with(phi), None)
    energy, forces, _ = derivatives(bind(atoms), params, chain_with(phi), None)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * max(100.0, np.abs(expected_forces).max()))


@pytest.mark.parametrize("bend", [1e-2, 1e-4])
def test_chains_close_to_a_line(case, bend):
    """Forces grow as one over the bend, and so do the rounding errors of both programs."""
    bind, params, force = case
    positions = np.array([[0.1 * bend, 0.0, -0.1], [0, 0, 0], [0, 0, 0.15], [0.05, 0.07, 0.2]])
    atoms = np.tile(np.arange(4), (N, 1))
    expected, expected_forces = openmm_energy(force(atoms)(params), positions, None)
    energy, forces, _ = derivatives(bind(atoms), params, positions, None)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())


def test_chain_in_line_has_no_force(case):
    bind, params, _ = case
    positions = np.array([[0.0, 0.0, -0.1], [0, 0, 0], [0, 0, 0.15], [0.05, 0.07, 0.2]])
    energy, forces, gradient = derivatives(bind(np.array([[0, 1, 2, 3]])), params, positions, None)
    assert np.isfinite(energy) and not forces.any()
    assert all(np.isfinite(g).all() for g in gradient.values())


def test_components_of_a_row_are_summed():
    """Three periodicities on one chain, as an XML row has them."""
    positions = chain_with(0.9)
    term = PeriodicTorsion(
        atoms=jnp.tile(jnp.arange(4), (3, 1)), rows=jnp.array([4, 0, 2]), periodicity=jnp.array([1, 2, 3])
    )
    energy, _, gradient = derivatives(term, FOURIER, positions, None)
    phase, k, n = FOURIER["phase"][[4, 0, 2]], FOURIER["k"][[4, 0, 2]], np.array([1, 2, 3])
    np.testing.assert_allclose(energy, np.sum(k * (1 + np.cos(n * 0.9 - phase))), rtol=1e-12)
    np.testing.assert_allclose(gradient["k"][jnp.array([4, 0, 2])], 1 + np.cos(n * 0.9 - phase), rtol=1e-12)
    assert not gradient["k"][jnp.array([1, 3, 5])].any()


def test_merged_chains_are_the_same_term():
    """Also with a chain that occurs twice with one row."""
    positions, atoms = chains(N, 4)
    atoms = atoms[np.array([3, 1, 3, 3, 0, 1, 2, 2, 1, 0, 1, 3])]
    merged = periodic_term(atoms).merged()
    assert merged.atoms.shape == (4, 4) and merged.merged() is merged
    compare(merged, FOURIER, positions, None, periodic_force(atoms))
    empty = periodic_term(np.zeros((0, 4), int)).merged()
    assert derivatives(empty, FOURIER, positions, None)[0] == 0.0


@pytest.mark.parametrize("periodic", [False, True])
def test_contract(case, periodic):
    bind, params, _ = case
    positions, atoms = chains(2, 4)
    term = bind(atoms, periodic)
    assert term.cutoff == 0.0
    check_term(term, params, positions, BOX if periodic else None)


def test_single_precision_stays(case):
    bind, params, _ = case
    positions, atoms = chains(N, 4)
    exact, exact_forces, _ = derivatives(bind(atoms), params, positions, None)
    for periodic in (False, True):
        found = derivatives(bind(atoms, periodic), *jax.tree.map(np.float32, (params, positions, BOX)))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        np.testing.assert_allclose(found[0], exact, rtol=1e-4)
        np.testing.assert_allclose(found[1], exact_forces, atol=1e-4 * np.abs(exact_forces).max())


def test_no_terms(case):
    bind, params, _ = case
    energy, forces, gradient = derivatives(
        bind(np.zeros((0, 4), int)), {column: jnp.zeros(0) for column in params}, chain_with(1.0), None
    )
    assert energy == 0.0 and not forces.any() and all(len(g) == 0 for g in gradient.values())
