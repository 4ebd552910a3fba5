"""What single elements of a force-field file need, beside tags and attributes that are known.

OpenMM passes over much of this, or stops with the bare name of a key: a row without class2 fits nothing, phase3 without
phase2 is never read, an unknown truth value is false.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from diffff.frontend.xml_tree import Element

N_ATOMS = {"Bond": 2, "Angle": 3, "UreyBradley": 3, "Proper": 4, "Improper": 4, "Torsion": 5, "Atom": 1, "NBFixPair": 2}
_SPECIFIER = re.compile(r"(?:class|type)\d*")
_NAMED, _INDEXED = re.compile(r"siteName|atomName\d*"), re.compile(r"index|from|to|atom\d+")  # atoms of a residue

_TWO_ATOMS = ("atomName1", "atomName2")
_NEEDED: dict[tuple[str, str], tuple[str, ...]] = {  # (parent, tag) -> attributes
    ("AtomTypes", "Type"): ("name", "class", "mass"),
    ("Residues", "Residue"): ("name",),
    ("Residue", "Atom"): ("name", "type"),
    ("Residue", "VirtualSite"): ("type",),
    ("Residue", "AllowPatch"): ("name",),
    ("Residue", "Constraint"): (*_TWO_ATOMS, "distance"),
    ("Patches", "Patch"): ("name",),
    ("Patch", "AddAtom"): ("name", "type"),
    ("Patch", "ChangeAtom"): ("name", "type"),
    ("Patch", "RemoveAtom"): ("name",),
    ("Patch", "AddBond"): _TWO_ATOMS,
    ("Patch", "RemoveBond"): _TWO_ATOMS,
    ("Patch", "AddExternalBond"): ("atomName",),
    ("Patch", "RemoveExternalBond"): ("atomName",),
    ("Patch", "ApplyToResidue"): ("name",),
    ("Patch", "VirtualSite"): ("type",),
    ("CMAPTorsionForce", "Torsion"): ("map",),
}


def _not_negative(text: str) -> None:
    if not 0.0 <= float(text) < float("inf"):
        raise ValueError


def _index(text: str) -> None:
    if int(text) < 0:
        raise ValueError


@cache
def _element(text: str) -> None:
    from openmm.app.element import get_by_symbol

    get_by_symbol(text)


def _one_of(*known: str) -> tuple[Callable[[str], Any], str]:
    return known.index, f"one of {', '.join(known)}"


_VALUES: Mapping[tuple[str, str], tuple[Callable[[str], Any], str]] = {  # (tag, attribute) -> fails unless it is …
    ("Type", "mass"): (_not_negative, "a number that is not negative"),
    ("Type", "element"): (_element, "the symbol of a chemical element"),
    ("Residue", "override"): (int, "a whole number"),
    ("Residue", "rigidWater"): _one_of("true", "false", "True", "False", "TRUE", "FALSE"),
    ("Patch", "residues"): (_index, "a whole number"),
    ("Constraint", "distance"): (_not_negative, "a number that is not negative"),
    ("Torsion", "map"): (_index, "the number of a <Map>, from 0"),
    ("PeriodicTorsionForce", "ordering"): _one_of("default", "amber", "charmm", "smirnoff"),
    ("RBTorsionForce", "ordering"): _one_of("default", "amber", "charmm"),
    ("VirtualSite", "excludeWith"): (_index, "the number of an atom, from 0"),
}
_SITES = {  # type of a virtual site -> number of atoms (None: as many as have a weight), its numbers
    "average2": (2, ("weight1", "weight2")),
    "average3": (3, ("weight1", "weight2", "weight3")),
    "outOfPlane": (3, ("weight12", "weight13", "weightCross")),
    "localCoords": (None, ("p1", "p2", "p3")),
}


def problems(parent: str, element: Element, *, of_force: bool) -> Iterator[str]:
    """What is wrong with an element: sentences to go behind its place.

    Args:
        parent: the tag that it stands in.
        element: its attributes are known to be possible.
        of_force: whether the parent is the tag of a force, and the element perhaps a row.
    """
    attributes = element.attributes
    for name in _NEEDED.get((parent, element.tag), ()):
        if name not in attributes:
            yield _lacks(name)
    for name, text in attributes.items():
        if known := _VALUES.get((element.tag, name)):
            test, what = known
            try:
                test(text)
            except (ValueError, KeyError):
                yield f'has {name}="{text}"; give {what}.'
    if of_force and element.tag in N_ATOMS:
        yield from _specifiers(element.tag, attributes)
    if more := _MORE.get((parent, element.tag)):
        yield from more(element)


def _lacks(name: str) -> str:
    return f'has no attribute "{name}". Add {name}="…".'


def _specifiers(tag: str, attributes: Mapping[str, str]) -> Iterator[str]:
    """One class or type for each atom, and none for others."""
    n = N_ATOMS[tag]
    numbers = [""] if n == 1 else [str(i + 1) for i in range(n)]
    known = {kind + number for number in numbers for kind in ("class", "type")}
    for name in attributes:
        if name not in known and _SPECIFIER.fullmatch(name):
            yield f'has an attribute "{name}", but a <{tag}> is of {n} atom{"s" * (n > 1)}. Correct or remove it.'
    for number in numbers:
        one, other = f"class{number}" in attributes, f"type{number}" in attributes
        if one == other:
            has = f"both class{number} and type{number}" if one else f"neither class{number} nor type{number}"
            yield f"has {has}; give one of them."


def _series(attributes: Mapping[str, str], *kinds: str) -> Iterator[str]:
    """Attributes that come as kind1, kind2, … in equal numbers, at least one of each."""
    numbers = [int(name.removeprefix(kind)) for kind in kinds for name in attributes if _is_numbered(name, kind)]
    for i in range(1, max([1, *numbers]) + 1):
        yield from (_lacks(f"{kind}{i}") for kind in kinds if f"{kind}{i}" not in attributes)


def _is_numbered(name: str, kind: str) -> bool:
    return name.startswith(kind) and name.removeprefix(kind).isdecimal()


def _components(row: Element) -> Iterator[str]:
    """Of a periodic torsion: OpenMM reads them from 1 until a phase is missing."""
    yield from _series(row.attributes, "phase", "periodicity", "k")
    for name, text in row.attributes.items():
        if _is_numbered(name, "periodicity"):
            k = row.attributes.get("k" + name.removeprefix("periodicity"), "")
            if not text.strip().isdecimal() or (int(text) == 0 and not re.fullmatch(r"[-+]?0*\.?0*", k)):
                yield f'has {name}="{text}"; give a whole number from 1.'


def _filled(grid: Element) -> Iterator[str]:
    if not grid.text.split():
        yield "is empty. Fill or remove it."


def _one_kind(row: Element) -> Iterator[str]:
    if len({name[:-1] for name in row.attributes if _SPECIFIER.fullmatch(name)}) > 1:
        yield "has both classes and types; give one kind for all atoms, since OpenMM cannot mix them here."


def _pair(bond: Element) -> Iterator[str]:
    """A bond of a residue: two names, or two numbers."""
    if set(bond.attributes) not in ({"atomName1", "atomName2"}, {"from", "to"}):
        yield f"has {', '.join(bond.attributes) or 'nothing'}; give atomName1 and atomName2, or from and to."


def _one_end(bond: Element) -> Iterator[str]:
    if set(bond.attributes) not in ({"atomName"}, {"from"}):
        yield f"has {', '.join(bond.attributes) or 'nothing'}; give atomName or from."


def _site(site: Element) -> Iterator[str]:
    """A virtual site has all numbers that its type needs, and no others."""
    attributes = site.attributes
    if (kind := attributes.get("type", "average2")) not in _SITES:
        yield f'is of the type "{kind}"; give one of {", ".join(_SITES)}.'
        return
    n_atoms, numbers = _SITES[kind]
    if n_atoms is None:
        yield from _series(attributes, "wo", "wx", "wy")
        n_atoms = sum(_is_numbered(name, "wo") for name in attributes)
        numbers += tuple(f"{axis}{i + 1}" for axis in ("wo", "wx", "wy") for i in range(n_atoms))
    by_name = "siteName" in attributes
    atoms = [f"{'atomName' if by_name else 'atom'}{i + 1}" for i in range(n_atoms)]
    needed = [*numbers, "siteName" if by_name else "index", *atoms]
    yield from (_lacks(name) for name in needed if name not in attributes)
    for name in attributes:
        if name not in (*needed, "type", "index", "excludeWith"):  # names win over an index, which files have too
            yield f'has an attribute "{name}", which is without effect in a site of the type {kind}. Remove it.'
    for name in numbers:
        try:
            float(attributes.get(name, "0"))
        except ValueError:
            yield f'has {name}="{attributes[name]}"; give a number.'


def _residue(residue: Element) -> Iterator[str]:
    """Its bonds and sites are of atoms that it has, and no site is defined by itself, not even through others."""
    names = [atom.attributes.get("name", "") for atom in residue.find_all("Atom")]
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        yield f'has more than one atom of the name "{twice[0]}". Give each a name of its own.'
        return
    by_name, by_number = ({key(i): i for i in range(len(names))} for key in (names.__getitem__, str))
    sites: dict[int | None, set[int | None]] = {}
    for child in residue.children:
        found = {}
        for name, text in child.attributes.items():
            if _NAMED.fullmatch(name) or _INDEXED.fullmatch(name):
                found[name] = (by_name if _NAMED.fullmatch(name) else by_number).get(text)
                if found[name] is None:
                    yield f'has a <{child.tag}> with {name}="{text}" in line {child.line}, but no such atom.'
        if child.tag == "VirtualSite":
            index = found.pop("index", None)
            site = found.pop("siteName", index)
            sites[site] = set(found.values())
    while free := [site for site, atoms in sites.items() if not atoms & set(sites) or None in atoms]:
        for site in free:
            del sites[site]
    if circle := [names[site] for site in sites if site is not None]:
        yield f"has virtual sites that are defined by each other ({', '.join(circle)}). Correct them."


_MORE: Mapping[tuple[str, str], Callable[[Element], Iterator[str]]] = {
    ("PeriodicTorsionForce", "Proper"): _components,
    ("PeriodicTorsionForce", "Improper"): _components,
    ("CMAPTorsionForce", "Map"): _filled,
    ("AmoebaUreyBradleyForce", "UreyBradley"): _one_kind,
    ("Residues", "Residue"): _residue,
    ("Residue", "Bond"): _pair,
    ("Residue", "ExternalBond"): _one_end,
    ("Residue", "VirtualSite"): _site,
    ("Patch", "VirtualSite"): _site,
}
