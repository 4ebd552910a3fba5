"""The custom force tags: CustomBondForce, CustomAngleForce, CustomTorsionForce, CustomNonbondedForce, CustomGBForce.

Each section has an energy of its own, so each is a group of its own: the first has the name of its tag, the next
``tag-2``. What stands in a file or a System once is one number in the tree: a global parameter that several sections
have, since OpenMM knows one value of it, and an attribute of residues that several sections use. It belongs to the
first group that has it, NonbondedForce in the case of charges.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from diffff.errors import InputError
from diffff.frontend.custom_force import CustomForce, Range, picked
from diffff.frontend.custom_gb import TAG as _GB
from diffff.frontend.custom_gb import GBSection, check_expressions
from diffff.frontend.group import Options, Parameters, numbered, residue_atoms, row_numbers, rows_of
from diffff.frontend.rows import Column, Place
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.custom_nonbonded import Method

_ROWS = {  # the tags of the rows, and the tag that names their parameters
    "CustomBondForce": (("Bond",), "PerBondParameter"),
    "CustomAngleForce": (("Angle",), "PerAngleParameter"),
    "CustomTorsionForce": (("Proper", "Improper"), "PerTorsionParameter"),
    "CustomNonbondedForce": (("Atom",), "PerParticleParameter"),
    _GB: (("Atom",), "PerParticleParameter"),
}
_NEEDED = {"CustomNonbondedForce": ("energy", "bondCutoff"), _GB: ()}  # attributes of the tag
_TYPES = re.compile(r"(?:class|type)\d?")
_UNIT = "as in the energy"


@dataclass(frozen=True, eq=False)
class CustomSection:
    """One section. In the traced System its energy is its name, by which it is found."""

    parameters: Parameters
    of_rows: tuple[str, ...]  # its own columns with a number for each row
    document: Document
    section: Element
    name: str

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`."""
        columns = [self.parameters.columns[name] for name in self.of_rows]
        found = {key: mark for column in columns for key, mark in numbered(column).items()}
        return {**found, (self.section, "energy"): self.name}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`. OpenMM leaves out what no row matches, whatever ``missing`` says: nothing need have one.

        Raises:
            InputError: the energy is malformed, or uses names that nothing defines.
        """
        forces = trace.system.iterfind(f"Forces/Force[@type='{self.section.tag}']")
        custom = CustomForce.read(next(force for force in forces if force.attrib["energy"] == self.name))
        if not custom.items:
            return []
        method = options.nonbonded_method
        if method not in ("NoCutoff", "CutoffNonPeriodic"):
            method = "CutoffPeriodic"
        try:
            law = custom.law(self.section.attributes["energy"])
            reach = Range(cast(Method, method), options.nonbonded_cutoff) if custom.of_pairs else None
            return [picked(custom, self.name, law, row_numbers(custom.numbers()), reach)]
        except InputError as error:
            raise InputError(f"{self.document.where(self.section)}: {error}") from error


_Section = CustomSection | GBSection


def custom_sections(documents: Iterable[Document]) -> list[_Section]:
    """The groups of all sections in all files.

    Raises:
        InputError: an attribute is missing or without effect, a number is none, or two sections disagree about a
            global parameter.
    """
    documents = tuple(documents)
    found: list[_Section] = []
    owners: dict[str, str] = {}  # of global parameters
    providers = _providers(documents)  # of attributes of residues
    for tag in _ROWS:
        for i, (document, section) in enumerate((d, s) for d in documents for s in d.root.find_all(tag)):
            found.append(_Reader(documents, document, section).read(i, owners, providers))
    return _with_all_places(found)


def _providers(documents: Sequence[Document]) -> dict[str, str]:
    """The groups of other tags that have an attribute of residues as a column."""
    for tag in ("NonbondedForce", "GBSAOBCForce"):
        if "charge" in {row.attributes.get("name") for _, row in rows_of(documents, tag, ["UseAttributeFromResidue"])}:
            return {"charge": tag}
    return {}


@dataclass(frozen=True)
class _Reader:
    """Reads one section."""

    documents: Sequence[Document]
    document: Document
    section: Element

    def read(self, place: int, owners: dict[str, str], providers: dict[str, str]) -> _Section:
        """The group; ``owners`` and ``providers`` get what it is the first to have."""
        name = self.section.tag if place == 0 else f"{self.section.tag}-{place + 1}"
        for attribute in _NEEDED.get(self.section.tag, ("energy",)):
            if attribute not in self.section.attributes:
                raise InputError(f'{self.document.where(self.section)} has no {attribute}. Add {attribute}="…".')
        of_rows, shared = self._of_rows(name, providers)
        columns = dict(of_rows)
        constants = set()
        for element in self.section.find_all("GlobalParameter"):
            parameter = self._named(element, columns, shared)
            if owners.setdefault(parameter, name) == name:
                columns[parameter] = Column.of_attribute([(self.document, element)], "defaultValue")
                constants.add(parameter)
            else:
                shared[parameter] = owners[parameter]
        for element in self.section.find_all("Function"):
            columns[self._named(element, columns, shared)] = Column.of_text(self.document, element)
        units = dict.fromkeys(columns, _UNIT)
        parameters = Parameters(columns, units, together=frozenset(constants), shared=shared)
        if self.section.tag == _GB:
            check_expressions(self.documents, self.document, self.section)
            return GBSection(parameters, tuple(of_rows), self.document, self.section, name, place)
        return CustomSection(parameters, tuple(of_rows), self.document, self.section, name)

    def _of_rows(self, name: str, providers: dict[str, str]) -> tuple[dict[str, Column], dict[str, str]]:
        """The columns with a number for each row, and those that another group has."""
        kinds, naming = _ROWS[self.section.tag]
        rows = [(self.document, row) for kind in kinds for row in self.section.find_all(kind)]
        of_residues = {row.attributes.get("name") for row in self.section.find_all("UseAttributeFromResidue")}
        columns: dict[str, Column] = {}
        shared: dict[str, str] = {}
        for element in self.section.find_all(naming):
            parameter = self._named(element, columns, shared)
            if parameter not in of_residues:
                columns[parameter] = Column.of_attribute(rows, parameter)
            elif providers.setdefault(parameter, name) == name:
                columns[parameter] = Column.of_attribute(residue_atoms(self.documents, parameter), parameter)
            else:
                shared[parameter] = providers[parameter]
        known = {*columns, *shared} - of_residues
        for document, row in rows:
            if useless := [a for a in row.attributes if a not in known and not _TYPES.fullmatch(a)]:
                raise InputError(
                    f'{document.where(row)} has an attribute "{useless[0]}" that is no <{naming}> of the section, so '
                    "it would be without effect. Correct or remove it."
                )
        return columns, shared

    def _named(self, element: Element, *taken: dict) -> str:
        """The name that an element gives to something.

        Raises:
            InputError: none, or one that has been given.
        """
        name = element.attributes.get("name", "")
        if not name or any(name in names for names in taken):
            what = f'the name "{name}" again' if name else "no name"
            raise InputError(f"{self.document.where(element)} has {what}. Give it one of its own.")
        return name


def _with_all_places(sections: Sequence[_Section]) -> list[_Section]:
    """Global parameters that several sections have, with all their places in the group that has the number.

    Raises:
        InputError: they are not the same everywhere.
    """
    found = []
    for section in sections:
        columns = dict(section.parameters.columns)
        for parameter in section.parameters.together:
            column = columns[parameter]
            for other in sections:
                if other.parameters.shared.get(parameter) == section.name:
                    column = _joined(column, other, parameter)
            columns[parameter] = column
        found.append(replace(section, parameters=replace(section.parameters, columns=columns)))
    return found


def _joined(column: Column, other: _Section, parameter: str) -> Column:
    element = next(e for e in other.section.find_all("GlobalParameter") if e.attributes["name"] == parameter)
    place = Place(other.document, element, "defaultValue", element.attributes.get("defaultValue"))
    if Column.of_places([place]).initial[0] != column.initial[0]:
        first = column.places[0]
        raise InputError(
            f'{place} of "{parameter}" is {place.old}, but {first} is {first.old}. OpenMM knows one value of a global '
            "parameter; rename one of them, or make them equal."
        )
    return Column.of_places([*column.places, place])
