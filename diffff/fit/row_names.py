"""By what rows of files are known: their attributes, and the atoms that they are for."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from diffff.frontend.rows import Place

BETWEEN = "–"  # atoms in a label; "-" is part of names such as protein-CT
ATOMS = "atoms"
"""The key of a condition on types or classes in their order, from either end."""


def attributes_of(place: Place) -> dict[str, str]:
    """Those of the row, and the name of the residue in which it stands, if it does."""
    residue = place.document.residues.get(place.element)
    return place.element.attributes if residue is None else {**place.element.attributes, "residue": residue}


def atoms_of(place: Place) -> tuple[str, ...]:
    """The types or classes that a row is for, in its order: ``("c3", "oh")``; else its name."""
    attributes = place.element.attributes
    for kind in ("type", "class"):
        found = [attributes[f"{kind}{k}"] for k in range(1, 9) if f"{kind}{k}" in attributes]
        if found or kind in attributes:
            return tuple(found) or (attributes[kind],)
    return (attributes["name"],) if "name" in attributes else ()


def in_words(names: Sequence[str]) -> str:
    """Types or classes in their order; an empty one, which stands for all, is a ``*``.

    Example:
        >>> in_words(("", "protein-C", "protein-N", ""))
        '*–protein-C–protein-N–*'
    """
    return BETWEEN.join(name or "*" for name in names)


def label_of_row(place: Place) -> str:
    """The atoms of a row in words: in a residue ``NME–CH3``, else its types or classes, else its line."""
    attributes = attributes_of(place)
    in_residue = {"residue", "name"} <= attributes.keys()
    atoms = (attributes["residue"], attributes["name"]) if in_residue else atoms_of(place)
    return in_words(atoms) or f"line {place.element.line}"


def patterns_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """One pattern, or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def fits(place: Place, where: Mapping[str, str | Sequence[str]]) -> bool:
    """Whether a row fulfils all conditions; see `diffff.fit.rules.Selection`."""
    return all(_fits(place, key, patterns_of(given)) for key, given in where.items())


def _fits(place: Place, key: str, patterns: Sequence[str]) -> bool:
    if key == ATOMS:
        return _in_either_order(atoms_of(place), patterns)
    text = attributes_of(place).get(key)
    return text is not None and any(fnmatchcase(text, pattern) for pattern in patterns)


def _in_either_order(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if len(names) != len(patterns):
        return False
    return any(
        all(fnmatchcase(name, pattern) for name, pattern in zip(order, patterns, strict=True))
        for order in (names, names[::-1])
    )
