"""What may stand in a force-field file. Anything else is an error, never passed over."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from diffff.errors import InputErrors
from diffff.frontend import checks, scripts
from diffff.frontend.xml import Document
from diffff.frontend.xml_tree import Element

_ANY = re.compile(r"(?!xmlns)[^:]*")
Attributes = re.Pattern[str]


def _pattern(names: str) -> Attributes:
    """Attribute names between spaces; ``#`` stands for a number from 1."""
    return re.compile("|".join(name.replace("#", r"[1-9]\d*") for name in names.split()) or "(?!)")


def _rows(tags: Mapping[str, str]) -> dict[str, tuple[Attributes, dict]]:
    return {tag: (_pattern(names), {}) for tag, names in tags.items()}


_ATOMS = "atom# atomName#"
_SITE = f"type index siteName {_ATOMS} weight# weightCross wo# wx# wy# p# excludeWith"
_TORSION = "class# type# periodicity# phase# k#"

_GLOBAL = {"GlobalParameter": "name defaultValue"}
_FUNCTION = "name type periodic min max xmin ymin zmin xmax ymax zmax xsize ysize zsize"


def _custom(attributes: str, rows: str, others: Mapping[str, str]) -> tuple[Attributes, dict]:
    """A tag whose rows have attributes that it names itself; `diffff.frontend.custom` checks them."""
    return _pattern(attributes), {**dict.fromkeys(rows.split(), (_ANY, {})), **_rows({**_GLOBAL, **others})}


# tag -> names of its attributes, and its children in the same form
_FORCES: dict[str, tuple[Attributes, dict]] = {
    "HarmonicBondForce": (_pattern(""), _rows({"Bond": "class# type# length k"})),
    "HarmonicAngleForce": (_pattern(""), _rows({"Angle": "class# type# angle k"})),
    "AmoebaUreyBradleyForce": (_pattern(""), _rows({"UreyBradley": "class# type# k d"})),
    "PeriodicTorsionForce": (_pattern("ordering"), _rows({"Proper": _TORSION, "Improper": _TORSION})),
    "RBTorsionForce": (
        _pattern("ordering"),
        _rows(dict.fromkeys(("Proper", "Improper"), "class# type# c0 c1 c2 c3 c4 c5")),
    ),
    "CMAPTorsionForce": (_pattern(""), _rows({"Map": "", "Torsion": "class# type# map"})),
    "LennardJonesForce": (
        _pattern("lj14scale useDispersionCorrection"),
        _rows({"Atom": "class type sigma epsilon sigma14 epsilon14", "NBFixPair": "class# type# sigma epsilon"}),
    ),
    "GBSAOBCForce": (
        _pattern(""),
        _rows({"Atom": "class type charge radius scale", "UseAttributeFromResidue": "name"}),
    ),
    "CustomBondForce": _custom("energy", "Bond", {"PerBondParameter": "name"}),
    "CustomAngleForce": _custom("energy", "Angle", {"PerAngleParameter": "name"}),
    "CustomTorsionForce": _custom("energy ordering", "Proper Improper", {"PerTorsionParameter": "name"}),
    "CustomNonbondedForce": _custom(
        "energy bondCutoff",
        "Atom",
        {
            "PerParticleParameter": "name",
            "UseAttributeFromResidue": "name",
            "ComputedValue": "name expression",
            "Function": _FUNCTION,
        },
    ),
    "CustomGBForce": _custom(
        "",
        "Atom",
        {
            "PerParticleParameter": "name",
            "UseAttributeFromResidue": "name",
            "ComputedValue": "name type",
            "EnergyTerm": "type",
            "Function": _FUNCTION,
        },
    ),
    "NonbondedForce": (
        _pattern("coulomb14scale lj14scale useDispersionCorrection"),
        _rows({"Atom": "class type charge sigma epsilon", "UseAttributeFromResidue": "name"}),
    ),
}
_RESIDUE = {
    "Atom": (_ANY, {}),  # parameters of any name
    **_rows(
        {
            "Bond": "from to atomName#",
            "ExternalBond": "from atomName",
            "VirtualSite": _SITE,
            "AllowPatch": "name",
            "Constraint": "atomName# distance",
        }
    ),
}
_PATCH = {
    "AddAtom": (_ANY, {}),
    "ChangeAtom": (_ANY, {}),
    **_rows(
        {
            "RemoveAtom": "name",
            "AddBond": "atomName#",
            "RemoveBond": "atomName#",
            "AddExternalBond": "atomName",
            "RemoveExternalBond": "atomName",
            "ApplyToResidue": "name",
            "VirtualSite": _SITE,
        }
    ),
}
_FILE = {
    "AtomTypes": (_pattern(""), _rows({"Type": "name class element mass"})),
    "Residues": (_pattern(""), {"Residue": (_pattern("name override rigidWater"), _RESIDUE)}),
    "Patches": (_pattern(""), {"Patch": (_pattern("name residues"), _PATCH)}),
    "Include": (_pattern("file"), {}),
    "Info": None,  # whatever its authors want to say
    **_FORCES,
}
_ONCE = ("AtomTypes", "Residues", "Patches")  # OpenMM reads the first of a file only
_TEXTS = ("Map", "Function", "ComputedValue", "EnergyTerm", "Info", *scripts.TAGS)
_NOT_YET = re.compile(r"(?:Amoeba|Hippo|Drude|Custom)\w+|ADMP\w+|Slater\w+|QqTt\w+|\w*DampingForce")


