"""The table of errors that a training of a network ends with."""

from collections.abc import Mapping
from typing import Any

from diffff.descriptors.radial import SplineBasis
from diffff.train.columns import aligned
from diffff.train.data_errors import SUMMARY_FRAMES, errors_of_nothing, errors_over
from diffff.train.evaluate import Errors
from diffff.train.setup import Problem

_COLUMNS = {"e_peratom": ("energy/atom", "eV"), "f": ("force", "eV/Å"), "v_peratom": ("virial/atom", "eV")}
_SMALL = 10.0  # eV, from which on errors are not told in thousandths


def summary(problem: Problem, weights: Mapping[str, dict[str, Any]], basis: SplineBasis | None) -> str:
    """A table of the errors over the training and the validation data.

    Args:
        problem: What was trained on what.
        weights: Parameter trees: "last", and the averages that were kept, "ema" and "swa".
        basis: Spline functions, or None for the direct path.

    Returns:
        Root mean square errors of the energy per atom, force and virial per atom, and the error of the force as a
        fraction of the root mean square of the labels, which is the error of a model that predicts zero. In a sum
        also those of the other parts.
    """
    rows = [("root mean square errors", "frames", *(title for title, _ in _COLUMNS.values()), "force/zero")]
    is_sum = False
    for title, data, limit in (("training", problem.train, SUMMARY_FRAMES), ("validation", problem.valid, None)):
        if data is None:
            continue
        n_frames = sum(system.n_frames for system in data.systems)
        zero, alone = errors_of_nothing(data, problem.model.type_map, limit)
        found = {} if alone is None else {f"{title}, without the network": alone}
        is_sum = is_sum or alone is not None
        for name, params in weights.items():
            row = title if name == "last" else f"{title}, {name.upper()} weights"
            found[row] = errors_over(problem.model, params, data, basis, limit)
        for row, errors in found.items():
            frames = str(errors.n_frames) if errors.n_frames == n_frames else f"{errors.n_frames} of {n_frames}"
            ratio = errors.rmse("f") / zero.rmse("f") if zero.rmse("f") else float("nan")
            rows.append((row, frames, *(_shown(errors, name) for name in _COLUMNS), f"{ratio:.1%}"))
    notes = ["force/zero: relative to the error of a model whose forces are all zero"]
    if is_sum:
        notes.append(
            "without the network: the other parts of the sum as the run began, energies up to a constant of each system"
        )
    return "\n".join([*aligned(rows), *notes])


def _shown(errors: Errors, quantity: str) -> str:
    value, unit = errors.rmse(quantity), _COLUMNS[quantity][1]
    if value != value:
        return "no label"
    return f"{1000.0 * value:.4g} m{unit}" if value < _SMALL else f"{value:.4g} {unit}"
