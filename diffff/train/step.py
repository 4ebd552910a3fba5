"""One training step as a pure function of the state and a batch."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffff import nn
from diffff.descriptors.radial import SplineBasis
from diffff.potentials.deep import DeepModel
from diffff.pytree import pytree
from diffff.train.averaging import ema_update, swa_update
from diffff.train.devices import ONE_DEVICE, Devices
from diffff.train.force_field import FREE, GROUP, LEAF
from diffff.train.frames import Frames
from diffff.train.groups import Leaves, merge
from diffff.train.in_order import InOrder
from diffff.train.loss import EnergyLoss
from diffff.train.memory import bytes_of

Metrics = dict[str, jax.Array]
_MOST = 32  # steps of a call


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


def predict_batch(
    model: DeepModel,
    params: Any,
    batch: Frames,
    basis: SplineBasis | None,
    factors: nn.Factors = "float32",
    block: int | None = None,
) -> dict[str, jax.Array]:
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
        factors=factors,
        block=block,
    )
    if batch.force_field is None or batch.force_field.free is None:
        return found
    of_force_field = batch.force_field.free.params(params[GROUP][LEAF])
    more = batch.force_field.predict(of_force_field, batch.positions, batch.boxes)
    return {name: values + more[name] if name in more else values for name, values in found.items()}


def batch_loss(
    model: DeepModel,
    loss: EnergyLoss,
    params: Any,
    batch: Frames,
    basis: SplineBasis | None,
    lr_ratio: jax.typing.ArrayLike,
    n_atoms: jax.Array | None = None,
    factors: nn.Factors = "float32",
    block: int | None = None,
) -> tuple[jax.Array, Metrics, jax.Array]:
    """Loss and displayed errors of a batch, see `EnergyLoss`, and which of its frames have finite predictions."""
    needed = loss.needs(batch.labels.keys())
    found = predict_batch(model, params, batch, basis, factors, block)
    prediction = {k: v for k, v in found.items() if k in needed}
    finite = [jnp.isfinite(v).reshape(len(v), -1).all(axis=1) for v in prediction.values()]
    value, metrics = loss(prediction, batch.labels, batch.real, batch.n_real, lr_ratio, n_atoms)
    return value, metrics, jnp.stack(finite).all(axis=0)


def batch_errors(
    model: DeepModel,
    loss: EnergyLoss,
    trained: Leaves,
    frozen: Leaves,
    frames: Frames,
    indices: jax.Array,
    basis: SplineBasis | None,
    lr_ratio: jax.typing.ArrayLike,
    devices: Devices,
    block: int | None = None,
) -> Metrics:
    """Displayed errors of a batch, whose frames are dealt to the devices where their number allows it."""

    def of_share(frames: Frames, indices: jax.Array) -> Metrics:
        batch = frames.take(indices)
        n_atoms = _mean_atoms(devices, frames, indices)
        params = merge(trained, frozen)
        value, metrics, _ = batch_loss(model, loss, params, batch, basis, lr_ratio, n_atoms, block=block)
        return _means(devices, value, metrics)[1]

    if len(indices) % devices.n:
        devices = ONE_DEVICE
    return devices.on_each(of_share, 2, dealt=1, out=False)(frames, indices)


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
    devices: Devices = ONE_DEVICE,
    lr_factor: float = 1.0,
    one_by_one: bool = False,
    zero_stage: int = 0,
    factors: nn.Factors = "float32",
    block: int | None = None,
    one_shape: bool = False,
) -> "Step | InOrder":
    """The step ``(state, frozen leaves, frames, [indices]) -> (state, errors of the batch before the update)``.

    The indices are those of the whole batch, on all ranks the same; see `Step` for more than one batch.

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
        devices: to which the frames of a batch are dealt.
        lr_factor: what the optimiser multiplies the learning rate with.
        one_by_one: takes the gradient of each frame alone and adds them up in the order of the batch, see `InOrder`.
        zero_stage: what devices keep a part of only: 1 the state of the optimiser, 2 gradients too, 3 weights too.
        factors: of the products in the fitting nets, see `nn.product`.
        block: see `DeepModel.atomic_energies`.
        one_shape: whether all batches are of the same frames on the device and of one size.
    """

    def objective(
        trained: Leaves, frozen: Leaves, frames: Frames, indices: jax.Array, lr_ratio: jax.Array, n_atoms: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
        params, batch = merge(trained, frozen), frames.take(indices)
        value, metrics, finite = batch_loss(model, loss, params, batch, basis, lr_ratio, n_atoms, factors, block)
        if prior_weight and batch.force_field is not None and batch.force_field.free is not None:
            value += prior_weight * jnp.sum(batch.force_field.free.prior_residuals(trained[FREE]) ** 2)
        return value, (metrics, finite)

    slopes = jax.value_and_grad(objective, has_aux=True)

    def updated(
        state: TrainState, value: jax.Array, metrics: Metrics, grads: Leaves, finite: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """The state after the step, from means over the batch and which of its frames are finite."""
        updates, optimizer_state = optimizer.update(
            grads, state.optimizer, state.trained, learning_rate=lr_factor * learning_rate(state.step)
        )
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

    if one_by_one:

        def of_one(state: TrainState, frozen: Leaves, frames: Frames, index: jax.Array, batch: jax.Array) -> Any:
            n_atoms = jnp.mean(frames.n_real[batch])
            lr_ratio = learning_rate(state.step) / start_lr
            (value, (metrics, finite)), grads = slopes(state.trained, frozen, frames, index[None], lr_ratio, n_atoms)
            return value, _in_powers(metrics), grads, finite[0]

        def of_all(state: TrainState, each: Any) -> tuple[TrainState, Metrics]:
            *sums, finite = each
            value, powers, grads = jax.tree.map(lambda x: jnp.sum(x, axis=0) / len(x), sums)
            return updated(state, value, _from_powers(powers), grads, finite)

        return InOrder(of_one, of_all, devices)

    def of_share(
        trained: Leaves, frozen: Leaves, frames: Frames, indices: jax.Array, lr_ratio: jax.Array
    ) -> tuple[tuple[jax.Array, Metrics, Leaves], jax.Array]:
        """Means over the whole batch of loss, errors and gradients, and which frames of the share are finite."""
        n_atoms = _mean_atoms(devices, frames, indices)
        (value, (metrics, finite)), grads = slopes(trained, frozen, frames, indices, lr_ratio, n_atoms)
        mean = devices.mean_parts if zero_stage >= 2 else devices.mean
        return (*_means(devices, value, metrics), mean(grads)), finite

    def step(state: TrainState, frozen: Leaves, frames: Frames, indices: jax.Array) -> tuple[TrainState, Metrics]:
        lr_ratio = learning_rate(state.step) / start_lr
        kept = devices.parts(state.trained) if zero_stage >= 2 else False
        over_batch = devices.on_each(of_share, 5, dealt=3, out=((False, False, kept), True))
        (value, metrics, grads), finite = over_batch(state.trained, frozen, frames, indices, lr_ratio)
        new, metrics = updated(state, value, metrics, grads, finite)
        return spread(new, zero_stage, devices.keep_everywhere, devices.keep_split), metrics

    return Step(step, devices, one_shape=one_shape)


class Step:
    """Steps as programs, one for each shape of a batch.

    A program does several steps in one call where all batches are of one shape: what the host does for a call, and what
    starting a program costs, is for all of them together. It is the same program for any number of steps, so that the
    bits do not depend on where a run was interrupted.

    Attributes:
        most: number of steps that one call does at most.
    """

    def __init__(
        self, function: Callable[..., tuple[TrainState, Metrics]], devices: Devices, *, one_shape: bool
    ) -> None:
        """Nothing is compiled yet; the function takes the indices dealt to the devices."""

        def several(
            state: TrainState, frozen: Leaves, frames: Frames, indices: jax.Array, n: jax.Array
        ) -> tuple[TrainState, Metrics]:
            of_one = jax.eval_shape(function, state, frozen, frames, indices[:, 0])
            before = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), of_one[1])

            def next_step(k: jax.Array, done: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
                return function(done[0], frozen, frames, indices[:, k])

            return jax.lax.fori_loop(0, n, next_step, (state, before))

        self.most = _MOST if one_shape else 1
        self._jitted = jax.jit(several if one_shape else function, donate_argnums=(0,))
        self._devices = devices
        self._programs: dict[Any, jax.stages.Compiled] = {}

    def __call__(
        self, state: TrainState, frozen: Leaves, frames: Frames, indices: Sequence[np.ndarray]
    ) -> tuple[TrainState, Metrics]:
        """The state after a step for each batch, and the errors of the last batch before its step."""
        given = self._arguments(state, frozen, frames, indices)
        return self.program(state, frozen, frames, indices)(*given)

    def program(
        self, state: TrainState, frozen: Leaves, frames: Frames, indices: Sequence[np.ndarray]
    ) -> jax.stages.Compiled:
        """The program for batches of this shape."""
        leaves, structure = jax.tree.flatten(frames)
        shape = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), len(indices[0])
        if shape not in self._programs:
            self._programs[shape] = self._jitted.lower(*self._arguments(state, frozen, frames, indices)).compile()
        return self._programs[shape]

    def _arguments(self, state: TrainState, frozen: Leaves, frames: Frames, indices: Sequence[np.ndarray]) -> Any:
        if self.most == 1:
            (of_one,) = indices
            return state, frozen, frames, self._devices.dealt(of_one)
        columns = np.zeros((len(indices[0]), self.most), np.int32)
        columns[:, : len(indices)] = np.stack(indices, axis=1)
        return state, frozen, frames, self._devices.dealt(columns), self._devices.everywhere(np.int32(len(indices)))

    def bytes_for(self, n: int, state: TrainState, frozen: Leaves, frames: Frames) -> float:
        """Memory beside the arguments, on each device, of a step of so many frames on each."""
        return bytes_of(self.program(state, frozen, frames, [np.zeros(n * self._devices.n, np.int32)]))


def spread(
    state: TrainState, zero_stage: int, everywhere: Callable[[Any], Any], split: Callable[[Any], Any]
) -> TrainState:
    """The state with each part whole on each device, or in parts, as the stage says.

    Args:
        state: of the run.
        zero_stage: see `make_step`.
        everywhere: what makes a part whole.
        split: what divides a part among the devices.
    """
    of_weights, of_optimizer = (split if zero_stage >= stage else everywhere for stage in (3, 1))
    return TrainState(
        step=everywhere(state.step),
        trained=of_weights(state.trained),
        optimizer=of_optimizer(state.optimizer),
        failed=everywhere(state.failed),
        ema=of_weights(state.ema),
        swa=of_weights(state.swa),
        sums=everywhere(state.sums),
    )


def _mean_atoms(devices: Devices, frames: Frames, indices: jax.Array) -> jax.Array:
    """Atoms of a share of a batch, on average over the devices."""
    if frames.real is None:  # all frames have as many, so that there is nothing to ask the others
        return jnp.asarray(float(len(indices) * frames.positions.shape[1]))
    return devices.mean(jnp.sum(frames.n_real[indices], dtype=float))


def _means(devices: Devices, value: jax.Array, metrics: Metrics) -> tuple[jax.Array, Metrics]:
    """Loss and errors over the devices."""
    if devices.mesh is None:
        return value, metrics
    value, powers = devices.mean((value, _in_powers(metrics)))
    return value, _from_powers(powers)


def _in_powers(metrics: Metrics) -> Metrics:
    return {name: value ** mean_power(name) for name, value in metrics.items()}


def _from_powers(powers: Metrics) -> Metrics:
    return {name: value if mean_power(name) == 1 else jnp.sqrt(value) for name, value in powers.items()}


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
