"""Where a simulation begins: atoms, positions and box, from a file of the field."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from diffff import units
from diffff.data.folders import find_systems
from diffff.data.systems import data_type_map, read_systems
from diffff.errors import InputError
from diffff.files import file_and_group
from diffff.frontend.reference import periodic_box, read_structure, symbols_of
from diffff.neighbors import checked
from diffff.space import box_of

_OF_OPENMM = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx")
_OF_ASE = {".xyz": "extxyz", ".extxyz": "extxyz", ".vasp": "vasp", ".gen": "gen"}


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms somewhere.

    Attributes:
        symbols: of the elements, or other names of types; None for what has no element, such as a virtual site.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)``, nm, rows are the lattice vectors; None without periodicity.
        topology: ``openmm.app.Topology``, if the file tells residues and bonds; its box is the box here.
    """

    symbols: tuple[str | None, ...]
    positions: np.ndarray
    box: np.ndarray | None
    topology: Any = None

    @property
    def bonds(self) -> np.ndarray:
        """Pairs of atoms that the topology calls bonded, shape ``(n_bonds, 2)``."""
        bonds = [] if self.topology is None else [(a.index, b.index) for a, b in self.topology.bonds()]
        return np.array(bonds, int).reshape(-1, 2)

    def with_box(self, box: np.ndarray | None) -> "Structure":
        """The same atoms in another box ``(3, 3)``, nm, or in none.

        Raises:
            InputError: the box spans no volume, or is not one that a topology can have.
        """
        checked(self.positions, box)
        topology = deepcopy(self.topology)
        if topology is not None:
            try:
                topology.setPeriodicBoxVectors(None if box is None else [[float(x) for x in row] for row in box])
            except ValueError as error:
                raise InputError(f"the box is {np.asarray(box).tolist()} nm: {error}") from error
        return replace(self, box=box, topology=topology)

    def molecules(self) -> np.ndarray:
        """Number of the molecule of each atom, shape ``(n_atoms,)``: what bonds connect; a site is of its residue.

        Example:
            >>> Structure(("H", "H", "He"), np.zeros((3, 3)), None).molecules()
            array([0, 1, 2], dtype=int32)
        """
        return connected_components(self._graph(), directed=False)[1]

    def whole(self) -> "Structure":
        """The same atoms, molecules in one piece: each atom is the image that is nearest to its bonded neighbour."""
        if self.box is None or not len(self.bonds):
            return self
        x, inverse, n_atoms = self.positions.copy(), np.linalg.inv(self.box), len(self.symbols)
        i, j = self._graph().nonzero()
        first = np.unique(self.molecules(), return_index=True)[1]
        i, j = np.append(i, np.full(len(first), n_atoms)), np.append(j, first)  # one more, with a bond to each molecule
        graph = coo_array((np.ones(len(i)), (i, j)), shape=(n_atoms + 1, n_atoms + 1)).tocsr()
        order, before = breadth_first_order(graph, n_atoms, directed=False)
        for atom in order:
            if atom < n_atoms and before[atom] < n_atoms:
                apart = x[atom] - x[before[atom]]
                x[atom] -= np.round(apart @ inverse) @ self.box
        return replace(self, positions=x)

    def _graph(self) -> csr_array:
        pairs = [self.bonds]
        if self.topology is not None:  # virtual sites have no bonds
            for residue in self.topology.residues():
                atoms = list(residue.atoms())
                pairs += [np.array([[atoms[0].index, a.index]]) for a in atoms[1:] if a.element is None]
        i, j = np.concatenate(pairs).T
        n_atoms = len(self.symbols)
        return coo_array((np.ones(len(i)), (i, j)), shape=(n_atoms, n_atoms)).tocsr()


def read(path: str | PathLike[str], *, frame: int = 0, extra_particles: Sequence[str] = ()) -> Structure:
    """Read a structure.

    Args:
        path: PDB (.pdb), mmCIF (.cif), extended XYZ (.xyz, .extxyz), VASP's POSCAR, DFTB+'s .gen, or a data set of
            DeePMD-kit (a directory with type.raw, or file.hdf5#/group).
        frame: number of the frame, from 0; a negative one counts from the end. PDB and mmCIF: 0.
        extra_particles: force-field files whose templates have sites that a PDB or mmCIF file lacks; they are added.

    Raises:
        InputError: the file is missing, of another kind, or OpenMM, ASE or diffff cannot make sense of it.
    """
    kind, name = Path(path).suffix.lower(), Path(path).name.upper()
    if kind in _OF_OPENMM:
        if frame:
            raise InputError(f"{path}: frame is {frame}, but of PDB and mmCIF files the first model is read only.")
        return _from_openmm(path, extra_particles)
    if extra_particles:
        raise InputError(f"{path}: extra particles are added to residues, which only PDB and mmCIF files have.")
    file, _ = file_and_group(str(path))
    if not file.exists():
        raise InputError(f"{path}: there is no such file or directory.")
    if file.is_dir() or file.suffix.lower() in (".hdf5", ".h5"):
        return _from_data_set(str(path), frame)
    if kind in _OF_ASE or name.startswith(("POSCAR", "CONTCAR")):
        return _from_ase(Path(path), frame, _OF_ASE.get(kind, "vasp"))
    known = ", ".join((*_OF_OPENMM, *_OF_ASE, "POSCAR"))
    raise InputError(f"{path}: no format of structures is known by this name. Give {known}, or a data set.")


def _from_openmm(path: str | PathLike[str], extra_particles: Sequence[str]) -> Structure:
    topology, positions = read_structure(path, extra_particles)
    return Structure(symbols_of(topology), positions, periodic_box(topology), topology)


def _from_data_set(path: str, frame: int) -> Structure:
    folders = find_systems(path)
    if len(folders) > 1:
        raise InputError(f"{path}: there are {len(folders)} systems below it; name one, such as {folders[0].name}.")
    (system,) = read_systems(path, type_map := data_type_map(path), labels=())
    if not -system.n_frames <= frame < system.n_frames:
        raise InputError(f"{path}: there is no frame {frame}; it has {system.n_frames}, numbered from 0.")
    one = range(system.n_frames)[frame]
    types = np.where(system.real[one], system.types, -1) if system.real is not None else system.types
    in_file = system.in_file_order(types[None] + 1, slice(one, one + 1))[0] - 1
    if np.any(in_file < 0):
        raise InputError(f"{path}: frame {frame} has virtual atoms, which cannot be simulated.")
    positions = system.in_file_order(system.positions[one : one + 1], slice(one, one + 1))[0]
    box = None if system.boxes is None else system.boxes[one] / units.ANGSTROM_PER_NM
    return Structure(tuple(type_map[t] for t in in_file), positions / units.ANGSTROM_PER_NM, box)


def _from_ase(path: Path, frame: int, kind: str) -> Structure:
    try:
        import ase.io
    except ImportError:
        raise InputError(f"{path}: ASE reads this format, but is not installed: pip install diffff[ase].") from None
    try:
        atoms: Any = ase.io.read(path, index=frame, format=kind)
        cell, periodic = np.asarray(atoms.cell.array, float), atoms.pbc
    except Exception as error:  # ASE raises all kinds
        raise InputError(
            f"{path}: ASE cannot read frame {frame} of it as {kind}: {error or type(error).__name__}"
        ) from error
    try:
        box = box_of(cell / units.ANGSTROM_PER_NM, periodic)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.positions / units.ANGSTROM_PER_NM, box)
