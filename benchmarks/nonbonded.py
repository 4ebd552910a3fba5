"""NonbondedForce with PME for a box of water: diffff beside OpenMM's CPU and Reference platforms, in one run.

python benchmarks/nonbonded.py --molecules 1000 --cutoff 0.9 --method PME
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openmm
from openmm import app, unit

from diffff.neighbors import Neighbors, neighbor_list
from diffff.potentials.nonbonded import Nonbonded
from diffff.potentials.nonbonded_setup import nonbonded

PARAMS = {
    "charge": np.array([-0.834, 0.417]),
    "sigma": np.array([0.3150752406575124, 1.0]),
    "epsilon": np.array([0.635968, 0.0]),
}


def water_box(n_molecules: int, method: str, cutoff: float) -> tuple[openmm.System, np.ndarray, np.ndarray]:
    """System with the NonbondedForce alone, positions and box, nm."""
    forcefield = app.ForceField("tip3p.xml")
    modeller = app.Modeller(app.Topology(), [])
    modeller.addSolvent(forcefield, numAdded=n_molecules)
    full = forcefield.createSystem(
        modeller.topology, nonbondedMethod=getattr(app, method), nonbondedCutoff=cutoff, rigidWater=False
    )
    for index in reversed(range(full.getNumForces())):
        if not isinstance(full.getForce(index), openmm.NonbondedForce):
            full.removeForce(index)
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    box = np.array(modeller.topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    return full, positions, box


def milliseconds(function: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """First call and median of the later ones."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(1e3 * (time.perf_counter() - start))
    return times[0], float(np.median(times[1:]))


def report(name: str, times: tuple[float, float], unit_time: float) -> None:
    print(f"{name:44s} first {times[0]:9.1f} ms   then {times[1]:8.2f} ms   {times[1] / unit_time:6.2f} x OpenMM CPU")


def run_openmm(system: openmm.System, positions: np.ndarray, repeats: int) -> float:
    """Prints the times of both platforms; returns energy and forces of the CPU platform."""
    found = {}
    for platform in ("CPU", "Reference"):
        integrator = openmm.VerletIntegrator(0.001)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))

        def evaluate(context: openmm.Context = context) -> Any:
            context.setPositions(positions)
            return context.getState(getEnergy=True, getForces=True).getPotentialEnergy()._value

        found[platform] = milliseconds(evaluate, repeats)
        report(f"OpenMM {platform}, energy and forces", found[platform], found["CPU"][1])
        print(f"    {evaluate():.6f} kJ/mol")
    return found["CPU"][1]


def run_diffff(term: Nonbonded, arguments: tuple, listed: Neighbors, repeats: int, unit_time: float) -> None:
    """Prints the times of energy, forces and row gradients."""
    name = jnp.asarray(arguments[1]).dtype.name
    tasks = {
        "energy": jax.jit(Nonbonded.energy),
        "energy and forces": jax.jit(jax.value_and_grad(Nonbonded.energy, 2)),
        "energy and row gradients": jax.jit(jax.value_and_grad(Nonbonded.energy, 1)),
        "energy, forces and row gradients": jax.jit(jax.value_and_grad(Nonbonded.energy, (1, 2))),
    }
    for what, task in tasks.items():
        report(f"diffff {name}, {what}", milliseconds(lambda f=task: f(term, *arguments, listed), repeats), unit_time)
    print(f"    {tasks['energy'](term, *arguments, listed):.6f} kJ/mol")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=1000)
    parser.add_argument("--cutoff", type=float, default=0.9, help="nm")
    parser.add_argument("--method", default="PME", choices=["CutoffPeriodic", "PME", "LJPME", "NoCutoff"])
    parser.add_argument("--skin", type=float, default=0.0, help="nm, of the neighbour list")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    system, positions, box = water_box(options.molecules, options.method, options.cutoff)
    first = 3 * np.arange(options.molecules)[:, None, None]
    excluded = (first + np.array([[0, 1], [0, 2], [1, 2]])).reshape(-1, 2)
    rows = np.arange(len(positions)) % 3 > 0
    term = nonbonded(rows, rows, excluded=excluded, method=options.method, cutoff=options.cutoff, box=box)
    listed = neighbor_list(positions, box, term.cutoff + options.skin)
    print(f"{len(positions)} atoms, {options.method}, {int((listed.i < len(positions)).sum())} pairs, grid {term.grid}")
    unit_time = run_openmm(system, positions, options.repeats)
    for dtype in (jnp.float64, jnp.float32):
        arguments = jax.tree.map(lambda a, d=dtype: jnp.asarray(a, d), (PARAMS, positions, box))
        run_diffff(term, arguments, listed, options.repeats, unit_time)


if __name__ == "__main__":
    main()
