"""Extended XYZ is read as ASE and other programs write it, with the signs that finite differences demand."""

import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from diffff.data.folders import find_systems
from diffff.data.systems import data_type_map, read_systems
from diffff.errors import InputError

LABELS = ("energy", "force", "virial", "dipole", "interaction")
FORCES = "Properties=species:S:1:pos:R:3:{}:R:3"


def alloys(n_frames=3):
    """Frames of a strained, shaken and triclinic box of copper and gold, labelled by effective medium theory."""
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(n_frames):
        atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 1, 1)
        atoms.symbols[[1, 4, 5]] = "Au"
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    return frames


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def water_frames(*comments: str, columns: str = "") -> str:
    atoms = "".join(f"{atom} {columns}\n" for atom in ("O 0 0 0.12", "H 0 0.76 -0.48", "H 0 -0.76 -0.48"))
    return "".join(f"3\n{comment}\n{atoms}" for comment in comments)


def test_energies_forces_and_virials_are_derivatives_of_each_other(tmp_path):
    path = tmp_path / "alloys.xyz"
    ase.io.write(path, alloys())
    (system,) = read_systems(str(path), ["Au", "Cu"], labels=LABELS)
    assert (system.name, system.n_frames, system.layout) == (str(path), 3, (3, 5))
    assert system.labels.keys() == {"energy", "force", "virial"}
    positions, forces = system.in_file_order(system.positions), system.in_file_order(system.labels["force"])
    rng, h = np.random.default_rng(0), 3e-5

    def energy(x, box):
        atoms = Atoms(alloys(1)[0].symbols, x, cell=box, pbc=True)
        atoms.calc = EMT()
        return atoms.get_potential_energy()

    assert system.boxes is not None
    for frame, (x, box) in enumerate(zip(positions, system.boxes, strict=True)):
        assert system.labels["energy"][frame] == pytest.approx(energy(x, box), abs=1e-7)
        along = rng.normal(size=x.shape)
        slope = (energy(x + h * along, box) - energy(x - h * along, box)) / (2 * h)
        assert -np.sum(forces[frame] * along) == pytest.approx(slope, abs=1e-5)
        strain = rng.normal(size=(3, 3))
        strain = (strain + strain.T) / 2
        plus, minus = np.eye(3) + h * strain, np.eye(3) - h * strain
        slope = (energy(x @ plus, box @ plus) - energy(x @ minus, box @ minus)) / (2 * h)
        assert abs(slope) > 0.1
        assert -np.sum(system.labels["virial"][frame] * strain) == pytest.approx(slope, abs=1e-5)


def test_it_is_the_same_as_the_directory_of_arrays(tmp_path):
    frames = alloys()
    ase.io.write(tmp_path / "alloys.extxyz", frames)
    arrays = {
        "coord": [a.positions for a in frames],
        "box": [a.cell.array for a in frames],
        "energy": [a.get_potential_energy() for a in frames],
        "force": [a.get_forces() for a in frames],
        "virial": [-a.get_volume() * a.get_stress(voigt=False) for a in frames],
    }
    (tmp_path / "npy" / "set.000").mkdir(parents=True)
    for name, values in arrays.items():
        np.save(tmp_path / "npy" / "set.000" / f"{name}.npy", np.array(values).reshape(3, -1))
    (tmp_path / "npy" / "type_map.raw").write_text("Cu Au")
    (tmp_path / "npy" / "type.raw").write_text(" ".join(str(int(s == "Au")) for s in frames[0].symbols))
    (of_npy,) = read_systems(str(tmp_path / "npy"), ["Au", "Cu"])
    (of_xyz,) = read_systems(str(tmp_path / "alloys.extxyz"), ["Au", "Cu"])
    assert np.array_equal(of_xyz.order, of_npy.order)
    assert np.array_equal(of_xyz.types, of_npy.types)
    np.testing.assert_allclose(of_xyz.positions, of_npy.positions, atol=1e-7)
    np.testing.assert_allclose(of_xyz.boxes, of_npy.boxes, atol=1e-7)
    assert of_xyz.labels.keys() == of_npy.labels.keys()
    for name, values in of_npy.labels.items():
        np.testing.assert_allclose(of_xyz.labels[name], values, atol=1e-6)
    assert data_type_map(str(tmp_path / "alloys.extxyz")) == ["Cu", "Au"]


