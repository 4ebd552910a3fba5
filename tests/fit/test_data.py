"""Frames of data sets: in the order of the topology, in nm and kJ/mol, with lists that hold all pairs."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import openmm.app as app
import pytest

from diffff import ForceField, units
from diffff.data.folders import find_systems
from diffff.data.systems import read_systems
from diffff.errors import InputError
from diffff.fit.data import read_frames
from diffff.fit.problem import FitSystem, Sigmas, predictions, residuals
from diffff.model import Model, load
from tests.fit.waters import fragments_of, frames_of, waters
from tests.md.systems import MODEL, ROOT

ALL = Sigmas(energy=1.0, force=1.0, dipole=1.0, esp=1.0, interaction=1.0)

WATER, ETHANOL = ROOT / "data/water/valid/300K", ROOT / "data/ethanol/valid/300K"


def topology_of(symbols: str) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("ALL", topology.addChain())
    for symbol in symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    return topology


@pytest.mark.slow
def test_predictions_of_a_deep_potential_are_those_of_its_model():
    model, symbols = load(MODEL), 32 * "O" + 64 * "H"
    direct = model.spec.descriptor.model_copy(update={"evaluation": "direct"})
    model = Model(model.spec.model_copy(update={"descriptor": direct}), model.params)
    types = np.array([model.type_map.index(symbol) for symbol in symbols])
    potential = model.potential(types)
    (system,) = read_frames(str(WATER), topology_of(symbols), potential, model.params)
    found = jax.jit(predictions)(system, model.params, Sigmas(energy=1.0, force=1.0, virial=1.0))
    (data,) = read_systems(str(WATER), model.type_map)
    energy, force, virial = model.eval(data.positions, data.boxes, data.types)
    kj, per_nm = units.KJ_PER_MOL_PER_EV, units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM
    np.testing.assert_allclose(found["energy"], energy[:, 0] * kj, rtol=1e-9)
    np.testing.assert_allclose(found["force"], data.in_file_order(force) * per_nm, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found["virial"].reshape(-1, 9), virial * kj, rtol=0, atol=1e-8)
    raw = np.load(WATER / "set.000/force.npy").reshape(-1, 96, 3)
    np.testing.assert_allclose(system.forces, raw * per_nm, rtol=1e-12)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ("CCO", "frames of 9 atoms, but the topology has 3"),
        ("CCHOHHHHH", r"atom 2 \(from 0\) is O, but H in the topology"),
    ],
)
def test_other_atoms_are_refused(symbols, message):
    model = load(MODEL)
    with pytest.raises(InputError, match=message):
        read_frames(str(ETHANOL), topology_of(symbols), model.potential(np.zeros(3, int)), model.params)


SITES = [0, 1, 2, 4, 5, 6]  # the atoms of two molecules of four-site water that are no sites


def write_dimer(folder: Path, factors=(1.0, 1.0), h5=False, **replaced) -> FitSystem:
    """Two molecules of water without their sites, labelled by tip4pew; returns what should be read."""
    topology, field, x = waters(), ForceField("tip4pew.xml"), frames_of(3)
    points = jnp.asarray(np.random.default_rng(1).normal(scale=0.1, size=(3, 4, 3)) + np.array([0.0, 0.5, 0.1]))
    none = {name: jnp.zeros(3) for name in ("energy", "interaction")}
    empty = FitSystem(
        potential=field.create_potential(topology),
        positions=jnp.asarray(x),
        forces=jnp.zeros((3, 6, 3)),
        dipole=jnp.zeros((3, 3)),
        esp=jnp.zeros((3, 4)),
        esp_points=points,
        real=jnp.array(SITES),
        fragments=fragments_of(field, topology, [0, 0, 0, 1, 1, 1], SITES),
        **none,
    )
    found = jax.jit(predictions)(empty, field.params(), ALL)
    full = replace(empty, **{"forces" if name == "force" else name: values for name, values in found.items()})
    length, energy = factors  # of the unit of the files in nm and kJ/mol
    arrays = {
        "coord": x[:, SITES] / length,
        "energy": full.energy / energy,
        "force": full.forces / (energy / length),
        "dipole": full.dipole / length,
        "esp": full.esp / energy,
        "esp_grid": points / length,
        "interaction": full.interaction / energy,
    } | replaced
    texts = {"type.raw": [1, 0, 0, 1, 0, 0], "type_map.raw": ["H", "O"], "fragment.raw": [0, 0, 0, 1, 1, 1]}
    npy = {name: np.asarray(values).reshape(3, -1) for name, values in arrays.items() if values is not None}
    flat = {f"set.000/{name}": values for name, values in npy.items() if "." not in name}
    if h5:
        with h5py.File(folder / "dimer.hdf5", "w") as file:
            for name, words in texts.items():
                file[name] = words
            file["nopbc"] = 1
            for name, values in flat.items():
                file[f"{name}.npy"] = values
        return full
    (folder / "set.000").mkdir(parents=True)
    (folder / "nopbc").touch()
    for name, words in texts.items():
        if (words := replaced.get(name, words)) is not None:
            (folder / name).write_text("\n".join(map(str, words)))
    for name, values in flat.items():
        np.save(folder / name, values)
    return full


def read_dimer(path, **options) -> FitSystem:
    topology, field = waters(), ForceField("tip4pew.xml")
    (found,) = read_frames(
        str(path), topology, field.create_potential(topology), field.params(), part=field.create_potential, **options
    )
    return found


@pytest.mark.parametrize("where", ["npy", "hdf5", "kJ/mol/nm"])
def test_all_labels_of_four_site_water_are_read_without_its_sites(tmp_path, where):
    """The force field that made them leaves no residuals."""
    si = where == "kJ/mol/nm"
    factors = (1.0, 1.0) if si else (units.NM_PER_ANGSTROM, units.KJ_PER_MOL_PER_EV)
    full = write_dimer(tmp_path, factors, h5=where == "hdf5")
    path = tmp_path / "dimer.hdf5" if where == "hdf5" else tmp_path
    system = read_dimer(path, units="kJ/mol/nm" if si else "eV/Angstrom")
    assert set(system.labels) == set(ALL.targets)
    np.testing.assert_array_equal(system.real, SITES)
    np.testing.assert_allclose(system.esp_points, full.esp_points, rtol=1e-14)
    for name, values in full.labels.items():
        np.testing.assert_allclose(system.labels[name], values, rtol=1e-12)
    if where == "npy":
        for name, left in jax.jit(residuals)(system, ForceField("tip4pew.xml").params(), ALL).items():
            np.testing.assert_allclose(left, 0.0, atol=1e-8, err_msg=name)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"esp_grid": None}, r"a potential needs esp.npy .* there is esp.npy \(3, 4\)\.$"),
        ({"esp": np.zeros((3, 5))}, r"there is esp.npy \(3, 5\) and esp_grid.npy \(3, 4, 3\)"),
        ({"esp_grid": np.zeros((3, 12))}, r"frame 0: point 0 of esp_grid.npy is 0 Å from atom 0"),
        ({"fragment.raw": [0, 0, 1]}, r"fragment.raw: holds 3 integers, but type.raw has 6 atoms"),
        ({"fragment.raw": None}, r"has interaction.npy, but no fragment.raw"),
        ({"dipole": np.zeros((3, 4))}, r"dipole.npy: has shape \(3, 4\), expected \(3, 3\)"),
    ],
)
def test_labels_that_make_no_sense(tmp_path, replaced, message):
    write_dimer(tmp_path, (units.NM_PER_ANGSTROM, units.KJ_PER_MOL_PER_EV), **replaced)
    with pytest.raises(InputError, match=message):
        read_dimer(tmp_path)


def ethanol(folder: Path, length=1.0, force=1.0, energy=1.0) -> Path:
    """Five frames of data/ethanol, their numbers times some factors; without forces if ``force`` is 0."""
    (folder / "set.000").mkdir(parents=True)
    for name in ("type.raw", "type_map.raw", "nopbc"):
        (folder / name).write_bytes((ETHANOL / name).read_bytes())
    for name, factor in (("coord", length), ("force", force), ("energy", energy)):
        if factor:
            np.save(folder / f"set.000/{name}.npy", factor * np.load(ETHANOL / f"set.000/{name}.npy")[:5])
    return folder


def test_sets_of_one_system_have_as_many_points(tmp_path):
    write_dimer(tmp_path, (units.NM_PER_ANGSTROM, units.KJ_PER_MOL_PER_EV))
    (tmp_path / "set.001").mkdir()
    for path in (tmp_path / "set.000").iterdir():
        values = np.load(path)
        np.save(tmp_path / "set.001" / path.name, values[:, :3] if path.stem == "esp" else values)
    with pytest.raises(InputError, match=r"esp.npy: frames of the shapes \(3,\) and \(4,\) in the sets of one system"):
        read_dimer(tmp_path)


BOHR, HARTREE = units.NM_PER_BOHR * 10.0, units.KJ_PER_MOL_PER_HARTREE / units.KJ_PER_MOL_PER_EV
KJ, KCAL = units.KJ_PER_MOL_PER_EV, units.KJ_PER_MOL_PER_EV / units.KJ_PER_KCAL


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"force": 10.0 * KJ},
            r"forces of the labels are \S+ times .* factor is 964.85, that of kJ/mol/nm read as eV/Å",
        ),
        ({"force": KJ}, "factor is 96.485, that of kJ/mol/Å read as eV/Å"),
        ({"force": KCAL}, "factor is 23.061, that of kcal/mol/Å read as eV/Å"),
        ({"force": BOHR / HARTREE}, "factor is 1/51.422, that of Hartree/bohr read as eV/Å"),
        ({"length": 1.0 / BOHR}, "covalent radii. The nearest known factor is 1.8897, that of bohr read as Å"),
        ({"length": 10.0}, r"are 1.17 nm apart on the average, 10.1 times .* No unit in use explains this factor\."),
        ({"force": 0.0, "energy": KJ}, "energies, without their mean, of the labels .* that of kJ/mol read as eV"),
        ({"energy": KCAL}, "energies, without their mean, of the labels .* that of kcal/mol read as eV"),
    ],
)
def test_wrong_units_are_noticed(tmp_path, factors, message):
    topology = app.PDBFile(str(ROOT / "data/ethanol/ethanol.pdb")).topology
    field = ForceField(ROOT / "data/ethanol/ethanol.xml")
    potential, params = field.create_potential(topology), field.params()
    path = str(ethanol(tmp_path / "wrong", **factors))
    with pytest.raises(InputError, match=message):
        read_frames(path, topology, potential, params)
    read_frames(path, topology, potential, params, check_units=False)
    right = {"force": 0.0} if factors.get("force") == 0.0 else {}
    read_frames(str(ethanol(tmp_path / "right", **right)), topology, potential, params)


def test_small_forces_of_relaxed_frames_are_no_other_unit(tmp_path):
    """They do not point along those of the force field."""
    topology = app.PDBFile(str(ROOT / "data/ethanol/ethanol.pdb")).topology
    field = ForceField(ROOT / "data/ethanol/ethanol.xml")
    folder = ethanol(tmp_path / "relaxed")
    path = folder / "set.000/force.npy"
    np.save(path, np.random.default_rng(1).normal(scale=0.01, size=np.load(path).shape))
    read_frames(str(folder), topology, field.create_potential(topology), field.params())


def ethanol_with_field():
    """The topology of ethanol, its potential, and its parameters."""
    topology = app.PDBFile(str(ROOT / "data/ethanol/ethanol.pdb")).topology
    field = ForceField(ROOT / "data/ethanol/ethanol.xml")
    return topology, field.create_potential(topology), field.params()


def test_gradients_are_no_forces(tmp_path):
    """Whatever their unit is, but not if they are few and small, as where the reference has relaxed a frame."""
    given = ethanol_with_field()
    path = str(ethanol(tmp_path / "wrong", force=-1.0))
    with pytest.raises(
        InputError, match=r"forces of the labels point against .* cosine of -0.9\d .* are they gradients"
    ):
        read_frames(path, *given)
    with pytest.raises(InputError, match=r"point against"):
        read_frames(str(ethanol(tmp_path / "twice", force=-1.0 / 964.0)), *given)
    read_frames(path, *given, check_units=False)
    read_frames(path, *given, targets=("energy",))
    few = ethanol(tmp_path / "few", force=-1e-4)
    for name in ("coord", "force", "energy"):
        np.save(few / f"set.000/{name}.npy", np.load(few / f"set.000/{name}.npy")[:1])
    read_frames(str(few), *given)


@pytest.mark.parametrize("label", ["dipole", "esp"])
def test_charges_of_the_other_sign(tmp_path, label):
    write_dimer(tmp_path, (units.NM_PER_ANGSTROM, units.KJ_PER_MOL_PER_EV))
    path = tmp_path / f"set.000/{label}.npy"
    np.save(path, -np.load(path))
    with pytest.raises(
        InputError, match=r"labels point against .* with a cosine of -1\.00 .* if they are right, switch"
    ):
        read_dimer(tmp_path)


@pytest.mark.parametrize("charge", [0.6, 1.0, 1.4])
def test_points_of_a_potential_in_another_unit(tmp_path, charge):
    """Whatever the size of the charges at the start is, within what they are wrong by."""
    topology, potential, params = ethanol_with_field()
    nonbonded = params["NonbondedForce"]
    params["NonbondedForce"] = {**nonbonded, "charge": charge * nonbonded["charge"]}
    shutil.copytree(ROOT / "data/ethanol_esp", tmp_path / "esp")
    read_frames(str(tmp_path / "esp"), topology, potential, params)
    path = tmp_path / "esp/set.000/esp_grid.npy"
    np.save(path, np.load(path) / BOHR)
    with pytest.raises(InputError, match=r"In bohr it were 1\.\d, as usual, .* are the points in bohr, and not in Å"):
        read_frames(str(tmp_path / "esp"), topology, potential, params)
    read_frames(str(tmp_path / "esp"), topology, potential, params, targets=("dipole",))


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 8)])
def test_atoms_in_another_order(tmp_path, one, other):
    """Two carbons, or hydrogens of carbon and oxygen, in each other's place: some bond is off in every frame."""
    given, folder = ethanol_with_field(), ethanol(tmp_path)
    for name in ("coord", "force"):
        path = folder / f"set.000/{name}.npy"
        values = np.load(path).reshape(5, 9, 3)
        values[:, [one, other]] = values[:, [other, one]]
        np.save(path, values.reshape(5, -1))
    told = rf"atoms (?=.*\b({one}|{other})\b)\d \(\w\) and \d \(\w\) are bonded in the topology .* in the order of"
    with pytest.raises(InputError, match=told):
        read_frames(str(folder), *given)


