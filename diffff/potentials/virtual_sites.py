"""Virtual sites: particles whose positions follow from those of other atoms, as the charge of four-site water.

| kind | position |
|---|---|
| average | sum_i w_i r_i |
| out of plane | r_1 + w_12 r_12 + w_13 r_13 + w_c r_12 x r_13 |
| local coordinates | o + p_x e_x + p_y e_y + p_z e_z |

Local coordinates: ``o = sum_i wo_i r_i``, ``e_x`` along ``u = sum_i wx_i r_i``, ``e_z`` along ``u x v`` with
``v = sum_i wy_i r_i``, ``e_y = e_z x e_x``. The kinds are OpenMM's. Since the sites are placed inside of the energy,
the derivative of the energy is that with respect to the other atoms, and the forces on sites are zero.
"""

import jax
import jax.numpy as jnp

from diffff.pytree import pytree


@pytree
class VirtualSites:
    """Which particles are sites, and of what. Sums over fewer atoms than others have weights of zero at their end.

    Attributes:
        average: shape ``(n_average,)``, the sites that are averages.
        average_atoms: shape ``(n_average, m)``.
        average_weights: shape ``(n_average, m)``.
        plane: shape ``(n_plane,)``, the sites out of a plane.
        plane_atoms: shape ``(n_plane, 3)``.
        plane_weights: shape ``(n_plane, 3)``: w_12, w_13, and w_c in 1/nm.
        local: shape ``(n_local,)``, the sites in local coordinates.
        local_atoms: shape ``(n_local, k)``.
        local_weights: shape ``(n_local, 3, k)``: wo, wx, wy.
        local_place: shape ``(n_local, 3)``, p, nm.
    """

    average: jax.Array
    average_atoms: jax.Array
    average_weights: jax.Array
    plane: jax.Array
    plane_atoms: jax.Array
    plane_weights: jax.Array
    local: jax.Array
    local_atoms: jax.Array
    local_weights: jax.Array
    local_place: jax.Array

    def placed(self, positions: jax.Array) -> jax.Array:
        """The positions with all sites where they belong; shape ``(n_atoms, 3)``, nm."""
        dtype = positions.dtype
        average = jnp.einsum("nm,nmd->nd", self.average_weights.astype(dtype), positions[self.average_atoms])
        first, second, third = jnp.moveaxis(positions[self.plane_atoms], 1, 0)
        a, b = second - first, third - first
        w = self.plane_weights.astype(dtype)[:, :, None]
        plane = first + w[:, 0] * a + w[:, 1] * b + w[:, 2] * jnp.cross(a, b)
        frame = jnp.einsum("nfk,nkd->nfd", self.local_weights.astype(dtype), positions[self.local_atoms])
        origin, u, v = jnp.moveaxis(frame, 1, 0)
        x, z = _unit(u), _unit(jnp.cross(u, v))
        axes = jnp.stack([x, jnp.cross(z, x), z], axis=1)
        local = origin + jnp.einsum("na,nad->nd", self.local_place.astype(dtype), axes)
        sites = jnp.concatenate([self.average, self.plane, self.local])
        return positions.at[sites].set(jnp.concatenate([average, plane, local]))


def _unit(vectors: jax.Array) -> jax.Array:
    """Vectors of length one; zero where there is no direction, as between two atoms that span no plane."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    some = squared > 0.0
    return jnp.where(some, vectors / jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0)
