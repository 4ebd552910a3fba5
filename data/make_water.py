"""Make data/water: 32 H2O in periodic boxes, labelled with GFN2-xTB (about half an hour on two cores).

    pip install "diffff[data]"
    python data/make_water.py

1. Sample: Langevin dynamics in OpenMM of a flexible three-site water model, one trajectory per temperature (300, 350,
   450 K) and density (0.9, 1.0, 1.1 g/cm^3) in a cubic box, and three in triclinic boxes. 20 ps of equilibration, then
   one frame every 4 ps. Validation frames come from trajectories of their own, with other seeds.
2. Label: energy, forces and virial of every frame with GFN2-xTB (6 s a frame on one core, no k-points).
3. Write: one system per temperature and one of all triclinic boxes, in DeePMD-kit's layout.

The sampling model only chooses the frames, no number of it enters the labels. Its charges and Lennard-Jones parameters
are SPC's, as in SPC/Fw (Y. Wu, H. L. Tepper, G. A. Voth, J. Chem. Phys. 124, 024503 (2006), doi:10.1063/1.2136877). Its
Morse bonds and harmonic angle were set by hand to the GFN2-xTB forces of 8 liquid frames, which are not in the data, so
that bond lengths and angles are those of the labels' surface. On the data its forces correlate with the labels at 0.98.

An interrupted run continues where it stopped from the files in data/water/work, which goes away at the end. After a
change of the numbers below, delete that folder first.
"""

import itertools
import os
import shutil
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import openmm
from layout import write_system
from openmm import unit
from xtb import GFN2

HERE = Path(__file__).parent / "water"
WORK = HERE / "work"

N_MOLECULES = 32
ELEMENTS = ["O"] * N_MOLECULES + ["H"] * (2 * N_MOLECULES)
TYPE_MAP = ["O", "H"]
GRAMS_PER_MOLECULE = 18.01528 / 0.602214076  # 1e-24 g, so that this over g/cm^3 is Å^3

TEMPERATURES = [300.0, 350.0, 450.0]  # K
DENSITIES = [0.9, 1.0, 1.1]  # g/cm^3
CUBE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
TRICLINIC = [  # temperature, density, lattice vectors over the edge of the cube of the same volume
    (300.0, 1.1, ((1.0, 0.0, 0.0), (0.25, 1.0, 0.0), (-0.2, 0.3, 1.0))),
    (350.0, 1.0, ((1.1, 0.0, 0.0), (-0.4, 1.0, 0.0), (0.1, -0.2, 1.0 / 1.1))),
    (450.0, 0.9, ((1.0, 0.0, 0.0), (0.1, 0.9, 0.0), (0.3, -0.1, 1.0 / 0.9))),
]
CUBIC_FRAMES = {"train": 24, "valid": 5}  # of each trajectory
TRICLINIC_FRAMES = {"train": 10, "valid": 3}

TIME_STEP = 0.001  # ps
FRICTION = 2.0  # 1/ps
EQUILIBRATION_STEPS = 20_000
STEPS_BETWEEN_FRAMES = 4_000

CHARGE = 0.41  # e, of each hydrogen
SIGMA, EPSILON = 0.3165492, 0.6498519  # nm, kJ/mol, between oxygens
BOND_LENGTH, BOND_DEPTH, BOND_WIDTH = 0.0958, 403.0, 24.4  # nm, kJ/mol, 1/nm: Morse
ANGLE, ANGLE_K = np.deg2rad(109.0), 380.0  # rad, kJ/mol/rad^2
CUTOFF = 0.42  # nm, below half the width of the narrowest box


@dataclass(frozen=True)
class Run:
    """One trajectory; `shape` (3, 3) has determinant 1, its rows are the lattice vectors over the cube's edge."""

    system: str  # "train/300K"
    temperature: float  # K
    density: float  # g/cm^3
    shape: tuple[tuple[float, float, float], ...]
    n_frames: int
    seed: int

    @property
    def box(self) -> np.ndarray:
        """(3, 3) Å, rows are the lattice vectors."""
        return np.array(self.shape) * np.cbrt(N_MOLECULES * GRAMS_PER_MOLECULE / self.density)


def all_runs() -> list[Run]:
    """Every trajectory, in the order in which its frames are written."""
    plans = []
    for split in ("train", "valid"):
        for temperature, density in itertools.product(TEMPERATURES, DENSITIES):
            plans.append((f"{split}/{temperature:.0f}K", temperature, density, CUBE, CUBIC_FRAMES[split]))
        for temperature, density, shape in TRICLINIC:
            plans.append((f"{split}/triclinic", temperature, density, shape, TRICLINIC_FRAMES[split]))
    return [Run(*plan, seed=1 + index) for index, plan in enumerate(plans)]


