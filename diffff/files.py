"""Files: how they are named, and that none is ever half there."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffff.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the name of ``path`` when all went well.

    A reader sees the old file or the new one. Missing directories are made; after an error the old file stays.

    Raises:
        InputError: The file cannot be written: no permission, no space.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)  # left by a run that was killed
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        reason = f"{path.parent} is no directory" if isinstance(error, FileExistsError) else error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}).") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """For files that grow, of which `replacing` would make a copy each time.

    Raises:
        InputError: The file cannot be written: no permission, no space.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}).") from error


def file_and_group(name: str) -> tuple[Path, str]:
    """The file of a name, and the group in it, ``data.hdf5#/x``; a ``#`` in the name of what exists is part of it."""
    for cut in (len(name), *(k for k in reversed(range(len(name))) if name[k] == "#")):
        if Path(name[:cut]).exists():
            return Path(name[:cut]), name[cut + 1 :]
    file, _, group = name.partition("#")
    return Path(file), group


def in_place_of(outputs: Iterable[Path], inputs: Iterable[Path]) -> Path | None:
    """The first output that would take the place of an input; None if there is none."""
    read = {Path(file).resolve() for file in inputs}
    return next((file for file in outputs if file.resolve() in read), None)


def discard(path: Path) -> None:
    """Remove a file that an earlier run has left, if it is there.

    Raises:
        InputError: it is, and cannot be removed.
    """
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"{path}: is of an earlier run, and cannot be removed ({error.strerror}).") from None
