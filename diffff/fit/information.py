"""How well a fit knows each of its numbers: the Gauss-Newton approximation of the covariance.

With residuals r, free variables v, J = dr/dv, the priors' P = d(prior residuals)/dv, and the weights w that residuals
have beside their sigmas (`diffff.fit.noise`; W = diag w, of c constants fitted along with the numbers),

    F = J^T J / s^2 + P^T P,   cov(v) = F^-1 (J^T W J / s^2 + P^T P) F^-1,   cov(x) = (dx/dv) cov(v) (dx/dv)^T
    s^2 = |r|^2 / (tr W - c - tr((J^T J + P^T P)^-1 J^T W J))

so that, without weights, cov(v) = F^-1. A weight says how much a frame is to count, not that its label has less noise:
the noise of a label is s times its sigma, whatever its weight. s^2 brings the sigmas to what the residuals show; it is
not applied to what the priors know.

Directions that neither data nor priors determine belong to eigenvalues of C = D^-1/2 F D^-1/2, D = diag(F), below
``rank_tolerance``. C has ones on its diagonal, so that this does not depend on the scales of the variables. A number
that such a direction moves has no standard error.

Source: G. A. F. Seber and C. J. Wild, Nonlinear Regression, Wiley 1989, chapters 2 and 5.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffff.fit.combinations import Combination, directions_of, in_words
from diffff.fit.free import Free

RANK_TOLERANCE = 1e-10
_EXACT = 1e-6  # residuals in units of their sigmas, below which rounding is all that they show
_MOVES = 0.05  # share of what a number moves that lies in unknown directions, above which it is unknown


class Normal(NamedTuple):
    """What the data say at the end of a fit.

    Attributes:
        data: J^T J, shape ``(n_free, n_free)``.
        noise: J^T W J, of the same shape.
        square: |r|^2.
        n: tr W - c: the number of residuals, less that of constants fitted along with the numbers.
    """

    data: np.ndarray
    noise: np.ndarray
    square: float
    n: float


class Known(NamedTuple):
    """What is known after a fit.

    Attributes:
        values: shape ``(n_numbers,)``.
        errors: standard errors, shape ``(n_numbers,)``; inf where the data determine nothing.
        informed: shape ``(n_numbers,)``, from 0, all that is known is the prior, to 1, all is from the data.
        eigenvalues: of J^T J, ascending, shape ``(n_free,)``.
        directions: its eigenvectors, see `directions_of`, shape ``(n_free, n_numbers)``.
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

    def table(self, labels: Sequence[str], begun: np.ndarray) -> str:
        """A line for each number: value at the start, value, standard error, and how much of it is from the data."""
        width = max(map(len, labels), default=0)
        lines = [f"{'':{width}s} {'start':>12s} {'value':>12s} {'error':>10s} {'from data':>9s}"]
        for label, start, value, error, share in zip(
            labels, begun, self.values, self.errors, self.informed, strict=True
        ):
            how = f"{error:10.2g} {share:9.0%}" if np.isfinite(error) else f"{'not determined':>20s}"
            lines.append(f"{label:{width}s} {start:12.6g} {value:12.6g} {how}")
        return "\n".join(lines)

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
    normal: Normal,
    number_jacobian: np.ndarray,
    prior_weights: np.ndarray,
    values: np.ndarray,
    ties: np.ndarray | None = None,
    *,
    rank_tolerance: float = RANK_TOLERANCE,
) -> Known:
    """The equations above.

    Args:
        normal: what the data say.
        number_jacobian: dx/dv, shape ``(n_numbers, n_free)``.
        prior_weights: 1 / sigma of the priors, 0 without, shape ``(n_numbers,)``.
        values: x, shape ``(n_numbers,)``.
        ties: N of ``u = N v``, shape ``(n_numbers, n_free)``, in units of the scales; None: the identity.
        rank_tolerance: see above.
    """
    prior_jacobian = prior_weights[:, None] * number_jacobian
    of_priors = prior_jacobian.T @ prior_jacobian
    sizes, values_of, vectors = _scaled(normal.data + of_priors, rank_tolerance)
    sure = values_of > rank_tolerance
    basis = vectors[:, sure] / sizes[:, None]
    left = normal.n - np.sum(np.diag(basis.T @ normal.noise @ basis) / values_of[sure])
    scatter = float(np.sqrt(normal.square / left)) if left > 0.5 else 1.0
    of_data, of_noise = (matrix / max(scatter, _EXACT) ** 2 for matrix in (normal.data, normal.noise))
    inverse = basis @ np.linalg.inv(basis.T @ (of_data + of_priors) @ basis) @ basis.T
    to_numbers = number_jacobian @ inverse
    covariance = to_numbers @ (of_noise + of_priors) @ to_numbers.T
    by_data, by_priors = (np.sum((to_numbers @ one) * to_numbers, axis=1) for one in (of_data, of_priors))
    moved = number_jacobian / sizes
    loose = np.linalg.norm(moved @ vectors[:, ~sure], axis=1) > _MOVES * np.linalg.norm(moved, axis=1)
    total = np.where(by_data + by_priors > 0.0, by_data + by_priors, 1.0)
    eigenvalues, directions = directions_of(normal.data, ties, rank_tolerance)
    return Known(
        values=values,
        errors=np.where(loose, np.inf, np.sqrt(np.maximum(np.diag(covariance), 0.0))),
        informed=np.where(loose, 0.0, np.clip(by_data / total, 0.0, 1.0)),
        eigenvalues=eigenvalues,
        directions=directions,
        scatter=scatter,
        covariance=covariance,
    )


def known_at(normal: Normal, free: Free, v: np.ndarray) -> Known:
    """`known` at the free variables ``v (n_free,)``, from what the data say there."""
    at = jnp.asarray(v)
    by_number, values = np.asarray(jax.jacfwd(free.numbers)(at)), np.asarray(free.numbers(at))
    ties = None if free.ties is None else np.asarray(free.ties)
    return known(normal, by_number, np.asarray(free.prior_weights), values, ties)


def _scaled(matrix: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The square root of D ``(n,)``, and eigenvalues ``(n,)`` and eigenvectors ``(n, n)`` of C."""
    sizes = np.sqrt(np.diag(matrix))
    least = tolerance * sizes.max(initial=0.0) or 1.0
    seen = sizes > least  # what is smaller is rounding
    sizes = np.where(seen, sizes, least)
    values, vectors = np.linalg.eigh(np.where(np.outer(seen, seen), matrix / np.outer(sizes, sizes), 0.0))
    return sizes, values, vectors
