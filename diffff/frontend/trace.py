"""Which row of which file is behind each term of a system: OpenMM itself tells.

OpenMM reads a copy of the files in which every parameter is replaced by the number of its row, counted from 1, and
builds a System from it. What stands in the System as the length of a bond is then the row of that bond. All that OpenMM
does to find a row (templates, patches, wildcards, orders of impropers, precedence) is done by OpenMM, without a second
implementation and without a change to its code. No energy is ever computed with that System.
"""

import io
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element

Marks = Mapping[tuple[Element, Key], str]
_LEFT_OUT = ("Script", "InitializationScript", "Include", "Info")


@dataclass(frozen=True, eq=False)
class Trace:
    """A System whose parameters are the numbers of rows.

    Attributes:
        system: its XML.
        topology: of openmm.app.
        bonds: shape ``(n, 2)``, the bonds of the topology.
        angles: shape ``(n, 3)``.
        propers: shape ``(n, 4)``.
        constrained_bonds: shape ``(n_bonds,)``, bool.
        constrained_angles: shape ``(n_angles,)``, bool.
        types: type of each atom.
    """

    system: ET.Element
    topology: Any
    bonds: np.ndarray
    angles: np.ndarray
    propers: np.ndarray
    constrained_bonds: np.ndarray
    constrained_angles: np.ndarray
    types: list[str]

    def force(self, kind: str, items: str, columns: Iterable[str]) -> np.ndarray:
        """Numbers of a force of the System, shape ``(n_items, n_columns)``; none if there is no such force.

        Args:
            kind: type of the force, e.g. "HarmonicBondForce".
            items: the list in it, e.g. "Bonds".
            columns: names of the attributes of an item.
        """
        names = list(columns)
        rows = [
            [float(item.attrib[name]) for name in names]
            for force in self.system.iterfind(f"Forces/Force[@type='{kind}']/{items}")
            for item in force
        ]
        return np.array(rows, float).reshape(len(rows), len(names))

    def atom_name(self, index: int) -> str:
        """An atom in words, e.g. "HOH 12 O"."""
        atom = list(self.topology.atoms())[index]
        return f"{atom.residue.name} {atom.residue.id} {atom.name}"

    def describe(self, atoms: Iterable[int]) -> str:
        """Some atoms and their types in words."""
        atoms = list(atoms)
        names, types = (self.atom_name(i) for i in atoms), (self.types[i] for i in atoms)
        return f"{' – '.join(names)} (types {' – '.join(types)})"


class Tracer:
    """Holds the marked copy of a force field as OpenMM reads it, for any number of topologies."""

    def __init__(self, documents: Iterable[Document], marks: Marks) -> None:
        """Have OpenMM read the marked copy.

        Raises:
            InputError: OpenMM does not accept the files.
        """
        self._data = _Data()
        self._field = openmm_force_field(documents, marks)
        self._field.registerGenerator(self._data)

    def trace(self, topology: Any, **options: Any) -> Trace:
        """Build the System of a topology.

        Args:
            topology: of openmm.app.
            options: keywords of OpenMM's ``ForceField.createSystem``.

        Raises:
            InputError: No template fits a residue, or whatever else OpenMM finds wrong.
        """
        import openmm as mm

        try:
            system = self._field.createSystem(topology, removeCMMotion=False, flexibleConstraints=True, **options)
        except Exception as error:  # OpenMM raises all kinds
            raise InputError(f"OpenMM cannot apply the force field: {error}") from error
        data = self._data.last
        return Trace(
            system=ET.fromstring(mm.XmlSerializer.serialize(system)),
            topology=topology,
            bonds=np.array([(b.atom1, b.atom2) for b in data.bonds], int).reshape(-1, 2),
            angles=np.array(data.angles, int).reshape(-1, 3),
            propers=np.array(data.propers, int).reshape(-1, 4),
            constrained_bonds=np.array([b.isConstrained for b in data.bonds], bool),
            constrained_angles=np.array(data.isAngleConstrained, bool),
            types=[data.atomType[atom] for atom in data.atoms],
        )


class _Data:
    """A generator that adds no force, but remembers what OpenMM found out about the topology."""

    last: Any = None

    def createForce(self, system: Any, data: Any, method: Any, cutoff: Any, args: Any) -> None:  # noqa: N802
        self.last = data
        args.get("flexibleConstraints", False)  # OpenMM refuses arguments that nobody looks at


def openmm_force_field(documents: Iterable[Document], changes: Marks, *, scripts: bool = False) -> Any:
    """OpenMM's ForceField of some files with some values changed, without their scripts unless wanted.

    Raises:
        InputError: OpenMM does not accept the files.
    """
    import openmm.app

    left_out = [tag for tag in _LEFT_OUT if not (scripts and "Script" in tag)]
    documents = list(documents)
    copies = [io.BytesIO(ET.tostring(_copy(document.root, changes, left_out))) for document in documents]
    try:
        return openmm.app.ForceField(*copies)
    except Exception as error:
        files = ", ".join(str(document.path) for document in documents)
        raise InputError(f"OpenMM cannot read the force field ({files}): {error}") from error


def _copy(element: Element, changes: Marks, left_out: Iterable[str]) -> ET.Element:
    attributes = {name: changes.get((element, name), value) for name, value in element.attributes.items()}
    copy = ET.Element(element.tag, attributes)
    copy.text = element.text
    if element.tag == "Map":
        copy.text = " ".join(changes.get((element, i), word) for i, word in enumerate(element.text.split()))
    copy.extend(_copy(child, changes, ()) for child in element.children if child.tag not in left_out)
    return copy
