"""No system counts twice in a fit: not as two systems, nor as what is fitted to and what is compared with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffff.data.folders import Folder
from diffff.errors import InputError
from diffff.files import file_and_group


def require_once(sections: Mapping[str, Sequence[Folder]]) -> None:
    """Refuse a system that is found twice, under whatever names.

    Args:
        sections: what has been found, by "training_data" and "validation_data".

    Raises:
        InputError: there is one.
    """
    seen: dict[Path, tuple[str, str]] = {}
    for section, folders in sections.items():
        for folder in folders:
            if (place := _place(folder.name)) not in seen:
                seen[place] = section, folder.name
                continue
            first, name = seen[place]
            where, same = f"training.{section}: {folder.name}", "" if name == folder.name else f", there as {name}"
            if first == section:
                raise InputError(
                    f"{where} is found twice{same}. It would count twice, and errors come out too small. Name it once; "
                    "a directory stands for all systems below it."
                )
            raise InputError(
                f"{where} is in {first} too{same}, so that the errors on it say nothing of new frames. Leave it out of "
                "one, or use validation_fraction."
            )


def _place(name: str) -> Path:
    """Where a system really is; of a group in an HDF5 file, the file and the group."""
    file, group = file_and_group(name)
    return file.resolve() / group.strip("/")
