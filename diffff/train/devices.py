"""The devices of a run: one mesh over all devices of all ranks, on which frames are dealt and parameters are kept.

Several devices of one process and several processes are the same here. With one device nothing of this happens.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
AXIS = "frames"
_EVERYWHERE, _DEALT = PartitionSpec(), PartitionSpec(AXIS)


@dataclass(frozen=True)
class Devices:
    """Devices among which the frames of a batch are dealt.

    Attributes:
        mesh: all of them in a row; None: one device, and everything is where JAX puts it.
        n: number of devices.
        rank: of this process.
        n_ranks: number of processes.
        n_ranks_here: number of those on this machine, which share its memory.
    """

    mesh: Mesh | None = None
    n: int = 1
    rank: int = 0
    n_ranks: int = 1
    n_ranks_here: int = 1

    @classmethod
    def all(cls) -> "Devices":
        """All devices of all processes."""
        n = jax.device_count()
        if n == 1:
            return cls()
        mesh = jax.make_mesh((n,), (AXIS,), axis_types=(AxisType.Auto,))
        found = cls(mesh, n, jax.process_index(), jax.process_count())
        own = np.array(crc32(socket.gethostname().encode()), np.uint32)
        return replace(found, n_ranks_here=int(np.sum(found.of_ranks(own) == own)))

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    # ------------------------------------------------------------------ placing
    def everywhere(self, tree: Tree) -> Tree:
        """Arrays, the same on all ranks, as arrays that each device has a copy of."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        return self._placed(tree, jax.tree.map(lambda leaf: _EVERYWHERE, tree))

    def dealt(self, values: np.ndarray) -> Any:
        """An array, the same on all ranks, whose first axis is dealt to the devices, if their number divides it."""
        spec = _DEALT if len(values) % self.n == 0 else _EVERYWHERE
        return self._placed(values, spec)

    def split(self, tree: Tree) -> Tree:
        """Arrays of which each device keeps a part, as far as their shapes allow it."""
        return self._placed(tree, jax.tree.map(self._part, tree))

    def _placed(self, tree: Any, specs: Any) -> Any:
        mesh = self.mesh
        if mesh is None:
            return tree

        def place(leaf: Any, spec: PartitionSpec) -> jax.Array:
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, NamedSharding(mesh, spec), lambda part: values[part])

        return jax.tree.map(place, tree, specs)

    def _part(self, leaf: Any) -> PartitionSpec:
        """The longest axis whose length the number of devices divides."""
        lengths = [length if length % self.n == 0 else 0 for length in np.shape(leaf)]
        if not any(lengths):
            return _EVERYWHERE
        axis = int(np.argmax(lengths))
        return PartitionSpec(*(AXIS if k == axis else None for k in range(axis + 1)))

    # ------------------------------------------------------------------ inside compiled programs
    def keep_everywhere(self, tree: Tree) -> Tree:
        """Inside a program: each device gets the whole arrays."""
        return self._kept(tree, jax.tree.map(lambda leaf: _EVERYWHERE, tree))

    def keep_split(self, tree: Tree) -> Tree:
        """Inside a program: each device keeps the part that `split` gives it."""
        return self._kept(tree, jax.tree.map(self._part, tree))

    def _kept(self, tree: Any, specs: Any) -> Any:
        if self.mesh is None:
            return tree
        mesh = self.mesh
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)
        return jax.lax.with_sharding_constraint(tree, shardings)

    def on_each(self, function: Callable[..., Any], n_arguments: int, dealt: int, out: Any) -> Callable[..., Any]:
        """A function that each device computes for its share of an argument.

        Args:
            function: of whole arrays, but for its share of one of them; it may call `mean` and `joined`.
            n_arguments: how many arguments it has.
            dealt: the number of the argument that is dealt.
            out: for each result True if devices have parts of it, False if all have the same; or see `parts`.
        """
        if self.mesh is None:
            return function
        specs = tuple(_DEALT if k == dealt else _EVERYWHERE for k in range(n_arguments))
        kinds = {True: _DEALT, False: _EVERYWHERE}
        results = jax.tree.map(lambda one: one if _is_spec(one) else kinds[one], out, is_leaf=_is_spec)
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=results, check_vma=False)

    def mean(self, tree: Tree) -> Tree:
        """Inside `on_each`: the mean over the devices, of floating-point numbers."""
        if self.mesh is None:
            return tree
        values, rebuild = ravel_pytree(tree)  # one message instead of one for each array
        return rebuild(jax.lax.pmean(values, AXIS))

    def parts(self, tree: Any) -> Any:
        """For `on_each`, that results like these are `mean_parts`."""
        return jax.tree.map(self._part, tree)

    def mean_parts(self, tree: Tree) -> Tree:
        """Inside `on_each`: as `mean`, but each device gets the part only that `split` gives it."""

        def mean(leaf: jax.Array) -> jax.Array:
            spec = self._part(leaf)
            if AXIS not in spec:
                return jax.lax.pmean(leaf, AXIS)
            return jax.lax.psum_scatter(leaf, AXIS, scatter_dimension=spec.index(AXIS), tiled=True) / self.n

        return tree if self.mesh is None else jax.tree.map(mean, tree)

    def joined(self, tree: Tree) -> Tree:
        """Inside `on_each`: the parts of all devices, one after the other along the first axis."""
        return tree if self.mesh is None else jax.lax.all_gather(tree, AXIS, tiled=True)

    # ------------------------------------------------------------------ device by device
    def local(self, tree: Tree) -> list[tuple[int, Tree]]:
        """The copies that the devices of this process have of arrays that are everywhere, with their places in all."""
        if self.mesh is None:
            return [(0, tree)]
        own = [(place, d) for place, d in enumerate(self.mesh.devices.flat) if d.process_index == self.rank]

        def on(device: Any) -> Tree:
            return jax.tree.map(
                lambda leaf: next(part.data for part in leaf.addressable_shards if part.device == device), tree
            )

        return [(place, on(device)) for place, device in own]

    def copies(self, each: Sequence[Tree]) -> Tree:
        """The inverse of `local`: one array of the copies that the devices of this process have."""
        return self._assembled(each, _EVERYWHERE, 1)

    def joined_parts(self, each: Sequence[Tree]) -> Tree:
        """What all devices have, one after the other along the first axis, everywhere; parts are of one length."""
        return self.whole(self._assembled(each, _DEALT, self.n))

    def _assembled(self, each: Sequence[Tree], spec: PartitionSpec, times: int) -> Tree:
        if self.mesh is None:
            return each[0]
        sharding = NamedSharding(self.mesh, spec)

        def assemble(*parts: jax.Array) -> jax.Array:
            shape = parts[0].shape if times == 1 else (times * parts[0].shape[0], *parts[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, sharding, list(parts))

        return jax.tree.map(assemble, *each)

    # ------------------------------------------------------------------ back on the host
    def whole(self, tree: Tree) -> Tree:
        """Arrays that may be split, whole; all ranks have to ask."""
        return tree if self.mesh is None else _whole(self, tree)

    def from_first(self, tree: Tree) -> Tree:
        """What the first rank has in these arrays, on all ranks; shapes and types are the same everywhere."""
        return tree if self.n_ranks == 1 else jax.tree.map(lambda leaf: self.of_ranks(np.asarray(leaf))[0], tree)

    def of_ranks(self, values: np.ndarray) -> np.ndarray:
        """What each rank has in an array, shape ``(n_ranks, ...)``; shape and type are the same everywhere."""
        if self.n_ranks == 1:
            return values[None]
        assert self.mesh is not None
        by_device, shape = NamedSharding(self.mesh, _DEALT), (self.n, *values.shape)
        each = self.whole(jax.make_array_from_callback(shape, by_device, lambda part: values[None]))
        ranks = [device.process_index for device in self.mesh.devices.flat]
        return np.asarray(each)[[ranks.index(rank) for rank in range(self.n_ranks)]]

    def bytes_of_ranks(self, own: bytes) -> list[bytes]:
        """What each rank has, of any length."""
        lengths = self.of_ranks(np.array(len(own)))
        padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)  # few lengths, each a compiled program
        padded[: len(own)] = np.frombuffer(own, np.uint8)
        return [row[:n].tobytes() for row, n in zip(self.of_ranks(padded), lengths, strict=True)]

    def any(self, flag: bool) -> jax.Array:
        """Whether the flag is set on any rank, still to be computed; all ranks have to ask."""
        assert self.mesh is not None
        mesh = self.mesh
        flags = jax.make_array_from_callback((self.n,), NamedSharding(mesh, _DEALT), lambda part: np.array([flag]))
        return _any(self, flags)


ONE_DEVICE = Devices()


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)


@jax.jit(static_argnums=0)
def _whole(devices: Devices, tree: Any) -> Any:
    return devices.keep_everywhere(tree)


@jax.jit(static_argnums=0)
def _any(devices: Devices, flags: jax.Array) -> jax.Array:
    return devices.keep_everywhere(jnp.any(flags))
