"""The bonded force tags: bonds, angles, Urey-Bradley terms, torsions, maps."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.group import (
    Options,
    Parameters,
    Rows,
    among,
    constant,
    numbered,
    row_numbers,
    rows_of,
)
from diffff.frontend.rows import Column, Place
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.bonded import HarmonicAngle, HarmonicBond, UreyBradley
from diffff.potentials.cmap import CMAPTorsion
from diffff.potentials.torsions import PeriodicTorsion, RBTorsion

Found = dict[tuple[Element, Key], str]


def _columns(rows: Rows, names: Iterable[str]) -> dict[str, Column]:
    return {name: Column.of_attribute(rows, name) for name in names}


@dataclass(frozen=True, eq=False)
class HarmonicBonds:
    """``<HarmonicBondForce>``."""

    parameters: Parameters
    name: str = "HarmonicBondForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "HarmonicBonds":
        """Its rows in all files."""
        columns = _columns(rows_of(documents, cls.name, ["Bond"]), ["length", "k"])
        return cls(Parameters(columns, {"length": "nm", "k": "kJ/mol/nm^2"}))

    def marks(self) -> Found:
        """See `Group`."""
        return numbered(self.parameters.columns["length"]) | constant(self.parameters.columns["k"].places)

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        found = trace.force(self.name, "Bonds", ["p1", "p2", "d"])
        found = found[found[:, 2] > 0]  # the others are Urey-Bradley terms
        atoms, rows = found[:, :2].astype(int), row_numbers(found[:, 2])
        if not options.flexible_constraints:
            free = ~among(atoms, trace.bonds[trace.constrained_bonds])
            atoms, rows = atoms[free], rows[free]
        return [HarmonicBond(atoms=jnp.asarray(atoms, jnp.int32), rows=jnp.asarray(rows))] if len(rows) else []


@dataclass(frozen=True, eq=False)
class HarmonicAngles:
    """``<HarmonicAngleForce>``."""

    parameters: Parameters
    name: str = "HarmonicAngleForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "HarmonicAngles":
        """Its rows in all files."""
        columns = _columns(rows_of(documents, cls.name, ["Angle"]), ["angle", "k"])
        return cls(Parameters(columns, {"angle": "rad", "k": "kJ/mol/rad^2"}))

    def marks(self) -> Found:
        """See `Group`."""
        return numbered(self.parameters.columns["angle"]) | constant(self.parameters.columns["k"].places)

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        found = trace.force(self.name, "Angles", ["p1", "p2", "p3", "a"])
        atoms, rows = found[:, :3].astype(int), row_numbers(found[:, 3])
        if not options.flexible_constraints:
            free = ~among(atoms, trace.angles[trace.constrained_angles])
            atoms, rows = atoms[free], rows[free]
        return [HarmonicAngle(atoms=jnp.asarray(atoms, jnp.int32), rows=jnp.asarray(rows))] if len(rows) else []


@dataclass(frozen=True, eq=False)
class UreyBradleys:
    """``<AmoebaUreyBradleyForce>``, which CHARMM's files use too; marked by negative bond lengths."""

    parameters: Parameters
    name: str = "AmoebaUreyBradleyForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "UreyBradleys":
        """Its rows in all files."""
        columns = _columns(rows_of(documents, cls.name, ["UreyBradley"]), ["d", "k"])
        return cls(Parameters(columns, {"d": "nm", "k": "kJ/mol/nm^2"}))

    def marks(self) -> Found:
        """See `Group`."""
        negative = {key: f"-{mark}" for key, mark in numbered(self.parameters.columns["d"]).items()}
        return negative | constant(self.parameters.columns["k"].places)

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        found = trace.force("HarmonicBondForce", "Bonds", ["p1", "p2", "d"])
        found = found[found[:, 2] < 0]
        if not options.flexible_constraints:
            ends = trace.angles[trace.constrained_angles][:, [0, 2]]
            found = found[~among(found[:, :2], ends)]
        atoms, rows = jnp.asarray(found[:, :2], jnp.int32), jnp.asarray(row_numbers(-found[:, 2]))
        return [UreyBradley(atoms=atoms, rows=rows)] if len(rows) else []


