"""The input of a training, input.json or .yaml in DeePMD-kit's form: its sections, and reading it from a file.

Every key of DeePMD-kit's schema is a field here, another spelling of one, or refused with a sentence. Keys that begin
with "_" are comments. Old inputs are brought into today's form on reading.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from diffff import nn, spec
from diffff.fit.parameters import Parameters
from diffff.input_file import load
from diffff.model_input import Deep, require_one_force_field, with_weights
from diffff.potentials.deep import DeepModel
from diffff.spec import Spec, Variants
from diffff.train.config_data import TrainingData, ValidationData, systems_in, with_found_systems
from diffff.train.legacy import upgrade
from diffff.train.loss import EnergyLoss
from diffff.train.optim import Adam, Optimizer
from diffff.train.parts import FittedXml, SumOfParts
from diffff.train.precision import MixedPrecision
from diffff.train.schedule import LearningRate

logger = logging.getLogger(__name__)

FileName = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]

_ONE_MODEL = "multi-task training is not available; train one model per input file"
_PROFILE = "is not available here; JAX's own profiler (jax.profiler.trace) measures a run from outside"
_TENSORBOARD = "TensorBoard files are not written; draw the learning curve with `dff plot lcurve.out`"
_AS_USED = 'errors are those of the model as it is used, in the "precision" of its nets; remove the key'


class Training(Spec):
    """The section `training`: data, length of the run, what it prints and what it keeps."""

    aliases: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("stop_batch", "num_step", "num_steps", "numb_step"), "numb_steps"),
        **dict.fromkeys(("num_epochs", "num_epoch", "numb_epochs"), "numb_epoch"),
    }
    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(("data_dict", "model_prob", "num_epoch_dict"), _ONE_MODEL)
    refused_unless: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "ema_ckpt_keep": (None, "averaged weights are part of each checkpoint; max_ckpt_keep says how many are kept"),
        "profiling": (False, f"profiling {_PROFILE}"),
        "enable_profiler": (False, f"the profiler {_PROFILE}"),
        "tensorboard": (False, _TENSORBOARD),
        "neighbor_graph_method": ("auto", "there is one neighbour list, exact on every device; remove the key"),
    }
    moot: ClassVar[frozenset[str]] = frozenset(
        {"profiling_file", "tensorboard_log_dir", "tensorboard_freq", "enable_compile"}  # the step is always compiled
    )

    training_data: TrainingData
    "The data that the model learns from."
    validation_data: ValidationData | None = None
    "The data that it is compared with during the run."
    numb_steps: PositiveInt | None = None
    "Number of steps, one batch each."
    numb_epoch: PositiveFloat | None = None
    "Number of passes over the data, instead of numb_steps; it may be fractional."
    seed: int | None = None
    "Seed of the order of the data."
    stat_file: FileName | None = None
    "File that keeps the statistics of the data for later runs."
    stat_file_mode: Literal["update", "read"] = "update"
    '"update" adds to stat_file what it lacks; "read" needs it complete and never writes.'

    disp_file: FileName = "lcurve.out"
    "File of the learning curve."
    disp_freq: PositiveInt = 1000
    "Steps between the lines of the learning curve."
    disp_avg: bool = False
    "The training errors in it are means over the steps since the last line, not those of one batch."
    disp_training: bool = True
    "Prints the progress of the run."
    time_training: bool = True
    "Prints the time it takes."

    save_ckpt: FileName = "model.ckpt"
    "Path of the checkpoints, without step and suffix."
    save_freq: PositiveInt = 1000
    "Number of steps between checkpoints."
    save_dir: FileName | None = None
    "Directory of the checkpoints; by default the current one."
    max_ckpt_keep: PositiveInt = 5
    "Number of the latest checkpoints that stay."
    ckpt_keep_ratio: Fraction | None = None
    "The part of all checkpoints of the run that stays, instead of max_ckpt_keep."

    streaming: bool | None = None
    """Frames are read from their files as they are needed, rather than kept on the device; by default if they take more
    than half of its free memory."""
    max_shapes: PositiveInt = 16
    """Systems of many sizes are computed in so many shapes at most, each a compiled program; the smaller ones of a
    shape take the time of its largest. More if there are more numbers of frames per batch, and each once more for other
    labels and for frames that differ in their atoms."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    "What each of several devices keeps a part of only: 1 the state of the optimiser, 2 gradients too, 3 weights too."
    mixed_precision: MixedPrecision | None = None
    "Rounds the factors of products in the fitting nets to bfloat16, with sums in float32; for nets in float32."
    enable_tf32: bool = False
    "Allows TF32 products in fitting nets in float32, on GPUs that have them; without it, factors are not rounded."
    deterministic: bool = False
    """The same bits for any number of devices among which the same batches are dealt, and for repeated runs on a GPU:
    the gradients of frames are computed one by one and added in a fixed order, which takes longer."""
    rematerialize: bool = False
    """Computes the nets of a large batch for 1024 atoms at a time and again for the gradient: a third of the memory for
    longer steps. On the path of the splines."""
    gradient_max_norm: NonNegativeFloat | None = None
    "Largest length of the gradient; a longer one is shortened to it. 0: no limit."
    acc_freq: PositiveInt = 1
    "Number of batches whose gradients make one update of the weights."
    enable_ema: bool = False
    "Keeps an exponential moving average of the weights as well."
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    "The part of the moving average that stays at each step."
    enable_swa: bool = False
    "Keeps the plain mean of the weights of the last part of the run as well."
    swa_start: NonNegativeFloat = 0.75
    "First step whose weights enter the mean; below 1 as a part of numb_steps."
    swa_freq: PositiveInt = 1
    "Number of steps between the weights that enter the mean."
    change_bias_after_training: bool = False
    "Fits the energy bias to the data once more at the end."
    xml_dir: FileName = "fitted"
    "Directory of the files of a force field whose numbers were trained with a network."

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.numb_steps is None and self.numb_epoch is None:
            raise ValueError("say how long to train: give numb_steps (or numb_epoch)")
        if self.numb_steps is not None and self.numb_epoch is not None:
            raise ValueError("numb_steps and numb_epoch both say how long to train; keep one of them")
        if self.deterministic and self.zero_stage:
            raise ValueError("deterministic keeps all of the run on each device; set zero_stage to 0, or leave it out")
        if self.stat_file_mode == "read" and self.stat_file is None:
            raise ValueError('stat_file_mode "read" needs stat_file, the file to read')
        return self

    @property
    def factors(self) -> nn.Factors:
        """Of the products in the fitting nets during the steps, see `nn.product`."""
        if self.mixed_precision is not None:
            return self.mixed_precision.compute_prec
        return "tensorfloat32" if self.enable_tf32 else "float32"

    def checkpoints_kept(self, numb_steps: int) -> int:
        """How many of the latest checkpoints stay in a run of so many steps."""
        if self.ckpt_keep_ratio is None:
            return self.max_ckpt_keep
        return math.ceil(self.ckpt_keep_ratio * math.ceil(numb_steps / self.save_freq))

    def first_swa_step(self, numb_steps: int) -> int:
        """The first step whose weights the plain mean takes in."""
        return int(self.swa_start * numb_steps if self.swa_start < 1 else self.swa_start)


