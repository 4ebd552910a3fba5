"""How much energy a run without thermostat gains: here in double and single precision, and in OpenMM.

    python benchmarks/md_drift.py --systems water peptide deep --output drift.md

| system  |                                                                                                |
|---------|------------------------------------------------------------------------------------------------|
| water   | rigid TIP3P (SETTLE), PME, Lennard-Jones switched off from 0.9 of the cutoff                     |
| peptide | a dipeptide in flexible TIP3P, all bonds and angles free, nonbonded forces as above              |
| deep    | flexible water by a Deep Potential; in OpenMM through `add_force`                                |

A run of Langevin dynamics in OpenMM gives one starting state per replica, 1 ps apart; all sides start from the same
states. diffff: velocity Verlet, all replicas in one program. OpenMM: VerletIntegrator, one replica after the other.
That is a leapfrog, and takes the velocities it is given for those half a step earlier; so it is given v - dt/2 F/m
without what constraints forbid. Its kinetic energy is that of OpenMM's States, which kick the velocities by half a step
to the time of the positions: both sides then have the same trajectory (the table shows how far apart they are after 20
steps) and the same total energy, U + K of one time.

The drift is the slope of a straight line through the total energy; its error is that of the mean over the replicas. The
column "noise" is the spread of the energy about the line.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import openmm
from md_openmm import FILE, water_box
from openmm import Vec3, app, unit

import diffff
from diffff import units
from diffff.md.constraints import constraints_of
from diffff.md.engine import Engine
from diffff.md.integrators import VelocityVerlet
from diffff.md.openmm import add_force
from diffff.md.precision import cast, cast_params
from diffff.md.state import particles, state_of
from diffff.potentials.base import Params, Potential

ROOT = Path(__file__).resolve().parents[1]
T = 300.0  # K
STEPS = {"water": (0.001, 0.002), "peptide": (0.0005, 0.001), "deep": (0.0005,)}  # ps


class Case(NamedTuple):
    """A system for all sides.

    Attributes:
        potential: for diffff.
        params: parameter tree.
        systems: the same in OpenMM, for each row of OpenMM in the table: name, platform, System.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)``, nm.
    """

    potential: Potential
    params: Params
    systems: list[tuple[str, str, openmm.System]]
    positions: np.ndarray
    box: np.ndarray


def classical(topology: app.Topology, x: np.ndarray, files: tuple[str, ...], rigid: bool, options) -> Case:
    field = diffff.ForceField(*files)
    chosen = {
        "nonbonded_method": "PME",
        "nonbonded_cutoff": options.cutoff,
        "switch_distance": 0.9 * options.cutoff,
        "ewald_error_tolerance": options.ewald_tolerance,
        "rigid_water": rigid,
    }
    system = field.create_system(topology, field.params(), **chosen)
    system = without_motion_remover(system)
    box = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    potential = field.create_potential(topology, **chosen)
    both = [(f"OpenMM {name}", name, system) for name in ("Reference", "CPU")]
    return Case(potential, field.params(), both, x, box)


def without_motion_remover(system: openmm.System) -> openmm.System:
    """It would take energy away."""
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)
    return system


def water(options: argparse.Namespace) -> Case:
    topology, x, _ = water_box(options.molecules)
    return classical(topology, x, (FILE,), True, options)


def peptide(options: argparse.Namespace) -> Case:
    pdb = app.PDBFile(str(ROOT / "tests/references/molecules/dipeptide.pdb"))
    files = ("amber14/protein.ff14SB.xml", FILE)
    modeller = app.Modeller(pdb.topology, pdb.positions)
    side = Vec3(1.6, 1.6, 1.6) * unit.nanometer
    modeller.addSolvent(app.ForceField(*files), boxSize=side)
    x = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return classical(modeller.topology, x, files, False, options)


def deep(options: argparse.Namespace) -> Case:
    model = diffff.load(options.model)
    topology, x, box = water_box(32)
    x = apart(topology, x)
    symbols = [atom.element.symbol for atom in topology.atoms()]
    potential = model.potential(np.array([model.type_map.index(symbol) for symbol in symbols]))
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    system.setDefaultPeriodicBoxVectors(*box)
    add_force(system, potential, model.params, periodic=True)
    return Case(potential, model.params, [("OpenMM Reference, add_force", "Reference", system)], x, box)


def apart(topology: app.Topology, x: np.ndarray) -> np.ndarray:
    """Positions of water minimised by a force field, for molecules may be on top of each other at first."""
    system = app.ForceField(FILE).createSystem(topology, nonbondedMethod=app.PME, nonbondedCutoff=0.5, rigidWater=False)
    context = context_of(system, openmm.VerletIntegrator(0.001), "Reference")
    context.setPositions(x)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 200)
    return place_of(context)[0]


def context_of(system: openmm.System, integrator: openmm.Integrator, platform: str) -> openmm.Context:
    return openmm.Context(system, integrator, openmm.Platform.getPlatform(platform))


def place_of(context: openmm.Context) -> tuple[np.ndarray, np.ndarray]:
    state = context.getState(getPositions=True, getVelocities=True)
    return state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value


def starts(case: Case, n: int, equilibration: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities of each replica."""
    _, platform, system = case.systems[-1]
    integrator = openmm.LangevinMiddleIntegrator(T, 5.0, 0.0005)
    integrator.setConstraintTolerance(1e-10)
    integrator.setRandomNumberSeed(1)
    context = context_of(system, integrator, platform)
    context.setPositions(case.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 300)
    context.setVelocitiesToTemperature(T, 1)
    integrator.step(round(equilibration / 0.0005))
    found = []
    for _ in range(n):
        integrator.step(2000)
        context.applyVelocityConstraints(1e-10)
        found.append(place_of(context))
    x, v = (np.array(values) for values in zip(*found, strict=True))
    masses = masses_of(system)
    v -= (v * masses[:, None]).sum(axis=1, keepdims=True) / masses.sum()
    return x, v


