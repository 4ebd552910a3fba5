"""Torsions that are a series in one dihedral angle phi; impropers are the same with another choice of atoms.

| term | E, kJ/mol | columns of its rows |
|---|---|---|
| PeriodicTorsion | k (1 + cos(n phi - phase)) for each component of a row | phase rad, k kJ/mol |
| RBTorsion | sum_m c_m cos^m(psi), m = 0 ... 5, psi = phi - pi | c0 ... c5 kJ/mol |

Each is OpenMM's force of that name (RBTorsion: Ryckaert and Bellemans, 10.1039/DC9786600095, where trans is psi = 0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from diffff.neighbors import Neighbors
from diffff.potentials.geometry import dihedral
from diffff.pytree import pytree, static

Columns = Mapping[str, jax.Array]


def fourier(phi: jax.Array, k: jax.Array, periodicity: jax.Array, phase: jax.Array) -> jax.Array:
    """``k (1 + cos(n phi - phase))``."""
    return k * (1.0 + jnp.cos(periodicity * phi - phase))


def ryckaert_bellemans(phi: jax.Array, c: Sequence[jax.Array]) -> jax.Array:
    """``sum_m c_m cos^m(phi - pi)``."""
    x = -jnp.cos(phi)
    total = c[-1]
    for coefficient in c[-2::-1]:
        total = total * x + coefficient
    return total


@pytree
class PeriodicTorsion:
    """Cosines of multiples of dihedrals, one entry per cosine: a row of several periodicities is several entries.

    Attributes:
        atoms: shape ``(n, 4)``, integers, in the order of the chain; ``(n_chains, 4)`` with ``chain``.
        rows: shape ``(n,)``, index of the component behind each entry, counted over all rows.
        periodicity: shape ``(n,)``, integers.
        chain: shape ``(n,)``, index of the chain of each entry, or None where each entry has its own; see `merged`.
        periodic: whether bonds are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    periodicity: jax.Array
    chain: jax.Array | None = None
    periodic: bool = static(default=False)
    name: str = static(default="PeriodicTorsionForce")

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; ``params`` has ``phase`` (rad) and ``k`` (kJ/mol), each ``(n_components,)``."""
        phi = dihedral(positions, box, self.atoms, self.periodic)
        phi = phi if self.chain is None else phi[self.chain]
        return jnp.sum(fourier(phi, params["k"][self.rows], self.periodicity, params["phase"][self.rows]))

    def merged(self) -> "PeriodicTorsion":
        """The same energy with each dihedral calculated once for all its cosines; on the host.

        With three cosines on a chain, energy and forces take less than half of the time.
        """
        if self.chain is not None:
            return self
        chains, chain = np.unique(np.asarray(self.atoms), axis=0, return_inverse=True)
        return replace(self, atoms=jnp.asarray(chains), chain=jnp.asarray(chain.ravel().astype(np.int32)))


@pytree
class RBTorsion:
    """Ryckaert-Bellemans torsions.

    Attributes:
        atoms: shape ``(n, 4)``, integers, in the order of the chain.
        rows: shape ``(n,)``, index of the row behind each torsion.
        periodic: whether bonds are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    periodic: bool = static(default=False)
    name: str = static(default="RBTorsionForce")

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; ``params`` has ``c0`` ... ``c5`` (kJ/mol), each ``(n_rows,)``."""
        phi = dihedral(positions, box, self.atoms, self.periodic)
        return jnp.sum(ryckaert_bellemans(phi, [params[f"c{m}"][self.rows] for m in range(6)]))
