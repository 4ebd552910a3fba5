"""CMAP: an energy that is tabulated over two dihedral angles of a chain.

A map of size N holds values on the grid ``x, y = 0 ... N - 1``, in steps of ``2 pi / N`` from angle 0. Between the
points it is the bicubic patch through the values and derivatives at the four corners,

    E = sum_ab sum_pq  h_ap(x - i) h_bq(y - j)  d^(p+q)V/dx^p dy^q (i + a, j + b),      a, b, p, q in {0, 1},

with Hermite's cubics h; the derivatives are those of periodic cubic splines along x, along y, and along y of the
x-derivative. A spline's slopes are a constant matrix times its values, hence all is linear in the map. As in OpenMM's
CMAPTorsionForce.
"""

from collections.abc import Mapping
from functools import cache
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials.geometry import dihedral
from diffff.pytree import pytree, static

_SMALLEST = 3  # points of a periodic cubic spline


@cache
def spline_slopes(size: int) -> NDArray[np.floating]:
    """Matrix ``(size, size)`` from the values of a periodic cubic spline with unit spacing to its slopes at the points.

    The second derivative is continuous: ``s[i-1] + 4 s[i] + s[i+1] = 3 (v[i+1] - v[i-1])``.
    """
    one = np.eye(size)
    ahead, behind = np.roll(one, 1, axis=1), np.roll(one, -1, axis=1)
    slopes = np.linalg.solve(4.0 * one + ahead + behind, 3.0 * (ahead - behind))
    slopes.flags.writeable = False
    return slopes


def corner_values(maps: jax.Array) -> jax.Array:
    """Value, x-slope, y-slope and mixed derivative at each grid point, per grid step.

    Args:
        maps: shape ``(n_maps, size_y, size_x)``, kJ/mol.

    Returns:
        Shape ``(n_maps, size_y, size_x, 4)``, kJ/mol.
    """
    slopes = jnp.asarray(spline_slopes(maps.shape[-1]), maps.dtype)
    by_x = jnp.einsum("myx,ix->myi", maps, slopes, precision="highest")
    by_y = jnp.einsum("myx,iy->mix", maps, slopes, precision="highest")
    mixed = jnp.einsum("myx,iy->mix", by_x, slopes, precision="highest")
    return jnp.stack([maps, by_x, by_y, mixed], axis=-1)


def hermite(t: jax.Array) -> jax.Array:
    """Hermite's cubics at ``t (n,)``: shape ``(n, 2, 2)``, for corner 0 or 1 and for its value or slope."""
    square, cube = t**2, t**3
    value, slope = 3.0 * square - 2.0 * cube, cube - square
    return jnp.stack([jnp.stack([1.0 - value, slope - square + t], -1), jnp.stack([value, slope], -1)], -2)


@pytree
class CMAPTorsion:
    """Maps over two dihedrals.

    Attributes:
        atoms: shape ``(n, 8)``, integers: the atoms of the first dihedral, then of the second.
        maps: shape ``(n,)``, integers: number of the map of each pair of dihedrals.
        sizes: points along a side of each map.
        periodic: whether bonds are to nearest images.
        name: key of its parameters.

    Raises:
        InputError: a map has fewer than 3 points along a side.
    """

    atoms: jax.Array
    maps: jax.Array
    sizes: tuple[int, ...] = static()
    periodic: bool = static(default=False)
    name: str = static(default="CMAPTorsionForce")

    def __post_init__(self) -> None:
        for number, size in enumerate(self.sizes):
            if size < _SMALLEST:
                raise InputError(
                    f"{self.name}: map {number} has {size} points along a side, too few for a periodic cubic spline; "
                    f"give it at least {_SMALLEST} x {_SMALLEST} values"
                )

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(
        self, params: Mapping[str, jax.Array], positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
    ) -> jax.Array:
        """Energy, kJ/mol.

        Args:
            params: ``map``, shape ``(sum of sizes^2,)``, kJ/mol: the maps one after the other, the step along the first
                dihedral being the fast index.
            positions: shape ``(n_atoms, 3)``, nm.
            box: shape ``(3, 3)`` or None, nm.
            neighbors: not used.

        Raises:
            InputError: the number of values is not that of the maps.
        """
        if len(self.atoms) == 0:
            return jnp.zeros((), positions.dtype)
        start = np.cumsum([0] + [size**2 for size in self.sizes])
        size, start = jnp.asarray(self.sizes)[self.maps], jnp.asarray(start[:-1])[self.maps]
        (i, wx), (j, wy) = (
            _patch(dihedral(positions, box, self.atoms[:, first : first + 4], self.periodic), size) for first in (0, 4)
        )
        corner = start[:, None, None] + j[:, :, None] * size[:, None, None] + i[:, None, :]
        values = self._tables(params["map"])[corner].reshape(-1, 2, 2, 2, 2)
        return jnp.sum(wy[:, :, None, :, None] * wx[:, None, :, None, :] * values)

    def _tables(self, values: jax.Array) -> jax.Array:
        """`corner_values` of all maps, shape ``(sum of sizes^2, 4)``."""
        expected = sum(size**2 for size in self.sizes)
        if values.shape != (expected,):
            raise InputError(
                f"{self.name}: maps of sizes {list(self.sizes)} have {expected} values, but params['map'] has shape "
                f"{tuple(values.shape)}; give all values in one array, map after map"
            )
        parts, start = [], 0
        for size, group in groupby(self.sizes):
            shape = (len(list(group)), size, size)
            stop = start + int(np.prod(shape))
            parts.append(corner_values(values[start:stop].reshape(shape)).reshape(-1, 4))
            start = stop
        return jnp.concatenate(parts)


def _patch(phi: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two grid points around each angle, ``(n, 2)``, and their Hermite weights, ``(n, 2, 2)``."""
    x = phi * size.astype(phi.dtype) / (2.0 * jnp.pi)
    left = jnp.floor(x)
    index = left.astype(jnp.int32) % size
    return jnp.stack([index, (index + 1) % size], axis=-1), hermite(x - left)
