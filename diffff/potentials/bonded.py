"""Harmonic terms in distances and angles: bonds, angles, Urey-Bradley.

| term | E, kJ/mol | columns of its rows |
|---|---|---|
| HarmonicBond | k/2 (r - length)^2 | length nm, k kJ/mol/nm^2 |
| HarmonicAngle | k/2 (theta - angle)^2 | angle rad, k kJ/mol/rad^2 |
| UreyBradley | k (r - d)^2 | d nm, k kJ/mol/nm^2 |

Each is OpenMM's force of that name; OpenMM makes of a Urey-Bradley row a harmonic bond of constant 2k.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffff.neighbors import Neighbors
from diffff.potentials.geometry import angle, distance
from diffff.pytree import pytree, static

Columns = Mapping[str, jax.Array]


def harmonic(x: jax.Array, k: jax.Array, x0: jax.Array) -> jax.Array:
    """``k/2 (x - x0)^2``."""
    return 0.5 * k * (x - x0) ** 2


def urey_bradley(r: jax.Array, k: jax.Array, d: jax.Array) -> jax.Array:
    """``k (r - d)^2``."""
    return k * (r - d) ** 2


@pytree
class HarmonicBond:
    """Bonds that are springs.

    Attributes:
        atoms: shape ``(n, 2)``, integers.
        rows: shape ``(n,)``, index of the row behind each bond.
        periodic: whether distances are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    periodic: bool = static(default=False)
    name: str = static(default="HarmonicBondForce")

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; ``params`` has ``length`` (nm) and ``k`` (kJ/mol/nm^2), each ``(n_rows,)``."""
        r = distance(positions, box, self.atoms, self.periodic)
        return jnp.sum(harmonic(r, params["k"][self.rows], params["length"][self.rows]))


@pytree
class HarmonicAngle:
    """Angles that are springs.

    Attributes:
        atoms: shape ``(n, 3)``, integers; the angle is at the middle one.
        rows: shape ``(n,)``, index of the row behind each angle.
        periodic: whether bonds are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    periodic: bool = static(default=False)
    name: str = static(default="HarmonicAngleForce")

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; ``params`` has ``angle`` (rad) and ``k`` (kJ/mol/rad^2), each ``(n_rows,)``."""
        theta = angle(positions, box, self.atoms, self.periodic)
        return jnp.sum(harmonic(theta, params["k"][self.rows], params["angle"][self.rows]))


@pytree
class UreyBradley:
    """Springs between the outer atoms of angles.

    Attributes:
        atoms: shape ``(n, 2)``, integers; the outer atoms.
        rows: shape ``(n,)``, index of the row behind each pair.
        periodic: whether distances are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    periodic: bool = static(default=False)
    name: str = static(default="AmoebaUreyBradleyForce")

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; ``params`` has ``d`` (nm) and ``k`` (kJ/mol/nm^2), each ``(n_rows,)``."""
        r = distance(positions, box, self.atoms, self.periodic)
        return jnp.sum(urey_bradley(r, params["k"][self.rows], params["d"][self.rows]))
