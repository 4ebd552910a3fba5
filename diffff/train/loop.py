"""`dff train`: the loop over the steps, from top to bottom."""

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff import spec
from diffff.descriptors.radial import SplineBasis
from diffff.errors import InputError
from diffff.fit.parameters import rates
from diffff.fit.parity import write_parity
from diffff.input_file import write_completed
from diffff.model import Model, spline_range
from diffff.train import checkpoint as ckpt
from diffff.train.averaging import swa_init
from diffff.train.config import read_input
from diffff.train.data_errors import SUMMARY_FRAMES, errors_over
from diffff.train.data_set import Batch
from diffff.train.devices import Devices
from diffff.train.force_field import FREE, GROUP, LEAF
from diffff.train.frames import Frames
from diffff.train.groups import Leaves, learning_rate_scales, merge, partition
from diffff.train.in_order import InOrder
from diffff.train.interruption import Interruption
from diffff.train.lcurve import LearningCurve
from diffff.train.memory import bytes_of
from diffff.train.moved_rows import MovedRows
from diffff.train.optim import build, state_from_arrays, state_to_arrays
from diffff.train.outputs import last_checkpoint, parity_of_sum, without_rows
from diffff.train.progress import Progress
from diffff.train.restart import device_changes, input_changes
from diffff.train.room import require_room_for_errors, require_room_for_steps
from diffff.train.sampling import Sampler
from diffff.train.setup import Params, Problem, prepare, shifted_bias
from diffff.train.step import Metrics, Step, TrainState, batch_errors, make_step, mean_power, spread
from diffff.train.sum_parity import parities
from diffff.train.summary import summary
from diffff.train.validation import FullValidation, full_validations

logger = logging.getLogger(__name__)

_BLOCK = 1024  # atoms of one type whose nets are computed at a time, with `training.rematerialize`
_CALL = 0.2  # s, the time of a call that does several steps
_LOOK = 500  # steps after which the splines are compared with the nets again
_ROOM = 4.0  # by how much their error is below the tolerance, for it grows


def train(
    input: Path,
    *,
    init_model: Path | None = None,
    restart: Path | None = None,
    finetune: Path | None = None,
    output: Path = Path("out.json"),
    skip_neighbor_stat: bool = False,
) -> Path:
    """Train the model of an input file.

    Args:
        input: input.json or .yaml.
        init_model: checkpoint or model file whose weights the run begins with.
        restart: checkpoint of a run to continue, bit for bit.
        finetune: as ``init_model``, with the energy bias of the new data.
        output: where the completed input goes.
        skip_neighbor_stat: whether to trust ``sel`` without counting the neighbours in the data.

    Returns:
        The last checkpoint.

    Raises:
        InputError: anything wrong with the input, the data or the checkpoint; or the loss is no longer finite.
    """
    given = read_input(input)
    old = None if restart is None else ckpt.read(restart)
    weights = init_model or finetune
    source = None if weights is None else ckpt.load_model_of(weights)
    if source is not None and GROUP in source.params:
        logger.warning(
            "%s: its network was trained together with a force field; here the numbers of that begin as the files have "
            "them. Name the trained files in the model.",
            weights,
        )
    if old is not None:
        source = Model(spec=old.model, params=old.params())
    problem = prepare(
        given,
        source,
        skip_neighbor_stat=skip_neighbor_stat,
        finetune=finetune is not None,
        folder=input.parent,
        output=output,
        devices=Devices.all(),
    )
    completed = given.with_network(problem.model)
    _tell_devices(problem)
    if problem.devices.writes:
        write_completed(completed, output)
    run = Run.begin(problem) if old is None else Run.resume(problem, old)
    if old is not None and (changes := input_changes(old.input, spec.completed(completed))):
        logger.warning("not the input of the checkpoint, so the run continues as another: %s", "; ".join(changes))
    if old is not None and (change := device_changes(old.n_devices, old.input, problem.devices.n, given)):
        logger.warning("not the devices of the checkpoint, so the run continues as another: %s", change)
    with Interruption() as interruption:
        return run.to_the_end(spec.completed(completed), interruption, resumed=old is not None)


def _tell_devices(problem: Problem) -> None:
    """What becomes of batches and learning rate where there are several devices."""
    n, rate = problem.devices.n, problem.given.learning_rate
    if n == 1:
        return
    logger.info(
        "%d devices of %d ranks: batches are %d times those above, the learning rate is multiplied by %g "
        "(scale_by_worker %s)",
        n, problem.devices.n_ranks, n, rate.worker_factor(n), rate.scale_by_worker,
    )  # fmt: skip
    if problem.given.training.deterministic and rate.scale_by_worker != "none":
        logger.warning(
            "training.deterministic: on another number of devices the bits differ, for the learning rate follows it "
            '(learning_rate.scale_by_worker "%s"). With "none" they are the same for batches of as many frames.',
            rate.scale_by_worker,
        )


