"""The neighbours in the data: all pairs of each frame, how many an atom has, and the slots ``sel`` that hold them.

The order in which a training uses this: the pairs of all frames once, untruncated, and their counts (`pair_tables`);
from the counts the slots (`resolve`); where they do not hold all, the pairs that the model sees (`cut`).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System, data_type_map, read_systems
from diffff.descriptors.se_e2_a import SeE2A
from diffff.errors import InputError, InputErrors
from diffff.potentials.deep import DeepModel
from diffff.potentials.pairs import FramePairs, most_neighbors, overflow_message, pairs_within, slots_for, truncate
from diffff.train.devices import ONE_DEVICE, Devices
from diffff.train.pair_table import Packed, PairStore, PairTable, block_of

Ints = NDArray[np.int64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NeighborCounts:
    """Counts over some frames.

    Attributes:
        shortest: Smallest distance between two atoms, Å; infinite when no two are within the cutoff.
        most: Largest number of neighbours of each type that an atom has, shape ``(n_types,)``.
    """

    shortest: float
    most: Ints

    @property
    def total(self) -> int:
        """Slots that hold the neighbours of every atom: the sum over the types."""
        return int(self.most.sum())


# ---------------------------------------------------------------------- pairs
def all_pairs(system: System, rcut: float, frames: Iterable[int] | None = None) -> list[FramePairs]:
    """The untruncated pairs of the given frames, by default of all; 32 bytes a pair; empty slots have none."""
    wanted = np.asarray(range(system.n_frames) if frames is None else frames, int)
    boxes = [None] * len(wanted) if system.boxes is None else system.boxes[wanted]
    reals = [None] * len(wanted) if system.real is None else system.real[wanted]
    return [pairs_within(rcut, *each) for each in zip(system.positions[wanted], boxes, reals, strict=True)]


# ---------------------------------------------------------------------- counts
def count(systems: Sequence[System], pairs: Sequence[Sequence[FramePairs]], n_types: int) -> NeighborCounts:
    """Counts over pairs that are there already.

    Args:
        systems: The systems.
        pairs: For each system the untruncated pairs of its frames.
        n_types: Types of the model.
    """
    shortest, most = np.inf, np.zeros(n_types, np.int64)
    for system, frames in zip(systems, pairs, strict=True):
        for frame in frames:
            squared = np.einsum("pa,pa->p", frame.dr, frame.dr)
            shortest = min(shortest, squared.min(initial=np.inf))
            found = most_neighbors(frame.center, system.types[frame.neighbor], len(system.types), n_types)
            most = np.maximum(most, found)
    return NeighborCounts(float(np.sqrt(shortest)), most)


def neighbor_counts(systems: Sequence[System], rcut: float, n_types: int) -> NeighborCounts:
    """Counts over all frames, without keeping their pairs; the cutoff is in Å."""
    return _search(systems, rcut, n_types, lambda k, pairs: None, ONE_DEVICE)


def pair_tables(
    systems: Sequence[System], rcut: float, n_types: int, store: PairStore, devices: Devices = ONE_DEVICE
) -> tuple[list[PairTable], NeighborCounts]:
    """The untruncated pairs of all frames of each system, and the counts over them.

    Args:
        systems: The systems.
        rcut: Cutoff, Å.
        n_types: Types of the model.
        store: Keeps the pairs.
        devices: The ranks that share the work.
    """
    tables = [PairTable(block_of(system)) for system in systems]
    counts = _search(systems, rcut, n_types, lambda k, pairs: tables[k].add(pairs, store), devices)
    return tables, counts


def _search(
    systems: Sequence[System], rcut: float, n_types: int, use: Callable[[int, Packed], None], devices: Devices
) -> NeighborCounts:
    """Go through all frames, a few at a time; each rank looks at its part of them and tells the others."""
    shortest, most = np.inf, np.zeros(n_types, np.int64)
    blocks = [(k, begin) for k, system in enumerate(systems) for begin in range(0, system.n_frames, block_of(system))]
    for first in range(0, len(blocks), devices.n_ranks):
        now, each = blocks[first : first + devices.n_ranks], []
        if devices.rank < len(now):
            k, begin = now[devices.rank]
            system = systems[k]
            pairs = all_pairs(system, rcut, range(begin, min(begin + block_of(system), system.n_frames)))
            part, each = count([system], [pairs], n_types), [Packed.of(pairs, len(system.types))]
            shortest, most = min(shortest, part.shortest), np.maximum(most, part.most)
        if devices.n_ranks > 1:
            contents = devices.bytes_of_ranks(each[0].to_bytes() if each else b"")
            each = [Packed.from_bytes(content) for content in contents if content]
        for (k, _), found in zip(now, each, strict=True):
            use(k, found)
    counts = devices.of_ranks(np.array([shortest, *most]))
    return NeighborCounts(float(counts[:, 0].min()), counts[:, 1:].max(axis=0).astype(np.int64))


def cut(table: PairTable, system: System, model: DeepModel, store: PairStore) -> int:
    """Leave those pairs in a table that fit into the slots of the model; how many are gone."""
    gone = 0
    for block, begin in enumerate(range(0, system.n_frames, table.block)):
        frames = range(begin, min(begin + table.block, system.n_frames))
        pairs = [truncate(table.pairs(system, frame), system.types, model.descriptor) for frame in frames]
        gone += sum(frame.truncated for frame in pairs)
        table.replace(block, Packed.of(pairs, len(system.types)), store)
    return gone


# ---------------------------------------------------------------------- slots
def resolve(model: DeepModel, type_map: Sequence[str], counts: NeighborCounts | None) -> DeepModel:
    """The model with what only the data can tell: its type map, when it has none, and the slots for ``sel`` "auto".

    Args:
        model: As read from the input.
        type_map: Names of the types of the data, as the systems were read.
        counts: Neighbours in the data; None when they have not been counted: then ``sel`` has to be numbers.

    Raises:
        InputError: A list has not one entry per type; ``sel`` is too small and ``sel_overflow`` is "error"; no atom has
            neighbours.
    """
    type_map = model.type_map or tuple(type_map)
    _check_lengths(model, type_map)
    descriptor = model.descriptor
    if isinstance(descriptor.sel, str):
        if counts is None:
            raise InputError(
                f'$.model.descriptor.sel: "{descriptor.sel}" needs the neighbours in the data; '
                "let them be counted (without --skip-neighbor-stat), or give one number per type."
            )
        descriptor = descriptor.model_copy(update={"sel": slots_for(descriptor.sel, counts.most)})
        logger.info("descriptor.sel = %s, from the neighbours in the data", list(descriptor.slots))
    if counts is not None:
        _check_slots(descriptor, counts.most)
    return model.model_copy(update={"type_map": type_map, "descriptor": descriptor})


def _check_lengths(model: DeepModel, type_map: tuple[str, ...]) -> None:
    """Every list with one entry per type has as many as the type map."""
    n, sel, preset = len(type_map), model.descriptor.sel, model.preset_out_bias
    lists = {
        "descriptor.sel": n if isinstance(sel, str) else len(sel),
        "fitting_net.atom_ener": len(model.fitting_net.atom_ener) or n,
        "preset_out_bias.energy": n if preset is None else len(preset.energy),
    }
    problems = [
        f"$.model.{key}: {length} entries, but there are {n} types: {' '.join(type_map)}. Give one per type."
        for key, length in lists.items()
        if length != n
    ]
    excluded = {
        "pair_exclude_types": {t for pair in model.pair_exclude_types for t in pair},
        "atom_exclude_types": set(model.atom_exclude_types),
        "descriptor.exclude_types": {t for pair in model.descriptor.exclude_types for t in pair},
    }
    problems += [
        f"$.model.{key}: type {max(types)} does not exist; the {n} types {' '.join(type_map)} have numbers from 0."
        for key, types in excluded.items()
        if max(types, default=0) >= n
    ]
    if problems:
        raise InputErrors(problems)


def _check_slots(descriptor: SeE2A, most: Ints) -> None:
    if not most.any():
        raise InputError(
            f"no two atoms of the training data are within descriptor.rcut = {descriptor.rcut} Å of each other: there "
            "is nothing to learn. Enlarge rcut, and check that coordinates and boxes are in Å."
        )
    if np.any(most > descriptor.slots):
        message = overflow_message(descriptor, most)
        if descriptor.sel_overflow == "error":
            raise InputError(message)
        logger.warning("%s Until then the farthest neighbours are left out, and the energy is not smooth.", message)


# ---------------------------------------------------------------------- the command
def neighbor_stat(paths: Sequence[str], rcut: float, type_map: Sequence[str] | None, mixed: bool) -> str:
    """What `dff neighbor-stat` prints.

    Args:
        paths: Directories or HDF5 groups, searched for systems.
        rcut: Cutoff, Å.
        type_map: Names of the types in order; by default those of the data.
        mixed: Count the neighbours of all types together.
    """
    if rcut <= 0:
        raise InputError(f"rcut: {rcut} Å is no cutoff; give a positive length.")
    names = list(type_map) if type_map is not None else data_type_map(list(paths))
    systems = read_systems(list(paths), names, labels=())
    if mixed:
        names, systems = [" or ".join(names)], [_as_one_type(system) for system in systems]
    counts = neighbor_counts(systems, rcut, len(names))
    return "\n".join(
        [
            f"{sum(system.n_frames for system in systems)} frames of {len(systems)} systems; types: {' '.join(names)}",
            f"min_nbor_dist: {counts.shortest:f}" if counts.total else f"min_nbor_dist: above {rcut:g}, the cutoff",
            f"max_nbor_size: {counts.most.tolist()}",
            f'suggested sel: {list(slots_for("auto", counts.most))} (what "auto" sets: 10 % more, in multiples of 4)',
        ]
    )


def _as_one_type(system: System) -> System:
    return replace(system, types=np.zeros_like(system.types), layout=(len(system.types),))
