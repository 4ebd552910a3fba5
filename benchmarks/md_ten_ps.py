"""Ten picoseconds through OpenMM, in one go, in two halves, and killed and continued: is it the same run?

    python benchmarks/md_ten_ps.py --folder ten_ps

deep: 64 molecules of water by a Deep Potential. hybrid: the same with springs on the O-H bonds from an XML file, at
0.097 nm and 4 % of the stiffness of such a bond: what one adds to a young model so that molecules stay together. All
forces go through `add_force`.

Each run is a process of its own with LangevinMiddleIntegrator on the platform Reference, a DCDReporter, a
StateDataReporter and a CheckpointReporter, from the same start. "halves" is a process that ends half-way and another
one that goes on. "killed" gets SIGKILL at random moments; each time `resume` cuts its files to the last checkpoint
and another process goes on. Frames and bytes of the trajectories are counted without diffff. Give all the same cores:
bits depend on their number.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import openmm
from md_drift import apart
from md_openmm import water_box
from openmm import app, unit

import diffff
from diffff.md.openmm import add_force
from diffff.md.openmm_resume import resume

ROOT = Path(__file__).resolve().parents[1]
SPRINGS = """<ForceField>
 <AtomTypes>
  <Type name="o" class="O" element="O" mass="15.9994"/> <Type name="h" class="H" element="H" mass="1.008"/>
 </AtomTypes>
 <Residues><Residue name="HOH">
  <Atom name="O" type="o"/> <Atom name="H1" type="h"/> <Atom name="H2" type="h"/>
  <Bond atomName1="O" atomName2="H1"/> <Bond atomName1="O" atomName2="H2"/>
 </Residue></Residues>
 <HarmonicBondForce><Bond class1="O" class2="H" length="0.097" k="20000"/></HarmonicBondForce>
</ForceField>
"""
STEP, T, EVERY = 0.0005, 300.0, 100  # ps, K, steps between frames and lines
HEADER = 276  # bytes of a DCD file before its frames


def simulation_of(name: str, folder: Path, options: argparse.Namespace, seed: int = 1) -> app.Simulation:
    """Water with its forces, without positions."""
    model = diffff.load(options.model)
    topology, _, box = water_box(options.molecules)
    elements = [atom.element for atom in topology.atoms()]
    potential, params = model.potential(np.array([model.type_map.index(e.symbol) for e in elements])), model.params
    if name == "hybrid":
        (folder / "springs.xml").write_text(SPRINGS)
        field = diffff.ForceField(folder / "springs.xml")
        potential = potential + field.create_potential(topology, rigid_water=False)
        params = {**params, **field.params()}
    system = openmm.System()
    for element in elements:
        system.addParticle(element.mass)
    system.setDefaultPeriodicBoxVectors(*box)
    add_force(system, potential, params, periodic=True)
    integrator = openmm.LangevinMiddleIntegrator(T, 1.0, STEP)
    integrator.setRandomNumberSeed(seed)
    return app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))


def prepare(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Minimised and heated, for all runs to begin with."""
    simulation = simulation_of(name, folder, options, seed=2)
    simulation.context.setPositions(apart(*water_box(options.molecules)[:2]))
    simulation.minimizeEnergy(maxIterations=200)
    simulation.context.setVelocitiesToTemperature(2.0 * T, 1)  # half of it goes into potential energy
    simulation.step(options.equilibration)
    state = simulation.context.getState(positions=True, velocities=True)
    x, v = state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
    np.savez(folder / "start.npz", positions=x, velocities=v)


def worker(name: str, folder: Path, options: argparse.Namespace) -> None:
    """A process: go on from the checkpoint if there is one, up to a step."""
    simulation = simulation_of(name, folder, options)
    checkpoint, dcd, log = (str(folder / file) for file in ("md.chk", "md.dcd", "md.csv"))
    going_on = os.path.exists(checkpoint)
    if going_on:
        resume(simulation, checkpoint, trajectory=dcd, log=log)
    else:
        start = np.load(folder.parent / "start.npz")
        simulation.context.setPositions(start["positions"])
        simulation.context.setVelocities(start["velocities"])
    simulation.reporters += [
        app.DCDReporter(dcd, EVERY, append=going_on),
        app.StateDataReporter(
            *(log, EVERY), append=going_on, step=True, potentialEnergy=True, totalEnergy=True, temperature=True
        ),
        app.CheckpointReporter(checkpoint, options.checkpoint_every),
    ]
    simulation.step(options.steps - simulation.currentStep)
    x = simulation.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    np.save(folder / "end.npy", x)


