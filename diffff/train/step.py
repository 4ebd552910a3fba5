"""One training step as a pure function of the state and a batch."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from diffff.descriptors.radial import SplineBasis
from diffff.potentials.deep import DeepModel
from diffff.pytree import pytree
from diffff.train.averaging import ema_update, swa_update
from diffff.train.force_field import FREE, GROUP, LEAF
from diffff.train.frames import Frames
from diffff.train.groups import Leaves, merge
from diffff.train.loss import EnergyLoss

Metrics = dict[str, jax.Array]


@pytree
class TrainState:
    """All that changes during a run on the device.

    Attributes:
        step: number of steps done, int32.
        trained: the trained leaves by path.
        optimizer: state of the optimiser.
        failed: first step after which loss, gradient or weights were not finite, and the place in its batch of the
            first frame to blame, whose prediction was not while those of others were; -1: none; shape ``(2,)``, int32.
        ema: exponential moving average of ``trained``, or None.
        swa: plain mean of ``trained``, or None.
        sums: sums of the errors, in their `mean_power`, since the last row of the learning curve (`disp_avg`), or None.
    """

    step: jax.Array
    trained: Leaves
    optimizer: optax.OptState
    failed: jax.Array
    ema: Leaves | None
    swa: dict[str, Any] | None
    sums: Metrics | None


def predict_batch(model: DeepModel, params: Any, batch: Frames, basis: SplineBasis | None) -> dict[str, jax.Array]:
    """Predictions for the frames of a batch, as `DeepModel.predict`; those of a force field that moves are added."""
    found = model.predict(
        params["DeepPot"],
        batch.center.astype(jnp.int32),
        batch.neighbor.astype(jnp.int32),
        batch.vectors(),
        batch.layout,
        basis,
        real=batch.real,
        fparam=batch.labels.get("fparam"),
        aparam=batch.labels.get("aparam"),
    )
    if batch.force_field is None or batch.force_field.free is None:
        return found
    of_force_field = batch.force_field.free.params(params[GROUP][LEAF])
    more = batch.force_field.predict(of_force_field, batch.positions, batch.boxes)
    return {name: values + more[name] if name in more else values for name, values in found.items()}


def batch_loss(
    model: DeepModel, loss: EnergyLoss, params: Any, batch: Frames, basis: SplineBasis | None, lr_ratio: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Loss and displayed errors of a batch."""
    return _batch_loss(model, loss, params, batch, basis, lr_ratio)[:2]


def _batch_loss(
    model: DeepModel, loss: EnergyLoss, params: Any, batch: Frames, basis: SplineBasis | None, lr_ratio: jax.Array
) -> tuple[jax.Array, Metrics, jax.Array]:
    """`batch_loss`, and which frames of the batch have finite predictions."""
    needed = loss.needs(batch.labels.keys())
    prediction = {k: v for k, v in predict_batch(model, params, batch, basis).items() if k in needed}
    finite = [jnp.isfinite(v).reshape(len(v), -1).all(axis=1) for v in prediction.values()]
    return *loss(prediction, batch.labels, batch.real, batch.n_real, lr_ratio), jnp.stack(finite).all(axis=0)


def make_step(
    model: DeepModel,
    loss: EnergyLoss,
    optimizer: optax.GradientTransformationExtraArgs,
    learning_rate: Callable[[jax.Array], jax.Array],
    *,
    start_lr: float,
    basis: SplineBasis | None,
    ema_decay: float | None,
    swa: tuple[int, int] | None,
    prior_weight: float = 0.0,
) -> Callable[[TrainState, Leaves, Frames, jax.Array], tuple[TrainState, Metrics]]:
    """The compiled step ``(state, frozen leaves, frames, indices) -> (state, errors of the batch before the update)``.

    Args:
        model: hyper-parameters.
        loss: what is minimised.
        optimizer: its `update` takes the learning rate.
        learning_rate: function of the number of steps done.
        start_lr: the rate to which the prefactors of the loss refer.
        basis: spline functions, or None for the direct path.
        ema_decay: None without moving average.
        swa: first step and interval of the plain mean, or None.
        prior_weight: weight of the priors of a force field beside the loss.
    """

    def step(state: TrainState, frozen: Leaves, frames: Frames, indices: jax.Array) -> tuple[TrainState, Metrics]:
        lr = learning_rate(state.step)

        def objective(trained: Leaves) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
            params, batch = merge(trained, frozen), frames.take(indices)
            value, metrics, finite = _batch_loss(model, loss, params, batch, basis, lr / start_lr)
            if prior_weight and batch.force_field is not None and batch.force_field.free is not None:
                value += prior_weight * jnp.sum(batch.force_field.free.prior_residuals(trained[FREE]) ** 2)
            return value, (metrics, finite)

        (value, (metrics, finite)), grads = jax.value_and_grad(objective, has_aux=True)(state.trained)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.trained, learning_rate=lr)
        trained = cast(Leaves, optax.apply_updates(state.trained, updates))
        done = state.step + 1
        fails = (state.failed[0] < 0) & ~_all_finite((value, grads, trained))
        culprit = jnp.where(finite.any() & ~finite.all(), jnp.argmin(finite), -1).astype(jnp.int32)
        failed = jnp.where(fails, jnp.stack([done, culprit]), state.failed)
        return TrainState(
            step=done,
            trained=trained,
            optimizer=optimizer_state,
            failed=failed,
            ema=None if state.ema is None or ema_decay is None else ema_update(state.ema, trained, ema_decay),
            swa=None if state.swa is None or swa is None
            else swa_update(state.swa, trained, step=done, start=swa[0], freq=swa[1]),
            sums=None if state.sums is None else {k: state.sums[k] + metrics[k] ** mean_power(k) for k in state.sums},
        ), metrics  # fmt: skip

    return jax.jit(step, donate_argnums=(0,))


def mean_power(metric: str) -> int:
    """The power in which a displayed error is averaged: 1 for mean absolute errors, 2 for root mean squares."""
    return 1 if metric.startswith("mae") else 2


def _all_finite(tree: Any) -> jax.Array:
    """Whether the loss and all vectors of a tree are finite.

    The matrices are left out: to read them once more would cost a twentieth of the step, and what is not finite there
    is not finite in the bias beside it, or in the loss of the next step.
    """
    vectors = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim < 2]
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in vectors]).all()
