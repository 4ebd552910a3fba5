"""HDF5 files of MDTraj's convention: nm, ps, kJ/mol, degrees, and the topology as JSON.

https://mdtraj.org/hdf5_format.html. Two data sets are added, which readers of the convention pass over: ``step`` (n,)
and ``forces`` (n, n_atoms, 3), kJ/mol/nm.

The file is open only while frames are stored, and then in HDF5's single-writer multiple-reader mode: whenever the run
is killed, the frames before can be read.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from openmm import app

from diffff import __version__
from diffff.errors import InputError
from diffff.files import replacing
from diffff.md.trajectory.frame import Frame, lengths_and_cosines, not_ours, writing

VERSION = ("v110", "v110")  # of the file format: the first with single-writer multiple-reader mode
PENDING_BYTES = 2**24
CHUNK_BYTES = 2**16
MARGIN_BYTES = 2**18

UNITS = {
    "coordinates": "nanometers",
    "time": "picoseconds",
    "cell_lengths": "nanometers",
    "cell_angles": "degrees",
    "velocities": "nanometers/picosecond",
    "forces": "kilojoules_per_mole/nanometer",
    "potentialEnergy": "kilojoules_per_mole",
    "kineticEnergy": "kilojoules_per_mole",
    "temperature": "kelvin",
    "step": "",
}


class HDF5:
    """An HDF5 trajectory."""

    def __init__(self, path: Path, topology: app.Topology, after: int | None) -> None:
        """Open the file; see `open_trajectory`.

        Args:
            path: of the file.
            topology: atoms, residues, chains and bonds.
            after: frames up to this step are kept; None: no file is there, or it is replaced.
        """
        self._path, self._topology = path, topology
        self._pending: list[dict[str, np.ndarray]] = []
        self._columns: set[str] | None = None  # what each frame has; None until there is one
        self.last_step = -1
        self._empty = True  # no frames, and no columns either
        if after is not None:
            self._cut(after)
        else:
            with replacing(path) as part, h5py.File(part, "w", libver=VERSION) as file:
                _lay_out(file, topology, {})

    def write(self, frame: Frame) -> None:
        """See `Writer`.

        Raises:
            InputError: the frame has other columns than those before.
        """
        row = _row(frame, self._path)
        if self._columns is None:
            self._columns = set(row)
        if differ := set(row) ^ self._columns:
            raise InputError(
                f"{self._path}, frame of step {frame.step}: all frames of an HDF5 trajectory have the same columns, "
                f"but {' and '.join(sorted(differ))} is not in this frame and in those before alike."
            )
        self._pending.append(row)
        self.last_step = frame.step
        if len(self._pending) * sum(values.nbytes for values in row.values()) > PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """See `Writer`."""
        if not self._pending:
            return
        rows = {name: np.stack([row[name] for row in self._pending]) for name in self._pending[0]}
        self._pending = []  # not again when the file is closed after an error
        with writing(self._path):
            _require_space(self._path, sum(values.nbytes for values in rows.values()))
            if self._empty:
                with replacing(self._path) as part, h5py.File(part, "w", libver=VERSION) as file:
                    _lay_out(file, self._topology, rows)
                self._empty = False
            with _as_oserror(), h5py.File(self._path, "r+", libver=VERSION, locking=False) as file:
                file.swmr_mode = True
                for name, values in rows.items():
                    column = _column(file, name)
                    n = len(column)
                    column.resize(n + len(values), axis=0)
                    column[n:] = values
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """See `Writer`."""
        self.flush()

    def _cut(self, after: int) -> None:
        """Remove frames of later steps; those that are kept go to a new file then."""
        with writing(self._path), self._path.open("rb"):
            pass
        file, unclean = _opened(self._path)
        with file:
            n_atoms = self._topology.getNumAtoms()
            if file.attrs.get("program") != "diffff" or "topology" not in file:
                raise not_ours(self._path, "it is no HDF5 trajectory of diffff")
            if "coordinates" not in file:
                return
            if (found := _column(file, "coordinates").shape[1]) != n_atoms:
                raise not_ours(self._path, f"it has frames of {found} atoms, the system has {n_atoms}")
            names = [name for name in UNITS if name in file]
            steps = np.asarray(_column(file, "step")[:])
            sound = int(np.argmax(np.append(np.diff(steps, prepend=-1) <= 0, True)))  # a killed run may leave zeros
            n_kept = int(np.searchsorted(steps[:sound], after, side="right"))
            lengths = [len(_column(file, name)) for name in names]
            if min(lengths) < n_kept:
                raise not_ours(self._path, f"it has {min(lengths)} of the {n_kept} frames up to step {after}")
            if n_kept:
                self._columns, self._empty = set(names), False
                self.last_step = int(steps[n_kept - 1])
            if unclean or max(lengths) > n_kept:
                with replacing(self._path) as part, h5py.File(part, "w", libver=VERSION) as new:
                    kept = {name: _column(file, name) for name in names if n_kept}
                    _lay_out(new, self._topology, {name: np.asarray(column[:1]) for name, column in kept.items()})
                    for name, column in kept.items():
                        _copy(column, _column(new, name), n_kept)


def _lay_out(file: h5py.File, topology: app.Topology, columns: dict[str, np.ndarray]) -> None:
    """Make an empty file one without frames, whose frames will have columns such as these."""
    for name, value in {
        "conventions": "Pande",
        "conventionVersion": "1.1",
        "application": "diffff",
        "program": "diffff",
        "programVersion": __version__,
    }.items():
        file.attrs[name] = value
    file["topology"] = np.array([_topology_json(topology).encode()])
    for name, values in columns.items():
        shape, per_frame = values.shape[1:], values[:1].nbytes
        chunk = (max(1, CHUNK_BYTES // max(per_frame, 64)), *shape)
        column = file.create_dataset(name, (0, *shape), values.dtype, maxshape=(None, *shape), chunks=chunk)
        if UNITS[name]:
            column.attrs["units"] = UNITS[name]


@contextmanager
def _as_oserror() -> Iterator[None]:
    """h5py tells of a full disk by RuntimeError when it closes a file."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _require_space(path: Path, n_bytes: int) -> None:
    """Ask before HDF5 writes: on a full disk it ends the whole process, and leaves a damaged file."""
    if shutil.disk_usage(path.parent).free < 2 * n_bytes + len(UNITS) * CHUNK_BYTES + MARGIN_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _opened(path: Path) -> tuple[h5py.File, bool]:
    """The file for reading, and whether a writer of it was killed."""
    try:
        return h5py.File(path, "r", locking=False), False
    except OSError:
        try:
            return h5py.File(path, "r", swmr=True, libver=VERSION, locking=False), True
        except OSError as error:
            raise not_ours(path, f"it is no HDF5 file or is damaged ({error})") from error


