"""Frames on the device and frames that are read as they are needed make the same training."""

import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train import checkpoint as ckpt
from diffff.train import setup
from diffff.train.sampling import Sampler
from tests.train import small


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    small.write_system(folder / "water", (3, 4), 2)
    small.write_mixed_system(folder / "mixed", [[0, 1, 1, -1], [1, 0, 1, 0], [1, -1, -1, 0], [1, 1, 1, 0]])
    small.write_system(folder / "valid", (3,), 2, seed=50)
    return folder


def changes(data, **more):
    return {
        "training.training_data": {"systems": [str(data / "water"), str(data / "mixed")], "batch_size": 2},
        "training.validation_data": {"systems": [str(data / "valid")], "batch_size": 2, "numb_btch": 2},
        "training.numb_steps": 8,
        "training.save_freq": 4,
        "training.disp_freq": 2,
        "validating": {"full_validation": True, "validation_freq": 3, "full_val_start": 0.1},
        **more,
    }


def test_the_training_is_the_same(data, tmp_path, monkeypatch):
    whole = small.train_in(tmp_path / "whole", changes(data))
    monkeypatch.setattr(setup, "_STORED_FROM", 0)
    monkeypatch.setattr(setup, "free_on_host", lambda devices: 0.0)  # pairs on disk
    streamed = small.train_in(tmp_path / "streamed", changes(data, **{"training.streaming": True}))
    one, other = (small.flat(ckpt.read(path).parts) for path in (whole, streamed))
    assert one.keys() == other.keys()
    for name, values in one.items():
        if not name.startswith("sampler"):
            np.testing.assert_allclose(other[name], values, rtol=1e-10, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(other[name], values, err_msg=name)
    for name in ("lcurve.out", "val.log"):
        assert (tmp_path / "streamed" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.slow
def test_a_streamed_run_goes_on_exactly(data, tmp_path):
    streamed = {"training.streaming": True}
    whole = small.train_in(tmp_path / "whole", changes(data, **streamed))
    assert small.digest(small.train_in(tmp_path / "two", changes(data, **streamed))) == small.digest(whole)
    again = small.train_in(tmp_path / "two", changes(data, **streamed), restart=tmp_path / "two/model.ckpt-4.h5")
    assert small.digest(again) == small.digest(whole)


@pytest.mark.parametrize("streaming", [False, True])
def test_systems_of_one_layout_with_and_without_empty_slots(data, tmp_path, streaming):
    """Two programs, though the shapes of their pairs and labels are the same."""
    small.write_mixed_system(tmp_path / "mixed", [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, -1], [0, 1, 1, -1, 1, 1]])
    systems = [str(data / "valid"), str(tmp_path / "mixed")]
    small.train_in(
        tmp_path, changes(data, **{"training.training_data.systems": systems, "training.streaming": streaming})
    )


def test_data_that_take_more_than_half_of_the_memory_are_streamed(data, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    for free, streamed in ((1e9, False), (9e3, True)):
        monkeypatch.setattr(setup, "free_on_device", lambda devices, free=free: free)
        problem = small.problem_of(tmp_path, changes(data))
        assert (problem.train.on_device is None) == (problem.valid.on_device is None) == streamed
        told = next(line for line in reversed(caplog.messages) if line.startswith("data: "))
        assert told.endswith("read as they are needed" if streamed else "kept on the device")
    with pytest.raises(InputError, match=r"the frames with their neighbour pairs take .*, and 9 kB are free\. Leave"):
        small.problem_of(tmp_path, changes(data, **{"training.streaming": False}))


def test_batches_made_ready_are_those_of_the_sampler(data, tmp_path):
    for streaming in (False, True):
        data_set = small.problem_of(tmp_path, changes(data, **{"training.streaming": streaming})).train
        sampler, wanted = (data_set.sampler(5, shuffle=True) for _ in range(2))
        with data_set.batches(sampler) as batches:
            for _ in range(12):
                system, frames, found, indices = next(batches)
                drawn = wanted.next()
                assert (system, frames.tolist()) == (drawn[0], drawn[1].tolist())
                np.testing.assert_array_equal(found.positions[indices], data_set.systems[system].positions[frames])
                state, other = sampler.state(), wanted.state()
                assert all(np.array_equal(state[name], other[name]) for name in state)


def test_a_copy_of_a_sampler_draws_the_same_and_leaves_it_alone():
    sampler = Sampler([3, 4], [2, 1], [0.5, 0.5], seed=1)
    sampler.next()
    copy = sampler.copy()
    drawn = [copy.next() for _ in range(9)]
    again = [sampler.next() for _ in range(9)]
    assert [(s, f.tolist()) for s, f in drawn] == [(s, f.tolist()) for s, f in again]


def test_a_missing_seed_is_drawn_and_told(data, tmp_path, caplog):
    data_set = small.problem_of(tmp_path, changes(data)).train
    caplog.set_level("INFO")
    caplog.clear()
    one, other = (data_set.sampler(None, shuffle=True).state() for _ in range(2))
    assert one["seed"] != other["seed"]
    assert caplog.messages == [f"no training seed given: drew {state['seed']}" for state in (one, other)]
