"""How well a fit knows each of its numbers: the Gauss-Newton approximation of the covariance.

With residuals r, free variables v, J = dr/dv, the priors' P = d(prior residuals)/dv, and the weights w that residuals
have beside their sigmas (`diffff.fit.noise`; W = diag w, of c constants fitted along with the numbers),

    F = J^T J + P^T P,   cov(v) = F^-1 (s^2 J^T W J + P^T P) F^-1,   cov(x) = (dx/dv) cov(v) (dx/dv)^T
    s^2 = |r|^2 / (tr W - c - tr(F^-1 J^T W J))

F is the curvature of the objective that is minimised: it says by how much the end of the fit answers to noise of the
data and to what the means of the priors are off. The noise of a label is s times its sigma, as the residuals show it;
what a prior's mean may be off by is the prior's sigma. So, where s is 1 and there are no weights, cov(v) = F^-1; where
s is not 1, priors count more or less than they should, and the errors are those of the fit that has been made, not of
the better one with other sigmas. A weight says how much a frame is to count, not that its label has less noise.
s^2 is without bias if there are no priors, or if it is 1.

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
from diffff.fit.standing import UNKNOWN, standing_of

RANK_TOLERANCE = 1e-10
_EXACT = 1e-6  # residuals in units of their sigmas, below which rounding is all that they show
_FAR = 2.0  # factor between sigmas and residuals, from which on priors count for something else
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
        informed: shape ``(n_numbers,)``, the weight of the data in the number, J^T J against P^T P: from 0, it is all
            the prior's, to 1, it is all from the data.
        eigenvalues: of J^T J, ascending, shape ``(n_free,)``.
        directions: its eigenvectors, see `directions_of`, shape ``(n_free, n_numbers)``.
        scatter: s, 1 if the sigmas of the targets are what the residuals show.
        covariance: of the numbers, shape ``(n_numbers, n_numbers)``, without the directions nothing is known of.
        standing: of each number what is to be told in the place of its error, or "", see `standing_of`.
    """

    values: np.ndarray
    errors: np.ndarray
    informed: np.ndarray
    eigenvalues: np.ndarray
    directions: np.ndarray
    scatter: float
    covariance: np.ndarray
    standing: tuple[str, ...]

    def table(self, labels: Sequence[str], begun: np.ndarray) -> str:
        """A line for each number: value at the start, value, standard error, and how much of it is from the data."""
        width = max(map(len, labels), default=0)
        lines = [f"{'':{width}s} {'start':>12s} {'value':>12s} {'error':>10s} {'from data':>9s}"]
        for label, start, value, error, share, standing in zip(
            labels, begun, self.values, self.errors, self.informed, self.standing, strict=True
        ):
            how = f"{standing:>20s}" if standing else f"{error:10.2g} {share:9.0%}"
            lines.append(f"{label:{width}s} {start:12.6g} {value:12.6g} {how}")
        return "\n".join(lines)

    def sloppy(self, labels: list[str], number: int = 3) -> list[Combination]:
        """The combinations that the data determine least, the loosest first; none of those of `stiff`."""
        n = len(self.eigenvalues)
        most = max(n - n // 2, n - self._n_determined())
        return [self._combination(k, labels) for k in range(min(number, most))]

    def stiff(self, labels: list[str], number: int = 3) -> list[Combination]:
        """The combinations that the data determine best, the stiffest first: half of all at most, none unknown."""
        n = len(self.eigenvalues)
        return [self._combination(n - 1 - k, labels) for k in range(min(number, n // 2, self._n_determined()))]

    def unbalanced(self, priors: np.ndarray) -> str | None:
        """What is to be told of priors, ``1 / sigma (n_numbers,)``, beside data whose sigmas are not right."""
        if not np.any(priors > 0.0) or 1.0 / _FAR <= self.scatter <= _FAR:
            return None
        square = max(self.scatter, _EXACT) ** 2
        how = f"{square:.3g} times less" if square > 1.0 else f"{1.0 / square:.3g} times more"
        return (
            f"residuals scatter {self.scatter:.2g} times the sigmas of the section loss, so priors count {how} than "
            f"they say. The error bars allow for it; a better fit has sigmas {self.scatter:.2g} times as large."
        )

    def relative_eigenvalues(self) -> np.ndarray:
        """The eigenvalues over the largest, ascending, shape ``(n_free,)``."""
        return self.eigenvalues / (self.eigenvalues.max(initial=0.0) or 1.0)

    def _n_determined(self) -> int:
        """How many combinations the data tell anything of."""
        return int(np.sum(self.relative_eigenvalues() > RANK_TOLERANCE))

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
    inverse = (basis / values_of[sure]) @ basis.T
    left = normal.n - np.sum(inverse * normal.noise)
    scatter = float(np.sqrt(normal.square / left)) if left > 0.5 else 1.0
    to_numbers = number_jacobian @ inverse
    covariance = to_numbers @ (max(scatter, _EXACT) ** 2 * normal.noise + of_priors) @ to_numbers.T
    by_data, by_priors = (np.sum((to_numbers @ one) * to_numbers, axis=1) for one in (normal.data, of_priors))
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
        standing=tuple(UNKNOWN if one else "" for one in loose),
    )


def known_at(normal: Normal, free: Free, v: np.ndarray) -> Known:
    """`known` at the free variables ``v (n_free,)``, from what the data say there."""
    at = jnp.asarray(v)
    by_number, values = np.asarray(jax.jacfwd(free.numbers)(at)), np.asarray(free.numbers(at))
    ties = None if free.ties is None else np.asarray(free.ties)
    found = known(normal, by_number, np.asarray(free.prior_weights), values, ties)
    at_start = np.asarray(free.scales) * (1.0 if ties is None else np.linalg.norm(ties, axis=1))
    slopes = np.linalg.norm(by_number, axis=1) / np.where(at_start > 0.0, at_start, 1.0)
    bounds = np.asarray(free.lower), np.asarray(free.upper)
    return found._replace(standing=standing_of(values, found.errors, slopes, bounds, ties))


def _scaled(matrix: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The square root of D ``(n,)``, and eigenvalues ``(n,)`` and eigenvectors ``(n, n)`` of C."""
    sizes = np.sqrt(np.diag(matrix))
    least = tolerance * sizes.max(initial=0.0) or 1.0
    seen = sizes > least  # what is smaller is rounding
    sizes = np.where(seen, sizes, least)
    values, vectors = np.linalg.eigh(np.where(np.outer(seen, seen), matrix / np.outer(sizes, sizes), 0.0))
    return sizes, values, vectors
