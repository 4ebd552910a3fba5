"""Relaxation on the GFN2-xTB surface with some torsions held, by ASE (shared by the scripts beside it)."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixInternals
from ase.optimize import BFGS
from geometry import dihedral
from xtb import GFN2

FMAX = 0.005  # eV/Å
MAX_STEPS = 1000


class _OfASE(Calculator):
    implemented_properties = ("energy", "forces")

    def __init__(self, gfn2: GFN2) -> None:
        super().__init__()
        self._gfn2 = gfn2

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces, _ = self._gfn2(self.atoms.positions)
        self.results = {"energy": energy, "forces": forces}


def relaxed(
    elements: Sequence[str], positions: np.ndarray, held: Mapping[tuple[int, int, int, int], float] | None = None
) -> np.ndarray:
    """Positions (n_atoms, 3), Å, of a minimum, or of one with some dihedrals held.

    Args:
        elements: chemical symbol of each atom.
        positions: the start, Å; the dihedrals to be held have their values already.
        held: four atoms and their dihedral in degrees.

    Raises:
        RuntimeError: no minimum was found, or a dihedral drifted.
    """
    atoms = Atoms(elements, positions)
    atoms.calc = _OfASE(GFN2(elements, positions))
    torsions = [[value % 360.0, list(four)] for four, value in (held or {}).items()]
    if torsions:
        atoms.set_constraint(FixInternals(dihedrals_deg=torsions, epsilon=1e-9))
    if not BFGS(atoms, logfile=None).run(fmax=FMAX, steps=MAX_STEPS):
        raise RuntimeError(f"no minimum within {MAX_STEPS} steps")
    for four, value in (held or {}).items():
        drift = (dihedral(atoms.positions, four) - value + 180.0) % 360.0 - 180.0
        if abs(drift) > 1e-3:
            raise RuntimeError(f"the dihedral {four} drifted by {drift:.4f} degrees")
    return atoms.positions.copy()
