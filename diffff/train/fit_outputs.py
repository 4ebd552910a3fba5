"""Where a fit writes: nothing that it reads is overwritten, no two files have one name, and all can be written."""

import os
from collections.abc import Iterable
from pathlib import Path

from diffff.errors import InputError
from diffff.files import discard, file_and_group, in_place_of
from diffff.fit.parity import FILE as PARITY
from diffff.fit.record import FILE as RECORD
from diffff.train.fit_setup import FitProblem


def check_outputs(problem: FitProblem, input: Path, output: Path) -> None:
    """Refuse outputs in the place of what the fit reads or of each other, and such as cannot be written.

    Raises:
        InputError: one of them is so.
    """
    training = problem.given.training
    outputs = {
        "the completed input": [output],
        "training.disp_file": [Path(training.disp_file)],
        "training.save_ckpt": [Path(training.save_ckpt)],
        "training.record_dir": [Path(training.record_dir) / name for name in (RECORD, PARITY)],
        "training.xml_dir": problem.field.places_in(training.xml_dir),
    }
    files, owner = [file for some in outputs.values() for file in some], dict[Path, str]()
    taken = in_place_of(files, problem.files(input)) or next((f for f in files if _is_data(f, problem.data)), None)
    if taken is not None:
        raise InputError(
            f"{taken}: is read by the fit, and would be overwritten by its outputs. Run it in another directory, or "
            f"choose others by {', '.join(key for key in outputs if '.' in key)}."
        )
    for key, some in outputs.items():
        for file in some:
            if (other := owner.setdefault(file.resolve(), key)) != key:
                raise InputError(f"{file}: {other} and {key} are one file. Choose another name for one of them.")
            if why := _unwritable(file):
                raise InputError(f"{file}: cannot be written ({why}). Choose another place by {key}.")


def without_record(folder: Path) -> None:
    """Remove the record of an earlier fit, which is not that of the fit that begins; see `discard`."""
    for name in (RECORD, PARITY):
        discard(folder / name)


def _is_data(file: Path, systems: Iterable[str]) -> bool:
    """Whether a file holds data: it is one of those named, or belongs to a system in a directory that is."""
    place = file.resolve()
    of_system = place.suffix in (".raw", ".npy") or place.name == "nopbc"
    for name in systems:
        root = file_and_group(name)[0].resolve()
        if place == root or (of_system and place.is_file() and root in place.parents):
            return True
    return False


def _unwritable(file: Path) -> str | None:
    """Why a file cannot be written, without trying."""
    if file.is_dir():
        return "it is a directory"
    parent = file.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        return f"{parent} is no directory"
    return None if os.access(parent, os.W_OK | os.X_OK) else f"{parent} lets nobody like you write"
