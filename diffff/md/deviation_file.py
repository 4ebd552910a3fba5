"""The file of model deviations, in DeePMD-kit's columns.

    #       step  max_devi_v  min_devi_v  avg_devi_v  max_devi_f  min_devi_f  avg_devi_f  devi_e  [atm_devi_f(N)]

A step of 12 characters, then numbers of 19; lines that begin with # are comments. eV and eV/Å.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffff.errors import InputError
from diffff.md.trajectory.frame import Growing, closed_on_error, not_ours, writing

Array = NDArray[np.float64]

COLUMNS = ("max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f", "devi_e")


class Deviation(NamedTuple):
    """Deviation of frames; each but the last of shape ``(n_frames,)``.

    Attributes:
        max_devi_v: eV, as the two that follow.
        min_devi_v: smallest component.
        avg_devi_v: root mean square of the components.
        max_devi_f: eV/Å, as the two that follow.
        min_devi_f: smallest of an atom.
        avg_devi_f: mean over the atoms.
        devi_e: eV per atom.
        devi_f: of each atom, eV/Å, shape ``(n_frames, n_atoms)``; 0 for virtual atoms, which count nowhere.
    """

    max_devi_v: Array
    min_devi_v: Array
    avg_devi_v: Array
    max_devi_f: Array
    min_devi_f: Array
    avg_devi_f: Array
    devi_e: Array
    devi_f: Array


def header(title: str = "", *, atomic: bool = False) -> str:
    """The comment above the columns, two lines."""
    names = [*COLUMNS, "atm_devi_f(N)"] if atomic else COLUMNS
    return f"# {title}\n# {'step':10s}{''.join(f'{name:19s}' for name in names)}\n"


def lines(steps: Iterable[int], deviation: Deviation, *, atomic: bool = False) -> str:
    """A line for each frame.

    Args:
        steps: of the frames.
        deviation: of the frames.
        atomic: whether the force deviation of each atom follows.
    """
    text = []
    for k, step in enumerate(steps):
        numbers = [float(column[k]) for column in deviation[:7]]
        numbers += deviation.devi_f[k].tolist() if atomic else []
        text.append(f"{step:12d}" + "".join(f"{number:19.6e}" for number in numbers) + "\n")
    return "".join(text)


class DeviationFile(Growing):
    """The deviations of a run, written as it goes, and continued exactly after it was killed.

    It is a context manager, which closes the file.

    Attributes:
        last_step: step of the last line; -1 if there is none.
    """

    def __init__(self, path: str | Path, *, atomic: bool = False, append_at_step: int | None = None) -> None:
        """Open the file.

        Args:
            path: of the file; an existing one is replaced unless ``append_at_step`` is given.
            atomic: whether the force deviation of each atom is written.
            append_at_step: the step of the checkpoint from which the run continues: lines of later steps are removed.

        Raises:
            InputError: the file cannot be written, or was not written by such a run.
        """
        self._path, self._atomic, self.last_step = Path(path), atomic, -1
        self._after = -1 if append_at_step is None else append_at_step
        if append_at_step is not None and append_at_step < 0:
            raise InputError(f"{path}: append_at_step is {append_at_step}; give the step of the checkpoint, 0 or more.")
        with writing(self._path):
            if append_at_step is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w+b")
                self._file.write(header(atomic=atomic).encode())
            else:
                self._file = self._path.open("r+b")
                with closed_on_error(self._file):
                    self._cut(append_at_step)

    def write(self, step: int, deviation: Deviation) -> None:
        """Add a line.

        Args:
            step: of the run.
            deviation: of one frame.

        Raises:
            InputError: the step is not later than the last, or the file cannot be written.
        """
        if step <= max(self.last_step, self._after):
            at = max(self.last_step, self._after)
            raise InputError(f"{self._path}, step {step}: the file is at step {at} already.")
        with writing(self._path):
            self._file.write(lines([step], deviation, atomic=self._atomic).encode())
        self.last_step = step

    def __enter__(self) -> "DeviationFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self, after: int) -> None:
        """Remove lines of later steps."""
        start, size = header(atomic=self._atomic).encode(), self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        found = self._file.read(len(start))
        if found != start and not (size < len(start) and start.startswith(found)):
            raise not_ours(self._path, "it has not the columns of this run")
        if size < len(start):  # killed before anything was flushed
            self._file.seek(0)
            self._file.write(start)
        end = len(start)
        for line in self._file:
            if len(line) < 12:
                break  # killed while it was written
            if not line[:12].strip().isdigit():
                raise not_ours(self._path, "it has a line that does not begin with a step")
            step = int(line[:12])
            if step > after:
                break
            if not line.endswith(b"\n"):
                raise not_ours(self._path, f"it breaks off within the line of step {step}")
            end, self.last_step = end + len(line), step
        self._file.seek(end)
        self._file.truncate(end)
