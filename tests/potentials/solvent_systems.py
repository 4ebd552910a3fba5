"""Terms of solvent models against OpenMM: energy, forces, and central differences of its energy in each column."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openmm

from diffff.neighbors import neighbor_list
from diffff.potentials.base import Term

BOX = np.array([[1.7, 0.0, 0.0], [0.3, 1.6, 0.0], [-0.2, 0.4, 1.8]])
METHODS = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic")
CUTOFF = 0.52  # nm; OpenMM's Reference platform misses pairs in triclinic boxes of two cutoffs an edge


def apart(n: int, least: float = 0.11, seed: int = 3) -> np.ndarray:
    """Random positions in a cell of 1.2 nm, some of them just a bond away from each other, ``(n, 3)``."""
    rng = np.random.default_rng(seed)
    placed = [rng.uniform(0.0, 1.2, 3)]
    while len(placed) < n:
        step = rng.normal(size=3)
        tried = placed[rng.integers(len(placed))] + step / np.linalg.norm(step) * rng.uniform(least, 0.3)
        if min(np.linalg.norm(tried - x) for x in placed) > least and tried.min() > 0.0 and tried.max() < 1.2:
            placed.append(tried)
    return np.array(placed)


def openmm_energy(force: Any, x: np.ndarray, box: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Energy, kJ/mol, and forces, kJ/mol/nm, of the Reference platform."""
    system = openmm.System()
    for _ in x:
        system.addParticle(1.0)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(x)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


@jax.jit
def derivatives(term, params, x, box, neighbors):
    """Energy, forces and parameter gradient."""
    energy, (by_params, by_x) = jax.value_and_grad(term.energy, (0, 1))(params, x, box, neighbors)
    return energy, -by_x, by_params


def compare(term: Term, params: dict, x: np.ndarray, box: np.ndarray | None, force: Callable[[dict], Any]) -> None:
    """Energy and forces are OpenMM's to 1e-10, each column's gradient along a random direction to 1e-6."""
    listed = neighbor_list(x, box, 1.1 * term.cutoff) if term.cutoff else None
    energy, forces, gradient = derivatives(term, jax.tree.map(jnp.asarray, params), jnp.asarray(x), box, listed)
    expected, expected_forces = openmm_energy(force(params), x, box)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())
    rng = np.random.default_rng(0)
    for column, values in params.items():
        direction = rng.normal(size=np.shape(values))
        step = 1e-5 * max(1.0, np.abs(values).max())
        up, down = (openmm_energy(force(params | {column: values + h * direction}), x, box)[0] for h in (step, -step))
        scale = 1e-6 * np.abs(gradient[column]).max() + 1e-11 * abs(expected) / step
        slope = (up - down) / (2.0 * step)
        np.testing.assert_allclose(np.sum(gradient[column] * direction), slope, rtol=1e-6, atol=scale, err_msg=column)
