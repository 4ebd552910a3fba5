"""The frames of the training data on which statistics are computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.potentials.deep import DeepModel
from diffff.potentials.pairs import FramePairs, truncate
from diffff.train.neighbor_stat import all_pairs
from diffff.train.pair_table import PairTable

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sample:
    """Some frames of one system.

    Attributes:
        system: The system.
        frames: Their numbers, shape ``(n,)``.
        pairs: Their pairs, truncated to the slots of the descriptor.
    """

    system: System
    frames: Ints
    pairs: Sequence[FramePairs]

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which slots hold an atom, shape ``(n, n_atoms)``."""
        shape = (len(self.frames), len(self.system.types))
        return np.ones(shape, bool) if self.system.real is None else self.system.real[self.frames]

    def atoms_per_type(self, n_types: int) -> Ints:
        """Atoms of each type in each frame, shape ``(n, n_types)``."""
        return np.stack([self.real[:, self.system.types == t].sum(axis=1) for t in range(n_types)], axis=1)


def sample_frames(n_frames: int, n_wanted: int) -> Ints:
    """At most so many frames, evenly spaced from the first; the same ones each time.

    Example:
        >>> sample_frames(10, 4).tolist(), sample_frames(3, 10).tolist()
        ([0, 2, 5, 7], [0, 1, 2])
    """
    n = min(n_frames, n_wanted)
    return np.arange(n) * n_frames // max(n, 1)


def samples(
    model: DeepModel,
    systems: Sequence[System],
    batch_sizes: Sequence[int],
    tables: Sequence[PairTable] | None = None,
) -> list[Sample]:
    """The frames of ``data_stat_nbatch`` batches of each system, evenly spaced over it.

    Args:
        model: With its type map and slots.
        systems: The training data.
        batch_sizes: Frames per batch of each system.
        tables: For each system the pairs of all its frames, truncated or not; found for the sample when not given.
    """
    drawn = []
    for s, (system, size) in enumerate(zip(systems, batch_sizes, strict=True)):
        frames = sample_frames(system.n_frames, model.data_stat_nbatch * size)
        if tables is None:
            found = all_pairs(system, model.descriptor.rcut, frames)
        else:
            found = [tables[s].pairs(system, int(frame)) for frame in frames]
        drawn.append(Sample(system, frames, [truncate(p, system.types, model.descriptor) for p in found]))
    return drawn
