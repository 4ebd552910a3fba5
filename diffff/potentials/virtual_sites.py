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

from typing import Any

import jax
import jax.numpy as jnp

from diffff.pytree import pytree

GROUP = "VirtualSites"  # in the parameter tree


@pytree
class VirtualSites:
    """Which particles are sites, of what, and which rows of the parameters their weights are.

    The columns have the names of OpenMM's attributes, and hold the sites that have such an attribute: weight1, weight2,
    … of averages, weight12, weight13, weightCross (1/nm) out of a plane, wo1, wx1, wy1, wo2, … and p1, p2, p3 (nm) of
    local coordinates. Sums over fewer atoms than others have rows of -1 at their end.

    Attributes:
        average: shape ``(n_average,)``, the sites that are averages.
        average_atoms: shape ``(n_average, m)``.
        average_rows: shape ``(n_average, m)``, rows in weight1, weight2, ….
        plane: shape ``(n_plane,)``, the sites out of a plane.
        plane_atoms: shape ``(n_plane, 3)``.
        plane_rows: shape ``(n_plane,)``, in all three columns.
        local: shape ``(n_local,)``, the sites in local coordinates.
        local_atoms: shape ``(n_local, k)``.
        local_rows: shape ``(n_local, k)``, rows in wo1, wo2, …, the same in wx1, … and wy1, …; the first also in p1, ….
    """

    average: jax.Array
    average_atoms: jax.Array
    average_rows: jax.Array
    plane: jax.Array
    plane_atoms: jax.Array
    plane_rows: jax.Array
    local: jax.Array
    local_atoms: jax.Array
    local_rows: jax.Array

    def placed(self, params: Any, positions: jax.Array) -> jax.Array:
        """The positions with all sites where they belong; shape ``(n_atoms, 3)``, nm.

        Args:
            params: the columns of the sites.
            positions: shape ``(n_atoms, 3)``, nm; those of the sites do not matter.
        """
        numbers = {column: values.astype(positions.dtype) for column, values in params.items()}
        for sites, places in ((self.average, self._average), (self.plane, self._plane), (self.local, self._local)):
            if len(sites):
                positions = positions.at[sites].set(places(numbers, positions))
        return positions

    def _average(self, params: Any, positions: jax.Array) -> jax.Array:
        weights = _weights(params, "weight", self.average_rows)
        return jnp.einsum("nm,nmd->nd", weights, positions[self.average_atoms], precision="highest")

    def _plane(self, params: Any, positions: jax.Array) -> jax.Array:
        first, second, third = jnp.moveaxis(positions[self.plane_atoms], 1, 0)
        a, b = second - first, third - first
        w12, w13, cross = (params[f"weight{i}"][self.plane_rows][:, None] for i in ("12", "13", "Cross"))
        return first + w12 * a + w13 * b + cross * jnp.cross(a, b)

    def _local(self, params: Any, positions: jax.Array) -> jax.Array:
        atoms = positions[self.local_atoms]
        origin, u, v = (
            jnp.einsum("nk,nkd->nd", _weights(params, name, self.local_rows), atoms, precision="highest")
            for name in ("wo", "wx", "wy")
        )
        x, z = _unit(u), _unit(jnp.cross(u, v))
        places = jnp.stack([params[f"p{i}"][self.local_rows[:, 0]] for i in (1, 2, 3)], axis=1)
        return origin + jnp.einsum(
            "na,nad->nd", places, jnp.stack([x, jnp.cross(z, x), z], axis=1), precision="highest"
        )


def _weights(params: Any, name: str, rows: jax.Array) -> jax.Array:
    """Weights of the first atom of each site, the second, …; zero where a site has no such atom."""
    columns = [params[f"{name}{i + 1}"][rows[:, i]] for i in range(rows.shape[1])]
    return jnp.where(rows < 0, 0.0, jnp.stack(columns, axis=1))


def _unit(vectors: jax.Array) -> jax.Array:
    """Vectors of length one; zero where there is no direction, as between two atoms that span no plane."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    some = squared > 0.0
    return jnp.where(some, vectors / jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0)
