"""The model of an input for every topology that the data have, each made once."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffff.fit.ties import Residue, residues_of
from diffff.frontend.forcefield import ForceField
from diffff.frontend.reference import periodic_box, symbols_of
from diffff.input_file import resolve
from diffff.model_input import Bound, Deep, total_of
from diffff.potentials.base import Potential
from diffff.structure import Structure
from diffff.train.parts import FittedXml
from diffff.train.topologies import Topologies


class TopologyModels:
    """A force field, alone, weighted, or in a sum with Deep Potentials that stay as they are.

    Attributes:
        field: the files of the force field.
        topologies: of the systems.
    """

    def __init__(self, parts: Sequence[FittedXml | Deep], factors: Sequence[float], folder: Path) -> None:
        """Read the files of the force field; topologies are read as systems need them.

        Args:
            parts: sections of the input; one of them is a force field.
            factors: theirs in the sum.
            folder: of the input, beside which files are looked for.
        """
        xml = next(part for part in parts if isinstance(part, FittedXml))
        self._parts, self._factors, self._folder = parts, factors, folder
        self.field: ForceField = xml.force_field(folder)
        self.topologies = Topologies(xml.topology, folder, xml.extra_particles)
        self._bounds: dict[int, Bound] = {}
        self._fragments: dict[Hashable, Potential] = {}

    @property
    def params(self) -> dict[str, Any]:
        """The parameter tree, the same for all topologies that have been asked for."""
        return next(iter(self._bounds.values())).params

    @property
    def files(self) -> list[Path]:
        """All that has been read: the force field, Deep Potentials, and topologies that have been asked for."""
        deep = [resolve(part.file, self._folder) or part.file for part in self._parts if isinstance(part, Deep)]
        return [*(document.path for document in self.field.documents), *self.topologies.structures, *map(Path, deep)]

    def structure(self, system: str) -> Structure:
        """The topology of a system, see `Topologies.of`."""
        return self.topologies.of(system)

    def bound(self, structure: Structure) -> Bound:
        """The model for a topology.

        Raises:
            InputError: it does not fit.
        """
        if id(structure) not in self._bounds:
            self._bounds[id(structure)] = self._made(structure)
        return self._bounds[id(structure)]

    def fragment(self, topology: Any) -> Potential:
        """The potential of ``openmm.app.Topology`` of a fragment; one for all fragments that are alike."""
        key = _content(topology)
        if key not in self._fragments:
            nowhere = np.zeros((topology.getNumAtoms(), 3))
            structure = Structure(symbols_of(topology), nowhere, periodic_box(topology), topology)
            self._fragments[key] = self._made(structure).potential
        return self._fragments[key]

    def residues(self) -> list[Residue]:
        """The residues of all topologies that have been asked for and the rows of their charges, for ties."""
        return [
            residue
            for structure in self.topologies.structures.values()
            for residue in residues_of(self.bound(structure).potential, structure.topology)
        ]

    def _made(self, structure: Structure) -> Bound:
        return total_of([self._part(part, structure) for part in self._parts], self._factors)

    def _part(self, part: FittedXml | Deep, structure: Structure) -> Bound:
        if isinstance(part, Deep):
            return part.bound(structure, self._folder)
        return Bound(part.potential(self.field, structure.topology), self.field.params())


def _content(topology: Any) -> Hashable:
    """What two topologies with the same potential have in common."""
    residues = {residue: (residue.name, residue.index, residue.chain.index) for residue in topology.residues()}
    atoms = ((a.name, a.element and a.element.symbol, residues[a.residue]) for a in topology.atoms())
    box = periodic_box(topology)
    bonds = ((bond[0].index, bond[1].index) for bond in topology.bonds())
    return tuple(atoms), tuple(bonds), None if box is None else tuple(box.ravel().tolist())
