"""OpenMM's LCPOForce: surface area as a linear combination of pairwise overlaps.

    E    = gamma sum over i of  p1 4 pi R_i^2 + p2 sum_j A_ij + p3 sum_jk A_jk + p4 sum_j A_ij sum_k A_jk
    A_ij = pi R_i (2 R_i - r - (R_i^2 - R_j^2) / r)     the part of sphere i that sphere j covers, where r < R_i + R_j

Here j and k are neighbours of i and of each other; R contains the radius of the probe. With the matrix N of neighbours,
1 or 0, ``sum_jk A_jk = sum_j N_ij (A N)_ji``, which is a product of two matrices over the atoms that take part (no
hydrogens): for some thousand of them, it costs more than all else.
Source: Weiser, Shenkin, Still, doi:10.1002/(SICI)1096-987X(19990130)20:2<217::AID-JCC4>3.0.CO;2-A.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffff.neighbors import Neighbors
from diffff.potentials.pairwise import nearest_image
from diffff.pytree import pytree, static
from diffff.space import times


@pytree
class LCPO:
    """The term. It needs no neighbour list; the spheres must be smaller than a quarter of the box.

    Parameters: ``radius``, nm, with the probe; ``p1``, ``p2``, ``p3``; ``p4``, 1/nm^2; the scalar ``surface_tension``,
    kJ/mol/nm^2.

    Attributes:
        atoms: shape ``(n,)``, those that take part.
        rows: shape ``(n,)``, the row of each.
        periodic: whether distances are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    periodic: bool = static(default=False)
    name: str = static(default="LCPOForce")

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; arguments as in `Term.energy`."""
        x = jnp.asarray(positions)[self.atoms]
        radius, p1, p2, p3, p4 = (jnp.asarray(params[name])[self.rows] for name in ("radius", "p1", "p2", "p3", "p4"))
        dr = x[None, :] - x[:, None]
        if self.periodic and box is not None:
            image = nearest_image(jax.lax.stop_gradient(dr).reshape(-1, 3), jax.lax.stop_gradient(box))
            dr = dr + times(image.reshape(dr.shape).astype(dr.dtype), box)
        squared = jnp.sum(dr * dr, axis=-1)
        near = (squared < (radius[:, None] + radius) ** 2) & ~jnp.eye(len(x), dtype=bool)
        r = jnp.sqrt(jnp.where(near, squared, 1.0))
        covered = jnp.pi * radius[:, None] * (2.0 * radius[:, None] - r - (radius[:, None] ** 2 - radius**2) / r)
        covered = jnp.where(near, covered, 0.0)
        common = jnp.matmul(
            covered, near.astype(covered.dtype), precision="highest"
        ).T  # of i and j: sum over k of A_jk
        area = 4.0 * jnp.pi * p1 * radius**2 + p2 * jnp.sum(covered, axis=1)
        area += p3 * jnp.sum(jnp.where(near, common, 0.0), axis=1) + p4 * jnp.sum(covered * common, axis=1)
        return params["surface_tension"] * jnp.sum(area)
