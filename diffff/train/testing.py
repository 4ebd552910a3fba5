"""`dff test`: the errors of a model over labelled frames, in DeePMD-kit's words.

The model is a network, of a model file or a checkpoint, or what stands in the section `model` of an input file: a force
field, or a sum of one and of Deep Potentials.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np

from diffff import spec
from diffff.data.folders import Folder, find_systems
from diffff.data.systems import System, Units, data_type_map, read_systems
from diffff.errors import InputError
from diffff.input_file import load
from diffff.model import Model
from diffff.model_input import with_weights
from diffff.spec import Spec, Variants
from diffff.train.baseline import FrozenDeep, inputs_of
from diffff.train.checkpoint import load_model_of
from diffff.train.config import read_input
from diffff.train.details import DetailFiles
from diffff.train.evaluate import CHUNK_ATOMS, Array, Errors, Ints, compare, evaluate
from diffff.train.fit_config import read_fit_input
from diffff.train.force_field import ForceFieldPart
from diffff.train.parts import UNTRAINED, FittedXml, FrozenSum
from diffff.train.start import has_network
from diffff.train.topology_models import TopologyModels

_LABELS = ("energy", "force", "virial")
logger = logging.getLogger(__name__)


def test(
    model: Path,
    *,
    system: str | None = None,
    datafile: Path | None = None,
    train_data: Path | None = None,
    valid_data: Path | None = None,
    numb_test: int = 0,
    rand_seed: int | None = None,
    shuffle_test: bool = False,
    detail_file: Path | None = None,
    atomic: bool = False,
) -> Errors:
    """Report the errors of a model for each system and over all of them.

    Args:
        model: A model file, a checkpoint of a training, or an input.json.
        system: Where the systems are: at or below this path.
        datafile: Instead, a file that names a path on each line.
        train_data: Instead, an input file: its training data.
        valid_data: Instead, an input file: its validation data.
        numb_test: Frames of each system; 0 means all.
        rand_seed: Seed of the choice of frames.
        shuffle_test: Take random frames of each system rather than the first ones.
        detail_file: Beginning of the paths of the detail files; None: none are written.
        atomic: Whether to test the atomic energies too.

    Returns:
        The errors over all systems.

    Raises:
        InputError: The model or the data cannot be read, or the detail files not be written.
    """
    paths, patterns, units = _sources(system, datafile, train_data, valid_data)
    tested = _tested(model, find_systems(paths, patterns) if _is_input(model) else ())
    if atomic and isinstance(tested, _Sum) and tested.field is not None:
        raise InputError(f"{model}: --atomic is for networks; a force field has no energies of single atoms.")
    systems = read_systems(
        paths,
        tested.type_map,
        rglob_patterns=patterns,
        labels=(*_LABELS, "atom_pref", *(("atom_ener",) if atomic else ())),
        units=units,
        **tested.inputs,
    )
    random = np.random.default_rng(None if rand_seed is None else rand_seed % 2**32)
    total = Errors()
    with nullcontext() if detail_file is None else DetailFiles(detail_file) as details:
        for data in systems:
            frames = random.permutation(data.n_frames) if shuffle_test else np.arange(data.n_frames)
            frames = np.sort(frames[: numb_test or None])
            logger.info("# ---------------output of dff test---------------")
            logger.info("# testing system : %s", data.name)
            total = total + _test_system(tested, data, frames, details, atomic)
            logger.info("# -----------------------------------------------")
    logger.info("# ----------weighted average of errors-----------")
    logger.info("# number of systems : %d", len(systems))
    _report(total)
    if not tested.is_absolute:
        logger.info("# energies are compared up to a constant of each system")
    logger.info("# -----------------------------------------------")
    return total


# ---------------------------------------------------------------------- models
class _Tested(Protocol):
    """What is compared with data."""

    @property
    def type_map(self) -> tuple[str, ...]:
        """Names of the types."""
        ...

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Parameters of frames and atoms that it needs, as keywords of `read_systems`."""
        ...

    @property
    def is_absolute(self) -> bool:
        """Whether its energies have the zero of the data, and not that of a force field."""
        ...

    def predict(self, system: System, frames: Ints, *, atomic: bool) -> dict[str, Array]:
        """Predictions as those of `evaluate`."""
        ...


@dataclass(frozen=True, eq=False)
class _Network:
    """A network under test; see `_Tested`."""

    model: Model

    @property
    def type_map(self) -> tuple[str, ...]:
        return self.model.type_map

    @property
    def inputs(self) -> Mapping[str, Any]:
        return inputs_of(self.model.spec)

    @property
    def is_absolute(self) -> bool:
        return True

    def predict(self, system: System, frames: Ints, *, atomic: bool) -> dict[str, Array]:
        return evaluate(self.model, system, frames, atomic=atomic)


