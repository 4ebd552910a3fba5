import json
from pathlib import Path

import jax
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.spec import Spec, completed, validate
from diffff.train.schedule import CosineSchedule, ExpSchedule, LearningRate, WsdSchedule

REFERENCE = json.loads((Path(__file__).parents[1] / "references" / "loss_schedule.json").read_text())


class Section(Spec):
    learning_rate: LearningRate


def read(section):
    return validate(Section, {"learning_rate": section}).learning_rate


@pytest.mark.parametrize("case", REFERENCE["schedules"], ids=lambda case: str(case["spec"]))
def test_rates_are_those_of_deepmd_kit(case):
    learning_rate = read(case["spec"]).bind(case["numb_steps"])
    on_host = [float(learning_rate(step)) for step in case["steps"]]
    in_jit = jax.jit(jax.vmap(learning_rate))(np.asarray(case["steps"]))
    np.testing.assert_allclose(on_host, case["rates"], rtol=1e-12)
    np.testing.assert_allclose(in_jit, case["rates"], rtol=1e-12)


@pytest.mark.parametrize("kind", [ExpSchedule, CosineSchedule, WsdSchedule])
def test_a_schedule_rises_to_start_and_ends_at_stop(kind):
    learning_rate = kind(start_lr=1e-2, stop_lr=1e-4, warmup_steps=10, warmup_start_factor=0.1).bind(10_010)
    rates = np.asarray(jax.vmap(learning_rate)(np.arange(20_000)))
    assert rates[0] == pytest.approx(1e-3)
    assert rates[10] == rates.max() == pytest.approx(1e-2)
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) <= 0)
    np.testing.assert_allclose(rates[10_010:], 1e-4)


def test_stairs_and_their_smooth_line_meet_at_the_steps():
    stairs = ExpSchedule(start_lr=1.0, stop_lr=1e-2, decay_steps=50).bind(100)
    line = ExpSchedule(start_lr=1.0, stop_lr=1e-2, decay_steps=50, smooth=True).bind(100)
    assert [float(stairs(step)) for step in (0, 49, 50, 99, 100)] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])
    assert [float(line(step)) for step in (0, 25, 50, 100)] == pytest.approx([1.0, 0.1**0.5, 0.1, 0.01])


def test_without_an_end_it_is_5e_8():
    schedule = read({"start_lr": 0.001})
    assert schedule.stop == 5e-8
    assert completed(schedule)["stop_lr"] == 5e-8
    assert read(completed(schedule)) == schedule
    by_ratio = read({"start_lr": 0.001, "stop_lr_ratio": 0.01})
    assert by_ratio.stop == pytest.approx(1e-5)
    assert read(completed(by_ratio)) == by_ratio


def test_workers_scale_the_optimiser_rate():
    factors = [ExpSchedule(start_lr=1.0, scale_by_worker=how).worker_factor(4) for how in ("linear", "sqrt", "none")]
    assert factors == [4.0, 2.0, 1.0]
    assert ExpSchedule(start_lr=1.0).worker_factor(1) == 1.0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, r"\$\.learning_rate\.start_lr: this key is required"),
        ({"start_lr": 1e-3, "stop_lr": 1e-8, "stop_lr_ratio": 1e-3}, "keep one of them"),
        ({"start_lr": 1e-3, "warmup_steps": 5, "warmup_ratio": 0.1}, "keep one of them"),
        ({"start_lr": 1e-3, "stop_lr": 1e-2}, "above start_lr"),
        ({"start_lr": 1e-3, "decay_rate": 1.5}, r"decay_rate: must be at most 1"),
        ({"type": "cosine", "start_lr": 1e-3, "decay_steps": 10}, r"decay_steps: unknown key"),
        ({"type": "wsd", "start_lr": 1e-3, "stop_lr": 0.0}, "greater than 0"),
        ({"type": "expo", "start_lr": 1e-3}, 'did you mean "exp"'),
    ],
)
def test_what_has_no_meaning_is_refused(section, message):
    with pytest.raises(InputError, match=message):
        read(section)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(InputError, match="the warm-up takes 100 steps, the run has 100"):
        ExpSchedule(start_lr=1e-3, warmup_steps=100).bind(100)
