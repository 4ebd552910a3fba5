"""Steps whose bits do not depend on how many devices there are.

The gradient of each frame is computed by a program of its own for one device, and so is the sum over the frames of a
batch with the update: neither knows how many devices there are. Between them the gradients are only moved. So batches
of the same frames in the same order give the same weights, bit for bit, whoever has computed which frame.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff.train.devices import Devices
from diffff.train.memory import bytes_of


class InOrder:
    """A step ``(state, frozen, frames, [indices]) -> (state, metrics)`` in which frames are dealt to the devices."""

    most = 1  # step of a call

    def __init__(
        self, of_one: Callable[..., Any], of_all: Callable[[Any, Any], tuple[Any, Any]], devices: Devices
    ) -> None:
        """The step of two functions.

        Args:
            of_one: ``(state, frozen, frames, index, indices)`` -> what is computed for one frame of the batch.
            of_all: of the state and the results for all frames, stacked in the order of the batch; gives state and
                metrics.
            devices: to which the frames are dealt.
        """
        self._one, self._all, self._devices = jax.jit(of_one), jax.jit(of_all), devices

    def __call__(self, state: Any, frozen: Any, frames: Any, batches: Sequence[np.ndarray]) -> tuple[Any, Any]:
        """The state after the step, and the errors of the batch before it."""
        (indices,) = batches
        devices, parts = self._devices, []
        n_own = len(indices) // devices.n
        for place, given in devices.local((state, frozen, frames)):
            own = indices[place * n_own : (place + 1) * n_own]
            parts.append(_stacked(*(self._one(*given, index, indices) for index in own)))
        each = devices.joined_parts(parts)
        ends = [self._all(*given) for _, given in devices.local((state, each))]
        return devices.copies(ends)

    def bytes_for(self, n: int, state: Any, frozen: Any, frames: Any) -> float:
        """Memory beside the arguments, on each device, of a step of so many frames on each.

        What is computed for each frame of the batch is there on every device when the update begins.
        """
        _, given = self._devices.local((state, frozen, frames))[0]
        n_all = n * self._devices.n
        arguments = *given, np.int64(0), np.zeros(n_all, np.int64)
        one = jax.eval_shape(self._one, *arguments)
        every = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((n_all, *leaf.shape), leaf.dtype), one)
        of_frame = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        programs = self._one.lower(*arguments), self._all.lower(given[0], every)
        return (n + n_all) * of_frame + max(bytes_of(program.compile()) for program in programs)


@jax.jit
def _stacked(*each: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
