"""The parts of a model that is trained or tested on data sets: force fields, and sums of one and of Deep Potentials."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from diffff.model_input import Deep, Weights, Xml, require_one_force_field
from diffff.spec import Variants

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
