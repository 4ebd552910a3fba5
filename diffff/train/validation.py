"""Full validation while a model is trained: the errors over all validation data now and then, and the best models.

It writes `val.log`, a table in DeePMD-kit's form, and keeps the best models:

    #  step  E_MAE(meV/atom) E_RMSE(meV/atom) F_MAE(meV/Å) F_RMSE(meV/Å) S_MAE(meV/Å³) S_RMSE(meV/Å³)
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffff.descriptors.radial import SplineBasis
from diffff.errors import InputError
from diffff.files import replacing, writing
from diffff.train.best import BestModels
from diffff.train.checkpoint import Checkpoint
from diffff.train.data_errors import errors_over
from diffff.train.evaluate import Errors
from diffff.train.setup import Problem

Params = dict[str, Any]
Weights = Mapping[str, Params]
logger = logging.getLogger(__name__)

# Letter of a metric -> quantity of `Errors`, unit; all are shown in thousandths.
_QUANTITIES = {
    "E": ("e_peratom", "meV/atom"),
    "F": ("f", "meV/Å"),
    "S": ("s", "meV/Å³"),
    "V": ("v_peratom", "meV/atom"),
}
_LABELS = {"E": "energy", "F": "force", "S": "virial", "V": "virial"}
_NOTE = "# E and V: per atom; F: per component; S: virial over volume\n"


@dataclass(frozen=True)
class FullValidation:
    """Errors over all validation frames now and then, for the weights themselves or their moving average.

    Attributes:
        problem: What is trained on what.
        weights: Which weights.
        log: The table of errors.
        best: The best models so far.
    """

    problem: Problem
    weights: Literal["last", "ema"]
    log: Path
    best: BestModels

    @property
    def name(self) -> str:
        """Under which a checkpoint holds the record of the best models."""
        return "best" if self.weights == "last" else f"best_{self.weights}"

    @property
    def metric(self) -> str:
        """The error that ranks models, for instance "F:RMSE"."""
        return self.problem.given.validating.validation_metric

    def restore(self, old: Checkpoint) -> None:
        """Take the record of the best models from a checkpoint, if it was ranked by the same error."""
        ranked_by = old.input.get("validating", {}).get("validation_metric")
        if self.name in old.parts and ranked_by == self.metric:
            self.best.from_arrays(old.parts[self.name])

    def open(self, continue_from: int | None) -> None:
        """Begin the table: a new one, or the old one up to and including the step `continue_from`."""
        lines = [self._header()]
        if continue_from is not None and self.log.exists():
            try:
                old = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
                whole = takewhile(lambda line: line.endswith("\n"), old)  # the last one may be cut off
                lines = [*takewhile(lambda line: line[0] == "#" or int(line.split()[0]) <= continue_from, whole)]
            except (OSError, ValueError, IndexError) as error:
                raise InputError(f"{self.log}: cannot be continued ({error}). Move the file away.") from None
        with replacing(self.log) as path:
            path.write_text("".join(lines), encoding="utf-8")

    def is_due(self, step: int) -> bool:
        """Whether the errors are wanted after this step."""
        section = self.problem.given.validating
        first = section.first_step(self.problem.numb_steps)
        return first is not None and step >= first and (step - first) % section.validation_freq == 0

    def run(
        self, step: int, weights: Weights, basis: SplineBasis | None, checkpoint: Callable[[], Checkpoint]
    ) -> Errors:
        """Compute the errors, write them, and keep the model if it is one of the best.

        Args:
            step: Number of steps done.
            weights: Parameter trees, "last" and "ema".
            basis: Spline functions, or None for the direct path.
            checkpoint: Gives the checkpoint of this step; called after the step has entered the record.
        """
        data, section = self.problem.valid, self.problem.given.validating
        assert data is not None  # the section needs validation data
        errors = errors_over(self.problem.model, weights[self.weights], data, basis)
        own = _value(errors, *self.metric.split(":"))
        value = float(data.devices.from_first(np.array(own)))  # by which all ranks decide the same
        lines = [self._row(step, errors)]
        writes = self.problem.devices.writes
        if self.best.enter(value, step) and section.save_best:
            content = self._with_weights(checkpoint())  # of which all ranks hold parts
            path = self.best.save(step, content) if writes else self.best.path(step)
            is_best = f"{self.metric} = {_number(value)} {_QUANTITIES[self.metric[0]][1]}"
            lines.append(f"# saved best checkpoint: {path} ({is_best})\n")
            logger.info("full validation at step %d: %s, one of the best; saved as %s", step, is_best, path)
        if writes:
            with writing(self.log), self.log.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        return errors

    def _with_weights(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint whose model has the validated weights."""
        if self.weights == "last":
            return checkpoint
        return replace(checkpoint, parts={**checkpoint.parts, "trained": checkpoint.parts[self.weights]})

    def _columns(self) -> list[tuple[str, str, str]]:
        """Letter, kind and title of each column; of S and V only the one that ranks models, else S."""
        letters = ("E", "F", "V" if self.metric[0] == "V" else "S")
        return [(x, kind, f"{x}_{kind}({_QUANTITIES[x][1]})") for x in letters for kind in ("MAE", "RMSE")]

    def _header(self) -> str:
        titles = "".join(f" {title:^{max(10, len(title))}}" for _, _, title in self._columns())
        return f"# {'step':^{self._step_width()}}{titles}\n{_NOTE}"

    def _row(self, step: int, errors: Errors) -> str:
        values = "".join(
            f" {_number(_value(errors, letter, kind)):^{max(10, len(title))}}"
            for letter, kind, title in self._columns()
        )
        return f"  {step:^{self._step_width()}}{values}\n"

    def _step_width(self) -> int:
        return max(len("step"), len(str(self.problem.numb_steps)))


