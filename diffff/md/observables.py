"""What the log of a simulation says about a state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

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


def of_groups(particles: Particles, values: jax.Array) -> jax.Array:
    """Mean over the masses of the group of each atom, shape ``(n_atoms, 3)``: its centre, or the velocity of that."""
    masses = particles.masses[:, None]
    total = jax.ops.segment_sum(masses * values, particles.groups, particles.n_groups)
    mass = jax.ops.segment_sum(masses, particles.groups, particles.n_groups)
    return (total / jnp.where(mass > 0.0, mass, 1.0))[particles.groups]


def pressure(state: State, particles: Particles) -> jax.Array:
    """Pressure of the groups, bar: ``P = (2 K_g + tr W_g) / 3 V``.

    With the centre of mass ``R_i`` of the group of atom i, ``K_g`` is the kinetic energy of the centres and
    ``W_g = W - sum_i (x_i - R_i) (x) F_i``. Forces of constraints cancel. Its mean is that of the pressure of atoms.
    """
    inside = jnp.sum((state.positions - of_groups(particles, state.positions)) * state.forces)
    kinetic = particles.kinetic_energy(of_groups(particles, state.velocities))
    volume = jnp.abs(jnp.linalg.det(state.box))
    return (2.0 * kinetic + jnp.trace(state.virial) - inside) / (3.0 * volume) * units.BAR_PER_KJ_PER_MOL_PER_NM3


def pressure_tensor(state: State, particles: Particles) -> jax.Array:
    """Pressure tensor of the groups ``(3, 3)``, bar: ``P = (sum_g m V (x) V + W_g) / V``.

    Its trace is three times `pressure`, where W_g is explained. ``-V P_ab`` is the change of the energy with epsilon
    when centres and box follow ``x_b -> x_b + epsilon x_a``, and velocities of centres ``v_a -> v_a - epsilon v_b``.
    While the rest turns a group it is not symmetric.
    """
    moving = of_groups(particles, state.velocities)
    apart = state.positions - of_groups(particles, state.positions)
    flow = jnp.sum(particles.masses[:, None, None] * moving[:, :, None] * moving[:, None, :], axis=0)
    inside = jnp.sum(apart[:, :, None] * state.forces[:, None, :], axis=0)
    volume = jnp.abs(jnp.linalg.det(state.box))
    return (flow + state.virial - inside) / volume * units.BAR_PER_KJ_PER_MOL_PER_NM3


def observe(state: State, particles: Particles) -> Observables:
    """Observables of one replica."""
    kinetic = particles.kinetic_energy(state.velocities)
    volume = None if state.box is None else jnp.abs(jnp.linalg.det(state.box))
    return Observables(
        potential=state.energy,
        kinetic=kinetic,
        conserved=state.energy + kinetic + state.heat,
        temperature=particles.temperature(state.velocities),
        pressure=None if volume is None else pressure(state, particles),
        volume=volume,
        density=None if volume is None else jnp.sum(particles.masses) / volume * units.G_PER_CM3_PER_AMU_PER_NM3,
    )
