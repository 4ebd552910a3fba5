"""The nearest minimum of an energy: limited-memory BFGS or FIRE, with or without constraints, on the host."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.md.constraints import Constraints
from diffff.md.positions import positions_and_box

LONGEST_STEP = 0.02  # nm, of the atom that moves most, so that atoms on top of each other do not fly apart
FIRST_STIFFNESS = 1e5  # kJ/mol/nm^2; the first step is force / stiffness, before a curvature is known
MEMORY = 20  # pairs of steps and changes of force that L-BFGS keeps
DESCENT = 1e-4  # part of the expected decrease that a step must bring
NOISE = 1e-6  # rounding of an energy in single precision, relative
SHORTENINGS = 12  # of a step, before it is given up
TIME_STEP = 0.001  # ps, with which FIRE begins; all atoms have 1 amu
STIFFNESS_STEPS = 300  # for which FIRE remembers how stiff bonds are


class Minimum(NamedTuple):
    """Where a minimisation ended.

    Attributes:
        positions: shape ``(n_atoms, 3)``, nm; constraints hold.
        energy: kJ/mol, never above the one it began with.
        largest_force: kJ/mol/nm, length of the force on the atom where it is largest, without what constraints take up.
        n_steps: how often energy and forces were computed after the first time.
        converged: whether the largest force is below the tolerance.
    """

    positions: np.ndarray
    energy: float
    largest_force: float
    n_steps: int
    converged: bool


def minimize(
    energy_and_forces: Callable[..., Sequence[Any]],
    positions: np.ndarray,
    *,
    method: Literal["lbfgs", "fire"] = "lbfgs",
    tolerance: float = 10.0,
    max_steps: int = 10000,
    constraints: Constraints | None = None,
    box: np.ndarray | None = None,
) -> Minimum:
    """Move atoms downhill until the forces are small.

    "lbfgs" (doi:10.1007/BF01589116) needs the fewest steps, each of which lowers the energy. "fire" (damped dynamics,
    doi:10.1103/PhysRevLett.97.170201, in the form 2.0 of doi:10.1016/j.commatsci.2020.109584) compares no energies, so
    it goes farther down with noisy ones. No atom moves by more than 0.02 nm in a step. Constraints hold in each step,
    and forces are projected on the directions they leave, with equal masses.

    Args:
        energy_and_forces: a `Calculator`, or any function of the positions (and the box, when one is given) whose first
            two results are the energy, kJ/mol, and the forces ``(n_atoms, 3)``, kJ/mol/nm.
        positions: shape ``(n_atoms, 3)``, nm.
        method: "lbfgs" or "fire".
        tolerance: kJ/mol/nm, for the length of the force on the atom where it is largest. The root mean square of all
            components, which OpenMM compares, is smaller: at most tolerance / sqrt(3).
        max_steps: how often energy and forces are computed at most, after the first time.
        constraints: distances to keep; the atoms are brought to them first.
        box: shape ``(3, 3)``, nm, passed on to the function; it stays as it is.

    Returns:
        The end; look at ``converged``. Virtual sites stay where they were: place them afterwards.

    Raises:
        InputError: an option makes no sense, an energy or force is not finite, or the constraints cannot be met.

    Example:
        >>> def spring(x):
        ...     return float(((x - 0.3) ** 2).sum()) / 2 * 1000.0, -1000.0 * (x - 0.3)
        >>> found = minimize(spring, np.zeros((2, 3)), tolerance=1e-3)
        >>> found.converged, found.positions.round(6).tolist()
        (True, [[0.3, 0.3, 0.3], [0.3, 0.3, 0.3]])
    """
    if method not in ("lbfgs", "fire"):
        raise InputError(f'minimize: method is {method!r}; give "lbfgs" or "fire".')
    if not isinstance(tolerance, int | float | np.number) or not 0.0 < tolerance < np.inf:
        raise InputError(f"minimize: tolerance is {tolerance} kJ/mol/nm; give a positive number.")
    if not isinstance(max_steps, int | float | np.number) or not max_steps >= 0 or max_steps % 1 != 0:
        raise InputError(f"minimize: max_steps is {max_steps}; give a whole number, 0 or more.")
    if not callable(energy_and_forces):
        raise InputError(
            f"minimize: {type(energy_and_forces).__name__} is no function; give Calculator(potential, params)."
        )
    x, cell = positions_and_box(positions, box)
    surface = _Surface(energy_and_forces, cell, constraints)
    x = surface.moved(np.array(x, np.float64), np.zeros(np.shape(x)))
    start = surface.at(x)
    end = {"lbfgs": _lbfgs, "fire": _fire}[method](surface, start, tolerance, int(max_steps))
    if end.largest > tolerance or end.energy > start.energy:  # a run that was cut short, or rounding
        end = surface.lowest
    return Minimum(end.positions, end.energy, end.largest, surface.n_calls - 1, end.largest <= tolerance)


class _Point(NamedTuple):
    """A place on the energy surface.

    Attributes:
        positions: shape ``(n_atoms, 3)``, nm.
        energy: kJ/mol.
        forces: shape ``(n_atoms, 3)``, kJ/mol/nm, within the constraints.
        largest: kJ/mol/nm, length of the largest force.
    """

    positions: np.ndarray
    energy: float
    forces: np.ndarray
    largest: float


class _Surface:
    """The energy of positions that satisfy the constraints, and how to move there."""

    def __init__(
        self, energy_and_forces: Callable[..., Sequence[Any]], box: np.ndarray | None, constraints: Constraints | None
    ) -> None:
        self._function, self._box, self.n_calls = energy_and_forces, box, 0
        self.lowest = _Point(np.zeros((0, 3)), np.inf, np.zeros((0, 3)), np.inf)
        self._constraints = None if constraints is None else constraints.unweighted()
        self._displacements, self._tangent = jax.jit(Constraints.displacements), jax.jit(Constraints.velocities)

    def at(self, positions: np.ndarray) -> _Point:
        """Energy and forces there; `lowest` remembers the best of all.

        Raises:
            InputError: they are not finite.
        """
        found = self._function(positions) if self._box is None else self._function(positions, self._box)
        self.n_calls += 1
        energy, forces = float(found[0]), np.asarray(found[1], np.float64)
        if forces.shape != positions.shape:
            raise InputError(f"minimize: the forces have the shape {forces.shape}, the positions {positions.shape}.")
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise InputError(
                f"minimize: in step {self.n_calls - 1} the energy ({energy} kJ/mol) or a force is not finite. Are "
                "atoms on top of each other, or does the energy fall without end?"
            )
        forces = self.tangent(forces, positions)
        here = _Point(positions, energy, forces, float(np.sqrt(np.max(np.sum(forces**2, axis=1), initial=0.0))))
        if energy < self.lowest.energy:
            self.lowest = here
        return here

    def tangent(self, vectors: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The part of vectors that leaves all constrained distances as they are."""
        if self._constraints is None:
            return vectors
        return _met(np.asarray(self._tangent(self._constraints, jnp.asarray(vectors), jnp.asarray(positions))))

    def moved(self, positions: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Positions after a step, back on the constraints."""
        new = positions + step
        if self._constraints is None:
            return new
        return new + _met(np.asarray(self._displacements(self._constraints, jnp.asarray(new), jnp.asarray(positions))))


def _met(vectors: np.ndarray) -> np.ndarray:
    lost = ~np.isfinite(vectors).all(axis=1)
    if lost.any():
        raise InputError(
            f"minimize: the constraints of atom {int(np.argmax(lost))} (from 0) cannot be met from where it is. Give "
            "positions closer to the constrained distances, or minimise without constraints first."
        )
    return vectors


def _limited(step: np.ndarray) -> np.ndarray:
    """The step, shortened as a whole until no atom moves too far."""
    longest = np.sqrt(np.max(np.sum(step**2, axis=1), initial=0.0))
    return step * (LONGEST_STEP / longest) if longest > LONGEST_STEP else step


# ---------------------------------------------------------------------- L-BFGS
def _lbfgs(surface: _Surface, here: _Point, tolerance: float, max_steps: int) -> _Point:
    """Quasi-Newton steps with a line search; changes of force are compared as if the constraints were flat."""
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MEMORY)
    while here.largest > tolerance and surface.n_calls <= max_steps:
        step = surface.tangent(_quasi_newton(here.forces, pairs), here.positions)
        if np.vdot(step, here.forces) <= 0.0:  # not downhill: the curvatures are not those of this place
            pairs.clear()
            continue
        there = _downhill(surface, here, _limited(step), max_steps)
        if there is None:
            if not pairs:
                break  # not even along the force: rounding
            pairs.clear()
            continue
        moved, change = there.positions - here.positions, here.forces - there.forces
        if np.vdot(moved, change) > 1e-8 * np.linalg.norm(moved) * np.linalg.norm(change):
            pairs.append((moved, change))
        here = there
    return here


def _quasi_newton(forces: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """``H F`` with the inverse Hessian H of the pairs (s, y), s = H y, by the two-loop recursion."""
    step, factors = forces, []
    for s, y in reversed(pairs):
        factors.append(np.vdot(s, step) / np.vdot(s, y))
        step = step - factors[-1] * y
    s, y = pairs[-1] if pairs else (1.0 / FIRST_STIFFNESS, 1.0)
    step = step * (np.vdot(s, y) / np.vdot(y, y))
    for (s, y), factor in zip(pairs, reversed(factors), strict=True):
        step = step + s * (factor - np.vdot(y, step) / np.vdot(s, y))
    return step


def _downhill(surface: _Surface, here: _Point, step: np.ndarray, max_steps: int) -> _Point | None:
    """A lower place along the step, which is shortened by the parabola of energies and slope; None if there is none.

    Energies that agree within rounding tell nothing; the slope has to have become smaller then.
    """
    slope, part = np.vdot(step, here.forces), 1.0
    for _ in range(SHORTENINGS):
        if surface.n_calls > max_steps:
            break
        there = surface.at(surface.moved(here.positions, part * step))
        rise = there.energy - here.energy
        level = abs(rise) <= NOISE * abs(here.energy) and abs(np.vdot(step, there.forces)) <= 0.9 * slope
        if rise <= -DESCENT * part * slope or level:
            return there
        part *= float(np.clip(0.5 * part * slope / (rise + part * slope), 0.1, 0.5))
    return None


# ---------------------------------------------------------------------- FIRE
def _fire(surface: _Surface, here: _Point, tolerance: float, max_steps: int) -> _Point:
    """Dynamics that is turned towards the forces, and stopped when it goes uphill.

    v <- (1 - a) v + a F |v| / |F|; the time step grows while F v > 0 and is halved, and v cleared, otherwise. Numbers
    of the papers: f_inc = 1.1, f_dec = 0.5, alpha = 0.25, f_alpha = 0.99, N_delay = 20. Their longest time step, to be
    chosen for each system, is here 1 / omega of the highest omega^2 = |dF| / |dx| of late: above 2 / omega a stiff
    bond builds up until it ends the descent of all others.
    """
    dt, alpha, downhill = TIME_STEP, 0.25, 0
    v = np.zeros_like(here.positions)
    stiffness: deque[float] = deque(maxlen=STIFFNESS_STEPS)
    while here.largest > tolerance and surface.n_calls <= max_steps:
        back = np.zeros_like(v)
        if np.vdot(here.forces, v) > 0.0:
            downhill += 1
            if downhill > 20:
                dt, alpha = 1.1 * dt, 0.99 * alpha
        else:
            if surface.n_calls > 20:
                dt, alpha = 0.5 * dt, 0.25
            back, v, downhill = -0.5 * dt * v, np.zeros_like(v), 0
        longest = min(100.0 * TIME_STEP, 1.0 / np.sqrt(max(stiffness, default=0.0) + 1e-30))
        dt = max(min(dt, longest), 0.02 * TIME_STEP)
        v = v + dt * here.forces
        v = (1.0 - alpha) * v + alpha * np.linalg.norm(v) / np.linalg.norm(here.forces) * here.forces
        v = _limited(dt * v) / dt
        there = surface.at(surface.moved(here.positions, _limited(back + dt * v)))
        length = np.linalg.norm(there.positions - here.positions)
        stiffness.append(float(np.linalg.norm(there.forces - here.forces) / max(length, 1e-12)))
        v = surface.tangent(v, there.positions)
        here = there
    return here
