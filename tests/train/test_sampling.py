"""The batches of each step: every frame equally often, the right share of every system, the same after a restart."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train.sampling import Sampler

REFERENCE = json.loads((Path(__file__).parents[1] / "references/sampling.json").read_text())


def draw(sampler, n):
    return [(system, frames.tolist()) for system, frames in (sampler.next() for _ in range(n))]


def made(seed=3, **options):
    return Sampler([7, 5, 10], [2, 3, 4], [0.2, 0.3, 0.5], seed, **options)


@pytest.mark.parametrize(("n_frames", "batch_size"), [(7, 2), (7, 7), (8, 4), (5, 4), (3, 1)])
def test_every_frame_is_used_equally_often(n_frames, batch_size):
    sampler = Sampler([n_frames], [batch_size], [1.0], 0)
    frames = [frame for _, batch in draw(sampler, 6 * n_frames) for frame in batch]
    assert np.bincount(frames).tolist() == [6 * batch_size] * n_frames
    epochs = np.reshape(frames, (-1, n_frames))
    assert (np.sort(epochs, axis=1) == np.arange(n_frames)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_are_full():
    assert all(len(frames) == (2, 3, 4)[system] for system, frames in draw(made(), 50))


def test_systems_are_drawn_by_their_probabilities():
    drawn = [system for system, _ in draw(made(), 4000)]
    counts = np.bincount(drawn)
    assert counts / 4000 == pytest.approx([0.2, 0.3, 0.5], abs=0.03)  # four standard deviations


def test_systems_of_probability_zero_are_never_drawn():
    sampler = Sampler([2, 2, 2, 2], [1, 1, 1, 1], [0.0, 0.5, 0.5, 0.0], 1)
    assert {system for system, _ in draw(sampler, 200)} == {1, 2}


def test_orders_are_uniform():
    sampler = Sampler([3], [3], [1.0], 5)
    orders = [tuple(frames) for _, frames in draw(sampler, 1200)]
    assert sorted(orders.count(order) for order in set(orders)) == pytest.approx([200] * 6, abs=55)


def test_seeds_and_systems_have_streams_of_their_own():
    assert draw(made(3), 20) == draw(made(3), 20)
    assert draw(made(3), 20) != draw(made(4), 20)
    twins = Sampler([50, 50], [50, 50], [0.5, 0.5], 0)
    first = dict(draw(twins, 20)[::-1])
    assert first[0] != first[1]


def test_the_stream_does_not_change_from_one_release_to_the_next():
    assert draw(made(), 4) == [(0, [4, 3]), (2, [1, 4, 0, 3]), (1, [3, 2, 0]), (0, [5, 6])]


@pytest.mark.parametrize("stop", [0, 1, 17, 40])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_restored_sampler_goes_on_where_the_other_stopped(stop, shuffle):
    sampler = made(shuffle=shuffle)
    expected = draw(sampler, 60)
    stopped = made(shuffle=shuffle)
    draw(stopped, stop)
    state = {name: np.array(array) for name, array in stopped.state().items()}
    draw(stopped, 5)  # leaves the saved state alone
    restored = made(seed=99, shuffle=shuffle)
    draw(restored, 9)
    restored.restore(state)
    assert draw(restored, 60 - stop) == expected[stop:]


def test_the_state_is_integers():
    sampler = made()
    draw(sampler, 8)
    state = sampler.state()
    assert {name: array.dtype for name, array in state.items()} == dict.fromkeys(
        ["seed", "step", "taken", "sizes"], np.dtype(np.int64)
    )
    assert state["step"] == 8
    assert state["taken"] @ (1 / np.array([2, 3, 4])) == pytest.approx(8)


def test_other_data_are_not_continued():
    with pytest.raises(InputError, match=r"it has systems of 7, 5, 10 frames, the input has 7, 5\. Continue with"):
        Sampler([7, 5], [1, 1], [0.5, 0.5], 0).restore(made().state())


def test_copies_repeat_frames_within_an_epoch_as_in_deepmd():
    copies = REFERENCE["copies"]
    sampler = Sampler([4], [3], [1.0], 0, copies=[copies["numb_copy"]])
    for _ in range(5):
        frames = [frame for _, batch in draw(sampler, 2) for frame in batch]
        assert np.bincount(frames, minlength=4).tolist() == copies["frames"]


def test_fewer_copies_than_a_batch_takes():
    assert draw(Sampler([3], [3], [1.0], 0, copies=[[0, 1, 0]]), 2) == [(0, [1, 1, 1])] * 2
    with pytest.raises(InputError, match="system 1: numb_copy is 0 for all its frames"):
        Sampler([2, 2], [1, 1], [0.5, 0.5], 0, copies=[None, [0, 0]])


def test_validation_goes_through_the_files_in_order():
    sampler = Sampler([5], [2], [1.0], 0, shuffle=False)
    assert [frames for _, frames in draw(sampler, 5)] == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
