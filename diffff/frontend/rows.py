"""Columns of numbers that know where each of them stands in the files of a force field."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffff.errors import InputError
from diffff.frontend.xml import Document, Key, format_number
from diffff.frontend.xml_tree import Element


@dataclass(frozen=True, eq=False)
class Place:
    """Where one number stands: an attribute, or the i-th number of an element's text.

    Attributes:
        document: the file.
        element: the row.
        key: name of the attribute, or i.
        old: its spelling; None where the file leaves it out and a default holds.
    """

    document: Document
    element: Element
    key: Key
    old: str | None

    def __str__(self) -> str:
        return f"{self.document.where(self.element)}: {self.key if isinstance(self.key, str) else f'number {self.key}'}"


@dataclass(frozen=True, eq=False)
class Column:
    """One array of parameters, and the place of each number.

    Attributes:
        places: one for each number.
        initial: shape ``(n_rows,)``, float64, the numbers as the files give them.
        least: the smallest number that OpenMM accepts.
    """

    places: tuple[Place, ...] = field(repr=False)
    initial: np.ndarray
    least: float = -np.inf

    @classmethod
    def of_attribute(
        cls,
        rows: Iterable[tuple[Document, Element]],
        name: str,
        *,
        default: float | None = None,
        least: float = -np.inf,
    ) -> "Column":
        """One attribute of many elements, in their order; they may stand in several files.

        Args:
            rows: the elements, each with its file.
            name: the attribute.
            default: its value where an element lacks it; None if it must be there.
            least: the smallest number that OpenMM accepts.

        Raises:
            InputError: An attribute is missing, no finite number, or too small.
        """
        places = (Place(document, row, name, row.attributes.get(name)) for document, row in rows)
        return cls.of_places(places, default, least)

    @classmethod
    def of_text(cls, document: Document, element: Element) -> "Column":
        """The numbers of an element's text, such as a ``<Map>`` of CMAP.

        Raises:
            InputError: A word of the text is no finite number.
        """
        return cls.of_places(Place(document, element, i, word) for i, word in enumerate(element.text.split()))

    @classmethod
    def of_places(cls, places: Iterable[Place], default: float | None = None, least: float = -np.inf) -> "Column":
        """The numbers of some places.

        Raises:
            InputError: One of them is missing without a default, no finite number, or too small.
        """
        kept = tuple(places)
        initial = _numbers(kept, default)
        for i in np.flatnonzero(initial < least):
            raise InputError(f"{kept[i]} is {kept[i].old}, but OpenMM accepts no number below {least:g}. Correct it.")
        return cls(places=kept, initial=initial, least=least)


def changes(columns: Iterable[tuple[Column, ArrayLike]]) -> dict[Document, dict[tuple[Element, Key], str]]:
    """What to change in each file so that it gives these numbers, for `Document.edited`.

    A number counts as changed when it differs from the one read, rounded to the precision of the new array, so that
    float32 parameters that nobody touched keep their spelling. Attributes left out of a file stay out until then.

    Args:
        columns: each column with its new numbers, shape ``(n_rows,)``.

    Raises:
        InputError: A number is infinite, none, or too small; the message names its place.
        ValueError: The shapes differ, or one place got two different numbers.
    """
    found: dict[Document, dict[tuple[Element, Key], str]] = defaultdict(dict)
    for column, values in columns:
        array = np.asarray(values)
        array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(np.float64)
        if array.shape != column.initial.shape:
            raise ValueError(f"a column of {len(column.places)} numbers got an array of shape {array.shape}")
        with np.errstate(over="ignore"):
            changed = column.initial.astype(array.dtype) != array
        for i in np.flatnonzero(changed):
            place = column.places[i]
            if not np.isfinite(array[i]):
                raise InputError(
                    f"{place} would become {array[i]}, which no force field can hold. Did the fit diverge?"
                )
            if array[i] < column.least:
                raise InputError(
                    f"{place} would become {array[i]}, but OpenMM accepts no number below {column.least:g}. Bound it."
                )
            text = format_number(None, array[i])
            if found[place.document].setdefault((place.element, place.key), text) != text:
                raise ValueError(f"{place} would become two different numbers")
    return dict(found)


def comments(
    places: Mapping[str, Sequence[Place]], notes: Mapping[str, Sequence[str | None]]
) -> dict[Document, dict[Element, str]]:
    """The comment behind each row of each file, for `Document.edited`: its notes, each with the name of its number.

    Args:
        places: where the numbers of an array stand, by path.
        notes: a text for each of its numbers, or None; one text for an array that several files repeat.

    Raises:
        InputError: notes are for an array that is not there, or are not as many as its numbers.
    """
    found: dict[Document, dict[Element, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for path, texts in notes.items():
        if path not in places:
            raise InputError(f"notes are for {path}, which has no place in the files. Leave them out.")
        texts = list(texts) * len(places[path]) if len(texts) == 1 else texts
        if len(texts) != len(places[path]):
            raise InputError(
                f"{path} got {len(texts)} notes, but has {len(places[path])} numbers. Give a text or None for each."
            )
        for place, text in zip(places[path], texts, strict=True):
            if text is not None:
                name = place.key if isinstance(place.key, str) else f"number {place.key}"
                found[place.document][place.element][f"{name} {text}"] = None
    return {document: {element: "; ".join(each) for element, each in rows.items()} for document, rows in found.items()}


def _numbers(places: Sequence[Place], default: float | None) -> np.ndarray:
    numbers = np.array([_number(place, default) for place in places], np.float64)
    numbers.flags.writeable = False
    return numbers


def _number(place: Place, default: float | None) -> float:
    if place.old is None:
        if default is None:
            raise InputError(
                f'{place.document.where(place.element)} has no attribute "{place.key}". Add {place.key}="…".'
            )
        return default
    try:
        number = float(place.old)
    except ValueError:
        raise InputError(f"{place} is {place.old!r}, which is no number. Write a decimal number.") from None
    if not np.isfinite(number):
        raise InputError(f"{place} is {place.old!r}, which is not finite. Write a decimal number.")
    return number
