"""`parity.h5`: what a force field said before and after a fit, beside the reference data."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.files import replacing
from diffff.fit.problem import UNITS, FitSystem, Sigmas, energy_weights, mean_energy, predicted

FILE = "parity.h5"
_ARRAYS = ("reference", "before", "after")


class Parity(NamedTuple):
    """One target on the frames of one system.

    Attributes:
        split: "train" or "valid".
        system: its name.
        target: "energy", "force", ….
        unit: of the arrays and of sigma.
        sigma: standard deviation that the fit assumed.
        reference: shape ``(n_frames, …)``; energies relative to their mean if the fit compared them so.
        before: predictions at the start, of the same shape.
        after: predictions at the end.
    """

    split: str
    system: str
    target: str
    unit: str
    sigma: float
    reference: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def rmse(self) -> tuple[float, float]:
        """Root mean square errors before and after."""
        before, after = (float(np.sqrt(np.mean((one - self.reference) ** 2))) for one in (self.before, self.after))
        return before, after


def compare(splits: Mapping[str, Iterable[FitSystem]], before: Any, after: Any, sigmas: Sigmas) -> list[Parity]:
    """The targets that a fit compares, system by system.

    Args:
        splits: systems with labels, "train" and "valid".
        before: parameter tree at the start.
        after: parameter tree at the end.
        sigmas: of the fit.
    """
    found, each = [], [(split, system) for split, systems in splits.items() for system in systems]
    for split, system in each:
        first, last = predicted(system, before, sigmas), predicted(system, after, sigmas)
        for target, reference in system.labels.items():
            if target not in first:
                continue
            arrays = [reference, first[target], last[target]]
            if target == "energy" and sigmas.relative:
                weights = energy_weights(system, sigmas)
                arrays = [one - mean_energy(system, weights, jnp.asarray(one)) for one in arrays]
            sigma = float(getattr(sigmas, target))
            found.append(Parity(split, system.name, target, UNITS[target], sigma, *map(np.asarray, arrays)))
    return found


def write_parity(path: Path, parities: Sequence[Parity]) -> None:
    """Write a file with groups ``split/number of the system/target`` with the arrays of `Parity`.

    Raises:
        InputError: the file cannot be written.
    """
    content = io.BytesIO()  # HDF5 does not get over a full disk in good order, a plain file does
    with h5py.File(content, "w") as file:
        number, last, seen = dict[str, int](), None, set[str]()
        for one in parities:
            if (one.split, one.system) != last or one.target in seen:
                number[one.split] = number.get(one.split, -1) + 1
                last, seen = (one.split, one.system), set[str]()
            seen.add(one.target)
            group = file.require_group(f"{one.split}/{number[one.split]}")
            group.attrs["system"] = one.system
            part = group.create_group(one.target)
            part.attrs.update({"unit": one.unit, "sigma": one.sigma})
            for array in _ARRAYS:
                part[array] = getattr(one, array)
    with replacing(path) as beside:
        beside.write_bytes(content.getvalue())


def read_parity(path: Path) -> list[Parity]:
    """Read such a file.

    Raises:
        InputError: it is missing or damaged.
    """
    found = []
    try:
        with h5py.File(path) as file:
            for split, systems in file.items():
                for number in sorted(systems, key=int):
                    group = systems[number]
                    for target, part in group.items():
                        arrays = [np.asarray(part[array]) for array in _ARRAYS]
                        head = (split, str(group.attrs["system"]), target, str(part.attrs["unit"]))
                        found.append(Parity(*head, float(part.attrs["sigma"]), *arrays))
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). A run writes it at its end.") from None
    return found
