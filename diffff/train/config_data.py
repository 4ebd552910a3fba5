"""The sections `training_data` and `validation_data` of an input file: which systems, how often, frames per batch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from diffff.errors import InputError, InputErrors
from diffff.input_file import resolve
from diffff.spec import Spec, SpecT

_BATCH_FORMS = 'give a number of frames, a list with one number per system, "auto", "auto:N", "max:N" or "filter:N"'
_PROB_FORMS = (
    'give "prob_uniform", "prob_sys_size" or "prob_sys_size;first:end:weight;…", '
    "where each block gives the systems first … end-1 a share of the batches"
)
_MIXED = (
    '"{rule}:N" puts frames of different systems in one batch, which diffff does not do; '
    '"auto:N" and "max:N" choose the frames per batch from the size of each system'
)


def batch_rule(text: str) -> tuple[str, int]:
    """Splits a textual `batch_size` into the rule and its number of atoms N.

    Returns:
        ("auto", N): as few frames as hold N atoms together; "auto" alone means 32 atoms.
        ("max", N): as many frames as hold N atoms at most, but at least one.
        ("filter", N): as "max", and systems with more than N atoms are left out.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> batch_rule("auto"), batch_rule("max:512")
        (('auto', 32), ('max', 512))
    """
    rule, _, number = text.partition(":")
    if rule in ("mixed", "mix"):
        raise ValueError(_MIXED.format(rule=rule))
    if text == "auto":
        return "auto", 32
    if rule in ("auto", "max", "filter") and re.fullmatch(r"[0-9]*[1-9][0-9]*", number):
        return rule, int(number)
    if text.isdecimal():
        raise ValueError(f'"{text}" is text; remove the quotes')
    raise ValueError(f'"{text}" is no batch size; {_BATCH_FORMS}')


def prob_blocks(text: str) -> tuple[tuple[int, int, float], ...]:
    """Splits "prob_sys_size;0:2:0.3;2:5:0.7" into its blocks (first system, end, weight); the others have none.

    Raises:
        ValueError: It is no valid `auto_prob`.

    Example:
        >>> prob_blocks("prob_sys_size;0:2:0.3;2:5:0.7")
        ((0, 2, 0.3), (2, 5, 0.7))
        >>> prob_blocks("prob_uniform")
        ()
    """
    kind, *parts = text.split(";")
    if kind not in ("prob_uniform", "prob_sys_size") or (parts and kind == "prob_uniform"):
        raise ValueError(f'"{text}" is no rule for probabilities; {_PROB_FORMS}')
    blocks = []
    for part in parts:
        try:
            first, end, weight = part.split(":")
            blocks.append((int(first), int(end), float(weight)))
        except ValueError:
            raise ValueError(f'the block "{part}" is not of the form first:end:weight, as in 0:2:0.3') from None
    for first, end, weight in blocks:
        if not 0 <= first < end or not 0 <= weight < float("inf"):
            raise ValueError(f"block {first}:{end}:{weight:g}: it needs 0 <= first < end and a weight of at least 0")
    if blocks and sum(weight for _, _, weight in blocks) == 0:
        raise ValueError("all blocks have weight 0; one at least needs a weight above 0")
    return tuple(blocks)


def _batch_text(text: str) -> str:
    batch_rule(text)
    return text


def _prob_text(text: str) -> str:
    prob_blocks(text)
    return text


Name = Annotated[str, Field(min_length=1)]
Systems = Name | Annotated[tuple[Name, ...], Field(min_length=1)]
BatchSize = (
    PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | Annotated[str, AfterValidator(_batch_text)]
)


class Data(Spec):
    """What both sections have in common."""

    aliases: ClassVar[Mapping[str, str]] = {"auto_prob_style": "auto_prob", "sys_weights": "sys_probs"}
    refused_unless: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "set_prefix": ("set", 'the sets of a system are always called "set.*"; rename the directories, remove the key'),
        "min_pair_dist": (0, "no frame is left out of the training in silence; take such frames out of the data"),
    }

    systems: Systems
    "Directories, searched for systems below them, file.hdf5#/group, or extended XYZ."
    rglob_patterns: tuple[str, ...] | None = None
    "Takes only directories that match one of these."
    units: Literal["eV/Angstrom", "kJ/mol/nm"] = "eV/Angstrom"
    "Of positions, boxes and labels in the files: eV and Å, or kJ/mol and nm."
    check_units: bool | None = None
    "Compares bonds and labels with what the force field of a sum expects, and refuses those in another unit or order."
    batch_size: BatchSize = "auto"
    'Frames per batch: a number, a list (one per system), "auto[:N]", "max:N", "filter:N".'
    auto_prob: Annotated[str, AfterValidator(_prob_text)] = "prob_sys_size"
    'How often each system is drawn: "prob_uniform", "prob_sys_size" or "prob_sys_size;first:end:weight;…".'
    sys_probs: tuple[float, ...] | None = None
    "Probability of each system; systems with a negative one share the rest by their batches."

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.sys_probs is None:
            return self
        if self.auto_prob != "prob_sys_size":
            raise ValueError("sys_probs and auto_prob both say how often a system is drawn; keep one of them")
        given = sum(p for p in self.sys_probs if p >= 0)
        if given > 1 + 1e-8:
            raise ValueError(f"the probabilities in sys_probs add up to {given:g}; the most is 1")
        if given < 1 - 1e-5 and min(self.sys_probs, default=0) >= 0:
            raise ValueError(f"sys_probs add up to {given:g} instead of 1; a negative entry takes the rest")
        return self


class TrainingData(Data):
    """The section `training.training_data`."""


class ValidationData(Data):
    """The section `training.validation_data`."""

    aliases: ClassVar[Mapping[str, str]] = {**Data.aliases, "numb_batch": "numb_btch"}

    numb_btch: PositiveInt = 1
    "Batches for the validation column of the learning curve."


def systems_in(*sections: Any) -> list[str]:
    """The systems that sections name, as they stand there; None is a section that is not given."""
    named = [section.systems for section in sections if section is not None]
    return [name for some in named for name in ((some,) if isinstance(some, str) else some)]


def with_found_systems(training: SpecT, path: Path) -> SpecT:
    """The section `training` of an input file with every system named as it is found from the current directory.

    Raises:
        InputErrors: Some are not there, neither in the current directory nor beside the file.
    """
    problems: list[InputError] = []

    def found(name: str, where: str) -> str:
        place = resolve(name, path.parent)
        if place is None:
            looked = " and ".join(dict.fromkeys(str(folder.absolute()) for folder in (Path(), path.parent)))
            problems.append(InputError(f'{path}: {where}: no file or directory "{name}"; looked in {looked}'))
        return place or name

    sections: dict[str, Any] = {}
    for key in ("training_data", "validation_data"):
        data = getattr(training, key)
        if data is None:
            continue
        where = f"$.training.{key}.systems"
        if isinstance(data.systems, str):
            systems: Any = found(data.systems, where)
        else:
            systems = tuple(found(name, f"{where}[{i}]") for i, name in enumerate(data.systems))
        sections[key] = data.model_copy(update={"systems": systems})
    if problems:
        raise InputErrors(problems)
    return training.model_copy(update=sections)
