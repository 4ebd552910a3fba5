"""The objective of a fit as compiled functions of the free variables.

f(v) = 1/2 |r(x(v))|^2 + 1/2 |prior(v)|^2
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffff import tree
from diffff.errors import InputError
from diffff.fit.free import Free
from diffff.fit.information import Normal
from diffff.fit.noise import Noise

LARGEST_JACOBIAN = 8e9  # bytes
MOST_VARIABLES = 10_000  # of which there is a covariance: a few matrices of 0.8 GB
_TANGENTS_AT_ONCE = 64e6  # numbers in the residuals of so many columns of a Jacobian


class Part(NamedTuple):
    """Residuals, or their derivatives, of the data and of the priors.

    Attributes:
        data: shape ``(n_data, ...)``.
        prior: shape ``(n_numbers, ...)``.
    """

    data: np.ndarray
    prior: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """Both, one after the other."""
        return np.concatenate([self.data, self.prior])

    @property
    def half_square(self) -> float:
        """Of residuals, the objective."""
        return 0.5 * float(self.all @ self.all)


class Objective:
    """Residuals, their Jacobian, and the gradient of half their squares.

    Raises:
        InputError: there are no residuals, or they are not finite at the start.
    """

    def __init__(self, residuals: Callable[[Any], jax.Array], free: Free) -> None:
        """Look at the start.

        Args:
            residuals: of a parameter tree, shape ``(n_data,)``, each in units of its standard deviation. Give large
                data to it by `jax.tree_util.Partial`, so that they do not become part of the program.
            free: the free variables.
        """
        self.free = free
        self._of = residuals if isinstance(residuals, Partial) else Partial(residuals)
        self.start = self.residuals(np.zeros(free.n_free))
        self._check(self.start.data)

    @property
    def n_data(self) -> int:
        """Number of residuals of the data."""
        return len(self.start.data)

    def residuals(self, v: np.ndarray) -> Part:
        """Of the data ``(n_data,)`` and of the priors ``(n_numbers,)``."""
        return Part(*(np.asarray(part) for part in _both(self._of, self.free, jnp.asarray(v))))

    def jacobian(self, v: np.ndarray) -> Part:
        """dr/dv, shapes ``(n_data, n_free)`` and ``(n_numbers, n_free)``.

        Raises:
            InputError: it is larger than `LARGEST_JACOBIAN`, or not finite.
        """
        if self._size > LARGEST_JACOBIAN:
            raise InputError(
                f"the Jacobian of {self.n_data} residuals in {self.free.n_free} variables takes {self._size / 1e9:.0f} "
                "GB. Let fewer numbers move, use fewer frames, or an optimizer that needs the gradient only (LBFGSB, "
                "Adam)."
            )
        columns = max(1, int(_TANGENTS_AT_ONCE / self.n_data))
        found = Part(*(np.asarray(part).T for part in _columns(self._of, self.free, jnp.asarray(v), columns)))
        self._require_finite(v, found.all)
        return found

    def normal(self, v: np.ndarray, noise: Noise | None = None) -> Normal:
        """What the data say of the variables; of a Jacobian that is too large, column by column of J^T J.

        Args:
            v: free variables ``(n_free,)``.
            noise: of the residuals; None: they are what they are.

        Raises:
            InputError: residuals or slopes are not finite.
        """
        r = self.residuals(v).data
        weights = np.ones(len(r)) if noise is None else noise.weights
        even = bool((weights == 1.0).all())
        if self._size <= LARGEST_JACOBIAN:
            jacobian = self.jacobian(v).data
            data = jacobian.T @ jacobian
            of_noise = data if even else jacobian.T @ (weights[:, None] * jacobian)
        else:
            at_once = min(self.free.n_free, max(1, int(_TANGENTS_AT_ONCE / 4.0 / self.n_data)))
            given = None if even else jnp.asarray(weights)
            found = _products(self._of, self.free, jnp.asarray(v), given, at_once)
            data, of_noise = (np.asarray(one + one.T) / 2.0 for one in found)
        self._require_finite(v, r, data, of_noise)
        return Normal(data, of_noise, float(r @ r), float(weights.sum()) - (0.0 if noise is None else noise.constants))

    def value_and_gradient(self, v: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient ``(n_free,)``.

        Raises:
            InputError: they are not finite.
        """
        value, gradient = (np.asarray(one) for one in _value_and_gradient(self._of, self.free, jnp.asarray(v)))
        self._require_finite(v, value, gradient)
        return float(value), gradient

    def require_memory(self) -> None:
        """Refuse more variables than a covariance can be told of."""
        if (n_free := self.free.n_free) > MOST_VARIABLES:
            raise InputError(
                f"{n_free} variables: their error bars take matrices of {8e-9 * n_free**2:.1f} GB each, and diffff "
                f"goes up to {MOST_VARIABLES} variables. Let fewer numbers move."
            )

    @property
    def _size(self) -> float:
        """Of the Jacobian, bytes."""
        return 8.0 * (self.n_data + len(self.start.prior)) * self.free.n_free

    def _require_finite(self, v: np.ndarray, *arrays: np.ndarray) -> None:
        if all(np.isfinite(array).all() for array in arrays):
            return
        moved = "at the start" if not np.any(v) else f"where a variable has moved by {np.abs(v).max():.3g} scales"
        raise InputError(
            f"the objective or its slopes are not finite {moved}. Give bounds to numbers that must not change their "
            "sign, make their scales smaller, or lower the learning rate if there is one."
        )

    def _check(self, first: np.ndarray) -> None:
        if not len(first):
            raise InputError("the fit has no data: no target has both labels and a sigma.")
        if not np.isfinite(first).all():
            raise InputError(
                f"{int(np.sum(~np.isfinite(first)))} of {len(first)} residuals are not finite at the start. Do atoms "
                "lie on top of each other in a frame, or are labels missing?"
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(self.start.half_square):
                raise InputError(
                    "the objective at the start is too large for a number. Are sigmas or priors too small?"
                )


def _residuals(of: Partial, free: Free, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    return of(free.params(v)), free.prior_residuals(v)


def _half_square(v: jax.Array, of: Partial, free: Free) -> jax.Array:
    data, prior = _residuals(of, free, v)
    return 0.5 * (jnp.sum(data**2) + jnp.sum(prior**2))


def _jacobian(of: Partial, free: Free, v: jax.Array, at_once: int) -> tuple[jax.Array, jax.Array]:
    """The transposed Jacobian, by way of that in the numbers, ``dr/dv = (dr/dx) (dx/dv)``.

    Array by array, for the numbers of one array change the terms that use it only, and nothing else is computed.
    """
    numbers, by_free = free.numbers(v), jax.jacfwd(free.numbers)(v)
    leaves, first, parts = tree.flatten(free.placed(numbers)), 0, []
    for path, index in zip(free.paths, free.index, strict=True):

        def of_array(some: jax.Array, path: str = path, index: jax.Array = index) -> jax.Array:
            leaf = leaves[path]
            changed = jnp.ravel(leaf).at[index].set(some.astype(leaf.dtype)).reshape(leaf.shape)
            return of(tree.unflatten({**leaves, path: changed}))

        own = numbers[first : first + len(index)]
        parts.append(_columns_of(of_array, own, at_once))
        first += len(index)
    prior = jax.jacfwd(free.prior_residuals)(v).T
    by_number = jnp.concatenate(parts)
    return (by_number * jnp.diagonal(by_free)[:, None] if free.ties is None else by_free.T @ by_number), prior


def _columns_of(function: Callable[[jax.Array], jax.Array], x: jax.Array, at_once: int) -> jax.Array:
    """The transposed Jacobian ``(n_x, n)`` of a function, some columns at a time."""

    def column(direction: jax.Array) -> jax.Array:
        return jax.jvp(function, (x,), (direction,))[1]

    directions = jnp.eye(len(x), dtype=x.dtype)
    if len(x) <= at_once:
        return jax.vmap(column)(directions)
    return jax.lax.map(column, directions, batch_size=at_once)


def _normal_products(
    of: Partial, free: Free, v: jax.Array, weights: jax.Array | None, at_once: int
) -> tuple[jax.Array, jax.Array]:
    """``J^T J`` and ``J^T W J`` of the data by their columns ``J^T (J e_k)``, so that there is never a whole J."""
    forward = jax.linearize(lambda v: of(free.params(v)), v)[1]
    back = jax.linear_transpose(forward, v)

    def column(direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        change = forward(direction)
        (plain,) = back(change)
        return plain, plain if weights is None else back(weights * change)[0]

    return jax.lax.map(column, jnp.eye(len(v), dtype=v.dtype), batch_size=at_once)


_both = jax.jit(_residuals)
_columns = jax.jit(_jacobian, static_argnames="at_once")
_products = jax.jit(_normal_products, static_argnames="at_once")


@jax.jit
def _value_and_gradient(of: Partial, free: Free, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(_half_square)(v, of, free)
