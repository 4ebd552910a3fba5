"""Training frames as device arrays: their neighbour pairs are found once, and stay.

Systems of the same layout and labels form one group, whose frames share compiled programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff.data.systems import System
from diffff.fit.free import Free
from diffff.neighbors import capacity_for
from diffff.potentials.deep import Layout
from diffff.potentials.pairs import FramePairs
from diffff.pytree import pytree, static
from diffff.train.force_field import ForceFieldFrames, ForceFieldPart


@pytree
class Frames:
    """Frames with the same slots for atoms; pairs as in `model.FramePairs`, but with lattice shifts instead of vectors.

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

    center: jax.Array
    neighbor: jax.Array
    shift: jax.Array
    positions: jax.Array
    boxes: jax.Array
    real: jax.Array | None
    n_real: jax.Array
    labels: dict[str, jax.Array]
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


def group_frames(
    systems: Sequence[System],
    pairs: Sequence[Sequence[FramePairs]],
    labels: Sequence[str],
    force_field: ForceFieldPart | None = None,
    free: Free | None = None,
) -> tuple[list[Frames], list[Place]]:
    """Put the frames of systems that fit together into groups.

    Args:
        systems: the systems.
        pairs: for each system, the truncated pairs of its frames.
        labels: names of the labels to keep, where a system has them.
        force_field: the force field whose numbers move, if there is one.
        free: its free variables.

    Returns:
        The groups, and the place of each system.
    """
    members: dict[tuple[Layout, bool, tuple[str, ...], Any], list[int]] = {}
    for index, system in enumerate(systems):
        kept = tuple(name for name in labels if name in system.labels)
        of_force_field = None if force_field is None else force_field.key(system)
        members.setdefault((system.layout, system.real is not None, kept, of_force_field), []).append(index)
    groups, places = [], [Place(0, 0)] * len(systems)
    for (_, _, kept, _), indices in members.items():
        start = 0
        for index in indices:
            places[index] = Place(len(groups), start)
            start += systems[index].n_frames
        some = [systems[i] for i in indices]
        group = _joined(some, [p for i in indices for p in pairs[i]], kept)
        if force_field is not None and free is not None:
            group = replace(group, force_field=force_field.frames(some, free))
        groups.append(group)
    return groups, places


def _joined(systems: Sequence[System], pairs: Sequence[FramePairs], labels: Sequence[str]) -> Frames:
    n_frames, n_atoms = len(pairs), len(systems[0].types)
    capacity = capacity_for(max((len(p.center) for p in pairs), default=0))
    index_type = np.int16 if n_atoms < np.iinfo(np.int16).max else np.int32
    center = np.full((n_frames, capacity), n_atoms, index_type)
    neighbor = np.full((n_frames, capacity), n_atoms, index_type)
    farthest = max((np.abs(p.shift).max(initial=0) for p in pairs), default=0)  # atoms may be unwrapped by many boxes
    shift = np.zeros((n_frames, capacity, 3), np.int8 if farthest <= np.iinfo(np.int8).max else np.int32)
    for f, p in enumerate(pairs):
        n = len(p.center)
        center[f, :n], neighbor[f, :n], shift[f, :n] = p.center, p.neighbor, p.shift
    boxes = [np.zeros((s.n_frames, 3, 3)) if s.boxes is None else s.boxes for s in systems]
    reals = [s.real for s in systems if s.real is not None]
    real = np.concatenate(reals) if reals else None
    return Frames(
        center=jnp.asarray(center),
        neighbor=jnp.asarray(neighbor),
        shift=jnp.asarray(shift),
        positions=jnp.asarray(np.concatenate([s.positions for s in systems])),
        boxes=jnp.asarray(np.concatenate(boxes)),
        real=None if real is None else jnp.asarray(real),
        n_real=jnp.asarray(np.full(n_frames, n_atoms) if real is None else real.sum(axis=1)),
        labels={name: jnp.asarray(np.concatenate([s.labels[name] for s in systems])) for name in labels},
        layout=systems[0].layout,
    )
