"""The local environment of an atom: the smooth switch and the environment rows of its neighbours.

Source: Zhang et al., NeurIPS 2018 (arXiv:1805.09003); the quintic switch is that of DeePMD-kit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffff.pytree import pytree


@pytree
class Pairs:
    """Directed neighbour pairs of one structure, in one length unit. Unused entries have ``center == n_atoms``.

    Attributes:
        center: shape ``(n_pairs,)``, index of the atom whose environment this is.
        types: shape ``(n_pairs,)``, type of the neighbour.
        dr: shape ``(n_pairs, 3)``, vector from the centre to the neighbour.
    """

    center: jax.Array
    types: jax.Array
    dr: jax.Array


class RadialShape(NamedTuple):
    """The radial function ``s(r) = w(r) / (r + protection)``.

    Attributes:
        rcut: cutoff.
        rcut_smth: where the switch w begins.
        protection: keeps s finite at short distances.
    """

    rcut: float
    rcut_smth: float
    protection: float = 0.0

    def switch(self, r: jax.Array) -> jax.Array:
        """w(r): 1 below ``rcut_smth``, 0 above ``rcut``, ``1 + u^3 (-6 u^2 + 15 u - 10)`` between (C2)."""
        u = jnp.clip((r - self.rcut_smth) / (self.rcut - self.rcut_smth), 0.0, 1.0)
        return 1.0 + u**3 * (-6.0 * u**2 + 15.0 * u - 10.0)

    def switch_slope(self, r: jax.Array) -> jax.Array:
        """dw/dr."""
        u = jnp.clip((r - self.rcut_smth) / (self.rcut - self.rcut_smth), 0.0, 1.0)
        return -30.0 * (u * (1.0 - u)) ** 2 / (self.rcut - self.rcut_smth)


def environment(dr: jax.Array, shape: RadialShape) -> tuple[jax.Array, jax.Array]:
    """Rows of the environment matrix before normalisation.

        s = w(r) / (r + p),    a = w(r) dr / (r + p)^2

    Args:
        dr: shape ``(n, 3)``, vectors to the neighbours, none of zero length.
        shape: cutoff, switch and protection p.

    Returns:
        ``s`` of shape ``(n,)`` and ``a`` of shape ``(n, 3)``; both zero beyond the cutoff.
    """
    r = jnp.sqrt(jnp.sum(dr**2, axis=-1))
    inverse = 1.0 / (r + shape.protection)
    s = shape.switch(r) * inverse
    return s, (s * inverse)[:, None] * dr
