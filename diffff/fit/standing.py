"""What is told of a number in the place of its error: it is not determined, at its bound, or held by a tie."""

import numpy as np

UNKNOWN, BOUND, HELD = "not determined", "at its bound", "held by a tie"
_NEAR = 1e-3  # of the standard error, that a number at its bound is away from it
_MOVED = 0.5  # of the distance from the bound at the start, that a number at its bound has left
_FLAT = 1e-5  # of that distance, at which the way to the bound no longer changes anything
_ZERO = 1e-12


def standing_of(
    values: np.ndarray,
    errors: np.ndarray,
    slopes: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    ties: np.ndarray | None,
) -> tuple[str, ...]:
    """Of each number one of the words above, or "" where its error is what there is to tell.

    Args:
        values: shape ``(n_numbers,)``.
        errors: standard errors, shape ``(n_numbers,)``; inf where nothing is known.
        slopes: by how much less a number moves than at the start, 1 without bounds, shape ``(n_numbers,)``.
        bounds: lowest and highest values, each of shape ``(n_numbers,)``.
        ties: N of ``u = N v``, shape ``(n_numbers, n_free)``; None: the identity.
    """
    held = np.zeros(len(values), bool) if ties is None else np.abs(ties).max(axis=1, initial=0.0) < _ZERO
    away = np.minimum(values - bounds[0], bounds[1] - values)
    limited, known = np.isfinite(away), np.isfinite(errors) & (errors > 0.0)
    near = np.where(known, (away < _NEAR * errors) & (slopes < _MOVED), slopes < _FLAT)
    found = np.where(np.isfinite(errors), "", UNKNOWN)
    return tuple(map(str, np.where(held, HELD, np.where(limited & near, BOUND, found))))
