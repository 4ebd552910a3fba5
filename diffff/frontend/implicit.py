"""Implicit solvent of the scripts in the files ``implicit/*.xml``.

They build a CustomGBForce and, if asked to, an LCPOForce. Their numbers stand in the code of OpenMM, so no file
can hold changed ones; `ImplicitSolvent.apply` and `SurfaceArea.apply` put them into a System.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend import scripts
from diffff.frontend.gb_force import law_of, numbers_of, reach_of
from diffff.frontend.group import Options, Parameters, row_numbers
from diffff.frontend.solvent_kinds import Kinds, kinds_of
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.neighbors import Neighbors
from diffff.potentials.base import Term
from diffff.potentials.custom_gb import CustomGB, custom_gb
from diffff.potentials.lcpo import LCPO
from diffff.potentials.tabulated import Discrete
from diffff.pytree import pytree, static

_UNITS = {
    "radius": "nm",
    "scale": "1",
    "alpha": "1",
    "beta": "1",
    "gamma": "1",
    "offset": "nm",
    "surface_energy": "kJ/mol/nm^2",
    "neck_scale": "1",
    "neck_depth": "1/nm",
    "neck_distance": "nm",
}
_NECKS = {"neck_depth": "getm0", "neck_distance": "getd0"}
_NUMBER = r"\d+(?:\.\d*)?(?:e-?\d+)?"
_SINGLE = {  # numbers in the expressions that are parameters
    "offset": re.compile(rf"(?<=offset=){_NUMBER}"),
    "neck_scale": re.compile(rf"(?<=neckScale=){_NUMBER}"),
    "surface_energy": re.compile(rf"^{_NUMBER}(?=\*\(radius\+)"),  # 4 pi times that of the ACE model
}
_LCPO_COLUMNS = {"radius": "nm", "p1": "1", "p2": "1", "p3": "1", "p4": "1/nm^2"}
_PROBE, _TENSION = 0.14, 2.092  # nm, kJ/mol/nm^2: what OpenMM gives every LCPOForce that a script adds


@pytree
class BornSolvent:
    """A CustomGBForce of a script in the numbers that mean something: radii instead of offset and scaled radii.

    Attributes:
        term: the force.
        neck_rows: shape ``(n_kinds,)``, row and column of each kind in the tables of necks.
        necks: whether it has such tables.
    """

    term: CustomGB
    neck_rows: jax.Array
    necks: bool = static()

    @property
    def name(self) -> str:
        """Key of its parameters."""
        return self.term.name

    @property
    def cutoff(self) -> float:
        """That of the force, nm."""
        return self.term.cutoff

    def energy(
        self, params: Mapping[str, jax.Array], positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
    ) -> jax.Array:
        """Energy, kJ/mol; arguments as in `Term.energy`."""
        reduced = params["radius"] - params["offset"]
        columns = {**params, "or": reduced, "sr": params["scale"] * reduced}
        if self.necks:
            columns |= {table: params[column] for column, table in _NECKS.items()}
            columns["radindex"] = self.neck_rows.astype(reduced.dtype)
        return self.term.energy(columns, positions, box, neighbors)


@dataclass(frozen=True, eq=False)
class ImplicitSolvent:
    """The Generalised Born model of a script; its rows are the kinds of atoms that the model tells apart.

    Attributes:
        parameters: its numbers; charges are those of NonbondedForce.
        kinds: names and more of its rows.
        document: the file, for messages.
    """

    parameters: Parameters
    kinds: Kinds
    document: Document
    name: str = "ImplicitSolvent"

    @classmethod
    def read(cls, document: Document, model: str) -> "ImplicitSolvent":
        """The numbers of a class in ``openmm.app.internal.customgbforces``.

        Raises:
            InputError: the model is not what diffff knows.
        """
        import openmm

        kinds = kinds_of(model)
        force = ET.fromstring(openmm.XmlSerializer.serialize(kinds.force))
        names = ("radius", "scale", "alpha", "beta", "gamma")[: kinds.numbers.shape[1]]
        columns = {name: kinds.numbers[:, i] for i, name in enumerate(names)}
        texts = [
            item.attrib["expression"] for of in ("ComputedValues", "EnergyTerms") for item in force.iterfind(f"{of}/*")
        ]
        for name, pattern in _SINGLE.items():
            found = [match[0] for text in texts for match in pattern.finditer(text)]
            if found:
                columns[name] = np.array(float(found[0]))
            elif name != "neck_scale" or kinds.necks:
                raise InputError(f"{document.path}: diffff does not know the {model} of this version of OpenMM.")
        columns |= {column: kinds.necks[table] for column, table in _NECKS.items() if kinds.necks}
        return cls(Parameters({}, _UNITS, homeless=columns, shared={"charge": "NonbondedForce"}), kinds, document)

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`: none, since no file holds the numbers."""
        return {}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`.

        Raises:
            InputError: an atom is of no kind that the model has.
        """
        force = trace.system.find("Forces/Force[@type='CustomGBForce']")
        assert force is not None  # the script adds it whatever the topology
        single = tuple(name for name in _SINGLE if name in self.parameters.homeless)
        law = law_of(force, respelled=_respelled({name: name for name in single}), global_parameters=single)
        if self.kinds.necks:  # those of all radii, not only of the ones in the topology
            size = int(self.kinds.neck_rows.max()) + 1
            law = replace(law, functions=tuple((name, Discrete(sizes=(size, size))) for name, _ in law.functions))
        particles = numbers_of(force)
        rows = self._rows(particles)
        if (rows < 0).any():
            raise InputError(
                f"{self.document.path}: {trace.describe([int(np.argmin(rows))])} is of a kind that diffff does not "
                "know in this model."
            )
        term = custom_gb(
            law=law,
            rows=dict.fromkeys(law.parameters, rows) | {"charge": row_numbers(particles[:, 0])},
            **reach_of(force)._asdict(),
            name=self.name,
        )
        return [BornSolvent(term=term, neck_rows=jnp.asarray(self.kinds.neck_rows), necks=bool(self.kinds.necks))]

    def apply(self, system: Any, values: Mapping[str, Any]) -> None:
        """Put changed numbers into a System that the script has been run for.

        Args:
            system: an ``openmm.System``.
            values: the columns of the group.
        """
        import openmm

        new = {name: np.asarray(values[name], float) for name in self.parameters.homeless}
        reduced = new["radius"] - new["offset"]
        others = [new[name] for name in ("alpha", "beta", "gamma") if name in new]
        others += [self.kinds.neck_rows] if self.kinds.necks else []
        kinds = np.column_stack([reduced, new["scale"] * reduced, *others])
        spell = _respelled({name: repr(float(new[name])) for name in _SINGLE if name in new})
        for force in system.getForces():
            if isinstance(force, openmm.CustomGBForce):
                old = np.array([force.getParticleParameters(i) for i in range(force.getNumParticles())])
                for i, row in enumerate(self._rows(old)):
                    force.setParticleParameters(i, [old[i, 0], *kinds[row]])
                for i in range(force.getNumTabulatedFunctions()):
                    table = new[next(c for c, t in _NECKS.items() if t == force.getTabulatedFunctionName(i))]
                    size = int(np.sqrt(len(table)))
                    force.getTabulatedFunction(i).setFunctionParameters(size, size, table.tolist())
                for i in range(force.getNumComputedValues()):
                    name, text, kind = force.getComputedValueParameters(i)
                    force.setComputedValueParameters(i, name, spell(text), kind)
                for i in range(force.getNumEnergyTerms()):
                    text, kind = force.getEnergyTermParameters(i)
                    force.setEnergyTermParameters(i, spell(text), kind)

    def _rows(self, particles: np.ndarray) -> np.ndarray:
        """The kind of each particle of OpenMM's force, -1 if none."""
        return self.kinds.rows(particles[:, 1 : 1 + self.kinds.numbers.shape[1]])


@dataclass(frozen=True, eq=False)
class SurfaceArea:
    """The surface area that the scripts add for ``sasa_method="LCPO"``; its rows are the types of the LCPO method."""

    parameters: Parameters
    name: str = "LCPOForce"

    @classmethod
    def read(cls) -> "SurfaceArea":
        """OpenMM's table."""
        from openmm.app.internal.lcpo import LCPO_PARAMETERS

        table = np.array([row for row in LCPO_PARAMETERS.values() if row[0] > 0.0])
        columns = dict(zip(_LCPO_COLUMNS, (table * [0.1, 1.0, 1.0, 1.0, 100.0]).T, strict=True))
        columns["radius"] = columns["radius"] + _PROBE
        columns["surface_tension"] = np.array(_TENSION)
        return cls(Parameters({}, _LCPO_COLUMNS | {"surface_tension": "kJ/mol/nm^2"}, homeless=columns))

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`: none, since no file holds the numbers."""
        return {}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`."""
        force = trace.system.find(f"Forces/Force[@type='{self.name}']")
        if force is None:
            return []
        particles = trace.force(self.name, "Particles", ["r", "p1", "p2", "p3", "p4"])
        atoms = np.flatnonzero(particles[:, 0] > 0.0)
        periodic = force.attrib["usesPeriodic"] == "1"
        rows = jnp.asarray(self._rows(particles[atoms]))
        return [LCPO(atoms=jnp.asarray(atoms), rows=rows, periodic=periodic, name=self.name)]

    def apply(self, system: Any, values: Mapping[str, Any]) -> None:
        """Put changed numbers into a System that the script has been run for; see `ImplicitSolvent.apply`."""
        import openmm

        new = np.column_stack([np.asarray(values[name], float) for name in _LCPO_COLUMNS])
        for force in system.getForces():
            if isinstance(force, openmm.LCPOForce):
                force.setSurfaceTension(float(values["surface_tension"]))
                old = np.array([_plain(force.getParticleParameters(i)) for i in range(force.getNumParticles())])
                atoms = np.flatnonzero(old[:, 0] > 0.0)
                for atom, row in zip(atoms.tolist(), self._rows(old[atoms]), strict=True):
                    force.setParticleParameters(atom, *new[row])

    def _rows(self, particles: np.ndarray) -> np.ndarray:
        """The type of each particle of OpenMM's force."""
        known = np.column_stack([self.parameters.homeless[name] for name in _LCPO_COLUMNS])
        apart = np.abs(particles[:, None] - known).max(axis=2)
        if (apart.min(axis=1) > 1e-9).any():
            raise InputError(f"{self.name}: diffff does not know the LCPO table of this version of OpenMM.")
        return apart.argmin(axis=1).astype(np.int32)


def implicit_solvent(documents: Iterable[Document]) -> list[ImplicitSolvent | SurfaceArea]:
    """The groups of the scripts in these files, none without scripts.

    Raises:
        InputError: two implicit solvents.
    """
    found = [
        (document, model[1])
        for document in documents
        for section in document.root.children
        if section.tag in scripts.TAGS and scripts.purpose(section) == scripts.IMPLICIT_SOLVENT
        for model in re.finditer(r"customgbforces import (\w+)", section.text)
    ]
    if len(found) > 1:
        raise InputError(f"{found[0][0].path} and {found[1][0].path} are two implicit solvents; leave one out.")
    return [ImplicitSolvent.read(*found[0]), SurfaceArea.read()] if found else []


def _respelled(spellings: Mapping[str, str]) -> Callable[[str], str]:
    """Puts these in place of numbers in expressions."""

    def respell(text: str) -> str:
        for name, spelling in spellings.items():
            text = _SINGLE[name].sub(spelling, text)
        return text

    return respell


def _plain(values: Iterable[Any]) -> list[float]:
    """Numbers or quantities as numbers in OpenMM's units."""
    from openmm import unit

    return [x.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(x) else float(x) for x in values]
