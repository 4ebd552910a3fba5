"""Errors over whole data sets while a model is trained.

Frames have their pairs already; a fixed number of them is predicted at once, the last lot filled up
by repetition, so that one compiled program serves all calls.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from diffff.data.systems import System
from diffff.descriptors.radial import SplineBasis
from diffff.potentials.deep import DeepModel
from diffff.train.data_set import DataSet
from diffff.train.devices import Devices
from diffff.train.evaluate import Errors, compare
from diffff.train.frames import Frames
from diffff.train.step import predict_batch

Params = dict[str, Any]

CHUNK_ATOMS = 1024  # atoms predicted at once
_COMPARED = ("energy", "force", "virial")
SUMMARY_FRAMES = 500  # frames of the training data that are looked at when a run ends


class Predicted(NamedTuple):
    """What a model says of some frames of a system.

    Attributes:
        system: number of the system in its data set.
        frames: which of its frames, shape ``(n,)``.
        values: "energy" ``(n,)`` eV, "force" ``(n, n_atoms, 3)`` eV/Å, "virial" ``(n, 3, 3)`` eV.
    """

    system: int
    frames: np.ndarray
    values: dict[str, np.ndarray]


def errors_over(
    model: DeepModel, params: Params, data: DataSet, basis: SplineBasis | None, limit: int | None = None
) -> Errors:
    """Errors of the predictions for all frames; the arguments are those of `predictions_over`."""
    total = Errors()
    for found in predictions_over(model, params, data, basis, limit):
        total += _compared(found.values, data.systems[found.system], found.frames, model.type_map)
    return total


def errors_of_nothing(data: DataSet, type_map: Sequence[str], limit: int | None = None) -> tuple[Errors, Errors | None]:
    """Errors of the prediction that all forces are zero, and those of the other parts of a sum without the network.

    Energies of the latter are compared up to a constant of each system.

    Args:
        data: Systems with their frames.
        type_map: Names of the types.
        limit: As in `predictions_over`.
    """
    zero, alone = Errors(), Errors()
    split = data.of_baseline
    for i, frames in enumerate(chosen_frames(data, limit)):
        if not len(frames):
            continue
        system = data.systems[i] if split is None else split.measured[i]
        nothing = np.zeros((len(frames), len(system.types), 3))
        zero += _compared({"force": nothing}, system, frames, type_map)
        if split is not None:
            left = {name: split.left[i].labels[name][frames] for name in _COMPARED if name in split.left[i].labels}
            said = {name: np.zeros_like(values) for name, values in left.items()}
            if "energy" in said:
                said["energy"] += left["energy"].mean()
            alone += _compared(said, split.left[i], frames, type_map)
    return zero, None if split is None else alone


def predictions_over(
    model: DeepModel, params: Params, data: DataSet, basis: SplineBasis | None, limit: int | None = None
) -> Iterator[Predicted]:
    """The predictions for all frames.

    Args:
        model: Hyper-parameters.
        params: Parameter tree, ``{"DeepPot": ...}``.
        data: Systems with their frames.
        basis: Spline functions, or None for the direct path.
        limit: Look at so many frames at most, spread evenly over the data; None: at all.
    """
    chosen = chosen_frames(data, limit)
    for g in range(len(data.groups)):
        members = [i for i, place in enumerate(data.places) if place.group == g and len(chosen[i])]
        if not members:
            continue
        indices = np.concatenate([data.places[i].start + chosen[i] for i in members])
        prediction = _prediction(model, params, data, g, indices, basis)
        begin = 0
        for i in members:
            end = begin + len(chosen[i])
            yield Predicted(i, chosen[i], {name: values[begin:end] for name, values in prediction.items()})
            begin = end


def chosen_frames(data: DataSet, limit: int | None) -> list[np.ndarray]:
    """Frames of each system to look at."""
    return _chosen([system.n_frames for system in data.systems], limit)


def _chosen(n_frames: Sequence[int], limit: int | None) -> list[np.ndarray]:
    """Frames of each system to look at.

    >>> [frames.tolist() for frames in _chosen([3, 4], limit=4)]
    [[0, 2], [1, 3]]
    """
    total = sum(n_frames)
    frames = np.arange(total) if limit is None or total <= limit else np.linspace(0, total - 1, limit).astype(int)
    ends = np.cumsum(n_frames)
    return [frames[(frames >= end - n) & (frames < end)] - (end - n) for n, end in zip(n_frames, ends, strict=True)]


def _prediction(
    model: DeepModel,
    params: Params,
    data: DataSet,
    group: int,
    indices: np.ndarray,
    basis: SplineBasis | None,
) -> dict[str, np.ndarray]:
    """Energy, force and virial of frames of a group."""
    devices = data.devices
    size = devices.n * max(1, CHUNK_ATOMS // sum(data.groups[group].systems[0].layout))
    parts = []
    for begin in range(0, len(indices), size):
        some = indices[begin : begin + size]
        frames, places = data.gather(group, np.pad(some, (0, size - len(some)), mode="edge"))
        inputs = {name: frames.labels[name] for name in ("fparam", "aparam") if name in frames.labels}
        out = _predict(model, params, replace(frames, labels=inputs), devices.dealt(places), basis, devices)
        parts.append({name: np.asarray(out[name])[: len(some)] for name in _COMPARED})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _share_predicted(
    model: DeepModel, params: Params, group: Frames, indices: jax.Array, basis: SplineBasis | None, devices: Devices
) -> dict[str, jax.Array]:
    def of_share(params: Params, group: Frames, indices: jax.Array) -> dict[str, jax.Array]:
        return devices.joined(predict_batch(model, params, group.take(indices), basis))

    return devices.on_each(of_share, 3, dealt=2, out=False)(params, group, indices)


_predict = jax.jit(_share_predicted, static_argnames=("model", "basis", "devices"))


def _compared(
    prediction: Mapping[str, np.ndarray], system: System, frames: np.ndarray, type_map: Sequence[str]
) -> Errors:
    return compare(
        prediction,
        {name: system.labels[name][frames] for name in _COMPARED if name in system.labels},
        system.types,
        type_map,
        real=None if system.real is None else system.real[frames],
        boxes=None if system.boxes is None else system.boxes[frames],
    )
