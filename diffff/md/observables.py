"""What the log of a simulation says about a state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from diffff import units
from diffff.md.state import Particles, State


class Observables(NamedTuple):
    """Of one replica.

    Attributes:
        potential: kJ/mol.
        kinetic: kJ/mol.
        conserved: energy with what thermostats have taken, kJ/mol.
        temperature: K.
        pressure: bar; None without a box.
        volume: nm^3; None without a box.
        density: g/cm^3; None without a box.
    """

    potential: jax.Array
    kinetic: jax.Array
    conserved: jax.Array
    temperature: jax.Array
    pressure: jax.Array | None
    volume: jax.Array | None
    density: jax.Array | None


def rigid_groups(particles: Particles) -> np.ndarray:
    """Number of the group of each atom, shape ``(n_atoms,)``: atoms that constraints connect are one group."""
    n_atoms = len(particles.masses)
    if particles.constraints is None:
        return np.arange(n_atoms)
    i, j = np.asarray(particles.constraints.atoms).T
    bonds = coo_array((np.ones(len(i)), (i, j)), shape=(n_atoms, n_atoms))
    return connected_components(bonds, directed=False)[1]


def observe(state: State, particles: Particles, groups: jax.Array, n_groups: int) -> Observables:
    """Observables of one replica.

    The pressure is that of the groups, ``P = (2 K_g + tr W_g) / 3 V``: with ``R`` the centre of mass of each group,
    ``K_g`` is the kinetic energy of the centres and ``W_g = W - sum_i (x_i - R_i) (x) F_i``. Forces of constraints
    cancel in it. Its mean is that of the pressure of atoms.

    Args:
        state: of one replica.
        particles: masses.
        groups: from `rigid_groups`.
        n_groups: how many there are.
    """
    kinetic, potential = particles.kinetic_energy(state.velocities), state.energy
    volume = pressure = density = None
    if state.box is not None:
        masses = particles.masses[:, None]

        def of_groups(values: jax.Array) -> jax.Array:
            total = jax.ops.segment_sum(masses * values, groups, n_groups)
            mass = jax.ops.segment_sum(masses, groups, n_groups)
            return total / jnp.where(mass > 0.0, mass, 1.0)

        centres, velocities = of_groups(state.positions)[groups], of_groups(state.velocities)[groups]
        inside = jnp.sum((state.positions - centres) * state.forces)
        trace = jnp.trace(state.virial) - inside
        volume = jnp.abs(jnp.linalg.det(state.box))
        pressure = (2.0 * particles.kinetic_energy(velocities) + trace) / (3.0 * volume)
        pressure = pressure * units.BAR_PER_KJ_PER_MOL_PER_NM3
        density = jnp.sum(particles.masses) / volume * units.G_PER_CM3_PER_AMU_PER_NM3
    return Observables(
        potential=potential,
        kinetic=kinetic,
        conserved=potential + kinetic + state.heat,
        temperature=particles.temperature(state.velocities),
        pressure=pressure,
        volume=volume,
        density=density,
    )
