"""A restart that is another run says so."""

import pytest

from diffff import spec
from diffff.train.config import read_input
from diffff.train.restart import device_changes, input_changes
from tests.train import small


def test_changes_of_the_input():
    before = {"model": {"sel": [1, 2], "rcut": 6.0}, "gone": 1}
    assert input_changes(before, before) == []
    assert input_changes(before, {"model": {"sel": [1, 3], "rcut": 6.0}}) == [
        "gone was 1 and is None",
        "model.sel was [1, 2] and is [1, 3]",
    ]


@pytest.mark.parametrize(
    ("n_now", "changes", "told"),
    [
        (4, {}, "2 before, 4 now: the batch size over all of them was 4 and is 8; the factor of the learning "
                "rate was 2 and is 4"),
        (4, {"training.training_data.batch_size": 1}, "2 before, 4 now: the factor of the learning rate was 2 "
                                                      "and is 4"),
        (1, {"training.training_data.batch_size": 4, "learning_rate.scale_by_worker": "none"},
         "2 before, 1 now: the factor of the learning rate was 2 and is 1"),
        (4, {"training.training_data.batch_size": "auto:9", "learning_rate.scale_by_worker": "sqrt"},
         "2 before, 4 now: the batch size over all of them was 4 and is 4 times auto:9"),
    ],
)  # fmt: skip
def test_what_another_number_of_devices_changes(tmp_path, n_now, changes, told):
    small.write_system(tmp_path / "water")
    before = spec.completed(read_input(small.write_input(tmp_path)))
    assert device_changes(2, before, n_now, read_input(small.write_input(tmp_path, changes))) == told


def test_the_same_batches_and_rates_on_other_devices_are_the_same_run(tmp_path):
    small.write_system(tmp_path / "water")
    none = {"learning_rate.scale_by_worker": "none"}
    before = spec.completed(read_input(small.write_input(tmp_path, none)))
    now = read_input(small.write_input(tmp_path, {**none, "training.training_data.batch_size": 1}))
    assert device_changes(2, before, 4, now) is None
