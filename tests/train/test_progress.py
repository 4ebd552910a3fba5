"""Progress of a run: log lines without a terminal, a bar with one."""

import io
import logging

import pytest
from rich.console import Console

from diffff.train import progress
from diffff.train.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told to."""

    class Clock:
        now = 0.0

        @staticmethod
        def monotonic():
            return Clock.now

    monkeypatch.setattr(progress, "time", Clock)
    return Clock


def follow(clock, console):
    """A run of 100 steps of 0.05 s after 3 s of compilation; validation of 2 s at step 20."""
    with Progress(100, frames_per_step=4, console=console) as shown:
        clock.now += 3.0
        shown.update(1)
        shown.report(1, train={"rmse_e": 0.5}, lr=1e-3)
        clock.now += 0.95
        shown.update(20)
        clock.now += 2.0
        shown.report(20, train={"rmse_e": 0.4}, valid={"rmse_e": 0.45, "rmse_f": 0.1}, lr=9e-4)
        clock.now += 4.0
        shown.update(100)
        shown.report(100, train={"rmse_e": 0.1}, lr=1e-6)


def test_log_lines_without_a_terminal(clock, caplog):
    text = io.StringIO()
    with caplog.at_level(logging.INFO, logger="diffff"):
        follow(clock, Console(file=text))
    assert caplog.messages == [
        "batch 1: trn: rmse_e = 5.00e-01, lr = 1.0e-03",
        "batch 20: trn: rmse_e = 4.00e-01, val: rmse_e = 4.50e-01, rmse_f = 1.00e-01, lr = 9.0e-04, "
        "50.0 ms/step, eta 0:00:12",
        "batch 100: trn: rmse_e = 1.00e-01, lr = 1.0e-06, 50.0 ms/step, eta 0:00:00",
    ]
    assert text.getvalue() == ""


def test_steps_with_units(caplog):
    console = Console(file=io.StringIO())
    with (
        caplog.at_level(logging.INFO, logger="diffff"),
        Progress(9, console=console, noun="step", units={"rmse_energy": "kJ/mol"}) as shown,
    ):
        shown.report(3, train={"rmse_energy": 2.7612}, valid={"rmse_energy": 12345.6}, lr=None)
    assert caplog.messages == ["step 3: trn: rmse_energy = 2.761 kJ/mol, val: rmse_energy = 1.235e+04 kJ/mol"]


def test_a_run_that_may_end_early(clock, caplog):
    with (
        caplog.at_level(logging.INFO, logger="diffff"),
        Progress(60, noun="step", may_end_early=True, console=Console(file=io.StringIO())) as shown,
    ):
        shown.update(1)
        clock.now += 1.0
        shown.update(11)
        shown.report(11, train={}, lr=None)
    assert caplog.messages == ["step 11: trn: , 100.0 ms/step, eta at most 0:00:05"]


def test_a_bar_on_a_terminal(clock):
    text = io.StringIO()
    follow(clock, Console(file=text, force_terminal=True, width=120))
    assert "100/100" in text.getvalue()
    assert "rmse_e = 1.00e-01" in text.getvalue()
    assert "80.0 frames/s, 0:00:00 left" in text.getvalue()


def test_a_continued_run_counts_only_its_own_steps(clock, caplog):
    with (
        caplog.at_level(logging.INFO, logger="diffff"),
        Progress(60, start=40, console=Console(file=io.StringIO())) as p,
    ):
        clock.now += 9.0
        p.update(41)
        clock.now += 1.0
        p.update(51)
        p.report(51, train={}, lr=1e-3)
    assert caplog.messages == ["batch 51: trn: , lr = 1.0e-03, 100.0 ms/step, eta 0:00:01"]
