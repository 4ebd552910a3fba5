"""A frame of a trajectory, and what the writers of all formats need."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from diffff.errors import InputError


class Frame(NamedTuple):
    """What a trajectory holds of one step.

    Attributes:
        step: number of the step, from 0.
        time: ps.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)``, nm, rows are the lattice vectors; None without periodicity.
        velocities: shape ``(n_atoms, 3)``, nm/ps.
        forces: shape ``(n_atoms, 3)``, kJ/mol/nm.
        potential_energy: kJ/mol.
        kinetic_energy: kJ/mol.
        temperature: K.
    """

    step: int
    time: float
    positions: np.ndarray
    box: np.ndarray | None = None
    velocities: np.ndarray | None = None
    forces: np.ndarray | None = None
    potential_energy: float | None = None
    kinetic_energy: float | None = None
    temperature: float | None = None


class Writer(Protocol):
    """A file of one format. When opened to continue after a step, frames of later steps have been removed from it."""

    @property
    def last_step(self) -> int:
        """Step of the last frame; -1 if there is none."""
        ...

    def write(self, frame: Frame) -> None:
        """Add a frame, of a later step than the last."""
        ...

    def flush(self) -> None:
        """Have all frames on disk."""
        ...

    def close(self) -> None:
        """Flush, and close the file."""
        ...


class Growing:
    """A file that grows from time to time; the base of writers."""

    _path: Path
    _file: BinaryIO

    def flush(self) -> None:
        """Have all that was written on disk; to be called before a checkpoint is written that continues from here.

        Raises:
            InputError: the file cannot be written.
        """
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush, and close the file."""
        with writing(self._path):
            if not self._file.closed:
                try:
                    self.flush()
                finally:
                    self._file.close()


@contextmanager
def closed_on_error(file: BinaryIO) -> Iterator[None]:
    """Close a file that cannot be made ready; the error goes on."""
    try:
        yield
    except BaseException:
        file.close()
        raise


def lengths_and_cosines(box: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (a, b, c) of a cell, nm, and cosines of its angles (alpha, beta, gamma).

    They tell the cell up to a rotation, so that the first vector has to be along x and the second in the x-y plane.

    Args:
        box: shape ``(3, 3)``, nm.
        path: of the trajectory, for the message.

    Raises:
        InputError: the box is oriented in another way.
    """
    lengths = np.linalg.norm(box, axis=1)
    if np.any(np.abs(box[np.triu_indices(3, 1)]) > 1e-6 * lengths.max()) or np.any(np.diag(box) <= 0.0):
        raise InputError(
            f"{path}: the file keeps only lengths and angles of a box, so that the first vector must be along +x, the "
            f"second in the x-y plane with y > 0, and the third have z > 0; the box is {box.tolist()} nm. "
            "Rotate the system, or write an extended XYZ (.xyz), which keeps the vectors."
        )
    a, b, c = box / lengths[:, None]
    return lengths, np.array([b @ c, a @ c, a @ b])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a sentence.

    Raises:
        InputError: the file cannot be written or read: no permission, no space.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file or folder. Correct the path, or make the folder.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written or read ({error.strerror or error}).") from error


def not_ours(path: Path, why: str) -> InputError:
    """The error for a file that cannot be continued."""
    return InputError(
        f"{path}: the run cannot be continued in this file: {why}. "
        "Give the trajectory of the run that is continued, or another file name to begin a new one."
    )