Metric = Annotated[
    Literal["E:MAE", "E:RMSE", "F:MAE", "F:RMSE", "S:MAE", "S:RMSE", "V:MAE", "V:RMSE"],
    BeforeValidator(lambda metric: metric.strip().upper() if isinstance(metric, str) else metric),
]


class Validating(Spec):
    """The section `validating`: now and then the errors of the whole validation data, and the best model so far."""

    refused_unless: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "tf32_infer": (False, _AS_USED),
        "amp_infer": (False, _AS_USED),
    }
    moot: ClassVar[frozenset[str]] = frozenset({"compiled_infer"})  # it is always compiled

    full_validation: bool = False
    "Computes the errors over all validation data now and then."
    ema_full_validation: bool = False
    "The same with the moving average of the weights; needs training.enable_ema."
    validation_freq: PositiveInt = 5000
    "Number of steps between full validations."
    full_val_start: NonNegativeFloat = 0.5
    "The step of the first one; below 1 as a part of numb_steps, exactly 1: never."
    full_val_file: FileName = "val.log"
    "File of these errors."
    validation_metric: Metric = "E:MAE"
    "The error that ranks models: E and V per atom, F per component, S: virial over volume."
    save_best: bool = True
    "Keeps the best models."
    save_best_dir: FileName | None = None
    "Directory of the best models; by default that of the checkpoints."
    max_best_ckpt: PositiveInt = 1
    "Number of best models that stay."

    @property
    def is_on(self) -> bool:
        """Whether any full validation is asked for."""
        return (self.full_validation or self.ema_full_validation) and self.full_val_start != 1

    def first_step(self, numb_steps: int) -> int | None:
        """The step from which on full validation is done in a run of so many steps; None: never."""
        if not self.is_on:
            return None
        return int(self.full_val_start * numb_steps if self.full_val_start < 1 else self.full_val_start)


