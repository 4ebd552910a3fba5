"""A neighbour list that serves for many steps: it reaches farther than the cutoff, by the skin."""

import jax
import jax.numpy as jnp
import numpy as np

from diffff.cell_list import CellList, allocate, update
from diffff.neighbors import Neighbors
from diffff.pytree import pytree, static


@pytree
class VerletList:
    """A neighbour list, and for which positions and box it was made.

    Attributes:
        neighbors: the list, of all pairs within the cutoff and the skin.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
        sizes: of the list.
        cutoff: the distance up to which pairs are needed, nm; 0: none are, and the list serves for ever.
    """

    neighbors: Neighbors
    positions: jax.Array
    box: jax.Array | None
    sizes: CellList
    cutoff: float = static()

    def serves(self, positions: jax.Array, box: jax.Array | None) -> jax.Array:
        """Whether all pairs within the cutoff are in the list; bool.

        With the deformation ``M`` of the box, ``u_i = x_i - x0_i M`` and the largest displacement ``d = max |u_i|``, a
        pair at r was at most at ``(r + 2 d) |M^-1|`` when the list was made.
        """
        if self.cutoff == 0.0:
            return jnp.ones((), bool)
        expected, stretch = self.positions, 1.0
        if box is not None and self.box is not None:
            deform = jnp.linalg.solve(self.box, box)
            expected = self.positions @ deform
            stretch = 1.0 + jnp.linalg.norm(jnp.linalg.inv(deform) - jnp.eye(3, dtype=box.dtype))
        moved = jnp.sqrt(jnp.max(jnp.sum((positions - expected) ** 2, axis=1), initial=0.0))
        return (self.cutoff + 2.0 * moved) * stretch <= self.sizes.cutoff

    def renewed(self, positions: jax.Array, box: jax.Array | None) -> "VerletList":
        """The list for new positions, of the same sizes; its ``neighbors.overflow`` tells whether it fits."""
        return filled(self.sizes, self.cutoff, positions, box)


def filled(sizes: CellList, cutoff: float, positions: jax.Array, box: jax.Array | None) -> VerletList:
    """The list of these sizes for some positions; its ``neighbors.overflow`` tells whether it fits."""
    neighbors = update(sizes, positions, box) if cutoff else Neighbors.none()
    return VerletList(neighbors=neighbors, positions=positions, box=box, sizes=sizes, cutoff=cutoff)


def sizes_for(positions: np.ndarray, box: np.ndarray | None, cutoff: float, skin: float) -> CellList:
    """Sizes of a list that holds the pairs of these positions; on the host.

    Args:
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
        cutoff: nm.
        skin: nm.

    Raises:
        InputError: positions or box have another shape, are not finite, or the box has no volume.
    """
    return allocate(positions if cutoff else positions[:1], box, cutoff + skin)
