"""A classical force field beside OpenMM's CPU and Reference platforms, in one run: a box of flexible water with PME.

    python benchmarks/classical.py --atoms 3000 24000

Prints the time to build the potential beside OpenMM's createSystem, and for float64 and float32 the first call (which
compiles) and the median of later ones: energy, energy and forces, energy and the gradient in all rows, charges too.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openmm
from openmm import app, unit

import diffff
from diffff.neighbors import neighbor_list
from diffff.potentials.base import energy_and_forces

FILE = "amber14/tip3p.xml"


def water_box(n_atoms: int) -> tuple[app.Topology, np.ndarray, np.ndarray]:
    """Topology, positions and box, nm."""
    modeller = app.Modeller(app.Topology(), [])
    modeller.addSolvent(app.ForceField(FILE), numAdded=n_atoms // 3)
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return (
        modeller.topology,
        positions,
        np.array(modeller.topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)),
    )


def milliseconds(function: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """First call and median of the later ones."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(1e3 * (time.perf_counter() - start))
    return times[0], float(np.median(times[1:]))


def report(name: str, times: tuple[float, float], of_openmm: float) -> None:
    print(f"{name:42s} first {times[0]:9.1f} ms   then {times[1]:8.2f} ms   {times[1] / of_openmm:6.2f} x OpenMM CPU")


def run_openmm(topology: app.Topology, positions: np.ndarray, cutoff: float, repeats: int) -> float:
    """Prints the times of both platforms; returns that of energy and forces on the CPU platform."""
    system = app.ForceField(FILE).createSystem(
        topology, nonbondedMethod=app.PME, nonbondedCutoff=cutoff, rigidWater=False
    )
    found = {}
    for platform in ("CPU", "Reference"):
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform(platform))

        def evaluate(context: openmm.Context = context) -> Any:
            context.setPositions(positions)
            return context.getState(getEnergy=True, getForces=True)

        found[platform] = milliseconds(evaluate, repeats if platform == "CPU" else 3)
        report(f"OpenMM {platform}, energy and forces", found[platform], found["CPU"][1])
    return found["CPU"][1]


def run(n_atoms: int, cutoff: float, repeats: int) -> None:
    topology, positions, box = water_box(n_atoms)
    print(f"\n{len(positions)} atoms, PME, {cutoff} nm")
    options = {"nonbonded_method": "PME", "nonbonded_cutoff": cutoff, "rigid_water": False}
    field, other = diffff.ForceField(FILE), app.ForceField(FILE)
    same = {"nonbondedMethod": app.PME, "nonbondedCutoff": cutoff, "rigidWater": False}
    times = milliseconds(lambda: bool(other.createSystem(topology, **same)), 5)
    print(f"{'OpenMM, createSystem':42s} {times[1]:8.1f} ms")
    times = milliseconds(lambda: bool(field.create_potential(topology, **options)), 5)
    print(f"{'diffff, create_potential':42s} {times[1]:8.1f} ms")
    potential = field.create_potential(topology, **options)
    start = time.perf_counter()
    listed = neighbor_list(positions, box, cutoff)
    print(f"{'diffff, neighbour list (host)':42s} {1e3 * (time.perf_counter() - start):8.1f} ms")
    of_openmm = run_openmm(topology, positions, cutoff, repeats)
    tasks = {
        "energy": potential.energy,
        "energy and forces": lambda *arguments: energy_and_forces(potential, *arguments),
        "energy and row gradients": jax.value_and_grad(potential.energy),
    }
    for dtype in (jnp.float64, jnp.float32):
        arguments = jax.tree.map(lambda a, d=dtype: jnp.asarray(a, d), (field.params(), positions, box))
        for name, task in tasks.items():
            compiled = jax.jit(task)
            times = milliseconds(lambda f=compiled, a=arguments: f(*a, listed), repeats)
            report(f"diffff {jnp.dtype(dtype).name}, {name}", times, of_openmm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[3000, 24000])
    parser.add_argument("--cutoff", type=float, default=0.9, help="nm")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["XDG_CACHE_HOME"] = empty  # build times without what was kept on disk
        for n_atoms in options.atoms:
            run(n_atoms, options.cutoff, options.repeats)


if __name__ == "__main__":
    main()
