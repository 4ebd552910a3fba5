"""Systems are read into the right arrays, and what is wrong with them is said in one sentence."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from diffff.data.systems import data_type_map, read_systems
from diffff.errors import InputError
from tests.train.made_systems import ELEMENTS, WATER, to_hdf5, write_mixed_system, write_set, write_system


def read_one(path: Path, type_map=("O", "H"), **options):
    (system,) = read_systems(str(path), list(type_map), **options)
    return system


def load(path: Path, name: str, shape=()):
    values = np.concatenate([np.load(part / name) for part in sorted(path.glob("set.*"))])
    return values.reshape(len(values), *shape)


@pytest.fixture
def water(tmp_path):
    return write_system(tmp_path / "water", (3, 2))


# What the arrays hold.


def test_atoms_are_sorted_by_the_type_of_the_model(water):
    system = read_one(water, ["O", "H"])
    order = [1, 0, 2]  # H O H in the files; O H H in the model, equal ones in the order of the files
    assert system.types.tolist() == [0, 1, 1]
    assert system.layout == (1, 2)
    assert system.order.tolist() == order
    assert system.real is None
    assert (system.n_frames, system.n_atoms_file, system.set_sizes) == (5, 3, (3, 2))
    assert np.array_equal(system.positions, load(water, "coord.npy", (3, 3))[:, order])
    assert np.array_equal(system.labels["force"], load(water, "force.npy", (3, 3))[:, order])
    assert np.array_equal(system.labels["energy"], load(water, "energy.npy"))
    assert np.array_equal(system.labels["virial"], load(water, "virial.npy", (3, 3)))
    assert system.boxes is not None
    assert np.array_equal(system.boxes, load(water, "box.npy", (3, 3)))


def test_elements_without_atoms_have_an_empty_block(water):
    system = read_one(water, ["C", "H", "N", "O"])
    assert system.layout == (0, 2, 0, 1)
    assert system.types.tolist() == [1, 1, 3]


def test_order_is_undone(water):
    system = read_one(water)
    assert np.array_equal(system.in_file_order(system.labels["force"]), load(water, "force.npy", (3, 3)))
    some = np.array([4, 1])
    assert np.array_equal(system.in_file_order(system.positions[some], some), load(water, "coord.npy", (3, 3))[some])


def test_without_type_map_raw_the_types_are_those_of_the_model(water):
    (water / "type_map.raw").unlink()
    assert read_one(water, ["O", "H"]).types.tolist() == [0, 0, 1]


def test_unused_elements_of_the_data_need_not_be_known(water):
    (water / "type_map.raw").write_text("H O Xe")
    assert read_one(water, ["O", "H"]).layout == (1, 2)


@pytest.mark.parametrize("precision", ["float16", "float32", "float64", ">f8", "int64"])
def test_every_precision_becomes_float64(water, precision):
    for part in water.glob("set.*"):
        np.save(part / "energy.npy", np.arange(len(np.load(part / "energy.npy"))).astype(precision))
    energy = read_one(water).labels["energy"]
    assert energy.dtype == np.float64
    assert energy.tolist() == [0, 1, 2, 0, 1]


def test_energies_may_be_a_column_and_vectors_unflattened(water):
    expected = read_one(water)
    for part in water.glob("set.*"):
        for name, shape in {"energy": (-1, 1), "force": (-1, 3, 3), "box": (-1, 3, 3), "coord": (-1, 3, 3)}.items():
            np.save(part / f"{name}.npy", np.load(part / f"{name}.npy").reshape(shape))
    system = read_one(water)
    assert np.array_equal(system.positions, expected.positions)
    assert all(np.array_equal(system.labels[name], expected.labels[name]) for name in expected.labels)


def test_a_single_frame_may_lack_the_frame_axis(tmp_path):
    path = write_system(tmp_path / "one", (1,))
    expected = read_one(path)
    for file in path.glob("set.000/*.npy"):
        np.save(file, np.load(file)[0])
    system = read_one(path)
    assert system.n_frames == 1
    assert np.array_equal(system.positions, expected.positions)
    assert all(np.array_equal(system.labels[name], expected.labels[name]) for name in expected.labels)


@pytest.mark.parametrize("box", [np.zeros(9), np.eye(3).ravel(), None])
def test_nopbc_ignores_the_box(water, box):
    (water / "nopbc").touch()
    for part in water.glob("set.*"):
        (part / "box.npy").unlink()
        if box is not None:
            np.save(part / "box.npy", np.tile(box, (len(np.load(part / "coord.npy")), 1)))
    assert read_one(water).boxes is None


def test_left_handed_boxes_are_turned_without_changing_the_lattice(water):
    boxes = np.tile(np.array([[0.0, 8, 0], [7, 0, 0], [0, 0, 9]]), (3, 1, 1))
    boxes[1] = np.diag([7.0, 8, 9])
    np.save(water / "set.000/box.npy", boxes.reshape(3, 9))
    read = read_one(water).boxes
    assert read is not None
    assert (np.linalg.det(read) > 0).all()
    assert np.array_equal(read[0], [[0, 8, 0], [7, 0, 0], [0, 0, -9]])
    assert np.array_equal(read[1], boxes[1])


@pytest.mark.parametrize("label", ["atom_ener", "atom_pref", "atom_ener_coeff"])
@pytest.mark.parametrize("prefix", ["atom_", "atomic_"])
def test_labels_of_atoms_under_both_names(water, label, prefix):
    values = np.arange(15.0).reshape(5, 3)
    file = prefix + label.removeprefix("atom_") + ".npy"
    np.save(water / "set.000" / file, values[:3])
    np.save(water / "set.001" / file, values[3:])
    assert np.array_equal(read_one(water).labels[label], values[:, [1, 0, 2]])


def test_parameters_and_generalised_coordinates(water):
    rng = np.random.default_rng(0)
    for part, size in (("set.000", 3), ("set.001", 2)):
        for name, width in {"fparam": 2, "aparam": 3 * 4, "drdq": 9 * 2}.items():
            np.save(water / part / f"{name}.npy", rng.normal(size=(size, width)))
    system = read_one(water, numb_fparam=2, numb_aparam=4, numb_generalized_coord=2)
    assert np.array_equal(system.labels["fparam"], load(water, "fparam.npy", (2,)))
    assert np.array_equal(system.labels["aparam"], load(water, "aparam.npy", (3, 4))[:, [1, 0, 2]])
    assert np.array_equal(system.labels["drdq"], load(water, "drdq.npy", (3, 3, 2))[:, [1, 0, 2]])
    assert not {"fparam", "aparam", "drdq"} & set(read_one(water).labels)


def test_default_fparam_fills_in_for_missing_files(water):
    filled = read_one(water, numb_fparam=2, default_fparam=[0.5, -1.0]).labels["fparam"]
    assert np.array_equal(filled, np.tile([0.5, -1.0], (5, 1)))
    np.save(water / "set.000/fparam.npy", np.ones((3, 2)))
    np.save(water / "set.001/fparam.npy", np.ones((2, 2)))
    assert np.array_equal(read_one(water, numb_fparam=2, default_fparam=[0.5, -1.0]).labels["fparam"], np.ones((5, 2)))


def test_only_the_labels_asked_for_are_read(water):
    np.save(water / "set.000/virial.npy", np.ones(1))
    assert set(read_one(water, labels=["energy"]).labels) == {"energy"}


def test_numb_copy(tmp_path):
    path = write_system(tmp_path / "s", (3,))
    np.save(path / "set.000/numb_copy.npy", np.array([[2], [0], [1]]))
    assert read_one(path).labels["numb_copy"].tolist() == [2, 0, 1]


def test_mixed_types_get_one_block_per_type(tmp_path):
    types = [[1, 0, -1], [0, 0, 1], [1, 1, 0], [-1, 1, 1]]  # H = 0, O = 1 in the files
    path = write_mixed_system(tmp_path / "mixed", types, (3, 1))
    system = read_one(path, ["O", "H"])
    assert system.layout == (2, 2)
    assert system.types.tolist() == [0, 0, 1, 1]
    assert system.order.tolist() == [[0, -1, 1, -1], [2, -1, 0, 1], [0, 1, 2, -1], [1, 2, -1, -1]]
    assert system.real is not None
    assert np.array_equal(system.real, system.order >= 0)
    coord, force = load(path, "coord.npy", (3, 3)), load(path, "force.npy", (3, 3))
    for frame, slot in np.argwhere(system.real):
        assert np.array_equal(system.positions[frame, slot], coord[frame, system.order[frame, slot]])
        assert np.array_equal(system.labels["force"][frame, slot], force[frame, system.order[frame, slot]])
    assert not system.positions[~system.real].any()
    back = system.in_file_order(system.positions)
    virtual = np.array(types) < 0
    assert np.array_equal(back[~virtual], coord[~virtual])
    assert not back[virtual].any()


def test_virtual_atoms_may_sit_on_other_atoms(tmp_path):
    path = write_mixed_system(tmp_path / "mixed", [[0, 1, -1]] * 3, (3,))
    np.save(path / "set.000/coord.npy", np.tile(WATER[[0, 1, 1]].ravel(), (3, 1)))
    assert read_one(path).layout == (1, 1)


def test_type_map_of_the_data_is_in_order_of_appearance(tmp_path):
    first, second = write_system(tmp_path / "a"), write_system(tmp_path / "b")
    (second / "type_map.raw").write_text("O C H")
    assert data_type_map([str(first), str(second)]) == ["H", "O", "C"]
    (second / "type_map.raw").unlink()
    with pytest.raises(InputError, match=r"has no type_map\.raw"):
        data_type_map([str(first), str(second)])


def test_hdf5_holds_the_same_system(water, tmp_path):
    file = tmp_path / "all.hdf5"
    to_hdf5(water, file, "/deep/water")
    expected, system = read_one(water), read_one(Path(f"{file}#/deep/water"))
    assert system.name == f"{file}#/deep/water"
    assert system.set_sizes == expected.set_sizes
    assert np.array_equal(system.types, expected.types)
    assert np.array_equal(system.positions, expected.positions)
    assert all(np.array_equal(system.labels[name], expected.labels[name]) for name in expected.labels)


def test_reading_is_fast_enough(tmp_path):
    rng = np.random.default_rng(0)
    grid = 2.0 * np.stack(np.meshgrid(*[np.arange(6.0)] * 3), axis=-1).reshape(-1, 3)[:192]
    path = tmp_path / "large"
    write_set(path / "set.000", 200)
    (path / "type.raw").write_text(" ".join(["0", "1", "1"] * 64))
    np.save(path / "set.000/coord.npy", (grid + rng.uniform(-0.5, 0.5, (200, 192, 3))).reshape(200, -1))
    np.save(path / "set.000/box.npy", np.tile(12.0 * np.eye(3).ravel(), (200, 1)))
    start = time.process_time()
    assert read_one(path, labels=["energy"]).positions.shape == (200, 192, 3)
    assert time.process_time() - start < 2.0


# What can be wrong: a change to a good system, and what is printed. {s} is the system, {0} and {1} its sets.


def save(file: str, change):
    def spoil(system: Path):
        path = system / file
        np.save(path, change(np.load(path) if path.is_file() else None))

    return spoil


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


def write(file: str, text: str):
    return lambda system: (system / file).write_text(text)


def remove(*files: str):
    return lambda system: [(system / file).unlink() for file in files]


def both(*spoils):
    return lambda system: [spoil(system) for spoil in spoils]


def remove_sets(system: Path):
    for part in system.glob("set.*"):
        part.rename(system / part.name.replace("set", "old"))


def pickled(system: Path):
    np.save(system / "set.000/energy.npy", np.array([1.0, "a", None], dtype=object), allow_pickle=True)


def raw_pickle(system: Path):
    (system / "set.000/energy.npy").write_bytes(pickle.dumps([1.0, 2.0, 3.0]))


def cut_off(system: Path):
    path = system / "set.000/force.npy"
    path.write_bytes(path.read_bytes()[:-40])


def on_top_through_the_box(array):
    array[1, 3:6] = array[1, 0:3] + [8.0, 0.0, 0.1]  # atom 1 sits 0.1 Å from an image of atom 0
    return array


BAD = {
    "no set": (remove_sets, "{s}: has no set.* directory, such as set.000, that holds coord.npy and labels."),
    "no coord": (remove("set.001/coord.npy"), "{1}/coord.npy: the file is missing."),
    "no box": (
        remove("set.000/box.npy"),
        "{0}/box.npy: the file is missing. Add it, or, if the system is not periodic, put an empty file named nopbc",
    ),
    "coord too narrow": (
        save("set.000/coord.npy", lambda a: a[:, :6]),
        "{0}/coord.npy: has shape (3, 6), expected (n_frames, 9): type.raw has 3 atoms.",
    ),
    "one atom's coord": (
        save("set.000/coord.npy", lambda a: a.reshape(-1, 3)),
        "{0}/coord.npy: has shape (9, 3), expected (n_frames, 9): type.raw has 3 atoms.",
    ),
    "empty set": (save("set.001/coord.npy", lambda a: a[:0]), "{1}/coord.npy: holds no frames. Remove the empty set."),
    "fewer energies": (
        save("set.000/energy.npy", lambda a: a[:2]),
        "{0}/energy.npy: has shape (2,), expected (3, 1): coord.npy has 3 frames.",
    ),
    "energies per atom": (
        save("set.000/energy.npy", lambda a: np.ones((3, 3))),
        "{0}/energy.npy: has shape (3, 3), expected (3, 1): coord.npy has 3 frames.",
    ),
    "scalar energy": (
        save("set.000/energy.npy", lambda a: a[0]),
        "{0}/energy.npy: has shape (), expected (3, 1): coord.npy has 3 frames.",
    ),
    "fewer forces": (
        save("set.000/force.npy", lambda a: a[:2]),
        "{0}/force.npy: has shape (2, 9), expected (3, 9): coord.npy has 3 frames, type.raw has 3 atoms.",
    ),
    "Voigt virial": (
        save("set.000/virial.npy", lambda a: a[:, :6]),
        "{0}/virial.npy: has shape (3, 6), expected (3, 9): coord.npy has 3 frames.",
    ),
    "box of lengths": (
        save("set.000/box.npy", lambda a: a[:, :3]),
        "{0}/box.npy: has shape (3, 3), expected (3, 9): coord.npy has 3 frames.",
    ),
    "NaN force": (
        save("set.001/force.npy", put((1, 7), np.nan)),
        "{1}/force.npy: frame 1, atom 2: the value is nan. Correct or remove the frame (counted from 0).",
    ),
    "infinite energy": (
        save("set.000/energy.npy", put(2, -np.inf)),
        "{0}/energy.npy: frame 2: the value is -inf. Correct or remove the frame (counted from 0).",
    ),
    "NaN coord": (
        save("set.000/coord.npy", put((0, 3), np.nan)),
        "{0}/coord.npy: frame 0, atom 1: the value is nan.",
    ),
    "NaN box": (save("set.000/box.npy", put((1, 0), np.nan)), "{0}/box.npy: frame 1: the value is nan."),
    "no volume": (
        save("set.001/box.npy", put(1, 0.0)),
        "{1}/box.npy: frame 1: the box has no volume (its rows are (0 0 0), (0 0 0), (0 0 0) Å). "
        "If the system is not periodic, put an empty file named nopbc beside type.raw.",
    ),
    "flat box": (
        save("set.000/box.npy", put(2, [8, 0, 0, 0, 8, 0, 8, 8, 0])),
        "{0}/box.npy: frame 2: the box has no volume (its rows are (8 0 0), (0 8 0), (8 8 0) Å).",
    ),
    "thin box": (
        save("set.000/box.npy", put((0, 8), 0.2)),
        "{0}/box.npy: frame 0: the box is only 0.2 Å thick. Is it in Å?",
    ),
    "overlap": (
        save("set.001/coord.npy", put(1, [1, 1, 1, 5, 5, 5, 1.0, 1.2, 1.0])),
        "{1}/coord.npy: frame 1: atoms 0 and 2 are 0.2 Å apart, less than 0.3 Å.",
    ),
    "overlap through the box": (
        save("set.000/coord.npy", on_top_through_the_box),
        "{0}/coord.npy: frame 1: atoms 0 and 1 are 0.1 Å apart, less than 0.3 Å. Are coordinates and box in Å? "
        "Otherwise remove the frame (counted from 0).",
    ),
    "nanometres": (save("set.000/coord.npy", lambda a: a / 10), "{0}/coord.npy: frame 0: atoms 1 and 2 are 0.092"),
    "unknown element": (
        write("type_map.raw", "H Cl"),
        "{s}/type.raw: atom 1: the model has no element Cl; its type_map is O, H. "
        "Add the element there, or leave the system out.",
    ),
    "type beyond type_map.raw": (
        write("type.raw", "0 1 2"),
        "{s}/type.raw: atom 2: there is no type 2; the elements are H, O (type_map.raw, or the model's type_map where",
    ),
    "type beyond the model": (
        both(remove("type_map.raw"), write("type.raw", "0 1 5")),
        "{s}/type.raw: atom 2: there is no type 5; the elements are O, H (type_map.raw, or the model's type_map where",
    ),
    "virtual atom in type.raw": (
        write("type.raw", "0 1 -1"),
        "{s}/type.raw: atom 2: negative type. Virtual atoms (-1) are marked frame by frame in set.*/real_atom",
    ),
    "elements in type.raw": (
        write("type.raw", "H O H"),
        "{s}/type.raw: atom 0: 'H' is not an integer. type.raw holds one index per atom; "
        "the elements they stand for belong in type_map.raw.",
    ),
    "empty type.raw": (write("type.raw", "# none\n"), "{s}/type.raw: is empty. It must hold one integer per atom."),
    "binary type.raw": (
        lambda system: (system / "type.raw").write_bytes(b"\xff\xfe0"),
        "{s}/type.raw: cannot be read as text",
    ),
    "element twice": (
        write("type_map.raw", "H O H"),
        "{s}/type_map.raw: names H twice. Name each element once.",
    ),
    "label in one set only": (
        remove("set.001/force.npy"),
        "{1}/force.npy: missing, but another set has it. All sets need the same labels.",
    ),
    "two names of a label": (
        both(
            save("set.000/atom_ener.npy", lambda a: np.ones((3, 3))),
            save("set.000/atomic_ener.npy", lambda a: np.ones((3, 3))),
        ),
        "{0}: holds both atom_ener.npy and atomic_ener.npy, two names of one label. Remove one.",
    ),
    "mixed in one set only": (
        save("set.000/real_atom_types.npy", lambda a: np.zeros((3, 3))),
        "{1}/real_atom_types.npy: the file is missing, but another set has it.",
    ),
    "negative copies": (
        both(
            save("set.000/numb_copy.npy", lambda a: np.array([1, -1, 1])),
            save("set.001/numb_copy.npy", lambda a: np.array([1, 1])),
        ),
        "{0}/numb_copy.npy: frame 1: -1 is not a whole number of copies.",
    ),
    "pickled array": (
        pickled,
        "{0}/energy.npy: holds pickled Python objects, which can run code when they are loaded, so it is not read. "
        "Save plain numbers: numpy.save(file, numpy.asarray(array, dtype=float)).",
    ),
    "pickle": (raw_pickle, "{0}/energy.npy: holds pickled Python objects, which can run code"),
    "text as npy": (
        write("set.000/energy.npy", "1.0 2.0 3.0"),
        "{0}/energy.npy: not a .npy file. Write it with numpy.save.",
    ),
    "empty npy": (write("set.000/energy.npy", ""), "{0}/energy.npy: not a .npy file. Write it with numpy.save."),
    "cut off": (cut_off, "{0}/force.npy: cannot be read ("),
    "complex": (
        save("set.000/energy.npy", lambda a: a + 1j),
        "{0}/energy.npy: holds complex128 values; real numbers are needed.",
    ),
    "strings": (
        save("set.000/energy.npy", lambda a: a.astype(str)),
        "{0}/energy.npy: holds <U32 values; real numbers are needed.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_systems(water, case):
    spoil, message = BAD[case]
    spoil(water)
    with pytest.raises(InputError) as error:
        read_one(water)
    expected = message.format(water / "set.000", water / "set.001", s=water)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


BAD_MIXED = {
    "unknown element": ([[0, 1, 2]], "frame 0, atom 2: there is no type 2; the elements are H, O (type_map.raw, or"),
    "below -1": (
        [[0, 1, 0], [0, -2, 1]],
        "frame 1, atom 1: -2 is neither an index into type_map.raw nor -1 (virtual).",
    ),
    "broken": ([[0.5, 1, 0]], "frame 0, atom 0: 0.5 is neither an index into type_map.raw nor -1 (virtual)."),
    "no atoms": ([[0, 0, 1], [-1, -1, -1]], "frame 1: all atoms are virtual. Remove the frame."),
}


@pytest.mark.parametrize("case", BAD_MIXED)
def test_bad_mixed_systems(tmp_path, case):
    types, message = BAD_MIXED[case]
    path = write_mixed_system(tmp_path / "mixed", types, (len(types),))
    with pytest.raises(InputError) as error:
        read_one(path)
    assert str(error.value).startswith(f"{path}/set.000/real_atom_types.npy: {message}")


def test_unknown_element_in_a_mixed_system(tmp_path):
    path = write_mixed_system(tmp_path / "mixed", [[0, 1, 0], [0, 0, 1]], (2,))
    (path / "type_map.raw").write_text("H Cl")
    with pytest.raises(InputError, match=r"frame 0, atom 1: the model has no element Cl; its type_map is H, O\."):
        read_one(path, ELEMENTS)


BAD_PARAMETERS = {
    "no fparam": ({}, {"numb_fparam": 2}, "{0}/fparam.npy: the file is missing, but the model has numb_fparam > 0."),
    "no aparam": ({}, {"numb_aparam": 1}, "{0}/aparam.npy: the file is missing, but the model has numb_aparam > 0."),
    "fparam too wide": (
        {"fparam": (3, 3)},
        {"numb_fparam": 2},
        "{0}/fparam.npy: has shape (3, 3), expected (3, 2): coord.npy has 3 frames.",
    ),
    "aparam per frame": (
        {"aparam": (3, 2)},
        {"numb_aparam": 2},
        "{0}/aparam.npy: has shape (3, 2), expected (3, 6): coord.npy has 3 frames, type.raw has 3 atoms.",
    ),
    "default too long": (
        {},
        {"numb_fparam": 1, "default_fparam": [1.0, 2.0]},
        "default_fparam: has 2 values, but numb_fparam is 1.",
    ),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
def test_bad_parameters(tmp_path, case):
    files, options, message = BAD_PARAMETERS[case]
    path = write_system(tmp_path / "s", (3,))
    for name, shape in files.items():
        np.save(path / f"set.000/{name}.npy", np.ones(shape))
    with pytest.raises(InputError) as error:
        read_one(path, **options)
    assert str(error.value) == message.format(path / "set.000")


# Units.


def test_nm_and_kj_per_mol_become_angstrom_and_ev(tmp_path):
    expected = read_one(write_system(tmp_path / "ev", (3, 2)))
    path = write_system(tmp_path / "kj", (3, 2))
    kj_per_ev = 96.48533212331  # CODATA 2018
    factors = {"coord": 0.1, "box": 0.1, "energy": kj_per_ev, "force": 10 * kj_per_ev, "virial": kj_per_ev}
    for name, factor in factors.items():
        for part in path.glob("set.*"):
            np.save(part / f"{name}.npy", factor * np.load(part / f"{name}.npy"))
    read = read_one(path, units="kJ/mol/nm")
    assert (read.types.tolist(), read.set_sizes) == (expected.types.tolist(), expected.set_sizes)
    np.testing.assert_allclose(read.positions, expected.positions, rtol=1e-12)
    np.testing.assert_allclose(read.boxes, expected.boxes, rtol=1e-12)
    assert read.labels.keys() == expected.labels.keys() == {"energy", "force", "virial"}
    for name, values in expected.labels.items():
        np.testing.assert_allclose(read.labels[name], values, rtol=1e-12)


def test_of_the_optional_labels_units_change_energies_and_dipoles_only(water):
    factors = {"atom_ener": 1 / 96.48533212331, "dipole": 10.0, "atom_pref": 1.0, "numb_copy": 1.0, "fparam": 1.0}
    values = {"atom_ener": (5, 3), "dipole": (5, 3), "atom_pref": (5, 3), "numb_copy": (5,), "fparam": (5, 2)}
    for name, shape in values.items():
        for part, frames in ("set.000", slice(3)), ("set.001", slice(3, 5)):
            np.save(water / part / f"{name}.npy", np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)[frames])
    options = {"labels": [*factors][:-1], "numb_fparam": 2}
    as_it_stands = read_one(water, **options)
    for part in water.glob("set.*"):
        np.save(part / "coord.npy", np.load(part / "coord.npy") / 10)
    with pytest.raises(InputError, match=r"coord.npy: frame 0: atoms 1 and 2 are .* apart"):
        read_one(water, **options)
    converted = read_one(water, **options, units="kJ/mol/nm")
    for name, factor in factors.items():
        np.testing.assert_allclose(converted.labels[name], factor * as_it_stands.labels[name], rtol=1e-12)
