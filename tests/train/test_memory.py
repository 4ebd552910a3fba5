"""What a step takes is told, and refused where there is not so much."""

import logging

import pytest

from diffff.errors import InputError
from diffff.train import memory
from diffff.train.memory import free_on_device, free_on_host, require_room
from tests.train import small


def test_there_is_memory():
    free = free_on_host()
    assert free is None or 1e6 < free < 1e15
    assert free_on_device() == pytest.approx(free, rel=0.5)


@pytest.mark.parametrize(("free", "largest"), [(1e9, 99), (205.0, 20), (29.5, 2), (20.0, 1), (19.0, 0)])
def test_the_largest_batch_that_fits_is_named(monkeypatch, caplog, free, largest):
    monkeypatch.setattr(memory, "free_on_device", lambda: free)
    caplog.set_level(logging.INFO)

    def needs(n):
        return 10.0 + 9.7 * n

    if largest == 99:
        require_room(needs, 99, "frames")
        assert "a step of 99 frames takes 970 B; 1 GB are free" in caplog.text
        return
    wanted = f"The largest batch that fits has {largest}: set" if largest else "Not even one fits"
    with pytest.raises(InputError, match=rf"a step of 99 frames takes 970 B of memory, and .* {wanted}"):
        require_room(needs, 99, "frames")


def test_a_batch_that_cannot_fit_is_refused_before_the_run(tmp_path, monkeypatch):
    small.write_system(tmp_path / "water", (8,))
    changes = {"training.training_data": {"systems": [str(tmp_path / "water")], "batch_size": 8}}
    monkeypatch.setattr(memory, "free_on_device", lambda: 6e5)
    wanted = r"of 8 frames with 3 atoms takes .* The largest batch that fits has [1-7]: set"
    with pytest.raises(InputError, match=wanted):
        small.train_in(tmp_path, changes)
    assert not list(tmp_path.glob("*.h5"))
