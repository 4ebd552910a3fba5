"""Residues and bonds of the systems of a data set, which a force field needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from diffff.errors import InputError
from diffff.files import file_and_group
from diffff.frontend.reference import periodic_box, read_structure, symbols_of
from diffff.input_file import resolve
from diffff.structure import Structure


@dataclass(frozen=True, eq=False)
class Topologies:
    """The topologies of all systems, each file read once.

    Attributes:
        given: the key `topology` of the force field: a file, or files by pattern of the system's name.
        folder: of the input file.
        sites: files of the force field whose sites are added to the topologies.
        structures: what has been read, by file.
    """

    given: str | Mapping[str, str]
    folder: Path
    sites: tuple[str, ...] = ()
    structures: dict[Path, Structure] = field(default_factory=dict)

    def of(self, system: str) -> Structure:
        """The structure of a system, by its name; the same object for all systems of one file.

        Raises:
            InputError: there is no such file, no pattern fits, or OpenMM cannot read the file.
        """
        file = self._file(system)
        if file not in self.structures:
            topology, positions = read_structure(file, [resolve(one, self.folder) or one for one in self.sites])
            self.structures[file] = Structure(symbols_of(topology), positions, periodic_box(topology), topology)
        return self.structures[file]

    @property
    def names(self) -> tuple[str, ...]:
        """The files as they are given."""
        return (self.given,) if isinstance(self.given, str) else tuple(self.given.values())

    @property
    def candidates(self) -> list[Path]:
        """The files that are there, but for those in the directories of systems."""
        found = (resolve(name, self.folder) for name in self.names)
        return [Path(name) for name in found if name is not None]

    def _file(self, system: str) -> Path:
        name = self.given
        if not isinstance(name, str):
            found = next((file for pattern, file in name.items() if fnmatchcase(system, pattern)), None)
            if found is None:
                raise InputError(f"topology: no pattern fits the system {system}; there are {', '.join(name)}.")
            name = found
        beside, _ = file_and_group(system)
        beside = beside if beside.is_dir() else beside.parent
        if (beside / name).is_file():
            return beside / name
        if (elsewhere := resolve(name, self.folder)) is None:
            raise InputError(
                f'topology: there is no file "{name}" for the system {system}, neither in {beside}, nor in the current '
                "directory, nor beside the input. A force field needs residues and bonds: give a PDB or mmCIF file."
            )
        return Path(elsewhere)
