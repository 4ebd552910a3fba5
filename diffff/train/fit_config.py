"""The input of a fit: force-field XML, alone or with Deep Potentials that stay as they are, and which numbers move.

An input whose model has a network to train is that of `train.config`; one that has none is this.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffff import spec
from diffff.fit.optimizers import LBFGSB, LeastSquares
from diffff.fit.parameters import Parameters
from diffff.fit.problem import Sigmas
from diffff.input_file import load
from diffff.model_input import Deep, with_weights
from diffff.spec import Spec, Variants
from diffff.train.config_data import systems_in, with_found_systems
from diffff.train.optim import INSTEAD_OF_MUON, LBFGS, SGD, Adagrad, Adam, Adamax, AdamW, Muon, RMSprop
from diffff.train.parts import FittedXml, FrozenSum
from diffff.train.schedule import LearningRate

FileName = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class FittedSum(FrozenSum):
    """A force field some of whose numbers move, and Deep Potentials that stay as they are."""

    @model_validator(mode="after")
    def _has_a_force_field(self) -> Self:
        if self.force_field is None:
            raise ValueError('nothing in it can move: add a part of the type "xml" or "standard"')
        return self


class FitData(Spec):
    """The sections `training_data` and `validation_data` of a fit."""

    aliases: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("batch_size", "auto_prob", "auto_prob_style", "sys_probs", "sys_weights", "numb_btch", "numb_batch"),
        "each step of a fit sees all frames; remove the key",
    )

    systems: FileName | Annotated[tuple[FileName, ...], Field(min_length=1)]
    "Directories, searched for systems below them, file.hdf5#/group, or extended XYZ files."
    rglob_patterns: tuple[str, ...] | None = None
    "Takes only directories that match one of these."
    units: Literal["eV/Angstrom", "kJ/mol/nm"] = "eV/Angstrom"
    "Of all numbers in the files."
    check_units: bool = True
    "Compares bond lengths and the targets with what the force field expects, and refuses those in another unit."


class FitTraining(Spec):
    """The section `training` of a fit: data, length of the run, what it writes."""

    aliases: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("stop_batch", "num_step", "num_steps", "numb_step"), "numb_steps"
    )

    training_data: FitData
    "The data that the numbers are fitted to."
    validation_data: FitData | None = None
    "The data that they are compared with."
    validation_fraction: Fraction | None = None
    "Instead of validation_data: this part of the frames of each system is not fitted to, drawn by the seed."
    seed: NonNegativeInt | None = None
    "Of that draw; by default 0."
    numb_steps: PositiveInt = 200
    "Steps at most, those before a restart included; each sees all data."
    disp_file: FileName = "lcurve.out"
    "File of the learning curve."
    disp_freq: PositiveInt = 1
    "Steps between its lines."
    save_ckpt: FileName = "fit.ckpt.h5"
    "File from which a run that was stopped goes on."
    save_freq: PositiveInt = 1
    "Steps between two of its versions."
    xml_dir: FileName = "fitted"
    "Directory of the fitted files, with the error of each number in a comment."
    record_dir: FileName = "."
    "Directory of fit.json and parity.h5, from which `dff report` makes its page."
    leave_one_out: bool = False
    "Repeats the fit without each system in turn, to see how well it is predicted by the others."

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.validation_data is not None and self.validation_fraction is not None:
            raise ValueError("validation_data and validation_fraction both say what to compare with; keep one of them")
        if self.seed is not None and self.validation_fraction is None:
            raise ValueError(
                "seed is that of the draw of validation_fraction, without which it means nothing; remove it"
            )
        return self


FitOptimizer = Annotated[
    LeastSquares | LBFGSB | Adam | AdamW | SGD | Adagrad | RMSprop | Adamax | Muon | LBFGS,
    Variants(default="LeastSquares", refused={"AdaMuon": INSTEAD_OF_MUON, "HybridMuon": INSTEAD_OF_MUON}),
]


class FitInput(Spec):
    """A whole input file."""

    refused: ClassVar[Mapping[str, str]] = {
        "validating": "a fit compares all validation data at each line of disp_file"
    }

    model: Annotated[FittedXml | FittedSum, Variants()]
    "Files of the force field, and how its energy is computed."
    parameters: Parameters
    "Which numbers move, and how."
    loss: Sigmas
    "What is compared, and how far it may be off."
    optimizer: FitOptimizer = LeastSquares()
    "The optimiser."
    learning_rate: LearningRate | None = None
    "The learning rate as a function of the step, for optimisers that have one."
    training: FitTraining
    "Data, length of the run, output."

    @model_validator(mode="after")
    def _has_weights_of_priors(self) -> Self:
        if self.parameters.prior_weight is not None:
            raise ValueError(
                "parameters.prior_weight is for sums with a network; the sigmas in the loss weigh the data"
            )
        return self

    @model_validator(mode="after")
    def _has_no_network(self) -> Self:
        if self.parameters.of_network:
            raise ValueError(
                f"parameters: {self.parameters.of_network[0].in_words()} is for the weights of a network, but the "
                'model has none to train; add a part of the type "standard", or remove the rule'
            )
        return self

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        has_one = not isinstance(self.optimizer, LeastSquares | LBFGSB)
        if has_one and self.learning_rate is None:
            raise ValueError(f"the optimizer {self.optimizer.type} needs the section learning_rate")
        if not has_one and self.learning_rate is not None:
            raise ValueError(f"the optimizer {self.optimizer.type} has no learning rate; remove the section")
        if not has_one and any(rule.treatment.lr is not None for rule in self.parameters.rules):
            raise ValueError(f'the optimizer {self.optimizer.type} has no learning rate; remove "lr" from the rules')
        return self

    @property
    def parts(self) -> tuple[tuple[FittedXml | Deep, ...], tuple[float, ...]]:
        """The parts of the model, one of which is a force field, and their factors."""
        if isinstance(self.model, FittedSum):
            return self.model.models, self.model.factors(len(self.model.models))
        return (self.model,), (1.0,)

    @property
    def data(self) -> list[str]:
        """The directories and files of the data."""
        return systems_in(self.training.training_data, self.training.validation_data)


def read_fit_input(path: str | Path) -> FitInput:
    """Reads a .json or .yaml input of a fit and checks it.

    Raises:
        InputErrors: The file is missing or malformed, or some keys are wrong; all of them are listed.
    """
    path = Path(path)
    given = spec.validate(FitInput, with_weights(load(path)), where=str(path))
    return given.model_copy(update={"training": with_found_systems(given.training, path)})


def json_schema() -> dict[str, Any]:
    """The JSON Schema of such an input."""
    return spec.json_schema(FitInput)
