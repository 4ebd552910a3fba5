"""The section `model` of an input file that runs a potential: a Deep Potential, force-field XML, or a sum of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField
from diffff.input_file import resolve
from diffff.model import load
from diffff.potentials.base import Params, Potential
from diffff.potentials.deep import DeepPot
from diffff.spec import Spec, Variants
from diffff.structure import Structure

FileName = Annotated[str, Field(min_length=1)]


class Bound(NamedTuple):
    """A model of certain atoms.

    Attributes:
        potential: its energy.
        params: its parameter tree.
        system: ``openmm.System`` of the force field in it, which knows masses and constraints; None if there is none.
    """

    potential: Potential
    params: Params
    system: Any = None


class Deep(Spec):
    """A trained Deep Potential."""

    aliases: ClassVar[Mapping[str, str]] = {"model_file": "file"}
    type_aliases: ClassVar[tuple[str, ...]] = ("frozen",)  # DeePMD-kit's name

    type: Literal["deep"] = "deep"
    file: FileName
    "The model file, .dp or .yaml."

    @property
    def extra_particles(self) -> tuple[str, ...]:
        """None."""
        return ()

    def bound(self, structure: Structure, folder: Path) -> Bound:
        """The model for the elements of a structure.

        Raises:
            InputError: there is no such file, it is no model, or the model lacks an element.
        """
        model = load(resolve(self.file, folder) or self.file)
        place = {name: number for number, name in enumerate(model.type_map)}
        for atom, symbol in enumerate(structure.symbols):
            if symbol not in place:
                what = "has no element" if symbol is None else f"is {symbol}"
                raise InputError(f"{self.file}: atom {atom} (from 0) {what}; the model is for {list(model.type_map)}.")
        types = np.array([place[str(symbol)] for symbol in structure.symbols], int)
        return Bound(model.potential(types), model.params)


class Xml(Spec):
    """A force field in OpenMM's XML files; the keys are those of `ForceField.create_potential`."""

    aliases: ClassVar[Mapping[str, str]] = {"cutoff": "nonbonded_cutoff", "method": "nonbonded_method"}

    type: Literal["xml"] = "xml"
    files: Annotated[tuple[FileName, ...], Field(min_length=1)]
    "The files, by path or by name in OpenMM's library."
    nonbonded_method: Literal["NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME"] = "NoCutoff"
    "How nonbonded interactions are computed."
    nonbonded_cutoff: PositiveFloat = 1.0
    "In nm."
    switch_distance: PositiveFloat | None = None
    "Where Lennard-Jones begins to be switched off, nm; by default it is cut."
    ewald_error_tolerance: PositiveFloat = 5e-4
    "From which the splitting and the grid of PME are chosen."
    use_dispersion_correction: bool | None = None
    "Lennard-Jones beyond the cutoff, on average; by default as the files say."
    constraints: Literal["HBonds", "AllBonds", "HAngles"] | None = None
    "Bonds and angles that are kept as they are."
    rigid_water: bool | None = None
    "Keeps water molecules as they are; by default as the files say."
    hydrogen_mass: PositiveFloat | None = None
    "Mass of hydrogens, amu, the rest being taken from the atoms they are bound to, for longer time steps."
    solute_dielectric: PositiveFloat | None = None
    "Of an implicit solvent."
    solvent_dielectric: PositiveFloat | None = None
    "Of an implicit solvent."
    implicit_solvent_kappa: NonNegativeFloat | None = None
    "Inverse screening length of its salt, 1/nm."
    sasa_method: Literal["ACE", "LCPO", "none"] | None = None
    "Surface energy of an implicit solvent."
    ignore_external_bonds: bool = False
    "Matches residues whatever they are bonded to."
    missing: Literal["error", "skip"] = "error"
    'What to do about bonds, angles and torsions without a row: stop, or "skip" as OpenMM does.'
    add_extra_particles: bool = False
    "Adds the sites of four- and five-point water and the like to the structure."
    allow_scripts: bool = False
    "Lets OpenMM run the Python code in the files."

    @property
    def extra_particles(self) -> tuple[str, ...]:
        """Files whose sites the structure has to get."""
        return self.files if self.add_extra_particles else ()

    def bound(self, structure: Structure, folder: Path) -> Bound:
        """The force field for the topology of a structure.

        Raises:
            InputError: the structure has no topology, or see `ForceField`.
        """
        if structure.topology is None:
            raise InputError(
                "model.type xml needs residues and bonds, which this structure does not have; give a PDB or mmCIF file."
            )
        field = self.force_field(folder)
        potential, params = self.potential(field, structure.topology), field.params()
        options = self.options()
        options |= {} if self.hydrogen_mass is None else {"hydrogenMass": self.hydrogen_mass}
        return Bound(potential, params, field.create_system(structure.topology, params, **options))

    def force_field(self, folder: Path) -> ForceField:
        """The files, named as they are found from the current directory or the folder.

        Raises:
            InputError: see `ForceField`.
        """
        files = (resolve(file, folder) or file for file in self.files)
        return ForceField(*files, allow_scripts=self.allow_scripts, missing=self.missing)

    def potential(self, field: ForceField, topology: Any) -> Potential:
        """The potential of the force field for ``openmm.app.Topology``.

        Raises:
            InputError: see `ForceField.create_potential`.
        """
        return field.create_potential(topology, **self.options())

    def options(self) -> dict[str, Any]:
        """What `ForceField.create_potential` is told; no defaults, for OpenMM refuses options that no force heeds."""
        apart = {"type", "files", "hydrogen_mass", "add_extra_particles", "allow_scripts"}
        return self.model_dump(include=set(Xml.model_fields) - apart, exclude_defaults=True)


