"""Which files a force field consists of: by path, by name in the libraries that are installed, and by inclusion."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from diffff.errors import InputError
from diffff.frontend.xml import Document


def data_directories() -> list[Path]:
    """Where files are looked for by name: OpenMM's own, then those of installed packages of force fields.

    Packages announce theirs under the entry point ``openmm.forcefielddir``, as for OpenMM itself.
    """
    import openmm.app

    own = Path(openmm.app.__file__).parent / "data"
    return [own, *(Path(entry.load()()) for entry in entry_points(group="openmm.forcefielddir"))]


class Inclusion(NamedTuple):
    """An ``<Include>``: the file it stands in, the file that it names, and how."""

    outer: Document
    name: str
    inner: Document


def read_files(files: Sequence[str | PathLike[str]]) -> tuple[Document, ...]:
    """The files and what they include, in OpenMM's order: included ones behind all that were named.

    Raises:
        InputError: No file is given, one is not found, named twice, or not well-formed.
    """
    if not files:
        raise InputError('ForceField: no file is given. Name at least one, such as "amber14-all.xml".')
    for name in files:
        if not isinstance(name, str | PathLike):
            raise InputError(
                f"ForceField: {name!r} is no name of a file. Give paths or names, each as an argument of its own: "
                'ForceField("amber14-all.xml", "amber14/tip3p.xml").'
            )
    directories = data_directories()
    wanted: list[tuple[str, Path | None]] = [(str(name), None) for name in files]
    documents: dict[Path, Document] = {}
    for name, included_by in wanted:  # grows as files include others
        path = _found(name, included_by, directories)
        if path in documents:
            if included_by is None:
                raise InputError(f"ForceField: {path} is named twice. Name it once; OpenMM does not read it twice.")
            continue
        documents[path] = document = Document.read(path)
        wanted += [(included, path) for included in _includes(document)]
    return tuple(documents.values())


def inclusions(documents: Sequence[Document]) -> list[Inclusion]:
    """Which file includes which."""
    directories = data_directories()
    by_path = {document.path: document for document in documents}
    return [
        Inclusion(outer, name, by_path[_found(name, outer.path, directories)])
        for outer in documents
        for name in _includes(outer)
    ]


def written_as(documents: Sequence[Document], included: Sequence[Inclusion]) -> dict[Document, Path]:
    """Where each file is to be written, relative to a folder, so that OpenMM finds it there by its inclusion.

    A file that another one includes stands where that one's ``<Include>`` says, the others under their own names.

    Raises:
        InputError: An inclusion leads out of the folder, or two files would have the same place.
    """
    inner_ones = {inclusion.inner for inclusion in included}
    places = {document: Path(document.path.name) for document in documents if document not in inner_ones}
    todo = list(places)
    for outer in todo:  # grows
        for _, name, inner in (inclusion for inclusion in included if inclusion.outer is outer):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise InputError(
                    f'{outer.path}: <Include file="{name}"/> leads out of the folder of this file, so copies '
                    "elsewhere would still read the old one. Put the included file beside it and name that."
                )
            place = places[outer].parent / name
            if places.setdefault(inner, place) != place:
                raise InputError(
                    f"{inner.path} is included as {places[inner]} and as {place}, and can be written to one place only."
                )
            if inner not in todo:
                todo.append(inner)
    if circle := [document for document in documents if document not in places]:
        raise InputError(f"{circle[0].path} is included in a circle. Remove one of the inclusions.")
    if twice := [place for place, number in Counter(places.values()).items() if number > 1]:
        paths = " and ".join(str(document.path) for document in documents if places[document] == twice[0])
        raise InputError(f"{paths} would both be written to {twice[0]}. Copy one to another name, and read that one.")
    return places


def check_target(folder: str | PathLike[str]) -> Path:
    """The folder to write to.

    Raises:
        InputError: It is no path, or belongs to OpenMM or to an installed package.
    """
    if not isinstance(folder, str | PathLike):
        raise InputError(f"{folder!r} is no path of a folder; give one that the files can be written to.")
    if is_installed(Path(folder) / "x"):
        raise InputError(
            f"{folder}: this is a folder of an installed package, which stays as it is. Give one of yours."
        )
    return Path(folder)


def is_installed(path: Path) -> bool:
    """Whether a file belongs to OpenMM or to an installed package of force fields."""
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in data_directories())


def library_files(name: str) -> list[Path]:
    """The files of that name, without a directory, in OpenMM's data and in installed packages of force fields."""
    return [path for folder in data_directories() for path in sorted(folder.rglob(name))]


def _includes(document: Document) -> list[str]:
    """The files that a file includes, as it names them."""
    for include in document.root.find_all("Include"):
        if "file" not in include.attributes:
            raise InputError(f'{document.where(include)} names no file. Write <Include file="…"/>.')
    return [include.attributes["file"] for include in document.root.find_all("Include")]


def _found(name: str, included_by: Path | None, directories: Sequence[Path]) -> Path:
    beside = [] if included_by is None else [included_by.parent]
    where = f" (included by {included_by})" if included_by is not None else ""
    with suppress(OSError, ValueError):  # names too long, NUL
        for path in (*(folder / name for folder in beside), Path(name), *(folder / name for folder in directories)):
            if path.is_file():
                return path.resolve()
            if name and path.is_dir():
                raise InputError(f"{name}{where} is a directory. Name the XML files in it.")
    raise InputError(
        f"{name[:200]}{where}: no such file here, in OpenMM's data or in an installed package of force fields. Give "
        'the path of an XML file, or a name such as "amber14-all.xml"; pip install openmmforcefields brings many more.'
    )
