"""The other side of a comparison: energies and forces from OpenMM."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.frontend import arguments
from diffff.frontend.files import read_files
from diffff.frontend.forcefield import ForceField, Params
from diffff.frontend.trace import openmm_force_field

Forces = dict[str, tuple[float, np.ndarray]]


@dataclass(frozen=True, eq=False)
class OpenMM:
    """OpenMM with a topology, positions (nm) and options in its own spelling."""

    topology: Any
    positions: np.ndarray
    options: dict[str, Any]
    platform: str

    def of_files(self, files: Sequence[str | PathLike[str]]) -> Any:
        """The System as OpenMM makes it from the files, without diffff."""
        import openmm.app

        return _tried(
            lambda: openmm.app.ForceField(*(str(file) for file in files)).createSystem(self.topology, **self.options)
        )

    def of_params(self, field: ForceField, params: Params) -> Any:
        """The System of the files with other numbers."""
        return field.create_system(self.topology, params, **self.options)

    def forces(self, system: Any) -> tuple[Forces, np.ndarray]:
        """Energy and forces by name of the force, and which particles are not virtual sites."""
        context, kinds = self._context(system)
        found: Forces = {}
        for group, kind in enumerate(kinds):
            state = _tried(lambda group=group: context.getState(getEnergy=True, getForces=True, groups={group}))
            energy, forces = state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)
            before = found.get(kind, (0.0, 0.0))
            found[kind] = (before[0] + energy, before[1] + forces)
        return found, np.array([not system.isVirtualSite(i) for i in range(system.getNumParticles())])

    def energies(self, system: Any) -> np.ndarray:
        """Energy of each force; those that an edit does not change have no part in a difference."""
        context, kinds = self._context(system)
        return np.array(
            [context.getState(getEnergy=True, groups={g}).getPotentialEnergy()._value for g in range(len(kinds))]
        )

    def _context(self, system: Any) -> tuple[Any, list[str]]:
        import openmm as mm

        for group, force in enumerate(system.getForces()):
            force.setForceGroup(group)
        platform = mm.Platform.getPlatformByName(self.platform)
        context = _tried(lambda: mm.Context(system, mm.VerletIntegrator(0.001), platform))
        context.setPositions(self.positions)
        context.computeVirtualSites()
        return context, [force.getName() for force in system.getForces()]


def _tried(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:  # OpenMM raises all kinds
        raise InputError(f"OpenMM refuses: {error}") from error


def openmm_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `ForceField.create_potential` for OpenMM, as far as they are given."""
    given = {name: value for name, value in options.items() if value is not None}
    return {"removeCMMotion": False} | arguments.openmm_options(given)


def safe_platform(box: np.ndarray | None, cutoff: float) -> tuple[str, tuple[str, ...]]:
    """The Reference platform, unless the box is one in which it is known to miss pairs."""
    if box is None or not (box - np.diag(np.diag(box))).any() or (np.diag(box) >= 3 * cutoff).all():
        return "Reference", ()
    return "CPU", (
        "OpenMM's Reference platform misses pairs in a triclinic box with an edge of less than three cutoffs: compared "
        "with the CPU platform, which computes in single precision.",
    )


def read_structure(
    path: str | PathLike[str], extra_particles: Sequence[str | PathLike[str]] = ()
) -> tuple[Any, np.ndarray]:
    """Topology and positions, nm, of a PDB or mmCIF file.

    Args:
        path: the file; names that end in .cif or .pdbx are mmCIF.
        extra_particles: add what the templates of these force-field files have beyond atoms, such as the site of
            four-point water.

    Raises:
        InputError: there is no such file, or OpenMM cannot make sense of it.
    """
    import openmm.app
    from openmm import unit

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a PDB or mmCIF file with all hydrogens.")
    if path.read_bytes()[:256].lstrip().startswith(b"<"):
        raise InputError(f"{path}: is XML, but residues and bonds are read from a PDB or mmCIF file. Give one.")
    reader = openmm.app.PDBxFile if path.suffix.lower() in (".cif", ".pdbx", ".mmcif") else openmm.app.PDBFile
    try:
        model = reader(str(path))
        if extra_particles:
            field = openmm_force_field(read_files(extra_particles), {})  # no script in them runs
            model = openmm.app.Modeller(model.topology, model.positions)
            model.addExtraParticles(field)
    except Exception as error:  # OpenMM raises all kinds
        raise InputError(f"{path}: OpenMM cannot read it: {error or type(error).__name__}") from error
    nm = unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
    return model.topology, np.array(model.positions.value_in_unit(nm), float).reshape(-1, 3)


def in_nm(length: Any) -> float:
    """A length as a number in nm."""
    from openmm import unit

    nm = unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
    return float(length.value_in_unit(nm) if unit.is_quantity(length) else length)


def periodic_box(topology: Any) -> np.ndarray | None:
    """The lattice vectors of a topology as rows, nm; None if it has none."""
    from openmm import unit

    vectors = topology.getPeriodicBoxVectors()
    nm = unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
    return None if vectors is None else np.array(vectors.value_in_unit(nm), float)


def symbols_of(topology: Any) -> tuple[str | None, ...]:
    """Symbols of the elements of a topology's atoms; None for what has none, such as a virtual site."""
    return tuple(None if atom.element is None else atom.element.symbol for atom in topology.atoms())