class NetworkSum(SumOfParts):
    """A Deep Potential that is trained on top of a force field, of other Deep Potentials, which stay, or of both."""

    type: Literal["sum"] = "sum"
    models: Annotated[
        tuple[Annotated[FittedXml | Deep | DeepModel, Variants(default="standard")], ...], Field(min_length=1)
    ]
    "The parts, each a section of its own."
    type_map: tuple[str, ...] = ()
    "Names of the types, if the part of the type standard has none."

    @model_validator(mode="after")
    def _has_one_network(self) -> Self:
        require_one_force_field(self.models)
        trained = [number for number, part in enumerate(self.models) if isinstance(part, DeepModel)]
        if len(trained) != 1:
            raise ValueError(
                f'has {len(trained)} parts of the type "standard"; networks are trained one after the other, each on '
                'top of those before as parts of the type "deep"'
            )
        self.require_one_for_each(len(self.models))
        if self.factors(len(self.models))[trained[0]] != 1.0:
            raise ValueError(
                'weights: the network that is trained has the weight 1, for it finds its own size; give "sum", or '
                "numbers with a 1 in its place (linear_ener without weights takes the mean)"
            )
        if self.type_map and self.deep.type_map and self.type_map != self.deep.type_map:
            raise ValueError("type_map stands here and in a part, and they differ; give it once")
        return self

    @property
    def deep(self) -> DeepModel:
        """The network."""
        found = next(part for part in self.models if isinstance(part, DeepModel))
        return found if found.type_map else found.model_copy(update={"type_map": self.type_map})


