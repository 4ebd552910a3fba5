"""CMAP: its splines against scipy's, its energies, forces and map gradients against OpenMM."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest
from scipy.interpolate import CubicSpline

from diffff.errors import InputError
from diffff.potentials.cmap import CMAPTorsion, corner_values, hermite, spline_slopes
from tests.check_term import check_term
from tests.potentials.openmm_forces import BOX, chains, compare, derivatives, openmm_energy, scattered

N = 10
SIZES = (24, 24, 5, 16)
_rng = np.random.default_rng(3)
PARAMS = {"map": _rng.normal(size=sum(size**2 for size in SIZES)) * 5.0}
MAPS = _rng.integers(0, len(SIZES), N).astype(np.int32)


def peptides(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Positions of chains of five, and their two dihedrals."""
    positions, atoms = chains(n, 5, seed)
    return positions, np.concatenate([atoms[:, :4], atoms[:, 1:]], axis=1)


def force(atoms, maps=MAPS, sizes=SIZES):
    def made(params):
        cmap = openmm.CMAPTorsionForce()
        for size, values in zip(sizes, np.split(params["map"], np.cumsum(np.square(sizes))[:-1]), strict=True):
            cmap.addMap(size, values)
        for number, pair in zip(maps.tolist(), atoms.tolist(), strict=False):
            cmap.addTorsion(number, *pair)
        return cmap

    return made


def bind(atoms, periodic=False):
    return CMAPTorsion(atoms=jnp.asarray(atoms), maps=jnp.asarray(MAPS[: len(atoms)]), sizes=SIZES, periodic=periodic)


@pytest.mark.parametrize("size", [3, 4, 24])
def test_slopes_are_those_of_a_periodic_spline(size):
    values = np.random.default_rng(size).normal(size=size)
    spline = CubicSpline(np.arange(size + 1), np.append(values, values[0]), bc_type="periodic")
    np.testing.assert_allclose(spline_slopes(size) @ values, spline(np.arange(size), 1), atol=1e-13)


def test_slopes_of_a_plane_wave():
    """cos(x) cos(2y) on a fine grid: first index of a map is y; derivatives are per grid step."""
    size = 60
    step = 2 * np.pi / size
    x = step * np.arange(size)
    value, by_x, by_y, mixed = jnp.moveaxis(corner_values(jnp.asarray(np.cos(2 * x)[None, :, None] * np.cos(x))), -1, 0)
    np.testing.assert_allclose(value[0], np.cos(2 * x)[:, None] * np.cos(x), atol=1e-15)
    np.testing.assert_allclose(by_x[0] / step, -np.cos(2 * x)[:, None] * np.sin(x), atol=1e-5)
    np.testing.assert_allclose(by_y[0] / step, -2 * np.sin(2 * x)[:, None] * np.cos(x), atol=1e-4)
    np.testing.assert_allclose(mixed[0] / step**2, 2 * np.sin(2 * x)[:, None] * np.sin(x), atol=1e-4)


def test_hermite_by_hand():
    for t, expected in ((0.0, [[1, 0], [0, 0]]), (1.0, [[0, 0], [1, 0]]), (0.5, [[0.5, 0.125], [0.5, -0.125]])):
        np.testing.assert_allclose(hermite(jnp.array([t]))[0], expected, atol=1e-15)


@pytest.mark.parametrize("box", [None, BOX], ids=["molecules", "triclinic"])
def test_against_openmm(box):
    positions, atoms = peptides(N)
    if box is not None:
        positions = scattered(positions, box)
    compare(bind(atoms, box is not None), PARAMS, positions, box, force(atoms))


def chain_with(phi: float, psi: float) -> np.ndarray:
    """Five atoms with these dihedrals, built atom by atom, turned and moved."""
    x = [np.array([0.1, 0.0, -0.05]), np.zeros(3), np.array([0.0, 0.0, 0.15])]
    for angle in (phi, psi):
        along = (x[-1] - x[-2]) / np.linalg.norm(x[-1] - x[-2])
        side = x[-3] - x[-2] - along * (along @ (x[-3] - x[-2]))
        side /= np.linalg.norm(side)
        x.append(x[-1] + 0.05 * along + 0.1 * (np.cos(angle) * side + np.sin(angle) * np.cross(along, side)))
    return np.array(x) @ np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))[0] + 0.2


