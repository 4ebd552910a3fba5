"""From the free variables of an optimiser to the parameter tree: scales, bounds, ties.

An optimiser sees a vector v of free variables that starts at zero. The numbers that move are ``x_i = T_i(u_i)`` with
``u = N v``: N makes numbers equal or keeps sums, T_i keeps bounds, and ``dT_i/du = scale`` at the start.

    no bound          x = x0 + s u
    one bound b       x = b + (x0 - b) exp(s u / (x0 - b))
    two bounds a, b   x = a + (b - a) / (1 + exp(-(logit p + s u / ((b - a) p (1 - p))))),   p = (x0 - a) / (b - a)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff import tree
from diffff.errors import InputError
from diffff.fit.rules import Numbers
from diffff.fit.ties import Residue, Tie, label_of, tied
from diffff.pytree import pytree, static


@pytree
class Free:
    """The map from free variables to the parameter tree.

    Attributes:
        base: leaves of the tree by path, as the files or the initial network have them.
        paths: of the leaves of which elements move, in the order of the numbers; a leaf may come more than once.
        index: which elements these are, in the flat array of the leaf.
        starts: shape ``(n_numbers,)``, values at the start.
        scales: shape ``(n_numbers,)``.
        lower: shape ``(n_numbers,)``, -inf without bound.
        upper: shape ``(n_numbers,)``, inf without bound.
        ties: N, shape ``(n_numbers, n_free)``; None for the identity.
        prior_means: shape ``(n_numbers,)``.
        prior_weights: shape ``(n_numbers,)``, 1 / sigma, 0 without prior.
        n_free: number of free variables.
    """

    base: dict[str, jax.Array]
    index: tuple[jax.Array, ...]
    starts: jax.Array
    scales: jax.Array
    lower: jax.Array
    upper: jax.Array
    ties: jax.Array | None
    prior_means: jax.Array
    prior_weights: jax.Array
    n_free: int = static()
    paths: tuple[str, ...] = static()

    @jax.jit
    def numbers(self, v: jax.Array) -> jax.Array:
        """The numbers that move ``(n_numbers,)`` for free variables ``(n_free,)``; zeros give the start."""
        u = self.scales * (v if self.ties is None else self.ties @ v)
        below, above = jnp.isfinite(self.lower), jnp.isfinite(self.upper)
        a, b = jnp.where(below, self.lower, 0.0), jnp.where(above, self.upper, 0.0)
        one = jnp.where(below, a, b)
        away = jnp.where(below ^ above, self.starts - one, 1.0)
        width = jnp.where(below & above, b - a, 1.0)
        p = jnp.where(below & above, (self.starts - a) / width, 0.5)
        bounded = a + width * jax.nn.sigmoid(jnp.log(p) - jnp.log1p(-p) + u / (width * p * (1.0 - p)))
        half = one + away * jnp.exp(jnp.where(below ^ above, u / away, 0.0))
        return jnp.where(below & above, bounded, jnp.where(below ^ above, half, self.starts + u))

    def variables(self, numbers: np.ndarray) -> np.ndarray:
        """The free variables ``(n_free,)`` of numbers ``(n_numbers,)`` within their bounds; with ties the nearest."""
        x0, lower, upper, scales = (np.asarray(one) for one in (self.starts, self.lower, self.upper, self.scales))
        below, above, u = np.isfinite(lower), np.isfinite(upper), numbers - x0
        one = below ^ above
        away = x0[one] - np.where(below, lower, upper)[one]
        u[one] = away * np.log1p(u[one] / away)
        both = below & above
        a, width = lower[both], (upper - lower)[both]
        p, q = (x0[both] - a) / width, (numbers[both] - a) / width
        u[both] = width * p * (1.0 - p) * (np.log(q) - np.log1p(-q) - np.log(p) + np.log1p(-p))
        return u / scales if self.ties is None else np.linalg.lstsq(np.asarray(self.ties), u / scales)[0]

    @jax.jit
    def params(self, v: jax.Array) -> Any:
        """The parameter tree."""
        return self.placed(self.numbers(v))

    def placed(self, numbers: jax.Array) -> Any:
        """The parameter tree with other numbers ``(n_numbers,)`` where some move."""
        leaves, first = dict(self.base), 0
        for path, index in zip(self.paths, self.index, strict=True):
            leaf, last = leaves[path], first + len(index)
            flat = jnp.ravel(leaf).at[index].set(numbers[first:last].astype(leaf.dtype))
            leaves[path], first = flat.reshape(leaf.shape), last
        return tree.unflatten(leaves)

    def take(self, kept: np.ndarray) -> "Free":
        """Some of the numbers, bool ``(n_numbers,)``, and the variables that move them; the others stay as they are."""
        cuts = np.cumsum([len(index) for index in self.index])[:-1]
        index = [np.asarray(i)[k] for i, k in zip(self.index, np.split(kept, cuts), strict=True)]
        ties = None if self.ties is None else np.asarray(self.ties)[kept]
        ties = None if ties is None else ties[:, (ties != 0.0).any(axis=0)]
        columns = ("starts", "scales", "lower", "upper", "prior_means", "prior_weights")
        return replace(
            self,
            **{name: jnp.asarray(np.asarray(getattr(self, name))[kept]) for name in columns},
            index=tuple(jnp.asarray(i) for i in index if len(i)),
            ties=None if ties is None else jnp.asarray(ties),
            n_free=int(kept.sum()) if ties is None else ties.shape[1],
            paths=tuple(path for path, i in zip(self.paths, index, strict=True) if len(i)),
        )

    def prior_residuals(self, v: jax.Array) -> jax.Array:
        """``(x - mean) / sigma`` of each number, 0 without prior."""
        return (self.numbers(v) - self.prior_means) * self.prior_weights


def free_of(
    params: Any,
    found: Sequence[Numbers],
    ties: Sequence[Tie] = (),
    residues: Sequence[Residue] = (),
    units: Mapping[str, str] | None = None,
) -> Free:
    """The free variables of the numbers that move.

    Args:
        params: the parameter tree.
        found: what moves, as `moving` tells.
        ties: between them.
        residues: those of all topologies, see `residues_of`, for ties of their charges.
        units: of the arrays, by path, so that no tie mixes them; None: nothing is known of them.

    Raises:
        InputError: a number starts on or beyond a bound, or a tie makes no sense.
    """
    leaves = tree.flatten(params)
    starts = np.concatenate([np.ravel(leaves[some.path])[some.index] for some in found]).astype(float)
    each = [_columns(np.asarray(leaves[some.path], float).ravel(), some) for some in found]
    lower, upper, scales, means, weights = (np.concatenate(parts) for parts in zip(*each, strict=True))
    starts, scales, matrix = tied(found, ties, residues, leaves, starts, scales, (lower, upper), units)
    _check_bounds(found, starts, lower, upper)
    return Free(
        base={path: jnp.asarray(leaf) for path, leaf in leaves.items()},
        index=tuple(jnp.asarray(some.index) for some in found),
        starts=jnp.asarray(starts),
        scales=jnp.asarray(scales),
        lower=jnp.asarray(lower),
        upper=jnp.asarray(upper),
        ties=None if matrix is None else jnp.asarray(matrix),
        prior_means=jnp.asarray(np.where(np.isnan(means), starts, means)),
        prior_weights=jnp.asarray(weights),
        n_free=len(starts) if matrix is None else matrix.shape[1],
        paths=tuple(some.path for some in found),
    )


def _columns(values: np.ndarray, some: Numbers) -> tuple[np.ndarray, ...]:
    """Lower and upper bound, scale, mean and weight of the prior of some numbers of an array."""
    start, one, given = values[some.index], np.ones(len(some.index)), some.treatment
    low, high = given.bounds or (None, None)
    typical = float(np.sqrt(np.mean(values**2))) or 1.0
    scale = one * given.scale if given.scale is not None else np.maximum(0.1 * np.abs(start), 0.01 * typical)
    mean = np.nan if given.prior is None or given.prior.mean is None else given.prior.mean
    weight = 0.0 if given.prior is None else 1.0 / given.prior.sigma
    lower, upper = (-np.inf if low is None else low), (np.inf if high is None else high)
    return one * lower, one * upper, scale, one * mean, one * weight


def _check_bounds(found: Sequence[Numbers], starts: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    for k in np.flatnonzero((starts <= lower) | (starts >= upper)):
        raise InputError(
            f"parameters: {label_of(found, int(k))} is {starts[k]:g}, not within its bounds "
            f"[{lower[k]:g}, {upper[k]:g}]. A number must start inside; on a bound it could never move. Change the "
            "bounds, or keep the number as it is."
        )
