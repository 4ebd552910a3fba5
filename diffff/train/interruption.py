"""Signals that end a run early, in good order."""

import logging
import signal
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from diffff.train.devices import Devices

logger = logging.getLogger(__name__)

_BEHIND = 3  # steps after which all ranks look at the signals that any of them had


class Interruption:
    """Takes SIGTERM and Ctrl-C: the run saves a checkpoint and stops; Ctrl-C after either of them stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked: deque[jax.Array] = deque()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        try:
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread, where signals do not arrive
            self._before = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def is_due(self, devices: Devices) -> bool:
        """Whether the run is to stop after this step; all ranks get the same answer, some steps after the signal."""
        here = self.signal is not None
        if devices.n_ranks == 1:
            return here
        self._asked.append(devices.any(here))
        return len(self._asked) > _BEHIND and bool(self._asked.popleft())

    def end(self, step: int, checkpoint: Path) -> SystemExit:
        """What to raise when all is saved."""
        number = self.signal or signal.SIGTERM  # where another rank had it, for all
        logger.warning("%s: stopped at step %d; continue with --restart %s", number.name, step, checkpoint)
        return SystemExit(128 + number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT:  # batch systems send SIGTERM more than once, which must not spoil the saving
            raise KeyboardInterrupt
