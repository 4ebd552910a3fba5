"""Signals that end a run early, in good order."""

import signal
from types import FrameType
from typing import Any


class Interruption:
    """Takes SIGTERM and Ctrl-C: the run saves a checkpoint and stops; Ctrl-C after either of them stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT:  # batch systems send SIGTERM more than once, which must not spoil the saving
            raise KeyboardInterrupt
