"""What a model takes from the data before it is trained: mean and deviation of its inputs, and the energy bias.

They are computed as DeePMD-kit does, on a sample of the frames (`samples`), and can be kept in the file ``stat_file``,
in the form [number, sum, sum of squares]. A file that DeePMD-kit wrote is read, and the other way round.
"""

import functools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.errors import InputError
from diffff.potentials.deep import DeepModel
from diffff.train import stat_file as files
from diffff.train.energy_bias import assigned_bias, energy_bias
from diffff.train.pair_table import PairTable
from diffff.train.stat_sample import Sample, samples

Array = NDArray[np.float64]
Params = dict[str, Any]

logger = logging.getLogger(__name__)


def _mean_and_deviation(sums: Array, floor: float) -> tuple[Array, Array]:
    """Mean and standard deviation from ``[number, sum, sum of squares]`` on the last axis; 0 and 0.1 of no numbers."""
    n = np.maximum(sums[..., 0], 1)
    mean = sums[..., 1] / n
    deviation = np.maximum(np.sqrt(np.maximum(sums[..., 2] / n - mean**2, 0.0)), floor)
    return mean, np.where(sums[..., 0] == 0, 0.1, deviation)


# ---------------------------------------------------------------------- descriptor
def environment_statistics(model: DeepModel, drawn: Sequence[Sample]) -> tuple[Array, Array]:
    """Mean ``davg`` and deviation ``dstd`` of the environment rows for each type of centre, shape ``(n_types, 4)``.

    The rows (s, a) of all atoms of a type over **all** slots, empty ones included as zeros; the three components of a
    count as one quantity of mean zero. Pairs of excluded types count as empty slots. The deviation is at least 0.01.
    """
    return _from_environment_sums(model, environment_sums(model, drawn))


def environment_sums(model: DeepModel, drawn: Sequence[Sample]) -> Array:
    """``[number, sum, sum of squares]`` of s and of the components of a by type, shape ``(n_types, 2, 3)``."""
    n_types, shape = len(model.type_map), model.descriptor.shape
    visible = np.ones((n_types, n_types), bool)
    for a, b in (*model.pair_exclude_types, *model.descriptor.exclude_types):
        visible[a, b] = visible[b, a] = False
    sums = np.zeros((n_types, 2, 3))
    for sample in drawn:
        types = sample.system.types
        sums[:, :, 0] += np.outer(sample.atoms_per_type(n_types).sum(axis=0), (1, 3)) * model.descriptor.n_sel
        for pairs in sample.pairs:
            center = types[pairs.center]
            weight = visible[center, types[pairs.neighbor]]
            r = np.sqrt(np.einsum("pa,pa->p", pairs.dr, pairs.dr))
            u = np.clip((r - shape.rcut_smth) / (shape.rcut - shape.rcut_smth), 0.0, 1.0)
            s = weight * (1.0 + u**3 * (-6.0 * u**2 + 15.0 * u - 10.0)) / (r + shape.protection)
            a = (s / (r + shape.protection))[:, None] * pairs.dr
            terms = ((s, s**2), (a.sum(axis=1), (a**2).sum(axis=1)))
            for row, powers in enumerate(terms):
                for power, values in enumerate(powers, start=1):
                    sums[:, row, power] += np.bincount(center, values, minlength=n_types)
    return sums


def _from_environment_sums(model: DeepModel, sums: Array) -> tuple[Array, Array]:
    mean, deviation = _mean_and_deviation(sums, 1e-2)
    davg = np.zeros((len(sums), 4))
    if not model.descriptor.set_davg_zero:
        davg[:, 0] = mean[:, 0]
    return davg, deviation[:, [0, 1, 1, 1]]


# ---------------------------------------------------------------------- frame and atomic parameters
def parameter_sums(drawn: Sequence[Sample], name: Literal["fparam", "aparam"]) -> Array:
    """``[number, sum, sum of squares]`` of each frame or atomic parameter, shape ``(n_parameters, 3)``."""
    values = [sample.system.labels[name][sample.frames] for sample in drawn]
    if name == "aparam":
        values = [value[sample.real] for value, sample in zip(values, drawn, strict=True)]
    joined = np.concatenate(values)
    return np.stack([np.full(joined.shape[1], len(joined)), joined.sum(axis=0), (joined**2).sum(axis=0)], axis=1)


# ---------------------------------------------------------------------- into the parameters
def fill(
    model: DeepModel,
    params: Params,
    systems: Sequence[System],
    batch_sizes: Sequence[int],
    *,
    tables: Sequence[PairTable] | None = None,
    stat_file: str | Path | None = None,
    stat_file_mode: Literal["update", "read"] = "update",
) -> Params:
    """Put the statistics of the data into the parameters.

    Args:
        model: With its type map and slots.
        params: Tree of the model, ``{"descriptor", "fitting", "bias"}``.
        systems: The training data.
        batch_sizes: Frames per batch of each system.
        tables: As for `samples`.
        stat_file: Statistics that are here are taken from it, the others are added; an HDF5 file or a directory.
        stat_file_mode: "read": all have to be there.

    Returns:
        A new tree.

    Raises:
        InputError: `stat_file` is incomplete in mode "read", or belongs to another model.
    """
    draw = functools.cache(lambda: samples(model, systems, batch_sizes, tables))
    group = " ".join(model.type_map)
    kept = {} if stat_file is None else files.read(stat_file, group)
    new: files.Arrays = {}
    for names, compute in _parts(model):
        missing = [name for name in names if name not in kept]
        if not missing:
            logger.info("%s: statistics read: %s", stat_file, ", ".join(names))
        elif stat_file is not None and stat_file_mode == "read":
            raise InputError(
                f"{stat_file}: lacks {missing[0]} for the types {group} and the descriptor of this model. "
                'Set training.stat_file_mode to "update" to have it computed, or name the right file.'
            )
        else:
            new |= compute(draw())
    if stat_file is not None and new:
        if "observed_type" not in kept:
            new["observed_type"] = _observed_types(model, draw())
        files.write(stat_file, group, new)
    return _filled(model, params, kept | new, where=str(stat_file))


