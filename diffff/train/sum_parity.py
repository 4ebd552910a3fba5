"""What a sum with a network says beside the data, and what its other parts said alone at the start."""

import numpy as np

from diffff.data.systems import System
from diffff.descriptors.radial import SplineBasis
from diffff.fit.parity import Parity
from diffff.train.data_errors import SUMMARY_FRAMES, Params, Predicted, predictions_over
from diffff.train.data_set import OfBaseline
from diffff.train.setup import Problem

UNITS = {"energy": "eV", "force": "eV/Å", "virial": "eV"}


def parities(problem: Problem, params: Params, basis: SplineBasis | None) -> list[Parity]:
    """Each target of each system, before and after the training; energies relative to their mean over its frames.

    Of training and validation data `SUMMARY_FRAMES` frames each are looked at. Sigmas are the root mean square errors
    of the sum over those of training. Forces are left out for systems whose frames differ in their atoms.

    Args:
        problem: what was trained on what, in a sum.
        params: parameter tree at the end.
        basis: spline functions, or None for the direct path.
    """
    found: list[Parity] = []
    for split, data in (("train", problem.train), ("valid", problem.valid)):
        if data is None:
            continue
        assert data.of_baseline is not None  # there is one
        each = sorted(predictions_over(problem.model, params, data, basis, SUMMARY_FRAMES), key=lambda one: one.system)
        for one in each:
            found += _of_system(split, one, data.systems[one.system], data.of_baseline)
    sigmas = {target: _rms([one for one in found if (one.split, one.target) == ("train", target)]) for target in UNITS}
    return [one._replace(sigma=sigmas[one.target] or 1.0) for one in found]


def _of_system(split: str, said: Predicted, trained: System, baseline: OfBaseline) -> list[Parity]:
    measured, left = baseline.measured[said.system], baseline.left[said.system]
    found = []
    atoms = _atoms_of_all(measured)
    for target in (target for target in UNITS if target in measured.labels):
        if target == "force" and atoms is None:
            continue
        reference, rest, wanted = (one.labels[target][said.frames] for one in (measured, left, trained))
        arrays = [reference, reference - rest, said.values[target] + (reference - wanted)]
        if target == "force":
            arrays = [one[:, atoms] for one in arrays]
        if target == "energy":
            arrays = [one - one.mean() for one in arrays]
        found.append(Parity(split, measured.name, target, UNITS[target], 1.0, *map(np.asarray, arrays)))
    return found


def _atoms_of_all(system: System) -> np.ndarray | None:
    """The slots with an atom, the same in all frames; None: they differ."""
    if system.real is None:
        return np.arange(len(system.types))
    return np.flatnonzero(system.real[0]) if np.all(system.real == system.real[0]) else None


def _rms(parities: list[Parity]) -> float:
    """Of the errors at the end."""
    errors = np.concatenate([np.zeros(0), *((one.after - one.reference).ravel() for one in parities)])
    return float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0