def masses_of(system: openmm.System) -> np.ndarray:
    return np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])


def here(case: Case, dtype: str, step: float, x: np.ndarray, v: np.ndarray, every: int) -> Iterator[tuple]:
    """Energies and positions of all replicas: at the start, and then each so many steps."""
    system = case.systems[0][2]
    masses = masses_of(system)
    some = cast(particles(masses, constraints_of(system)), dtype)
    engine = Engine(cast(case.potential, dtype), cast_params(case.params, dtype), some, VelocityVerlet(time_step=step))
    state = state_of(x, case.box, some, {}, temperature=T, seed=1, n_replicas=len(x), dtype=dtype)
    state = engine.start(replace(state, velocities=jax.numpy.asarray(v, dtype)))
    while True:
        kinetic = 0.5 * np.sum(masses[:, None] * np.asarray(state.velocities, np.float64) ** 2, axis=(1, 2))
        yield np.asarray(state.energy) + kinetic, np.asarray(state.positions, np.float64)
        state = engine.advance(state, every)


def there(system: openmm.System, platform: str, step: float, x: np.ndarray, v: np.ndarray, every: int) -> Iterator:
    """The same of OpenMM for one replica."""
    integrator = openmm.VerletIntegrator(step)
    context = context_of(system, integrator, platform)
    context.setPositions(x)
    forces = context.getState(getForces=True).getForces(asNumpy=True)._value
    context.setVelocities(v - 0.5 * step * forces / masses_of(system)[:, None])
    context.applyVelocityConstraints(1e-10)
    while True:
        state = context.getState(getEnergy=True, getPositions=True)
        energy = (state.getPotentialEnergy() + state.getKineticEnergy())._value
        yield energy, state.getPositions(asNumpy=True)._value
        integrator.step(every)


def run(sides: list[Iterator[tuple]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Energies ``(n + 1, n_replicas)`` of iterators that are done together, and positions after the first interval."""
    energies, first = [], None
    for number in range(n + 1):
        found = [next(side) for side in sides]
        energies.append(np.ravel([energy for energy, _ in found]))
        if number == 1:
            first = np.array([x for _, x in found])
    assert first is not None
    return np.array(energies), first.reshape(-1, *first.shape[-2:])


def drift(energies: np.ndarray, times: np.ndarray) -> tuple[float, float, float]:
    """Slope, its standard error from the replicas, and the spread about the lines."""
    lines = np.polyfit(times, energies, 1)
    rest = energies - times[:, None] * lines[0] - lines[1]
    return lines[0].mean(), lines[0].std(ddof=1) / np.sqrt(len(lines[0])), float(rest.std())


def table(name: str, case: Case, options: argparse.Namespace) -> Iterator[str]:
    n_atoms, kt = len(case.positions), units.GAS_CONSTANT * T
    x, v = starts(case, options.replicas, options.equilibration)
    steps = STEPS[name] if options.time_steps is None else [1e-3 * fs for fs in options.time_steps]
    for step in steps:
        every, reference = 20, None
        n = round(options.length / step) // every
        times = np.arange(n + 1) * every * step / 1000.0  # ns
        rows = [(f"diffff {dtype}", [here(case, dtype, step, x, v, every)]) for dtype in ("float64", "float32")]
        for side, platform, system in case.systems:
            rows.append((side, [there(system, platform, step, x[r], v[r], every) for r in range(len(x))]))
        for side, iterators in rows:
            begun = time.perf_counter()
            energies, first = run(iterators, n)
            reference = first if reference is None else reference
            off = np.abs(first - reference).max()
            slope, error, noise = drift(energies, times)
            yield (
                f"| {name}, {n_atoms} | {1000 * step:g} | {side} | {slope / n_atoms:.4f} ± {error / n_atoms:.4f} "
                f"| {slope / n_atoms / kt:.5f} ± {error / n_atoms / kt:.5f} | {noise / n_atoms:.1e} | {off:.0e} "
                f"| {len(x)} × {options.length:g} | {time.perf_counter() - begun:.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--time-steps", type=float, nargs="+", help="fs; by default those that suit a system")
    parser.add_argument("--length", type=float, default=10.0, help="of each run, ps")
    parser.add_argument("--equilibration", type=float, default=10.0, help="before the first state, ps")
    parser.add_argument("--replicas", type=int, default=4, help="2 or more")
    parser.add_argument("--molecules", type=int, default=100, help="of rigid water")
    parser.add_argument("--cutoff", type=float, default=0.65, help="of the classical systems, nm")
    parser.add_argument("--ewald-tolerance", type=float, default=1e-4)
    parser.add_argument("--model", default=str(ROOT / "tests/references/md/water.dp"))
    parser.add_argument("--output", type=Path, help="a file that the table goes to as well")
    options = parser.parse_args()
    if options.replicas < 2:
        parser.error("--replicas must be 2 or more, for a standard error")
    jax.config.update("jax_enable_x64", True)
    lines = [
        "| system, atoms | fs | side | drift, kJ/mol/atom/ns | kT/atom/ns | noise, kJ/mol/atom | apart, nm | ps | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for name in options.systems:
        for line in table(name, {"water": water, "peptide": peptide, "deep": deep}[name](options), options):
            print(line, flush=True)
            lines.append(line)
            if options.output is not None:
                options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
