"""How far a training run is: a bar on a terminal, and log lines everywhere."""

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

logger = logging.getLogger(__name__)


class Progress:
    """Tells the user where a run is.

    `update` after each dispatch of steps; `report` at each displayed step, which logs one line such as
    `batch 1000: trn: rmse_e = 1.50e-03, rmse_f = 4.10e-02, lr = 9.5e-04, 51 ms/step, eta 0:03:12`.
    On a terminal a bar below the log shows the same at a glance.

    The time per step covers the steps alone: what happens between `update` and `report` (validation) is left out
    of it, and so is the first dispatch, which compiles. The time left counts everything but that compilation.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        frames_per_step: float = 1.0,
        noun: str = "batch",
        units: Mapping[str, str] | None = None,
        may_end_early: bool = False,
        shown: bool = True,
        console: Console | None = None,
    ) -> None:
        """Prepare the bar; entering the context shows it.

        Args:
            total: The step the run ends at.
            start: The step the run begins (or continues) at.
            frames_per_step: The mean batch size, for the frames per second.
            noun: What a step is called.
            units: Of the errors by name; None: errors are told in three digits, without units.
            may_end_early: Whether the run may end before `total`, so that the time left is the most it can be.
            shown: Whether there is a bar.
            console: Where the bar is drawn; standard error by default. No bar unless it is a terminal.
        """
        self._total = total
        self._step = start
        self._frames_per_step = frames_per_step
        self._noun, self._units, self._at_most = noun, units, "at most " if may_end_early else ""
        console = Console(stderr=True) if console is None else console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("[cyan]{task.fields[errors]}"),
            console=console,
            disable=not (shown and console.is_terminal),
            expand=True,
        )
        self._task = self._bar.add_task("training", total=total, completed=start, speed="compiling", errors="")
        self._mark = time.monotonic()  # when the running dispatch began
        self._compiled: tuple[int, float] | None = None  # step and time at the end of the first dispatch
        self._timed = (0, 0.0)  # steps and seconds since the last report

    def __enter__(self) -> Self:
        self._bar.start()
        self._mark = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int) -> None:
        """Note that the run has done `step` steps in all, just now."""
        now = time.monotonic()
        if self._compiled is None:
            self._compiled = (step, now)
        else:
            steps, seconds = self._timed
            self._timed = (steps + step - self._step, seconds + now - self._mark)
        self._step, self._mark = step, now
        self._bar.update(self._task, completed=step, speed=self._speed())

    def report(
        self, step: int, *, train: Mapping[str, float], valid: Mapping[str, float] | None = None, lr: float | None
    ) -> None:
        """Log the errors at a displayed step.

        Args:
            step: The number of steps done.
            train: The errors on training frames by name.
            valid: The errors on validation frames by name, if there are any.
            lr: The learning rate; None for an optimiser without one.
        """
        parts = [f"trn: {self._errors(train)}", f"val: {self._errors(valid)}" if valid else ""]
        parts += ["" if lr is None else f"lr = {lr:.1e}", self._pace()]
        self.log(f"{self._noun} {step}: " + ", ".join(part for part in parts if part))
        self._bar.update(self._task, errors=self._errors(valid or train), speed=self._speed())
        self._timed = (0, 0.0)
        self._mark = time.monotonic()

    def log(self, line: str) -> None:
        """Log a line of any other kind; it appears above the bar."""
        logger.info(line)

    def _errors(self, values: Mapping[str, float]) -> str:
        if self._units is not None:
            return in_units(values, self._units)
        return ", ".join(f"{name} = {value:.2e}" for name, value in values.items())

    def _pace(self) -> str:
        steps, seconds = self._timed
        return f"{1000 * seconds / steps:.1f} ms/step, eta {self._at_most}{self._time_left()}" if steps else ""

    def _speed(self) -> str:
        steps, seconds = self._timed
        if not steps or not seconds:
            return "compiling" if self._compiled is None else ""
        return f"{steps * self._frames_per_step / seconds:.1f} frames/s, {self._at_most}{self._time_left()} left"

    def _time_left(self) -> str:
        if self._compiled is None or self._step == self._compiled[0]:
            return "?"
        first, began = self._compiled
        seconds = (time.monotonic() - began) / (self._step - first) * (self._total - self._step)
        return str(timedelta(seconds=round(seconds)))


def in_units(values: Mapping[str, float], units: Mapping[str, str]) -> str:
    """Values with their names and units: ``rmse_energy = 2.76 kJ/mol``."""
    return ", ".join(f"{name} = {value:.4g} {units[name]}" for name, value in values.items())
