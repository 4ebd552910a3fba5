"""Quintic B-splines: the basis in which functions of one distance are expanded.

On the interval number ``k`` of width ``h`` six functions differ from zero, ``phi_k ... phi_{k+5}``; they sum to one.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DEGREE = 5


def spline_weights(t: jax.Array | np.ndarray) -> tuple[list, list]:
    """Values and slopes of the six cardinal B-splines that overlap the unit interval, at ``t`` in [0, 1].

    Cox-de Boor on integer knots: ``N_p^q(t) = ((t + p - q) N_{p-1}^{q-1} + (q + 1 - t) N_{p-1}^q) / p`` and
    ``dN_p^q/dt = N_{p-1}^{q-1} - N_{p-1}^q``.
    """
    weights, slopes = [t * 0.0 + 1.0], []
    for p in range(1, DEGREE + 1):
        lower = [t * 0.0, *weights]
        upper = [*weights, t * 0.0]
        slopes = [lower[q] - upper[q] for q in range(p + 1)]
        weights = [((t + p - q) * lower[q] + (q + 1 - t) * upper[q]) / p for q in range(p + 1)]
    return weights, slopes


@dataclass(frozen=True)
class SplineBasis:
    """``n`` quintic B-splines that cover ``0 <= s <= upper``, on a uniform grid in ``x = log(1 + s / scale)``.

    So knots are ``(s + scale) h`` apart. Trained embedding nets are rough at small ``s``, far from the atom, where most
    of its neighbours are: a grid that is uniform in ``s`` needs several times as many functions.

    Attributes:
        n: number of functions, at least 6.
        upper: largest argument, in the unit of ``s``; beyond it the values are NaN, never an extrapolation.
        scale: up to where knots are about equally dense, in the same unit.
    """

    n: int
    upper: float
    scale: float

    @property
    def spacing(self) -> float:
        """Distance h of the knots in x."""
        return math.log1p(self.upper / self.scale) / (self.n - DEGREE)

    def evenly(self, m: int) -> np.ndarray:
        """``m`` arguments from 0 to ``upper``, as dense as the knots."""
        return self._argument(np.linspace(0.0, self.n - DEGREE, m))

    @cached_property
    def sites(self) -> np.ndarray:
        """Interpolation sites, shape ``(n,)``: knot averages of the clamped grid, from 0 to ``upper``."""
        inner = np.arange(self.n - DEGREE + 1.0)
        knots = np.concatenate([np.zeros(DEGREE), inner, np.full(DEGREE, inner[-1])])
        return self._argument(np.array([knots[k + 1 : k + DEGREE + 1].mean() for k in range(self.n)]))

    @cached_property
    def from_sites(self) -> np.ndarray:
        """Matrix ``(n, n)`` from values at the sites to coefficients; float64."""
        return np.linalg.inv(self.design_matrix(self.sites))

    def design_matrix(self, s: np.ndarray) -> np.ndarray:
        """Values of all functions at ``s (m,)`` as a dense float64 matrix ``(m, n)``, on the host."""
        x = np.log1p(s / self.scale) / self.spacing
        first = np.clip(x.astype(int), 0, self.n - DEGREE - 1)
        matrix = np.zeros((len(s), self.n))
        columns = first[:, None] + np.arange(DEGREE + 1)
        np.put_along_axis(matrix, columns, np.stack(spline_weights(x - first)[0], axis=-1), axis=1)
        return matrix

    def values(self, s: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The six functions that differ from zero at each argument.

        Args:
            s: shape ``(m,)``.

        Returns:
            Index of the first function, ``(m,)`` int32; the six values and the six derivatives, ``(m, 6)`` each;
            NaN where ``s > upper``.
        """
        x = jnp.log1p(s / self.scale) / self.spacing
        dx = 1.0 / ((s + self.scale) * self.spacing)
        first = lax.stop_gradient(jnp.clip(jnp.floor(x), 0, self.n - DEGREE - 1)).astype(jnp.int32)
        inside = jnp.where(s <= self.upper, 0.0, jnp.nan).astype(s.dtype)
        weights, slopes = spline_weights(x - first + inside)
        return first, jnp.stack(weights, axis=-1), jnp.stack(slopes, axis=-1) * dx[:, None]

    def coefficients(self, values_at_sites: jax.Array) -> jax.Array:
        """Coefficients ``(..., n, m)`` of the spline through ``values_at_sites (..., n, m)``; linear."""
        return jnp.asarray(self.from_sites, values_at_sites.dtype) @ values_at_sites

    def _argument(self, knot: np.ndarray) -> np.ndarray:
        """The arguments of places counted in knots."""
        return np.minimum(self.scale * np.expm1(knot * self.spacing), self.upper)
