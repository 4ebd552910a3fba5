"""Make data/ethanol: C2H5OH in vacuum, Langevin dynamics on the GFN2-xTB surface (about 5 minutes on two cores).

    pip install "diffff[data]"
    python data/make_ethanol.py

Every frame is a snapshot of a trajectory that runs on the labels' own energy surface, at 300, 500 and 800 K: BAOAB
Langevin dynamics (B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010), step 0.5 fs,
friction 5 /ps, 2 ps of equilibration, then one frame every 200 fs. The trajectories of a temperature start from the
trans and the two gauche conformers. Validation frames come from trajectories of their own. Seeds are fixed.
"""

from multiprocessing import Pool
from pathlib import Path

import numpy as np
from xtb import GFN2, write_system

HERE = Path(__file__).parent / "ethanol"
ELEMENTS = ["C", "C", "O", "H", "H", "H", "H", "H", "H"]  # CH3, CH2, OH
TYPE_MAP = ["C", "H", "O"]
MASSES = np.array([{"C": 12.011, "O": 15.999, "H": 1.008}[e] for e in ELEMENTS])[:, None]  # amu

TEMPERATURES = [300.0, 500.0, 800.0]  # K
CONFORMERS = [180.0, 60.0, -60.0]  # dihedral C-C-O-H at the start, degrees
SPLITS = {"train": 70, "valid": 14}  # frames of each trajectory, one trajectory per temperature and conformer
TIME_STEP = 0.5  # fs
FRICTION = 0.005  # 1/fs
EQUILIBRATION_STEPS = 4000
STEPS_BETWEEN_FRAMES = 400

BOLTZMANN = 8.617333262e-5  # eV/K
FORCE_TO_ACCELERATION = 9.648533212e-3  # (eV/Å)/amu in Å/fs^2


def starting_positions(dihedral: float) -> np.ndarray:
    """Idealised ethanol (9, 3) in Å; `dihedral` is C-C-O-H in degrees, all other angles tetrahedral and staggered."""
    tetrahedral = np.deg2rad(109.47)

    def place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, torsion: float) -> np.ndarray:
        """The point at `length` from c with the angle (b, c, new) tetrahedral and the dihedral (a, b, c, new)."""
        axis = (c - b) / np.linalg.norm(c - b)
        normal = np.cross(b - a, axis)
        normal /= np.linalg.norm(normal)
        x, y = length * np.sin(tetrahedral) * np.array([np.cos(np.deg2rad(torsion)), np.sin(np.deg2rad(torsion))])
        return c - length * np.cos(tetrahedral) * axis + x * np.cross(normal, axis) + y * normal

    methyl, carbon = np.zeros(3), np.array([1.52, 0.0, 0.0])
    oxygen = carbon + 1.42 * np.array([-np.cos(tetrahedral), np.sin(tetrahedral), 0.0])
    hydrogens = [place(oxygen, carbon, methyl, 1.09, t) for t in (180.0, 60.0, -60.0)]
    # around the carbon of CH2: the two places that the methyl group and the oxygen leave free
    hydrogens += [place(hydrogens[0], methyl, carbon, 1.09, t) for t in (60.0, -60.0)]
    hydrogens += [place(methyl, carbon, oxygen, 0.97, dihedral)]
    return np.array([methyl, carbon, oxygen, *hydrogens])


def trajectory(split: str, temperature: float, conformer: float, seed: int) -> dict[str, np.ndarray]:
    """Snapshots of one trajectory: coord (n, 9, 3) Å about the centre of mass, energy (n,) eV, force (n, 9, 3) eV/Å."""
    random = np.random.default_rng(seed)
    positions = starting_positions(conformer)
    gfn2 = GFN2(ELEMENTS, positions)
    thermal = np.sqrt(BOLTZMANN * temperature * FORCE_TO_ACCELERATION / MASSES)  # Å/fs
    velocities = thermal * random.normal(size=positions.shape)
    memory = np.exp(-FRICTION * TIME_STEP)
    energy, forces, _ = gfn2(positions)
    frames = {"coord": [], "energy": [], "force": []}
    for step in range(1, EQUILIBRATION_STEPS + SPLITS[split] * STEPS_BETWEEN_FRAMES + 1):
        velocities += 0.5 * TIME_STEP * FORCE_TO_ACCELERATION * forces / MASSES
        positions = positions + 0.5 * TIME_STEP * velocities
        velocities = memory * velocities + np.sqrt(1.0 - memory**2) * thermal * random.normal(size=positions.shape)
        positions = positions + 0.5 * TIME_STEP * velocities
        energy, forces, _ = gfn2(positions)
        velocities += 0.5 * TIME_STEP * FORCE_TO_ACCELERATION * forces / MASSES
        if step > EQUILIBRATION_STEPS and (step - EQUILIBRATION_STEPS) % STEPS_BETWEEN_FRAMES == 0:
            frames["coord"].append(positions - np.sum(MASSES * positions, axis=0) / np.sum(MASSES))
            frames["energy"].append(energy)
            frames["force"].append(forces)
    return {name: np.array(values) for name, values in frames.items()}


def main() -> None:
    runs = [(split, t, c) for split in SPLITS for t in TEMPERATURES for c in CONFORMERS]
    with Pool() as pool:
        results = pool.starmap(trajectory, [(*run, seed) for seed, run in enumerate(runs)], chunksize=1)
    for split in SPLITS:
        for temperature in TEMPERATURES:
            parts = [r for (s, t, _), r in zip(runs, results, strict=True) if (s, t) == (split, temperature)]
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            write_system(HERE / split / f"{temperature:.0f}K", ELEMENTS, TYPE_MAP, **arrays)


if __name__ == "__main__":
    main()
