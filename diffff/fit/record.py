"""`fit.json`: all that is to be known of a fit later."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffff import tree
from diffff.errors import InputError
from diffff.files import replacing
from diffff.fit.free import Free
from diffff.fit.number_record import directions, entries, finite
from diffff.fit.parity import FILE as PARITY
from diffff.fit.parity import Parity, compare, write_parity
from diffff.fit.problem import FitSystem, Sigmas
from diffff.fit.rules import Numbers
from diffff.fit.solve import Fit

FILE = "fit.json"
_FORMAT, _VERSION = "diffff fit", 1
_PARTS = ("objective", "numbers", "spectrum", "combinations", "errors", "left_out", "curve", "provenance")
_KEYS = {  # of a part, or of each of its entries
    "objective": ("start", "end", "converged", "steps", "scatter"),
    "numbers": (
        *("label", "array", "file", "line", "attribute", "unit", "start", "value", "error", "from_data"),
        *("scale", "bounds", "prior"),
    ),
    "combinations": ("sloppy", "stiff"),
    "errors": ("split", "system", "target", "unit", "sigma", "n_frames", "n_values", "before", "after"),
    "left_out": ("system", "errors"),
}


def write_record(
    folder: str | Path,
    fit: Fit,
    found: Sequence[Numbers],
    free: Free,
    *,
    train: Iterable[FitSystem],
    valid: Iterable[FitSystem],
    sigmas: Sigmas,
    provenance: Mapping[str, Any],
    left_out: Sequence[Mapping[str, Any]] = (),
    units: Mapping[str, str] | None = None,
    curve: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write ``fit.json`` and ``parity.h5`` to a directory, for `dff report` and for programs.

    Args:
        folder: the directory.
        fit: the end of the fit.
        found: the numbers that moved, as `moving` gave them.
        free: their variables; its base is what they are compared with, the force field before the fit.
        train: the systems it was fitted to.
        valid: those that it was not.
        sigmas: what it compared.
        provenance: as `diffff.fit.provenance.provenance` gives it.
        left_out: of fits to all systems but one: ``{"system": …, "errors": {"rmse_force": …}, …}``.
        units: of the arrays, by path.
        curve: the learning curve, columns by name.

    Returns:
        What is in ``fit.json``, see `record`.

    Raises:
        InputError: the files cannot be written.
    """
    parities = compare({"train": train, "valid": valid}, tree.unflatten(free.base), fit.params, sigmas)
    content = record(fit, found, free, parities, provenance, left_out, units, curve)
    write_parity(Path(folder) / PARITY, parities)
    with replacing(Path(folder) / FILE) as path:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return content


def record(
    fit: Fit,
    found: Sequence[Numbers],
    free: Free,
    parities: Iterable[Parity],
    provenance: Mapping[str, Any],
    left_out: Sequence[Mapping[str, Any]] = (),
    units: Mapping[str, str] | None = None,
    curve: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """What ``fit.json`` holds: only what JSON can, null for what is infinite.

    Keys:
        objective: start, end, converged (null: the optimiser does not ask), steps, scatter (s of
            `diffff.fit.information`).
        numbers: for each its label, array, index, file, line, attribute, unit, start, value, error (null: not
            determined), from_data, standing (null, or what is told in the place of the error), scale, bounds and prior.
        spectrum: eigenvalues of J^T J relative to the largest, ascending.
        combinations: sloppy and stiff ones, each with its relative eigenvalue and words.
        errors: for each split, system and target its unit, sigma, n_frames, n_values, and the root mean square error
            before and after.
        left_out: as it is given.
        curve: the columns of the learning curve, null for what is no number.
        provenance: versions, hashes, date, input.
    """
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "objective": {
            "start": float(fit.start),
            "end": float(fit.end),
            "converged": fit.converged,
            "steps": int(fit.n_steps),
            "scatter": float(fit.known.scatter),
        },
        "numbers": entries(fit.known, found, free, units or {}),
        **directions(fit.known, fit.labels),
        "errors": [errors_of(one) for one in parities],
        "left_out": [dict(one) for one in left_out],
        "curve": {name: [finite(value) for value in column] for name, column in (curve or {}).items()},
        "provenance": dict(provenance),
    }


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read ``fit.json`` of a directory.

    Raises:
        InputError: it is missing, damaged, or of another program or version.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error}). Is the file damaged?") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f'{path}: no record of a fit; "format" should be "{_FORMAT}". Give the directory of a fit.')
    if content.get("version") != _VERSION:
        raise InputError(
            f"{path}: is of version {content.get('version')}, and this diffff reads version {_VERSION}. Take the "
            "diffff that made it."
        )
    if missing := [part for part in _PARTS if part not in content]:
        raise InputError(f'{path}: lacks "{missing[0]}", which a record of a fit has. Is the file damaged?')
    for part, keys in _KEYS.items():
        for entry in content[part] if isinstance(content[part], list) else [content[part]]:
            if not isinstance(entry, dict) or not set(keys) <= entry.keys():
                lacks = next((key for key in keys if not isinstance(entry, dict) or key not in entry), "")
                raise InputError(f'{path}: an entry of "{part}" lacks "{lacks}". Is the file damaged?')
    return content


def pooled(entries: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Root mean square errors before and after over several entries of "errors" of one target; nan if one is."""
    sizes, before, after = np.array([(one["n_values"], one["before"], one["after"]) for one in entries], float).T
    return float(np.sqrt(sizes @ before**2 / sizes.sum())), float(np.sqrt(sizes @ after**2 / sizes.sum()))


def errors_of(one: Parity) -> dict[str, Any]:
    """An entry of "errors"."""
    before, after = one.rmse()
    return {
        "split": one.split,
        "system": one.system,
        "target": one.target,
        "unit": one.unit,
        "sigma": one.sigma,
        "n_frames": len(one.reference),
        "n_values": int(one.reference.size),
        "before": finite(before),
        "after": finite(after),
    }