@dataclass
class Run:
    """A training in progress."""

    problem: Problem
    state: TrainState
    frozen: Leaves
    scales: dict[str, Any]
    basis: SplineBasis | None
    sampler: Sampler
    valid_sampler: Sampler | None
    validations: tuple[FullValidation, ...]

    # ------------------------------------------------------------------ beginnings
    @classmethod
    def begin(cls, problem: Problem) -> "Run":
        """A run at step 0."""
        model, inner = problem.model, problem.params["DeepPot"]["descriptor"]
        upper = spline_range(model, problem.shortest)
        basis = model.descriptor.choose_basis(inner, model.type_map, upper, room=_ROOM)
        return cls._made(problem, _of_first(basis, problem.devices))

    @classmethod
    def _made(cls, problem: Problem, basis: SplineBasis | None) -> "Run":
        training = problem.given.training
        scales: dict[str, Any] = {**learning_rate_scales(problem.params, problem.rules())}
        if problem.moved is not None:
            moved, start_lr = problem.moved, problem.given.learning_rate.start_lr
            scales[FREE] = rates(moved.free, moved.found, start_lr)
        trained, frozen = partition(problem.params, scales)
        devices = problem.devices
        averages = training.enable_ema, training.enable_swa
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            trained=trained,
            optimizer=_optimizer(problem, scales).init(trained),
            failed=jnp.full(2, -1, jnp.int32),
            ema=jax.tree.map(jnp.copy, trained) if averages[0] else None,
            swa=swa_init(trained) if averages[1] else None,
            sums={name: jnp.zeros(()) for name in problem.given.loss.metrics} if training.disp_avg else None,
        )
        return cls(
            problem=problem,
            state=spread(state, training.zero_stage, devices.everywhere, devices.split),
            frozen=devices.everywhere(frozen),
            scales=scales,
            basis=basis,
            sampler=problem.train.sampler(training.seed, shuffle=True),
            valid_sampler=None if problem.valid is None else problem.valid.sampler(0, shuffle=False),
            validations=full_validations(problem),
        )

    @classmethod
    def resume(cls, problem: Problem, old: ckpt.Checkpoint) -> "Run":
        """The run of a checkpoint, as it was when it was written."""
        run, parts = cls._made(problem, old.basis), old.parts
        template = run.state
        for part, wanted in (("ema", template.ema), ("swa", template.swa), ("sums", template.sums)):
            if (wanted is not None) != (part in parts):
                key = {"ema": "enable_ema", "swa": "enable_swa", "sums": "disp_avg"}[part]
                raise InputError(
                    f"training.{key} differs between the input and the checkpoint; a restart continues the same run. "
                    "Change it back, or begin a new run from the weights with --init-model."
                )
        if parts["trained"].keys() != template.trained.keys():
            other = min(parts["trained"].keys() ^ template.trained.keys())
            raise InputError(
                f"the input trains other parameters than the checkpoint: {other} is trained in one of them and frozen "
                "in the other. Change `trainable` and the rules back, or begin a new run with --init-model."
            )
        if template.sums is not None and template.sums.keys() != parts["sums"].keys():
            raise InputError(
                f"the loss of the checkpoint has the errors {', '.join(sorted(parts['sums']))}, that of the input "
                f"{', '.join(sorted(template.sums))}. Change the loss back, or begin a new run with --init-model."
            )
        state = TrainState(
            step=jnp.asarray(old.step, jnp.int32),
            trained={path: jnp.asarray(parts["trained"][path]) for path in template.trained},
            optimizer=state_from_arrays(template.optimizer, parts["optimizer"]),
            failed=template.failed,
            ema=None if template.ema is None else {path: jnp.asarray(parts["ema"][path]) for path in template.ema},
            swa=None if template.swa is None else state_from_arrays(template.swa, parts["swa"]),
            sums=None if template.sums is None else {k: jnp.asarray(parts["sums"][k]) for k in template.sums},
        )
        devices = problem.devices
        run.state = spread(state, problem.given.training.zero_stage, devices.everywhere, devices.split)
        run.sampler.restore(parts["sampler"])
        if run.valid_sampler is not None and "valid_sampler" in parts:
            run.valid_sampler.restore(parts["valid_sampler"])
        if old.step >= problem.numb_steps:
            raise InputError(
                f"the checkpoint is at step {old.step}, and the run ends at {problem.numb_steps}. Raise numb_steps."
            )
        for validation in run.validations:
            validation.restore(old)
        return run

    # ------------------------------------------------------------------ the loop
    def to_the_end(self, completed: dict[str, Any], interruption: Interruption, *, resumed: bool) -> Path:
        """Train until `numb_steps`, or until interrupted; returns the last checkpoint."""
        given, problem = self.problem.given, self.problem
        training, first, last = given.training, int(self.state.step), problem.numb_steps
        keeper = ckpt.Keeper(Path(training.save_dir or ".") / training.save_ckpt, training.checkpoints_kept(last))
        devices = problem.devices
        if devices.writes:
            keeper.check_directory()
            without_rows(training)
        rate = given.learning_rate.bind(last)
        step = self._compiled_step()
        self._require_room(step)
        recent: deque[tuple[int, int, np.ndarray]] = deque(maxlen=training.disp_freq + training.save_freq)
        began, path = time.monotonic(), keeper.path(first)
        frames_per_step = float(np.dot(problem.train.probabilities, problem.train.sizes))
        curve = LearningCurve(
            training.disp_file if devices.writes else os.devnull, given.loss.metrics,
            validation=problem.valid is not None, continue_from=first if resumed and devices.writes else None,
        )  # fmt: skip
        for validation in self.validations if devices.writes else ():
            validation.open(first if resumed else None)
        with (
            curve,
            problem.train.batches(self.sampler) as batches,
            Progress(last, start=first, frames_per_step=frames_per_step, shown=devices.writes) as progress,
        ):
            done, at_once = first, 1
            while done < last:
                taken = self._until_due(batches, done, at_once)
                recent.extend((done + k, system, chosen) for k, (system, chosen, *_) in enumerate(taken, 1))
                done += len(taken)
                sent = time.monotonic()
                self.state, metrics = step(self.state, self.frozen, taken[0][2], [indices for *_, indices in taken])
                show = done == 1 or done % training.disp_freq == 0
                if show or done == first + 2:
                    jax.block_until_ready(metrics)  # the time of steps that are still being computed counts
                if done == first + 2:  # the first one was compiled
                    at_once = _steps_in_a_call(time.monotonic() - sent, step.most)
                    at_once = int(devices.from_first(np.array(at_once)))
                progress.update(done)
                stop = interruption.is_due(devices)
                save = done % training.save_freq == 0 or done == last or stop
                due = [validation for validation in self.validations if validation.is_due(done)]
                look = done % _LOOK == 0 or done % training.save_freq == 0
                if show or save or due or look:
                    self._check_finite(recent)
                if look and self._refined():
                    step = self._compiled_step()
                if show:
                    train_errors = self._displayed(metrics, done)
                    valid_errors = self._validate(float(rate(done)) / given.learning_rate.start_lr)
                    lr = float(rate(done - 1))
                    curve.write(done, train=train_errors, valid=valid_errors, lr=lr)
                    if training.disp_training:
                        progress.report(done, train=train_errors, valid=valid_errors, lr=lr)
                for validation in due:
                    validation.run(done, self._weights(), self.basis, lambda at=done: self._checkpoint(completed, at))
                if save:
                    path = self._saved(keeper, completed, done)
                if stop:
                    raise interruption.end(done, path)
        if training.change_bias_after_training:
            weights = self._weights()["last"]
            changed = shifted_bias(problem.model, weights, problem.learned(weights))
            self.frozen = {**self.frozen, "DeepPot/bias": devices.everywhere(changed["DeepPot"]["bias"])}
            path = self._saved(keeper, completed, last)
        basis, _ = self._following()
        if problem.moved is not None:
            self._write_rows(problem.moved, basis)
        if training.time_training:
            logger.info("%d steps took %.1f s; the model is in %s", last - first, time.monotonic() - began, path)
        logger.info("%s", summary(problem, self._weights(), basis))
        if given.is_sum and problem.moved is None:
            found = parities(problem, self._weights()["last"], basis)  # of which all ranks compute parts
            if devices.writes:
                write_parity(parity_of_sum(last_checkpoint(training.save_dir, training.save_ckpt)), found)
        return path

    # ------------------------------------------------------------------ pieces
    def _until_due(self, batches: Iterator[Batch], done: int, most: int) -> list[Batch]:
        """The next batches, up to the step after which there is something else to do, `most` of them at most."""
        training, taken = self.problem.given.training, [next(batches)]
        while len(taken) < most and not (
            (now := done + len(taken)) == 1
            or now % training.disp_freq == 0
            or now % training.save_freq == 0
            or now % _LOOK == 0
            or now == self.problem.numb_steps
            or any(validation.is_due(now) for validation in self.validations)
        ):
            taken.append(next(batches))
        return taken

    def _compiled_step(self) -> Step | InOrder:
        given, training = self.problem.given, self.problem.given.training
        return make_step(
            self.problem.model,
            given.loss,
            _optimizer(self.problem, self.scales),
            given.learning_rate.bind(self.problem.numb_steps),
            start_lr=given.learning_rate.start_lr,
            basis=self.basis,
            ema_decay=training.ema_decay if training.enable_ema else None,
            swa=(training.first_swa_step(self.problem.numb_steps), training.swa_freq) if training.enable_swa else None,
            prior_weight=0.0 if given.parameters is None else given.parameters.prior_weight or 0.0,
            devices=self.problem.devices,
            lr_factor=given.learning_rate.worker_factor(self.problem.devices.n),
            one_by_one=training.deterministic,
            zero_stage=training.zero_stage,
            factors=training.factors,
            block=_BLOCK if training.rematerialize else None,
            one_shape=self.problem.train.n_shapes == 1 and self.problem.train.on_device is not None,
        )

    def _require_room(self, step: Step | InOrder) -> None:
        """Compile the step for the largest batches, and tell what memory they take."""
        data, valid, n_devices = self.problem.train, self.problem.valid, self.problem.devices.n
        require_room_for_steps(data, lambda n, frames: step.bytes_for(n, self.state, self.frozen, frames))

        def of_errors(n: int, frames: Frames) -> float:
            indices = np.zeros(n * n_devices, np.int64)
            return bytes_of(_errors.lower(*self._of_errors(frames, indices, 1.0)).compile())

        if valid is not None:
            require_room_for_errors(valid, data, of_errors)

    def _of_errors(self, frames: Frames, indices: np.ndarray, lr_ratio: float) -> tuple[Any, ...]:
        """The arguments of `batch_errors`."""
        problem = self.problem
        block = _BLOCK if problem.given.training.rematerialize else None
        return (problem.model, problem.given.loss, self.state.trained, self.frozen, frames, indices, self.basis,
                lr_ratio, problem.devices, block)  # fmt: skip

    def _check_finite(self, recent: "deque[tuple[int, int, np.ndarray]]") -> None:
        failed, culprit = self.state.failed.tolist()
        if failed < 0:
            return
        step, system, frames = next(entry for entry in recent if entry[0] == failed)
        where = f"frame {frames[culprit]}" if culprit >= 0 else f"frames {frames.tolist()}"
        raise InputError(
            f"loss, gradient or weights are not finite after step {step}: system "
            f"{self.problem.train.systems[system].name}, {where}. Look there, lower "
            "learning_rate.start_lr, or set training.gradient_max_norm; the last checkpoint is from before that step."
        )

    def _displayed(self, metrics: Metrics, done: int) -> dict[str, float]:
        """Errors of this batch, or with `disp_avg` the mean over the steps since the last row."""
        if self.state.sums is None:
            return {name: float(value) for name, value in metrics.items()}
        freq = self.problem.given.training.disp_freq
        n = 1 if done == 1 else (freq - 1 if done == freq and freq > 1 else freq)
        shown = {name: float(value / n) ** (1 / mean_power(name)) for name, value in self.state.sums.items()}
        self.state = replace(self.state, sums={name: jnp.zeros(()) for name in self.state.sums})
        return shown

    def _validate(self, lr_ratio: float) -> dict[str, float] | None:
        """Errors of `numb_btch` batches of the validation data, averaged over their frames."""
        data, sampler = self.problem.valid, self.valid_sampler
        section = self.problem.given.training.validation_data
        if data is None or sampler is None or section is None:
            return None
        total: dict[str, float] = {}
        weight = 0
        for _ in range(section.numb_btch):
            system, chosen = sampler.next()
            frames, indices = data.locate(system, chosen)
            errors = _errors(*self._of_errors(frames, indices, lr_ratio))
            weight += len(chosen)
            for name, value in errors.items():
                total[name] = total.get(name, 0.0) + len(chosen) * float(value) ** mean_power(name)
        return {name: (value / weight) ** (1 / mean_power(name)) for name, value in total.items()}

    def _write_rows(self, moved: MovedRows, basis: SplineBasis | None) -> None:
        """Tell what has become of the numbers of the force field, and write its files."""
        problem, devices, weights = self.problem, self.problem.devices, self._weights()["last"]
        errors = errors_over(problem.model, weights, problem.train, basis, SUMMARY_FRAMES)
        assert problem.train.on_device is not None  # a force field that moves keeps what it needs of all frames
        groups = [devices.local(group)[0][1] for group in problem.train.on_device]
        v = np.asarray(weights[GROUP][LEAF])
        known = moved.known(v, groups, errors)
        logger.info("the force field, with errors that take the network as it is\n%s", moved.table(known))
        for changed in moved.changed_charges(v):
            logger.warning("%s", changed)
        found = parities(problem, weights, basis)  # of which all ranks compute parts
        files = moved.write(Path(problem.given.training.xml_dir), v, known, found) if devices.writes else []
        logger.info("the force field is in %s", ", ".join(map(str, files)))

    def _weights(self) -> dict[str, Params]:
        """The parameter trees with the last weights and with those of their averages that are kept."""
        state, devices = self.state, self.problem.devices
        swa = state.swa["mean"] if state.swa is not None and int(state.swa["count"]) else None
        leaves = {"last": state.trained, "ema": state.ema, "swa": swa}
        whole = {name: devices.whole(some) for name, some in leaves.items() if some is not None}
        return {name: merge(some, self.frozen) for name, some in whole.items()}

    def _refined(self) -> bool:
        """Take better splines where the weights have outgrown them; whether they have."""
        old = self.basis
        if old is None:
            return False
        self.basis, error = self._following()
        if self.basis == old:
            return False
        now = "the direct path" if self.basis is None else f"{self.basis.n} functions"
        logger.info(
            "splines: the error %.1e of %d functions exceeds the tolerance %.1e; from here on %s",
            error, old.n, self.problem.model.descriptor.tolerance(), now,
        )  # fmt: skip
        return True

    def _following(self) -> tuple[SplineBasis | None, float]:
        """Splines that follow the nets as they are, and the error of those in use."""
        descriptor, type_map, devices = self.problem.model.descriptor, self.problem.model.type_map, self.problem.devices
        if self.basis is None:
            return None, 0.0
        inner = self._weights()["last"]["DeepPot"]["descriptor"]
        error = float(devices.from_first(np.array(descriptor.spline_error(inner, type_map, self.basis))))
        logger.debug("error of the splines: %.1e with %d functions", error, self.basis.n)
        if error <= descriptor.tolerance():
            return self.basis, error
        return _of_first(descriptor.choose_basis(inner, type_map, self.basis.upper, room=_ROOM), devices), error

    def _saved(self, keeper: ckpt.Keeper, completed: dict[str, Any], step: int) -> Path:
        """Write a checkpoint; where it is."""
        checkpoint = self._checkpoint(completed, step)  # of which all ranks hold parts
        return keeper.save(checkpoint) if self.problem.devices.writes else keeper.path(step)

    def _checkpoint(self, completed: dict[str, Any], step: int) -> ckpt.Checkpoint:
        state = self.problem.devices.whole(self.state)
        parts: dict[str, Any] = {
            "trained": state.trained,
            "frozen": self.frozen,
            "optimizer": state_to_arrays(state.optimizer),
            "sampler": self.sampler.state(),
        }
        optional = {
            "ema": state.ema,
            "swa": None if state.swa is None else state_to_arrays(state.swa),
            "sums": state.sums,
            "valid_sampler": None if self.valid_sampler is None else self.valid_sampler.state(),
        }
        parts |= {name: part for name, part in optional.items() if part is not None}
        parts |= {validation.name: validation.best.to_arrays() for validation in self.validations}
        model, n = self.problem.model, self.problem.devices.n
        return ckpt.Checkpoint(step=step, model=model, input=completed, basis=self.basis, parts=parts, n_devices=n)


def _steps_in_a_call(seconds: float, most: int) -> int:
    """How many steps to do in one call, from the time of one: few enough that a signal is soon looked at."""
    return max(1, min(most, int(_CALL / max(seconds, 1e-6))))


def _of_first(basis: SplineBasis | None, devices: Devices) -> SplineBasis | None:
    """What the first rank has chosen: processors of other kinds round differently, and all need the same program."""
    given = [0.0, 0.0, 0.0] if basis is None else [basis.n, basis.upper, basis.scale]
    n, upper, scale = devices.from_first(np.array(given)).tolist()
    return SplineBasis(n=int(n), upper=upper, scale=scale) if n else None


def _optimizer(problem: Problem, scales: dict[str, Any]) -> Any:
    training = problem.given.training
    return build(
        problem.given.optimizer, scales, gradient_max_norm=training.gradient_max_norm or 0.0, acc_freq=training.acc_freq
    )


_errors = jax.jit(batch_errors, static_argnames=("model", "loss", "basis", "devices", "block"))