class _Problems(NamedTuple):
    """A sentence for each kind of problem."""

    serious: dict[tuple[str, ...], str]
    ignored: dict[tuple[str, ...], str]  # by OpenMM


def check(documents: Iterable[Document], *, allow_scripts: bool, strict: bool = True) -> None:
    """Refuse what is unknown, and what is known but not there yet; all of it at once.

    Args:
        documents: the files.
        allow_scripts: pass scripts that diffff does not know.
        strict: refuse what OpenMM ignores, too.

    Raises:
        InputErrors: A sentence for each kind of tag or attribute that has no meaning here.
    """
    problems = _Problems({}, {})
    for document in documents:
        _check_root(document, problems)
        for child in document.root.children:
            if child.tag in scripts.TAGS:
                if not (allow_scripts or scripts.purpose(child)):
                    problems.serious[str(document.path), child.tag] = (
                        f"{document.where(child)}: Python code in a force field is not run unless asked to. If you "
                        "trust the file, give allow_scripts=True; what the code adds to OpenMM's system is then missing"
                        " from the potential."
                    )
            else:
                _check(document, child, _FILE, "ForceField", problems)
    sentences = [*problems.serious.values(), *(problems.ignored.values() if strict else ())]
    if sentences:
        raise InputErrors(sentences)


def _check_root(document: Document, problems: _Problems) -> None:
    """Neither attributes nor text, and no section twice that OpenMM reads once."""
    for name in document.root.attributes:
        kind = problems.serious if name.startswith("xmlns") else problems.ignored
        kind["ForceField", name] = (
            f'{document.where(document.root)} has an attribute "{name}" that no <ForceField> has. Remove it.'
        )
    _check_text(document, document.root, problems)
    for tag in _ONCE:
        for again in document.root.find_all(tag)[1:]:
            problems.ignored["ForceField", tag] = (
                f"{document.where(again)} is the second one in this file, and OpenMM reads the first only. Join them."
            )


def _check_text(document: Document, element: Element, problems: _Problems) -> None:
    for text, place in ((element.text, "in"), (element.tail, "behind")):
        if not (not text or text.isspace() or (place == "in" and element.tag in _TEXTS)):
            problems.ignored.setdefault(
                (element.tag, f"text {place} it"),
                f'{document.where(element)} has the text "{text.strip()[:40]}" {place} it, which nobody would read. '
                "Remove it, or make it a comment <!-- … -->.",
            )


def _check(document: Document, element: Element, known: Mapping, parent: str, problems: _Problems) -> None:
    key = (parent, element.tag)
    if element.tag not in known:
        if parent == "ForceField" and _NOT_YET.fullmatch(element.tag):
            problems.serious.setdefault(
                key, f"{document.where(element)}: diffff does not have this force yet, so it cannot use the file."
            )
        else:
            problems.ignored.setdefault(
                key, f"{document.where(element)} is unknown in <{parent}>.{_suggestion(element.tag, known)}"
            )
        return
    _check_text(document, element, problems)
    if known[element.tag] is None:
        return
    attributes, children = known[element.tag]
    for name in element.attributes:
        if not attributes.fullmatch(name):
            problems.ignored.setdefault(
                (element.tag, name),
                f'{document.where(element)} has an attribute "{name}" that no <{element.tag}> has, so it would be '
                "without effect. Correct or remove it.",
            )
    for problem in checks.problems(parent, element, of_force=parent in _FORCES):
        problems.serious.setdefault((parent, element.tag, problem), f"{document.where(element)} {problem}")
    for child in element.children:
        _check(document, child, children, element.tag, problems)


def _suggestion(tag: str, known: Iterable[str]) -> str:
    near = get_close_matches(tag, known, n=1)
    return f" Did you mean <{near[0]}>?" if near else " Correct or remove it."