Part = Annotated[Deep | Xml, Variants()]


class Weights(Spec):
    """How much each of several models counts in their sum; the type linear_ener is DeePMD-kit's name of it."""

    type_aliases: ClassVar[tuple[str, ...]] = ("linear_ener",)

    weights: Literal["sum", "mean"] | tuple[float, ...] = "sum"
    'Factors of the parts, one each; "sum": all 1, "mean": 1 by their number.'

    def factors(self, n_models: int) -> tuple[float, ...]:
        """The factors of the parts as numbers."""
        if isinstance(self.weights, str):
            return (1.0 if self.weights == "sum" else 1.0 / n_models,) * n_models
        return self.weights

    def require_one_for_each(self, n_models: int) -> None:
        """Refuse another number of weights than models."""
        if not isinstance(self.weights, str) and len(self.weights) != n_models:
            raise ValueError(f"has {len(self.weights)} weights for {n_models} models; give one for each")


def with_weights(data: Any) -> Any:
    """An input as read from its file, with the weights that DeePMD-kit gives a linear_ener without any: the mean."""
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or model.get("type") != "linear_ener" or "weights" in model:
        return data
    return {**data, "model": {**model, "weights": "mean"}}


def total_of(bounds: Sequence[Bound], factors: Sequence[float]) -> Bound:
    """The weighted sum of models of the same atoms.

    In its parameter tree the first Deep Potential is ``DeepPot``, the second one ``DeepPot2``.

    Raises:
        InputError: they have a term in common.
    """
    bounds = _named_apart(bounds)
    potentials = [
        one.potential if w == 1.0 else one.potential.weighted(w) for one, w in zip(bounds, factors, strict=True)
    ]
    potential, params = potentials[0], bounds[0].params
    for more, bound in zip(potentials[1:], bounds[1:], strict=True):
        potential, params = potential + more, {**params, **bound.params}
    return Bound(potential, params, next((one.system for one in bounds if one.system is not None), None))


def _named_apart(bounds: Sequence[Bound]) -> list[Bound]:
    """The models with a name of its own for each Deep Potential."""
    found, n_deep = [], 0
    for potential, params, system in bounds:
        deep = [term for term in potential.terms if isinstance(term, DeepPot)]
        n_deep += len(deep)
        if deep and n_deep > 1:
            name = f"{deep[0].name}{n_deep}"
            potential = replace(potential, terms=(replace(deep[0], name=name),))
            params = {name: params[deep[0].name]}
        found.append(Bound(potential, params, system))
    return found


class Sum(Weights):
    """The sum of several models, such as a Deep Potential on top of a force field."""

    type: Literal["sum"] = "sum"
    models: Annotated[tuple[Part, ...], Field(min_length=1)]
    "The parts, each a section of its own."

    @model_validator(mode="after")
    def _has_one_force_field(self) -> "Sum":
        require_one_force_field(self.models)
        self.require_one_for_each(len(self.models))
        return self

    @property
    def extra_particles(self) -> tuple[str, ...]:
        """Files whose sites the structure has to get."""
        return tuple(file for part in self.models for file in part.extra_particles)

    def bound(self, structure: Structure, folder: Path) -> Bound:
        """The sum for a structure.

        Raises:
            InputError: see the parts.
        """
        return total_of([part.bound(structure, folder) for part in self.models], self.factors(len(self.models)))


def require_one_force_field(models: Sequence[Spec]) -> None:
    """Refuse two force fields in one sum: their files are read together, as those of one."""
    if sum(isinstance(part, Xml) for part in models) > 1:
        raise ValueError('has two parts of the type "xml"; name all their files in one')


ModelInput = Annotated[Deep | Xml | Sum | FileName, Variants()]


def model_of(given: Deep | Xml | Sum | str) -> Deep | Xml | Sum:
    """The section; a plain name is that of a Deep Potential."""
    return Deep(file=given) if isinstance(given, str) else given
