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
from geometry import TETRAHEDRAL, place
from langevin import trajectory
from layout import write_system

HERE = Path(__file__).parent / "ethanol"
ELEMENTS = ["C", "C", "O", "H", "H", "H", "H", "H", "H"]  # CH3, CH2, OH
TYPE_MAP = ["C", "H", "O"]

TEMPERATURES = [300.0, 500.0, 800.0]  # K
CONFORMERS = [180.0, 60.0, -60.0]  # dihedral C-C-O-H at the start, degrees
SPLITS = {"train": 70, "valid": 14}  # frames of each trajectory, one trajectory per temperature and conformer


def starting_positions(dihedral: float) -> np.ndarray:
    """Idealised ethanol (9, 3) in Å; `dihedral` is C-C-O-H in degrees, all other angles tetrahedral and staggered."""
    tetrahedral = np.deg2rad(TETRAHEDRAL)
    methyl, carbon = np.zeros(3), np.array([1.52, 0.0, 0.0])
    oxygen = carbon + 1.42 * np.array([-np.cos(tetrahedral), np.sin(tetrahedral), 0.0])
    hydrogens = [place(oxygen, carbon, methyl, 1.09, t) for t in (180.0, 60.0, -60.0)]
    # around the carbon of CH2: the two places that the methyl group and the oxygen leave free
    hydrogens += [place(hydrogens[0], methyl, carbon, 1.09, t) for t in (60.0, -60.0)]
    hydrogens += [place(methyl, carbon, oxygen, 0.97, dihedral)]
    return np.array([methyl, carbon, oxygen, *hydrogens])


def run(split: str, temperature: float, conformer: float, seed: int) -> dict[str, np.ndarray]:
    """The frames of one trajectory."""
    return trajectory(ELEMENTS, starting_positions(conformer), temperature, seed, n_frames=SPLITS[split])


def main() -> None:
    runs = [(split, t, c) for split in SPLITS for t in TEMPERATURES for c in CONFORMERS]
    with Pool() as pool:
        results = pool.starmap(run, [(*r, seed) for seed, r in enumerate(runs)], chunksize=1)
    for split in SPLITS:
        for temperature in TEMPERATURES:
            parts = [r for (s, t, _), r in zip(runs, results, strict=True) if (s, t) == (split, temperature)]
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            write_system(HERE / split / f"{temperature:.0f}K", ELEMENTS, TYPE_MAP, **arrays)


if __name__ == "__main__":
    main()
