"""Learning rates: functions of the step, counted from 0, that can be traced by JAX.

With T = numb_steps − warm-up steps and t = step − warm-up steps, the rate of the decay phase is

| type   | lr(t)                                                                                                    |
|--------|----------------------------------------------------------------------------------------------------------|
| exp    | start · rate^⌊t/s⌋, or rate^(t/s) when smooth; s = decay_steps, rate = (stop/start)^(s/T) or decay_rate  |
| cosine | stop + ½ (start − stop) (1 + cos(π t/T))                                                                 |
| wsd    | start, and over the last decay_phase_ratio · numb_steps steps down to stop along decay_type              |

Before it the rate rises in a straight line from warmup_start_factor · start. It never falls below stop.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from diffff.errors import InputError
from diffff.spec import Spec, Variants

Ratio = Annotated[float, Field(gt=0, le=1)]
Rate = Callable[[jax.typing.ArrayLike], jax.Array]


class _Schedule(Spec):
    """What all schedules have in common; `decay` is what each adds."""

    start_lr: PositiveFloat
    "The learning rate after the warm-up."
    stop_lr: NonNegativeFloat | None = None
    "The learning rate at the end; 5e-8 when stop_lr_ratio is not given either."
    stop_lr_ratio: NonNegativeFloat | None = None
    "The learning rate at the end as a multiple of start_lr, instead of stop_lr."
    warmup_steps: NonNegativeInt = 0
    "Number of steps in which the rate rises to start_lr."
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    "The same as a part of numb_steps, instead of warmup_steps."
    warmup_start_factor: NonNegativeFloat = 0.0
    "The rate of step 0 as a multiple of start_lr."
    scale_by_worker: Literal["linear", "sqrt", "none"] = "linear"
    "With n > 1 workers the optimiser takes n, √n or 1 times the learning rate."

    @model_validator(mode="before")
    @classmethod
    def _default_stop(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("stop_lr") is None and data.get("stop_lr_ratio") is None:
            return {**data, "stop_lr": 5e-8}
        return data

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.stop_lr is not None and self.stop_lr_ratio is not None:
            raise ValueError("stop_lr and stop_lr_ratio say the same thing; keep one of them")
        if self.warmup_steps and self.warmup_ratio is not None:
            raise ValueError("warmup_steps and warmup_ratio say the same thing; keep one of them")
        if self.stop > self.start_lr:
            raise ValueError(f"the learning rate at the end, {self.stop:g}, lies above start_lr, {self.start_lr:g}")
        return self

    @property
    def stop(self) -> float:
        """The learning rate at the end."""
        if self.stop_lr is not None:
            return self.stop_lr
        assert self.stop_lr_ratio is not None  # one of the two always is
        return self.start_lr * self.stop_lr_ratio

    def bind(self, numb_steps: int) -> Rate:
        """The learning rate as a function of the step, for a run of `numb_steps` steps.

        Returns:
            A function of a step, or an array of steps, that works inside `jax.jit` and outside.

        Raises:
            InputError: The warm-up fills the run.
        """
        warmup = self.warmup_steps if self.warmup_ratio is None else int(self.warmup_ratio * numb_steps)
        if warmup >= numb_steps:
            raise InputError(
                f"learning_rate: the warm-up takes {warmup} steps, the run has {numb_steps}; no step is left for the "
                "decay. Lower warmup_steps or raise numb_steps."
            )
        first = self.warmup_start_factor * self.start_lr
        decay = self.decay(n_decay=numb_steps - warmup, n_run=numb_steps)

        def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
            step = jnp.asarray(step, dtype=float)
            rate = decay(jnp.maximum(step - warmup, 0.0))
            if warmup == 0:
                return rate
            return jnp.where(step < warmup, first + (self.start_lr - first) * (step / warmup), rate)

        return learning_rate

    def worker_factor(self, n_workers: int) -> float:
        """What the optimiser multiplies the learning rate with; the weights of the loss follow the bare rate."""
        return {"linear": float(n_workers), "sqrt": math.sqrt(n_workers), "none": 1.0}[self.scale_by_worker]

    @abstractmethod
    def decay(self, n_decay: int, n_run: int) -> Rate:
        """The rate as a function of t, for a decay phase of n_decay steps in a run of n_run."""


class ExpSchedule(_Schedule):
    """Exponential decay, in stairs unless `smooth`."""

    type: Literal["exp"] = "exp"
    decay_steps: PositiveInt = 5000
    "Steps per stair; when the run is no longer than one of them, about a hundredth of the run, 100 at most."
    decay_rate: Ratio | None = None
    "The factor per stair; by default the one that leads to stop_lr at the end. stop_lr stays the lower bound."
    smooth: bool = False
    "Decays at every step instead of every decay_steps steps."

    def decay(self, n_decay: int, n_run: int) -> Rate:
        """The rate start · rate^(t/s)."""
        del n_run
        width, rate = self.decay_steps, self.decay_rate
        if rate is None:
            if width >= n_decay:
                width = 100 if n_decay // 10 > 100 else n_decay // 100 + 1
            rate = math.exp(math.log(max(self.stop, 1e-10) / self.start_lr) / (n_decay / width))

        def learning_rate(t: jax.typing.ArrayLike) -> jax.Array:
            stairs = t / width if self.smooth else jnp.floor_divide(t, width)
            return jnp.maximum(self.start_lr * jnp.power(rate, stairs), self.stop)

        return learning_rate


class CosineSchedule(_Schedule):
    """Half a cosine from start_lr to the rate at the end."""

    type: Literal["cosine"] = "cosine"

    def decay(self, n_decay: int, n_run: int) -> Rate:
        """The rate stop + ½ (start − stop) (1 + cos(π t/T))."""
        del n_run
        return lambda t: _cosine(self.start_lr, self.stop, jnp.minimum(t / n_decay, 1.0))


class WsdSchedule(_Schedule):
    """Warm-up, stable, decay: the full rate for most of the run, then a short way down."""

    type: Literal["wsd"] = "wsd"
    decay_phase_ratio: Ratio = 0.1
    "Length of the way down as a part of numb_steps."
    decay_type: Literal["inverse_linear", "cosine", "linear"] = "inverse_linear"
    "The way down: 1/lr is linear, a half cosine, or lr is linear in the step."

    @model_validator(mode="after")
    def _stops_above_zero(self) -> Self:
        if self.stop == 0.0:
            raise ValueError("stop_lr must be greater than 0 for a wsd schedule")
        return self

    def decay(self, n_decay: int, n_run: int) -> Rate:
        """Start until the way down begins, then `decay_type` of the part τ of it that is done."""
        n_down = max(1, min(int(self.decay_phase_ratio * n_run), n_decay))
        start, stop = self.start_lr, self.stop

        def learning_rate(t: jax.typing.ArrayLike) -> jax.Array:
            tau = jnp.clip((t - (n_decay - n_down)) / n_down, 0.0, 1.0)
            match self.decay_type:
                case "inverse_linear":
                    return 1.0 / (tau / stop + (1.0 - tau) / start)
                case "cosine":
                    return _cosine(start, stop, tau)
                case "linear":
                    return start + (stop - start) * tau

        return learning_rate


LearningRate = Annotated[ExpSchedule | CosineSchedule | WsdSchedule, Variants(default="exp")]


def _cosine(start: float, stop: float, tau: jax.Array) -> jax.Array:
    return stop + (start - stop) * 0.5 * (1.0 + jnp.cos(math.pi * tau))