class Input(Spec):
    """A whole input file."""

    refused: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("loss_dict", "learning_rate_dict"), _ONE_MODEL),
        "nvnmd": "training for NVNMD hardware is not available; remove the section to train an ordinary model",
    }

    model: Annotated[
        DeepModel | NetworkSum,
        Variants(
            default="standard",
            refused={
                "frozen": 'give a "standard" model, and start it from a file with `dff train --init-model model.dp`',
                "pairtab": 'a table of pair energies cannot be trained; give a "standard" model',
                "pairwise_dprc": 'QM/MM corrections are not available; give a "standard" model',
                **dict.fromkeys(("dpa4", "DPA4", "SeZM", "sezm"), 'this network is not available; give "standard"'),
            },
        ),
    ]
    "Types, descriptor and fitting net; or the sum of such a model and others, see `NetworkSum`."
    parameters: Parameters | None = None
    "Which numbers of the force field move in a sum; by default none."
    learning_rate: LearningRate
    "The learning rate as a function of the step."
    optimizer: Optimizer = Adam()
    "The optimiser."
    loss: Annotated[
        EnergyLoss,
        Variants(
            default="ener",
            refused=dict.fromkeys(
                ("ener_spin", "dens", "dos", "population", "property", "tensor"),
                'only energies, forces and virials are trained so far; "ener" is their loss',
            ),
        ),
    ] = EnergyLoss()
    "What is minimised."
    training: Training
    "Data, length of the run, output."
    validating: Validating = Validating()
    "Full validation."

    @property
    def deep(self) -> DeepModel:
        """The network."""
        return self.model.deep if isinstance(self.model, NetworkSum) else self.model

    @property
    def force_field(self) -> tuple[FittedXml, float] | None:
        """The force field under the network and its weight, if there is one."""
        return self.model.force_field if isinstance(self.model, NetworkSum) else None

    @property
    def frozen(self) -> tuple[tuple[Deep, float], ...]:
        """The Deep Potentials under the network, which stay as they are, and their weights."""
        return self.model.frozen if isinstance(self.model, NetworkSum) else ()

    @property
    def is_sum(self) -> bool:
        """Whether there is anything under the network."""
        return self.force_field is not None or bool(self.frozen)

    @property
    def data(self) -> list[str]:
        """The directories and files of the data."""
        return systems_in(self.training.training_data, self.training.validation_data)

    def with_network(self, deep: DeepModel) -> Self:
        """The same input with another network."""
        if not isinstance(self.model, NetworkSum):
            return self.model_copy(update={"model": deep})
        models = tuple(deep if isinstance(part, DeepModel) else part for part in self.model.models)
        update = {"models": models, "type_map": deep.type_map if self.model.type_map else ()}
        return self.model_copy(update={"model": self.model.model_copy(update=update)})

    @model_validator(mode="after")
    def _has_numbers_that_move(self) -> Self:
        if self.parameters is None:
            return self
        if self.training.streaming:
            raise ValueError("training.streaming: a force field that moves keeps all frames on the device; remove it")
        if self.force_field is None:
            raise ValueError("parameters: they are of a force field, and the model has none; remove the section")
        if self.parameters.has_priors != (self.parameters.prior_weight is not None):
            raise ValueError(
                "parameters: priors need prior_weight, their factor beside the loss of the network"
                if self.parameters.has_priors
                else "parameters.prior_weight: no rule has a prior; remove it"
            )
        return self

    @model_validator(mode="after")
    def _has_units_to_check(self) -> Self:
        if self.force_field is None:
            for key in ("training_data", "validation_data"):
                data = getattr(self.training, key)
                if data is not None and data.check_units is not None:
                    raise ValueError(
                        f"training.{key}.check_units: labels are compared with a force field, and the model has none; "
                        "remove the key"
                    )
        return self

    @model_validator(mode="after")
    def _has_factors_to_shorten(self) -> Self:
        nets = {"descriptor": self.deep.descriptor, "fitting_net": self.deep.fitting_net}
        double = [name for name, net in nets.items() if net.precision != "float32"]
        if self.training.factors != "float32" and double:
            key = "enable_tf32" if self.training.mixed_precision is None else "mixed_precision"
            where = " and ".join(f"model.{name}" for name in double)
            raise ValueError(f'training.{key} is for nets in float32: set "precision": "float32" in {where}')
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        validating, training = self.validating, self.training
        if not validating.is_on:
            return self
        if training.validation_data is None:
            raise ValueError("validating needs data: give training.validation_data, or set full_validation to false")
        if validating.ema_full_validation and not training.enable_ema:
            raise ValueError("validating.ema_full_validation needs training.enable_ema")
        term = validating.validation_metric[0].lower().replace("s", "v")
        if term not in self.loss.terms:
            raise ValueError(
                f"validating.validation_metric {validating.validation_metric} ranks models by an error that is not "
                f"trained; give loss.start_pref_{term} and limit_pref_{term}, or choose another metric"
            )
        return self


def read_input(path: str | Path) -> Input:
    """Reads a .json or .yaml input, upgrades it if it is old, checks it, and finds its systems.

    Raises:
        InputError: The file is missing or malformed, or some keys are wrong; all of them are listed.
    """
    path = Path(path)
    data = with_weights(load(path))
    if isinstance(data, dict):
        data, changes = upgrade(data)
        for change in changes:
            logger.info("%s: old input: %s", path, change)
    given = spec.validate(Input, data, where=str(path))
    return given.model_copy(update={"training": with_found_systems(given.training, path)})


def json_schema() -> dict[str, Any]:
    """The JSON Schema of input.json, from which editors complete and check."""
    return spec.json_schema(Input)
