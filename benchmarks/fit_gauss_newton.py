"""Time of a Gauss-Newton step: exact derivatives here, finite differences through OpenMM.

    python benchmarks/fit_gauss_newton.py

Alanine dipeptide (22 atoms, Amber14SB) in vacuum, --frames frames, --rows numbers of the files that its energy depends
on, residuals of all energies and force components. A step here is residuals, exact Jacobian and the solution of the
normal equations. By finite differences it is one evaluation of all frames for each number, and one more; only OpenMM's
evaluations are timed (positions in, energy and forces out), with the fastest of its platforms for this size, not the
changes of its parameters between. Both Jacobians are compared. The sides take turns.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import openmm.app as app
from openmm import unit

jax.config.update("jax_enable_x64", True)

from diffff import ForceField, tree  # noqa: E402
from diffff.fit.free import free_of  # noqa: E402
from diffff.fit.objective import Objective  # noqa: E402
from diffff.fit.problem import FitSystem, Sigmas, all_residuals  # noqa: E402
from diffff.fit.rules import Numbers, Treatment  # noqa: E402

STRUCTURE = Path(__file__).parents[1] / "data" / "dialanine" / "dialanine.pdb"
PLATFORM = "Reference"  # faster than CPU for so few atoms
SIGMAS = Sigmas(energy=4.0, force=40.0, relative=False)
GROUPS = ("HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce/k", "NonbondedForce/charge")
CHANGE = 1e-4  # of a number, relative


def main() -> None:
    """Print times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    field, topology, rest = dipeptide()
    potential, params = field.create_potential(topology), field.params()
    random = np.random.default_rng(1)
    x = rest + 0.005 * random.normal(size=(options.frames, *rest.shape))
    labels = np.zeros(options.frames), np.zeros_like(x)
    system = FitSystem(
        potential=potential,
        positions=jnp.asarray(x),
        energy=jnp.asarray(labels[0]),
        forces=jnp.asarray(labels[1]),
    )
    found = used_numbers(field, potential, params, rest, options.rows)
    free = free_of(params, found)
    objective = Objective(jax.tree_util.Partial(residuals, [system]), free)
    zeros = np.zeros(free.n_free)
    begun = time.perf_counter()
    step(objective, zeros)
    print(f"{options.frames} frames of {len(rest)} atoms, {free.n_free} numbers; first step, with compilation: "
          f"{time.perf_counter() - begun:.1f} s")  # fmt: skip
    contexts = [context_of(field, topology, params)]
    starts, scales = np.asarray(free.starts), np.asarray(free.scales)
    changes = CHANGE * np.maximum(np.abs(starts), 0.1)
    for k in range(free.n_free):
        changed = free.placed(jnp.asarray(starts).at[k].add(changes[k]))
        contexts.append(context_of(field, topology, changed))
    times = []
    for _ in range(options.rounds):
        begun = time.perf_counter()
        exact = step(objective, zeros)
        ours, begun = time.perf_counter() - begun, time.perf_counter()
        evaluations = [evaluated(context, x) for context in contexts]
        times.append((ours, time.perf_counter() - begun))
    columns = np.stack([(one - evaluations[0]) / c for one, c in zip(evaluations[1:], changes, strict=True)], axis=1)
    apart = np.abs(columns * scales - exact).max(axis=0) / np.abs(exact).max(axis=0)
    ours, theirs = np.median(np.array(times), axis=0)
    print(f"largest difference of the Jacobians, relative to the largest entry of a column: {apart.max():.1e}")
    print(f"here {ours:.2f} s, OpenMM ({PLATFORM}) {theirs:.2f} s: {theirs / ours:.1f} times")
    print(f"all rounds: {[(round(a, 2), round(b, 2)) for a, b in times]}")


def residuals(systems: Any, params: Any) -> jax.Array:
    """Of all frames."""
    return all_residuals(systems, params, SIGMAS)


def step(objective: Objective, v: np.ndarray) -> np.ndarray:
    """One step; the Jacobian."""
    first, jacobian = objective.residuals(v), objective.jacobian(v)
    normal = jacobian.data.T @ jacobian.data
    np.linalg.lstsq(normal + 1e-9 * np.trace(normal) * np.eye(len(normal)), jacobian.data.T @ first.data)
    return jacobian.data


def dipeptide() -> tuple[ForceField, Any, np.ndarray]:
    """Force field, topology and positions, nm."""
    pdb = app.PDBFile(str(STRUCTURE))
    return ForceField("amber14/protein.ff14SB.xml"), pdb.topology, np.array(pdb.positions.value_in_unit(unit.nanometer))


def used_numbers(field: ForceField, potential: Any, params: Any, x: np.ndarray, n_rows: int) -> list[Numbers]:
    """Numbers on which the forces depend, as many as wanted, of all kinds alike."""
    random = np.random.default_rng(2)

    def forces(numbers: Any, x: jax.Array) -> jax.Array:
        weights = jnp.asarray(random.normal(size=x.shape))
        return jnp.sum(weights * jax.grad(potential.energy, 1)(numbers, x, None, None))

    slopes = tree.flatten(jax.grad(forces)(params, jnp.asarray(x)))
    found, left = [], n_rows
    paths = [path for path in slopes if path.startswith(GROUPS)]
    sizes = {path: np.flatnonzero(np.abs(np.ravel(slopes[path])) > 1e-6 * np.abs(slopes[path]).max()) for path in paths}
    for number, path in enumerate(sorted(paths, key=lambda path: len(sizes[path]))):
        index = sizes[path][: left // (len(paths) - number)]
        left -= len(index)
        if len(index):
            places = tuple(field.rows[path][i] for i in index)
            found.append(Numbers(path, index, Treatment(), places, np.shape(slopes[path])))
    return found


def context_of(field: ForceField, topology: Any, params: Any) -> mm.Context:
    """OpenMM, with these numbers."""
    platform = mm.Platform.getPlatformByName(PLATFORM)
    return mm.Context(field.create_system(topology, params), mm.VerletIntegrator(0.001), platform)


def evaluated(context: mm.Context, frames: np.ndarray) -> np.ndarray:
    """The residuals of all frames."""
    energies, forces = [], []
    for x in frames:
        context.setPositions(x)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value)
    return np.concatenate([np.array(energies) / SIGMAS.energy, np.ravel(forces) / SIGMAS.force])


if __name__ == "__main__":
    main()
