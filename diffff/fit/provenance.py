"""Where a fit comes from: versions of the programs, hashes of what it read, the completed input."""

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from diffff import __version__
from diffff.errors import InputError
from diffff.files import file_and_group

_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "openmm")


def provenance(completed: Mapping[str, Any], files: Iterable[str | Path]) -> dict[str, Any]:
    """What a fit was made from and with.

    Args:
        completed: the input with all defaults; the data that its section `training` names are hashed.
        files: that it read beside them: input, XML, PDB.

    Returns:
        date, versions of the programs, path and SHA-256 of the files and data, and the input.

    Raises:
        InputError: a file cannot be read.
    """
    versions = {"diffff": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # installed otherwise, as conda may do
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "files": [{"path": _named(path), "sha256": sha256_of(path)} for path in files],
        "data": [{"path": _named(path), "sha256": sha256_of(path)} for path in _data_of(completed)],
        "input": dict(completed),
    }


def _named(path: str | Path) -> str:
    """A path below the current directory as it is seen from there."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else str(path)


def _data_of(completed: Mapping[str, Any]) -> Iterator[str]:
    """The directories and files of the data, each once."""
    training, seen = completed.get("training", {}), set()
    for section in ("training_data", "validation_data"):
        systems = (training.get(section) or {}).get("systems", ())
        for name in (systems,) if isinstance(systems, str) else systems:
            if name not in seen:
                seen.add(name)
                yield name


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, or of the list of all files in a directory with theirs.

    For a directory it is what ``find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` prints in it. Of a group
    in an HDF5 file, ``FILE#/group``, it is that of the file.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    place, _ = file_and_group(str(path))
    try:
        if not place.is_dir():
            with place.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        names = sorted(f"./{one.relative_to(place).as_posix()}" for one in place.rglob("*") if one.is_file())
        lines = "".join(f"{sha256_of(place / name)}  {name}\n" for name in names)
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error}).") from None
    return hashlib.sha256(lines.encode()).hexdigest()