def test_a_bond_that_breaks_is_in_order(tmp_path):
    """In one frame it is as it should be."""
    given, folder = ethanol_with_field(), ethanol(tmp_path, force=0.0, energy=0.0)
    path = folder / "set.000/coord.npy"
    x = np.load(path).reshape(5, 9, 3)
    oxygen = next(k for k, atom in enumerate(given[0].atoms()) if atom.element.symbol == "O")
    (h,) = (b.index for a, b in given[0].bonds() if a.index == oxygen and b.element.symbol == "H")
    away = x[:, h] - x[:, oxygen]
    x[1:, h] += away[1:] * np.arange(1.0, 5.0)[:, None]
    np.save(path, x.reshape(5, -1))
    read_frames(str(folder), *given)


def test_total_energies_are_no_energies_of_a_force_field(tmp_path):
    """They are 30 000 kJ/mol from them, unless a constant is free."""
    given, folder = ethanol_with_field(), str(ethanol(tmp_path))
    with pytest.raises(InputError, match=r"energies of the labels are -29\d{3} kJ/mol on the average, .*relative true"):
        read_frames(folder, *given, relative=False)
    read_frames(folder, *given, relative=False, targets=("force",))
    read_frames(folder, *given, relative=False, check_units=False)
    path = tmp_path / "set.000/energy.npy"
    np.save(path, np.load(path) - np.load(path).mean())
    read_frames(folder, *given, relative=False)


