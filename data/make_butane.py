"""Make data/butane: the torsion C-C-C-C of butane and a trajectory at 500 K, with GFN2-xTB (about 5 minutes).

    pip install "diffff[data,ase]"
    python data/make_butane.py

`scan` holds the torsion at -180, -170, … 170 degrees and relaxes all else (largest force 0.005 eV/Å, but for that along
the torsion). Each frame starts from its neighbour, beginning at the trans conformer and going outwards to both sides,
and the forces are the whole gradient, with what it takes to hold the torsion. `thermal` is Langevin dynamics at 500 K
as in make_ethanol.py, from the trans and the two gauche conformers, a frame every 200 fs. Seeds are fixed.
"""

from multiprocessing import Pool
from pathlib import Path

import numpy as np
from geometry import centred, place, turned
from langevin import MASSES, trajectory
from layout import write_pdb, write_system
from relax import relaxed
from xtb import GFN2

HERE = Path(__file__).parent / "butane"
ELEMENTS = ["C"] * 4 + ["H"] * 10
NAMES = ["C1", "C2", "C3", "C4", "H11", "H12", "H13", "H21", "H22", "H31", "H32", "H41", "H42", "H43"]
BONDS = [(0, 1), (1, 2), (2, 3), *((0, h) for h in (4, 5, 6)), (1, 7), (1, 8), (2, 9), (2, 10)]
BONDS += [(3, h) for h in (11, 12, 13)]
TYPE_MAP = ["C", "H"]
TORSION = (0, 1, 2, 3)
BEYOND = [3, 9, 10, 11, 12, 13]  # what turns with the torsion

STEP = 10  # degrees
TEMPERATURE = 500.0  # K
CONFORMERS = {180.0: 14, 60.0: 13, -60.0: 13}  # torsion at the start, degrees: frames of the trajectory


def trans() -> np.ndarray:
    """Idealised trans-butane (14, 3), Å."""
    c1, c2 = np.zeros(3), np.array([1.53, 0.0, 0.0])
    c3 = place(np.array([0.0, 1.0, 0.0]), c1, c2, 1.53, 180.0)
    c4 = place(c1, c2, c3, 1.53, 180.0)
    methyl = [place(c3, c2, c1, 1.09, t) for t in (180.0, 60.0, -60.0)]
    methylenes = [place(c4, c3, c2, 1.09, t) for t in (60.0, -60.0)] + [
        place(c1, c2, c3, 1.09, t) for t in (60.0, -60.0)
    ]
    last = [place(c2, c3, c4, 1.09, t) for t in (180.0, 60.0, -60.0)]
    return np.array([c1, c2, c3, c4, *methyl, *methylenes, *last])


def half_scan(sign: int) -> list[np.ndarray]:
    """Relaxed positions from 180 degrees down to 0, or from -180 up to -STEP."""
    angles = np.arange(180, -1 if sign > 0 else 0, -STEP) * sign
    positions, found = relaxed(ELEMENTS, trans()), []
    for angle in map(float, angles):
        positions = relaxed(ELEMENTS, turned(positions, TORSION, BEYOND, angle), {TORSION: angle})
        found.append(positions)
    return found


def thermal(conformer: float, seed: int) -> dict[str, np.ndarray]:
    """The frames of one trajectory."""
    start = turned(trans(), TORSION, BEYOND, conformer)
    return trajectory(ELEMENTS, start, TEMPERATURE, seed, n_frames=CONFORMERS[conformer])


def main() -> None:
    with Pool() as pool:
        halves = pool.map_async(half_scan, [1, -1], chunksize=1)
        runs = pool.starmap(thermal, [(c, seed) for seed, c in enumerate(CONFORMERS)], chunksize=1)
        positive, negative = halves.get()
    masses = np.array([MASSES[e] for e in ELEMENTS])[:, None]
    scan = [*negative, *positive[1:][::-1]]  # -180 … -10, 0 … 170
    scan = np.array([centred(x, masses) for x in scan])
    energies, forces, _ = zip(*(GFN2(ELEMENTS, x)(x) for x in scan), strict=True)
    write_system(HERE / "scan", ELEMENTS, TYPE_MAP, coord=scan, energy=np.array(energies), force=np.array(forces))
    arrays = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
    write_system(HERE / "thermal", ELEMENTS, TYPE_MAP, **arrays)
    write_pdb(HERE / "butane.pdb", ELEMENTS, NAMES, [("BUT", 1)] * 14, scan[0], BONDS)


if __name__ == "__main__":
    main()
