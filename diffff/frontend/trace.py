"""Which row of which file is behind each term of a system: OpenMM itself tells.

OpenMM reads a copy of the files in which every parameter is replaced by the number of its row, counted from 1, and
builds a System from it. What stands in the System as the length of a bond is then the row of that bond. All that OpenMM
does to find a row (templates, patches, wildcards, orders of impropers, precedence) is done by OpenMM, without a second
implementation and without a change to its code. No energy is ever computed with that System.
"""

import gc
import io
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.frontend import scripts, trace_cache
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element

_UNTRACED = ("LennardJonesForce",)  # what it adds to a System does not tell the rows
_KEPT = ("system", "types", "sites", "bonds", "angles", "propers", "constrained_bonds", "constrained_angles")
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
        sites: shape ``(n_sites, 2)``, the atom of each virtual site and the mark of its row, from 0.
        types: type of each atom.
    """

    system: ET.Element
    topology: Any
    bonds: np.ndarray
    angles: np.ndarray
    propers: np.ndarray
    constrained_bonds: np.ndarray
    constrained_angles: np.ndarray
    sites: np.ndarray
    types: list[str]

    def force(self, kind: str, items: str, columns: Iterable[str]) -> np.ndarray:
        """Numbers of a force of the System, shape ``(n_items, n_columns)``; none if there is no such force.

        Args:
            kind: type of the force, e.g. "HarmonicBondForce".
            items: the list in it, e.g. "Bonds".
            columns: names of the attributes of an item.
        """
        names = list(columns)
        lists = self.system.iterfind(f"Forces/Force[@type='{kind}']/{items}")
        numbers = (float(item.attrib[name]) for one in lists for item in one for name in names)
        return np.fromiter(numbers, float).reshape(-1, len(names))

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
        self._documents, self._marks = tuple(documents), marks

    def trace(self, topology: Any, **options: Any) -> Trace:
        """Build the System of a topology.

        Args:
            topology: of openmm.app.
            options: keywords of OpenMM's ``ForceField.createSystem``.

        Raises:
            InputError: OpenMM does not accept the files, no template fits a residue, or whatever else it finds wrong.
        """
        name = trace_cache.key([*self._parts, *trace_cache.topology_parts(topology), _spelled(options)])
        with _no_garbage_collection():
            found = trace_cache.load(name, _KEPT)
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

        field, first = self._field
        try:
            system = field.createSystem(topology, removeCMMotion=False, flexibleConstraints=True, **options)
        except Exception as error:  # OpenMM raises all kinds
            why = f"it does not find {error}" if isinstance(error, KeyError) else error
            raise InputError(f"OpenMM cannot apply the force field: {why}") from error
        data = first.data
        return {
            "system": np.frombuffer(mm.XmlSerializer.serialize(system).encode(), np.uint8),
            "bonds": np.array([(b.atom1, b.atom2) for b in data.bonds], int).reshape(-1, 2),
            "angles": np.array(data.angles, int).reshape(-1, 3),
            "propers": np.array(data.propers, int).reshape(-1, 4),
            "constrained_bonds": np.array(first.constrained_bonds, bool),
            "constrained_angles": np.array(first.constrained_angles, bool),
            "sites": np.array(first.sites, int).reshape(-1, 2),
            "types": np.array([data.atomType[atom] for atom in data.atoms], str),
        }

    @cached_property
    def _field(self) -> tuple[Any, "_First"]:
        of_residues = {
            atom: {key: mark for key in atom.attributes if (mark := self._marks.get((atom, key))) is not None}
            for document in self._documents
            for section in ("Residues", "Patches")
            for atoms in document.root.find_all(section)
            for atom in atoms.walk()
        }
        of_residues = {atom: marks for atom, marks in of_residues.items() if marks and atom.tag != "VirtualSite"}
        sites = {
            int(mark): site.attributes[str(key)]
            for (site, key), mark in self._marks.items()
            if site.tag == "VirtualSite"
        }
        marks = {place: mark for place, mark in self._marks.items() if place[0] not in of_residues}
        marks |= {(atom, _First.NUMBER): str(i) for i, atom in enumerate(of_residues)}
        first = _First([{key: float(mark) for key, mark in found.items()} for found in of_residues.values()], sites)
        try:
            field = openmm_force_field(self._documents, marks, without=_UNTRACED, first=first)
        except InputError:
            openmm_force_field(self._documents, {}, without=_UNTRACED)  # the same error about the numbers of the user
            raise
        first.learn(field)
        return field, first

    @cached_property
    def _parts(self) -> list[bytes | str]:
        """What the traces depend on besides the topology and the options."""
        import openmm as mm

        marks = " ".join(f"{element.byte}/{key}/{mark}" for (element, key), mark in self._marks.items())
        return [mm.__version__, *(document.data for document in self._documents), marks]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python looks for cycles again and again while a million small objects come to be: half the time of a trace."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _spelled(options: Mapping[str, Any]) -> str:
    """The options in words, residues by their numbers."""
    words = {
        key: {residue.index: name for residue, name in value.items()} if key == "residueTemplates" else str(value)
        for key, value in options.items()
    }
    return str(sorted(words.items()))


class _First:
    """A generator that adds no force. It runs before all others and prepares what OpenMM knows about a topology.

    Charges and virtual sites of residues get their marks here, since templates that differ by them would no longer be
    the same template twice. Constraints are noted and taken away: their lengths would be marks, which contradict each
    other.
    """

    NUMBER = "diffff"  # an attribute of the atoms of residues in the marked copy

    def __init__(self, marks: Sequence[Mapping[str, float]], sites: Mapping[int, str]) -> None:
        """Take the marks of each atom of a residue or patch that has some, and what each mark of a site replaced."""
        self._marks, self._of_parameters, self._sites = marks, {}, sites

    def learn(self, field: Any) -> None:
        """Note which parameters belong to which atom, and make them and the sites what they were."""
        atoms = [atom for template in field._templates.values() for atom in template.atoms]
        sites = [site for template in field._templates.values() for site in template.virtualSites]
        for patch in field._patches.values():
            atoms += [atom for kind in (patch.addedAtoms, patch.changedAtoms) for part in kind for atom in part]
            sites += [site for part in patch.virtualSites for site in part]
        for atom in atoms:
            if self.NUMBER in atom.parameters:
                self._of_parameters[id(atom.parameters)] = self._marks[int(atom.parameters.pop(self.NUMBER))]
        for site in sites:
            numbers = site.localPos if site.type == "localCoords" else site.weights
            site.diffff = int(numbers[0])  # goes along where OpenMM copies a site
            numbers[0] = float(self._sites[site.diffff])

    def createForce(self, system: Any, data: Any, method: Any, cutoff: Any, args: Any) -> None:  # noqa: N802
        """Called by OpenMM when all templates have been found."""
        args.get("flexibleConstraints", False)  # OpenMM refuses arguments that nobody looks at
        self.data = data
        data.atomParameters = {
            atom: {**parameters, **self._of_parameters.get(id(parameters), {})}
            for atom, parameters in data.atomParameters.items()
        }
        self.sites = [(atom.index, site.diffff - 1) for atom, (site, _, _) in data.virtualSites.items()]
        self.constrained_bonds = [bond.isConstrained for bond in data.bonds]
        self.constrained_angles = list(data.isAngleConstrained)
        for bond in data.bonds:
            bond.isConstrained = False
        data.isAngleConstrained = [False] * len(data.angles)


def openmm_force_field(
    documents: Iterable[Document],
    changes: Marks,
    *,
    without: Iterable[str] = (),
    foreign_scripts: bool = False,
    first: Any = None,
) -> Any:
    """OpenMM's ForceField of some files with some values changed.

    Args:
        documents: the files.
        changes: the values.
        without: sections to leave out.
        foreign_scripts: keep scripts that diffff does not know. They are Python code.
        first: a generator that runs before those of the files.

    Raises:
        InputError: OpenMM does not accept the files.
    """
    import openmm.app

    documents = list(documents)
    of_element: dict[Element, dict[Key, str]] = defaultdict(dict)
    for (element, key), value in changes.items():
        of_element[element][key] = value
    copies = []
    for document in documents:
        root = ET.Element(document.root.tag)
        for section in document.root.children:
            foreign = section.tag in scripts.TAGS and not scripts.purpose(section)
            if section.tag not in (*_LEFT_OUT, *without) and (foreign_scripts or not foreign):
                root.append(_copy(section, of_element))
        copies.append(io.BytesIO(ET.tostring(root)))
    try:
        field = openmm.app.ForceField()
        if first is not None:
            field.registerGenerator(first)
        field.loadFile(tuple(copies))
        return field
    except Exception as error:
        files = ", ".join(str(document.path) for document in documents)
        raise InputError(f"OpenMM cannot read the force field ({files}): {error}") from error


def _copy(element: Element, changes: Mapping[Element, Mapping[Key, str]]) -> ET.Element:
    new = changes.get(element, {})
    copy = ET.Element(element.tag, {**element.attributes, **{k: text for k, text in new.items() if isinstance(k, str)}})
    copy.text = element.text
    if numbers := {i: text for i, text in new.items() if isinstance(i, int)}:
        if element.tag in scripts.TAGS:
            copy.text = scripts.respelled(element, numbers)
        else:
            copy.text = " ".join(numbers.get(i, word) for i, word in enumerate(element.text.split()))
    copy.extend(_copy(child, changes) for child in element.children)
    return copy