def full_validations(problem: Problem) -> tuple[FullValidation, ...]:
    """Those that the section `validating` asks for, none in most runs.

    Raises:
        InputError: The validation data lack the label of the metric.
    """
    section, training = problem.given.validating, problem.given.training
    if not section.is_on or problem.valid is None:
        return ()
    label = _LABELS[section.validation_metric[0]]
    boxed = section.validation_metric[0] != "S" or any(s.boxes is not None for s in problem.valid.systems)
    if not boxed or not any(label in system.labels for system in problem.valid.systems):
        raise InputError(
            f"validating.validation_metric {section.validation_metric}: the validation data have no "
            f"{label if boxed else 'box'}. Choose a metric whose label they have."
        )
    checkpoints = Path(training.save_dir or ".") / training.save_ckpt
    folder = checkpoints.parent if section.save_best_dir is None else Path(section.save_best_dir)
    log = Path(section.full_val_file)
    wanted: list[FullValidation] = []
    if section.full_validation:
        best = BestModels(folder / "best.ckpt", section.max_best_ckpt)
        wanted.append(FullValidation(problem, "last", log, best))
    if section.ema_full_validation:
        best = BestModels(folder / "best_ema.ckpt", section.max_best_ckpt)
        wanted.append(FullValidation(problem, "ema", log.with_name(f"{log.stem}_ema{log.suffix}"), best))
    return tuple(wanted)


def _value(errors: Errors, letter: str, kind: str) -> float:
    """An error in thousandths of its unit, as the table shows it."""
    quantity = _QUANTITIES[letter][0]
    return 1000.0 * (errors.mae(quantity) if kind == "MAE" else errors.rmse(quantity))


def _number(value: float) -> str:
    """Five significant digits, without exponent.

    >>> _number(0.00123456), _number(98.7), _number(float("nan"))
    ('0.0012346', '98.700', 'nan')
    """
    return np.format_float_positional(value, precision=5, unique=False, fractional=False, trim="k").rstrip(".")