def test_a_folder_stands_for_itself_alone(tmp_path):
    topology = app.PDBFile(str(ROOT / "data/ethanol/ethanol.pdb")).topology
    field = ForceField(ROOT / "data/ethanol/ethanol.xml")
    for folder in (tmp_path, tmp_path / "below"):
        ethanol(folder)
    found = find_systems(str(tmp_path))
    assert [one.name for one in found] == [str(tmp_path), str(tmp_path / "below")]
    for one in found:
        (system,) = read_frames([one], topology, field.create_potential(topology), field.params())
        assert system.name == one.name


DEBYE = units.NM_PER_ANGSTROM / units.E_NM_PER_DEBYE


@pytest.mark.parametrize(
    ("label", "factor", "message"),
    [
        ("dipole", DEBYE, r"dipoles of the labels are 4.8 times .* factor is 4.8032, that of Debye read as e Å"),
        ("esp", 1.0 / HARTREE, r"potentials of the labels are 0.0367 times .* that of Hartree/e read as V"),
        ("esp", KCAL, r"that of kcal/mol/e read as V"),
        ("interaction", KJ, r"interaction energies of the labels .* that of kJ/mol read as eV"),
        ("interaction", 1.0 / HARTREE, r"interaction energies of the labels .* that of Hartree read as eV"),
    ],
)
def test_wrong_units_of_what_is_compared_are_noticed(tmp_path, label, factor, message):
    """And nothing is said of labels that the fit leaves out."""
    write_dimer(tmp_path, (units.NM_PER_ANGSTROM, units.KJ_PER_MOL_PER_EV))
    path = tmp_path / f"set.000/{label}.npy"
    np.save(path, factor * np.load(path))
    with pytest.raises(InputError, match=message):
        read_dimer(tmp_path)
    read_dimer(tmp_path, targets=("energy", "force"))
    read_dimer(tmp_path, check_units=False)


def test_fragments_matter_to_interactions_only(tmp_path):
    write_dimer(tmp_path, (units.NM_PER_ANGSTROM, units.KJ_PER_MOL_PER_EV), **{"fragment.raw": None})
    assert not read_dimer(tmp_path, targets=("energy",)).fragments
    with pytest.raises(InputError, match=r"has interaction.npy, but no fragment.raw"):
        read_dimer(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "pdb", "xml"),
    [
        ("ethanol", "ethanol/ethanol.pdb", "ethanol/ethanol.xml"),
        ("ethanol_esp", "ethanol/ethanol.pdb", "ethanol/ethanol.xml"),
        ("butane", "butane/butane.pdb", "butane/butane.xml"),
        ("water_dimer", "water_dimer/water_dimer.pdb", "tip3p.xml"),
        ("dialanine", "dialanine/dialanine.pdb", "amber14/protein.ff14SB.xml"),
    ],
)
def test_no_alarm_is_false(folder, pdb, xml):
    data = ROOT / "data"
    topology = app.PDBFile(str(data / pdb)).topology
    field = ForceField(data / xml if (data / xml).is_file() else xml)
    potential = field.create_potential(topology)
    read_frames(str(data / folder), topology, potential, field.params(), part=field.create_potential)
