"""Which frames each training step gets: random, and the same again after a restart."""

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffff.errors import InputError

Ints = NDArray[np.int64]
_SYSTEM, _ORDER = 0, 1  # the two uses of the seed


class Sampler:
    """Draws a system and a batch of its frames for each step.

    The frames of a system are gone through in epochs, each in an order of its own. A batch may begin in one epoch
    and end in the next, so every batch is full and every frame is used equally often: no tail is dropped.
    (A batch across that border can hold a frame twice.) `numb_copy` repeats a frame within each epoch.

    The random numbers are functions of (seed, step) and of (seed, system, epoch), made from numpy's Philox and
    SeedSequence streams, which no numpy version changes. So the state is a few integers, whatever was drawn before.

    Example:
        >>> sampler = Sampler([3], [2], [1.0], seed=1, shuffle=False)
        >>> [sampler.next()[1].tolist() for _ in range(3)]
        [[0, 1], [2, 0], [1, 2]]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_sizes: Sequence[int],
        probs: ArrayLike,
        seed: int,
        *,
        copies: Sequence[ArrayLike | None] | None = None,
        shuffle: bool = True,
    ) -> None:
        """Start at step 0.

        Args:
            sizes: Number of frames of each system.
            batch_sizes: Frames per batch of each system.
            probs: Probability of each system, sum 1.
            seed: Of all random numbers; see `drawn_seed`.
            copies: `numb_copy` of each system, shape (n_frames,), or None for a system whose frames all count once.
            shuffle: False keeps the frames in the order of the files, as for validation.

        Raises:
            InputError: A system that is drawn has no frames to give.
        """
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._batch_sizes = tuple(batch_sizes)
        self._seed = seed
        self._shuffle = shuffle
        cumulative = np.cumsum(np.asarray(probs, dtype=np.float64))
        self._cumulative = cumulative / cumulative[-1]
        counts = copies or [None] * len(sizes)
        self._epoch_frames = [_epoch_frames(n, count) for n, count in zip(sizes, counts, strict=True)]
        for system, frames in enumerate(self._epoch_frames):
            if not len(frames):
                raise InputError(f"system {system}: numb_copy is 0 for all its frames. Leave the system out.")
        self._step = 0
        self._taken = np.zeros(len(sizes), dtype=np.int64)
        self._orders: dict[int, tuple[int, Ints]] = {}  # the running epoch of each system and its order

    def next(self) -> tuple[int, Ints]:
        """The index of the system and the indices of the frames, shape (batch size,), of the next step."""
        draw = _uniform(self._seed, self._step) if len(self._sizes) > 1 else 0.0
        system = int(np.searchsorted(self._cumulative, draw, side="right"))
        frames = self._take(system, int(self._taken[system]), self._batch_sizes[system])
        self._step += 1
        self._taken[system] += len(frames)
        return system, frames

    def copy(self) -> "Sampler":
        """Another one that draws what this one will draw."""
        other = copy(self)
        other._taken, other._orders = self._taken.copy(), dict(self._orders)
        return other

    def state(self) -> dict[str, Ints]:
        """What `restore` needs to go on from here: the seed, the step, the frames taken from each system."""
        return {
            "seed": np.array(self._seed, dtype=np.int64),
            "step": np.array(self._step, dtype=np.int64),
            "taken": self._taken.copy(),
            "sizes": self._sizes.copy(),
        }

    def restore(self, state: Mapping[str, ArrayLike]) -> None:
        """Go on where another sampler of the same systems stood; its seed replaces this one's.

        Raises:
            InputError: The systems are not the same.
        """
        sizes = np.asarray(state["sizes"])
        if not np.array_equal(sizes, self._sizes):
            raise InputError(
                f"The data are not those of the checkpoint: it has systems of {_listed(sizes)} frames, the input has "
                f"{_listed(self._sizes)}. Continue with the same data, or start anew from its weights (--init-model)."
            )
        self._seed = int(np.asarray(state["seed"]))
        self._step = int(np.asarray(state["step"]))
        self._taken = np.array(state["taken"], dtype=np.int64)
        self._orders.clear()

    def _take(self, system: int, start: int, count: int) -> Ints:
        """Frames `start` to `start + count` of the endless row of a system's epochs."""
        taken: list[Ints] = []
        while count > 0:
            epoch, offset = divmod(start, len(self._epoch_frames[system]))
            part = self._order(system, epoch)[offset : offset + count]
            taken.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(taken)

    def _order(self, system: int, epoch: int) -> Ints:
        frames = self._epoch_frames[system]
        if not self._shuffle:
            return frames
        known, order = self._orders.get(system, (-1, frames))
        if known != epoch:
            keys = _philox(self._seed, _ORDER, system, epoch).random_raw(len(frames))
            order = frames[np.argsort(keys, kind="stable")]
            self._orders[system] = (epoch, order)
        return order


def _epoch_frames(n_frames: int, copies: ArrayLike | None) -> Ints:
    frames = np.arange(n_frames, dtype=np.int64)
    return frames if copies is None else np.repeat(frames, np.asarray(copies, dtype=np.int64))


def _uniform(seed: int, step: int) -> float:
    """A number in [0, 1) for the choice of the system."""
    return (int(_philox(seed, _SYSTEM, step).random_raw()) >> 11) * 2.0**-53


def _philox(seed: int, *key: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=key))


def drawn_seed() -> np.uint32:
    """A seed that no one knows before."""
    return np.random.SeedSequence().generate_state(1)[0]


def _listed(sizes: NDArray) -> str:
    return ", ".join(str(size) for size in sizes.tolist())
