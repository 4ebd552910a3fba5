"""GFN2-xTB labels in the units of DeePMD-kit: Å, eV, eV/Å (shared by the scripts beside it).

GFN2-xTB: C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176,
as implemented in tblite (https://github.com/tblite/tblite).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process: frames and trajectories run side by side

from collections.abc import Sequence

import numpy as np
from tblite.interface import Calculator

BOHR = 0.529177210903  # Å, CODATA 2018
HARTREE = 27.211386245988  # eV, CODATA 2018
ACCURACY = 0.01  # tblite's convergence factor; 0.01 converges the energy to 1e-8 Hartree
ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8}


class GFN2:
    """Energy, forces and virial of one set of atoms; follows a trajectory from the previous wave function.

    Args:
        elements: chemical symbol of each atom.
        box: (3, 3) Å, rows are the lattice vectors; None for a molecule in vacuum.
    """

    def __init__(self, elements: Sequence[str], positions: np.ndarray, box: np.ndarray | None = None) -> None:
        numbers = np.array([ATOMIC_NUMBERS[e] for e in elements])
        lattice = None if box is None else {"lattice": box / BOHR, "periodic": np.array([True, True, True])}
        self._calculator = Calculator("GFN2-xTB", numbers, positions / BOHR, **(lattice or {}))
        self._calculator.set("verbosity", 0)
        self._calculator.set("accuracy", ACCURACY)
        self._last = None

    def __call__(self, positions: np.ndarray, box: np.ndarray | None = None) -> tuple[float, np.ndarray, np.ndarray]:
        """Label one frame.

        Args:
            positions: (n_atoms, 3) Å.
            box: (3, 3) Å, where the box was given at the start.

        Returns:
            energy in eV, forces -dE/dr (n_atoms, 3) in eV/Å, virial -dE/d(strain) (3, 3) in eV. tblite's own `virial`
            is dE/d(strain), so the sign changes.
        """
        self._calculator.update(positions / BOHR, None if box is None else box / BOHR)
        self._last = self._calculator.singlepoint(self._last)
        energy = float(self._last.get("energy")) * HARTREE
        forces = -self._last.get("gradient") * HARTREE / BOHR
        return energy, forces, -self._last.get("virial") * HARTREE

    def dipole(self) -> np.ndarray:
        """The dipole of the frame that was labelled last, (3,) e Å; of a molecule without charge."""
        return self._last.get("dipole") * BOHR
