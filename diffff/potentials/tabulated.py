"""OpenMM's tabulated functions: cubic splines and look-ups, with the table as a parameter.

A function knows the shape and range of its table; the values are passed in, so they are leaves of the parameter tree:

    f = Continuous1D(size=5, low=0.0, high=2.0).bind(values);   y = f(x)

Continuous functions are 0 outside their range, or repeat if periodic. In one dimension they are natural or periodic
cubic splines, in two and three the bicubic and tricubic patches with the node derivatives of such splines, which is a
tensor product of Hermite polynomials. Discrete functions take the entry nearest to the argument, the first or last
outside. Values are flat with the first argument running fastest: ``values[i + n_x (j + n_y k)]``.

Everything is linear in the values and differentiable in values and arguments (the derivative by the argument of a
discrete function is zero). A value that OpenMM wants equal at both ends of a periodic table is not checked here, since
values may be traced; use `check_values` before.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffff.errors import InputError


@dataclass(frozen=True)
class Continuous1D:
    """Cubic spline through equidistant values.

    Attributes:
        size: number of values.
        low: argument of the first value.
        high: argument of the last value.
        periodic: whether it repeats; the first and last value must be equal then.
    """

    size: int
    low: float
    high: float
    periodic: bool = False

    def __post_init__(self) -> None:
        _check_axes((self.size,), ((self.low, self.high),), self.periodic)

    @property
    def n_arguments(self) -> int:
        """Number of arguments."""
        return 1

    @property
    def n_values(self) -> int:
        """Length of the table."""
        return self.size

    def bind(self, values: jax.Array) -> Callable[..., jax.Array]:
        """The spline ``a y_i + b y_i+1 + ((a^3 - a) y''_i + (b^3 - b) y''_i+1) h^2/6`` as a function of ``x``.

        Args:
            values: shape ``(size,)``.
        """
        curvature = _curvatures(values, self.periodic)

        def spline(x: jax.Array) -> jax.Array:
            inside, i, b = _locate(x, self.size, self.low, self.high, self.periodic)
            a = 1.0 - b
            bend = (a**3 - a) * curvature[i] + (b**3 - b) * curvature[i + 1]
            return jnp.where(inside, a * values[i] + b * values[i + 1] + bend / 6.0, 0.0)

        return spline

    def check_values(self, values: np.ndarray) -> None:
        """Raise InputError unless ``values`` has the right length, finite numbers and, if periodic, equal ends."""
        _check_values(values, (self.size,), self.periodic)


@dataclass(frozen=True)
class ContinuousND:
    """Piecewise bicubic or tricubic function on a regular grid: Continuous2DFunction and Continuous3DFunction.

    Attributes:
        sizes: number of values along each of the two or three axes.
        ranges: first and last argument along each axis.
        periodic: whether it repeats along all axes; opposite edges must be equal then.
    """

    sizes: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]
    periodic: bool = False

    def __post_init__(self) -> None:
        _check_axes(self.sizes, self.ranges, self.periodic)

    @property
    def n_arguments(self) -> int:
        """Number of arguments."""
        return len(self.sizes)

    @property
    def n_values(self) -> int:
        """Length of the table."""
        return math.prod(self.sizes)

    def bind(self, values: jax.Array) -> Callable[..., jax.Array]:
        """The function of two or three arguments, of the same or broadcast shapes.

        ``sum over corners and orders a, b, c in (0, 1) of (d/dx)^a (d/dy)^b (d/dz)^c f(corner) H_a(x) H_b(y) H_c(z)``

        Args:
            values: shape ``(n_values,)``.
        """
        tables = values.reshape(1, *self.sizes[::-1])  # the first axis runs fastest, so it is the last
        for axis in range(len(self.sizes)):  # f, f_x; f_y, f_xy; f_z, f_xz, f_yz, f_xyz
            tables = jnp.concatenate([tables, _slopes(tables, tables.ndim - 1 - axis, self.periodic)])
        return partial(self._patch, tables)

    def _patch(self, tables: jax.Array, *x: jax.Array) -> jax.Array:
        located = [
            _locate(one, size, low, high, self.periodic)
            for one, size, (low, high) in zip(jnp.broadcast_arrays(*x), self.sizes, self.ranges, strict=True)
        ]
        polynomials = [_hermite(t) for _, _, t in located]
        total = jnp.zeros_like(polynomials[0][0][0])
        for corner in itertools.product((0, 1), repeat=len(x)):
            index = tuple(i + end for (_, i, _), end in zip(located, corner, strict=True))[::-1]
            weights = [jnp.ones_like(total)]
            for of_axis, end in zip(polynomials, corner, strict=True):
                weights = [w * of_axis[end][order] for order in (0, 1) for w in weights]
            total = total + jnp.sum(jnp.stack(weights) * tables[(slice(None), *index)], axis=0)
        inside = jnp.all(jnp.stack([inside for inside, _, _ in located]), axis=0)
        return jnp.where(inside, total, 0.0)

    def check_values(self, values: np.ndarray) -> None:
        """Raise InputError unless ``values`` has the right length, finite numbers and, if periodic, equal edges."""
        _check_values(values, self.sizes, self.periodic)


@dataclass(frozen=True)
class Discrete:
    """Table of one, two or three integer arguments: Discrete1DFunction, Discrete2DFunction, Discrete3DFunction.

    Attributes:
        sizes: number of values along each axis.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.sizes) <= 3 or min(self.sizes) < 1:
            raise InputError(f"tabulated function: sizes {self.sizes}; give one to three sizes of at least 1.")

    @property
    def n_arguments(self) -> int:
        """Number of arguments."""
        return len(self.sizes)

    @property
    def n_values(self) -> int:
        """Length of the table."""
        return math.prod(self.sizes)

    def bind(self, values: jax.Array) -> Callable[..., jax.Array]:
        """The look-up of the entry nearest to the arguments, which are of the same or broadcast shapes; NaN for NaN.

        Args:
            values: shape ``(n_values,)``.
        """

        def entry(*x: jax.Array) -> jax.Array:
            flat, step, valid = 0, 1, True
            for one, size in zip(x, self.sizes, strict=True):
                valid = valid & ~jnp.isnan(one)
                nearest = jnp.clip(jnp.nan_to_num(lax.stop_gradient(one)), 0.0, size - 1.0)
                below = jnp.floor(nearest)
                flat = flat + step * (below + (nearest - below >= 0.5)).astype(jnp.int32)
                step *= size
            return jnp.where(valid, values[flat], jnp.nan)

        return entry

    def check_values(self, values: np.ndarray) -> None:
        """Raise InputError unless ``values`` has the right length and finite numbers."""
        _check_values(values, self.sizes, False)


