"""The tag ``<GBSAOBCForce>``: OBC2 implicit solvent with rows for atom types."""

from collections.abc import Iterable
from dataclasses import dataclass

from diffff.errors import InputError
from diffff.frontend.gb_force import reach_of
from diffff.frontend.group import Options, Parameters, numbered, residue_atoms, row_numbers, rows_of
from diffff.frontend.rows import Column
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.gbsa import gbsa_obc

_UNITS = {"charge": "e", "radius": "nm", "scale": "1"}


@dataclass(frozen=True, eq=False)
class GBSAOBCRows:
    """The tag in all files. Charges of residues are those of NonbondedForce, if that takes them from there too."""

    parameters: Parameters
    name: str = "GBSAOBCForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "GBSAOBCRows":
        """Its rows in all files.

        Raises:
            InputError: a number is missing, or charges stand both in rows and in residues.
        """
        documents = tuple(documents)
        atoms = rows_of(documents, cls.name, ["Atom"])
        columns = {name: Column.of_attribute(atoms, name) for name in ("radius", "scale")}
        of_residues = rows_of(documents, cls.name, ["UseAttributeFromResidue"])
        for document, row in of_residues:
            if row.attributes.get("name") != "charge":
                raise InputError(
                    f"{document.where(row)}: only charges may stand in the residues; give the others here."
                )
        if not of_residues:
            columns["charge"] = Column.of_attribute(atoms, "charge")
            return cls(Parameters(columns, _UNITS))
        for document, row in atoms:
            if "charge" in row.attributes:
                raise InputError(
                    f"{document.where(row)} has a charge, but {of_residues[0][0].where(of_residues[0][1])} says that "
                    "charges stand in the residues. Keep them in one of the two places."
                )
        if rows_of(documents, "NonbondedForce", ["UseAttributeFromResidue"]):
            return cls(Parameters(columns, _UNITS, shared={"charge": "NonbondedForce"}))
        columns["charge"] = Column.of_attribute(residue_atoms(documents, "charge"), "charge")
        return cls(Parameters(columns, _UNITS))

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`."""
        return {key: mark for column in self.parameters.columns.values() for key, mark in numbered(column).items()}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        force = trace.system.find(f"Forces/Force[@type='{self.name}']")
        assert force is not None  # OpenMM adds it whatever the topology
        marks = row_numbers(trace.force(self.name, "Particles", ["q", "r", "scale"]))
        term = gbsa_obc(
            {"charge": marks[:, 0], "radius": marks[:, 1], "scale": marks[:, 2]},
            **reach_of(force)._asdict(),
            solute_dielectric=float(force.attrib["soluteDielectric"]),
            solvent_dielectric=float(force.attrib["solventDielectric"]),
            surface_energy=float(force.attrib["surfaceAreaEnergy"]),
        )
        return [term]
