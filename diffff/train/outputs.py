"""Where `dff train` writes: nothing that it reads is overwritten, no two files have one name, all can be written."""

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from diffff.errors import InputError
from diffff.files import discard, file_and_group, in_place_of
from diffff.fit.number_record import FILE as ROWS
from diffff.fit.parity import FILE as PARITY
from diffff.fit.record import FILE as RECORD
from diffff.frontend.forcefield import ForceField
from diffff.train.checkpoint import SUFFIX
from diffff.train.config import Input, Training
from diffff.train.fit_config import FitInput

Outputs = Mapping[str, Sequence[Path]]
"""Files by the key of the input that says where they go."""


class Inputs(NamedTuple):
    """What is read.

    Attributes:
        files: single files.
        data: names of systems, or of directories with systems below.
        beside: names of files that are looked for in the directories of systems.
    """

    files: Iterable[Path]
    data: Iterable[str]
    beside: Iterable[str] = ()


def outputs_of_fit(given: FitInput, field: ForceField, output: Path) -> Outputs:
    """What a fit writes; ``output`` is the completed input."""
    training = given.training
    return {
        "--output": [output],
        "training.disp_file": [Path(training.disp_file)],
        "training.save_ckpt": [Path(training.save_ckpt)],
        "training.record_dir": [Path(training.record_dir) / name for name in (RECORD, PARITY)],
        "training.xml_dir": field.places_in(training.xml_dir),
    }


def outputs_of_training(given: Input, field: ForceField | None, output: Path) -> Outputs:
    """What the training of a network writes, but for checkpoints with their step in the name.

    Args:
        given: the input.
        field: the force field under the network, if some of its numbers move.
        output: the completed input.
    """
    training, validating = given.training, given.validating
    checkpoint = last_checkpoint(training.save_dir, training.save_ckpt)
    folder = Path(training.xml_dir)
    parity = [parity_of_sum(checkpoint)] if given.is_sum and field is None else []
    return {
        "--output": [output],
        "training.disp_file": [Path(training.disp_file)],
        "validating.full_val_file": [Path(validating.full_val_file)] if validating.is_on else [],
        "training.save_ckpt": [checkpoint, checkpoint.parent / "checkpoint", *parity],
        "training.xml_dir": [] if field is None else [*field.places_in(folder), folder / ROWS, folder / PARITY],
    }


def last_checkpoint(save_dir: str | None, save_ckpt: str) -> Path:
    """The name under which the last checkpoint of a training is found, from these two of its keys."""
    return Path(save_dir or ".") / f"{save_ckpt}{SUFFIX}"


def parity_of_sum(checkpoint: Path) -> Path:
    """The file, beside the last checkpoint, of what a sum says at the end whose other parts stay as they are."""
    return checkpoint.with_suffix(f".parity{SUFFIX}")


def check_outputs(outputs: Outputs, inputs: Inputs) -> None:
    """Refuse outputs in the place of what is read or of each other, and such as cannot be written.

    Raises:
        InputError: one of them is so.
    """
    files, owner = [file for some in outputs.values() for file in some], dict[Path, str]()
    taken = in_place_of(files, inputs.files) or next((file for file in files if _is_data(file, inputs)), None)
    if taken is not None:
        raise InputError(
            f"{taken}: is read by the run, and would be overwritten by its outputs. Run it in another directory, or "
            f"choose others by {', '.join(key for key, some in outputs.items() if some)}."
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


def without_rows(training: Training) -> None:
    """The same of what an earlier training of a sum has left."""
    for name in (ROWS, PARITY):
        discard(Path(training.xml_dir) / name)
    discard(parity_of_sum(last_checkpoint(training.save_dir, training.save_ckpt)))


def _is_data(file: Path, inputs: Inputs) -> bool:
    """Whether a file holds data: it is one of those named, or belongs to a system in a directory that is."""
    place = file.resolve()
    names = {"nopbc", *(Path(name).name for name in inputs.beside)}
    of_system = place.suffix in (".raw", ".npy") or place.name in names
    for name in inputs.data:
        root = file_and_group(name)[0].resolve()
        if place.is_file() and (place == root or (of_system and root in place.parents)):
            return True
    return False


def _unwritable(file: Path) -> str | None:
    """Why a file cannot be written; what is made to find out is removed again."""
    if file.is_dir():
        return "Is a directory"
    if file.exists() and not file.is_file():  # a device
        return None if os.access(file, os.W_OK) else "no permission"
    folder, made = file.parent, list[Path]()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"{there} is no directory"
    try:
        for one in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            one.mkdir()
            made.append(one)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return str(error.strerror or error)
    finally:
        for one in reversed(made):
            with suppress(OSError):
                one.rmdir()
    return None