@dataclass(frozen=True, eq=False)
class PeriodicTorsions:
    """``<PeriodicTorsionForce>``. Its columns run over the components of all rows: phase1, phase2, … of each."""

    parameters: Parameters
    name: str = "PeriodicTorsionForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "PeriodicTorsions":
        """Its rows in all files."""
        places: dict[str, list[Place]] = {"phase": [], "k": []}
        for document, row in rows_of(documents, cls.name, ["Proper", "Improper"]):
            for n in count(1):
                if f"phase{n}" not in row.attributes:
                    break
                for name, kept in places.items():
                    kept.append(Place(document, row, f"{name}{n}", row.attributes.get(f"{name}{n}")))
        columns = {name: Column.of_places(tuple(kept)) for name, kept in places.items()}
        return cls(Parameters(columns, {"phase": "rad", "k": "kJ/mol"}))

    def marks(self) -> Found:
        """See `Group`."""
        return numbered(self.parameters.columns["phase"]) | constant(self.parameters.columns["k"].places)

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        names = ["p1", "p2", "p3", "p4", "phase", "periodicity"]
        found = trace.force(self.name, "Torsions", names)
        found = found[found[:, 4] > 0]  # the others come from a script
        atoms = found[:, :4].astype(int)
        if not len(found):
            return []
        rows, periodicity = jnp.asarray(row_numbers(found[:, 4])), jnp.asarray(found[:, 5], jnp.int32)
        term = PeriodicTorsion(atoms=jnp.asarray(atoms, jnp.int32), rows=rows, periodicity=periodicity)
        return [term.merged()]


@dataclass(frozen=True, eq=False)
class RBTorsions:
    """``<RBTorsionForce>``."""

    parameters: Parameters
    name: str = "RBTorsionForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "RBTorsions":
        """Its rows in all files."""
        names = [f"c{m}" for m in range(6)]
        columns = _columns(rows_of(documents, cls.name, ["Proper", "Improper"]), names)
        return cls(Parameters(columns, dict.fromkeys(names, "kJ/mol")))

    def marks(self) -> Found:
        """See `Group`."""
        return numbered(self.parameters.columns["c0"])

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        found = trace.force(self.name, "Torsions", ["p1", "p2", "p3", "p4", "c0"])
        atoms, rows = found[:, :4].astype(int), row_numbers(found[:, 4])
        return [RBTorsion(atoms=jnp.asarray(atoms, jnp.int32), rows=jnp.asarray(rows))] if len(rows) else []


@dataclass(frozen=True, eq=False)
class CMAPTorsions:
    """``<CMAPTorsionForce>``: one column holds the values of all maps, one map after the other."""

    parameters: Parameters
    sizes: tuple[int, ...]
    name: str = "CMAPTorsionForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "CMAPTorsions":
        """Its maps in all files.

        Raises:
            InputError: a map that is no square.
        """
        columns, sizes = [], []
        for document, element in rows_of(documents, cls.name, ["Map"]):
            columns.append(Column.of_text(document, element))
            size = round(len(columns[-1].initial) ** 0.5)
            if size**2 != len(columns[-1].initial):
                raise InputError(
                    f"{document.where(element)} has {len(columns[-1].initial)} numbers, which are no square."
                )
            sizes.append(size)
        places = tuple(place for column in columns for place in column.places)
        return cls(Parameters({"map": Column.of_places(places)}, {"map": "kJ/mol"}), tuple(sizes))

    def marks(self) -> Found:
        """See `Group`. OpenMM keeps the number of the map."""
        return {}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        names = ["map", *(f"{chain}{i}" for chain in "ab" for i in range(1, 5))]
        found = trace.force(self.name, "Torsions", names).astype(np.int32)
        if len(found) and not 0 <= found[:, 0].min() <= found[:, 0].max() < len(self.sizes):
            wrong = found[:, 0].min() if found[:, 0].min() < 0 else found[:, 0].max()
            raise InputError(f"{self.name}: map {wrong} does not exist; there are {len(self.sizes)}, counted from 0.")
        atoms, maps = jnp.asarray(found[:, 1:]), jnp.asarray(found[:, 0])
        return [CMAPTorsion(atoms=atoms, maps=maps, sizes=self.sizes)] if len(found) else []
