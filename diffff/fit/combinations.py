"""The combinations of numbers that data determine best and least, in words: eigenvectors of J^T J.

They are named by the numbers that a direction moves, each in units of its scale, in the variables u = N v without
bounds. There a direction means the same wherever the fit has led the numbers.
"""

from typing import NamedTuple

import numpy as np

_TOGETHER = 0.3  # share of a direction above which a number is named in it
_LEAST = 0.05  # of a vector of length 1, for a number to stand for it
_MOST_NAMES = 6


class Combination(NamedTuple):
    """A direction in the space of the numbers.

    Attributes:
        relative: its eigenvalue of J^T J, relative to the largest one.
        words: the numbers that it moves most.
    """

    relative: float
    words: str


def directions_of(matrix: np.ndarray, ties: np.ndarray | None, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of J^T J.

    Args:
        matrix: J^T J, shape ``(n_free, n_free)``.
        ties: N, shape ``(n_numbers, n_free)``; None: the identity.
        tolerance: part of the largest eigenvalue, below which one is zero.

    Returns:
        The eigenvalues, ascending, shape ``(n_free,)``; and N times their vectors, each of length 1, shape
        ``(n_free, n_numbers)``. Those of eigenvalues that are zero are chosen so that each moves few numbers.
    """
    values, vectors = np.linalg.eigh(matrix)
    directions = (vectors if ties is None else ties @ vectors).T
    nothing = values <= tolerance * values.max(initial=0.0)
    directions[nothing] = _each_of_few(directions[nothing])
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.maximum(values, 0.0), directions / np.where(norms > 0.0, norms, 1.0)


def _each_of_few(basis: np.ndarray) -> np.ndarray:
    """Another basis ``(k, n)`` of the same space: each vector has a number of its own, in which the others are zero."""
    found = basis.copy()
    for k in range(len(found)):  # Gauss and Jordan
        left = np.abs(found[k:])
        row, pivot = np.unravel_index(np.argmax(left), left.shape)
        if left[row, pivot] < _LEAST:
            return basis  # some of it moves nothing
        found[[k, k + row]] = found[[k + row, k]]
        found[k] /= found[k, pivot]
        others = np.arange(len(found)) != k
        found[others] -= np.outer(found[others, pivot], found[k])
    return found


def in_words(direction: np.ndarray, labels: list[str]) -> str:
    """A direction by the numbers that it moves most: ``k(c3–oh) against length(c3–oh)``.

    Args:
        direction: shape ``(n_numbers,)``, of length 1.
        labels: of the numbers.

    Example:
        >>> in_words(np.array([0.7, -0.7, 0.1]), ["q(OW)", "epsilon(OW)", "k(OW–HW)"])
        'q(OW) against epsilon(OW)'
    """
    order = np.argsort(-np.abs(direction))
    first = direction[order[0]]
    large = [k for k in order if abs(direction[k]) > _TOGETHER * abs(first)]
    named, more = large[:_MOST_NAMES], len(large) - _MOST_NAMES
    same = [labels[k] for k in named if direction[k] * first > 0.0]
    other = [labels[k] for k in named if direction[k] * first < 0.0]
    text = " with ".join(same) + (f" against {' with '.join(other)}" if other else "")
    return text + (f" and {more} more" if more > 0 else "")
