"""DCD files as CHARMM and OpenMM write them: positions in single precision, and the cell.

The file is little-endian. Every record stands between two copies of its length in bytes (int32):

| record  | what                                                                                                  |
|---------|-------------------------------------------------------------------------------------------------------|
| 84      | "CORD", n_frames, first step, steps between frames, last step, 5 zeros, float32 time step in AKMA      |
|         | units, 1 if there are cells, 8 zeros, 24 (the version of CHARMM)                                       |
| 164     | 2, two titles of 80 characters                                                                        |
| 4       | n_atoms                                                                                               |
| 48      | for each frame with a cell: a, cos(gamma), b, cos(beta), cos(alpha), c as float64, Å                  |
| 4 n × 3 | for each frame: x, y, z as float32, Å                                                                  |

Frames have no times of their own: a frame's time is its step times the time step.
"""

import os
import re
import struct
from pathlib import Path

import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.md.trajectory.frame import Frame, Growing, closed_on_error, lengths_and_cosines, not_ours, writing

HEADER = struct.Struct("<i4s9if10i3i80s80s4i")
PS_PER_AKMA = 0.04888821  # the value that CHARMM-compatible programs share
CREATOR = b"Created by diffff"
LARGEST = 2**31 - 1


class DCD(Growing):
    """A DCD file."""

    def __init__(self, path: Path, n_atoms: int, after: int | None) -> None:
        """Open the file; see `open_trajectory`.

        Args:
            path: of the file.
            n_atoms: number of atoms.
            after: frames up to this step are kept; None: no file is there, or it is replaced.
        """
        self._path, self._n_atoms = path, n_atoms
        self._n_frames, self._first, self._interval = 0, 0, 0
        self._time_step: float | None = None  # in AKMA units, a float32; None until a frame tells
        self._cells = False
        with writing(path):
            self._file = path.open("w+b" if after is None else "r+b")
            with closed_on_error(self._file):
                if after is not None:
                    self._cut(after)
                self.flush()

    @property
    def last_step(self) -> int:
        """See `Writer`."""
        return self._first + (self._n_frames - 1) * self._interval if self._n_frames else -1

    def write(self, frame: Frame) -> None:
        """See `Writer`.

        Raises:
            InputError: the frame does not follow the others at the same distance, in step or in time.
        """
        self._place(frame)
        lengths = struct.pack("<i", 4 * self._n_atoms)
        columns = np.asarray(frame.positions * units.ANGSTROM_PER_NM, "<f4").T
        cell = b""
        if frame.box is not None:
            (a, b, c), (alpha, beta, gamma) = lengths_and_cosines(frame.box, self._path)
            a, b, c = (x * units.ANGSTROM_PER_NM for x in (a, b, c))
            cell = struct.pack("<i6di", 48, a, gamma, b, beta, alpha, c, 48)
        with writing(self._path):
            self._file.write(cell + b"".join(lengths + column.tobytes() + lengths for column in columns))
        if self._n_frames == 0:
            self._first, self._cells = frame.step, frame.box is not None
        else:
            self._interval = (frame.step - self._first) // self._n_frames
        if self._time_step is None and frame.step:
            self._time_step = float(np.float32(frame.time / frame.step / PS_PER_AKMA))
        self._n_frames += 1

    def flush(self) -> None:
        """See `Writer`."""
        header = self._header()
        with writing(self._path):
            self._file.seek(0)
            self._file.write(header)
            self._file.seek(0, os.SEEK_END)
        super().flush()

    def _place(self, frame: Frame) -> None:
        """Refuse a frame whose step or time the header could not tell."""
        where = f"{self._path}, frame of step {frame.step}"
        other = "Write .h5 or .xyz, whose frames have their own step and time."
        if self._n_frames and self._cells != (frame.box is not None):
            raise InputError(f"{where}: a DCD file has a box in all frames or in none. {other}")
        due = self.last_step + self._interval
        if self._n_frames > 1 and frame.step != due:
            raise InputError(
                f"{where}: a DCD file can hold only equally spaced frames; the next one was due at step {due}. {other}"
            )
        expected = frame.time if frame.step else 0.0
        if self._time_step is not None:
            expected = frame.step * self._time_step * PS_PER_AKMA
        if abs(frame.time - expected) > 1e-6 * abs(frame.time) + 1e-9:
            raise InputError(
                f"{where}: in a DCD file a frame's time is its step times one time step, here {expected:.9g} ps, "
                f"but the frame is at {frame.time:.9g} ps. {other}"
            )

    def _header(self) -> bytes:
        first, interval, last = self._first, max(self._interval, 1), max(self.last_step, 0)
        time_step, title = self._time_step or 0.0, f"first step {first}, interval {interval}".encode()
        if last > LARGEST:  # counted in intervals, as OpenMM does
            if first % interval:
                raise InputError(
                    f"{self._path}: step {last} does not fit into the header of a DCD file. Write .h5 or .xyz."
                )
            first, last, interval, time_step = first // interval, last // interval, 1, time_step * interval
        numbers = [self._n_frames, first, interval, last, 0, 0, 0, 0, 0]
        flags = [int(self._cells), 0, 0, 0, 0, 0, 0, 0, 0, 24]
        titles = [84, 164, 2, CREATOR.ljust(80), title.ljust(80), 164, 4]
        return HEADER.pack(84, b"CORD", *numbers, time_step, *flags, *titles, self._n_atoms, 4)

    def _cut(self, after: int) -> None:
        """Read the header, and remove frames of later steps."""
        size = self._file.seek(0, os.SEEK_END)
        if size == 0:
            return  # killed before anything was written
        self._file.seek(0)
        start = self._file.read(HEADER.size)
        title = re.match(rb"first step (\d+), interval (\d+) *", start[180:260])
        if len(start) < HEADER.size or not start[4:8] == b"CORD" or not start[100:180].startswith(CREATOR) or not title:
            raise not_ours(self._path, "it has not the header of a DCD file of diffff")
        fields = HEADER.unpack(start)
        if fields[-2] != self._n_atoms:
            raise not_ours(self._path, f"it has frames of {fields[-2]} atoms, the system has {self._n_atoms}")
        self._cells = bool(fields[12])
        first, interval = (int(number) for number in title.groups())
        per_frame = 56 * self._cells + 3 * (8 + 4 * self._n_atoms)
        complete = (size - HEADER.size) // per_frame
        stored = fields[2]  # number of frames at the last flush; there may be more
        wanted = 0 if not stored or after < first else (after - first) // interval + 1 if stored > 1 else 1
        if min(stored, complete) < wanted:
            raise not_ours(self._path, f"it has {min(stored, complete)} of the {wanted} frames up to step {after}")
        self._n_frames = wanted
        self._first, self._interval = (first, interval if wanted > 1 else 0) if wanted else (0, 0)
        self._cells = self._cells and wanted > 0
        if wanted > 1 or (wanted and first):
            scale = interval if fields[4] == 1 and interval > 1 else 1  # counted in intervals
            self._time_step = float(np.float32(fields[11])) / scale
        self._file.truncate(HEADER.size + wanted * per_frame)
