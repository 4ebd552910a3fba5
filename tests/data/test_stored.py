"""Frames that stay in their files give the same numbers as those that are read into memory."""

import numpy as np
import pytest

from diffff.data.stored import Stored, blocks
from diffff.data.systems import read_systems
from diffff.errors import InputError
from tests.train.made_systems import to_hdf5, write_mixed_system, write_system


@pytest.fixture(params=["npy", "hdf5", "mixed"])
def both(request, tmp_path):
    """One system read in both ways, its atoms not in the order of the types."""
    name = str(tmp_path / "water")
    if request.param == "mixed":
        write_mixed_system(tmp_path / "water", [[0, 1, 1], [1, 0, -1], [1, -1, -1]], (2, 1))
    else:
        write_system(tmp_path / "water", (3, 4))
    if request.param == "hdf5":
        to_hdf5(tmp_path / "water", tmp_path / "water.hdf5", "water")
        name = f"{tmp_path / 'water.hdf5'}#/water"
    options = {"type_map": ["O", "H"], "units": "kJ/mol/nm"}
    return [read_systems([name], **options, stored_from=limit)[0] for limit in (np.inf, 0)]


def test_all_frames_and_some(both):
    here, there = both
    assert isinstance(there.positions, Stored)
    n, some = here.n_frames, np.array([2, 0, 2, 1])
    for given, wanted in ((there.positions, here.positions), *((there.labels[k], here.labels[k]) for k in here.labels)):
        assert given.shape == wanted.shape
        np.testing.assert_array_equal(np.asarray(given), wanted)
        for frames in (some, slice(1, n), slice(0, 0), np.array([], int)):
            np.testing.assert_array_equal(given[frames], wanted[frames])


@pytest.mark.parametrize("hdf5", [False, True])
def test_a_single_frame_without_its_axis(tmp_path, hdf5):
    write_system(tmp_path / "water", (1,))
    name = str(tmp_path / "water")
    for label, axes in (("coord", (-1,)), ("force", (-1, 3)), ("box", (3, 3)), ("energy", ()), ("virial", (9,))):
        path = tmp_path / "water" / "set.000" / f"{label}.npy"
        np.save(path, np.load(path).reshape(axes))
    if hdf5:
        to_hdf5(tmp_path / "water", tmp_path / "water.hdf5", "water")
        name = f"{tmp_path / 'water.hdf5'}#/water"
    here, there = (read_systems([name], ["O", "H"], stored_from=limit)[0] for limit in (np.inf, 0))
    for given, wanted in ((there.positions, here.positions), *((there.labels[k], here.labels[k]) for k in here.labels)):
        for frames in (slice(0, 1), np.array([0, 0]), np.array([], int)):
            np.testing.assert_array_equal(given[frames], wanted[frames])


def test_what_is_made_of_them(both):
    here, there = both
    twice = there.positions.then((len(there.positions), 3), lambda values: 2.0 * values.sum(axis=1))
    np.testing.assert_allclose(np.asarray(twice), 2.0 * here.positions.sum(axis=1))
    assert sum(len(block) for block in blocks(twice)) == here.n_frames


@pytest.mark.parametrize(("name", "error"), [("coord", "frame 5: the value"), ("force", "frame 5, atom 1: the value")])
def test_what_is_not_finite_is_found(tmp_path, monkeypatch, name, error):
    monkeypatch.setattr("diffff.data.folders._BLOCK", 20)  # two frames at once
    path = write_system(tmp_path / "water", (7,))
    file = path / "set.000" / f"{name}.npy"
    values = np.load(file)
    values.reshape(7, 3, 3)[5, 1, 2] = np.nan
    np.save(file, values)
    error = error.replace("frame 5:", "frame 5, atom 1:")
    with pytest.raises(InputError, match=error):
        read_systems([str(path)], ["O", "H"], stored_from=0)


def test_a_file_of_another_shape(tmp_path):
    path = write_system(tmp_path / "water", (7,))
    np.save(path / "set.000" / "force.npy", np.zeros((6, 9)))
    with pytest.raises(InputError, match=r"has shape \(6, 9\), expected \(7, 9\)"):
        read_systems([str(path)], ["O", "H"], stored_from=0)
