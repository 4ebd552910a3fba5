"""Force fields that are trained or tested on data sets, and residues and bonds of their systems, which they need."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from diffff.errors import InputError
from diffff.files import file_and_group
from diffff.frontend.reference import periodic_box, read_structure, symbols_of
from diffff.input_file import resolve
from diffff.model_input import Deep, Weights, Xml, require_one_force_field
from diffff.spec import Variants
from diffff.structure import Structure

FileName = Annotated[str, Field(min_length=1)]


class FittedXml(Xml):
    """A force field whose numbers may move."""

    topology: FileName | Annotated[Mapping[str, FileName], Field(min_length=1)] = "topology.pdb"
    """Residues and bonds of the systems, PDB or mmCIF: a file for all of them, a file by pattern of the name of the
    system, such as {"*/water*": "water.pdb"}, or the name of a file in the directory of each system."""


UNTRAINED = 'a network without weights; give the trained one, {"type": "deep", "file": "model.dp"}'


class SumOfParts(Weights):
    """A sum that may have a force field, and Deep Potentials that stay as they are.

    Attributes:
        models: its parts.
    """

    models: tuple[Any, ...]

    @property
    def force_field(self) -> tuple[FittedXml, float] | None:
        """The force field and its weight, if there is one."""
        return next(((part, weight) for part, weight in self._weighted() if isinstance(part, FittedXml)), None)

    @property
    def frozen(self) -> tuple[tuple[Deep, float], ...]:
        """The Deep Potentials that stay as they are, and their weights."""
        return tuple((part, weight) for part, weight in self._weighted() if isinstance(part, Deep))

    def _weighted(self) -> Iterator[tuple[Any, float]]:
        return zip(self.models, self.factors(len(self.models)), strict=True)


class FrozenSum(SumOfParts):
    """A force field and Deep Potentials that stay as they are."""

    type: Literal["sum"] = "sum"
    models: Annotated[
        tuple[Annotated[FittedXml | Deep, Variants(refused={"standard": UNTRAINED})], ...], Field(min_length=1)
    ]
    "The parts, each a section of its own."

    @model_validator(mode="after")
    def _has_one_force_field(self) -> Self:
        require_one_force_field(self.models)
        self.require_one_for_each(len(self.models))
        return self


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
