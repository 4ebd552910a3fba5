"""The input of `dff md`: which model, where the atoms begin, how they move, and what is written.

The sections and keys are those of the Python API (`simulate`, `minimize`, the integrators and barostats) and of
`diffff.model_input`. Keys that begin with "_" are comments. Lengths are in nm, times in ps, masses in amu.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from diffff import spec
from diffff.input_file import load
from diffff.md.barostats import CellRescaling, MonteCarlo
from diffff.md.integrators import CSVR, Langevin, NoseHoover, VelocityVerlet
from diffff.md.outputs import Outputs
from diffff.md.trajectory.open import SUFFIXES
from diffff.model_input import FileName, ModelInput, with_weights
from diffff.spec import Spec, Variants

Vector = tuple[float, float, float]


class SystemInput(Spec):
    """The section `system`: atoms, positions and box."""

    structure: FileName
    "A PDB, mmCIF or extended XYZ file, a POSCAR, or a data set of DeePMD-kit."
    frame: int = 0
    "Number of the frame in it, from 0; -1 is the last one."
    box: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | tuple[Vector, Vector, Vector] | None = None
    "Edges, or three lattice vectors, nm, instead of the box of the file."
    periodic: bool = True
    "False leaves the box of the file out."
    masses: dict[str, PositiveFloat] | None = None
    'Masses of elements, amu, such as {"H": 2.014}; by default the force field\'s, or those of the elements.'

    @model_validator(mode="after")
    def _has_one_box(self) -> Self:
        if self.box is not None and not self.periodic:
            raise ValueError("has a box, but periodic is false; keep one of them")
        return self


class Minimize(Spec):
    """The section `minimize`: go downhill first."""

    method: Literal["lbfgs", "fire"] = "lbfgs"
    "Limited-memory BFGS, or FIRE."
    tolerance: PositiveFloat = 100.0
    "Largest force on an atom that may be left, kJ/mol/nm."
    max_steps: PositiveInt = 10000
    "Largest number of steps; a minimum that is not reached is no error."


class Run(Spec):
    """The section `run`: how long, how many at once, in which precision."""

    aliases: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("numb_steps", "nsteps"), "n_steps"),
        "precision": "dtype",
    }

    n_steps: Annotated[int, Field(ge=0, lt=2**31)]
    "Number of steps, those before a restart included."
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    "Of all random numbers."
    n_replicas: PositiveInt = 1
    "How many copies run at once; they differ in their random numbers."
    dtype: Literal["float64", "float32"] = "float64"
    "In which forces are computed and atoms moved."
    temperature: PositiveFloat | None = None
    "Of the first velocities, K; by default that of the integrator, or 300."
    skin: PositiveFloat = 0.1
    "How much farther than the cutoff the neighbour lists reach, nm."


class OutputInput(Spec):
    """The section `output`: which files, and after how many steps each is written."""

    log: FileName | None = "md.log"
    "Table of energies, temperature, pressure, density and what is conserved."
    log_every: PositiveInt = 100
    "Steps."
    trajectory: FileName | None = None
    "Trajectory: .dcd, .xyz, .extxyz, .h5 or .hdf5."
    trajectory_every: PositiveInt = 1000
    "Steps."
    checkpoint: FileName = "md.npz"
    "What --restart goes on from."
    checkpoint_every: PositiveInt = 10000
    "Steps."
    deviation: FileName = "model_devi.out"
    "How far the models of the committee are apart, in DeePMD-kit's format; written if there is a committee."
    deviation_every: PositiveInt = 1000
    "Steps."

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        names = [name for name in (self.log, self.trajectory, self.checkpoint, self.deviation) if name is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"two outputs go to one file: {', '.join(names)}")
        if self.trajectory is not None and Path(self.trajectory).suffix.lower() not in SUFFIXES:
            raise ValueError(f'the trajectory is "{self.trajectory}"; give a name that ends in {", ".join(SUFFIXES)}')
        return self

    def made(self, *, deviates: bool) -> Outputs:
        """The files; that of deviations if there is a committee."""
        return Outputs(
            log=None if self.log is None else Path(self.log),
            log_every=self.log_every,
            trajectory=None if self.trajectory is None else Path(self.trajectory),
            trajectory_every=self.trajectory_every,
            checkpoint=Path(self.checkpoint),
            checkpoint_every=self.checkpoint_every,
            deviation=Path(self.deviation) if deviates else None,
            deviation_every=self.deviation_every,
        )


class Input(Spec):
    """The whole file."""

    model: ModelInput
    "What the energy is; a name is that of a Deep Potential's file."
    committee: tuple[ModelInput, ...] = ()
    "Other models, whose distance from each other and from the first goes into output.deviation."
    system: SystemInput
    "The atoms."
    minimize: Minimize | None = None
    "Go downhill first."
    integrator: Annotated[VelocityVerlet | Langevin | NoseHoover | CSVR, Variants()]
    "How the atoms move."
    barostat: Annotated[CellRescaling | MonteCarlo, Variants()] | None = None
    "How the box changes; it needs an integrator with a thermostat."
    run: Run
    "How long, how many, in which precision."
    output: OutputInput = OutputInput()
    "Files."

    @model_validator(mode="after")
    def _has_a_thermostat(self) -> Self:
        if self.barostat is not None and self.integrator.temperature is None:
            raise ValueError("the barostat needs a thermostat; take another integrator than verlet")
        return self


def read_input(path: str | Path) -> Input:
    """Reads a .json or .yaml file and checks it.

    Raises:
        InputError: The file is missing or malformed, or some keys are wrong; all of them are listed.
    """
    return spec.validate(Input, with_weights(load(Path(path))), where=str(path))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, from which editors complete and check."""
    return spec.json_schema(Input)
