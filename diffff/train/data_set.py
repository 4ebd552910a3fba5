"""The data of a training: its frames, on the device or read as they are needed, and how batches are drawn."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.train.devices import Devices
from diffff.train.frames import FrameGroup, Frames, Place
from diffff.train.sampling import Sampler, drawn_seed

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Batch = tuple[int, Ints, Frames, np.ndarray]
"""System, frames, and where these are on the device."""
_AHEAD = 3  # batches that are made ready while others are computed


class OfBaseline(NamedTuple):
    """The systems of a network that is trained as a part of a sum.

    Attributes:
        measured: with the labels of the data.
        left: with what the other parts of the sum leave of the labels, numbers that move being those of the files.
    """

    measured: Sequence[System]
    left: Sequence[System]


@dataclass(frozen=True)
class DataSet:
    """Systems with their frames, and how batches are drawn.

    Attributes:
        systems: the systems, with the labels of the training.
        sizes: frames per batch of each system.
        probabilities: of each system.
        groups: the frames on the host.
        places: of each system in the groups.
        devices: to which frames go.
        on_device: all frames of each group on the device; None: only those of a batch are brought there.
        n_shares: number of devices to which a batch of so many times ``sizes`` frames is dealt.
        of_baseline: the systems as the data have them, and without the other parts of a sum; None: there are none.
    """

    systems: Sequence[System]
    sizes: tuple[int, ...]
    probabilities: np.ndarray
    groups: Sequence[FrameGroup]
    places: Sequence[Place]
    devices: Devices
    on_device: Sequence[Frames] | None
    n_shares: int = 1
    of_baseline: OfBaseline | None = None

    @property
    def whole_sizes(self) -> tuple[int, ...]:
        """Frames of a batch over all devices, of each system."""
        return tuple(self.n_shares * size for size in self.sizes)

    @property
    def empty_part(self) -> float:
        """The part of the slots for atoms that hold none, over all frames."""
        slots = sum(system.n_frames * len(system.types) for system in self.systems)
        empty = sum(int(np.sum(~system.real)) for system in self.systems if system.real is not None)
        return empty / slots

    @property
    def n_shapes(self) -> int:
        """Number of programs that the steps of a training need."""
        return len({(place.group, size) for place, size in zip(self.places, self.sizes, strict=True)})

    def load(self, system: int, n_frames: int) -> tuple[int, int]:
        """Slots for atoms and for pairs in a batch of so many frames of a system: what its memory grows with."""
        return n_frames * len(self.systems[system].types), n_frames * self.groups[self.places[system].group].capacity

    def locate(self, system: int, frames: Ints) -> tuple[Frames, np.ndarray]:
        """Frames on the device, and which of them are these frames of a system."""
        place = self.places[system]
        return self.gather(place.group, place.start + frames)

    def gather(self, group: int, indices: Ints) -> tuple[Frames, np.ndarray]:
        """Frames on the device, and which of them are those of a group with these indices."""
        if self.on_device is not None:
            return self.on_device[group], indices.astype(np.int32)
        return self.devices.everywhere(self.groups[group].frames(indices)), np.arange(len(indices), dtype=np.int32)

    def sampler(self, seed: int | None, *, shuffle: bool) -> Sampler:
        """Draws batches, the same on all ranks; see `Sampler`. Without a seed the first rank draws one and tells it."""
        if seed is None:
            seed = int(self.devices.from_first(np.asarray(drawn_seed())))
            logger.info("no training seed given: drew %d", seed)
        copies = [system.labels.get("numb_copy") for system in self.systems]
        frames = [system.n_frames for system in self.systems]
        return Sampler(frames, self.whole_sizes, self.probabilities, seed, copies=copies, shuffle=shuffle)

    @contextmanager
    def batches(self, sampler: Sampler) -> Iterator[Iterator[Batch]]:
        """Endless batches; the next ones are made ready meanwhile.

        Args:
            sampler: draws them; its state is always that after the last batch that was taken.
        """
        if self.on_device is not None:
            yield ((*drawn, *self.locate(*drawn)) for drawn in iter(sampler.next, None))
            return
        with ThreadPoolExecutor(1, "batches") as pool:
            yield self._ahead(sampler, pool)

    def _ahead(self, sampler: Sampler, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        scout = sampler.copy()
        waiting: deque[Future[tuple[Frames, np.ndarray]]] = deque()
        while True:
            while len(waiting) < _AHEAD:
                waiting.append(pool.submit(self.locate, *scout.next()))
            found = waiting.popleft().result()
            yield (*sampler.next(), *found)