@dataclass(frozen=True, eq=False)
class _Sum:
    """A force field, or a sum of one and of Deep Potentials, under test; see `_Tested`."""

    type_map: tuple[str, ...]
    frozen: FrozenDeep
    field: ForceFieldPart | None

    @property
    def inputs(self) -> Mapping[str, Any]:
        return self.frozen.inputs()

    @property
    def is_absolute(self) -> bool:
        return bool(self.frozen.models)

    def predict(self, system: System, frames: Ints, *, atomic: bool) -> dict[str, Array]:
        n, n_slots = len(frames), len(system.types)
        nothing = {"energy": np.zeros(n), "force": np.zeros((n, n_slots, 3)), "virial": np.zeros((n, 3, 3))}
        nothing |= {"atom_ener": np.zeros((n, n_slots))} if atomic else {}
        some = system.take(frames, ("fparam", "aparam"))
        left = self.frozen.without(replace(some, labels=some.labels | nothing), self.type_map)
        left = left if self.field is None else self.field.without(left)
        return {name: -left.labels[name] for name in nothing}


class _Input(Spec):
    """What is looked at of an input file."""

    model: Annotated[
        FittedXml | FrozenSum,
        Variants(
            refused={
                "standard": UNTRAINED,
                "deep": "name the model file itself instead of an input",
            }
        ),
    ]


def _is_input(file: Path) -> bool:
    return file.suffix.lower() == ".json"


def _tested(file: Path, folders: Sequence[Folder]) -> _Tested:
    """The model of a file; the systems of the data name the types of a force field alone."""
    if not _is_input(file):
        return _Network(load_model_of(file, whole=True))
    data = with_weights(load(file))
    section = {"model": data["model"]} if isinstance(data, dict) and "model" in data else {}
    given = spec.validate(_Input, section, where=str(file)).model
    whole = given if isinstance(given, FrozenSum) else FrozenSum(models=(given,))
    frozen, field = FrozenDeep.read(whole.frozen, file.parent), None
    of_models = dict.fromkeys(name for _, model, _ in frozen.models for name in model.type_map)
    type_map = tuple(of_models or data_type_map(folders))
    if whole.force_field is not None:
        xml, weight = whole.force_field
        field = ForceFieldPart(TopologyModels([xml], [weight], file.parent), type_map)
    return _Sum(type_map, frozen, field)


# ---------------------------------------------------------------------- reports
def _test_system(tested: _Tested, data: System, frames: Ints, details: DetailFiles | None, atomic: bool) -> Errors:
    chunk = max(1, CHUNK_ATOMS // len(data.types))
    chunks = np.split(frames, range(chunk, len(frames), chunk))
    predictions = [tested.predict(data, some, atomic=atomic) for some in chunks]
    if not tested.is_absolute and "energy" in data.labels:
        shift = np.mean(data.labels["energy"][frames] - np.concatenate([one["energy"] for one in predictions]))
        predictions = [{**one, "energy": one["energy"] + shift} for one in predictions]
    errors = Errors()
    for some, prediction in zip(chunks, predictions, strict=True):
        if details is not None:
            details.add(data, some, prediction)
        errors = errors + compare(
            prediction,
            {name: values[some] for name, values in data.labels.items()},
            data.types,
            tested.type_map,
            real=None if data.real is None else data.real[some],
            boxes=None if data.boxes is None else data.boxes[some],
        )
    _report(errors)
    missing = [name for name in (*_LABELS, *(("atom_ener",) if atomic else ())) if name not in data.labels]
    if missing:
        logger.info("# no label in the data, so no error : %s", ", ".join(missing))
    return errors


def _report(errors: Errors) -> None:
    logger.info("# number of test data : %d", errors.n_frames)
    for line in errors.lines():
        logger.info("%s", line)


# ---------------------------------------------------------------------- data
def _sources(
    system: str | None, datafile: Path | None, train_data: Path | None, valid_data: Path | None
) -> tuple[str | list[str], Sequence[str] | None, Units]:
    """Paths of the systems, the patterns that choose among the directories below them, and the units of the files."""
    if datafile is not None:
        try:
            lines = datafile.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{datafile}: cannot be read as a list of systems: {error}.") from error
        paths = [line.strip() for line in lines if line.strip()]
        if not paths:
            raise InputError(f"{datafile}: names no system. Write the path of one on each line.")
        return paths, None, "eV/Angstrom"
    if system is not None:
        return system, None, "eV/Angstrom"
    path = train_data or valid_data
    if path is None:
        raise InputError("no data to test on: give a system, a datafile, train_data or valid_data.")
    training = (read_input if has_network(load(path)) else read_fit_input)(path).training
    data = training.training_data if train_data is not None else training.validation_data
    if data is None:
        raise InputError(f"{path}: has no training.validation_data. Add it, or name the systems with --system.")
    return (data.systems if isinstance(data.systems, str) else list(data.systems)), data.rglob_patterns, data.units
