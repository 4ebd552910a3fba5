"""Attraction beyond the cutoff: the correction for a uniform fluid, and the split of 1/r^6 for LJPME.

Units: nm, kJ/mol.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def tail_energy(
    sigma: jax.Array, root_epsilon: jax.Array, volume: jax.Array, cutoff: float, switch_distance: float | None
) -> jax.Array:
    """Lennard-Jones energy that cutoff and switch leave out, if the particles beyond are distributed uniformly.

        8 pi N^2 / V (<epsilon sigma^12> I_12 - <epsilon sigma^6> I_6),   I_n = integral (1 - S(r)) r^(2-n) dr

    S is the switching function, zero beyond the cutoff. As in OpenMM the mean runs over all N (N + 1) / 2 pairs with
    Lorentz-Berthelot rules, a particle with itself and excluded pairs included; the binomial
    ``(s_i + s_j)^n = sum_k C(n, k) s_i^k s_j^(n-k)`` makes it a product of moments.

    Args:
        sigma: shape ``(n_atoms,)``.
        root_epsilon: shape ``(n_atoms,)``, square roots of epsilon.
        volume: of the cell.
        cutoff: where the interaction ends.
        switch_distance: where it starts to be switched off, or None.
    """
    n = len(sigma)
    powers = [root_epsilon]
    for _ in range(12):
        powers.append(powers[-1] * sigma)
    moments = [jnp.sum(p) for p in powers]

    def mean(exponent: int) -> jax.Array:
        products = sum(math.comb(exponent, k) * moments[k] * moments[exponent - k] for k in range(exponent + 1))
        own = jnp.sum(powers[exponent] * root_epsilon)
        return (products / 2.0**exponent + own) / (n * (n + 1))

    integrals = {e: _left_out(e, cutoff, switch_distance) for e in (6, 12)}
    return 8.0 * math.pi * n**2 / volume * (mean(12) * integrals[12] - mean(6) * integrals[6])


def _left_out(exponent: int, cutoff: float, switch_distance: float | None) -> float:
    """Integral of ``(1 - S) r^(2 - exponent)`` over all r, on the host."""
    beyond = cutoff ** (3 - exponent) / (exponent - 3)
    if switch_distance is None:
        return beyond
    nodes, weights = np.polynomial.legendre.leggauss(48)
    t = (nodes + 1.0) / 2.0
    width = cutoff - switch_distance
    integrand = t**3 * (10.0 - 15.0 * t + 6.0 * t * t) * (switch_distance + width * t) ** (2 - exponent)
    return beyond + width / 2.0 * float(weights @ integrand)


def damping(u: jax.Array) -> jax.Array:
    """``[1 - exp(-u) (1 + u + u^2/2)] / u^3`` with ``u = (alpha r)^2``, smooth at zero, where it is 1/6.

    ``alpha^6 damping(u)`` is the part of 1/r^6 that the reciprocal sum contains.
    """
    near = u < 1.0
    small = jnp.where(near, u, 0.0)
    series = jnp.zeros_like(u)
    for k in reversed(range(16)):
        series = series * small + (-1.0) ** k / (2.0 * math.factorial(k) * (k + 3))
    large = jnp.where(near, 1.0, u)
    direct = (1.0 - jnp.exp(-large) * (1.0 + large * (1.0 + 0.5 * large))) / large**3
    return jnp.where(near, series, direct)


def self_energy(coefficients: jax.Array, alpha: float) -> jax.Array:
    """``alpha^6 / 12 sum c_i^2``: what the reciprocal sum contains for a particle with itself, taken out."""
    return alpha**6 / 12.0 * jnp.sum(coefficients**2)
