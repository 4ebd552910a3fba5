"""How well a fit knows each of its numbers: the Gauss-Newton approximation of the covariance, in numbers and words.

With residuals r (n), free variables v (p), J = dr/dv and the priors' P = d(prior residuals)/dv,

    F = J^T J + P^T P,   s^2 = |r|^2 / (n - tr(F^-1 J^T J)),   cov(v) = s^2 F^-1,   cov(x) = (dx/dv) cov(v) (dx/dv)^T

s^2 brings the sigmas of the targets to what the residuals show; it is not applied to what the priors know.

Directions that neither data nor priors determine belong to eigenvalues of C = D^-1/2 F D^-1/2, D = diag(F), below
``rank_tolerance``. C has ones on its diagonal, so that this does not depend on the scales of the variables. A number
that such a direction moves has no standard error.

Source: G. A. F. Seber and C. J. Wild, Nonlinear Regression, Wiley 1989, chapters 2 and 5.
"""

from typing import NamedTuple

import numpy as np

RANK_TOLERANCE = 1e-10
_TOGETHER = 0.3  # share of a direction above which a number is named in it
_EXACT = 1e-6  # residuals in units of their sigmas, below which rounding is all that they show
_MOVES = 0.05  # share of what a number moves that lies in unknown directions, above which it is unknown


class Combination(NamedTuple):
    """A direction in the space of the numbers.

    Attributes:
        relative: its eigenvalue of J^T J, relative to the largest one.
        words: the numbers that it moves most.
    """

    relative: float
    words: str


class Known(NamedTuple):
    """What is known after a fit.

    Attributes:
        values: shape ``(n_numbers,)``.
        errors: standard errors, shape ``(n_numbers,)``; inf where the data determine nothing.
        informed: shape ``(n_numbers,)``, from 0, all that is known is the prior, to 1, all is from the data.
        eigenvalues: of J^T J, ascending, shape ``(n_free,)``.
        directions: eigenvectors in units of the numbers' scales, shape ``(n_free, n_numbers)``; those that the data do
            not determine are chosen so that each moves few numbers.
        scatter: s, 1 if the sigmas of the targets are what the residuals show.
        covariance: of the numbers, shape ``(n_numbers, n_numbers)``, without the directions nothing is known of.
    """

    values: np.ndarray
    errors: np.ndarray
    informed: np.ndarray
    eigenvalues: np.ndarray
    directions: np.ndarray
    scatter: float
    covariance: np.ndarray

    def sloppy(self, labels: list[str], number: int = 3) -> list[Combination]:
        """The combinations that the data determine least, the loosest first."""
        return [self._combination(k, labels) for k in range(min(number, len(self.eigenvalues)))]

    def stiff(self, labels: list[str], number: int = 3) -> list[Combination]:
        """The combinations that the data determine best, the stiffest first."""
        last = len(self.eigenvalues) - 1
        return [self._combination(last - k, labels) for k in range(min(number, last + 1))]

    def relative_eigenvalues(self) -> np.ndarray:
        """The eigenvalues over the largest, ascending, shape ``(n_free,)``."""
        return self.eigenvalues / (self.eigenvalues.max(initial=0.0) or 1.0)

    def _combination(self, k: int, labels: list[str]) -> Combination:
        return Combination(float(self.relative_eigenvalues()[k]), in_words(self.directions[k], labels))


