"""Where labelled systems are kept: a directory or an HDF5 group, seen the same way.

A system holds `type.raw` and the sets `set.*/`; in HDF5 the groups stand for directories and the data sets for files.
Nothing read here is ever executed: pickled arrays are refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from diffff.data.checks import check_finite
from diffff.data.extxyz import ENDINGS, read_extxyz
from diffff.errors import InputError
from diffff.files import file_and_group

_BLOCK = 2**21  # numbers that are looked at in one go


class Folder(Protocol):
    """A directory with data files in it, on disk or inside an HDF5 file."""

    @property
    def name(self) -> str:
        """The path, as messages show it."""
        ...

    def __contains__(self, file: str) -> bool: ...

    def sets(self) -> "list[Folder]":
        """The `set.*` folders in it, sorted by name."""
        ...

    def array(self, file: str) -> np.ndarray:
        """The numbers in one of its files, in the file's own shape and precision."""
        ...

    def rows(self, file: str, frames: NDArray[np.int64]) -> np.ndarray:
        """The entries of some frames, in ascending order, of such a file; the others are not read."""
        ...

    def size(self, file: str) -> tuple[int, ...]:
        """The shape of the numbers in one of its files."""
        ...

    def n_bytes(self, file: str) -> int:
        """How much one of its files holds."""
        ...

    def words(self, file: str) -> list[str]:
        """The words in one of its text files; `#` starts a comment."""
        ...


