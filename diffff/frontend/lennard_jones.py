"""``<LennardJonesForce>``: Lennard-Jones by atom type, and NBFIX rows of pairs of types, as CHARMM has them.

OpenMM reads the marked copy without this tag. It says which type an atom has and which pairs of atoms are excluded or
1-4 pairs; which row a type or a pair of types has is a matter of equal names, found here by OpenMM's rules: the last
``<Atom …>`` of a type counts, at most one ``<NBFixPair …>`` may fit a pair, and rows of types that are in none of the
files are of no effect (the files of CHARMM's water models have such).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from diffff.errors import InputError
from diffff.frontend.group import Options, Parameters, Rows, dispersion_correction, rows_of, same_everywhere
from diffff.frontend.rows import Column
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.lennard_jones import Method, lennard_jones

_UNITS = {
    "sigma": "nm",
    "epsilon": "kJ/mol",
    "sigma14": "nm",
    "epsilon14": "kJ/mol",
    "nbfix_sigma": "nm",
    "nbfix_epsilon": "kJ/mol",
    "lj14scale": "1",
}
_METHODS: dict[str, Method] = {
    "NoCutoff": "NoCutoff",
    "CutoffNonPeriodic": "CutoffNonPeriodic",
    "CutoffPeriodic": "CutoffPeriodic",
    "Ewald": "CutoffPeriodic",
    "PME": "CutoffPeriodic",
}


@dataclass(frozen=True, eq=False)
class LennardJonesRows:
    """The tag in all files.

    Attributes:
        parameters: its columns; sigma14 and epsilon14 have an entry for each ``<Atom …>`` that has the attribute.
        atoms: the ``<Atom …>`` rows.
        pairs: the ``<NBFixPair …>`` rows.
        type_rows: row of each type.
        pair_rows: rows that name a type as their first, and as their second.
        dispersion_correction: what the files say about the energy beyond the cutoff.
    """

    parameters: Parameters
    atoms: Rows
    pairs: Rows
    type_rows: Mapping[str, int]
    pair_rows: tuple[Mapping[str, set[int]], Mapping[str, set[int]]]
    dispersion_correction: bool
    name: str = "LennardJonesForce"

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "LennardJonesRows":
        """Its rows in all files.

        Raises:
            InputError: a number is missing, a row names no types, or the sections contradict each other.
        """
        documents = tuple(documents)
        sections: Rows = [(d, section) for d in documents for section in d.root.find_all(cls.name)]
        atoms, pairs = rows_of(documents, cls.name, ["Atom"]), rows_of(documents, cls.name, ["NBFixPair"])
        columns = {
            "sigma": Column.of_attribute(atoms, "sigma", least=0.0),
            "epsilon": Column.of_attribute(atoms, "epsilon", least=0.0),
            "sigma14": Column.of_attribute(_having(atoms, "sigma14"), "sigma14", least=0.0),
            "epsilon14": Column.of_attribute(_having(atoms, "epsilon14"), "epsilon14", least=0.0),
            "nbfix_sigma": Column.of_attribute(pairs, "sigma", least=0.0),
            "nbfix_epsilon": Column.of_attribute(pairs, "epsilon", least=0.0),
            "lj14scale": same_everywhere(Column.of_attribute(sections, "lj14scale")),
        }
        known = _types_by_name(documents)
        type_rows = {name: i for i, row in enumerate(atoms) for name in _types(*row, "", known)}
        return cls(
            parameters=Parameters(columns, _UNITS, together=frozenset({"lj14scale"})),
            atoms=atoms,
            pairs=pairs,
            type_rows=type_rows,
            pair_rows=(_rows_by_type(pairs, "1", known), _rows_by_type(pairs, "2", known)),
            dispersion_correction=dispersion_correction(sections),
        )

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`. None: OpenMM does not see the tag."""
        return {}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """See `Group`.

        Raises:
            InputError: a type without a row, a pair of types with two, or a method that the force does not have.
        """
        if options.nonbonded_method not in _METHODS:
            raise InputError(
                f"{self.name} has no {options.nonbonded_method}, neither here nor in OpenMM; choose PME instead."
            )
        if trace.system.find("Forces/Force[@type='NonbondedForce']") is None:
            raise InputError(
                f"{self.name}: the force field has no <NonbondedForce>, whose excluded pairs it shares. Add one, with "
                "charges, sigma 1 and epsilon 0."
            )
        pairs = trace.force("NonbondedForce", "Exceptions", ["p1", "p2", "q"])
        scaled = pairs[:, 2] != 0.0  # the marks of charges are never 0
        names, types = np.unique(np.array(trace.types, str), return_inverse=True)
        rows = self._rows_of_types(names.tolist(), trace)
        correction = options.dispersion_correction
        term = lennard_jones(
            types,
            rows,
            sigma14_rows=self._rows14("sigma14")[rows],
            epsilon14_rows=self._rows14("epsilon14")[rows],
            nbfix_rows=self._nbfix(names.tolist()),
            excluded=pairs[~scaled, :2].astype(np.int32),
            pairs14=pairs[scaled, :2].astype(np.int32),
            method=_METHODS[options.nonbonded_method],
            cutoff=options.nonbonded_cutoff,
            switch_distance=options.switch_distance,
            dispersion_correction=self.dispersion_correction if correction is None else correction,
        )
        return [term]

    def _rows_of_types(self, names: list[str], trace: Trace) -> np.ndarray:
        """Row of each type, ``(n_types,)``."""
        if missing := [name for name in names if name not in self.type_rows]:
            atom = trace.atom_name(trace.types.index(missing[0]))
            others = f", and for {len(missing) - 1} other types" if len(missing) > 1 else ""
            raise InputError(
                f"{self.name}: no row for the type {missing[0]} of atom {atom}{others}. Add an <Atom …> for it."
            )
        return np.array([self.type_rows[name] for name in names], np.int32)

    def _rows14(self, column: str) -> np.ndarray:
        """Row in sigma14 or epsilon14 of each ``<Atom …>``, ``(n_rows,)``; -1 for those that lack it."""
        has = np.array([column in row.attributes for _, row in self.atoms], bool)
        return np.where(has, np.cumsum(has) - 1, -1).astype(np.int32)

    def _nbfix(self, names: list[str]) -> np.ndarray:
        """Row of each pair of types, ``(n_types, n_types)``; -1: none."""
        first, second = ([by_type.get(name, set()) for name in names] for by_type in self.pair_rows)
        found = np.full((len(names), len(names)), -1, np.int32)
        for a, one in enumerate(names):
            for b in range(a + 1) if first[a] or second[a] else ():
                rows = sorted((first[a] & second[b]) | (second[a] & first[b]))
                if len(rows) > 1:
                    (document, row), (other, again) = (self.pairs[k] for k in rows[:2])
                    raise InputError(
                        f"{other.where(again)} and {document.where(row)} are both for the types {one} – {names[b]}; "
                        "keep one of them."
                    )
                if rows:
                    found[a, b] = found[b, a] = rows[0]
        return found


