import dataclasses
import logging

import numpy as np
import pytest

from diffff.errors import InputError
from diffff.potentials.pairs import most_neighbors, pairs_within, slots_for, truncate
from diffff.train.neighbor_stat import all_pairs, count, neighbor_counts, neighbor_stat, resolve
from tests.train.reference_systems import STORED, SYSTEMS, make_model

RCUT = 3.5
COUNTS = neighbor_counts(SYSTEMS, RCUT, 3)


def save(system, folder):
    """The system on disk."""
    (folder / "set.000").mkdir(parents=True)
    np.save(folder / "set.000" / "coord.npy", system.positions.reshape(system.n_frames, -1))
    np.save(folder / "set.000" / "box.npy", system.boxes.reshape(-1, 9))
    np.savetxt(folder / "type.raw", system.types, fmt="%d")
    (folder / "type_map.raw").write_text("O H X")
    return folder


def test_counts_are_those_of_deepmd_kit():
    np.testing.assert_array_equal(COUNTS.most, STORED["most"])
    assert COUNTS.shortest == pytest.approx(STORED["shortest"], rel=1e-12)


def test_counting_pairs_that_are_there_gives_the_same():
    found = count(SYSTEMS, [all_pairs(system, RCUT) for system in SYSTEMS], 3)
    assert found.shortest == COUNTS.shortest
    np.testing.assert_array_equal(found.most, COUNTS.most)


def test_most_neighbors_by_hand():
    center, types = np.array([0, 0, 0, 2, 2]), np.array([1, 1, 0, 0, 0])
    np.testing.assert_array_equal(most_neighbors(center, types, 4, 3), [2, 2, 0])
    np.testing.assert_array_equal(most_neighbors(center[:0], types[:0], 4, 3), [0, 0, 0])


def test_pairs_are_the_real_ones_of_a_frame_with_empty_slots():
    system = SYSTEMS[3]
    assert system.real is not None
    for f, pairs in enumerate(all_pairs(system, RCUT)):
        assert system.real[f][pairs.center].all() and system.real[f][pairs.neighbor].all()
        atoms = np.flatnonzero(system.real[f])
        wanted = pairs_within(RCUT, system.positions[f][atoms], system.boxes[f])
        np.testing.assert_array_equal(pairs.center, atoms[wanted.center])
        np.testing.assert_array_equal(pairs.neighbor, atoms[wanted.neighbor])
        np.testing.assert_array_equal(pairs.shift, wanted.shift)
        np.testing.assert_allclose(pairs.dr, wanted.dr, atol=1e-14)


def test_pairs_of_chosen_frames():
    (second,) = all_pairs(SYSTEMS[0], RCUT, [1])
    np.testing.assert_array_equal(second.dr, all_pairs(SYSTEMS[0], RCUT)[1].dr)


def test_pairs_that_fit_into_the_slots_are_the_nearest():
    system, sel = SYSTEMS[0], (3, 5, 1)
    descriptor = make_model({"sel": sel}).descriptor
    for pairs in all_pairs(system, RCUT):
        kept = truncate(pairs, system.types, descriptor)
        assert kept.truncated == len(pairs.center) - len(kept.center) > 0
        for atom in range(len(system.types)):
            mine = np.flatnonzero(pairs.center == atom)
            mine = mine[np.argsort(np.linalg.norm(pairs.dr[mine], axis=1))][: sum(sel)]
            of_type = [mine[system.types[pairs.neighbor[mine]] == t][:n] for t, n in enumerate(sel)]
            wanted = np.sort(np.concatenate(of_type))
            np.testing.assert_array_equal(kept.dr[kept.center == atom], pairs.dr[wanted])
            np.testing.assert_array_equal(kept.shift[kept.center == atom], pairs.shift[wanted])


def test_pairs_that_all_fit_are_left_alone():
    pairs = all_pairs(SYSTEMS[0], RCUT)[0]
    assert truncate(pairs, SYSTEMS[0].types, make_model({"sel": [20, 28, 4]}).descriptor) is pairs


