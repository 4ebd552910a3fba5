"""Which systems a path stands for."""

import h5py
import numpy as np
import pytest

from diffff.data.folders import find_systems
from diffff.errors import InputError
from tests.train.made_systems import to_hdf5, write_system


@pytest.fixture
def tree(tmp_path):
    for name in ("b/two", "b/one", "a", "a/inside"):
        write_system(tmp_path / name)
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(tree, paths, patterns=None):
    return [folder.name.removeprefix(f"{tree}/") for folder in find_systems(paths, patterns)]


def test_a_system_stands_for_itself(tree):
    assert names(tree, str(tree / "b/one")) == ["b/one"]


def test_a_directory_stands_for_the_systems_at_and_below_it(tree):
    assert names(tree, str(tree)) == ["a", "a/inside", "b/one", "b/two"]
    assert names(tree, [str(tree / "b"), str(tree / "a")]) == ["b/one", "b/two", "a", "a/inside"]


def test_a_link_to_a_system_is_found(tree):
    (tree / "empty" / "link").symlink_to(tree / "b/one")
    assert names(tree, str(tree / "empty")) == ["empty/link"]


def test_patterns_choose(tree):
    assert names(tree, str(tree), ["o*", "inside"]) == ["a/inside", "b/one"]
    assert names(tree, [str(tree)], ["t*", "two"]) == ["b/two"]


def test_groups_of_an_hdf5_file(tree):
    file = tree / "all.hdf5"
    for group in ("/x/two", "/x/one", "/y"):
        to_hdf5(tree / "a", file, group)
    assert names(tree, str(file)) == ["all.hdf5#/x/one", "all.hdf5#/x/two", "all.hdf5#/y"]
    assert names(tree, f"{file}#/x") == ["all.hdf5#/x/one", "all.hdf5#/x/two"]
    assert names(tree, [f"{file}#y", str(tree / "a/inside")]) == ["all.hdf5#/y", "a/inside"]


def test_hdf5_files_and_folders_look_alike(tree):
    to_hdf5(tree / "a", tree / "a.hdf5", "/")
    ((group,), (folder, _)) = find_systems(str(tree / "a.hdf5")), find_systems(str(tree / "a"))
    assert group.words("type_map.raw") == folder.words("type_map.raw") == ["H", "O"]
    assert group.words("type.raw") == folder.words("type.raw") == ["0", "1", "0"]
    assert "type.raw" in group
    assert "nopbc" not in group
    (group_set,), (folder_set,) = group.sets(), folder.sets()
    assert np.array_equal(group_set.array("force.npy"), folder_set.array("force.npy"))


@pytest.mark.parametrize(
    ("path", "patterns", "message"),
    [
        ("nowhere", None, "{t}/nowhere: no such file or directory (looked in "),
        ("empty", None, "{t}/empty: no system here: no directory at or below it holds a type.raw."),
        ("b", ["x*", "y"], "{t}/b: no system here: no directory at or below it that matches x* or y holds a type.raw."),
        ("a/type.raw", None, "{t}/a/type.raw: neither a directory nor an HDF5 file ("),
        ("all.hdf5#/z", None, "{t}/all.hdf5#/z: the file has no group of this name. At its top it holds: x."),
        ("all.hdf5#/x/set.000", None, "{t}/all.hdf5#/x/set.000: no system here: no group at or below it holds a type"),
        (
            "all.hdf5",
            ["x"],
            "{t}/all.hdf5: rglob_patterns works on directories only. Name the group, as in {t}/all.hdf5#/",
        ),
        ("lmdb", None, "{t}/lmdb: LMDB data is not read. Convert it to .npy sets or to HDF5."),
    ],
)
def test_paths_without_systems(tree, path, patterns, message):
    to_hdf5(tree / "a", tree / "all.hdf5", "/x")
    (tree / "lmdb").mkdir()
    (tree / "lmdb" / "data.mdb").touch()
    with pytest.raises(InputError) as error:
        find_systems(str(tree / path), patterns)
    assert str(error.value).startswith(message.format(t=tree))


def test_no_paths():
    with pytest.raises(InputError, match="the list is empty"):
        find_systems([])


def test_elements_in_hdf5_may_be_fixed_length_strings(tmp_path):
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["type.raw"] = np.array([0, 1])
        file["type_map.raw"] = np.array(["Na", "Cl"], dtype="S")
    (group,) = find_systems(str(tmp_path / "s.hdf5"))
    assert group.words("type_map.raw") == ["Na", "Cl"]
