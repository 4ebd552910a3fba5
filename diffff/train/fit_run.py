"""`dff train` for a force field: from its input to fitted XML, with the error of each number."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffff import spec
from diffff.errors import InputError
from diffff.fit.neutrality import changed_charges
from diffff.fit.noise import noise_of
from diffff.fit.notes import notes_of
from diffff.fit.optimizers import LBFGSB, LeastSquares, Minimizer, Start, State
from diffff.fit.parameters import rates
from diffff.fit.problem import FitSystem, Sigmas, all_residuals, merged, predicted, residuals_of
from diffff.fit.provenance import provenance
from diffff.fit.record import write_record
from diffff.fit.solve import Fit, solve
from diffff.input_file import write_completed
from diffff.train import fit_words
from diffff.train.descent import Descent
from diffff.train.fit_checkpoint import FitCheckpoint
from diffff.train.fit_config import FitInput, read_fit_input
from diffff.train.fit_setup import FitProblem, prepare_fit
from diffff.train.interruption import Interruption
from diffff.train.lcurve import LearningCurve, read_lcurve
from diffff.train.outputs import without_record
from diffff.train.progress import Progress
from diffff.train.restart import input_changes

logger = logging.getLogger(__name__)

_DECIMALS = 8  # of the learning curve, which the record takes over


def fit(
    input: Path, *, init_model: Path | None = None, restart: Path | None = None, output: Path = Path("out.json")
) -> list[Path]:
    """Fit the force field of an input file.

    Args:
        input: input.json or .yaml.
        init_model: checkpoint of a fit whose numbers this one begins with.
        restart: checkpoint of a fit to continue.
        output: where the completed input goes.

    Returns:
        The fitted files.

    Raises:
        InputError: anything wrong with input, data or checkpoint.
    """
    given = read_fit_input(input)
    last = _checkpoint(given, init_model, restart)
    problem = prepare_fit(given, input, output)
    start = Start(np.zeros(problem.free.n_free)) if last is None else _start(problem, *last, restart is not None)
    origin = provenance(spec.completed(given), problem.files)
    write_completed(given, output)
    began = time.monotonic()
    with Interruption() as interruption:
        done = _Steps(problem, interruption).to_the_end(start)
        files = _written(problem, done, origin)
        if given.training.leave_one_out:
            _write_record(problem, done, origin, _left_out(problem, done, interruption))
    logger.info("%.1f s; the force field is in %s", time.monotonic() - began, ", ".join(map(str, files)))
    logger.info("`dff report %s` makes one page of all this", given.training.record_dir)
    return files


def _written(problem: FitProblem, done: Fit, origin: dict[str, Any]) -> list[Path]:
    """Write what has been found, and tell it."""
    notes = notes_of(done.known, problem.found)
    files = problem.field.write(problem.given.training.xml_dir, done.params, notes=notes)
    record = _write_record(problem, done, origin)
    level = logging.WARNING if done.converged is False else logging.INFO
    logger.log(level, "%s", fit_words.ending(done, problem.given.training.numb_steps))
    for lines in ([fit_words.scatter(done)], [done.table()], fit_words.combinations(done.known, done.labels)):
        logger.info("%s", "\n".join(lines))
    logger.info("%s", "\n".join(fit_words.errors(record["errors"])))
    potentials = {id(one.potential): one for one in (*problem.train, *problem.valid)}.values()
    before = problem.free.params(jnp.zeros(problem.free.n_free))
    for changed in changed_charges({one.name: one.potential for one in potentials}, before, done.params):
        logger.warning("%s", changed)
    if unbalanced := done.known.unbalanced(np.asarray(problem.free.prior_weights)):
        logger.warning("%s", unbalanced)
    return files


def _write_record(
    problem: FitProblem, done: Fit, origin: dict[str, Any], left_out: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    training = problem.given.training
    curve = Path(training.disp_file)
    return write_record(
        Path(training.record_dir),
        done,
        problem.found,
        problem.free,
        train=problem.train,
        valid=problem.valid,
        sigmas=problem.given.loss,
        provenance=origin,
        left_out=left_out,
        units=problem.field.units,
        curve=read_lcurve(curve) if curve.is_file() else {},  # it may be /dev/null
    )


def _checkpoint(given: FitInput, init_model: Path | None, restart: Path | None) -> tuple[FitCheckpoint, Path] | None:
    """The checkpoint that the fit goes on from or begins with, and its file."""
    if (file := init_model or restart) is None:
        return None
    found, last = FitCheckpoint.read(file), given.training.numb_steps
    if restart is not None and found.start.n_steps >= last:
        raise InputError(
            f"the checkpoint is at step {found.start.n_steps}, and the fit ends at {last}. Raise numb_steps."
        )
    return found, file


def _start(problem: FitProblem, found: FitCheckpoint, file: Path, goes_on: bool) -> Start:
    """Where the fit begins: where its checkpoint is, or at the start with the numbers of another."""
    if not goes_on:
        return Start(found.variables(file, problem.free, problem.labels))
    found.require_same(file, problem.free, problem.labels)
    if changes := input_changes(found.input, spec.completed(problem.given)):
        logger.warning("not the input of the checkpoint, so the run continues as another: %s", "; ".join(changes))
    return found.start


def _minimized(
    problem: FitProblem,
    systems: Sequence[FitSystem],
    start: Start,
    callback: Callable[[int, np.ndarray, State], None] = lambda step, v, state: None,
) -> Fit:
    """The fit to some systems."""
    given = problem.given

    def of_all(systems: Sequence[FitSystem], params: Any) -> jax.Array:
        return all_residuals(systems, params, given.loss)

    together = merged(systems)
    return solve(
        Partial(of_all, together),
        problem.free,
        problem.found,
        optimizer=_minimizer(problem),
        max_steps=given.training.numb_steps,
        start=start,
        noise=noise_of(together, given.loss),
        callback=callback,
    )


def _minimizer(problem: FitProblem) -> Minimizer:
    optimizer, rate = problem.given.optimizer, problem.given.learning_rate
    if isinstance(optimizer, LeastSquares | LBFGSB):
        return optimizer
    assert rate is not None  # the input has been checked
    return Descent(optimizer, rate, rates(problem.free, problem.found, rate.start_lr))


class _Steps:
    """A fit in progress: its learning curve and its checkpoints."""

    def __init__(self, problem: FitProblem, interruption: Interruption) -> None:
        self._problem, self._training = problem, problem.given.training
        self._interruption = interruption
        self._train, self._valid = merged(problem.train), merged(problem.valid)
        self._input = spec.completed(problem.given)
        self._state: State = {}

    def to_the_end(self, start: Start) -> Fit:
        """Fit until the minimum or numb_steps, or until interrupted."""
        self._curve = LearningCurve(
            self._training.disp_file,
            ["rmse", *(f"rmse_{target}" for target in self._problem.given.loss.targets)],
            validation=bool(self._problem.valid),
            continue_from=start.n_steps or None,
            has_rate=self._problem.given.learning_rate is not None,
            decimals=_DECIMALS,
        )
        without_record(Path(self._training.record_dir))
        self._progress = Progress(
            self._training.numb_steps,
            start=start.n_steps,
            frames_per_step=sum(len(one.positions) for one in self._train),
            noun="step",
            units=fit_words.OF_ERRORS,
            may_end_early=self._problem.given.learning_rate is None,
        )
        self._state = start.state
        with self._curve, self._progress:
            if not start.n_steps:
                self._show(0, start.free)
            done = _minimized(self._problem, self._train, start, self._note)
            if done.n_steps % self._training.disp_freq:
                self._show(done.n_steps, done.free)
        self._save(done.n_steps, done.free, self._state)
        return done

    def _note(self, step: int, v: np.ndarray, state: State) -> None:
        self._progress.update(step)
        self._state = state
        stop = self._interruption.signal
        if step % self._training.disp_freq == 0:
            self._show(step, v)
        if stop or step % self._training.save_freq == 0:
            self._save(step, v, state)
        if stop:
            raise self._interruption.end(step, Path(self._training.save_ckpt))

    def _show(self, step: int, v: np.ndarray) -> None:
        """A line of the learning curve: root mean square of the residuals, and errors in the units of the sigmas."""
        problem = self._problem
        params, sigmas = problem.free.params(jnp.asarray(v)), problem.given.loss
        train, valid = (_errors(systems, params, sigmas) for systems in (self._train, self._valid))
        rate = problem.given.learning_rate
        lr = None if rate is None else float(rate.bind(self._training.numb_steps)(max(step - 1, 0)))
        self._curve.write(step, train=train, valid=valid, lr=lr)
        self._progress.report(step, train=train, valid=valid, lr=lr)

    def _save(self, step: int, v: np.ndarray, state: State) -> None:
        numbers = np.asarray(self._problem.free.numbers(jnp.asarray(v)))
        checkpoint = FitCheckpoint(Start(v, step, state), numbers, self._problem.labels, self._input)
        checkpoint.write(Path(self._training.save_ckpt))


def _errors(systems: Sequence[FitSystem], params: Any, sigmas: Sigmas) -> dict[str, float]:
    """Root mean squares of the residuals of some systems: of all, and of each target in its unit."""
    squares: dict[str, list[np.ndarray]] = {}
    for system in systems:
        found = predicted(system, params, sigmas)
        for target, values in residuals_of(system, found, sigmas).items():
            squares.setdefault(target, []).append(np.asarray(values) ** 2)
    if not squares:
        return {}
    each = {target: np.concatenate(parts) for target, parts in squares.items()}
    errors = {f"rmse_{target}": float(np.sqrt(part.mean())) * getattr(sigmas, target) for target, part in each.items()}
    return {"rmse": float(np.sqrt(np.concatenate(list(each.values())).mean())), **errors}


def _left_out(problem: FitProblem, fitted: Fit, interruption: Interruption) -> list[dict[str, Any]]:
    """How well each system is predicted by a fit to the others."""
    found = []

    def stop_if_told(*_: object) -> None:
        if interruption.signal is not None:
            logger.warning(
                "%s: stopped while systems were left out in turn; the fit to all of them is complete and written",
                interruption.signal.name,
            )
            raise SystemExit(128 + interruption.signal)

    for one in problem.train:
        stop_if_told()
        others = [system for system in problem.train if system is not one]
        done = _minimized(problem, others, Start(np.zeros(problem.free.n_free)), stop_if_told)
        errors, before = (_errors([one], params, problem.given.loss) for params in (done.params, fitted.params))
        logger.info("%s", fit_words.left_out(one.name, errors, before))
        found.append({"system": one.name, "errors": errors, "values": done.known.values.tolist()})
    return found
