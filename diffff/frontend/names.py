"""Names in force-field files that nothing has: OpenMM leaves out the rows that they stand in without a word.

Files that come with OpenMM have hundreds of such rows, left from the force fields that they were made from, so they are
no errors. A name that stands in a single row of a user's own file, one character away from a name that exists, is one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from diffff.errors import InputError, InputErrors
from diffff.frontend.checks import N_ATOMS
from diffff.frontend.files import is_installed, library_files
from diffff.frontend.group import rows_of
from diffff.frontend.rows import Place
from diffff.frontend.xml import Document
from diffff.frontend.xml_tree import Element

_SPECIFIER = re.compile(r"(class|type)\d*")
_OF = {
    "class": "<Type> of the files has this class, so OpenMM would leave the row out",
    "type": "<Type> of the files has this name, so OpenMM would leave the row out",
    "patch": "<Patch> of the files has this name, so it would be without effect",
    "residue": "<Residue> of the files has this name, so it would be without effect",
}
_FEW = 3  # a file with more of them is left from a larger one
_Named = tuple[str, str, Place]  # what kind of thing is named, its name, and where


def unused_rows(documents: Iterable[Document]) -> tuple[Place, ...]:
    """The classes and types in rows of forces that no ``<Type>`` of the files has."""
    documents = tuple(documents)
    known = _known(documents)
    return tuple(place for kind, name, place in _specifiers(documents) if name and name not in known[kind])


def check_names(documents: Iterable[Document]) -> None:
    """Refuse atoms of a type that is not there, and names that are nearly those of something.

    Raises:
        InputError: the first atom of a type that is not there, or a sentence for each of the names.
    """
    documents = tuple(documents)
    known = _known(documents)
    for document, atom in _atoms(documents):
        if (name := atom.attributes["type"]) not in known["type"]:
            where, hint = f'{document.where(atom)} has type="{name}"', _hint(name, known["type"])
            raise InputError(
                f"{where}, but no <Type> of the files has this name.{hint} Add it, or name the file that has it too."
            )
    unknown = [
        one for one in (*_specifiers(documents), *_references(documents)) if one[1] and one[1] not in known[one[0]]
    ]
    own = {document for document in documents if not is_installed(document.path)}
    problems = []
    times = Counter((kind, name) for kind, name, _ in unknown)
    number = Counter(document for document, *_ in {(place.document, kind, name) for kind, name, place in unknown})
    for kind, name, place in unknown:
        alone = times[kind, name] == 1 and number[place.document] <= _FEW
        hint = _hint(name, known[kind]) if alone and place.document in own else ""
        if hint and not _is_of_library(place.document, name):
            where = f'{place.document.where(place.element)} has {place.key}="{place.old}"'
            problems.append(f"{where}, but no {_OF[kind]}.{hint} Correct it, or remove the <{place.element.tag}>.")
    if problems:
        raise InputErrors(problems)


def _known(documents: Sequence[Document]) -> Mapping[str, set[str]]:
    types = [row.attributes for _, row in rows_of(documents, "AtomTypes", ["Type"])]
    return {
        "type": {row["name"] for row in types},
        "class": {row["class"] for row in types},
        "patch": {row.attributes["name"] for _, row in rows_of(documents, "Patches", ["Patch"])},
        "residue": {row.attributes["name"] for _, row in rows_of(documents, "Residues", ["Residue"])},
    }


def _specifiers(documents: Sequence[Document]) -> Iterator[_Named]:
    """The classes and types in the rows of forces."""
    for document in documents:
        for force in document.root.children:
            for row in force.children if force.tag.endswith("Force") else ():
                for key, name in row.attributes.items() if row.tag in N_ATOMS else ():
                    if found := _SPECIFIER.fullmatch(key):
                        yield found[1], name, Place(document, row, key, name)


def _references(documents: Sequence[Document]) -> Iterator[_Named]:
    """The patches that residues allow (as NAME or NAME:2), and the residues that patches apply to (NAME or 2:NAME)."""
    for section, group, tag, kind, part in (
        ("Residues", "Residue", "AllowPatch", "patch", 0),
        ("Patches", "Patch", "ApplyToResidue", "residue", -1),
    ):
        for document, owner in rows_of(documents, section, [group]):
            for row in owner.find_all(tag):
                name = row.attributes["name"]
                yield kind, name.split(":", 1)[part], Place(document, row, "name", name)


def _atoms(documents: Sequence[Document]) -> Iterator[tuple[Document, Element]]:
    """All that have a type in residues and patches."""
    for section, group, tags in (("Residues", "Residue", ("Atom",)), ("Patches", "Patch", ("AddAtom", "ChangeAtom"))):
        for document, owner in rows_of(documents, section, [group]):
            yield from ((document, atom) for tag in tags for atom in owner.find_all(tag))


def _hint(name: str, known: Iterable[str]) -> str:
    near = sorted(other for other in known if _is_slip(name, other))
    return f' Did you mean "{near[0]}"?' if near else ""


def _is_slip(name: str, other: str) -> bool:
    """Whether one character is missing, too much or has changed places with the next, or only cases differ.

    One may be wrong too in names of four characters and more; shorter ones are too near to each other for that.
    """
    if name.lower() == other.lower():
        return True
    i = next((i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other)))
    a, b = name[i:], other[i:]  # from the first difference on
    if a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:]):
        return True
    return a[1:] == b[1:] and len(name) >= 4


def _is_of_library(document: Document, name: str) -> bool:
    """Whether a file is the copy of one that comes with OpenMM, and has this name from there."""
    return any(f'"{name}"'.encode() in file.read_bytes() for file in library_files(document.path.name))
