"""The sets in data/ that force fields are fitted to: they can be read, fit their topologies and make physical sense."""

from pathlib import Path

import numpy as np
import openmm.app as app
import pytest

from diffff import units
from diffff.data.systems import System, data_type_map, read_systems

DATA = Path(__file__).resolve().parents[2] / "data"
LABELS = ("energy", "force", "dipole", "esp", "esp_grid", "interaction")
EV_ANGSTROM = units.COULOMB_CONSTANT * units.EV_PER_KJ_PER_MOL * units.ANGSTROM_PER_NM  # of two elementary charges
TOPOLOGIES = {
    "butane/scan": "butane/butane.pdb",
    "butane/thermal": "butane/butane.pdb",
    "dialanine/map": "dialanine/dialanine.pdb",
    "dialanine/thermal": "dialanine/dialanine.pdb",
    "ethanol_esp": "ethanol/ethanol.pdb",
    "water_dimer": "water_dimer/water_dimer.pdb",
}


def read(name: str) -> tuple[System, np.ndarray]:
    (system,) = read_systems(str(DATA / name), data_type_map(str(DATA / name)), labels=LABELS)
    return system, system.in_file_order(system.positions)


def force_of(system: System) -> np.ndarray:
    return system.in_file_order(system.labels["force"])


def dihedrals(x: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    first, axis, last = x[:, b] - x[:, a], x[:, c] - x[:, b], x[:, d] - x[:, c]
    n, m = np.cross(first, axis), np.cross(axis, last)
    sine = np.linalg.norm(axis, axis=1) * np.sum(first * m, axis=1)
    return np.rad2deg(np.arctan2(sine, np.sum(n * m, axis=1)))


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_atoms_are_those_of_the_topology_and_nothing_pulls_at_the_whole(name):
    system, x = read(name)
    symbols = data_type_map(str(DATA / name))
    in_file = system.in_file_order(system.types[None])[0]
    atoms = list(app.PDBFile(str(DATA / TOPOLOGIES[name])).topology.atoms())
    assert [atom.element.symbol for atom in atoms] == [symbols[kind] for kind in in_file]
    if "force" in system.labels:
        force = force_of(system)
        np.testing.assert_allclose(force.sum(axis=1), 0.0, atol=1e-9)
        np.testing.assert_allclose(np.cross(x, force).sum(axis=1), 0.0, atol=1e-6)


def test_the_scan_of_butane_turns_against_the_force_along_the_torsion():
    system, x = read("butane/scan")
    phi, energy = dihedrals(x, 0, 1, 2, 3), system.labels["energy"]
    assert phi % 360 == pytest.approx(np.arange(180.0, 540.0, 10.0) % 360, abs=2e-3)
    axis = (x[:, 2] - x[:, 1]) / np.linalg.norm(x[:, 2] - x[:, 1], axis=1)[:, None]
    beyond = [3, 9, 10, 11, 12, 13]
    torque = np.sum(np.cross(x[:, beyond] - x[:, 1:2], force_of(system)[:, beyond]).sum(axis=1) * axis, axis=1)
    near, far = (np.roll(energy, -n) - np.roll(energy, n) for n in (1, 2))
    slope = (8 * near - far) / (12 * np.deg2rad(10.0))
    assert np.abs(slope).max() > 0.2
    np.testing.assert_allclose(-torque, slope, atol=0.01 * np.abs(slope).max())


def test_interactions_of_water_vanish_with_distance_and_bind_as_published():
    system, x = read("water_dimer")
    assert system.fragments is not None
    assert system.fragments.tolist() == [0, 0, 0, 1, 1, 1]
    interaction = system.labels["interaction"].reshape(6, 10)
    distance = np.linalg.norm(x[:, 0] - x[:, 3], axis=1).reshape(6, 10)
    assert (np.diff(distance) > 0).all()
    deepest = interaction.min() * units.KJ_PER_MOL_PER_EV / units.KJ_PER_KCAL
    assert deepest == pytest.approx(-5.02, rel=0.1)  # CCSD(T) at the basis set limit: doi:10.1039/b600027d
    assert np.argmin(interaction) < 10  # in the orientation of the hydrogen bond
    falling = np.log(np.abs(interaction[:, -1] / interaction[:, -2])) / np.log(distance[:, -1] / distance[:, -2])
    np.testing.assert_allclose(falling, -3.0, atol=0.6)  # two dipoles
    internal = system.labels["energy"].reshape(6, 10) - interaction
    np.testing.assert_allclose(internal, internal[0, 0], atol=1e-5)  # rigid molecules


def test_the_map_of_alanine_dipeptide_holds_phi_and_psi_of_the_l_form():
    _, x = read("dialanine/map")
    names = [(a.residue.name, a.name) for a in app.PDBFile(str(DATA / "dialanine/dialanine.pdb")).topology.atoms()]
    at = {f"{residue}.{name}": i for i, (residue, name) in enumerate(names)}
    phi = dihedrals(x, at["ACE.C"], at["ALA.N"], at["ALA.CA"], at["ALA.C"])
    psi = dihedrals(x, at["ALA.N"], at["ALA.CA"], at["ALA.C"], at["NME.N"])
    grid = np.arange(-150.0, 180.0, 60.0)
    assert phi == pytest.approx(np.repeat(grid, 6), abs=2e-3)
    assert psi == pytest.approx(np.tile(grid, 6), abs=2e-3)
    for frames in (x, read("dialanine/thermal")[1]):
        n, c, cb = (frames[:, at[f"ALA.{name}"]] - frames[:, at["ALA.CA"]] for name in ("N", "C", "CB"))
        assert (np.sum(np.cross(n, c) * cb, axis=1) > 0).all()


def test_charges_that_make_the_potential_make_the_dipole_too():
    system, x = read("ethanol_esp")
    grid, esp, dipole = (system.labels[name] for name in ("esp_grid", "esp", "dipole"))
    reach = EV_ANGSTROM / np.linalg.norm(grid[:, :, None] - x[:, None], axis=3)
    for frame in range(system.n_frames):
        neutral = np.vstack([reach[frame], np.full(9, 1e3)])
        charges = np.linalg.lstsq(neutral, np.append(esp[frame], 0.0))[0]
        assert np.std(charges @ reach[frame].T - esp[frame]) < 0.25 * np.std(esp[frame])
        np.testing.assert_allclose(charges @ x[frame], dipole[frame], atol=0.03)