def known(
    residuals: np.ndarray,
    jacobian: np.ndarray,
    prior_jacobian: np.ndarray,
    number_jacobian: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray,
    *,
    rank_tolerance: float = RANK_TOLERANCE,
) -> Known:
    """The equations above.

    Args:
        residuals: r, shape ``(n,)``.
        jacobian: J, shape ``(n, n_free)``.
        prior_jacobian: P, shape ``(n_numbers, n_free)``.
        number_jacobian: dx/dv, shape ``(n_numbers, n_free)``.
        values: x, shape ``(n_numbers,)``.
        scales: typical changes of the numbers, shape ``(n_numbers,)``.
        rank_tolerance: see above.
    """
    of_data, of_priors = jacobian.T @ jacobian, prior_jacobian.T @ prior_jacobian
    data_values, data_vectors = np.linalg.eigh(of_data)
    sizes, values_of, vectors = _scaled(of_data + of_priors, rank_tolerance)
    sure = values_of > rank_tolerance
    basis = vectors[:, sure] / sizes[:, None]
    used = np.sum(np.diag(basis.T @ of_data @ basis) / values_of[sure])
    left = len(residuals) - used
    scatter = float(np.sqrt(residuals @ residuals / left)) if left > 0.5 else 1.0
    of_data = of_data / max(scatter, _EXACT) ** 2
    inverse = basis @ np.linalg.inv(basis.T @ (of_data + of_priors) @ basis) @ basis.T
    covariance = number_jacobian @ inverse @ number_jacobian.T
    variance = np.maximum(np.diag(covariance), 0.0)
    by_data = np.diag(number_jacobian @ inverse @ of_data @ inverse @ number_jacobian.T)
    moved = number_jacobian / sizes
    loose = np.linalg.norm(moved @ vectors[:, ~sure], axis=1) > _MOVES * np.linalg.norm(moved, axis=1)
    errors = np.where(loose, np.inf, np.sqrt(variance))
    informed = np.where(loose, 0.0, np.clip(by_data / np.where(variance > 0.0, variance, 1.0), 0.0, 1.0))
    directions = (number_jacobian @ data_vectors / scales[:, None]).T
    nothing = data_values <= rank_tolerance * data_values.max(initial=0.0)
    directions[nothing] = _each_of_few(directions[nothing])
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    return Known(
        values=values,
        errors=errors,
        informed=informed,
        eigenvalues=np.maximum(data_values, 0.0),
        directions=directions / np.where(norms > 0.0, norms, 1.0),
        scatter=scatter,
        covariance=covariance,
    )


def _scaled(matrix: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The square root of D ``(n,)``, and eigenvalues ``(n,)`` and eigenvectors ``(n, n)`` of C."""
    sizes = np.sqrt(np.diag(matrix))
    least = tolerance * sizes.max(initial=0.0) or 1.0
    seen = sizes > least  # what is smaller is rounding
    sizes = np.where(seen, sizes, least)
    values, vectors = np.linalg.eigh(np.where(np.outer(seen, seen), matrix / np.outer(sizes, sizes), 0.0))
    return sizes, values, vectors


def _each_of_few(basis: np.ndarray) -> np.ndarray:
    """Another basis ``(k, n)`` of the same space: each vector has a number of its own, in which the others are zero."""
    found = basis.copy()
    for k in range(len(found)):  # Gauss and Jordan
        left = np.abs(found[k:])
        row, pivot = np.unravel_index(np.argmax(left), left.shape)
        if left[row, pivot] < _MOVES:
            return basis  # some of it moves nothing
        found[[k, k + row]] = found[[k + row, k]]
        found[k] /= found[k, pivot]
        others = np.arange(len(found)) != k
        found[others] -= np.outer(found[others, pivot], found[k])
    return found


def in_words(direction: np.ndarray, labels: list[str]) -> str:
    """A direction by the numbers that it moves most: ``k(c3-oh) against length(c3-oh)``.

    Args:
        direction: shape ``(n_numbers,)``, of length 1.
        labels: of the numbers.

    Example:
        >>> in_words(np.array([0.7, -0.7, 0.1]), ["q(OW)", "epsilon(OW)", "k(OW-HW)"])
        'q(OW) against epsilon(OW)'
    """
    order = np.argsort(-np.abs(direction))
    first = direction[order[0]]
    named = [k for k in order if abs(direction[k]) > _TOGETHER * abs(first)][:6]
    same = [labels[k] for k in named if direction[k] * first > 0.0]
    other = [labels[k] for k in named if direction[k] * first < 0.0]
    more = len([k for k in order if abs(direction[k]) > _TOGETHER * abs(first)]) - len(named)
    text = " with ".join(same) + (f" against {' with '.join(other)}" if other else "")
    return text + (f" and {more} more" if more > 0 else "")
