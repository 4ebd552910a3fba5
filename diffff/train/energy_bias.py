"""The energy bias: the energy per atom of each type that explains the energies of the data best."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.errors import InputError
from diffff.potentials.deep import DeepModel
from diffff.train.stat_sample import Sample, sample_frames

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Params = dict[str, Any]

logger = logging.getLogger(__name__)


def assigned_bias(model: DeepModel) -> Array:
    """Energy biases that are not fitted, from ``preset_out_bias`` and ``atom_ener``; eV, shape ``(n_types,)``.

    NaN for the types whose bias is fitted.

    Raises:
        InputError: The two disagree about a type.
    """
    nothing = (None,) * len(model.type_map)
    preset = nothing if model.preset_out_bias is None else model.preset_out_bias.energy
    atomic = model.fitting_net.atom_ener or nothing
    for name, a, b in zip(model.type_map, preset, atomic, strict=True):
        if a is not None and b is not None and a != b:
            raise InputError(
                f"$.model: the energy of an atom {name} is {a} eV in preset_out_bias.energy and {b} eV in "
                "fitting_net.atom_ener. Give it once."
            )
    return np.array([np.nan if a is b is None else b if a is None else a for a, b in zip(preset, atomic, strict=True)])


def energy_bias(model: DeepModel, drawn: Sequence[Sample]) -> tuple[Array, float]:
    """Energy per atom of each type that explains the energies best, in the sense of least squares.

    Minimises ``sum_frames (E - sum_t n_t bias_t)^2``, with the smallest bias where the compositions leave it open.

    Returns:
        The bias, eV, shape ``(n_types,)``, and the standard deviation of what it leaves of the energies, eV.
    """
    labelled = [sample for sample in drawn if "energy" in sample.system.labels]
    energies = [sample.system.labels["energy"][sample.frames] for sample in labelled]
    return _fit_bias(model, labelled, energies, assigned_bias(model))


def change_bias(
    model: DeepModel,
    params: Params,
    systems: Sequence[System],
    batch_sizes: Sequence[int],
    predict: Callable[[System, Ints], Array],
) -> Params:
    """Shift the energy bias of a trained model to other data, so that its energies have no error on average.

    The errors of the energies on ``data_bias_nsample`` batches of each system are fitted like the energies in
    `energy_bias`, and added to the bias. Types with an assigned bias get that one.

    Args:
        model: Hyper-parameters.
        params: Tree of the model, ``{"descriptor", "fitting", "bias"}``.
        systems: The new data.
        batch_sizes: Frames per batch of each system.
        predict: Gives the energies of some frames of a system with ``params``, eV, shape ``(n,)``.

    Returns:
        A new tree; only the bias differs.

    Raises:
        InputError: The data have no energies.
    """
    labelled = [i for i, system in enumerate(systems) if "energy" in system.labels]
    if not labelled:
        raise InputError("the energy bias cannot be changed: no system has an energy.npy.")
    drawn = [
        Sample(systems[i], sample_frames(systems[i].n_frames, model.data_bias_nsample * batch_sizes[i]), ())
        for i in labelled
    ]
    errors = [s.system.labels["energy"][s.frames] - np.asarray(predict(s.system, s.frames)) for s in drawn]
    before = np.asarray(params["bias"], np.float64)
    shift, _ = _fit_bias(model, drawn, errors, assigned_bias(model) - before)
    rows = zip(model.type_map, before, before + shift, strict=True)
    logger.info("energy bias, eV: %s", ", ".join(f"{name} {old:.6f} -> {new:.6f}" for name, old, new in rows))
    return {**params, "bias": jnp.asarray(before + shift)}


def _fit_bias(
    model: DeepModel, drawn: Sequence[Sample], energies: Sequence[Array], assigned: Array
) -> tuple[Array, float]:
    """Least squares for the types whose ``assigned`` bias is NaN; see `energy_bias`."""
    fixed = np.where(np.isnan(assigned), 0.0, assigned)
    if not drawn:
        logger.warning("no system has energies; the energy bias is zero where it is not given")
        return fixed, 0.0
    counts = np.concatenate([sample.atoms_per_type(len(model.type_map)) for sample in drawn]).astype(float)
    counts[:, list(model.atom_exclude_types)] = 0.0
    rest = np.concatenate(energies) - counts @ fixed
    fitted = counts * np.isnan(assigned)
    bias = np.linalg.lstsq(fitted, rest, rcond=model.fitting_net.rcond)[0]
    left = rest - fitted @ bias
    per_atom = left / np.maximum(counts.sum(axis=1), 1)
    logger.info("energies after the fit of the bias: RMSE %.3e eV per atom", np.sqrt(np.mean(per_atom**2)))
    return np.where(np.isnan(assigned), bias, assigned), float(left.std())
