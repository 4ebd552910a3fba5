"""The impropers that a script in CHARMM's files adds by residue and atom names; their numbers stand in its tables."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from diffff.frontend import scripts
from diffff.frontend.group import Group, Options, Parameters, Rows, constant, numbered, row_numbers
from diffff.frontend.rows import Column, Place
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.custom import CustomEnergy, CustomTorsion
from diffff.potentials.torsions import PeriodicTorsion

_HARMONIC = "k*min(d, 2*pi - d)^2; d = abs(theta - theta0); pi = 3.141592653589793"


@dataclass(frozen=True, eq=False)
class HarmonicImpropers:
    """``k min(d, 2 pi - d)^2`` with ``d = |theta - theta0|``, from the table ``harmonic_improper_types``."""

    parameters: Parameters
    name: str = "CHARMMHarmonicImpropers"

    @classmethod
    def read(cls, sections: Rows) -> "HarmonicImpropers":
        """The rows of the tables of some scripts."""
        columns = _columns(sections, "harmonic_improper_types", ["k", "theta0"])
        return cls(Parameters(columns, {"k": "kJ/mol/rad^2", "theta0": "rad"}))

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`."""
        return numbered(self.parameters.columns["theta0"]) | constant(self.parameters.columns["k"].places)

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        found = [
            [float(torsion.attrib[name]) for name in ("p1", "p2", "p3", "p4", "param2")]
            for force in trace.system.iterfind("Forces/Force[@type='CustomTorsionForce']")
            if force.attrib["energy"].startswith("k*min(dtheta")
            for torsion in force.iterfind("Torsions/Torsion")
        ]
        if not found:
            return []
        table = np.array(found)
        law = CustomEnergy(_HARMONIC, "theta", ("k", "theta0"))
        rows = jnp.asarray(row_numbers(table[:, 4]))
        return [CustomTorsion(atoms=jnp.asarray(table[:, :4], jnp.int32), rows=rows, law=law, name=self.name)]


@dataclass(frozen=True, eq=False)
class PeriodicImpropers:
    """Periodic impropers from the table ``periodic_improper_types``; marked by negative phases."""

    parameters: Parameters
    name: str = "CHARMMPeriodicImpropers"

    @classmethod
    def read(cls, sections: Rows) -> "PeriodicImpropers":
        """The rows of the tables of some scripts."""
        columns = _columns(sections, "periodic_improper_types", ["periodicity", "phase", "k"])
        del columns["periodicity"]
        return cls(Parameters(columns, {"phase": "rad", "k": "kJ/mol"}))

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`."""
        negative = {key: f"-{mark}" for key, mark in numbered(self.parameters.columns["phase"]).items()}
        return negative | constant(self.parameters.columns["k"].places)

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        found = trace.force("PeriodicTorsionForce", "Torsions", ["p1", "p2", "p3", "p4", "phase", "periodicity"])
        found = found[found[:, 4] < 0]
        if not len(found):
            return []
        atoms, rows = jnp.asarray(found[:, :4], jnp.int32), jnp.asarray(row_numbers(-found[:, 4]))
        periodicity = jnp.asarray(found[:, 5], jnp.int32)
        return [PeriodicTorsion(atoms=atoms, rows=rows, periodicity=periodicity, name=self.name).merged()]


def charmm_impropers(documents: Iterable[Document]) -> list[Group]:
    """The groups of the scripts in these files, none without scripts."""
    sections = [
        (document, section)
        for document in documents
        for section in document.root.children
        if section.tag in scripts.TAGS and scripts.purpose(section) == scripts.CHARMM_IMPROPERS
    ]
    return [HarmonicImpropers.read(sections), PeriodicImpropers.read(sections)] if sections else []


def _columns(sections: Rows, table: str, names: list[str]) -> dict[str, Column]:
    """Columns of a table whose values are these numbers, in turn."""
    places = [
        Place(document, section, i, section.text[number.place])
        for document, section in sections
        for i, number in enumerate(scripts.numbers(section))
        if number.table == table
    ]
    return {name: Column.of_places(places[i :: len(names)]) for i, name in enumerate(names)}
