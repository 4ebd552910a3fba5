"""Integrators: a step is what happens before the forces are computed anew, and what happens after.

| class | ensemble | source |
|---|---|---|
| VelocityVerlet | NVE | Swope et al. 1982, doi:10.1063/1.442716 |
| Langevin | NVT | BAOAB, Leimkuhler and Matthews 2013, doi:10.1063/1.4802990 |
| NoseHoover | NVT | chains, Martyna et al. 1992 and 1996, doi:10.1063/1.463940, doi:10.1080/00268979600100761 |
| CSVR | NVT | Bussi, Donadio and Parrinello 2007, doi:10.1063/1.2408420 |

Each conserves ``K + U + heat`` but for the error of its time step.
"""

import math
from dataclasses import replace
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveFloat, PositiveInt

from diffff import units
from diffff.md.state import Particles, State
from diffff.spec import Spec


class Integrator(Protocol):
    """One time step of one replica, in two halves."""

    @property
    def time_step(self) -> float:
        """Length of a step, ps."""
        ...

    @property
    def temperature(self) -> float | None:
        """That of the thermostat, K; None if there is none."""
        ...

    def bath(self) -> dict[str, np.ndarray]:
        """Variables of the thermostat at the start."""
        ...

    def before(self, state: State, particles: Particles) -> State:
        """All up to the new positions."""
        ...

    def after(self, state: State, particles: Particles) -> State:
        """All that needs the forces there."""
        ...


