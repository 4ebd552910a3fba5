"""What OpenMM costs a potential of diffff, and what diffff costs OpenMM: both sides in one run.

    python benchmarks/md_openmm.py --model water.dp

1. A Deep Potential of water: milliseconds per step of Verlet's integrator through `add_force`, beside the calculator
   called directly with positions that move in the same way.
2. A force field in XML: steps per second of a System of `ForceField.create_system` beside one of OpenMM's createSystem.

Sides take turns and the median of several rounds counts, so that a busy machine slows both.
"""

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np
import openmm
from openmm import app, unit

import diffff
from diffff.md.calculator import Calculator
from diffff.md.openmm import add_force
from diffff.model import Model

FILE = "amber14/tip3p.xml"


def water_box(n_molecules: int) -> tuple[app.Topology, np.ndarray, np.ndarray]:
    """Topology, positions and box, nm."""
    water = app.Modeller(app.Topology(), [])
    water.addSolvent(app.ForceField(FILE), numAdded=n_molecules)
    x, box = (
        np.array(q.value_in_unit(unit.nanometer)) for q in (water.positions, water.topology.getPeriodicBoxVectors())
    )
    return water.topology, x, box


def in_turns(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, after a call of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def context_of(system: openmm.System, x: np.ndarray, step: float, platform: str) -> openmm.Context:
    context = openmm.Context(system, openmm.VerletIntegrator(step), openmm.Platform.getPlatform(platform))
    context.setPositions(x)
    context.setVelocitiesToTemperature(300.0, 1)
    return context


def overhead(model: Model, n_molecules: int, dtype: str, steps: int, rounds: int) -> None:
    """A line of the first table for each platform."""
    topology, x, box = water_box(n_molecules)
    types = np.array([model.type_map.index(atom.element.symbol) for atom in topology.atoms()])
    potential = model.potential(types)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    system.setDefaultPeriodicBoxVectors(*box)
    add_force(system, potential, model.params, periodic=True, dtype=dtype)
    start = context_of(system, x, 0.00025, "Reference")
    openmm.LocalEnergyMinimizer.minimize(start, 10.0, 50)
    start.setVelocitiesToTemperature(300.0, 1)
    path = []  # of a run, for the calculator to go along
    for _ in range(steps):
        start.getIntegrator().step(1)
        path.append(start.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    calculator = Calculator(potential, model.params, dtype=dtype)

    def direct() -> None:
        for there in path:
            calculator(there, box)

    contexts = {name: context_of(system, path[0], 0.00025, name) for name in ("Reference", "CPU")}
    sides: dict[str, Callable[[], None]] = {"direct": direct}
    for name, context in contexts.items():
        sides[name] = lambda context=context: context.getIntegrator().step(steps)
    found = in_turns(sides, rounds)
    for name in contexts:
        ours, bare = 1e3 * found[name] / steps, 1e3 * found["direct"] / steps
        print(f"{len(x):7d}  {dtype:8s}  {name:10s}{bare:12.2f}{ours:14.2f}{ours / bare:9.2f}")


def native(n_molecules: int, steps: int, rounds: int) -> None:
    """A line of the second table."""
    topology, x, _ = water_box(n_molecules)
    field = diffff.ForceField(FILE)
    params = field.params()
    params["NonbondedForce"]["sigma"] = params["NonbondedForce"]["sigma"] * 1.001  # as if fitted
    ours = field.create_system(topology, params, nonbonded_method="PME", nonbonded_cutoff=0.9)
    theirs = app.ForceField(FILE).createSystem(topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer)
    sides: dict[str, Callable[[], None]] = {}
    for name, system in (("diffff", ours), ("OpenMM", theirs)):
        context = context_of(system, x, 0.001, "CPU")
        sides[name] = lambda context=context: context.getIntegrator().step(steps)
    found = {name: steps / seconds for name, seconds in in_turns(sides, rounds).items()}
    print(f"{len(x):7d}{found['OpenMM']:14.1f}{found['diffff']:14.1f}{found['diffff'] / found['OpenMM']:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tests/references/md/water.dp")
    parser.add_argument("--molecules", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    model = diffff.load(options.model)
    print("Deep Potential, ms per step\n  atoms  dtype     platform        direct  through OpenMM    ratio")
    for number in options.molecules:
        for dtype in ("float64", "float32"):
            overhead(model, number, dtype, options.steps, options.rounds)
    print(
        "\nForce field in XML, PME, rigid water, CPU platform, steps/s\n  atoms        OpenMM  create_system    ratio"
    )
    for number in (1000,):
        native(number, options.steps, options.rounds)


if __name__ == "__main__":
    main()