def flexible_water(box: np.ndarray) -> openmm.System:
    """The sampling model in `box` (3, 3) Å."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(box / 10.0))
    bonds = openmm.CustomBondForce(f"{BOND_DEPTH} * (1 - exp(-{BOND_WIDTH} * (r - {BOND_LENGTH})))^2")
    angles, nonbonded = openmm.HarmonicAngleForce(), openmm.NonbondedForce()
    rectangular = not np.any(box - np.diag(np.diag(box)))  # OpenMM's Ewald sum, faster for so few atoms, needs it
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.Ewald if rectangular else openmm.NonbondedForce.PME)
    nonbonded.setCutoffDistance(CUTOFF)
    nonbonded.setEwaldErrorTolerance(0.005)
    for element in ELEMENTS:
        system.addParticle(15.999 if element == "O" else 1.008)
        nonbonded.addParticle(*((-2 * CHARGE, SIGMA, EPSILON) if element == "O" else (CHARGE, 1.0, 0.0)))
    for oxygen in range(N_MOLECULES):
        hydrogens = N_MOLECULES + 2 * oxygen, N_MOLECULES + 2 * oxygen + 1
        for hydrogen in hydrogens:
            bonds.addBond(oxygen, hydrogen)
        angles.addAngle(hydrogens[0], oxygen, hydrogens[1], ANGLE, ANGLE_K)
        for pair in itertools.combinations((oxygen, *hydrogens), 2):
            nonbonded.addException(*pair, 0.0, 1.0, 0.0)
    for force in (bonds, angles, nonbonded):
        system.addForce(force)
    return system


def grid_of_molecules(box: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Molecules of random orientation on a 4 x 4 x 2 grid of `box` (3, 3): (96, 3) Å, the oxygens first."""
    grid = np.array(list(itertools.product(range(4), range(4), range(2)))) / np.array([4, 4, 2])
    oxygens = (grid + 0.125) @ box
    arms = 0.96 * np.array([[0.79, 0.61, 0.0], [-0.79, 0.61, 0.0]])
    rotations = [np.linalg.qr(random.normal(size=(3, 3)))[0] for _ in range(N_MOLECULES)]
    hydrogens = [o + arms @ r for o, r in zip(oxygens, rotations, strict=True)]
    return np.concatenate([oxygens, *hydrogens])


def sample(run: Run) -> np.ndarray:
    """Snapshots of one trajectory (n_frames, 96, 3) Å, molecules whole."""
    integrator = openmm.LangevinMiddleIntegrator(run.temperature, FRICTION, TIME_STEP)
    integrator.setRandomNumberSeed(run.seed)
    platform = openmm.Platform.getPlatform("CPU")
    context = openmm.Context(flexible_water(run.box), integrator, platform, {"Threads": "1"})
    context.setPositions(grid_of_molecules(run.box, np.random.default_rng(run.seed)) / 10.0)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(run.temperature, run.seed)
    integrator.step(EQUILIBRATION_STEPS)
    frames = []
    for _ in range(run.n_frames):
        integrator.step(STEPS_BETWEEN_FRAMES)
        state = context.getState(positions=True, enforcePeriodicBox=True)
        frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    return np.array(frames)


def save(path: Path, **arrays: np.ndarray) -> None:
    """Write `path` (.npz) in one piece: it is whole or absent."""
    half_written = path.with_name(f"half_{path.name}")
    np.savez(half_written, **arrays)
    os.replace(half_written, path)


def sample_and_save(run: Run) -> None:
    path = WORK / f"run{run.seed}.npz"
    if not path.exists():
        save(path, coord=sample(run))


def label_and_save(run: Run, frame: int) -> None:
    path = WORK / f"run{run.seed}_frame{frame}.npz"
    if not path.exists():
        positions = np.load(WORK / f"run{run.seed}.npz")["coord"][frame]
        energy, force, virial = GFN2(ELEMENTS, positions, run.box)(positions, run.box)
        save(path, coord=positions, box=run.box, energy=np.array(energy), force=force, virial=virial)


def main() -> None:
    """Sample, label, write."""
    WORK.mkdir(parents=True, exist_ok=True)
    runs = all_runs()
    tasks = [(run, frame) for run in runs for frame in range(run.n_frames)]
    with Pool() as pool:
        pool.map(sample_and_save, runs, chunksize=1)
        print(f"sampled {len(runs)} trajectories, {len(tasks)} frames to label", flush=True)
        pool.starmap(label_and_save, tasks, chunksize=1)
    for system in dict.fromkeys(run.system for run in runs):
        files = [WORK / f"run{run.seed}_frame{frame}.npz" for run, frame in tasks if run.system == system]
        frames = [np.load(file) for file in files]
        arrays = {name: np.array([f[name] for f in frames]) for name in ("coord", "box", "energy", "force", "virial")}
        write_system(HERE / system, ELEMENTS, TYPE_MAP, **arrays)
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