@pytest.mark.parametrize(
    ("phi", "psi"), [(0.0, np.pi), (np.pi, 0.0), (np.pi, np.pi), (-1e-9, 1e-9), (-2.0, 2.5), (-np.pi + 1e-9, -1.0)]
)
def test_edges_of_the_map(phi, psi):
    """Values, forces at the seams, where a patch ends and the angles jump."""
    atoms, maps = np.array([[0, 1, 2, 3, 1, 2, 3, 4]] * 3), np.array([0, 2, 3])
    term = CMAPTorsion(atoms=jnp.asarray(atoms), maps=jnp.asarray(maps), sizes=SIZES)
    expected, expected_forces = openmm_energy(force(atoms, maps)(PARAMS), chain_with(phi, psi), None)
    energy, forces, _ = derivatives(term, PARAMS, chain_with(phi, psi), None)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())


def test_a_map_is_read_at_its_points_the_first_dihedral_fast():
    """At phi = 90 and psi = -90 degrees of a map of 4: i = 1, j = 3."""
    values = np.arange(16.0) ** 2
    term = CMAPTorsion(atoms=jnp.array([[0, 1, 2, 3, 1, 2, 3, 4]]), maps=jnp.array([0]), sizes=(4,))
    sign = 1.0 if np.linalg.det(np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))[0]) > 0 else -1.0
    positions = chain_with(sign * np.pi / 2, -sign * np.pi / 2)
    energy, _, gradient = derivatives(term, {"map": values}, positions, None)
    np.testing.assert_allclose(energy, values[1 + 4 * 3], rtol=1e-12)
    np.testing.assert_allclose(gradient["map"], np.eye(16)[13], atol=1e-12)


def test_gradient_of_all_map_values():
    """The energy is linear in them, so gradient times map is the energy, and a constant map adds its constant."""
    positions, atoms = peptides(N)
    energy, _, gradient = derivatives(bind(atoms), PARAMS, positions, None)
    np.testing.assert_allclose(gradient["map"] @ PARAMS["map"], energy, rtol=1e-12)
    np.testing.assert_allclose(gradient["map"].sum(), N, rtol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
def test_contract(periodic):
    """The maps are noise of 5 kJ/mol in steps of 15 degrees: the third derivatives show in difference quotients."""
    positions, atoms = peptides(2)
    assert bind(atoms).cutoff == 0.0
    check_term(bind(atoms, periodic), PARAMS, positions, BOX if periodic else None, tolerance=1e-5)


def test_single_precision_stays():
    positions, atoms = peptides(N)
    exact, exact_forces, _ = derivatives(bind(atoms), PARAMS, positions, None)
    found = derivatives(bind(atoms), *jax.tree.map(np.float32, (PARAMS, positions, BOX)))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found[0], exact, rtol=1e-4)
    np.testing.assert_allclose(found[1], exact_forces, atol=1e-4 * np.abs(exact_forces).max())


def test_no_terms():
    atoms = jnp.zeros((0, 8), int)
    for sizes, values in (((), np.zeros(0)), (SIZES, PARAMS["map"])):
        term = CMAPTorsion(atoms=atoms, maps=jnp.zeros(0, int), sizes=sizes)
        energy, forces, gradient = derivatives(term, {"map": values}, chain_with(1.0, 2.0), None)
        assert energy == 0.0 and not forces.any() and not gradient["map"].any()


def test_nan_positions_are_not_hidden():
    positions, atoms = peptides(N)
    positions[atoms[3, 2]] = np.nan
    assert np.isnan(derivatives(bind(atoms), PARAMS, positions, None)[0])


def test_bad_maps_are_refused():
    atoms = jnp.array([[0, 1, 2, 3, 1, 2, 3, 4]])
    with pytest.raises(InputError, match="map 1 has 2 points along a side"):
        CMAPTorsion(atoms=atoms, maps=jnp.array([0]), sizes=(4, 2))
    term = CMAPTorsion(atoms=atoms, maps=jnp.array([0]), sizes=(4,))
    with pytest.raises(InputError, match="have 16 values, but params"):
        derivatives(term, {"map": np.zeros(15)}, chain_with(1.0, 2.0), None)
