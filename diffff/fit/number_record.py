"""What is to be told of the numbers after a fit; beside a network, in a file of its own, ``rows.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.files import replacing
from diffff.fit.free import Free
from diffff.fit.information import Known
from diffff.fit.rules import Numbers

FILE = "rows.json"
_PARTS = ("numbers", "spectrum", "combinations", "errors")
_N_COMBINATIONS = 6


def entries(known: Known, found: Sequence[Numbers], free: Free, units: Mapping[str, str]) -> list[dict[str, Any]]:
    """What there is to tell of each number; null for what is infinite.

    Args:
        known: how well each is known.
        found: the numbers, as `moving` gave them.
        free: their variables.
        units: of the arrays, by path.
    """
    values, errors, informed, starts = known.values, known.errors, known.informed, np.asarray(free.starts)
    lower, upper = np.asarray(free.lower), np.asarray(free.upper)
    means, weights, scales = (np.asarray(one) for one in (free.prior_means, free.prior_weights, free.scales))
    rows, n = [], 0
    for some in found:
        for k, index in enumerate(some.index):
            bounds = [finite(lower[n]), finite(upper[n])]
            prior = {"mean": float(means[n]), "sigma": float(1.0 / weights[n])} if weights[n] > 0.0 else None
            rows.append(
                {
                    "label": some.label(k),
                    "array": some.path,
                    "index": [int(i) for i in np.unravel_index(index, some.shape)],
                    **_place(some, k),
                    "unit": units.get(some.path),
                    "start": float(starts[n]),
                    "value": float(values[n]),
                    "error": finite(errors[n]),
                    "from_data": float(informed[n]),
                    "standing": known.standing[n] or None,
                    "scale": float(scales[n]),
                    "bounds": None if bounds == [None, None] else bounds,
                    "prior": prior,
                }
            )
            n += 1
    return rows


def directions(known: Known, labels: Sequence[str]) -> dict[str, Any]:
    """What the data determine: eigenvalues of J^T J relative to the largest, and combinations in words."""
    combinations = {
        "sloppy": known.sloppy(list(labels), _N_COMBINATIONS),
        "stiff": known.stiff(list(labels), _N_COMBINATIONS),
    }
    return {
        "spectrum": [float(value) for value in known.relative_eigenvalues()],
        "combinations": {name: [one._asdict() for one in some] for name, some in combinations.items()},
    }


def _place(some: Numbers, k: int) -> dict[str, Any]:
    if some.places is None:
        return {"file": None, "line": None, "attribute": None}
    place = some.places[k]
    return {"file": place.document.path.name, "line": place.element.line, "attribute": place.key}


def write_rows(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``rows.json`` to a directory: the numbers, what the data determine, and errors, as in ``fit.json``."""
    with replacing(folder / FILE) as path:
        path.write_text(json.dumps(dict(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_rows(folder: Path) -> dict[str, Any] | None:
    """The content of ``rows.json`` in a directory; None if there is no such file.

    Raises:
        InputError: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {part: content[part] for part in _PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Is the file damaged? Remove it to go without.") from None


def finite(value: float) -> float | None:
    """The number, or None, null in JSON, where it is infinite or none."""
    return float(value) if math.isfinite(value) else None
