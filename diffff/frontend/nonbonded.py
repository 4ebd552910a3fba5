"""``<NonbondedForce>``: Lennard-Jones rows, charges of atom types or of residues, and the scales of 1-4 pairs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np

from diffff.errors import InputError
from diffff.frontend import scripts
from diffff.frontend.group import (
    Options,
    Parameters,
    Rows,
    constant,
    dispersion_correction,
    numbered,
    residue_atoms,
    row_numbers,
    rows_of,
    same_everywhere,
)
from diffff.frontend.rows import Column
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.nonbonded import Method
from diffff.potentials.nonbonded_setup import nonbonded

_UNITS = {
    "charge": "e",
    "sigma": "nm",
    "epsilon": "kJ/mol",
    **dict.fromkeys(("coulomb14scale", "lj14scale", "special_coulomb14scale", "special_lj14scale"), "1"),
}
_SCALES = ("coulomb14scale", "lj14scale")
_PLAIN = "0.75"  # in place of the two scales; no script multiplies with it


@dataclass(frozen=True, eq=False)
class NonbondedRows:
    """The tag in all files. Where charges belong to residues, their rows follow those of the atom types."""

    parameters: Parameters
    dispersion_correction: bool
    special_scales: np.ndarray
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
            charged += residue_atoms(documents, "charge")
        columns = {
            "sigma": Column.of_attribute(atoms, "sigma", least=0.0),
            "epsilon": Column.of_attribute(atoms, "epsilon", least=0.0),
            "charge": Column.of_attribute(charged, "charge"),
            **{name: same_everywhere(Column.of_attribute(sections, name)) for name in _SCALES},
        }
        special = _special_scales(documents)
        homeless = {f"special_{name}": special[:, i] for i, name in enumerate(_SCALES) if len(special)}
        parameters = Parameters(columns, _UNITS, together=frozenset(_SCALES), homeless=homeless)
        return cls(parameters, dispersion_correction(sections), special)

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`. Without zeros, and with odd scales, the kind of a pair is told by its numbers."""
        columns = self.parameters.columns
        marks = {key: mark for name in ("charge", "sigma", "epsilon") for key, mark in numbered(columns[name]).items()}
        return marks | {key: mark for name in _SCALES for key, mark in constant(columns[name].places, _PLAIN).items()}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        particles = trace.force(self.name, "Particles", ["q", "sig", "eps"])
        pairs = trace.force(self.name, "Exceptions", ["p1", "p2", "q", "eps"])
        scaled = pairs[:, 2] != 0.0
        correction = options.dispersion_correction
        term = nonbonded(
            row_numbers(particles[:, 0]),
            row_numbers(particles[:, 1]),
            excluded=pairs[~scaled, :2].astype(np.int32),
            pairs14=pairs[scaled, :2].astype(np.int32),
            special14=self._special14(particles, pairs[scaled]),
            dielectric=float(trace.option(self.name, "rfDielectric")),
            method=cast(Method, options.nonbonded_method),
            cutoff=options.nonbonded_cutoff,
            box=options.box,
            switch_distance=options.switch_distance,
            ewald_error_tolerance=options.ewald_error_tolerance,
            dispersion_correction=self.dispersion_correction if correction is None else correction,
        )
        return [term]

    def _special14(self, particles: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """The special row of each scaled pair, -1 for the plain ones, from what became of their charge and epsilon."""
        one, other = (particles[pairs[:, i].astype(int)] for i in (0, 1))
        scales = np.stack([pairs[:, 2] / (one[:, 0] * other[:, 0]), pairs[:, 3] / np.sqrt(one[:, 2] * other[:, 2])], 1)
        known = np.vstack([self.special_scales, [float(_PLAIN)] * 2])
        nearest = np.argmin(np.abs(scales[:, None] - known).sum(axis=2), axis=1)
        if not np.allclose(scales, known[nearest], rtol=1e-9):
            raise InputError(f"{self.name}: a script scales 1-4 pairs in a way that diffff does not know.")
        return np.where(nearest == len(self.special_scales), -1, nearest)


def _special_scales(documents: Iterable[Document]) -> np.ndarray:
    """What known scripts multiply the charges and epsilons of some 1-4 pairs with, shape ``(n, 2)``."""
    found: dict[tuple[float, float], None] = {}
    for document in documents:
        for section in document.root.children:
            purpose = scripts.purpose(section) if section.tag in scripts.TAGS else None
            if purpose == scripts.GLYCAM_PAIRS:
                found[1.0, 1.0] = None
            elif purpose == scripts.LIPID_PAIRS:
                charges, epsilons = (scripts.tables(section)[name] for name in ("scee_table", "scnb_table"))
                for types in [*charges, *epsilons]:
                    found[1.0 / charges.get(types, 1.2), 1.0 / epsilons.get(types, 2.0)] = None
    return np.array(list(found), float).reshape(-1, 2)