def test_frames_of_the_same_atoms_make_a_system(tmp_path):
    path = tmp_path / "all.xyz"
    water, ethanol, ice = molecule("H2O"), molecule("CH3CH2OH"), molecule("H2O", cell=[4, 5, 6], pbc=True)
    turned = water[[1, 0, 2]]
    frames = [water, ethanol, water, ice, ethanol, turned, ethanol]
    for number, atoms in enumerate(frames):
        frames[number] = atoms.copy()
        frames[number].calc = SinglePointCalculator(frames[number], energy=float(number))
    ase.io.write(path, frames)
    systems = read_systems([str(path)], ["O", "C", "H"], labels=LABELS)
    assert [system.name for system in systems] == [
        f"{path} (H2O, 2 frames from 0)",
        f"{path} (C2H6O, 3 frames)",
        f"{path} (H2O, 1 frame from 3)",
        f"{path} (H2O, 1 frame from 5)",
    ]
    assert [system.labels["energy"].tolist() for system in systems] == [[0, 2], [1, 4, 6], [3], [5]]
    assert [system.boxes is None for system in systems] == [True, True, False, True]
    np.testing.assert_allclose(systems[1].in_file_order(systems[1].positions)[0], ethanol.positions, atol=1e-7)
    assert [system.order.tolist() for system in (systems[0], systems[3])] == [[0, 1, 2], [1, 0, 2]]


@pytest.mark.parametrize("prefix", ["", "REF_", "dft_"])
@pytest.mark.parametrize("force", ["forces", "force"])
def test_the_spellings_of_labels(tmp_path, prefix, force):
    cell = 'pbc="T T T" Lattice="4 0 0 0 5 0 0 0 6"'
    rows = " ".join(str(0.1 * n) for n in (1, 2, 3, 2, 4, 5, 3, 5, 6))
    virial = f'{cell} {prefix}energy=-1.5 {prefix}virial="{rows}" {prefix}dipole="1 2 3" '
    text = water_frames(virial + FORCES.format(prefix + force), columns="0.5 0.25 -1")
    path = write(tmp_path / "w.xyz", text)
    (system,) = read_systems(path, ["O", "H"], labels=LABELS)
    assert system.labels["energy"].tolist() == [-1.5]
    assert system.labels["force"][0].tolist() == [[0.5, 0.25, -1]] * 3
    np.testing.assert_allclose(system.labels["virial"][0], [[0.1, 0.2, 0.3], [0.2, 0.4, 0.5], [0.3, 0.5, 0.6]])
    assert system.labels["dipole"].tolist() == [[1, 2, 3]]
    assert "dipole" not in read_systems(path, ["O", "H"])[0].labels  # a training of energies does not ask for it


def test_a_stress_of_six_numbers_is_in_the_order_of_voigt(tmp_path):
    cell = 'pbc="T T T" Lattice="4 0 0 0 5 0 0 0 6"'
    path = write(tmp_path / "w.xyz", water_frames(f'{cell} REF_stress="1 2 3 4 5 6"'))
    (system,) = read_systems(path, ["O", "H"])
    np.testing.assert_allclose(system.labels["virial"][0], -120.0 * np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]))


def test_left_handed_cells_have_a_positive_volume(tmp_path):
    path = write(tmp_path / "w.xyz", water_frames('Lattice="0 5 0 4 0 0 0 0 6" stress="1 0 0 0 1 0 0 0 1"'))
    (system,) = read_systems(path, ["O", "H"])
    np.testing.assert_allclose(system.labels["virial"][0], -120.0 * np.eye(3))


def test_virial_and_stress_together_have_to_agree(tmp_path):
    text = 'Lattice="4 0 0 0 5 0 0 0 6" stress="1 0 0 0 2 0 0 0 3" virial="{0}120 0 0 0 {0}240 0 0 0 {0}360"'
    (system,) = read_systems(write(tmp_path / "w.xyz", water_frames(text.format("-"))), ["O", "H"])
    np.testing.assert_allclose(system.labels["virial"][0], np.diag([-120.0, -240, -360]))
    with pytest.raises(InputError, match="frame 0: virial and stress contradict each other: virial xx is 120, but"):
        read_systems(write(tmp_path / "w.xyz", water_frames(text.format("+"))), ["O", "H"])


def test_plain_xyz_has_no_labels_and_no_box(tmp_path):
    (system,) = read_systems(write(tmp_path / "w.xyz", water_frames("made by hand", "another one")), ["O", "H"])
    assert (system.labels, system.boxes, system.n_frames) == ({}, None, 2)


def test_the_units_of_a_file_may_be_nm_and_kj_per_mol(tmp_path):
    cell = 'Lattice="0.4 0 0 0 0.5 0 0 0 0.6" energy=96.48533212331 stress="1 0 0 0 0 0 0 0 0"'
    text = "3\n" + cell + " " + FORCES.format("forces") + "\n"
    text += "".join(f"{atom} 964.8533212331 0 0\n" for atom in ("O 0 0 0.012", "H 0 0.076 -0.048", "H 0 -0.076 -0.048"))
    (system,) = read_systems(write(tmp_path / "w.xyz", text), ["O", "H"], units="kJ/mol/nm")
    assert system.boxes is not None
    np.testing.assert_allclose(system.boxes[0], np.diag([4, 5, 6]))
    np.testing.assert_allclose(system.positions[0, 1], [0, 0.76, -0.48])
    np.testing.assert_allclose(system.labels["energy"], 1.0)
    np.testing.assert_allclose(system.labels["force"][0], [[1, 0, 0]] * 3)
    np.testing.assert_allclose(system.labels["virial"][0, 0, 0], -0.12 / 96.48533212331)  # nm^3 kJ/mol/nm^3


