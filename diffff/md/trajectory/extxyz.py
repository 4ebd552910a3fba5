"""Extended XYZ: text that ASE, OVITO and others read; Å, eV, eV/Å, Å/ps, ps, K.

    n_atoms
    Lattice="ax ay az bx by bz cx cy cz" Properties=species:S:1:pos:R:3 energy=… step=… time=… pbc="T T T"
    O x y z [vx vy vz] [fx fy fz]
    …

Energies, steps and times have all their digits, positions 8 decimals. Format: https://github.com/libAtoms/extxyz
"""

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diffff import units
from diffff.md.trajectory.frame import Frame, Growing, closed_on_error, not_ours, writing

STEP = re.compile(rb"(?:^|\s)step=(\d+)(?=\s)")


class ExtendedXYZ(Growing):
    """An extended XYZ file."""

    def __init__(self, path: Path, symbols: Sequence[str], after: int | None) -> None:
        """Open the file; see `open_trajectory`.

        Args:
            path: of the file.
            symbols: of the elements.
            after: frames up to this step are kept; None: no file is there, or it is replaced.
        """
        self._path, self._symbols = path, list(symbols)
        self._templates: dict[int, str] = {}
        self.last_step = -1
        with writing(path):
            self._file: BinaryIO = path.open("w+b" if after is None else "r+b")
            with closed_on_error(self._file):
                if after is not None:
                    self._file.truncate(self._end_of(after))
                    self._file.seek(0, os.SEEK_END)

    def write(self, frame: Frame) -> None:
        """See `Writer`."""
        columns, properties = [frame.positions * units.ANGSTROM_PER_NM], "species:S:1:pos:R:3"
        if frame.velocities is not None:
            columns.append(frame.velocities * units.ANGSTROM_PER_NM)
            properties += ":vel:R:3"
        if frame.forces is not None:
            columns.append(frame.forces * units.EV_PER_ANGSTROM_PER_KJ_PER_MOL_PER_NM)
            properties += ":forces:R:3"
        numbers = np.concatenate(columns, axis=1, dtype=np.float64)
        lines = self._template(numbers.shape[1]) % tuple(numbers.ravel().tolist())
        text = f"{len(self._symbols)}\n{_comment(frame, properties)}\n{lines}"
        with writing(self._path):
            self._file.write(text.encode())
        self.last_step = frame.step

    def _template(self, n_columns: int) -> str:
        """All lines of a frame, with places for the numbers."""
        if n_columns not in self._templates:
            places = " %15.8f" * n_columns + "\n"
            self._templates[n_columns] = "".join(f"{symbol:<2s}{places}" for symbol in self._symbols)
        return self._templates[n_columns]

    def _end_of(self, after: int) -> int:
        """Bytes up to the end of the last frame that is kept; sets `last_step`."""
        end, n_atoms = 0, len(self._symbols)
        while line := self._file.readline():
            if not line.strip().isdigit():
                raise not_ours(self._path, f"at byte {end} there is no frame that begins with its number of atoms")
            comment = self._file.readline()
            if not comment.endswith(b"\n"):
                break  # killed while it was written
            step = STEP.search(comment)
            if step is None:
                raise not_ours(self._path, f"at byte {end} there is no frame that tells its step")
            if int(line) != n_atoms:
                raise not_ours(self._path, f"it has a frame of {int(line)} atoms, the system has {n_atoms}")
            if int(step[1]) > after:
                break
            size, n_lines, last = len(line) + len(comment), 0, b""
            for last in islice(self._file, n_atoms):
                size, n_lines = size + len(last), n_lines + 1
            if n_lines < n_atoms or not last.endswith(b"\n"):
                raise not_ours(
                    self._path, f"it breaks off within the frame of step {int(step[1])}, before step {after}"
                )
            end, self.last_step = end + size, int(step[1])
        return end


def _comment(frame: Frame, properties: str) -> str:
    parts = []
    if frame.box is not None:
        lattice = " ".join(f"{x:.10f}" for x in (frame.box * units.ANGSTROM_PER_NM).ravel().tolist())
        parts.append(f'Lattice="{lattice}"')
    parts.append(f"Properties={properties}")
    for name, value, factor in (
        ("energy", frame.potential_energy, units.EV_PER_KJ_PER_MOL),
        ("kinetic_energy", frame.kinetic_energy, units.EV_PER_KJ_PER_MOL),
        ("temperature", frame.temperature, 1.0),
    ):
        if value is not None:
            parts.append(f"{name}={float(value) * factor!r}")
    periodic = "F F F" if frame.box is None else "T T T"
    return " ".join([*parts, f"step={frame.step}", f"time={float(frame.time)!r}", f'pbc="{periodic}"'])
