"""The memory that the largest batches of a run take, told before its first step."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from diffff.train.data_set import DataSet
from diffff.train.frames import Frames
from diffff.train.memory import require_room

Needs = Callable[[int, Frames], float]
"""Bytes beside the arguments on each device, for a number of frames on each."""
logger = logging.getLogger(__name__)


def require_room_for_steps(data: DataSet, needs: Needs) -> None:
    """Look at the training batches.

    Raises:
        InputError: there is not so much memory.
    """
    if data.n_shapes > 1:
        empty = 100 * data.empty_part
        logger.info("%d shapes of batches, each a program; %.0f %% of the slots are empty", data.n_shapes, empty)
    loads = [data.load(k, size) for k, size in enumerate(data.sizes)]
    for k in _largest(loads):
        _require(data, k, data.sizes[k], needs, "a step of {} frames")


def require_room_for_errors(valid: DataSet, train: DataSet, needs: Needs) -> None:
    """Look at the validation batches that are larger than those of the training: without slopes they take less.

    Raises:
        InputError: there is not so much memory.
    """
    n = valid.devices.n
    own = [size // n if size % n == 0 else size for size in valid.sizes]  # all frames on each device; see batch_errors
    loads = [valid.load(k, size) for k, size in enumerate(own)]
    most = np.max([train.load(k, size) for k, size in enumerate(train.sizes)], axis=0)
    for k in _largest(loads):
        if np.any(loads[k] > most):
            _require(valid, k, own[k], needs, "the errors of {} frames of the validation data")


def _require(data: DataSet, system: int, n_frames: int, needs: Needs, what: str) -> None:
    frames, _ = data.locate(system, np.zeros(data.whole_sizes[system], np.int64))
    atoms = f"{what} with {len(data.systems[system].types)} atoms"
    require_room(lambda n: needs(n, frames), n_frames, atoms, data.devices)


def _largest(loads: Sequence[tuple[int, ...]]) -> list[int]:
    """The batches with the most of something: one of them takes the most memory.

    >>> _largest([(6, 1), (6, 2), (5, 9), (4, 9)])
    [1, 2]
    """
    n_kinds = len(loads[0])
    return sorted({max(range(len(loads)), key=lambda i: (loads[i][k], sum(loads[i]))) for k in range(n_kinds)})