def test_dimers_have_fragments_and_interactions(tmp_path):
    comment = "interaction=-0.2 Properties=species:S:1:pos:R:3:fragment:I:1"
    text = "2\n{0}\nHe 0 0 0 {1}\nHe 0 0 3 1\n".format
    path = write(tmp_path / "f.xyz", text(comment, 0) + text(comment, 0) + text(comment, 1))
    pairs, odd = read_systems(path, ["He"], labels=("interaction",))
    assert (pairs.name, odd.name) == (f"{path} (He2, 2 frames from 0)", f"{path} (He2, 1 frame from 2)")
    assert pairs.fragments is not None
    assert pairs.fragments.tolist() == [0, 1]
    assert pairs.labels["interaction"].tolist() == [-0.2, -0.2]
    (plain,) = read_systems(write(tmp_path / "w.xyz", water_frames("")), ["O", "H"])
    assert plain.fragments is None


CELL = 'Lattice="4 0 0 0 5 0 0 0 6"'
WRONG = {
    "label in some frames": (
        water_frames("energy=1", "energy=2", "comment=none"),
        "{f}: frame 2: has no energy, but frame 0 has. All frames of a file need the same labels; "
        "put the others into a file of their own.",
    ),
    "virial in some frames": (
        water_frames("energy=1", f'{CELL} energy=1 virial="1 0 0 0 1 0 0 0 1"', f"{CELL} energy=1"),
        "{f}: frame 2: has no virial, but frame 1 has.",
    ),
    "two names": (
        water_frames("energy=1 REF_energy=2"),
        "{f}: frame 0: has energy and REF_energy, which are names of one label. Remove one.",
    ),
    "stress without a volume": (
        water_frames('stress="1 0 0 0 1 0 0 0 1"'),
        "{f}: frame 0: has a stress, but no periodicity and so no volume. Remove the stress.",
    ),
    "periodic without a cell": (
        water_frames('pbc="T T T"'),
        "{f}: frame 0: is periodic, but has no cell of three vectors. Add Lattice, or set pbc to F F F.",
    ),
    "slab": (water_frames("energy=1", f'{CELL} pbc="T T F" energy=1'), "{f}: frame 1: periodic along a, b, c: yes, "),
    "not a number": (
        water_frames("energy=high"),
        "{f}: frame 0: energy is 'high', which is not a number.",
    ),
    "wrong shape": (
        water_frames('dipole="1 2"'),
        "{f}: frame 0: dipole has shape (2,), expected (3,).",
    ),
    "cut off": (water_frames("energy=1", "energy=2")[:-30], "{f}: ASE cannot read frame "),
    "no element": (water_frames("").replace("O", "OW"), "{f}: ASE cannot read frame 0 of it as extended XYZ: "),
    "empty": ("", "{f}: holds no frames."),
    "infinite": (
        water_frames("energy=1", "energy=inf"),
        "{f} (H2O, 2 frames: 0 to 1 of the file)/energy.npy: frame 1: the value is inf.",
    ),
    "overlap": (
        water_frames("energy=1") + "1\nenergy=1\nO 0 0 0\n" + water_frames("energy=1").replace("0.76", "0.01"),
        "{f} (H2O, 2 frames: 0, 2 of the file)/coord.npy: frame 1: atoms 1 and 2 are 0.02 Å apart",
    ),
    "unknown element": (
        water_frames("energy=1").replace("O", "S"),
        "{f}/type.raw: atom 0: the model has no element S; its type_map is O, H.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(tmp_path, case):
    text, message = WRONG[case]
    path = write(tmp_path / "f.xyz", text)
    with pytest.raises(InputError) as error:
        read_systems(path, ["O", "H"], labels=LABELS)
    assert str(error.value).startswith(message.format(f=path))


def test_ase_is_asked_for_by_the_name_of_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "w.xyz", water_frames("energy=1"))
    monkeypatch.setitem(sys.modules, "ase.io", None)
    with pytest.raises(InputError, match=r"w.xyz: ASE reads this format, .* pip install diffff\[ase\]"):
        find_systems(path)


def test_patterns_choose_among_directories_only(tmp_path):
    path = write(tmp_path / "w.xyz", water_frames("energy=1"))
    with pytest.raises(InputError, match=r"w.xyz: rglob_patterns works on directories only. Leave them out."):
        find_systems(path, ["*"])