class VelocityVerlet(Spec):
    """``v += dt/2 F/m; x += dt v; F = F(x); v += dt/2 F/m``, with RATTLE for constraints."""

    type: Literal["verlet"] = "verlet"
    time_step: PositiveFloat
    "Length of a step, ps."

    @property
    def temperature(self) -> None:
        """None: there is no thermostat."""
        return

    def bath(self) -> dict[str, np.ndarray]:
        """See `Integrator`."""
        return {}

    def before(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        return _to_new_positions(state, particles, self.time_step)

    def after(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        return _to_new_velocities(state, particles, self.time_step)


class Langevin(Spec):
    """BAOAB: half a kick, half a drift, friction and noise, half a drift, half a kick."""

    type: Literal["langevin"] = "langevin"
    time_step: PositiveFloat
    "Length of a step, ps."
    temperature: PositiveFloat
    "K."
    friction: PositiveFloat = 1.0
    "1/ps."

    def bath(self) -> dict[str, np.ndarray]:
        """See `Integrator`."""
        return {}

    def before(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        half = self.time_step / 2
        state = _on_track(_kicked(state, particles, half), particles)
        state = _drifted(state, particles, half)
        state = _on_track(state, particles)
        keep = math.exp(-self.friction * self.time_step)
        noise = particles.thermal(_key(state), self.temperature, state.velocities.dtype)
        velocities = keep * state.velocities + math.sqrt(1.0 - keep**2) * noise
        new = _on_track(replace(state, velocities=velocities), particles)
        heat = particles.kinetic_energy(state.velocities) - particles.kinetic_energy(new.velocities)
        return _drifted(replace(new, heat=state.heat + heat), particles, half)

    def after(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        return _to_new_velocities(state, particles, self.time_step)


class NoseHoover(Spec):
    """Velocity Verlet between two half steps of a chain of thermostats, each split after Suzuki and Yoshida.

    ``Q_1 = n_free k T tau^2, Q_j = k T tau^2``; the bath holds the position and velocity of each thermostat.
    """

    type: Literal["nose_hoover"] = "nose_hoover"
    time_step: PositiveFloat
    "Length of a step, ps."
    temperature: PositiveFloat
    "K."
    time_constant: PositiveFloat = 0.1
    "tau, ps."
    chain: PositiveInt = 3
    "Number of thermostats."

    def bath(self) -> dict[str, np.ndarray]:
        """See `Integrator`."""
        return {"eta": np.zeros(self.chain), "eta_velocity": np.zeros(self.chain)}

    def before(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        state = self._thermostat(state, particles)
        return _to_new_positions(state, particles, self.time_step)

    def after(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        return self._thermostat(_to_new_velocities(state, particles, self.time_step), particles)

    def _thermostat(self, state: State, particles: Particles) -> State:
        kt = units.GAS_CONSTANT * self.temperature
        free = np.array([particles.n_free] + [1] * (self.chain - 1))
        mass = free * kt * self.time_constant**2
        eta = list(state.bath["eta"])
        speed = list(state.bath["eta_velocity"])
        kinetic, scale = particles.kinetic_energy(state.velocities), jnp.ones((), state.velocities.dtype)
        last = self.chain - 1

        def energy() -> jax.Array:
            return jnp.sum(0.5 * mass * jnp.stack(speed) ** 2 + free * kt * jnp.stack(eta))

        def push(j: int, kinetic: jax.Array) -> jax.Array:
            twice = 2.0 * kinetic if j == 0 else mass[j - 1] * speed[j - 1] ** 2
            return (twice - free[j] * kt) / mass[j]

        before = energy()
        for weight in _SUZUKI_YOSHIDA:
            dt = weight * self.time_step / 2
            speed[last] = speed[last] + dt / 2 * push(last, kinetic)
            for j in range(last - 1, -1, -1):
                slow = jnp.exp(-dt / 4 * speed[j + 1])
                speed[j] = (speed[j] * slow + dt / 2 * push(j, kinetic)) * slow
            shrink = jnp.exp(-dt * speed[0])
            scale, kinetic = scale * shrink.astype(scale.dtype), kinetic * shrink**2
            eta = [eta[j] + dt * speed[j] for j in range(self.chain)]
            for j in range(last):
                slow = jnp.exp(-dt / 4 * speed[j + 1])
                speed[j] = (speed[j] * slow + dt / 2 * push(j, kinetic)) * slow
            speed[last] = speed[last] + dt / 2 * push(last, kinetic)
        bath = state.bath | {"eta": jnp.stack(eta), "eta_velocity": jnp.stack(speed)}
        heat = state.heat + (energy() - before).astype(state.heat.dtype)
        return replace(state, velocities=scale * state.velocities, bath=bath, heat=heat)


class CSVR(Spec):
    """Velocity Verlet, then velocities scaled so that the kinetic energy has its canonical distribution."""

    type: Literal["csvr"] = "csvr"
    time_step: PositiveFloat
    "Length of a step, ps."
    temperature: PositiveFloat
    "K."
    time_constant: PositiveFloat = 0.1
    "tau, ps."

    def bath(self) -> dict[str, np.ndarray]:
        """See `Integrator`."""
        return {}

    def before(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        return _to_new_positions(state, particles, self.time_step)

    def after(self, state: State, particles: Particles) -> State:
        """See `Integrator`."""
        state = _to_new_velocities(state, particles, self.time_step)
        one, many = jax.random.split(_key(state))
        dtype, n = state.velocities.dtype, particles.n_free
        first = jax.random.normal(one, (), dtype)
        squares = first**2 + 2.0 * jax.random.gamma(many, (n - 1) / 2.0, (), dtype)
        keep = math.exp(-self.time_step / self.time_constant)
        kinetic = particles.kinetic_energy(state.velocities)
        ratio = 0.5 * units.GAS_CONSTANT * self.temperature / kinetic  # of the kinetic energies, for each freedom
        squared = keep + (1.0 - keep) * squares * ratio + 2.0 * first * jnp.sqrt(keep * (1.0 - keep) * ratio)
        sign = jnp.sign(first + jnp.sqrt(keep / (1.0 - keep) / ratio))
        heat = state.heat + (1.0 - squared) * kinetic
        return replace(state, velocities=sign * jnp.sqrt(squared) * state.velocities, heat=heat)


_THIRD = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
_SUZUKI_YOSHIDA = (_THIRD, 1.0 - 2.0 * _THIRD, _THIRD)


def _key(state: State) -> jax.Array:
    """For the random numbers of this step."""
    return jax.random.fold_in(state.key, state.step)


def _to_new_positions(state: State, particles: Particles, time_step: float) -> State:
    """The first half of velocity Verlet."""
    return _drifted(_kicked(state, particles, time_step / 2), particles, time_step)


def _to_new_velocities(state: State, particles: Particles, time_step: float) -> State:
    """The second half of velocity Verlet."""
    return _on_track(_kicked(state, particles, time_step / 2), particles)


def _kicked(state: State, particles: Particles, time: float) -> State:
    return replace(state, velocities=state.velocities + time * particles.inverse * state.forces)


def _drifted(state: State, particles: Particles, time: float) -> State:
    """Positions moved on; what constraints add to them is added to the velocities too."""
    positions, velocities = state.positions + time * state.velocities, state.velocities
    if particles.constraints is not None:
        more = particles.constraints.displacements(positions, state.positions)
        positions, velocities = positions + more, velocities + more / time
    return replace(state, positions=positions, velocities=velocities)


def _on_track(state: State, particles: Particles) -> State:
    """Velocities that change no constrained distance."""
    if particles.constraints is None:
        return state
    return replace(state, velocities=particles.constraints.velocities(state.velocities, state.positions))
