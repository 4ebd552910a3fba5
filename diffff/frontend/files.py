"""Which files a force field consists of: by path, by name in the libraries that are installed, and by inclusion."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path

from diffff.errors import InputError
from diffff.frontend.xml import Document


def data_directories() -> list[Path]:
    """Where files are looked for by name: OpenMM's own, then those of installed packages of force fields.

    Packages announce theirs under the entry point ``openmm.forcefielddir``, as for OpenMM itself.
    """
    import openmm.app

    own = Path(openmm.app.__file__).parent / "data"
    return [own, *(Path(entry.load()()) for entry in entry_points(group="openmm.forcefielddir"))]


def read_files(files: Sequence[str | PathLike[str]]) -> tuple[Document, ...]:
    """The files and what they include, in OpenMM's order: included ones behind all that were named.

    Raises:
        InputError: No file is given, one is not found, or it is not well-formed.
    """
    if not files:
        raise InputError('ForceField: no file is given. Name at least one, such as "amber14-all.xml".')
    directories = data_directories()
    wanted: list[tuple[str, Path | None]] = [(str(name), None) for name in files]
    documents: dict[Path, Document] = {}
    for name, included_by in wanted:  # grows as files include others
        path = _found(name, included_by, directories)
        if path in documents:
            continue
        documents[path] = document = Document.read(path)
        for include in document.root.find_all("Include"):
            if "file" not in include.attributes:
                raise InputError(f'{document.where(include)} names no file. Write <Include file="…"/>.')
            wanted.append((include.attributes["file"], path))
    return tuple(documents.values())


def _found(name: str, included_by: Path | None, directories: Sequence[Path]) -> Path:
    beside = [] if included_by is None else [included_by.parent]
    for path in (*(folder / name for folder in beside), Path(name), *(folder / name for folder in directories)):
        if path.is_file():
            return path.resolve()
    where = f" (included by {included_by})" if included_by is not None else ""
    raise InputError(
        f"{name}{where}: no such file here, in OpenMM's data or in an installed package of force fields. Give the path "
        'of an XML file, or a name such as "amber14-all.xml"; pip install openmmforcefields brings many more.'
    )
