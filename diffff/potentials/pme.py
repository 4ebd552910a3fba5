"""Smooth particle-mesh Ewald: the reciprocal part on a grid.

    E = 1/2 sum_m G(m) |S(m)|^2,    S = Fourier transform of  Q[k] = sum_i q_i M(u_x - k_x) M(u_y - k_y) M(u_z - k_z)

M is the cardinal B-spline of order 5 and u the scaled fractional coordinate. The derivative in Q is the potential on
the grid, one transform back, from which forces and charge derivatives are interpolated.
(Essmann et al., doi:10.1063/1.470117.)
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffff.potentials.ewald import reciprocal, volume
from diffff.space import times
from diffff.units import COULOMB_CONSTANT

ORDER = 5

Grid = tuple[int, int, int]


def pme_grid(box: np.ndarray, alpha: float, tolerance: float, *, dispersion: bool = False) -> Grid:
    """Grid points along each axis, OpenMM's rule: ``max(6, ceil(2 alpha L / (3 tolerance^(1/5))))``.

    Args:
        box: shape ``(3, 3)``, nm, in the reduced lower triangular form; L are its diagonal elements.
        alpha: 1/nm.
        tolerance: error that is accepted.
        dispersion: half of the points, for the 1/r^6 interaction.
    """
    factor = (1.0 if dispersion else 2.0) * alpha / (3.0 * tolerance**0.2)
    x, y, z = (max(6, math.ceil(factor * length)) for length in np.diagonal(box).tolist())
    return x, y, z


def reciprocal_energy(
    positions: jax.Array, charges: jax.Array, box: jax.Array, green: jax.Array, grid: Grid
) -> jax.Array:
    """Energy of charges in their own smooth potential, kJ/mol.

    Args:
        positions: shape ``(n_atoms, 3)``, nm.
        charges: shape ``(n_atoms,)``, e, or what takes their place.
        box: shape ``(3, 3)``, nm.
        green: from `coulomb_green` or `dispersion_green`.
        grid: number of points along each axis, at least 5.
    """
    return _grid_energy(_spread(positions, charges, box, grid), green)


# ------------------------------------------------------------------ real space
def spline_weights(t: jax.Array) -> list[jax.Array]:
    """The splines of order 5 that overlap the unit interval, ``M(t + 4), M(t + 3), ... M(t)`` at ``t`` in [0, 1]."""
    weights = [jnp.ones_like(t)]
    for p in range(1, ORDER):
        lower = [jnp.zeros_like(t), *weights]
        upper = [*weights, jnp.zeros_like(t)]
        weights = [((t + p - q) * lower[q] + (q + 1 - t) * upper[q]) / p for q in range(p + 1)]
    return weights


def _spread(positions: jax.Array, charges: jax.Array, box: jax.Array, grid: Grid) -> jax.Array:
    """Charges on the grid, shape ``grid``."""
    size = jnp.asarray(grid, jnp.int32)
    fractional = times(positions, reciprocal(box).T)
    scaled = (fractional - jnp.floor(lax.stop_gradient(fractional))) * size.astype(positions.dtype)
    first = jnp.clip(jnp.floor(lax.stop_gradient(scaled)).astype(jnp.int32), 0, size - 1)
    weights = jnp.stack(spline_weights(scaled - first.astype(scaled.dtype)), axis=-1)  # (n_atoms, 3, 5)
    windows = (charges[:, None] * weights[:, 0])[:, :, None, None] * (
        weights[:, 1, None, :, None] * weights[:, 2, None, None, :]
    )
    margin = ORDER - 1
    padded = lax.scatter_add(
        jnp.zeros(tuple(n + margin for n in grid), windows.dtype),
        first,
        windows,
        lax.ScatterDimensionNumbers((1, 2, 3), (), (0, 1, 2)),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
    for axis, n in enumerate(grid):  # what stands over the edge belongs to the other side
        inside = lax.slice_in_dim(padded, margin, n, axis=axis)
        start = lax.slice_in_dim(padded, 0, margin, axis=axis) + lax.slice_in_dim(padded, n, n + margin, axis=axis)
        padded = jnp.concatenate([start, inside], axis=axis)
    return padded


# ------------------------------------------------------------------ reciprocal space
@jax.custom_jvp
def _grid_energy(density: jax.Array, green: jax.Array) -> jax.Array:
    return jnp.sum(green * _half_power(jnp.fft.rfftn(density), density.shape))


@_grid_energy.defjvp
def _grid_energy_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    density, green = primals
    structure = jnp.fft.rfftn(density)
    half_power = _half_power(structure, density.shape)
    potential = jnp.fft.irfftn(green * structure, s=density.shape) * density.size
    return jnp.sum(green * half_power), jnp.sum(potential * tangents[0]) + jnp.sum(half_power * tangents[1])


def _half_power(structure: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """|S|^2 / 2 with the weight of the wave vectors that a real transform leaves out."""
    power = structure.real**2 + structure.imag**2
    last = np.arange(shape[2] // 2 + 1)
    return power * np.where((last == 0) | (2 * last == shape[2]), 0.5, 1.0).astype(power.dtype)


def coulomb_green(box: jax.Array, alpha: float, grid: Grid) -> jax.Array:
    """``K / (pi V) exp(-pi^2 m^2 / alpha^2) / m^2 / |b|^2``, zero at m = 0; shape ``(n_x, n_y, n_z // 2 + 1)``."""
    scale = COULOMB_CONSTANT / math.pi / volume(box)

    def at(squared: jax.Array) -> jax.Array:
        present = squared > 0.0
        squared = jnp.where(present, squared, 1.0)
        return jnp.where(present, scale * jnp.exp(-((math.pi / alpha) ** 2) * squared) / squared, 0.0)

    return _on_grid(at, box, grid)


def dispersion_green(box: jax.Array, alpha: float, grid: Grid) -> jax.Array:
    """The same for ``-c_i c_j / r^6``: ``-pi^(3/2) alpha^3 / (3 V) f(pi |m| / alpha) / |b|^2``.

    ``f(b) = (1 - 2 b^2) exp(-b^2) + 2 b^3 sqrt(pi) erfc(b)``, 1 at m = 0.
    """
    scale = -(math.pi**1.5) * alpha**3 / 3.0 / volume(box)

    def at(squared: jax.Array) -> jax.Array:
        present = squared > 0.0
        b = math.pi / alpha * jnp.sqrt(jnp.where(present, squared, 1.0))
        f = (1.0 - 2.0 * b * b) * jnp.exp(-b * b) + 2.0 * math.sqrt(math.pi) * b**3 * jax.scipy.special.erfc(b)
        return scale * jnp.where(present, f, 1.0)

    return _on_grid(at, box, grid)


def _on_grid(function: Callable[[jax.Array], jax.Array], box: jax.Array, grid: Grid) -> jax.Array:
    """A function of m^2 divided by the squared moduli of the splines.

    At the highest frequency of an even axis both signs are the same wave on the grid; in a skewed cell m^2 differs
    between them, and the mean is taken.
    """
    numbers = [np.rint(np.fft.fftfreq(n) * n) for n in grid]
    numbers[2] = numbers[2][: grid[2] // 2 + 1]
    to_waves = reciprocal(box)

    def at(numbers: list[np.ndarray]) -> jax.Array:
        x, y, z = (jnp.asarray(n, box.dtype)[:, None] * to_waves[c] for c, n in enumerate(numbers))
        waves = x[:, None, None] + y[None, :, None] + z[None, None, :]
        return function(jnp.sum(waves * waves, axis=-1))

    values = at(numbers)
    if any(n % 2 == 0 for n in grid):
        other = [np.where(2 * np.abs(k) == n, -k, k) for k, n in zip(numbers, grid, strict=True)]
        values = 0.5 * (values + at(other))
    return values * _inverse_moduli(grid).astype(values.dtype)


def _inverse_moduli(grid: Grid) -> np.ndarray:
    """``1 / |b|^2`` of the three axes multiplied, on the host."""
    x, y, z = (1.0 / _moduli(n) for n in grid)
    return x[:, None, None] * y[None, :, None] * z[None, None, : grid[2] // 2 + 1]


def _moduli(n: int) -> np.ndarray:
    """``|sum_k M(k + 1) exp(2 pi i m k / n)|^2``; where an odd order gives zero, the mean of the neighbours."""
    values = np.zeros(n)
    values[: ORDER - 1] = np.array([1.0, 11.0, 11.0, 1.0]) / 24.0  # M at 1, 2, 3, 4
    moduli = np.abs(np.fft.fft(values)) ** 2
    return np.where(moduli < 1e-7, (np.roll(moduli, 1) + np.roll(moduli, -1)) / 2.0, moduli)
