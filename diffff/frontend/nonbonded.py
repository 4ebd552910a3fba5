"""``<NonbondedForce>``: Lennard-Jones rows, charges of atom types or of residues, and the scales of 1-4 pairs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np

from diffff.errors import InputError
from diffff.frontend.group import Options, Parameters, Rows, numbered, row_numbers, rows_of
from diffff.frontend.rows import Column
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.nonbonded import Method
from diffff.potentials.nonbonded_setup import nonbonded

_UNITS = {"charge": "e", "sigma": "nm", "epsilon": "kJ/mol", "coulomb14scale": "1", "lj14scale": "1"}
_SCALES = ("coulomb14scale", "lj14scale")


@dataclass(frozen=True, eq=False)
class NonbondedRows:
    """The tag in all files. Where charges belong to residues, their rows follow those of the atom types."""

    parameters: Parameters
    dispersion_correction: bool
    name: str = "NonbondedForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "NonbondedRows":
        """Its rows in all files.

        Raises:
            InputError: a number is missing, or the sections contradict each other.
        """
        documents = tuple(documents)
        sections: Rows = [(d, section) for d in documents for section in d.root.find_all(cls.name)]
        atoms = rows_of(documents, cls.name, ["Atom"])
        of_residues = {
            row.attributes.get("name") for _, row in rows_of(documents, cls.name, ["UseAttributeFromResidue"])
        }
        if wrong := of_residues - {"charge"}:
            document, section = sections[0]
            raise InputError(
                f"{document.where(section)}: UseAttributeFromResidue {sorted(map(str, wrong))} is not supported; only "
                "charges may stand in the residues. Give sigma and epsilon in <Atom …> rows."
            )
        charged = [(d, row) for d, row in atoms if "charge" in row.attributes]
        if of_residues:
            charged += _residue_atoms(documents)
        columns = {
            "charge": Column.of_attribute(charged, "charge"),
            "sigma": Column.of_attribute(atoms, "sigma"),
            "epsilon": Column.of_attribute(atoms, "epsilon"),
            **{name: _same(Column.of_attribute(sections, name)) for name in _SCALES},
        }
        parameters = Parameters(columns, _UNITS, together=frozenset(_SCALES))
        return cls(parameters, _dispersion_correction(sections))

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`. With scales of 1 and no zeros, a 1-4 pair is told from an excluded one by its numbers."""
        columns = self.parameters.columns
        marks = {key: mark for name in ("charge", "sigma", "epsilon") for key, mark in numbered(columns[name]).items()}
        return marks | {(place.element, place.key): "1" for name in _SCALES for place in columns[name].places}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        particles = trace.force(self.name, "Particles", ["q", "sig"])
        pairs = trace.force(self.name, "Exceptions", ["p1", "p2", "q"])
        scaled = pairs[:, 2] != 0.0
        correction = options.dispersion_correction
        term = nonbonded(
            row_numbers(particles[:, 0]),
            row_numbers(particles[:, 1]),
            excluded=pairs[~scaled, :2].astype(np.int32),
            pairs14=pairs[scaled, :2].astype(np.int32),
            method=cast(Method, options.nonbonded_method),
            cutoff=options.nonbonded_cutoff,
            box=options.box,
            switch_distance=options.switch_distance,
            ewald_error_tolerance=options.ewald_error_tolerance,
            dispersion_correction=self.dispersion_correction if correction is None else correction,
        )
        return [term]


def _residue_atoms(documents: Iterable[Document]) -> Rows:
    """The atoms of all residues and patches that have a charge."""
    return [
        (document, atom)
        for document in documents
        for section, kinds in (("Residues", ("Atom",)), ("Patches", ("AddAtom", "ChangeAtom")))
        for group in document.root.find_all(section)
        for residue in group.children
        for kind in kinds
        for atom in residue.find_all(kind)
        if "charge" in atom.attributes
    ]


def _same(column: Column) -> Column:
    """A column that has to be one number in all sections, to the tolerance of OpenMM.

    Raises:
        InputError: it is not.
    """
    for place, number in zip(column.places, column.initial, strict=True):
        if abs(number - column.initial[0]) > 1e-5:
            raise InputError(
                f"{place} is {place.old}, but {column.places[0]} is {column.places[0].old}. Files with different "
                "scales cannot be used together."
            )
    return column


def _dispersion_correction(sections: Rows) -> bool:
    """What the files say about the long-range correction; OpenMM would evaluate the attribute as Python code."""
    given = {}
    for document, section in sections:
        if (text := section.attributes.get("useDispersionCorrection")) is not None:
            if text not in ("True", "False"):
                raise InputError(
                    f'{document.where(section)}: useDispersionCorrection is "{text}"; write True or False.'
                )
            given[text] = document.where(section)
    if len(given) > 1:
        raise InputError(f"useDispersionCorrection is True in {given['True']} but False in {given['False']}.")
    return "False" not in given
