"""Systems of many sizes in a few shapes, because each shape of a batch is a compiled program of its own.

A shape is the number of slots of each type (the layout) and the frames per batch. Systems that share one have the
slots that the largest of them needs; slots without an atom cost time, but are seen nowhere.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diffff.data.stored import Stored
from diffff.data.systems import LABELS, System

Layout = tuple[int, ...]
_EXACT = 1000  # so many different shapes are compared one by one; of more, the numbers of slots are rounded up first
_PER_ATOM = {*(name for name, field in LABELS.items() if field.per_atom), "aparam", "drdq"}


def in_few_shapes(systems: Sequence[System], sizes: Sequence[int], limit: int) -> list[System]:
    """The systems, with more slots where this is needed to have at most so many shapes.

    Args:
        systems: the systems.
        sizes: frames per batch of each.
        limit: the number of shapes; there are more where there are more different ``sizes``. The programs of a training
            can be more: systems that differ in their labels, or in whether frames have empty slots, share none.
    """
    frames: dict[tuple[int, Layout], int] = {}
    for system, size in zip(systems, sizes, strict=True):
        key = size, system.layout
        frames[key] = frames.get(key, 0) + system.n_frames
    found = merged(frames, limit)
    shared = {(size, found[size, layout]) for size, layout in frames if found[size, layout] != layout}
    wide = []
    for system, size in zip(systems, sizes, strict=True):
        layout = found[size, system.layout]
        wide.append(widened(system, layout) if (size, layout) in shared else system)
    return wide


def merged(frames: dict[tuple[int, Layout], int], limit: int) -> dict[tuple[int, Layout], Layout]:
    """The layout for each pair of frames per batch and layout, of which there are at most ``limit`` pairs.

    Two of the same number of frames per batch become one, those first that cost the fewest slots without an atom.

    Args:
        frames: number of frames of each.
        limit: see `in_few_shapes`.

    Example:
        >>> merged({(1, (2, 4)): 9, (1, (2, 5)): 9, (1, (20, 40)): 9}, 2)
        {(1, (2, 4)): (2, 5), (1, (2, 5)): (2, 5), (1, (20, 40)): (20, 40)}
    """
    if len(frames) <= limit:
        return {key: key[1] for key in frames}
    keys, step = list(frames), 1
    layouts = np.array([layout for _, layout in keys])
    sizes = np.array([size for size, _ in keys])
    rounded = layouts
    while len(np.unique(np.column_stack([sizes, rounded]), axis=0)) > _EXACT and step <= layouts.max():
        step *= 2
        rounded = -(-layouts // step) * step
    first, belongs = np.unique(np.column_stack([sizes, rounded]), axis=0, return_inverse=True)
    sizes, slots = first[:, 0], first[:, 1:]
    if len(first) > _EXACT:  # other sets of elements, which rounding leaves apart: those of as many atoms go together
        rank = np.argsort(np.lexsort((slots.sum(axis=1), sizes)))
        parts, part = np.unique(np.column_stack([sizes, rank * _EXACT // len(rank)]), axis=0, return_inverse=True)
        sizes, slots = parts[:, 0], np.stack([slots[part == k].max(axis=0) for k in range(len(parts))])
        belongs = part[belongs]
    weights = np.bincount(belongs, weights=list(frames.values()))
    alive = np.ones(len(slots), bool)
    cost = np.stack([_cost(k, slots, weights, sizes) for k in range(len(slots))])
    while alive.sum() > limit:
        a, b = (int(k) for k in np.unravel_index(np.argmin(cost), cost.shape))
        if not np.isfinite(cost[a, b]):
            break
        slots[a], weights[a], alive[b] = np.maximum(slots[a], slots[b]), weights[a] + weights[b], False
        belongs[belongs == b] = a
        cost[a] = np.where(alive, _cost(a, slots, weights, sizes), np.inf)
        cost[:, a], cost[b], cost[:, b] = cost[a], np.inf, np.inf
    needed = {int(k): tuple(layouts[belongs == k].max(axis=0).tolist()) for k in np.unique(belongs)}
    return {key: needed[int(k)] for key, k in zip(keys, belongs, strict=True)}


def _cost(k: int, slots: NDArray, weights: NDArray, sizes: NDArray) -> NDArray:
    """Slots without an atom, over all frames, that come from joining one shape with each; infinite with itself."""
    together = np.maximum(slots, slots[k]).sum(axis=1)
    own = slots.sum(axis=1)
    cost = (together - own) * weights + (together - own[k]) * weights[k]
    return np.where((sizes == sizes[k]) & (np.arange(len(slots)) != k), cost, np.inf)


def widened(system: System, layout: Layout) -> System:
    """The system with more slots, of which some hold no atom in any frame, and with ``real`` that says which do.

    Args:
        system: the system.
        layout: number of slots of each type, at least as many as it has.
    """
    places = np.concatenate(
        [start + np.arange(n) for start, n in zip(np.cumsum((0, *layout)), system.layout, strict=False)]
    )
    n_slots, n_frames = sum(layout), system.n_frames

    def placed(values: NDArray, empty: float = 0) -> NDArray:
        out = np.full((len(values), n_slots, *values.shape[2:]), empty, values.dtype)
        out[:, places] = values
        return out

    def wide(values: Any) -> NDArray:
        if not isinstance(values, Stored):
            return placed(values)
        return cast(NDArray, values.then((len(values), n_slots, *values.shape[2:]), placed))

    every = system.real is None  # frame has the same atoms: then what follows is the same array for each
    order = placed(system.order[None] if every else system.order, -1)
    real = placed(np.ones((1, len(places)), bool) if system.real is None else system.real)
    return replace(
        system,
        types=np.repeat(np.arange(len(layout)), layout),
        layout=layout,
        real=np.broadcast_to(real, (n_frames, n_slots)),
        order=np.broadcast_to(order, (n_frames, n_slots)),
        positions=wide(system.positions),
        labels={name: wide(values) if name in _PER_ATOM else values for name, values in system.labels.items()},
    )
