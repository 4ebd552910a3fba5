"""Which row of which file is behind each term of a system: OpenMM itself tells.

OpenMM reads a copy of the files in which every parameter is replaced by the number of its row, counted from 1, and
builds a System from it. What stands in the System as the length of a bond is then the row of that bond. All that OpenMM
does to find a row (templates, patches, wildcards, orders of impropers, precedence) is done by OpenMM, without a second
implementation and without a change to its code. No energy is ever computed with that System.
"""

import io
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.frontend import scripts, trace_cache
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element

_UNTRACED = ("LennardJonesForce",)  # what it adds to a System does not tell the rows
Marks = Mapping[tuple[Element, Key], str]
_LEFT_OUT = ("Include", "Info")  # they have been read already


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

    def option(self, kind: str, name: str) -> str:
        """A setting of the force of that kind, of which the System has one."""
        force = self.system.find(f"Forces/Force[@type='{kind}']")
        assert force is not None
        return force.attrib[name]

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
        """Take the files; OpenMM reads their marked copy when it is needed first."""
        self._documents, self._marks, self._data = tuple(documents), marks, _Data()

    def trace(self, topology: Any, **options: Any) -> Trace:
        """Build the System of a topology.

        Args:
            topology: of openmm.app.
            options: keywords of OpenMM's ``ForceField.createSystem``.

        Raises:
            InputError: OpenMM does not accept the files, no template fits a residue, or whatever else it finds wrong.
        """
        name = trace_cache.key([*self._parts, *trace_cache.topology_parts(topology), _spelled(options)])
        found = trace_cache.load(name)
        if found is None:
            begun = time.monotonic()
            found = self._found(topology, options)
            if time.monotonic() - begun > trace_cache.SLOW:
                trace_cache.save(name, found)
        arrays = {key: array for key, array in found.items() if key not in ("system", "types")}
        system, types = ET.fromstring(found["system"].tobytes()), found["types"].tolist()
        return Trace(system=system, topology=topology, types=types, **arrays)

    def _found(self, topology: Any, options: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """The arrays of the `Trace`, with the System's XML and the types of the atoms as arrays too."""
        import openmm as mm

        field = self._field
        try:
            system = field.createSystem(topology, removeCMMotion=False, flexibleConstraints=True, **options)
        except Exception as error:  # OpenMM raises all kinds
            raise InputError(f"OpenMM cannot apply the force field: {error}") from error
        data = self._data.last
        return {
            "system": np.frombuffer(mm.XmlSerializer.serialize(system).encode(), np.uint8),
            "bonds": np.array([(b.atom1, b.atom2) for b in data.bonds], int).reshape(-1, 2),
            "angles": np.array(data.angles, int).reshape(-1, 3),
            "propers": np.array(data.propers, int).reshape(-1, 4),
            "constrained_bonds": np.array([b.isConstrained for b in data.bonds], bool),
            "constrained_angles": np.array(data.isAngleConstrained, bool),
            "types": np.array([data.atomType[atom] for atom in data.atoms], str),
        }

    @cached_property
    def _field(self) -> Any:
        field = openmm_force_field(self._documents, self._marks, without=_UNTRACED)
        field.registerGenerator(self._data)
        return field

    @cached_property
    def _parts(self) -> list[bytes | str]:
        """What the traces depend on besides the topology and the options."""
        import openmm as mm

        marks = " ".join(f"{element.byte}/{key}/{mark}" for (element, key), mark in self._marks.items())
        return [mm.__version__, *(document.data for document in self._documents), marks]


def _spelled(options: Mapping[str, Any]) -> str:
    """The options in words, residues by their numbers."""
    words = {
        key: {residue.index: name for residue, name in value.items()} if key == "residueTemplates" else str(value)
        for key, value in options.items()
    }
    return str(sorted(words.items()))


class _Data:
    """A generator that adds no force, but remembers what OpenMM found out about the topology."""

    last: Any = None

    def createForce(self, system: Any, data: Any, method: Any, cutoff: Any, args: Any) -> None:  # noqa: N802
        self.last = data
        args.get("flexibleConstraints", False)  # OpenMM refuses arguments that nobody looks at


def openmm_force_field(
    documents: Iterable[Document], changes: Marks, *, without: Iterable[str] = (), foreign_scripts: bool = False
) -> Any:
    """OpenMM's ForceField of some files with some values changed.

    Args:
        documents: the files.
        changes: the values.
        without: sections to leave out.
        foreign_scripts: keep scripts that diffff does not know. They are Python code.

    Raises:
        InputError: OpenMM does not accept the files.
    """
    import openmm.app

    documents = list(documents)
    copies = []
    for document in documents:
        root = ET.Element(document.root.tag)
        for section in document.root.children:
            foreign = section.tag in scripts.TAGS and not scripts.purpose(section)
            if section.tag not in (*_LEFT_OUT, *without) and (foreign_scripts or not foreign):
                root.append(_copy(section, changes))
        copies.append(io.BytesIO(ET.tostring(root)))
    try:
        return openmm.app.ForceField(*copies)
    except Exception as error:
        files = ", ".join(str(document.path) for document in documents)
        raise InputError(f"OpenMM cannot read the force field ({files}): {error}") from error


def _copy(element: Element, changes: Marks) -> ET.Element:
    attributes = {name: changes.get((element, name), value) for name, value in element.attributes.items()}
    copy = ET.Element(element.tag, attributes)
    copy.text = element.text
    if element.tag in ("Map", "Function"):
        copy.text = " ".join(changes.get((element, i), word) for i, word in enumerate(element.text.split()))
    elif element.tag in scripts.TAGS:
        numbered = {i: text for (changed, i), text in changes.items() if changed is element and isinstance(i, int)}
        copy.text = scripts.respelled(element, numbered)
    copy.extend(_copy(child, changes) for child in element.children)
    return copy
