"""The state of a simulation: some replicas of one system."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from diffff import units
from diffff.errors import InputError
from diffff.md.constraints import Constraints
from diffff.pytree import pytree, static

_VELOCITIES = 2**32 - 1  # a number that no step has: the first velocities are drawn with it


@pytree
class Particles:
    """What of a system never changes.

    Attributes:
        masses: shape ``(n_atoms,)``, amu; 0 for virtual sites, which do not move by themselves.
        constraints: distances that are kept; None if there are none.
        groups: shape ``(n_atoms,)``, number of the group of each atom: what a barostat moves as a whole.
        n_groups: how many groups there are.
        n_bodies: how many of them have a mass: a virtual site by itself is none.
        n_free: degrees of freedom that take part in the temperature.
    """

    masses: jax.Array
    constraints: Constraints | None = None
    groups: jax.Array
    n_groups: int = static()
    n_bodies: int = static()
    n_free: int = static()

    @property
    def inverse(self) -> jax.Array:
        """Inverse masses ``(n_atoms, 1)``, 1/amu; 0 for virtual sites."""
        some = self.masses > 0.0
        return jnp.where(some, 1.0 / jnp.where(some, self.masses, 1.0), 0.0)[:, None]

    def kinetic_energy(self, velocities: jax.Array) -> jax.Array:
        """``K = 1/2 sum m v^2``, kJ/mol: amu nm^2/ps^2 is kJ/mol."""
        return 0.5 * jnp.sum(self.masses[:, None] * velocities**2)

    def temperature(self, velocities: jax.Array) -> jax.Array:
        """``T = 2 K / (n_free k)``, K."""
        return 2.0 * self.kinetic_energy(velocities) / (self.n_free * units.GAS_CONSTANT)

    def thermal(self, key: jax.Array, temperature: float | jax.Array, dtype: Any) -> jax.Array:
        """Velocities of the Maxwell-Boltzmann distribution ``(n_atoms, 3)``, nm/ps, constraints not regarded."""
        spread = jnp.sqrt(units.GAS_CONSTANT * temperature * self.inverse).astype(dtype)
        return spread * jax.random.normal(key, (len(self.masses), 3), dtype)


def particles(
    masses: np.ndarray,
    constraints: Constraints | None = None,
    *,
    molecules: np.ndarray | None = None,
    free_center: bool = False,
) -> Particles:
    """Particles of these masses.

    Args:
        masses: shape ``(n_atoms,)``, amu.
        constraints: distances that are kept.
        molecules: shape ``(n_atoms,)``, number of the molecule of each atom, which is what a barostat moves; None: what
            constraints connect.
        free_center: whether the centre of mass may move, as with a Langevin thermostat; else its three degrees of
            freedom are taken off.

    Raises:
        InputError: constraints connect atoms of different molecules, or the numbers are not those of the atoms.
    """
    moving = int(np.sum(np.asarray(masses) > 0.0))
    taken = (0 if free_center else 3) + (0 if constraints is None else constraints.n_constraints)
    groups = _connected(len(masses), constraints) if molecules is None else _numbered(molecules, len(masses))
    if constraints is not None and np.any(np.diff(groups[np.asarray(constraints.atoms)], axis=1)):
        raise InputError("molecules: a constraint connects atoms of two molecules. Give them one number.")
    return Particles(
        masses=jnp.asarray(masses),
        constraints=constraints,
        groups=jnp.asarray(groups, jnp.int32),
        n_groups=int(groups.max(initial=-1)) + 1,
        n_bodies=len(np.unique(groups[np.asarray(masses) > 0.0])),
        n_free=3 * moving - taken,
    )


def _connected(n_atoms: int, constraints: Constraints | None) -> np.ndarray:
    """Number of the group of each atom: those that constraints connect are one."""
    if constraints is None:
        return np.arange(n_atoms)
    i, j = np.asarray(constraints.atoms).T
    bonds = coo_array((np.ones(len(i)), (i, j)), shape=(n_atoms, n_atoms))
    return connected_components(bonds, directed=False)[1]


def _numbered(molecules: np.ndarray, n_atoms: int) -> np.ndarray:
    """Numbers of molecules, from 0 without gaps."""
    molecules = np.asarray(molecules)
    if molecules.shape != (n_atoms,) or not np.issubdtype(molecules.dtype, np.integer):
        raise InputError(
            f"molecules: shape {molecules.shape}, {molecules.dtype}; give a number for each atom, {n_atoms}."
        )
    return np.unique(molecules, return_inverse=True)[1]


@pytree
class State:
    """One replica; in a simulation each array has a leading axis of replicas, but for the step.

    Attributes:
        positions: shape ``(n_atoms, 3)``, nm.
        velocities: shape ``(n_atoms, 3)``, nm/ps.
        box: shape ``(3, 3)`` or None, nm.
        energy: potential energy, kJ/mol.
        forces: shape ``(n_atoms, 3)``, kJ/mol/nm.
        virial: shape ``(3, 3)``, kJ/mol.
        heat: what thermostats and barostats have taken out of the system, kJ/mol.
        step: number of steps done.
        key: of random numbers; with the step it tells all of them.
        bath: variables of the thermostat.
    """

    positions: jax.Array
    velocities: jax.Array
    box: jax.Array | None
    energy: jax.Array
    forces: jax.Array
    virial: jax.Array
    heat: jax.Array
    step: jax.Array
    key: jax.Array
    bath: dict[str, jax.Array]


def state_of(
    positions: np.ndarray,
    box: np.ndarray | None,
    particles: Particles,
    bath: dict[str, np.ndarray],
    *,
    temperature: float,
    seed: int,
    n_replicas: int = 1,
    dtype: str = "float64",
) -> State:
    """Replicas at the same positions, with velocities of their own; energy and forces are yet to be computed.

    Args:
        positions: shape ``(n_atoms, 3)``, or ``(n_replicas, n_atoms, 3)``, nm.
        box: shape ``(3, 3)``, or ``(n_replicas, 3, 3)``, or None, nm.
        particles: masses and constraints.
        bath: of the integrator.
        temperature: of the velocities, K; the centre of mass is at rest.
        seed: of velocities and all that is random later.
        n_replicas: how many there are.
        dtype: of the arrays.
    """
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n_replicas))
    n_atoms = len(particles.masses)
    x = jnp.broadcast_to(jnp.asarray(positions, dtype), (n_replicas, n_atoms, 3))

    def velocities(key: jax.Array, x: jax.Array) -> jax.Array:
        v = particles.thermal(jax.random.fold_in(key, _VELOCITIES), temperature, x.dtype)
        v = v - jnp.sum(particles.masses[:, None] * v, axis=0) / jnp.sum(particles.masses)
        v = jnp.where(particles.masses[:, None] > 0.0, v, 0.0).astype(x.dtype)
        return v if particles.constraints is None else particles.constraints.velocities(v, x)

    return State(
        positions=x,
        velocities=jax.vmap(velocities)(keys, x),
        box=None if box is None else jnp.broadcast_to(jnp.asarray(box, dtype), (n_replicas, 3, 3)),
        energy=jnp.zeros(n_replicas, jnp.result_type(float)),
        forces=jnp.zeros_like(x),
        virial=jnp.zeros((n_replicas, 3, 3), dtype),
        heat=jnp.zeros(n_replicas, jnp.result_type(float)),
        step=jnp.zeros(n_replicas, jnp.int32),
        key=keys,
        bath={name: jnp.broadcast_to(jnp.asarray(v), (n_replicas, *v.shape)) for name, v in bath.items()},
    )
