"""Fixed distances between atoms: SETTLE for rigid water, matrix SHAKE and RATTLE for all others.

An engine calls `Constraints.positions` after each move of the atoms and `Constraints.velocities` after each change of
velocities. Both are pure functions of arrays, in the precision of the positions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
from openmm import unit
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from diffff.errors import InputError
from diffff.md.precision import cast
from diffff.md.settle import Waters
from diffff.md.shake import Clusters, Network, clusters, network, on_atoms, position_impulses, velocity_impulses
from diffff.pytree import pytree

_NM = unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
SMALL = 8  # bonds; larger clusters are solved by iteration
TOLERANCE = {"float32": 1e-6, "float64": 1e-10}


@pytree
class Constraints:
    """Distances that are kept; made by `constraints_of` or `constraints_on`.

    The tolerance is relative: 1e-10 in double and 1e-6 in single precision, of distances, and of velocities along them
    to the largest relative velocity of two bonded atoms. Where it is not met the atoms concerned get NaN. Molecules
    have to be whole (a distance is never taken to a periodic image), as in OpenMM. Each constraint removes one degree
    of freedom.

    Attributes:
        atoms: shape ``(n_constraints, 2)``.
        distances: shape ``(n_constraints,)``, nm.
        waters: rigid three-site molecules, for positions.
        water_bonds: their bonds, for velocities.
        small: all other clusters of few bonds.
        large: clusters of many bonds.

    Example:
        >>> constraints = constraints_on([[0, 1]], [0.1], masses=[12.0, 1.0])
        >>> old = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
        >>> moved = constraints.positions(old.at[1].add(0.013), old)
        >>> print(f"{jnp.linalg.norm(moved[1] - moved[0]):.6f} {(12 * moved[0] + moved[1])[0]:.6f}")
        0.100000 0.113000
    """

    atoms: jax.Array
    distances: jax.Array
    waters: Waters | None
    water_bonds: Clusters | None
    small: Clusters | None
    large: Network | None

    @property
    def n_constraints(self) -> int:
        """How many degrees of freedom they remove."""
        return self.atoms.shape[0]

    def positions(self, new: jax.Array, old: jax.Array) -> jax.Array:
        """Positions that satisfy all constraints, from ones that do not, by forces along the old bond vectors.

        Rounding to the precision of a position adds to the tolerance: 5e-7 nm per 8 nm from the origin in float32.

        Args:
            new: shape ``(n_atoms, 3)``, nm.
            old: shape ``(n_atoms, 3)``, nm: of the step before, where the constraints hold.

        Returns:
            Shape ``(n_atoms, 3)``, nm; NaN for atoms of constraints that did not converge.
        """
        return jnp.asarray(new) + self.displacements(new, old)

    def displacements(self, new: jax.Array, old: jax.Array) -> jax.Array:
        """``positions(new, old) - new`` without the rounding of positions: for velocities, and the virial.

        ``sum_i m_i dx_i = 0``, and ``m_i dx_i`` is the impulse of the constraints times the time step.
        """
        new, old = jnp.asarray(new), jnp.asarray(old)
        here = cast(self, new.dtype)
        tolerance, n_atoms = TOLERANCE[new.dtype.name], new.shape[0]
        total = jnp.zeros_like(new)
        if here.waters is not None:
            total = total.at[here.waters.atoms].add(here.waters.displacements(new, old))
        for bonds in (here.small, here.large):
            if bonds is not None:
                total = total + on_atoms(bonds, position_impulses(bonds, new, old, tolerance), n_atoms)
        return total

    def velocities(self, velocities: jax.Array, positions: jax.Array) -> jax.Array:
        """Velocities without the components that would change a constrained distance.

        It is a projection, orthogonal in the kinetic energy: ``v -> v - M^-1 J^T (J M^-1 J^T)^-1 J v``.

        Args:
            velocities: shape ``(n_atoms, 3)``, nm/ps, or any other unit.
            positions: shape ``(n_atoms, 3)``, nm.

        Returns:
            Shape ``(n_atoms, 3)``; NaN for atoms of constraints that did not converge.
        """
        velocities, positions = jnp.asarray(velocities), jnp.asarray(positions)
        here = cast(self, velocities.dtype)
        tolerance, n_atoms = TOLERANCE[velocities.dtype.name], velocities.shape[0]
        for bonds in (here.water_bonds, here.small, here.large):
            if bonds is not None:
                impulses = velocity_impulses(bonds, velocities, positions, tolerance)
                velocities = velocities + on_atoms(bonds, impulses, n_atoms)
        return velocities

    def unweighted(self) -> "Constraints":
        """The same distances among atoms of equal masses: velocities are then projected orthogonally in space."""
        atoms = np.asarray(self.atoms)
        made = constraints_on(atoms, np.asarray(self.distances), np.ones(atoms.max() + 1))
        assert made is not None
        return made


def constraints_of(system: openmm.System) -> Constraints | None:
    """The constraints of an OpenMM System, with its masses; None if it has none.

    Constraints between two atoms without mass, which never move, are left out, as in OpenMM.

    Raises:
        InputError: see `constraints_on`.
    """
    masses = np.array(
        [system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(system.getNumParticles())], float
    )
    found = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    atoms = np.array([[i, j] for i, j, _ in found], int).reshape(-1, 2)
    distances = np.array([distance.value_in_unit(_NM) for _, _, distance in found], float)
    return constraints_on(atoms, distances, masses)


def constraints_on(
    atoms: np.ndarray | list, distances: np.ndarray | list, masses: np.ndarray | list
) -> Constraints | None:
    """Constraints from arrays; None if there are none among atoms with masses.

    Args:
        atoms: shape ``(n, 2)``, pairs.
        distances: shape ``(n,)``, nm.
        masses: shape ``(n_atoms,)``, amu; 0: the atom does not move (or is a virtual site).

    Raises:
        InputError: shapes or numbers make no sense, a pair stands twice, an atom without mass is tied to one with
            mass, or no positions can satisfy the constraints.
    """
    atoms, distances, masses = _checked(np.asarray(atoms), np.asarray(distances, float), np.asarray(masses, float))
    if not len(atoms):
        return None
    n_atoms = len(masses)
    graph = csr_array((np.ones(len(atoms)), (atoms[:, 0], atoms[:, 1])), shape=(n_atoms, n_atoms))
    cluster = connected_components(graph, directed=False)[1]
    size = np.bincount(cluster[atoms[:, 0]], minlength=cluster.max() + 1)
    _refuse_overdetermined(cluster, size, atoms)
    order = np.argsort(cluster[atoms[:, 0]], kind="stable")
    atoms, distances = atoms[order], distances[order]
    label = cluster[atoms[:, 0]]

    three = np.flatnonzero(size[label] == 3).reshape(-1, 3)  # rows: the bonds of one cluster
    triples, lengths, is_water = _rigid(atoms[three], distances[three], masses)
    rest = np.ones(len(atoms), bool)
    rest[three[is_water].ravel()] = False
    waters = _waters(triples[is_water], lengths[is_water], masses)
    small, large = rest & (size[label] <= SMALL), rest & (size[label] > SMALL)
    return Constraints(
        atoms=jnp.asarray(atoms, jnp.int32),
        distances=jnp.asarray(distances),
        waters=waters,
        water_bonds=clusters(label[~rest], atoms[~rest], distances[~rest], masses),
        small=clusters(label[small], atoms[small], distances[small], masses),
        large=network(atoms[large], distances[large], masses),
    )


# ---------------------------------------------------------------------- input
def _checked(atoms: np.ndarray, distances: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The constraints that take part, after what makes no sense was refused."""
    if atoms.size == 0:
        return np.zeros((0, 2), int), np.zeros(0), masses
    if atoms.ndim != 2 or atoms.shape[1] != 2 or distances.shape != atoms.shape[:1] or masses.ndim != 1:
        raise InputError(
            f"constraints: atoms have the shape {atoms.shape}, distances {distances.shape}, masses {masses.shape}; "
            "give (n, 2), (n,) and (n_atoms,)."
        )
    if not np.issubdtype(atoms.dtype, np.integer):
        raise InputError(f"constraints: atoms are given as {atoms.dtype} numbers; give integers.")
    if len(beyond := np.unique(atoms[(atoms < 0) | (atoms >= len(masses))])):
        raise InputError(f"constraints: atoms are counted from 0 to {len(masses) - 1}; {beyond[0]} is beyond.")
    if not (np.isfinite(masses).all() and (masses >= 0.0).all()):
        raise InputError(f"constraints: the mass of atom {int(np.argmin(masses >= 0.0))} (from 0) is no mass.")
    atoms = np.sort(atoms, axis=1).astype(np.int64)
    wrong = (atoms[:, 0] == atoms[:, 1]) | ~np.isfinite(distances) | ~(distances > 0.0)
    if wrong.any():
        k = int(np.argmax(wrong))
        raise InputError(
            f"constraints: atoms {atoms[k, 0]} and {atoms[k, 1]} (from 0) at {distances[k]} nm; give two different "
            "atoms and a positive distance."
        )
    _, where, times = np.unique(atoms, axis=0, return_index=True, return_counts=True)
    if (times > 1).any():
        i, j = atoms[where[np.argmax(times > 1)]]
        raise InputError(f"constraints: there are several between atoms {i} and {j} (from 0); keep one.")
    massive = masses[atoms] > 0.0
    if (massive[:, 0] != massive[:, 1]).any():
        i, j = atoms[np.argmax(massive[:, 0] != massive[:, 1])]
        raise InputError(
            f"constraints: one of the atoms {i} and {j} (from 0) has no mass and cannot be moved; remove the "
            "constraint, or give it a mass."
        )
    return atoms[massive[:, 0]], distances[massive[:, 0]], masses


