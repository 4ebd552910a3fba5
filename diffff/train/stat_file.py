"""The file named by ``stat_file``: a tree of arrays in an HDF5 file, or in a directory, as DeePMD-kit keeps it.

An array is called by its path, as in ``"O H/bias_atom_energy"``: a dataset of the HDF5 file, or a file in numpy's
format (without a suffix) below the directory.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffff.errors import InputError

Arrays = dict[str, NDArray[Any]]

_HDF5 = (".h5", ".hdf5")
_UNFINISHED = "__deepmd_output_stat_transaction__"  # stands beside a bias that DeePMD-kit was interrupted in writing


def read(path: str | Path, group: str) -> Arrays:
    """All arrays below a group, named relative to it; none when the file or the group does not exist.

    Raises:
        InputError: There is something else than such a file, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        found = _read_directory(path / group) if path.is_dir() else _read_hdf5(path, group)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read as statistics ({error}). training.stat_file has to be an HDF5 file or a directory "
            "that an earlier training wrote; delete it, or give another name."
        ) from error
    if _UNFINISHED in found:
        found = {name: array for name, array in found.items() if not name.startswith(("bias_atom_", "std_atom_"))}
    return found


def _read_directory(folder: Path) -> Arrays:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file.relative_to(folder).as_posix(): np.load(file, allow_pickle=False) for file in files}


def _read_hdf5(path: Path, group: str) -> Arrays:
    found: Arrays = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        folder = file.get(group)
        if isinstance(folder, h5py.Group):
            folder.visititems(visit)
    return found


def write(path: str | Path, group: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put arrays below a group; what else is there stays. A reader never sees half a file.

    A name that exists as a directory, or a new one without the suffix .h5 or .hdf5, is a directory.

    Raises:
        InputError: It cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir() or (not path.exists() and path.suffix.lower() not in _HDF5):
            _write_directory(path / group, arrays)
        else:
            _write_hdf5(path, group, arrays)
    except OSError as error:
        raise InputError(f"{path}: the statistics cannot be written (training.stat_file): {error}") from error


def _write_directory(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        part = _part(file)
        try:
            with part.open("wb") as out:
                np.save(out, array)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
    (folder / _UNFINISHED).unlink(missing_ok=True)


def _write_hdf5(path: Path, group: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    try:
        if path.exists():
            shutil.copyfile(path, part)
        with h5py.File(part, "a") as file:
            target = file.require_group(group)
            for name in (*arrays, _UNFINISHED):
                if name in target:
                    del target[name]
            for name, array in arrays.items():
                target.create_dataset(name, data=array)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
