"""The neighbour pairs of all frames of a system, packed: seven bytes each, or five where there are few atoms."""

import io
import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.errors import InputError
from diffff.potentials.pairs import FramePairs

_BLOCK = 64  # frames that are packed together
_ATOMS = 50_000  # in them, at most, so that the pairs of large frames take little memory before they are packed


class PairStore:
    """Keeps packed pairs: in memory up to a limit, beyond it in a temporary file that goes with the process."""

    def __init__(self, limit: float) -> None:
        """An empty one that takes at most so many bytes of memory."""
        self._limit = limit
        self._in_memory = 0
        self._file: Any = None

    @property
    def on_disk(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def keep(self, rows: NDArray, instead: "Kept | None" = None) -> "Kept":
        """Takes an array, and may give up another, which is not read any more, for it.

        Raises:
            InputError: the disk is full.
        """
        if instead is not None and instead.rows is not None:
            self._in_memory -= instead.rows.nbytes
        if self._in_memory + rows.nbytes <= self._limit:
            self._in_memory += rows.nbytes
            return Kept(rows.dtype, rows.nbytes, rows=rows)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="diffff-pairs-")  # noqa: SIM115  open as long as we are
                weakref.finalize(self, self._file.close)
            if instead is not None and instead.rows is None and rows.nbytes <= instead.n_bytes:
                self._file.seek(instead.offset)
            else:
                self._file.seek(0, os.SEEK_END)
            offset = self._file.tell()
            self._file.write(rows.tobytes())
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"the neighbour pairs of the data have no room in memory, nor in {tempfile.gettempdir()} ({error}). "
                "Set TMPDIR to a directory on a larger disk."
            ) from None
        return Kept(rows.dtype, rows.nbytes, offset=offset, store=self)

    def read(self, offset: int, n: int) -> bytes:
        """Bytes of the file."""
        return os.pread(self._file.fileno(), n, offset)


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows in a `PairStore`: in memory, or at a place in its file."""

    dtype: np.dtype
    n_bytes: int
    rows: NDArray | None = None
    offset: int = 0
    store: PairStore | None = None  # whose file closes with it

    def __call__(self, first: int, end: int) -> NDArray:
        """``rows[first:end]``."""
        if self.store is None:
            assert self.rows is not None
            return self.rows[first:end]
        size = self.dtype.itemsize
        return np.frombuffer(self.store.read(self.offset + first * size, (end - first) * size), self.dtype)


@dataclass(frozen=True, eq=False)
class Packed:
    """The pairs of some frames, one frame after the other.

    Attributes:
        starts: where each begins, and the end.
        rows: the fields ``center``, ``neighbor`` and ``shift (3,)``, in the smallest integers that hold them.
    """

    starts: NDArray[np.int64]
    rows: NDArray

    @classmethod
    def of(cls, frames: Sequence[FramePairs], n_atoms: int) -> "Packed":
        """The pairs of frames of so many atoms."""
        index = smallest(n_atoms)
        shift = smallest(max((int(np.abs(p.shift).max(initial=0)) for p in frames), default=0))
        starts = np.cumsum([0, *(len(p.center) for p in frames)])
        rows = np.empty(starts[-1], np.dtype([("center", index), ("neighbor", index), ("shift", shift, (3,))]))
        for name in ("center", "neighbor", "shift"):
            rows[name] = np.concatenate([getattr(p, name) for p in frames])
        return cls(starts, rows)

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        file = io.BytesIO()
        for array in (self.starts, self.rows):
            np.save(file, array, allow_pickle=False)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Packed":
        """The inverse of `to_bytes`."""
        file = io.BytesIO(content)
        return cls(np.load(file, allow_pickle=False), np.load(file, allow_pickle=False))


@dataclass(frozen=True, eq=False)
class PairTable:
    """The pairs of the frames of a system.

    Attributes:
        block: frames that are packed together.
        n_pairs: of each frame.
        blocks: for each ``block`` frames where they begin, and their rows.
        shift_types: integers that hold the lattice translations of each block.
    """

    block: int
    n_pairs: list[int] = field(default_factory=list)
    blocks: list[tuple[NDArray[np.int64], Kept]] = field(default_factory=list)
    shift_types: list[np.dtype] = field(default_factory=list)

    @property
    def shift_type(self) -> np.dtype:
        """Of all blocks."""
        return np.result_type(np.int8, *self.shift_types)

    def add(self, frames: Packed, store: PairStore) -> None:
        """Append the next ``block`` frames, or those that are left."""
        self.blocks.append((frames.starts, store.keep(frames.rows)))
        self.shift_types.append(frames.rows["shift"].dtype)
        self.n_pairs.extend(np.diff(frames.starts).tolist())

    def replace(self, block: int, frames: Packed, store: PairStore) -> None:
        """Take other pairs for the frames of a block; those before go."""
        self.blocks[block] = frames.starts, store.keep(frames.rows, instead=self.blocks[block][1])
        self.shift_types[block] = frames.rows["shift"].dtype
        first = block * self.block
        self.n_pairs[first : first + len(frames.starts) - 1] = np.diff(frames.starts).tolist()

    def rows(self, frame: int) -> NDArray:
        """The pairs of a frame, with the fields ``center``, ``neighbor`` and ``shift (3,)``."""
        block, k = divmod(frame, self.block)
        starts, rows = self.blocks[block]
        return rows(int(starts[k]), int(starts[k + 1]))

    def pairs(self, system: System, frame: int) -> FramePairs:
        """The pairs of a frame as they were found."""
        rows = self.rows(frame)
        center, neighbor, shift = (rows[name].astype(np.int32) for name in ("center", "neighbor", "shift"))
        (positions,) = system.positions[frame : frame + 1]
        dr = positions[neighbor] - positions[center]
        if system.boxes is not None:
            dr += shift @ system.boxes[frame]
        return FramePairs(center, neighbor, shift, dr)


def block_of(system: System) -> int:
    """How many frames of a system are packed together."""
    return max(1, min(_BLOCK, _ATOMS // len(system.types)))


def smallest(largest: int) -> type[np.signedinteger]:
    """The smallest type of integers that holds numbers up to this, and itself."""
    return next(kind for kind in (np.int8, np.int16, np.int32) if largest <= np.iinfo(kind).max)
