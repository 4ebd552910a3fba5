"""Bound terms against OpenMM: energies, forces and central differences of the Reference platform, and random chains."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import openmm

from diffff.potentials.base import Term

BOX = np.array([[1.3, 0.0, 0.0], [0.4, 1.2, 0.0], [-0.5, 0.3, 1.1]])  # in OpenMM's reduced form
MakeForce = Callable[[dict[str, np.ndarray]], Any]


def openmm_energy(force: Any, positions: np.ndarray, box: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Energy, kJ/mol, and forces, kJ/mol/nm, of the Reference platform."""
    system = openmm.System()
    for _ in positions:
        system.addParticle(1.0)
    force.setUsesPeriodicBoundaryConditions(box is not None)
    system.addForce(force)
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    energy, forces = state.getPotentialEnergy(), state.getForces(asNumpy=True)
    units = openmm.unit.md_unit_system
    return energy.value_in_unit_system(units), np.array(forces.value_in_unit_system(units))


@jax.jit
def derivatives(term, params, positions, box):
    """Energy, forces and parameter gradient."""
    energy, (by_params, by_positions) = jax.value_and_grad(term.energy, (0, 1))(params, positions, box, None)
    return energy, -by_positions, by_params


def compare(term: Term, params: dict, positions: np.ndarray, box: np.ndarray | None, force: MakeForce) -> None:
    """Energy and forces are OpenMM's, to 1e-10 of the largest; row gradients are its central differences, to 1e-6."""
    energy, forces, gradient = derivatives(term, params, positions, box)
    expected, expected_forces = openmm_energy(force(params), positions, box)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())
    rng = np.random.default_rng(0)
    for column, values in params.items():
        for row in rng.permutation(len(values))[:4]:
            step = 1e-4 * max(1.0, abs(values[row]))
            up, down = (params | {column: values + s * (np.arange(len(values)) == row)} for s in (step, -step))
            difference = openmm_energy(force(up), positions, box)[0] - openmm_energy(force(down), positions, box)[0]
            scale = max(1e-6 * np.abs(gradient[column]).max(), 1e-12 * abs(expected) / step)
            np.testing.assert_allclose(gradient[column][row], difference / (2 * step), rtol=0, atol=scale)


def chains(n: int, size: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Positions of random chains of ``size`` atoms with bonds of about 0.15 nm, and the atoms of each chain."""
    rng = np.random.default_rng(seed)
    bonds = rng.normal(size=(n, size, 3))
    bonds *= rng.uniform(0.1, 0.2, (n, size, 1)) / np.linalg.norm(bonds, axis=-1, keepdims=True)
    atoms = rng.permutation(n * size).reshape(n, size).astype(np.int32)
    positions = np.zeros((n * size, 3))
    positions[atoms] = np.cumsum(bonds, axis=1) + rng.uniform(-0.3, 1.3, (n, 1, 3))
    return positions, atoms


def scattered(positions: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Each atom in another cell."""
    return positions + np.random.default_rng(7).integers(-2, 3, positions.shape) @ box
