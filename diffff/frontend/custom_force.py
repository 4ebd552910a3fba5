"""The custom forces of a System of OpenMM, from its XML: energies that are expressions."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffff.neighbors import Neighbors
from diffff.potentials.base import Term
from diffff.potentials.custom import Columns, CustomAngle, CustomBond, CustomEnergy, CustomTorsion
from diffff.potentials.custom_nonbonded import CustomNonbonded, Method, custom_nonbonded
from diffff.potentials.tabulated import Continuous1D, ContinuousND, Discrete, Table
from diffff.pytree import pytree


class _Kind(NamedTuple):
    items: str
    parameters: str
    n_atoms: int  # 0: an item is a particle
    coordinate: str


_KINDS = {
    "CustomBondForce": _Kind("Bonds", "PerBondParameters", 2, "r"),
    "CustomAngleForce": _Kind("Angles", "PerAngleParameters", 3, "theta"),
    "CustomTorsionForce": _Kind("Torsions", "PerTorsionParameters", 4, "theta"),
    "CustomNonbondedForce": _Kind("Particles", "PerParticleParameters", 0, "r"),
}
_BONDED = {"CustomBondForce": CustomBond, "CustomAngleForce": CustomAngle, "CustomTorsionForce": CustomTorsion}
_METHODS: tuple[Method, ...] = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic")
_WORD = re.compile(r"(?P<number>(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)|(?P<name>[^\W\d][\w.']*)(?P<call>\()?")


CustomTerm = CustomBond | CustomAngle | CustomTorsion | CustomNonbonded


class Range(NamedTuple):
    """How far a CustomNonbondedForce reaches; see `diffff.potentials.custom_nonbonded.custom_nonbonded`."""

    method: Method
    cutoff: float = 0.0
    switch_distance: float | None = None
    long_range_correction: bool = False


@dataclass(frozen=True, eq=False)
class CustomForce:
    """One force as the XML of a System gives it. The elements are those that hold the numbers.

    Attributes:
        element: the ``<Force>``.
        parameters: names of the per-row parameters.
        global_parameters: elements with an attribute ``default``, by name.
        tables: the kind of each tabulated function, and elements with an attribute ``v``, by name.
        items: its bonds, angles, torsions or particles, with attributes ``param1``, ``param2``, ....
        atoms: shape ``(n_items, 1 to 4)``, the atoms of each.
    """

    element: ET.Element
    parameters: tuple[str, ...]
    global_parameters: Mapping[str, ET.Element]
    tables: Mapping[str, tuple[Table, list[ET.Element]]]
    items: list[ET.Element]
    atoms: np.ndarray

    @classmethod
    def read(cls, force: ET.Element) -> "CustomForce":
        """From a ``<Force>`` of one of these types."""
        kind = _KINDS[force.attrib["type"]]
        items = children(force, kind.items)
        names = [f"p{i + 1}" for i in range(kind.n_atoms)]
        atoms = np.array([[int(item.attrib[name]) for name in names] for item in items], np.int32)
        return cls(
            element=force,
            parameters=tuple(child.attrib["name"] for child in children(force, kind.parameters)),
            global_parameters={child.attrib["name"]: child for child in children(force, "GlobalParameters")},
            tables=read_tables(force),
            items=items,
            atoms=atoms.reshape(len(items), kind.n_atoms) if kind.n_atoms else np.arange(len(items))[:, None],
        )

    @property
    def of_pairs(self) -> bool:
        """Whether it acts between all pairs of particles."""
        return _KINDS[self.element.attrib["type"]].n_atoms == 0

    def numbers(self) -> np.ndarray:
        """The per-row parameters of all items, shape ``(n_items, n_parameters)``."""
        names = [f"param{i + 1}" for i in range(len(self.parameters))]
        rows = [[float(item.attrib[name]) for name in names] for item in self.items]
        return np.array(rows, float).reshape(len(self.items), len(names))

    def law(self, energy: str | None = None) -> CustomEnergy:
        """Its energy; computed values become definitions in the expression.

        Args:
            energy: the expression; None: that of the force.

        Raises:
            InputError: the expression is malformed, or has names without meaning.
        """
        text = self.element.attrib["energy"] if energy is None else energy
        shared = {*self.global_parameters, *self.tables}
        for value in children(self.element, "ComputedValues"):
            for which in ("1", "2"):
                text += f"; {value.attrib['name']}{which}={suffixed(value.attrib['expression'], which, shared)}"
        return CustomEnergy(
            text=text,
            coordinate=_KINDS[self.element.attrib["type"]].coordinate,
            parameters=self.parameters,
            global_parameters=tuple(self.global_parameters),
            functions=tuple((name, table) for name, (table, _) in self.tables.items()),
            pairwise=self.of_pairs,
        )

    @property
    def range(self) -> Range:
        """Of a CustomNonbondedForce."""
        found = self.element.attrib
        switched = found["useSwitchingFunction"] == "1"
        return Range(
            method=_METHODS[int(found["method"])],
            cutoff=float(found["cutoff"]),
            switch_distance=float(found["switchingDistance"]) if switched else None,
            long_range_correction=found["useLongRangeCorrection"] == "1",
        )

    def term(self, name: str, law: CustomEnergy, rows: np.ndarray, reach: Range | None = None) -> CustomTerm:
        """The force as a term.

        Args:
            name: key of its parameters.
            law: from `law`.
            rows: shape ``(n_items,)``, the row of each item.
            reach: of a CustomNonbondedForce; None: its own.

        Raises:
            InputError: a cutoff or switch that is impossible.
        """
        if not self.of_pairs:
            return _BONDED[self.element.attrib["type"]](
                atoms=jnp.asarray(self.atoms),
                rows=jnp.asarray(rows, jnp.int32),
                law=law,
                periodic=self.element.get("usesPeriodic") == "1",
                name=name,
            )
        pairs = [(int(x.attrib["p1"]), int(x.attrib["p2"])) for x in children(self.element, "Exclusions")]
        reach = reach or self.range
        return custom_nonbonded(
            law=law,
            rows=rows,
            excluded=np.array(pairs, np.int32),
            method=reach.method,
            cutoff=reach.cutoff,
            switch_distance=reach.switch_distance,
            long_range_correction=reach.long_range_correction,
            name=name,
        )


@pytree
class Picked:
    """A term that sees other columns than those of the tree: some of their rows, and constants.

    Attributes:
        term: what sees them.
        rows: shape ``(n,)``, the rows of the tree's column that make the one of the term, by name of the column.
        constants: columns that the tree does not have.
    """

    term: CustomTerm
    rows: dict[str, jax.Array]
    constants: dict[str, jax.Array]

    @property
    def name(self) -> str:
        """That of the term."""
        return self.term.name

    @property
    def cutoff(self) -> float:
        """That of the term."""
        return self.term.cutoff

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol."""
        columns = {name: params[name][rows] for name, rows in self.rows.items()}
        constants = {name: values.astype(positions.dtype) for name, values in self.constants.items()}
        return self.term.energy({**params, **columns, **constants}, positions, box, neighbors)


