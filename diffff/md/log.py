"""The log of a simulation: a table of text, a line for each time it is written, continued exactly."""

from pathlib import Path

import numpy as np

from diffff.errors import InputError
from diffff.files import replacing, writing
from diffff.md.observables import Observables

_UNITS = {
    "potential": "kJ/mol",
    "kinetic": "kJ/mol",
    "conserved": "kJ/mol",
    "temperature": "K",
    "pressure": "bar",
    "volume": "nm^3",
    "density": "g/cm^3",
}


class Log:
    """Columns step, time and those of `Observables` that there are; numpy.loadtxt reads it."""

    def __init__(self, path: Path, *, append_at_step: int | None = None) -> None:
        """Begin a file, or continue one from a step: later lines, which a killed run has left, are taken out.

        Raises:
            InputError: the file cannot be written or read.
        """
        self._path, kept = path, []
        if append_at_step is not None:
            try:
                lines = path.read_text().splitlines(keepends=True)
                if not (lines and lines[0].startswith("#")):
                    raise ValueError("it has no header")
                kept = [x for x in lines if x.endswith("\n") and (x[0] == "#" or int(x.split()[0]) <= append_at_step)]
            except (OSError, ValueError, IndexError) as error:
                raise InputError(f"{path}: the log cannot be continued ({error}). Begin a new run.") from error
        with replacing(path) as part:
            part.write_text("".join(kept))
        self._new = not kept

    def write(self, step: int, time: float, seen: Observables) -> None:
        """Add a line.

        Raises:
            InputError: the file cannot be written.
        """
        values = {name: np.asarray(value) for name, value in seen._asdict().items() if value is not None}
        line = f"{step:12d} {time:16.6f} " + " ".join(f"{value:18.8f}" for value in values.values()) + "\n"
        if self._new:
            names = " ".join(
                f"{f'{name}/({_UNITS[name]})' if '/' in _UNITS[name] else f'{name}/{_UNITS[name]}':>18s}"
                for name in values
            )
            line, self._new = f"#{'step':>11s} {'time/ps':>16s} {names}\n{line}", False
        with writing(self._path), self._path.open("a") as file:
            file.write(line)
