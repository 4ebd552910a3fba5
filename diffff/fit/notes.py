"""The error bars of a fit as comments beside the rows of the XML files: ``259408 +- 1200 (from data 98%)``."""

import math
from collections.abc import Sequence

from diffff.fit.information import Known
from diffff.fit.rules import Numbers
from diffff.fit.standing import UNKNOWN

_N_DIGITS = 12  # beyond which a decimal is no longer legible


def notes_of(known: Known, found: Sequence[Numbers]) -> dict[str, list[str | None]]:
    """What is known of each number of the files, for `ForceField.write`: ``259408 +- 1200 (from data 98%)``.

    Returns:
        By path of the array; None for numbers that did not move.
    """
    texts: dict[str, list[str | None]] = {}
    first = 0
    for some in found:
        here = slice(first, first + len(some.index))
        first = here.stop
        if some.places is None:
            continue
        of_path = texts.setdefault(some.path, [None] * math.prod(some.shape))
        columns = zip(some.index, known.values[here], known.errors[here], known.informed[here], strict=True)
        for (i, value, error, informed), standing in zip(columns, known.standing[here], strict=True):
            of_path[i] = _note(float(value), float(error), float(informed), standing)
    return texts


def with_error(value: float, error: float) -> tuple[str, str]:
    """A number and its standard error as text: two digits of the error, and the number to as many decimals.

    Example:
        >>> with_error(259408.123, 1234.5), with_error(0.15351234, 0.000123), with_error(0.2, 3.0)
        (('259408', '1200'), ('0.15351', '0.00012'), ('0.20', '3.0'))
    """
    if not (0.0 < error < math.inf):
        return f"{value:.8g}", f"{error:.2g}"
    least = 2 - 1 - math.floor(math.log10(float(f"{error:.1e}")))  # decimals of the error
    of_value = 2 - 1 - math.floor(math.log10(abs(value))) if value else 0  # so that two digits of the number are seen
    decimals = max(least, of_value, 0)
    if decimals > _N_DIGITS or abs(value) > 1e9 or error > 1e9:
        return f"{value:.8g}", f"{error:.2g}"
    return f"{value:.{decimals}f}", f"{round(error, least):.{max(least, 0)}f}"


def _note(value: float, error: float, informed: float, standing: str) -> str:
    if standing == UNKNOWN:
        return UNKNOWN
    if standing:
        return f"{value:.8g} ({standing})"
    number, bar = with_error(value, error)
    return f"{number} +- {bar} (from data {informed:.0%})"