def picked(force: CustomForce, name: str, law: CustomEnergy, rows: np.ndarray, reach: Range | None = None) -> Term:
    """A custom force each of whose parameters has rows of its own; other arguments as in `CustomForce.term`.

    Args:
        force: the force.
        name: key of its parameters.
        law: its energy.
        rows: shape ``(n_items, n_parameters)``.
        reach: of a CustomNonbondedForce.

    Raises:
        InputError: a cutoff or switch that is impossible.
    """
    if rows.shape[1] == 0:
        return force.term(name, law, np.zeros(len(rows), np.int32), reach)
    if (rows == rows[:, :1]).all():
        return force.term(name, law, rows[:, 0], reach)
    together, index = np.unique(rows, axis=0, return_inverse=True)
    columns = {parameter: jnp.asarray(together[:, c]) for c, parameter in enumerate(force.parameters)}
    return Picked(term=force.term(name, law, index.ravel(), reach), rows=columns, constants={})


def children(element: ET.Element, name: str) -> list[ET.Element]:
    """The entries of a list of an element; none if it has no such list."""
    found = element.find(name)
    return [] if found is None else list(found)


def read_tables(force: ET.Element) -> dict[str, tuple[Table, list[ET.Element]]]:
    """The tabulated functions of a force, and the elements with their values, by name.

    Raises:
        InputError: a table has an impossible size or range.
    """
    return {
        function.attrib["name"]: (_table(function), children(function, "Values"))
        for function in children(force, "Functions")
    }


def _table(function: ET.Element) -> Table:
    kind, found = function.attrib["type"].removesuffix("Function"), function.attrib
    n_values, axes = len(children(function, "Values")), "xyz"[: int(kind[-2])]
    sizes = tuple(int(found[f"{axis}size"]) for axis in axes) if len(axes) > 1 else (n_values,)
    if kind.startswith("Discrete"):
        return Discrete(sizes=sizes)
    periodic = found["periodic"] == "1"
    if kind == "Continuous1D":
        return Continuous1D(size=n_values, low=float(found["min"]), high=float(found["max"]), periodic=periodic)
    ranges = tuple((float(found[f"{axis}min"]), float(found[f"{axis}max"])) for axis in axes)
    return ContinuousND(sizes=sizes, ranges=ranges, periodic=periodic)


def suffixed(expression: str, suffix: str, kept: Collection[str]) -> str:
    """An expression with a suffix behind each of its names, but those of functions and of ``kept``.

    Example:
        >>> suffixed("2e1*sqrt(a*scale)+b; b=a^2", "1", {"scale"})
        '2e1*sqrt(a1*scale)+b1; b1=a1^2'
    """

    def replaced(word: re.Match[str]) -> str:
        return word[0] if word["number"] or word["call"] or word["name"] in kept else word[0] + suffix

    return _WORD.sub(replaced, expression)
