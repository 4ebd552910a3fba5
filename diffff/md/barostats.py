"""Barostats: now and then they propose another box, and say what becomes of it once its energy is known.

| class | source |
|---|---|
| CellRescaling | stochastic cell rescaling, Bernetti and Bussi 2020, doi:10.1063/5.0020514 |
| MonteCarlo | Chow and Ferguson 1995, doi:10.1016/0010-4655(95)00059-O |

Both scale the box and the centres of mass of groups of atoms, which move as a whole: molecules, or at least what
constraints connect. Velocities of the centres shrink as the box grows, so that the volume of phase space is kept.
"""

from dataclasses import replace
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffff import units
from diffff.md import observables
from diffff.md.observables import of_groups
from diffff.md.state import Particles, State
from diffff.pytree import pytree, static

_STREAM = 1  # of random numbers, beside that of the integrator
_TUNED = 10  # attempts after which the size of moves is looked at


class Barostat(Protocol):
    """What happens to the box of one replica."""

    @property
    def pressure(self) -> float:
        """That of the surroundings, bar."""
        ...

    @property
    def every(self) -> int:
        """Steps from one time to the next."""
        ...

    def bath(self) -> dict[str, np.ndarray]:
        """Its variables at the start."""
        ...

    def propose(self, state: State, particles: Particles) -> State:
        """Other positions, velocities and box; their energy and forces come next."""
        ...

    def settle(self, old: State, new: State, particles: Particles) -> State:
        """Which of both it is to be."""
        ...


@pytree
class CellRescaling:
    """The volume as an overdamped Langevin variable, ``e = ln V``.

        de = -beta / tau (P0 - P) dt + sqrt(2 k T beta / (V tau)) dW

    Attributes:
        pressure: P0, bar.
        temperature: K, that of the thermostat.
        time_step: dt of the integrator, ps.
        time_constant: tau, ps.
        compressibility: beta, 1/bar; it sets the speed, not the result.
        every: steps.
    """

    pressure: float = static()
    temperature: float = static()
    time_step: float = static()
    time_constant: float = static(default=1.0)
    compressibility: float = static(default=4.5e-5)
    every: int = static(default=10)

    def bath(self) -> dict[str, np.ndarray]:
        """See `Barostat`."""
        return {}

    def propose(self, state: State, particles: Particles) -> State:
        """See `Barostat`."""
        speed = self.compressibility / self.time_constant * self.every * self.time_step  # 1/bar
        kt = units.GAS_CONSTANT * self.temperature * units.BAR_PER_KJ_PER_MOL_PER_NM3
        noise = jax.random.normal(_key(state), (), state.positions.dtype)
        spread = jnp.sqrt(2.0 * kt * speed / _volume(state))
        excess = observables.pressure(state, particles) - self.pressure
        return _scaled(state, particles, speed * excess + spread * noise)

    def settle(self, old: State, new: State, particles: Particles) -> State:
        """See `Barostat`."""
        return _charged(old, new, particles)


@pytree
class MonteCarlo:
    """Trials of ``ln V``, accepted with ``min(1, exp(-(dU + P0 dV) / kT + (N + 1) ln(V'/V)))`` for N groups.

    The size of trials is adapted until between a quarter and three quarters of them are accepted.

    Attributes:
        pressure: P0, bar.
        temperature: K, that of the thermostat.
        every: steps.
    """

    pressure: float = static()
    temperature: float = static()
    every: int = static(default=25)

    def bath(self) -> dict[str, np.ndarray]:
        """See `Barostat`. The size is the largest ``|ln(V'/V)|``."""
        return {"trial_size": np.array(0.01), "trials": np.array(0.0), "accepted": np.array(0.0)}

    def propose(self, state: State, particles: Particles) -> State:
        """See `Barostat`."""
        key, _ = jax.random.split(_key(state))
        growth = state.bath["trial_size"] * jax.random.uniform(key, (), minval=-1.0, maxval=1.0)
        return _scaled(state, particles, growth.astype(state.positions.dtype), velocities=False)

    def settle(self, old: State, new: State, particles: Particles) -> State:
        """See `Barostat`."""
        _, key = jax.random.split(_key(old))
        before, after = _volume(old).astype(float), _volume(new).astype(float)
        work = self.pressure / units.BAR_PER_KJ_PER_MOL_PER_NM3 * (after - before)
        kt = units.GAS_CONSTANT * self.temperature
        chance = -(new.energy - old.energy + work) / kt + (particles.n_groups + 1) * jnp.log(after / before)
        accept = jnp.log(jax.random.uniform(key, ())) < chance
        chosen = jax.tree.map(lambda x, y: jnp.where(accept, y, x), _bare(old), _bare(_charged(old, new, particles)))
        trials, accepted = old.bath["trials"] + 1.0, old.bath["accepted"] + accept
        size, full = old.bath["trial_size"], trials >= _TUNED
        change = jnp.where(accepted < 0.25 * trials, 1.0 / 1.1, jnp.where(accepted > 0.75 * trials, 1.1, 1.0))
        bath = old.bath | {
            "trial_size": jnp.where(full, jnp.minimum(size * change, 0.3), size),
            "trials": jnp.where(full, 0.0, trials),
            "accepted": jnp.where(full, 0.0, accepted),
        }
        return replace(chosen, key=old.key, bath=bath)


def _bare(state: State) -> State:
    """Without what no move changes."""
    return replace(state, key=None, bath={})  # pyright: ignore[reportArgumentType]


def _key(state: State) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), _STREAM)


def _volume(state: State) -> jax.Array:
    return jnp.abs(jnp.linalg.det(state.box))


def _scaled(state: State, particles: Particles, growth: jax.Array, *, velocities: bool = True) -> State:
    """The volume times ``exp(growth)``, with all groups where they then belong."""
    scale = jnp.exp(growth / 3.0)
    centres = of_groups(particles, state.positions)
    moved = replace(
        state,
        positions=state.positions + (scale - 1.0) * centres,
        box=None if state.box is None else scale * state.box,
    )
    if not velocities:
        return moved
    return replace(moved, velocities=state.velocities + (1.0 / scale - 1.0) * of_groups(particles, state.velocities))


def _charged(old: State, new: State, particles: Particles) -> State:
    """With the change of energy booked as heat, so that what is conserved does not change."""
    kinetic = particles.kinetic_energy(new.velocities) - particles.kinetic_energy(old.velocities)
    return replace(new, heat=old.heat - (new.energy - old.energy) - kinetic)
