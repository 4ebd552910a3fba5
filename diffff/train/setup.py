"""From an input file to all that a training needs: data on the device, a model with statistics, an optimiser."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff import spec
from diffff.data.systems import System, data_type_map, read_systems
from diffff.errors import InputError
from diffff.fit.parameters import table_of
from diffff.model import Model
from diffff.potentials.deep import DeepModel
from diffff.potentials.pairs import FramePairs, truncate
from diffff.train.batches import batch_sizes, epoch_steps, kept_systems, n_batches, probabilities, systems_table
from diffff.train.config import Input
from diffff.train.config_data import Data
from diffff.train.devices import ONE_DEVICE, Devices
from diffff.train.energy_bias import change_bias
from diffff.train.evaluate import evaluate
from diffff.train.force_field import GROUP, LEAF, ForceFieldPart
from diffff.train.frames import Frames, Place, group_frames
from diffff.train.groups import Rule
from diffff.train.loss import EnergyLoss
from diffff.train.moved_rows import MovedRows
from diffff.train.neighbor_stat import NeighborCounts, all_pairs, count, resolve
from diffff.train.sampling import Sampler
from diffff.train.statistics import fill

Params = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """Systems with their frames on the device, and how batches are drawn.

    Attributes:
        systems: the systems.
        sizes: frames per batch of each system.
        probabilities: of each system.
        groups: frames on the device.
        places: of each system in the groups.
        n_shares: number of devices to which a batch of so many times ``sizes`` frames is dealt.
    """

    systems: Sequence[System]
    sizes: tuple[int, ...]
    probabilities: np.ndarray
    groups: Sequence[Frames]
    places: Sequence[Place]
    n_shares: int = 1

    @property
    def whole_sizes(self) -> tuple[int, ...]:
        """Frames of a batch over all devices, of each system."""
        return tuple(self.n_shares * size for size in self.sizes)

    def locate(self, system: int, frames: np.ndarray) -> tuple[Frames, np.ndarray]:
        """The group of a system, and the indices there of some of its frames."""
        place = self.places[system]
        return self.groups[place.group], (place.start + frames).astype(np.int32)

    def sampler(self, seed: int | None, *, shuffle: bool) -> Sampler:
        """Draws batches; see `Sampler`."""
        copies = [system.labels.get("numb_copy") for system in self.systems]
        frames = [system.n_frames for system in self.systems]
        return Sampler(frames, self.whole_sizes, self.probabilities, seed, copies=copies, shuffle=shuffle)


@dataclass(frozen=True)
class Problem:
    """What is trained on what.

    Attributes:
        given: the input.
        model: hyper-parameters, with type map and slots as numbers.
        params: initial parameter tree, statistics included.
        train: training data.
        valid: validation data, if any.
        shortest: smallest distance between two atoms in the data, Å.
        numb_steps: length of the run.
        moved: the numbers of a force field that are trained too, if any.
        devices: that it is trained on.
    """

    given: Input
    model: DeepModel
    params: Params
    train: DataSet
    valid: DataSet | None
    shortest: float
    numb_steps: int
    moved: MovedRows | None = None
    devices: Devices = ONE_DEVICE

    def learned(self, params: Params) -> DataSet:
        """The training data as the network sees them: without what the force field says with these parameters."""
        if self.moved is None:
            return self.train
        rows = self.moved.free.params(params[GROUP][LEAF])
        return replace(self.train, systems=[self.moved.part.without(system, rows) for system in self.train.systems])

    def rules(self) -> tuple[Rule, ...]:
        """What trains: the keys `trainable` of the sections, then the rules of the optimiser."""
        fitting = self.model.fitting_net.trainable
        layers = fitting if isinstance(fitting, tuple) else (fitting,) * (len(self.model.fitting_net.neuron) + 1)
        frozen = [] if self.model.descriptor.trainable else ["DeepPot/descriptor/embeddings/*"]
        frozen += [f"DeepPot/fitting/nets/*/{k}/*" for k, trained in enumerate(layers) if not trained]
        return (*(Rule(select=pattern, train=False) for pattern in frozen), *self.given.optimizer.rules)


def prepare(
    given: Input,
    source: Model | None,
    *,
    skip_neighbor_stat: bool,
    finetune: bool = False,
    folder: Path = Path(),
    devices: Devices = ONE_DEVICE,
) -> Problem:
    """Read the data, find the neighbours, make or take the model and its statistics.

    Args:
        given: the input.
        source: model whose weights to begin with; None: random ones.
        skip_neighbor_stat: whether to trust ``sel`` without counting the neighbours.
        finetune: whether the energy bias of the source follows the new data.
        folder: of the input file, beside which the files of a force field are looked for.
        devices: that it is trained on.

    Raises:
        InputError: anything wrong with the data, or a source that is another model.
    """
    training = given.training
    train_data, valid_data = training.training_data, training.validation_data
    wanted = given.deep if source is None else _completed_from(source.spec, given.deep)
    type_map = wanted.type_map or tuple(data_type_map(train_data.systems, train_data.rglob_patterns))
    train_systems = _read(given, train_data, type_map)
    _check_labels(given.loss, train_systems)
    valid_systems = [] if valid_data is None else _read(given, valid_data, type_map)
    moved, learned, train_systems, valid_systems = _on_force_field(
        given, folder, type_map, train_systems, valid_systems
    )
    rcut = given.deep.descriptor.rcut
    pairs = [all_pairs(system, rcut) for system in (*train_systems, *valid_systems)]
    counts = count((*train_systems, *valid_systems), pairs, len(type_map))
    model = resolve(wanted, type_map, None if skip_neighbor_stat else counts)
    pairs = [
        _fitting_pairs(p, system, model) for p, system in zip(pairs, (*train_systems, *valid_systems), strict=True)
    ]
    dropped = sum(p.truncated for frames in pairs for p in frames)
    if dropped and skip_neighbor_stat:  # else `resolve` has told it
        logger.warning("descriptor.sel is too small: %d neighbours are left out, the farthest of their atoms", dropped)
    train = _data_set(given, train_data, train_systems, pairs[: len(train_systems)], moved, devices)
    train = replace(train, n_shares=devices.n)
    valid = (
        None
        if valid_data is None
        else _data_set(given, valid_data, valid_systems, pairs[len(train_systems) :], moved, devices)
    )
    for title, data in (("training", train), ("validation", valid)):
        if data is not None:
            logger.info("%s data\n%s", title, systems_table(data.systems, data.sizes, data.probabilities))
    if source is None:
        seed = 0 if training.seed is None else training.seed
        stat = {"stat_file": training.stat_file, "stat_file_mode": training.stat_file_mode}
        begin = model.init(seed) if given.force_field is None else _silent(model.init(seed))
        if devices.writes:
            begin = fill(model, begin, learned, train.whole_sizes, pairs=pairs[: len(train_systems)], **stat)
        params = devices.from_first(begin)
    else:
        _same_model(model, source.spec)
        params = source.params["DeepPot"]
        if finetune:
            params = shifted_bias(model, {"DeepPot": params}, replace(train, systems=learned))["DeepPot"]
    tree: Params = {"DeepPot": params}
    if moved is not None:
        tree[GROUP] = {LEAF: jnp.zeros(moved.free.n_free)}
    return Problem(
        given=given,
        model=model,
        params=tree,
        train=train,
        valid=valid,
        shortest=_shortest(counts, rcut),
        numb_steps=_numb_steps(given, train),
        moved=moved,
        devices=devices,
    )


def _silent(params: Params) -> Params:
    """The network with zeros in its last layer, so that a sum begins as its force field and not with random forces."""
    nets = {name: [*net[:-1], jax.tree.map(jnp.zeros_like, net[-1])] for name, net in params["fitting"]["nets"].items()}
    return {**params, "fitting": {**params["fitting"], "nets": nets}}


def _on_force_field(
    given: Input, folder: Path, type_map: Sequence[str], train: list[System], valid: list[System]
) -> tuple[MovedRows | None, list[System], list[System], list[System]]:
    """What moves of a force field, what it leaves the network to learn at the start, and the data of the training.

    A force field of which nothing moves is taken from the labels of all data; the training sees the rest.
    """
    if given.force_field is None:
        return None, train, train, valid
    xml, weight = given.force_field
    part = ForceFieldPart.read(xml, weight, type_map, folder)
    learned = [part.without(system) for system in train]
    if given.parameters is not None:
        found, free = part.moves(given.parameters, [*train, *valid])
        part.require_apart(Path(given.training.xml_dir))
        logger.info("%s", table_of(found, free, part.field.units))
        return MovedRows(part, found, free), learned, train, valid
    logger.info("the network learns what the force field, which stays as it is, leaves of the labels")
    return None, learned, learned, [part.without(system) for system in valid]


def shifted_bias(model: DeepModel, params: Params, data: DataSet) -> Params:
    """The parameters with the energy bias that fits the data best."""
    whole = Model(spec=model, params=params)
    inner = change_bias(
        model, params["DeepPot"], data.systems, data.whole_sizes, lambda system, f: evaluate(whole, system, f)["energy"]
    )
    return {**params, "DeepPot": inner}


def _read(given: Input, data: Data, type_map: Sequence[str]) -> list[System]:
    fitting = given.deep.fitting_net
    systems = read_systems(
        data.systems,
        type_map,
        rglob_patterns=data.rglob_patterns,
        numb_fparam=fitting.numb_fparam,
        default_fparam=fitting.default_fparam,
        numb_aparam=fitting.numb_aparam,
        numb_generalized_coord=given.loss.numb_generalized_coord,
        units=data.units,
    )
    return kept_systems(data.batch_size, systems)


def _check_labels(loss: EnergyLoss, systems: Sequence[System]) -> None:
    """Say which terms of the loss have no labels at all; refuse data without any."""
    without = {
        term: loss.labels(term)
        for term in loss.terms
        if not any(set(loss.labels(term)) <= system.labels.keys() for system in systems)
    }
    files = {term: ", ".join(f"{label}.npy" for label in labels) for term, labels in without.items()}
    if len(without) == len(loss.terms):
        wanted = "; ".join(files.values()) or "none, for all its prefactors are 0"
        raise InputError(
            f"there is nothing to learn: no training system has the labels that the loss needs ({wanted}). Put them "
            "into set.*/ of the systems, or change the prefactors in the section loss."
        )
    for term, missing in files.items():
        logger.warning(
            "loss: the term with start_pref_%s and limit_pref_%s is without effect: no training system has %s",
            term, term, missing,
        )  # fmt: skip


def _fitting_pairs(pairs: Sequence[FramePairs], system: System, model: DeepModel) -> list[FramePairs]:
    return [truncate(p, system.types, model.descriptor) for p in pairs]


def _data_set(
    given: Input,
    data: Data,
    systems: Sequence[System],
    pairs: Sequence[Sequence[FramePairs]],
    moved: MovedRows | None,
    devices: Devices,
) -> DataSet:
    sizes = batch_sizes(data.batch_size, systems)
    batches = [n_batches(system.set_sizes, size) for system, size in zip(systems, sizes, strict=True)]
    wanted = {label for term in given.loss.terms for label in given.loss.labels(term)}
    wanted |= {"atom_pref", "fparam", "aparam", "energy", "force", "virial"}
    wanted |= {"atom_ener_coeff"} if given.loss.enable_atom_ener_coeff else set()
    moving = {} if moved is None else {"force_field": moved.part, "free": moved.free}
    groups, places = group_frames(systems, pairs, sorted(wanted), **moving)
    groups = [devices.everywhere(group) for group in groups]
    return DataSet(systems, sizes, probabilities(data.auto_prob, data.sys_probs, batches), groups, places)


def _completed_from(found: DeepModel, given: DeepModel) -> DeepModel:
    """The model of the input, with what it leaves to the data (no type map, ``sel`` "auto") as the weights have it."""
    sel = found.descriptor.sel if isinstance(given.descriptor.sel, str) else given.descriptor.sel
    descriptor = given.descriptor.model_copy(update={"sel": sel})
    return given.model_copy(update={"type_map": given.type_map or found.type_map, "descriptor": descriptor})


def input_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys in which two completed inputs differ, with both values."""
    old, new = _flat(before, "input"), _flat(now, "input")
    return [
        f"{key.removeprefix('input.')} was {old.get(key)} and is {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _same_model(wanted: DeepModel, found: DeepModel) -> None:
    """Refuse weights of a model with other hyper-parameters; those that leave the meaning of the weights may differ."""
    free = {"seed", "trainable", "data_stat_nbatch", "data_stat_protect", "data_bias_nsample", "preset_out_bias",
            "rcond", "sel_overflow", "evaluation", "spline_tolerance", "set_davg_zero", "default_fparam"}  # fmt: skip
    ours, theirs = _flat(spec.completed(wanted)), _flat(spec.completed(found))
    different = [
        f"{key} is {ours.get(key)} in the input and {theirs.get(key)} in the file"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key) and key.rpartition(".")[2] not in free
    ]
    if different:
        raise InputError(
            f"the weights belong to another model: {'; '.join(different)}. Make the section model that of the run they "
            "are from (it stands in its out.json), or train from the start."
        )


def _flat(section: Any, path: str = "model") -> dict[str, Any]:
    if not isinstance(section, dict):
        return {path: "float64" if path.endswith("precision") and section == "default" else section}
    return {key: value for name, part in section.items() for key, value in _flat(part, f"{path}.{name}").items()}


def _shortest(counts: NeighborCounts, rcut: float) -> float:
    return float(min(counts.shortest, rcut))


def _numb_steps(given: Input, train: DataSet) -> int:
    if given.training.numb_steps is not None:
        return given.training.numb_steps
    batches = [n_batches(s.set_sizes, size) for s, size in zip(train.systems, train.whole_sizes, strict=True)]
    assert given.training.numb_epoch is not None  # one of the two is given
    steps = epoch_steps(given.training.numb_epoch, batches, train.probabilities)
    logger.info("%g epochs are %d steps", given.training.numb_epoch, steps)
    return steps
