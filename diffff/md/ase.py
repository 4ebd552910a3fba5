"""A calculator for ASE, the atomic simulation environment (doi:10.1088/1361-648X/aa680e)."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.md.elements import Binding
from diffff.model import Model
from diffff.potentials.base import AtomicEnergies, Params, Potential
from diffff.space import box_of

try:
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise InputError("ASE is not installed: pip install 'diffff[ase]'.") from error

if TYPE_CHECKING:
    from ase import Atoms

_FORCE = units.EV_PER_ANGSTROM_PER_KJ_PER_MOL_PER_NM


class DiffffCalculator(Calculator):
    """Energy, forces and stress for ``Atoms``, in ASE's units (eV, Å).

    A model serves any atoms of its elements, and follows when they change; a potential serves those it was made for.
    Atoms are periodic along all cell vectors or none; without a cell there is no stress. ``energies``, of the single
    atoms, are there where all terms have them. Stress is ``dE/d(strain) / V``, positive under tension, in Voigt's
    order xx, yy, zz, yz, xz, xy.
    """

    def __init__(
        self,
        model: Model | str | PathLike[str] | None = None,
        *,
        potential: Potential | None = None,
        params: Params | None = None,
        symbols: Sequence[str] | None = None,
        fparam: Sequence[float] | None = None,
        aparam: np.ndarray | None = None,
        skin: float = 0.1,
        dtype: str = "float64",
    ) -> None:
        """Take a model, or a potential with its parameters.

        Args:
            model: a Deep Potential or the path of one.
            potential: of certain atoms; molecules with bonded terms have to be whole in ``Atoms``.
            params: its parameter tree.
            symbols: elements of these atoms, shape ``(n_atoms,)``, to be compared with those of ``Atoms``; None: the
                first ``Atoms`` are taken to be right.
            fparam: frame parameters of a model, shape ``(numb_fparam,)``; those in ``atoms.info`` are not looked at.
            aparam: atomic parameters of a model, shape ``(n_atoms, numb_aparam)``; it then serves the first ``Atoms``.
            skin: nm, how much farther than the cutoff the neighbour list reaches.
            dtype: "float64" or "float32", in which energies are computed.

        Raises:
            InputError: none or both of them, the file is no model, or an option makes no sense.
        """
        super().__init__()
        self._binding = Binding(
            model, potential, params, symbols=symbols, skin=skin, dtype=dtype, fparam=fparam, aparam=aparam
        )
        self.ignored_changes = {"initial_charges", "initial_magmoms"}
        self.implemented_properties = ["energy", "free_energy", "forces", "stress"]
        if potential is None or all(isinstance(term, AtomicEnergies) for term in potential.terms):
            self.implemented_properties.append("energies")

    def calculate(
        self,
        atoms: "Atoms | None" = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute what ASE asks for; called by ASE.

        Raises:
            InputError: an element that the model lacks, other atoms than the potential was made for, periodic along
                some directions only, no cell, molecules cut by the boundary, or the energy is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        here = self.atoms
        if here is None:
            raise InputError("there are no atoms to compute; use atoms.calc = calculator.")
        cell = box_of(here.cell.array, here.pbc)
        box = None if cell is None else cell * units.NM_PER_ANGSTROM
        x = here.get_positions() * units.NM_PER_ANGSTROM
        compute = self._binding.calculator(here.get_chemical_symbols())
        if system_changes or "energy" not in self.results:
            self.results = {}
            energy, forces, virial = compute(x, box)
            energy *= units.EV_PER_KJ_PER_MOL
            self.results.update(energy=energy, free_energy=energy, forces=forces * _FORCE)
            if cell is not None:
                stress = -0.5 * (virial + virial.T) * units.EV_PER_KJ_PER_MOL / here.get_volume()
                self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        if "energies" in properties:
            self.results["energies"] = compute.atomic_energies(x, box) * units.EV_PER_KJ_PER_MOL
