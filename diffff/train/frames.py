"""Training frames as arrays: their neighbour pairs are found once, and stay.

Systems of the same layout and labels form one group, whose frames share compiled programs.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.neighbors import capacity_for
from diffff.potentials.deep import Layout
from diffff.pytree import pytree, static
from diffff.train.force_field import ForceFieldFrames
from diffff.train.pair_table import PairTable, smallest

Array = Any  # of jax or numpy
Ints = NDArray[np.int64]


@pytree
class Frames:
    """Frames with the same slots for atoms; pairs as in `FramePairs`, but with lattice shifts instead of vectors.

    Attributes:
        center: shape ``(n_frames, capacity)``; unused entries hold ``n_atoms``.
        neighbor: shape ``(n_frames, capacity)``.
        shift: shape ``(n_frames, capacity, 3)``.
        positions: shape ``(n_frames, n_atoms, 3)``, Å.
        boxes: shape ``(n_frames, 3, 3)``, Å; zero without periodicity.
        real: shape ``(n_frames, n_atoms)``, or None when every slot holds an atom.
        n_real: shape ``(n_frames,)``, number of atoms.
        labels: as in `data.System`; fparam and aparam are among them.
        layout: number of slots of each type.
        force_field: what the force field of a sum needs, if its numbers move.
    """

    center: Array
    neighbor: Array
    shift: Array
    positions: Array
    boxes: Array
    real: Array | None
    n_real: Array
    labels: dict[str, Array]
    layout: Layout = static()
    force_field: ForceFieldFrames | None = None

    def take(self, indices: jax.Array) -> "Frames":
        """The frames of these indices."""
        base = None if self.force_field is None else self.force_field.take(indices)
        return replace(jax.tree.map(lambda x: x[indices], replace(self, force_field=None)), force_field=base)

    def vectors(self) -> jax.Array:
        """``dr`` of each pair, shape ``(n_frames, capacity, 3)``, Å; zero for unused entries."""
        frame, last = jnp.arange(len(self.positions))[:, None], self.positions.shape[1] - 1
        there, here = (self.positions[frame, jnp.minimum(index, last)] for index in (self.neighbor, self.center))
        shift = self.shift.astype(there.dtype)  # the sum below is several times as fast as a product of matrices
        return there - here + sum(shift[..., k, None] * self.boxes[:, None, k] for k in range(3))


@dataclass(frozen=True)
class Place:
    """Where the frames of a system are: the group, and the index of its first frame there."""

    group: int
    start: int


@dataclass(frozen=True, eq=False)
class FrameGroup:
    """Frames of systems of the same layout and labels, on the host; those of one system follow those of another.

    Attributes:
        systems: the systems.
        tables: the truncated pairs of each.
        starts: index of the first frame of each, and of one after the last.
        labels: names of the labels that are kept.
        capacity: entries for the pairs of a frame.
    """

    systems: tuple[System, ...]
    tables: tuple[PairTable, ...]
    starts: Ints
    labels: tuple[str, ...]
    capacity: int

    @classmethod
    def of(cls, systems: Sequence[System], tables: Sequence[PairTable], labels: Sequence[str]) -> "FrameGroup":
        """The group of these systems."""
        starts = np.cumsum([0, *(system.n_frames for system in systems)])
        capacity = capacity_for(max((n for table in tables for n in table.n_pairs), default=0))
        return cls(tuple(systems), tuple(tables), starts, tuple(labels), capacity)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.starts[-1])

    @property
    def n_bytes(self) -> int:
        """Bytes of all its frames as arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.frames(np.arange(1)))) * self.n_frames

    def frames(self, indices: Ints) -> Frames:
        """Some of the frames, as arrays of numpy."""
        n, first = len(indices), self.systems[0]
        n_atoms = len(first.types)
        index, shift = smallest(n_atoms), np.result_type(*(table.shift_type for table in self.tables))
        out = Frames(
            center=np.full((n, self.capacity), n_atoms, index),
            neighbor=np.full((n, self.capacity), n_atoms, index),
            shift=np.zeros((n, self.capacity, 3), shift),
            positions=np.empty((n, n_atoms, 3)),
            boxes=np.zeros((n, 3, 3)),
            real=None if first.real is None else np.empty((n, n_atoms), bool),
            n_real=np.full(n, n_atoms),
            labels={name: np.empty((n, *first.labels[name].shape[1:])) for name in self.labels},
            layout=first.layout,
        )
        member = np.searchsorted(self.starts, indices, side="right") - 1
        for k in np.unique(member):
            system, mine = self.systems[k], np.flatnonzero(member == k)
            frames = indices[mine] - self.starts[k]
            for place, frame in zip(mine, frames, strict=True):
                rows = self.tables[k].rows(int(frame))
                for values, name in ((out.center, "center"), (out.neighbor, "neighbor"), (out.shift, "shift")):
                    values[place, : len(rows)] = rows[name]
            out.positions[mine] = system.positions[frames]
            if system.boxes is not None:
                out.boxes[mine] = system.boxes[frames]
            if out.real is not None and system.real is not None:
                out.real[mine] = system.real[frames]
            for name in self.labels:
                out.labels[name][mine] = system.labels[name][frames]
        return out if out.real is None else replace(out, n_real=out.real.sum(axis=1))


def group_frames(
    systems: Sequence[System],
    tables: Sequence[PairTable],
    labels: Sequence[str],
    key: Callable[[System], Hashable] = lambda system: None,
) -> tuple[list[FrameGroup], list[Place]]:
    """Put systems that fit together into groups.

    Args:
        systems: the systems.
        tables: for each system, the truncated pairs of its frames.
        labels: names of the labels to keep, where a system has them.
        key: what else systems of one group have in common.

    Returns:
        The groups, and the place of each system.
    """
    members: dict[tuple[Layout, bool, tuple[str, ...], Hashable, Hashable], list[int]] = {}
    for index, system in enumerate(systems):
        kept = tuple(name for name in labels if name in system.labels)
        shapes = tuple(system.labels[name].shape[1:] for name in kept)
        members.setdefault((system.layout, system.real is not None, kept, shapes, key(system)), []).append(index)
    groups, places = [], [Place(0, 0)] * len(systems)
    for (_, _, kept, *_), indices in members.items():
        some = [systems[i] for i in indices]
        group = FrameGroup.of(some, [tables[i] for i in indices], kept)
        for i, start in zip(indices, group.starts.tolist(), strict=False):
            places[i] = Place(len(groups), start)
        groups.append(group)
    return groups, places
