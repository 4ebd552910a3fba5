"""Barostats: now and then they propose another box, and say what becomes of it once its energy is known.

| class | source |
|---|---|
| CellRescaling | stochastic cell rescaling, Bernetti and Bussi 2020, doi:10.1063/5.0020514 |
| CellRescaling, other shapes | Del Tatto, Raiteri, Bernetti and Bussi 2022, doi:10.3390/app12031139 |
| MonteCarlo | Chow and Ferguson 1995, doi:10.1016/0010-4655(95)00059-O |

Both deform the box and the centres of mass of groups of atoms, which move as a whole: molecules, or at least what
constraints connect. Velocities of the centres shrink as the box grows, so that the volume of phase space is kept.

The coupling says what may change, under the same pressure from all sides, and both barostats sample the same ensemble:

| coupling | what changes | each counts alike, for Q exp(-PV/kT) |
|---|---|---|
| isotropic | the volume | V |
| semi-isotropic | the area of x and y, whose ratio stays, and the height z | area, height |
| anisotropic | the scales of x, y and z; angles of a box with right ones stay | x, y, z |
| full | edges and angles of a lower triangular box in OpenMM's reduced form | its nine elements, times V^-2 |

For which measures exactly, and why, see `diffff.md.deformation`. A liquid keeps no shape: with any coupling but the
first its cell flattens in the end.
"""

from dataclasses import replace
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveFloat, PositiveInt

from diffff import units
from diffff.md import observables
from diffff.md.deformation import Coupling, directions, reduced, scaled, strained, weight
from diffff.md.integrators import Integrator
from diffff.md.state import Particles, State
from diffff.spec import Spec

_STREAM = 1  # of random numbers, beside that of the integrator
_TUNED = 10  # attempts after which the size of moves is looked at


class Barostat(Protocol):
    """What happens to the box of one replica; temperature and time step are those of the thermostat beside it."""

    @property
    def pressure(self) -> float:
        """That of the surroundings, bar."""
        ...

    @property
    def every(self) -> int:
        """Steps from one time to the next."""
        ...

    @property
    def coupling(self) -> Coupling:
        """What of the box may change."""
        ...

    def bath(self) -> dict[str, np.ndarray]:
        """Its variables at the start."""
        ...

    def propose(self, state: State, particles: Particles, thermostat: Integrator) -> State:
        """Other positions, velocities and box; their energy and forces come next."""
        ...

    def settle(self, old: State, new: State, particles: Particles, thermostat: Integrator) -> State:
        """Which of both it is to be."""
        ...


class CellRescaling(Spec):
    """The volume as an overdamped Langevin variable, ``e = ln V``.

        de = -beta / tau (P0 - P) dt + sqrt(2 k T beta / (V tau)) dW

    In other couplings the box is multiplied by ``exp(depsilon)``, with the pressure tensor P and the directions G_k:

        depsilon = sum_k G_k [beta / (3 tau) tr(G_k^T (P - P0 + c k T / V)) dt + sqrt(2 k T beta / (3 V tau)) dW_k]

    The exponential leaves no Ito term; that of the mobility, which is ~ 1/V, and that of the weight V cancel; and c is
    left, the gradient of the weight w (`diffff.md.deformation.weight`). In the full coupling this is the equation of
    Del Tatto et al., seen by somebody who turns with the cell: c is what noise of all nine elements does to the
    diagonal of a triangle.

    With a thermostat that keeps the total momentum, its N groups count as N - 1.
    """

    type: Literal["cell_rescaling"] = "cell_rescaling"
    pressure: float
    "P0, bar."
    time_constant: PositiveFloat = 1.0
    "tau, ps."
    compressibility: PositiveFloat = 4.5e-5
    "beta, 1/bar; it sets the speed, not the result."
    every: PositiveInt = 10
    "Steps."
    coupling: Coupling = "isotropic"
    "What may change: see the table above."

    def bath(self) -> dict[str, np.ndarray]:
        """See `Barostat`."""
        return {}

    def propose(self, state: State, particles: Particles, thermostat: Integrator) -> State:
        """See `Barostat`."""
        speed = self.compressibility / self.time_constant * self.every * thermostat.time_step  # 1/bar
        kt = _kt(thermostat) * units.BAR_PER_KJ_PER_MOL_PER_NM3
        if self.coupling == "isotropic":
            noise = jax.random.normal(_key(state), (), state.positions.dtype)
            spread = jnp.sqrt(2.0 * kt * speed / _volume(state))
            excess = observables.pressure(state, particles) - self.pressure
            return scaled(state, particles, speed * excess + spread * noise)
        basis = jnp.asarray(directions(self.coupling), state.positions.dtype)
        noise = jax.random.normal(_key(state), (len(basis),), state.positions.dtype)
        volume = _volume(state)
        surroundings = self.pressure * np.eye(3) - kt / volume * weight(self.coupling)
        excess = observables.pressure_tensor(state, particles) - surroundings.astype(basis.dtype)
        along = speed / 3.0 * jnp.sum(basis * excess, axis=(1, 2)) + jnp.sqrt(2.0 * kt * speed / (3.0 * volume)) * noise
        return _strained(state, particles, jnp.sum(along[:, None, None] * basis, axis=0), self.coupling)

    def settle(self, old: State, new: State, particles: Particles, thermostat: Integrator) -> State:
        """See `Barostat`."""
        return _charged(old, new, particles)


class MonteCarlo(Spec):
    """Trials of ``ln V``, accepted with ``min(1, exp(-(dU + P0 dV) / kT + (N + 1) ln(V'/V)))`` for N groups.

    A virtual site by itself, without mass, is no group.

    In other couplings a trial is a strain along one direction of the coupling, drawn anew each time, and its chance has
    the further term ``sum_ab c_ab epsilon_ab`` of the weight w (`diffff.md.deformation.weight`).

    The size of trials, of each direction by itself, is adapted until between a quarter and three quarters of them are
    accepted.
    """

    type: Literal["monte_carlo"] = "monte_carlo"
    pressure: float
    "P0, bar."
    every: PositiveInt = 25
    "Steps."
    coupling: Coupling = "isotropic"
    "What may change: see the table above."

    def bath(self) -> dict[str, np.ndarray]:
        """See `Barostat`. The size is the largest ``|ln(V'/V)|``, or the largest strain of each direction."""
        shape = () if self.coupling == "isotropic" else (len(directions(self.coupling)),)
        return {"trial_size": np.full(shape, 0.01), "trials": np.zeros(shape), "accepted": np.zeros(shape)}

    def propose(self, state: State, particles: Particles, thermostat: Integrator) -> State:
        """See `Barostat`."""
        if self.coupling == "isotropic":
            key, _ = jax.random.split(_key(state))
            growth = state.bath["trial_size"] * jax.random.uniform(key, (), minval=-1.0, maxval=1.0)
            return scaled(state, particles, growth.astype(state.positions.dtype), velocities=False)
        _, strain = self._trial(state)
        return _strained(state, particles, strain, self.coupling, velocities=False)

    def settle(self, old: State, new: State, particles: Particles, thermostat: Integrator) -> State:
        """See `Barostat`."""
        _, key = jax.random.split(_key(old))
        before, after = _volume(old).astype(float), _volume(new).astype(float)
        work = self.pressure / units.BAR_PER_KJ_PER_MOL_PER_NM3 * (after - before)
        kt = _kt(thermostat)
        chance = -(new.energy - old.energy + work) / kt + (particles.n_bodies + 1) * jnp.log(after / before)
        tried: float | jax.Array = 1.0
        if self.coupling != "isotropic":
            tried, strain = self._trial(old)
            chance = chance + jnp.sum(weight(self.coupling) * strain)
        accept = jnp.log(jax.random.uniform(key, ())) < chance
        chosen = jax.tree.map(lambda x, y: jnp.where(accept, y, x), _bare(old), _bare(_charged(old, new, particles)))
        trials, accepted = old.bath["trials"] + tried, old.bath["accepted"] + tried * accept
        size, full = old.bath["trial_size"], trials >= _TUNED
        change = jnp.where(accepted < 0.25 * trials, 1.0 / 1.1, jnp.where(accepted > 0.75 * trials, 1.1, 1.0))
        bath = old.bath | {
            "trial_size": jnp.where(full, jnp.minimum(size * change, 0.3), size),
            "trials": jnp.where(full, 0.0, trials),
            "accepted": jnp.where(full, 0.0, accepted),
        }
        return replace(chosen, key=old.key, bath=bath)

    def _trial(self, state: State) -> tuple[jax.Array, jax.Array]:
        """Which direction it is, as 0 and 1 ``(n_directions,)``, and the strain ``(3, 3)``."""
        key, _ = jax.random.split(_key(state))
        which, how_far = jax.random.split(key)
        basis = jnp.asarray(directions(self.coupling), state.positions.dtype)
        k = jax.random.randint(which, (), 0, len(basis))
        size = state.bath["trial_size"][k] * jax.random.uniform(how_far, (), minval=-1.0, maxval=1.0)
        return jax.nn.one_hot(k, len(basis)), size.astype(basis.dtype) * basis[k]


def _kt(thermostat: Integrator) -> float:
    assert thermostat.temperature is not None, "a barostat needs a thermostat"
    return units.GAS_CONSTANT * thermostat.temperature


def _bare(state: State) -> State:
    """Without what no move changes."""
    return replace(state, key=None, bath={})  # pyright: ignore[reportArgumentType]


def _key(state: State) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), _STREAM)


def _volume(state: State) -> jax.Array:
    return jnp.abs(jnp.linalg.det(state.box))


def _strained(
    state: State, particles: Particles, strain: jax.Array, coupling: Coupling, *, velocities: bool = True
) -> State:
    """The strained state; what may become skewed is reduced."""
    new = strained(state, particles, strain, velocities=velocities)
    return replace(new, box=reduced(new.box)) if coupling == "full" and new.box is not None else new


def _charged(old: State, new: State, particles: Particles) -> State:
    """With the change of energy booked as heat, so that what is conserved does not change."""
    kinetic = particles.kinetic_energy(new.velocities) - particles.kinetic_energy(old.velocities)
    return replace(new, heat=old.heat - (new.energy - old.energy) - kinetic)