_Part = tuple[list[str], Callable[[Sequence[Sample]], files.Arrays]]


def _parts(model: DeepModel) -> Iterator[_Part]:
    """The parts of the statistics: the names of their arrays in ``stat_file``, and how they are computed."""
    names = _environment_names(model)
    yield names, lambda drawn: dict(zip(names, environment_sums(model, drawn).reshape(-1, 3), strict=True))
    if model.fitting_net.numb_fparam:
        yield ["fparam"], lambda drawn: {"fparam": parameter_sums(drawn, "fparam")}
    if model.fitting_net.numb_aparam:
        yield ["aparam"], lambda drawn: {"aparam": parameter_sums(drawn, "aparam")}

    def bias(drawn: Sequence[Sample]) -> files.Arrays:
        values, deviation = energy_bias(model, drawn)
        return {"bias_atom_energy": values[:, None], "std_atom_energy": np.full((len(values), 1), deviation)}

    yield ["bias_atom_energy", "std_atom_energy"], bias


def _environment_names(model: DeepModel) -> list[str]:
    """``<hash>/r_0, <hash>/a_0, <hash>/r_1, ...``; DeePMD-kit hashes the geometry of the descriptor.

    Its hash leaves out what else the sums depend on. Models that differ from the default in these get hashes of their
    own, so that they share statistics neither with each other nor with files of DeePMD-kit.
    """
    descriptor = model.descriptor
    key: dict[str, Any] = {
        "type": "se_a",
        "ntypes": len(model.type_map),
        "rcut": round(descriptor.rcut, 2),
        "rcut_smth": round(descriptor.rcut_smth, 2),
        "nsel": descriptor.n_sel,
        "sel": list(descriptor.slots),
        "mixed_types": False,
    }
    silent = sorted({(min(p), max(p)) for p in (*model.pair_exclude_types, *descriptor.exclude_types)})
    others = {"excluded": silent, "env_protection": descriptor.env_protection}
    key |= {name: value for name, value in others.items() if value}
    digest = sha1(json.dumps(key).encode()).hexdigest()
    return [f"{digest}/{row}_{t}" for t in range(len(model.type_map)) for row in ("r", "a")]


def _observed_types(model: DeepModel, drawn: Sequence[Sample]) -> NDArray[np.bytes_]:
    n_types = len(model.type_map)
    seen = np.sum([sample.atoms_per_type(n_types).sum(axis=0) for sample in drawn], axis=0)
    return np.array([name for name, n in zip(model.type_map, seen, strict=True) if n], dtype="S")


def _filled(model: DeepModel, params: Params, arrays: files.Arrays, where: str) -> Params:
    """The tree with the statistics from arrays under the names of ``stat_file``."""
    n_types, fitting = len(model.type_map), model.fitting_net

    def checked(name: str, shape: tuple[int, ...]) -> Array:
        if arrays[name].shape != shape or not np.all(np.isfinite(arrays[name])):
            raise InputError(
                f"{where}: {name} should be {shape} finite numbers, but has shape {arrays[name].shape}. The file "
                "belongs to another model or is damaged; delete it, or give training.stat_file another name."
            )
        return arrays[name].astype(np.float64)

    sums = np.stack([checked(name, (3,)) for name in _environment_names(model)]).reshape(n_types, 2, 3)
    davg, dstd = _from_environment_sums(model, sums)
    statistics: Params = {}
    for name, n in (("fparam", fitting.numb_fparam), ("aparam", fitting.numb_aparam)):
        if n:
            mean, deviation = _mean_and_deviation(checked(name, (n, 3)), model.data_stat_protect)
            statistics |= {f"{name}_avg": jnp.asarray(mean), f"{name}_inv_std": jnp.asarray(1.0 / deviation)}
    bias, given = checked("bias_atom_energy", (n_types, 1))[:, 0], assigned_bias(model)
    if not np.array_equal(bias[~np.isnan(given)], given[~np.isnan(given)]):
        raise InputError(
            f"{where}: was written with other values of preset_out_bias or atom_ener than those of the model. "
            "Delete it, or give training.stat_file another name."
        )
    return {
        **params,
        "descriptor": {**params["descriptor"], "davg": jnp.asarray(davg), "dstd": jnp.asarray(dstd)},
        "fitting": {**params["fitting"], **statistics},
        "bias": jnp.asarray(bias),
    }