@dataclass(frozen=True)
class Directory:
    """A directory of `.npy` and text files."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def __contains__(self, file: str) -> bool:
        return (self.path / file).is_file()

    def sets(self) -> list[Folder]:
        """See `Folder`."""
        return [Directory(path) for path in sorted(self.path.glob("set.*")) if path.is_dir()]

    def array(self, file: str) -> np.ndarray:
        """See `Folder`."""
        return _numbers(_load_npy(self.path / file), f"{self.name}/{file}")

    def rows(self, file: str, frames: NDArray[np.int64]) -> np.ndarray:
        """See `Folder`."""
        return np.asarray(_load_npy(self.path / file, mapped=True)[frames])

    def size(self, file: str) -> tuple[int, ...]:
        """See `Folder`."""
        return _numbers(_load_npy(self.path / file, mapped=True), f"{self.name}/{file}").shape

    def n_bytes(self, file: str) -> int:
        """See `Folder`."""
        return (self.path / file).stat().st_size

    def words(self, file: str) -> list[str]:
        """See `Folder`."""
        try:
            lines = (self.path / file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.name}/{file}: cannot be read as text: {error}.") from error
        return [word for line in lines for word in line.split("#")[0].split()]


@dataclass(frozen=True)
class Group:
    """A group of an HDF5 file. `file` is kept so that the file stays open as long as the group is in use."""

    file: h5py.File
    group: h5py.Group

    @property
    def name(self) -> str:
        """The path of the file and, after `#`, of the group."""
        return f"{self.file.filename}#{self.group.name}"

    def __contains__(self, file: str) -> bool:
        return isinstance(self.group.get(file), h5py.Dataset)

    def sets(self) -> list[Folder]:
        """See `Folder`."""
        names = sorted(name for name in map(str, self.group) if name.startswith("set."))
        found = [self.group[name] for name in names]
        return [Group(self.file, group) for group in found if isinstance(group, h5py.Group)]

    def array(self, file: str) -> np.ndarray:
        """See `Folder`."""
        return _numbers(np.asarray(self._read(file)), f"{self.name}/{file}")

    def rows(self, file: str, frames: NDArray[np.int64]) -> np.ndarray:
        """See `Folder`."""
        in_a_row = len(frames) > 0 and frames[-1] - frames[0] + 1 == len(frames)  # a slice is read many times as fast
        return np.asarray(self._values(file)[slice(frames[0], frames[-1] + 1) if in_a_row else frames])

    def size(self, file: str) -> tuple[int, ...]:
        """See `Folder`."""
        return _numbers(self._values(file), f"{self.name}/{file}").shape

    def n_bytes(self, file: str) -> int:
        """See `Folder`."""
        return self._values(file).nbytes

    def words(self, file: str) -> list[str]:
        """See `Folder`."""
        entries = np.atleast_1d(np.asarray(self._read(file))).ravel().tolist()
        texts = [entry.decode() if isinstance(entry, bytes) else str(entry) for entry in entries]
        return [word for text in texts for word in text.split()]

    def _read(self, file: str) -> Any:
        return self._values(file)[()]

    def _values(self, file: str) -> Any:
        return self.group[file]


def find_systems(paths: str | Sequence[str | Folder], rglob_patterns: Sequence[str] | None = None) -> list[Folder]:
    """List the systems below some paths, each path's own sorted by name.

    Args:
        paths: Directories, or `file.hdf5` or `file.hdf5#/group`. A path stands for every folder at or below it
            that holds a `type.raw`. Or files of extended XYZ, `.xyz` or `.extxyz`, which stand for a system for each
            sequence of atoms; see `read_extxyz`. A folder found before stands for itself.
        rglob_patterns: Take only the directories below a path that match one of these patterns.

    Raises:
        InputError: A path does not exist or has no system below it.
    """
    given = [paths] if isinstance(paths, str) else list(paths)
    if not given:
        raise InputError("systems: the list is empty. Name at least one directory that holds a type.raw.")
    return [folder for one in given for folder in (_expand(one, rglob_patterns) if isinstance(one, str) else [one])]


def read_frames(
    folder: Folder, file: str, shape: tuple[int, ...], *, n_frames: int | None = None, per_atom: bool = False
) -> NDArray[np.float64]:
    """Read one value, or one array of values, per frame.

    The file may hold its numbers in any precision and with the axes of a frame flattened; a single frame may come
    without its frame axis.

    Args:
        folder: The set.
        file: Name of the file in it.
        shape: Shape of one frame.
        n_frames: Number of frames; None takes it from the file.
        per_atom: The first axis of a frame counts atoms (for messages).

    Returns:
        Shape (n_frames, *shape).

    Raises:
        InputError: The file is missing, has another shape or holds NaN or infinity.
    """
    where = f"{folder.name}/{file}"
    if file not in folder:
        raise InputError(f"{where}: the file is missing.")
    array = folder.array(file)
    rows = _n_rows(array.shape, where, shape, n_frames, per_atom=per_atom)
    values = array.reshape(rows, *shape).astype(np.float64, copy=False)
    check_finite(values, where, per_atom=per_atom)
    return values


def stored_frames(
    folder: Folder, file: str, shape: tuple[int, ...], *, n_frames: int | None = None, per_atom: bool = False
) -> tuple[int, Callable[[NDArray[np.int64]], NDArray[np.float64]]]:
    """The same of a file that is read only where frames are asked for: how many it has, and what reads some of them.

    All of it is looked at once, a few frames at a time, for what is not finite.

    Raises:
        InputError: As `read_frames`.
    """
    where = f"{folder.name}/{file}"
    rows = _n_rows(folder.size(file), where, shape, n_frames, per_atom=per_atom)

    def read(frames: NDArray[np.int64]) -> NDArray[np.float64]:
        # a single frame may come without the axis along which frames are read
        some = folder.rows(file, frames) if rows > 1 else folder.array(file).reshape(1, *shape)[frames]
        return some.reshape(len(frames), *shape).astype(np.float64, copy=False)

    step = max(1, _BLOCK // max(1, prod(shape)))
    for first in range(0, rows, step):
        check_finite(read(np.arange(first, min(first + step, rows))), where, per_atom=per_atom, first=first)
    return rows, read


def _n_rows(found: tuple[int, ...], where: str, shape: tuple[int, ...], n_frames: int | None, *, per_atom: bool) -> int:
    """The number of frames in a file of a shape, if it fits frames of theirs."""
    width, size = prod(shape), prod(found)
    rows = n_frames or (1 if len(found) == 1 and size == width else found[0] if found else 0)
    has_frame_axis = bool(found) and found[0] == rows
    if size != rows * width or not (has_frame_axis or rows == 1):
        wanted = f"({'n_frames' if n_frames is None else n_frames}, {width})"
        reasons = [] if n_frames is None else [f"coord.npy has {n_frames} frames"]
        reasons += [f"type.raw has {shape[0]} atoms"] if per_atom else []
        raise InputError(f"{where}: has shape {found}, expected {wanted}: {', '.join(reasons)}.")
    if not rows:
        raise InputError(f"{where}: holds no frames. Remove the empty set.")
    return rows


def _expand(name: str, patterns: Sequence[str] | None) -> list[Folder]:
    path = Path(name)
    if path.is_dir():
        return _directories(path, patterns)
    file, group = file_and_group(name)
    if not file.is_file():
        raise InputError(f"{name}: no such file or directory (looked in {Path.cwd()}). Correct the path in `systems`.")
    is_xyz = not group and path.suffix.lower() in ENDINGS
    if patterns is not None:
        hint = "Leave them out." if is_xyz else f"Name the group, as in {file}#/group."
        raise InputError(f"{name}: rglob_patterns works on directories only. {hint}")
    if is_xyz:
        return read_extxyz(path)
    return _groups(str(file), group or "/")


def _directories(path: Path, patterns: Sequence[str] | None) -> list[Folder]:
    if (path / "data.mdb").is_file():
        raise InputError(f"{path}: LMDB data is not read. Convert it to .npy sets or to HDF5.")
    if patterns is None:
        candidates: Iterable[Path] = [path, *path.rglob("*")]
    else:
        candidates = (match for pattern in patterns for match in path.rglob(pattern))
    found = sorted({folder for folder in candidates if (folder / "type.raw").is_file()})
    if not found:
        matching = "" if patterns is None else f" that matches {' or '.join(patterns)}"
        raise InputError(f"{path}: no system here: no directory at or below it{matching} holds a type.raw.")
    return [Directory(folder) for folder in found]


def _groups(file: str, name: str) -> list[Folder]:
    try:
        root = h5py.File(file, "r")
    except OSError as error:
        raise InputError(f"{file}: neither a directory nor an HDF5 file ({error}).") from error
    top = root.get(name)
    if not isinstance(top, h5py.Group):
        known = ", ".join(list(root)[:10])
        raise InputError(f"{file}#{name}: the file has no group of this name. At its top it holds: {known}.")
    names = [""]
    top.visit(names.append)
    groups = [top if not inner else top[inner] for inner in sorted(names)]
    found: list[Folder] = [Group(root, group) for group in groups if isinstance(group, h5py.Group)]
    found = [folder for folder in found if "type.raw" in folder]
    if not found:
        raise InputError(f"{file}#{name}: no system here: no group at or below it holds a type.raw.")
    return found


def _load_npy(path: Path, *, mapped: bool = False) -> np.ndarray:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start.startswith(b"\x80"):
            raise InputError(_pickled(path))
        if start != b"\x93NUMPY":
            raise InputError(f"{path}: not a .npy file. Write it with numpy.save.")
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise InputError(_pickled(path)) from error
        raise InputError(f"{path}: cannot be read ({error}). Is the file damaged or cut off?") from error


def _pickled(path: Path) -> str:
    return (
        f"{path}: holds pickled Python objects, which can run code when they are loaded, so it is not read. "
        "Save plain numbers: numpy.save(file, numpy.asarray(array, dtype=float))."
    )


def _numbers(array: Any, where: str) -> Any:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where}: holds {array.dtype} values; real numbers are needed.")
    return array
