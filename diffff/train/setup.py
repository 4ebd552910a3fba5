"""From an input file to all that a training needs: the data, and a model with statistics."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffff import spec
from diffff.data.folders import Folder, find_systems
from diffff.data.systems import System, bytes_on_disk, data_type_map, read_systems
from diffff.errors import InputError
from diffff.model import Model
from diffff.potentials.deep import DeepModel
from diffff.train.baseline import FrozenDeep
from diffff.train.batches import batch_sizes, epoch_steps, kept_systems, n_batches, probabilities, systems_table
from diffff.train.config import Input
from diffff.train.config_data import Data
from diffff.train.data_set import DataSet, OfBaseline
from diffff.train.devices import ONE_DEVICE, Devices
from diffff.train.energy_bias import change_bias
from diffff.train.evaluate import evaluate
from diffff.train.force_field import GROUP, LEAF, ForceFieldPart
from diffff.train.frames import FrameGroup, Frames, group_frames
from diffff.train.groups import Rule
from diffff.train.loss import EnergyLoss
from diffff.train.memory import free_on_device, free_on_host, readable
from diffff.train.moved_rows import MovedRows, moved_rows
from diffff.train.neighbor_stat import NeighborCounts, cut, pair_tables, resolve
from diffff.train.outputs import Inputs, check_outputs, outputs_of_training
from diffff.train.pair_table import PairStore, PairTable
from diffff.train.restart import flat
from diffff.train.shapes import in_few_shapes
from diffff.train.statistics import fill
from diffff.train.topology_models import TopologyModels

Params = dict[str, Any]
_STORED_FROM = 2**16  # bytes of a file that is read as it is needed
logger = logging.getLogger(__name__)


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
        """What trains: the keys `trainable` of the sections, the rules of `parameters`, then those of the optimiser."""
        fitting = self.model.fitting_net.trainable
        layers = fitting if isinstance(fitting, tuple) else (fitting,) * (len(self.model.fitting_net.neuron) + 1)
        frozen = [] if self.model.descriptor.trainable else ["DeepPot/descriptor/embeddings/*"]
        frozen += [f"DeepPot/fitting/nets/*/{k}/*" for k, trained in enumerate(layers) if not trained]
        stay = (Rule(select=pattern, train=False) for pattern in frozen)
        start_lr, parameters = self.given.learning_rate.start_lr, self.given.parameters
        told = (
            Rule(select=rule.select, train=rule.treatment.train, lr_scale=(rule.treatment.lr or start_lr) / start_lr)
            for rule in (() if parameters is None else parameters.of_network)
        )
        return (*stay, *told, *self.given.optimizer.rules)


def prepare(
    given: Input,
    source: Model | None,
    *,
    skip_neighbor_stat: bool,
    finetune: bool = False,
    folder: Path = Path(),
    output: Path | None = None,
    devices: Devices = ONE_DEVICE,
) -> Problem:
    """Read the data, find the neighbours, make or take the model and its statistics.

    Args:
        given: the input.
        source: model whose weights to begin with; None: random ones.
        skip_neighbor_stat: whether to trust ``sel`` without counting the neighbours.
        finetune: whether the energy bias of the source follows the new data.
        folder: of the input file, beside which the files of a force field are looked for.
        output: where the completed input is going to be; None: nothing is going to be written.
        devices: that it is trained on.

    Raises:
        InputError: anything wrong with the data, or a source that is another model; or what is going to be written
            cannot be, or stands in the place of what is read.
    """
    training = given.training
    models = None
    if given.force_field is not None:
        xml, weight = given.force_field
        models = TopologyModels([xml], [weight], folder)
    frozen = FrozenDeep.read(given.frozen, folder)
    frozen.require_inputs_of(given.deep)
    if output is not None and devices.writes:
        _check_outputs(given, models, frozen.files, output)
    train_data, valid_data = training.training_data, training.validation_data
    wanted = given.deep if source is None else _completed_from(source.spec, given.deep)
    folders = find_systems(train_data.systems, train_data.rglob_patterns)
    type_map = wanted.type_map or tuple(data_type_map(folders))
    train_systems = _read(given, train_data, folders, type_map, devices)
    _check_labels(given.loss, train_systems)
    valid_systems: list[System] = []
    if valid_data is not None:
        folders = find_systems(valid_data.systems, valid_data.rglob_patterns)
        valid_systems = _read(given, valid_data, folders, type_map, devices)
    rcut = given.deep.descriptor.rcut
    sizes = batch_sizes(train_data.batch_size, train_systems)
    valid_sizes = () if valid_data is None else batch_sizes(valid_data.batch_size, valid_systems)
    if given.force_field is None:  # which wants the atoms of its topology
        train_systems = in_few_shapes(train_systems, sizes, training.max_shapes)
        valid_systems = in_few_shapes(valid_systems, valid_sizes, training.max_shapes)
    measured = train_systems, valid_systems
    (train_systems, valid_systems), baselines, moved = _on_top(given, frozen, models, type_map, measured)
    store = _store(given, devices)
    tables, counts = pair_tables((*train_systems, *valid_systems), rcut, len(type_map), store, devices)
    model = resolve(wanted, type_map, None if skip_neighbor_stat else counts)
    _cut(tables, (*train_systems, *valid_systems), model, counts, store, tell=skip_neighbor_stat)
    n = len(train_systems)
    parts = [_Part(train_data, train_systems, sizes, tables[:n])]
    parts += [] if valid_data is None else [_Part(valid_data, valid_systems, valid_sizes, tables[n:])]
    train, *validation = _data_sets(given, parts, moved, devices)
    train = replace(train, n_shares=devices.n)
    valid = validation[0] if validation else None
    if baselines is not None:
        train = replace(train, of_baseline=baselines[0])
        valid = None if valid is None else replace(valid, of_baseline=baselines[1])
    for title, data in (("training", train), ("validation", valid)):
        if data is not None:
            logger.info("%s data\n%s", title, systems_table(data.systems, data.sizes, data.probabilities))
    learned = train_systems if baselines is None else baselines[0].left
    if source is None:
        seed = 0 if training.seed is None else training.seed
        stat = {"stat_file": training.stat_file, "stat_file_mode": training.stat_file_mode}
        begin = _silent(model.init(seed)) if given.is_sum else model.init(seed)
        if devices.writes:
            begin = fill(model, begin, learned, train.whole_sizes, tables=tables[:n], **stat)
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


def _check_outputs(given: Input, models: TopologyModels | None, deep: Sequence[Path], output: Path) -> None:
    if models is None:
        check_outputs(outputs_of_training(given, None, output), Inputs(deep, given.data))
        return
    inputs = Inputs([*models.files, *models.topologies.candidates, *deep], given.data, models.topologies.names)
    check_outputs(outputs_of_training(given, models.field if given.parameters else None, output), inputs)


def _on_top(
    given: Input,
    frozen: FrozenDeep,
    models: TopologyModels | None,
    type_map: Sequence[str],
    measured: tuple[list[System], list[System]],
) -> tuple[tuple[list[System], list[System]], tuple[OfBaseline, OfBaseline] | None, MovedRows | None]:
    """What a network has to learn on top of the other parts of a sum.

    Args:
        given: the input.
        frozen: Deep Potentials under the network.
        models: the force field under the network, if there is one.
        type_map: names of the types of the systems.
        measured: training and validation data as they have been read.

    Returns:
        The systems with the labels of the training, which are without all that stays as it is; the systems beside what
        the other parts leave of them at the start, if there are other parts; and the numbers that move.
    """
    if not given.is_sum:
        return measured, None, None
    train, valid = ([frozen.without(one, type_map) for one in systems] for systems in measured)
    left, moved = (train, valid), None
    if models is not None:
        part = ForceFieldPart(models, tuple(type_map))
        _check_units(given, part, *measured)
        left = tuple([part.without(one) for one in systems] for systems in (train, valid))
        moved = None if given.parameters is None else moved_rows(part, given.parameters)
    if moved is None:
        train, valid = left
        logger.info("the network learns what the other parts of the sum, which stay as they are, leave of the labels")
    return (train, valid), (OfBaseline(measured[0], left[0]), OfBaseline(measured[1], left[1])), moved


def _silent(params: Params) -> Params:
    """The network with zeros in its last layer, so that a sum begins as its other parts and not with random forces."""
    nets = {name: [*net[:-1], jax.tree.map(jnp.zeros_like, net[-1])] for name, net in params["fitting"]["nets"].items()}
    return {**params, "fitting": {**params["fitting"], "nets": nets}}


def _check_units(given: Input, part: ForceFieldPart, train: Sequence[System], valid: Sequence[System]) -> None:
    """Refuse data that the force field says are in another unit, unless the input says that they are right."""
    targets = {label for term in given.loss.terms for label in given.loss.labels(term)}
    for data, systems in ((given.training.training_data, train), (given.training.validation_data, valid)):
        if data is not None and data.check_units is not False:
            for system in systems:
                part.require_plausible(system, data.units, targets)


def shifted_bias(model: DeepModel, params: Params, data: DataSet) -> Params:
    """The parameters with the energy bias that fits the data best, which the first rank finds for all."""
    inner = params["DeepPot"]
    if data.devices.writes:
        whole = Model(spec=model, params=jax.tree.map(np.asarray, params))  # of this rank alone
        inner = change_bias(
            model, inner, data.systems, data.whole_sizes, lambda system, f: evaluate(whole, system, f)["energy"]
        )
    bias = data.devices.from_first(np.asarray(inner["bias"], np.float64))
    return {**params, "DeepPot": {**inner, "bias": jnp.asarray(bias)}}


def _read(
    given: Input, data: Data, folders: Sequence[Folder], type_map: Sequence[str], devices: Devices
) -> list[System]:
    fitting = given.deep.fitting_net
    systems = read_systems(
        folders,
        type_map,
        numb_fparam=fitting.numb_fparam,
        default_fparam=fitting.default_fparam,
        numb_aparam=fitting.numb_aparam,
        numb_generalized_coord=given.loss.numb_generalized_coord,
        units=data.units,
        stored_from=_stored_from(given, folders, devices),
    )
    return kept_systems(data.batch_size, systems)


def _stored_from(given: Input, folders: Sequence[Folder], devices: Devices) -> float:
    """From which size on files are read as they are needed: all but the small ones of data that fill the memory."""
    streaming, free = given.training.streaming, free_on_host(devices)
    if given.is_sum or streaming is False:  # labels are made from those of the files
        return inf
    if streaming is None and (free is None or bytes_on_disk(folders) <= free / 4):
        return inf
    return _STORED_FROM


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


def _store(given: Input, devices: Devices) -> PairStore:
    """Where the pairs of the data are kept: in memory as long as they take a quarter of it."""
    free = free_on_host(devices)
    return PairStore(inf if free is None or given.training.streaming is False else free / 4)


def _cut(
    tables: list[PairTable],
    systems: Sequence[System],
    model: DeepModel,
    counts: NeighborCounts,
    store: PairStore,
    *,
    tell: bool,
) -> None:
    """Leave the pairs that the slots of the model hold."""
    if np.all(counts.most <= model.descriptor.slots):
        return
    gone = sum(cut(*each, model, store) for each in zip(tables, systems, strict=True))
    if tell:  # else `resolve` has told it
        logger.warning("descriptor.sel is too small: %d neighbours are left out, the farthest of their atoms", gone)


class _Part(NamedTuple):
    """Training or validation data: the section, the systems, frames per batch, and the pairs."""

    section: Data
    systems: list[System]
    sizes: tuple[int, ...]
    tables: list[PairTable]


def _data_sets(given: Input, parts: Sequence[_Part], moved: MovedRows | None, devices: Devices) -> list[DataSet]:
    wanted = {label for term in given.loss.terms for label in given.loss.labels(term)}
    wanted |= {"atom_pref", "fparam", "aparam", "energy", "force", "virial"}
    wanted |= {"atom_ener_coeff"} if given.loss.enable_atom_ener_coeff else set()
    key = (lambda system: None) if moved is None else moved.part.key
    grouped = [group_frames(part.systems, part.tables, sorted(wanted), key) for part in parts]
    stream = _is_streamed(given, sum(group.n_bytes for groups, _ in grouped for group in groups), devices)
    found = []
    for part, (groups, places) in zip(parts, grouped, strict=True):
        batches = [n_batches(system.set_sizes, size) for system, size in zip(part.systems, part.sizes, strict=True)]
        on_device = None if stream else [devices.everywhere(_all_of(group, moved)) for group in groups]
        groups = groups if stream else [replace(group, tables=()) for group in groups]  # whose pairs are there now
        found.append(
            DataSet(
                systems=part.systems,
                sizes=part.sizes,
                probabilities=probabilities(part.section.auto_prob, part.section.sys_probs, batches),
                groups=groups,
                places=places,
                devices=devices,
                on_device=on_device,
            )
        )
    return found


def _all_of(group: FrameGroup, moved: MovedRows | None) -> Frames:
    """All frames of a group, with what the force field needs of them if its numbers move."""
    frames = group.frames(np.arange(group.n_frames))
    return frames if moved is None else replace(frames, force_field=moved.part.frames(group.systems, moved.free))


def _is_streamed(given: Input, n_bytes: float, devices: Devices) -> bool:
    """Whether only the frames of a batch are brought to the device; the same on all ranks."""
    wanted, free = given.training.streaming, free_on_device(devices)
    if given.parameters is not None:  # a force field that moves keeps what it needs of all frames
        wanted = False
    stream = (free is not None and n_bytes > free / 2) if wanted is None else wanted
    stream = bool(devices.from_first(np.array(stream)))
    logger.info("data: %s, %s", readable(n_bytes), "read as they are needed" if stream else "kept on the device")
    if not stream and free is not None and n_bytes > free:
        advice = (
            "Take fewer: with a force field that moves, all frames are kept on the device."
            if given.parameters is not None
            else "Leave training.streaming out, or set it to true, so that they are read as they are needed."
        )
        raise InputError(
            f"the frames with their neighbour pairs take {readable(n_bytes)}, and {readable(free)} are free. {advice}"
        )
    return stream


def _completed_from(found: DeepModel, given: DeepModel) -> DeepModel:
    """The model of the input, with what it leaves to the data (no type map, ``sel`` "auto") as the weights have it."""
    sel = found.descriptor.sel if isinstance(given.descriptor.sel, str) else given.descriptor.sel
    descriptor = given.descriptor.model_copy(update={"sel": sel})
    return given.model_copy(update={"type_map": given.type_map or found.type_map, "descriptor": descriptor})


def _same_model(wanted: DeepModel, found: DeepModel) -> None:
    """Refuse weights of a model with other hyper-parameters; those that leave the meaning of the weights may differ."""
    free = {"seed", "trainable", "data_stat_nbatch", "data_stat_protect", "data_bias_nsample", "preset_out_bias",
            "rcond", "sel_overflow", "evaluation", "spline_tolerance", "set_davg_zero", "default_fparam"}  # fmt: skip
    ours, theirs = flat(spec.completed(wanted)), flat(spec.completed(found))
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
