"""One group of parameters: the rows of a force tag in all files, and the terms made of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.rows import Column, Place
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term

Rows = list[tuple[Document, Element]]


@dataclass(frozen=True)
class Options:
    """What the user of a force field chooses beside it; see `ForceField.create_potential`."""

    nonbonded_method: str
    nonbonded_cutoff: float
    switch_distance: float | None
    ewald_error_tolerance: float
    dispersion_correction: bool | None
    flexible_constraints: bool
    box: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Parameters:
    """The numbers of a group.

    Attributes:
        columns: by name; those of ``together`` are several places of one number.
        units: of each column.
        together: columns that are a single number, which files repeat.
        homeless: columns that stand nowhere in a file, since the code of a script holds them.
        shared: groups whose column of that name is used, by column.
    """

    columns: dict[str, Column]
    units: Mapping[str, str]
    together: frozenset[str] = frozenset()
    homeless: Mapping[str, np.ndarray] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)

    def initial(self) -> dict[str, np.ndarray]:
        """The arrays as the files give them: shape ``(n_rows,)``, or ``()`` for a single number."""
        found = {
            name: (column.initial[0] if name in self.together else column.initial).copy()
            for name, column in self.columns.items()
        }
        return found | {name: values.copy() for name, values in self.homeless.items()}

    def checked(self, name: str, values: Any) -> dict[str, np.ndarray]:
        """The arrays that somebody gives for the group ``name``, if they are like those of `initial`.

        Raises:
            InputError: a column is missing, unknown, of another shape, or does not consist of real numbers.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"params has {values!r} for {name}; take the tree that params() gives.")
        wanted, found = self.initial(), {}
        if missing := sorted(set(wanted) - set(values)):
            raise InputError(f"params lacks {name}/{missing[0]}; take the tree that params() gives.")
        if unknown := sorted(map(str, set(values) - set(wanted))):
            near = get_close_matches(unknown[0].lower(), wanted, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Its columns are {', '.join(wanted)}."
            raise InputError(f"params has {name}/{unknown[0]}, which the files do not have. {hint}")
        for column, initial in wanted.items():
            array = np.asarray(values[column])
            if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
                raise InputError(f"params has {array.dtype} for {name}/{column}; give real numbers.")
            if array.shape != initial.shape:
                raise InputError(
                    f"params has the shape {array.shape} for {name}/{column}, but the files have {initial.shape}; take "
                    "the tree that params() gives."
                )
            found[column] = array
        return found

    def placed(self, name: str, values: Any) -> list[tuple[Column, np.ndarray]]:
        """Each column of the group ``name`` with its new numbers, as `diffff.frontend.rows.changes` wants them.

        What files repeat is left out unless it has changed, since they may spell it with small differences.

        Raises:
            InputError: a number has changed that no file holds, or see `checked`.
        """
        arrays = self.checked(name, values)
        for column, initial in self.homeless.items():
            if not _same(arrays[column], initial):
                raise InputError(
                    f"{name}/{column} has changed, but these numbers stand in the code of a script and cannot be "
                    "written. Keep them as params() gives them."
                )
        return [
            (column, np.broadcast_to(arrays[name], column.initial.shape))
            for name, column in self.columns.items()
            if not (name in self.together and _same(arrays[name], column.initial[0]))
        ]


class Group(Protocol):
    """A force tag."""

    @property
    def name(self) -> str:
        """The tag, and its key in the parameter tree."""
        ...

    @property
    def parameters(self) -> Parameters:
        """Its numbers."""
        ...

    def marks(self) -> dict[tuple[Element, Key], str]:
        """Row numbers in place of parameters, for `Tracer`."""
        ...

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """Terms for a topology, none if nothing in it matches."""
        ...


def rows_of(documents: Iterable[Document], tag: str, children: Iterable[str]) -> Rows:
    """The rows of a tag in all files, one kind of child after the other in each section."""
    kinds = tuple(children)
    return [
        (document, row)
        for document in documents
        for section in document.root.find_all(tag)
        for kind in kinds
        for row in section.find_all(kind)
    ]


def residue_atoms(documents: Iterable[Document], attribute: str) -> Rows:
    """The atoms of all residues and patches that have an attribute."""
    return [
        (document, atom)
        for document in documents
        for section, kinds in (("Residues", ("Atom",)), ("Patches", ("AddAtom", "ChangeAtom")))
        for group in document.root.find_all(section)
        for residue in group.children
        for kind in kinds
        for atom in residue.find_all(kind)
        if attribute in atom.attributes
    ]


def numbered(column: Column) -> dict[tuple[Element, Key], str]:
    """The number of its row, from 1, in place of each number."""
    return {(place.element, place.key): str(i + 1) for i, place in enumerate(column.places)}


def constant(places: Iterable[Place], value: str = "1") -> dict[tuple[Element, Key], str]:
    """The same in place of each number."""
    return {(place.element, place.key): value for place in places}


def row_numbers(values: np.ndarray) -> np.ndarray:
    """Rows from marks."""
    return np.rint(values).astype(np.int32) - 1


def among(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some tuples of atoms ``(n, k)`` are among others ``(m, k)``, in either direction; bool ``(n,)``."""
    everything = np.concatenate([atoms, others]).astype(int)
    one_way = np.where(everything[:, :1] > everything[:, -1:], everything[:, ::-1], everything)
    tuples = np.unique(one_way, axis=0, return_inverse=True)[1].reshape(-1)
    return np.isin(tuples[: len(atoms)], tuples[len(atoms) :])


def same_everywhere(column: Column) -> Column:
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


def dispersion_correction(sections: Rows) -> bool:
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


def _same(new: np.ndarray, old: np.ndarray | np.float64) -> bool:
    """Whether nobody has changed the old numbers, to the precision of the new ones."""
    with np.errstate(over="ignore"):
        return np.array_equal(new, old.astype(new.dtype) if jnp.issubdtype(new.dtype, jnp.floating) else old)