def _having(rows: Rows, attribute: str) -> Rows:
    return [(document, row) for document, row in rows if attribute in row.attributes]


def _types_by_name(documents: Iterable[Document]) -> dict[tuple[str, str], set[str]]:
    """Types by ``("type", name)`` and ``("class", name)``; all of them where the name is empty."""
    found: dict[tuple[str, str], set[str]] = {("type", ""): set(), ("class", ""): set()}
    for _, row in rows_of(documents, "AtomTypes", ["Type"]):
        name = row.attributes.get("name", "")
        for key in (("type", name), ("class", row.attributes.get("class", "")), ("type", ""), ("class", "")):
            found.setdefault(key, set()).add(name)
    return found


def _types(document: Document, row: Element, which: str, known: Mapping[tuple[str, str], set[str]]) -> set[str]:
    """Types that a row means by its class or type (``which``: "1" or "2" in pairs), none if they are in no file.

    Raises:
        InputError: it has neither, or both.
    """
    given = [kind for kind in ("class", "type") if kind + which in row.attributes]
    if len(given) != 1:
        has = f"both class{which} and type{which}" if given else f"neither class{which} nor type{which}"
        raise InputError(f"{document.where(row)} has {has}; give one of them.")
    return known.get((given[0], row.attributes[given[0] + which]), set())


def _rows_by_type(pairs: Rows, which: str, known: Mapping[tuple[str, str], set[str]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for i, row in enumerate(pairs):
        for name in _types(*row, which, known):
            found.setdefault(name, set()).add(i)
    return found
