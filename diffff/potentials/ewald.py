"""Electrostatics of a periodic system by Ewald's split of 1/r: the parts that are not short-ranged.

    1/r = erfc(alpha r)/r + erf(alpha r)/r
    E = sum_pairs K q q erfc(alpha r)/r + E_reciprocal - sum_excluded K q q erf(alpha r)/r + E_self + E_background

Units: nm, e, kJ/mol. (Essmann et al., doi:10.1063/1.470117.)
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffff.space import times
from diffff.units import COULOMB_CONSTANT


# ------------------------------------------------------------------ choice of the parameters
def ewald_alpha(cutoff: float, tolerance: float) -> float:
    """Splitting parameter ``sqrt(-ln(2 tolerance)) / cutoff``, 1/nm, OpenMM's rule."""
    return 1.0 / cutoff * math.sqrt(-math.log(2.0 * tolerance))


def ewald_kmax(width: float, alpha: float, tolerance: float) -> int:
    """Number of wave vectors along an axis, odd, OpenMM's rule.

    The smallest k with ``0.05 sqrt(width alpha) k exp(-(pi k / (width alpha))^2) <= tolerance`` on the falling side;
    the sum runs over ``|n| < k``.

    Args:
        width: edge of the box, nm.
        alpha: 1/nm.
        tolerance: error that is accepted.
    """

    def below(k: int) -> bool:
        return 0.05 * math.sqrt(width * alpha) * k * math.exp(-((math.pi * k / (width * alpha)) ** 2)) < tolerance

    k = 10
    if below(k):
        while k > 0 and below(k):
            k -= 1
        k += 1
    else:
        while not below(k):
            k += 1
    return k + 1 - k % 2


# ------------------------------------------------------------------ geometry of the box
def volume(box: jax.Array) -> jax.Array:
    """Volume of the cell, nm^3."""
    return jnp.abs(jnp.dot(box[0], jnp.cross(box[1], box[2])))


def reciprocal(box: jax.Array) -> jax.Array:
    """Reciprocal vectors as rows, ``(3, 3)``, 1/nm, without 2 pi: ``reciprocal @ box.T = 1``."""
    faces = jnp.cross(jnp.roll(box, -1, axis=0), jnp.roll(box, -2, axis=0))
    return faces / jnp.dot(box[0], faces[0])


# ------------------------------------------------------------------ parts of the energy
def self_energy(charges: jax.Array, alpha: float) -> jax.Array:
    """``-K alpha / sqrt(pi) sum q^2``."""
    return -COULOMB_CONSTANT * alpha / math.sqrt(math.pi) * jnp.sum(charges**2)


def background_energy(charges: jax.Array, box: jax.Array, alpha: float) -> jax.Array:
    """Energy of the uniform charge that makes the cell neutral, ``-K pi (sum q)^2 / (2 V alpha^2)``."""
    return -COULOMB_CONSTANT * math.pi / (2.0 * alpha**2) * jnp.sum(charges) ** 2 / volume(box)


def erf_over_r(squared: jax.Array, alpha: float) -> jax.Array:
    """``erf(alpha r) / r``, 1/nm, smooth at r = 0.

    Args:
        squared: r^2, nm^2.
        alpha: 1/nm.
    """
    u = alpha**2 * squared
    near = u < 1e-4
    r = jnp.sqrt(jnp.where(near, 1.0, squared))
    series = 2.0 * alpha / math.sqrt(math.pi) * (1.0 - u / 3.0 + u * u / 10.0)
    return jnp.where(near, series, jax.scipy.special.erf(alpha * r) / r)


def reciprocal_energy(
    positions: jax.Array, charges: jax.Array, box: jax.Array, alpha: float, kmax: tuple[int, int, int]
) -> jax.Array:
    """Reciprocal part as a plain sum over wave vectors, kJ/mol.

        K / (2 pi V) sum_{m != 0} exp(-pi^2 m^2 / alpha^2) / m^2 |sum_i q_i exp(2 pi i m x_i)|^2

    Args:
        positions: shape ``(n_atoms, 3)``, nm.
        charges: shape ``(n_atoms,)``, e.
        box: shape ``(3, 3)``, nm.
        alpha: 1/nm.
        kmax: the sum runs over ``|n| < kmax`` along each axis.
    """
    to_fractional = reciprocal(box)
    phases = 2.0 * math.pi * times(positions, to_fractional.T)
    ranges = (np.arange(kmax[0]), *(np.arange(1 - k, k) for k in kmax[1:]))  # the other half is the complex conjugate
    x, y, z = (
        jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
        for angle in (phases[:, c, None] * ranges[c].astype(phases.dtype) for c in range(3))
    )
    structure = jnp.einsum("ax,ay,az->xyz", charges[:, None] * x, y, z, optimize=[(0, 1), (0, 1)], precision="highest")
    n = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1)
    squared = jnp.sum(times(jnp.asarray(n, phases.dtype), to_fractional) ** 2, axis=-1)
    present = n.any(axis=-1)
    squared = jnp.where(present, squared, 1.0)
    twice = np.where(n[..., 0] > 0, 2.0, 1.0).astype(phases.dtype)
    weights = jnp.where(present, twice * jnp.exp(-((math.pi / alpha) ** 2) * squared) / squared, 0.0)
    power = structure.real**2 + structure.imag**2
    return COULOMB_CONSTANT / (2.0 * math.pi) / volume(box) * jnp.sum(weights * power)
