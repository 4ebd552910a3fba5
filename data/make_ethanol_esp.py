"""Make data/ethanol_esp: electrostatic potentials around ethanol by Hartree-Fock, 6-31G* (about a minute).

    pip install numpy scipy pyscf
    python data/make_ethanol_esp.py

HF/6-31G* is the level that RESP charges are fitted to (C. I. Bayly, P. Cieplak, W. Cornell, P. A. Kollman, J. Phys.
Chem. 97, 10269 (1993), doi:10.1021/j100142a004). The conformers are frames of data/ethanol/valid/300K, from the
trans and the two gauche trajectories. Points lie on four surfaces at 1.4, 1.6, 1.8 and 2.0 times the van der Waals
radii, as U. C. Singh and P. A. Kollman have it (J. Comput. Chem. 5, 129 (1984), doi:10.1002/jcc.540050204), 50 on each,
spread evenly.
"""

from pathlib import Path

import numpy as np
from layout import write_system
from pyscf import gto, scf

HERE = Path(__file__).parent
ELEMENTS = ["C", "C", "O", "H", "H", "H", "H", "H", "H"]
TYPE_MAP = ["C", "H", "O"]
FRAMES = range(0, 42, 4)  # of data/ethanol/valid/300K, the first 14 from the trans conformer
RADII = {"H": 1.2, "C": 1.5, "O": 1.4}  # Å, those of Singh and Kollman
SHELLS = (1.4, 1.6, 1.8, 2.0)
POINTS_PER_SHELL = 50

BOHR = 0.529177210903  # Å, CODATA 2018
HARTREE = 27.211386245988  # eV, CODATA 2018


def sphere(n: int) -> np.ndarray:
    """Directions (n, 3) on a Fibonacci spiral."""
    k = np.arange(n) + 0.5
    z, turn = 1.0 - 2.0 * k / n, np.pi * (1.0 + np.sqrt(5.0)) * k
    rho = np.sqrt(1.0 - z**2)
    return np.stack([rho * np.cos(turn), rho * np.sin(turn), z], axis=1)


def spread(points: np.ndarray, n: int) -> np.ndarray:
    """Of many points n, each the farthest from those before it."""
    chosen = [int(np.argmax(points[:, 0]))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < n:
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(nearest)))
    return points[chosen]


def grid(positions: np.ndarray) -> np.ndarray:
    """Points (n_points, 3), Å, on the shells around a molecule."""
    radii = np.array([RADII[e] for e in ELEMENTS])
    parts = []
    for scale in SHELLS:
        points = (positions[:, None] + scale * radii[:, None, None] * sphere(400)).reshape(-1, 3)
        distances = np.linalg.norm(points[:, None] - positions, axis=2)
        outside = np.all(distances > scale * radii - 1e-6, axis=1)
        parts.append(spread(points[outside], POINTS_PER_SHELL))
    return np.concatenate(parts)


def potential(positions: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HF/6-31G*: the potential at points (n_points,) in volt, and the dipole (3,) in e Å."""
    atoms = list(zip(ELEMENTS, positions.tolist(), strict=True))
    molecule = gto.M(atom=atoms, basis="6-31G*", unit="Angstrom", verbose=0)
    field = scf.RHF(molecule).run(conv_tol=1e-11)
    assert field.converged
    electrons = np.einsum("pij,ij->p", molecule.intor("int1e_grids", grids=points / BOHR), field.make_rdm1())
    distances = np.linalg.norm(points[:, None] - positions, axis=2) / BOHR
    volts = HARTREE * (np.sum(molecule.atom_charges() / distances, axis=1) - electrons)
    return volts, BOHR * field.dip_moment(unit="AU", verbose=0)


def main() -> None:
    coord = np.load(HERE / "ethanol/valid/300K/set.000/coord.npy").reshape(-1, 9, 3)[list(FRAMES)]
    points = np.array([grid(x) for x in coord])
    esp, dipole = map(np.array, zip(*map(potential, coord, points), strict=True))
    write_system(HERE / "ethanol_esp", ELEMENTS, TYPE_MAP, coord=coord, esp_grid=points, esp=esp, dipole=dipole)


if __name__ == "__main__":
    main()