def _refuse_overdetermined(cluster: np.ndarray, size: np.ndarray, atoms: np.ndarray) -> None:
    """A molecule of n >= 3 atoms in space has no more than 3 n - 6 distances that are independent."""
    members = np.bincount(cluster, minlength=len(size))
    over = np.flatnonzero((members > 2) & (size > 3 * members - 6))
    if len(over):
        which = np.flatnonzero(cluster == over[0])
        raise InputError(
            f"constraints: the {len(which)} atoms {', '.join(map(str, which[:6]))}{' …' * (len(which) > 6)} (from 0) "
            f"have {size[over[0]]} of them, but only {3 * len(which) - 6} distances are independent. Remove some, or "
            "constrain fewer kinds (HBonds instead of HAngles)."
        )


# ---------------------------------------------------------------------- tables
def _rigid(atoms: np.ndarray, distances: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which clusters of three bonds are triangles with an apex between two equal sides to atoms of one mass.

    Args:
        atoms: shape ``(n, 3, 2)``.
        distances: shape ``(n, 3)``.
        masses: shape ``(n_atoms,)``.

    Returns:
        Apex and base ``(n, 3)``; lengths of the sides and the base ``(n, 2)``; bool ``(n,)``.

    Raises:
        InputError: the sides of a triangle do not close.
    """
    n = len(atoms)
    corners = np.sort(atoms.reshape(n, 6), axis=1)
    closed = (corners[:, ::2] == corners[:, 1::2]).all(axis=1)  # each atom in two bonds
    longest = distances.max(axis=1, initial=0.0)
    flat = closed & (2.0 * longest >= distances.sum(axis=1))
    if flat.any():
        k = int(np.argmax(flat))
        raise InputError(
            f"constraints: distances of {', '.join(f'{d:g}' for d in distances[k])} nm among the atoms "
            f"{', '.join(map(str, corners[k, ::2]))} (from 0) make no triangle."
        )
    triples, lengths, found = np.zeros((n, 3), int), np.ones((n, 2)), np.zeros(n, bool)
    for base in range(3):
        one, other = (base + 1) % 3, (base + 2) % 3
        low, high = atoms[:, base, 0], atoms[:, base, 1]
        apex = corners[:, ::2].sum(axis=1) - low - high if n else low
        fits = closed & ~found & np.isclose(distances[:, one], distances[:, other], rtol=1e-9, atol=0.0)
        fits &= masses[low] == masses[high]
        triples[fits] = np.stack([apex, low, high], axis=1)[fits]
        lengths[fits] = np.stack([distances[:, one], distances[:, base]], axis=1)[fits]
        found |= fits
    return triples, lengths, found


def _waters(triples: np.ndarray, lengths: np.ndarray, masses: np.ndarray) -> Waters | None:
    if not len(triples):
        return None
    return Waters(
        atoms=jnp.asarray(triples, jnp.int32), masses=jnp.asarray(masses[triples[:, :2]]), lengths=jnp.asarray(lengths)
    )