Table = Continuous1D | ContinuousND | Discrete


def _locate(x: jax.Array, size: int, low: float, high: float, periodic: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether x is inside, the number of its interval, and its place in it from 0 to 1; 0.0 in the first if outside."""
    if periodic:
        x = x - (high - low) * lax.stop_gradient(jnp.floor((x - low) / (high - low)))
    outside = (x < low) | (x > high)
    t = (jnp.where(outside, low, x) - low) * ((size - 1) / (high - low))
    i = jnp.clip(jnp.nan_to_num(jnp.floor(lax.stop_gradient(t))), 0, size - 2).astype(jnp.int32)
    return ~outside, i, t - i.astype(t.dtype)


def _curvatures(values: jax.Array, periodic: bool) -> jax.Array:
    """Second derivatives of the splines along the first axis, per squared interval; linear in ``values (n, ...)``.

    Natural: ``m_i-1 + 4 m_i + m_i+1 = 6 (y_i-1 - 2 y_i + y_i+1)``, ``m_0 = m_n-1 = 0``. Periodic: the same around the
    ring of the first n - 1 nodes, by the Sherman-Morrison formula.
    """
    n, flat = len(values), values.reshape(len(values), -1)
    if not periodic:
        inner = _solve(np.full(n - 2, 4.0), 6.0 * (flat[:-2] - 2.0 * flat[1:-1] + flat[2:]))
        return jnp.pad(inner, ((1, 1), (0, 0))).reshape(values.shape)
    ring = flat[:-1]
    right = 6.0 * (jnp.roll(ring, 1, axis=0) - 2.0 * ring + jnp.roll(ring, -1, axis=0))
    # Matrix = T + u u^T with u = (1, 0, ..., 0, 1): T has 3 at both ends of its diagonal.
    diagonal = np.full(n - 1, 4.0)
    diagonal[[0, -1]] = 3.0
    u = jnp.zeros((n - 1, 1), values.dtype).at[jnp.array([0, -1])].set(1.0)
    solved, response = _solve(diagonal, right), _solve(diagonal, u)
    ring = solved - response * (solved[0] + solved[-1]) / (1.0 + response[0] + response[-1])
    return jnp.concatenate([ring, ring[:1]]).reshape(values.shape)


def _solve(diagonal: np.ndarray, right: jax.Array) -> jax.Array:
    """Solution of the tridiagonal system with ones beside the diagonal, for each column of ``right (n, m)``."""
    n = len(diagonal)
    if n < 2:
        return right / jnp.asarray(diagonal, right.dtype)[:, None]
    lower, upper = np.r_[0.0, np.ones(n - 1)], np.r_[np.ones(n - 1), 0.0]
    bands = [jnp.asarray(band, right.dtype) for band in (lower, diagonal, upper)]
    return lax.linalg.tridiagonal_solve(bands[0], bands[1], bands[2], right)


def _slopes(table: jax.Array, axis: int, periodic: bool) -> jax.Array:
    """First derivatives at the nodes of the splines along an axis, per interval."""
    y = jnp.moveaxis(table, axis, 0)
    m = _curvatures(y, periodic)
    rise = y[1:] - y[:-1]
    last = rise[-1:] + (m[-2:-1] + 2.0 * m[-1:]) / 6.0
    return jnp.moveaxis(jnp.concatenate([rise - (2.0 * m[:-1] + m[1:]) / 6.0, last]), 0, axis)


def _hermite(t: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Hermite polynomials for value and slope at 0, and for value and slope at 1."""
    s = 1.0 - t
    return ((1.0 + 2.0 * t) * s * s, t * s * s), (t * t * (3.0 - 2.0 * t), -t * t * s)


def _check_axes(sizes: tuple[int, ...], ranges: tuple[tuple[float, float], ...], periodic: bool) -> None:
    least = 3 if periodic else 2
    for size, (low, high) in zip(sizes, ranges, strict=True):
        if size < least:
            kind = "periodic " if periodic else ""
            raise InputError(f"tabulated function: {size} values along an axis; a {kind}spline needs {least} or more.")
        if not -math.inf < low < high < math.inf:
            raise InputError(f"tabulated function: it goes from {low} to {high}; the maximum must exceed the minimum.")


def _check_values(values: np.ndarray, sizes: tuple[int, ...], periodic: bool) -> None:
    values = np.asarray(values)
    expected = math.prod(sizes)
    if values.shape != (expected,):
        shape = " x ".join(map(str, sizes))
        raise InputError(f"tabulated function: {values.size} values for a table of {shape}; give {expected}.")
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"tabulated function: value number {first + 1} is {values[first]}; give finite numbers.")
    grid = values.reshape(sizes[::-1])
    for axis in range(len(sizes)) if periodic else ():
        if not np.array_equal(np.take(grid, 0, axis), np.take(grid, -1, axis)):
            raise InputError("tabulated function: periodic, but its first and last values differ; make them equal.")
