"""Training frames on the device: groups that share programs, and the vectors of their pairs."""

import dataclasses

import numpy as np
import pytest

from diffff.data.systems import read_systems
from diffff.train.frames import group_frames
from diffff.train.neighbor_stat import all_pairs, pair_tables
from diffff.train.pair_table import PairStore
from tests.train import small

RCUT = 3.0


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """Two alike, one without a box, one of type mixed_type, and one like the first without a virial."""
    data = tmp_path_factory.mktemp("data")
    small.write_system(data / "a", (3, 2), 2)
    small.write_system(data / "b", (2,), 2, seed=9)
    small.write_system(data / "c", (4,), 1, box=None)
    small.write_mixed_system(data / "d", [[0, 1, 1, -1], [1, 0, 1, 0], [1, -1, -1, 0]])
    small.write_system(data / "e", (2,), 2, leave_out=["virial"])
    return read_systems([str(data / name) for name in "abcde"], small.ELEMENTS)


@pytest.fixture(scope="module")
def pairs(systems):
    return [all_pairs(system, RCUT) for system in systems]


def whole_groups(systems, labels):
    tables, _ = pair_tables(systems, RCUT, 2, PairStore(np.inf))
    groups, places = group_frames(systems, tables, labels)
    return [group.frames(np.arange(group.n_frames)) for group in groups], places


@pytest.fixture(scope="module")
def grouped(systems):
    return whole_groups(systems, ["energy", "force", "virial"])


def test_systems_of_one_layout_and_the_same_labels_share_a_group(grouped):
    groups, places = grouped
    assert [(place.group, place.start) for place in places] == [(0, 0), (0, 5), (1, 0), (2, 0), (3, 0)]
    assert [group.layout for group in groups] == [(2, 4), (1, 2), (2, 2), (2, 4)]
    assert [len(group.positions) for group in groups] == [7, 4, 3, 2]
    assert [sorted(group.labels) for group in groups] == [["energy", "force", "virial"]] * 3 + [["energy", "force"]]


def test_each_frame_is_that_of_its_system(systems, grouped):
    groups, places = grouped
    for system, place in zip(systems, places, strict=True):
        chosen = np.arange(system.n_frames)[::-1]
        frames = groups[place.group].take(place.start + chosen)
        np.testing.assert_array_equal(frames.positions, system.positions[chosen])
        np.testing.assert_array_equal(frames.boxes, 0.0 if system.boxes is None else system.boxes[chosen])
        for name, values in frames.labels.items():
            np.testing.assert_array_equal(values, system.labels[name][chosen])
        if system.real is None:
            assert frames.real is None
            assert frames.n_real.tolist() == [len(system.types)] * len(chosen)
        else:
            np.testing.assert_array_equal(frames.real, system.real[chosen])
            assert frames.n_real.tolist() == [2, 4, 3]


def test_vectors_are_those_of_the_pairs(systems, pairs, grouped):
    groups, places = grouped
    for system, found, place in zip(systems, pairs, places, strict=True):
        group = groups[place.group]
        vectors = np.asarray(group.vectors())
        n_atoms = len(system.types)
        for f, frame in enumerate(found, start=place.start):
            n = len(frame.center)
            assert n > 0
            np.testing.assert_array_equal(group.center[f, :n], frame.center)
            np.testing.assert_array_equal(group.neighbor[f, :n], frame.neighbor)
            np.testing.assert_allclose(vectors[f, :n], frame.dr, atol=1e-14)
            assert np.all(np.asarray(group.center[f, n:]) == n_atoms)
            np.testing.assert_array_equal(vectors[f, n:], 0.0)


def test_atoms_may_have_wandered_through_many_boxes(systems, grouped):
    system = systems[0]
    far = system.positions.copy()
    far[:, 1] += 150 * system.boxes[:, 0] - 3000 * system.boxes[:, 2]
    moved = dataclasses.replace(system, positions=far)
    (group,), _ = whole_groups([moved], [])
    here = grouped[0][0]
    lengths = [np.sort(np.linalg.norm(g.vectors()[: system.n_frames], axis=2), axis=1) for g in (group, here)]
    assert lengths[0].shape == lengths[1].shape
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-9)


def test_a_frame_whose_atoms_see_nobody(tmp_path):
    small.write_system(tmp_path / "a", (2,), 1, box=np.diag([500.0, 600.0, 2000.0]))
    (system,) = read_systems([str(tmp_path / "a")], small.ELEMENTS)
    apart = dataclasses.replace(system, positions=system.positions * [[[1.0], [40.0], [90.0]]])
    (group,), _ = whole_groups([apart], ["energy"])
    assert np.all(np.asarray(group.center) == 3)
    np.testing.assert_array_equal(group.vectors(), 0.0)