def _column(file: h5py.File, name: str) -> h5py.Dataset:
    column = file[name]
    assert isinstance(column, h5py.Dataset)
    return column


def _copy(source: Any, target: Any, n: int) -> None:
    """The first n frames, some at a time."""
    target.resize(n, axis=0)
    block = max(1, PENDING_BYTES // max(1, source[:1].nbytes))
    for first in range(0, n, block):
        last = min(first + block, n)
        target[first:last] = source[first:last]


def _row(frame: Frame, path: Path) -> dict[str, np.ndarray]:
    """A frame as the file has it."""
    row: dict[str, np.ndarray] = {"coordinates": np.asarray(frame.positions, np.float32)}
    if frame.box is not None:
        lengths, cosines = lengths_and_cosines(frame.box, path)
        row["cell_lengths"] = lengths.astype(np.float32)
        row["cell_angles"] = np.degrees(np.arccos(cosines)).astype(np.float32)
    for name, array in (("velocities", frame.velocities), ("forces", frame.forces)):
        if array is not None:
            row[name] = np.asarray(array, np.float32)
    for name, number in (
        ("time", frame.time),
        ("potentialEnergy", frame.potential_energy),
        ("kineticEnergy", frame.kinetic_energy),
        ("temperature", frame.temperature),
    ):
        if number is not None:
            row[name] = np.asarray(number, np.float64)
    return row | {"step": np.asarray(frame.step, np.int64)}


def _topology_json(topology: app.Topology) -> str:
    chains = [
        {
            "index": chain.index,
            "chain_id": chain.id,
            "residues": [
                {
                    "index": residue.index,
                    "name": residue.name,
                    "resSeq": _number(residue.id, residue.index + 1),
                    "segmentID": "",
                    "atoms": [
                        {
                            "index": atom.index,
                            "name": atom.name,
                            "element": "VS" if atom.element is None else atom.element.symbol,
                        }
                        for atom in residue.atoms()
                    ],
                }
                for residue in chain.residues()
            ],
        }
        for chain in topology.chains()
    ]
    return json.dumps({"chains": chains, "bonds": [[a.index, b.index] for a, b in topology.bonds()]})


def _number(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise
