"""The inner loop: many steps of all replicas in one compiled program, with neighbour lists that renew themselves."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffff.cell_list import CellList
from diffff.errors import InputError
from diffff.md.barostats import Barostat
from diffff.md.crowding import tell_of_crowding
from diffff.md.integrators import Integrator
from diffff.md.state import Particles, State
from diffff.md.verlet_list import VerletList, filled, sizes_for
from diffff.neighbors import capacity_for
from diffff.potentials.base import Params, Potential, energy_forces_virial
from diffff.space import face_distances

_GROWTH = 1.3  # of a list that was too small
_MOST = 64  # images of each atom that any list may hold


class Engine:
    """A potential, particles and an integrator; arrays of states have a leading axis of replicas.

    Whatever becomes too small on the way is made larger, and the steps are done again: no pair is ever missing.
    """

    def __init__(
        self,
        potential: Potential,
        params: Params,
        particles: Particles,
        integrator: Integrator,
        barostat: Barostat | None = None,
        *,
        skin: float = 0.1,
    ) -> None:
        """Take all parts, in the precision in which they are to be computed.

        Args:
            potential: for these particles.
            params: parameter tree.
            particles: masses and constraints.
            integrator: of the steps.
            barostat: changes the box now and then.
            skin: nm, how much farther than the cutoff the neighbour lists reach.
        """
        self._arrays, self._structure = jax.tree.flatten((potential, params, particles))
        self._integrator, self._barostat = integrator, barostat
        self._cutoff, self._skin = potential.cutoff, skin
        self.sizes: CellList | None = None
        self._pairs: VerletList | None = None
        self._advance = jax.jit(self._steps)  # for any number of steps
        self._started = jax.jit(self._first)
        self._lists = jax.jit(self._new_lists)

    # ------------------------------------------------------------------ on the host
    def start(self, state: State, sizes: CellList | None = None) -> State:
        """The state with its virtual sites in place, its energy and forces; the lists are made anew.

        What follows depends on this state alone, to the last bit.

        Args:
            state: of all replicas.
            sizes: of the lists, as an earlier engine had them; by default those that the positions ask for.

        Raises:
            InputError: the energy is not finite.
        """
        self.sizes = sizes or self.sizes or _sizes_for(state, self._cutoff, self._skin)
        pairs = self._lists(self._arrays, state, self.sizes)
        while np.any(pairs.neighbors.overflow):
            pairs = self._larger_lists(state, pairs)
        if self._pairs is None:
            potential, _, _ = self._parts(self._arrays)
            first = jax.tree.map(lambda leaf: leaf[0], pairs)
            tell_of_crowding(potential, first.positions, first.box, first.neighbors)
        self._pairs = pairs
        new = self._started(self._arrays, state, pairs)
        if not (np.isfinite(new.energy).all() and np.isfinite(new.forces).all()):
            raise InputError(
                "the energy or a force of the first positions is not finite. Are atoms on top of each other? "
                "Minimise first."
            )
        return new

    def advance(self, state: State, n_steps: int) -> State:
        """The state after some steps.

        Raises:
            InputError: the simulation has become unstable.
        """
        assert self._pairs is not None, "start comes first"
        new, pairs = self._advance(self._arrays, state, self._pairs, n_steps)
        while np.any(pairs.neighbors.overflow):
            self._pairs = self._larger_lists(state, pairs)
            new, pairs = self._advance(self._arrays, state, self._pairs, n_steps)
        if not (np.isfinite(new.energy).all() and np.isfinite(new.velocities).all()):
            step = int(state.step[0])
            raise InputError(
                f"the simulation became unstable between the steps {step} and {step + n_steps}: its energy is not "
                "finite. Take a shorter time step, minimise first, or see whether the potential holds for them."
            )
        self._pairs = pairs
        return new

    def _larger_lists(self, state: State, failed: VerletList) -> VerletList:
        """New lists, larger than those that did not hold all pairs, in whatever box that was.

        Raises:
            InputError: they would be so large that atoms must have come together.
        """
        assert self.sizes is not None
        self.sizes = _grown(self.sizes, _sizes_for(state, self._cutoff, self._skin))
        finite = np.isfinite(failed.positions).all()
        if finite and failed.box is not None and state.box is not None and _comparable(failed.box, state.box):
            there = replace(state, positions=failed.positions, box=failed.box)
            self.sizes = _grown(self.sizes, _sizes_for(there, self._cutoff, self._skin), by=1.0)
        if self.sizes.row_capacity > _MOST * state.positions.shape[1] + 64:
            raise InputError("the simulation became unstable: all atoms come together. Take a shorter time step.")
        return self._lists(self._arrays, state, self.sizes)

    # ------------------------------------------------------------------ on the device
    def _parts(self, arrays: Any) -> tuple[Potential, Params, Particles]:
        return jax.tree.unflatten(self._structure, arrays)

    def _placed(self, arrays: Any, state: State) -> State:
        potential, params, _ = self._parts(arrays)
        return replace(state, positions=jax.vmap(lambda x: potential.placed(params, x))(state.positions))

    def _new_lists(self, arrays: Any, state: State, sizes: CellList) -> VerletList:
        state = self._placed(arrays, state)
        return jax.vmap(lambda x, box: filled(sizes, self._cutoff, x, box))(state.positions, state.box)

    def _first(self, arrays: Any, state: State, pairs: VerletList) -> State:
        return self._with_forces(arrays, self._placed(arrays, state), pairs)

    def _with_forces(self, arrays: Any, state: State, pairs: VerletList) -> State:
        potential, params, _ = self._parts(arrays)

        def of_one(x: jax.Array, box: jax.Array | None, pairs: VerletList) -> tuple[jax.Array, ...]:
            return energy_forces_virial(potential, params, x, box, pairs.neighbors)

        energy, forces, virial = jax.vmap(of_one)(state.positions, state.box, pairs)
        return replace(state, energy=energy.astype(state.energy.dtype), forces=forces, virial=virial)

    def _steps(self, arrays: Any, state: State, pairs: VerletList, n_steps: jax.Array) -> tuple[State, VerletList]:
        _, _, particles = self._parts(arrays)

        def step(_: jax.Array, carry: tuple[State, VerletList]) -> tuple[State, VerletList]:
            state, pairs = carry
            state = jax.vmap(lambda one: self._integrator.before(one, particles))(state)
            state, pairs = self._renewed_forces(arrays, state, pairs)
            state = jax.vmap(lambda one: self._integrator.after(one, particles))(state)
            if self._barostat is not None:
                due = (state.step[0] + 1) % self._barostat.every == 0
                state, pairs = lax.cond(due, self._other_box, lambda _, *same: same, arrays, state, pairs)
            return replace(state, step=state.step + 1), pairs

        return lax.fori_loop(0, n_steps, step, (state, pairs))

    def _renewed_forces(self, arrays: Any, state: State, pairs: VerletList) -> tuple[State, VerletList]:
        """With the energy and forces of its positions, and lists that serve them."""
        state = self._placed(arrays, state)
        serve = jnp.all(jax.vmap(VerletList.serves)(pairs, state.positions, state.box))
        pairs = lax.cond(
            serve | jnp.any(pairs.neighbors.overflow),  # what has failed is not tried again
            lambda: pairs,
            lambda: jax.vmap(VerletList.renewed)(pairs, state.positions, state.box),
        )
        return self._with_forces(arrays, state, pairs), pairs

    def _other_box(self, arrays: Any, state: State, pairs: VerletList) -> tuple[State, VerletList]:
        """What the barostat makes of a state."""
        assert self._barostat is not None
        barostat, thermostat, (_, _, particles) = self._barostat, self._integrator, self._parts(arrays)
        new = jax.vmap(lambda one: barostat.propose(one, particles, thermostat))(state)
        new, pairs = self._renewed_forces(arrays, new, pairs)
        return jax.vmap(lambda one, other: barostat.settle(one, other, particles, thermostat))(state, new), pairs


def _sizes_for(state: State, cutoff: float, skin: float) -> CellList:
    """Sizes of lists that hold the pairs of each replica; they are no less than any of them needs."""
    boxes = [None] * len(state.positions) if state.box is None else [np.asarray(box) for box in state.box]
    found = [sizes_for(np.asarray(x), box, cutoff, skin) for x, box in zip(state.positions, boxes, strict=True)]
    first = found[0]
    for other in found[1:]:
        first = _grown(first, other, by=1.0)
    return first


def _comparable(boxes: jax.Array, others: jax.Array) -> bool:
    """Whether no box is less than half as wide as the other: one that collapses needs no list."""
    widths, before = (np.array([face_distances(np.asarray(box)) for box in some]) for some in (boxes, others))
    return bool(np.all(widths > 0.5 * before))


def _grown(old: CellList, new: CellList, by: float = _GROWTH) -> CellList:
    """Sizes that hold what both hold, and more."""
    a, b, c = (min(pair) for pair in zip(old.cells, new.cells, strict=True))
    x, y, z = (max(pair) for pair in zip(old.reach, new.reach, strict=True))
    most = {
        name: math.ceil(by * max(getattr(old, name), getattr(new, name))) for name in ("cell_capacity", "row_capacity")
    }
    capacity = max(old.capacity, new.capacity)
    return replace(
        old,
        width=max(old.width, new.width),
        cells=(a, b, c),
        reach=(x, y, z),
        capacity=capacity if by == 1.0 else capacity_for(math.ceil(by * capacity)),
        **most,
    )