def test_truncation_is_refused_on_request():
    model = make_model({"sel": [3, 5, 1], "sel_overflow": "error"})
    with pytest.raises(InputError, match=r"descriptor\.sel is"):
        truncate(all_pairs(SYSTEMS[0], RCUT)[0], SYSTEMS[0].types, model.descriptor)


@pytest.mark.parametrize(
    ("sel", "most", "slots"),
    [("auto", [38, 72], (44, 80)), ("auto:1.0", [38, 72], (40, 72)), ("auto:1", [0, 1], (0, 4)), ("auto", [4], (4,))],
)
def test_automatic_slots(sel, most, slots):
    assert slots_for(sel, np.array(most)) == slots


@pytest.mark.parametrize("sel", ["all", "auto:", "auto:x", "auto:-1", "auto:0", "auto:inf", "auto:nan", "auto1.2"])
def test_a_sel_that_means_nothing_is_refused(sel):
    with pytest.raises(ValueError, match='is no rule for sel; give a list with one number per type, "auto"'):
        slots_for(sel, np.array([1, 2]))


def test_resolve_fills_in_types_and_slots():
    model = resolve(make_model({"sel": "auto"}, type_map=[]), ["O", "H", "X"], COUNTS)
    assert model.type_map == ("O", "H", "X")
    assert model.descriptor.slots == (8, 8, 0)


def test_resolve_keeps_what_is_given():
    model = make_model()
    assert resolve(model, ["H", "O"], COUNTS) == model
    assert resolve(model, ["H", "O"], None) == model


def test_automatic_slots_need_the_counts():
    with pytest.raises(InputError, match="skip-neighbor-stat"):
        resolve(make_model({"sel": "auto"}), ["O", "H", "X"], None)


def test_too_few_slots_are_reported(caplog):
    with caplog.at_level(logging.WARNING, "diffff"):
        resolve(make_model({"sel": [20, 6, 4]}), ["O", "H", "X"], COUNTS)
    assert "up to [5, 7, 0] neighbours" in caplog.text and "Set sel to [8, 8, 0]" in caplog.text


def test_too_few_slots_are_refused_on_request():
    with pytest.raises(InputError, match=r"up to \[5, 7, 0\] neighbours"):
        resolve(make_model({"sel": [20, 6, 4], "sel_overflow": "error"}), ["O", "H", "X"], COUNTS)


def test_lists_have_one_entry_per_type_and_all_errors_come_at_once():
    model = make_model({"sel": [4, 4], "exclude_types": [[0, 3]]}, {"atom_ener": [-1.0]}, type_map=[])
    with pytest.raises(InputError) as caught:
        resolve(model, ["O", "H", "X"], COUNTS)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "$.model.descriptor.sel",
        "$.model.fitting_net.atom_ener",
        "$.model.descriptor.exclude_types",
    ]
    with pytest.raises(InputError, match=r"preset_out_bias.energy: 2 entries, but there are 3 types: O H X"):
        resolve(make_model(preset_out_bias={"energy": [None, 1.0]}), ["O", "H", "X"], COUNTS)


def test_data_without_neighbours_are_refused():
    far = dataclasses.replace(SYSTEMS[2], positions=100.0 * SYSTEMS[2].positions)
    counts = neighbor_counts([far], RCUT, 3)
    assert counts.shortest == np.inf and counts.total == 0
    with pytest.raises(InputError, match="nothing to learn"):
        resolve(make_model({"sel": "auto"}), ["O", "H", "X"], counts)


def test_the_command_prints_the_counts(tmp_path):
    folder = save(SYSTEMS[0], tmp_path / "data")
    printed = neighbor_stat([str(tmp_path)], RCUT, None, False).splitlines()
    assert printed[1].startswith("min_nbor_dist: 0.") and printed[2].startswith("max_nbor_size: [")
    assert "types: O H X" in printed[0]
    assert "max_nbor_size: [" + str(STORED["most_mixed"][0]) in neighbor_stat(
        [str(folder)], RCUT, ["O", "H", "X"], True
    )
    assert "above 0.01, the cutoff" in neighbor_stat([str(folder)], 0.01, None, False)
    with pytest.raises(InputError, match="no cutoff"):
        neighbor_stat([str(folder)], 0.0, None, False)