# ------------------------------------------------------------------ from outside
def start_worker(name: str, folder: Path, n_steps: int, options: argparse.Namespace) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = ["--steps", n_steps, "--checkpoint-every", options.checkpoint_every, "--molecules", options.molecules]
    command = [sys.executable, __file__, "--worker", name, "--folder", str(folder), "--model", options.model]
    return subprocess.Popen([*command, *map(str, numbers)])


def finish(process: subprocess.Popen) -> None:
    if process.wait():
        raise SystemExit(f"a run ended with the code {process.returncode}")


def step_in(log: Path) -> int:
    """The last step that a log tells of."""
    lines = log.read_text().splitlines() if log.exists() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 and lines[-1].count(",") == 3 else 0


def frames(path: Path) -> tuple[int, bytes]:
    """How many frames a DCD file has, by its size, and their bytes."""
    data = path.read_bytes()
    n_atoms = int(np.frombuffer(data[HEADER - 8 : HEADER - 4], "<i4")[0])
    return (len(data) - HEADER) // (56 + 3 * (8 + 4 * n_atoms)), data[HEADER:]


def killed(name: str, folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Kill a run at random moments; what happened."""
    chance = random.Random(options.seed)
    moments = sorted(chance.uniform(0.15, 0.9) * options.steps for _ in range(options.kills))
    for moment in moments:
        process = start_worker(name, folder, options.steps, options)
        while step_in(folder / "md.csv") < moment and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached = step_in(folder / "md.csv")
        last = reached // options.checkpoint_every * options.checkpoint_every
        surplus = frames(folder / "md.dcd")[0] - last // EVERY
        yield f"killed after step {reached}: {surplus} frames after the checkpoint of step {last}"
    finish(start_worker(name, folder, options.steps, options))


def row(name: str, kind: str, folder: Path, straight: Path) -> str:
    number, data = frames(folder / "md.dcd")
    lines = [line.split(",") for line in (folder / "md.csv").read_text().splitlines()[1:]]
    steps, energy, _, temperature = np.array(lines, float).T
    whole = np.array_equal(steps, EVERY * np.arange(1, len(steps) + 1))
    gap = "none" if whole and number == len(steps) else f"{number} frames, {len(steps)} lines"
    same = np.array_equal(np.load(folder / "end.npy"), np.load(straight / "end.npy"))
    files = data == frames(straight / "md.dcd")[1], (folder / "md.csv").read_text() == (straight / "md.csv").read_text()
    words = ["yes" if yes else "NO" for yes in (same, *files)]
    blocks = temperature.reshape(20, -1).mean(axis=1) if len(steps) % 20 == 0 else temperature
    return (
        f"| {name} | {kind} | {number} | {gap} | {' | '.join(words)} "
        f"| {temperature.mean():.1f} ± {blocks.std(ddof=1) / np.sqrt(len(blocks)):.1f}, {temperature.min():.0f} to "
        f"{temperature.max():.0f} | {energy[: len(energy) // 2].mean():.0f}, {energy[len(energy) // 2 :].mean():.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("ten_ps"), help="for all files; must not be there")
    parser.add_argument("--systems", nargs="+", choices=["deep", "hybrid"], default=["deep", "hybrid"])
    parser.add_argument("--molecules", type=int, default=64, help="of water")
    parser.add_argument("--steps", type=int, default=20000, help="of 0.5 fs")
    parser.add_argument("--checkpoint-every", type=int, default=2000, help="steps")
    parser.add_argument("--equilibration", type=int, default=4000, help="steps")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--model", default=str(ROOT / "tests/references/md/water.dp"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        jax.config.update("jax_enable_x64", True)
        worker(options.worker, options.folder, options)
        return
    if options.folder.exists():
        parser.error(f"{options.folder} is there already")
    jax.config.update("jax_enable_x64", True)
    print("| system | run | frames | gaps, duplicates | same end | same DCD | same log | T, K | mean U, both halves |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    notes = []
    for name in options.systems:
        folder = options.folder / name
        folder.mkdir(parents=True)
        prepare(name, folder, options)
        straight = folder / "straight"
        finish(start_worker(name, straight, options.steps, options))
        print(row(name, "straight", straight, straight), flush=True)
        for n_steps in (options.steps // 2, options.steps):
            finish(start_worker(name, folder / "halves", n_steps, options))
        print(row(name, "halves", folder / "halves", straight), flush=True)
        notes += [f"{name}: {note}" for note in killed(name, folder / "killed", options)]
        print(row(name, "killed", folder / "killed", straight), flush=True)
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
