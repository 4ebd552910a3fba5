"""Pieces of an optimiser that optax has not, or not like this; each is an optax transformation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Multiplies all gradients with min(1, max_norm / (norm + 1e-6)), norm that of all leaves together."""

    def clip(gradients: Any, params: Any) -> Any:
        del params
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(gradients) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)

    return optax.stateless(clip)


class AccumulationState(NamedTuple):
    """Gradients on their way to a step."""

    mini_step: jax.Array
    sum: Any
    inner: Any


def accumulate(inner: optax.GradientTransformation, n: int) -> optax.GradientTransformation:
    """Hands the mean of n gradients to the inner transformation at every n-th call; the updates between are 0.

    `optax.MultiSteps` does the same but runs the inner transformation at every call.
    """

    def init(params: Any) -> AccumulationState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AccumulationState(mini_step=jnp.zeros((), dtype=jnp.int32), sum=zeros, inner=inner.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        total = jax.tree.map(jnp.add, state.sum, updates)
        zeros = jax.tree.map(jnp.zeros_like, updates)

        def step() -> tuple[Any, AccumulationState]:
            mean = jax.tree.map(lambda g: g / n, total)
            made, inner_state = inner.update(mean, state.inner, params)
            return made, AccumulationState(mini_step=jnp.zeros_like(state.mini_step), sum=zeros, inner=inner_state)

        def wait() -> tuple[Any, AccumulationState]:
            return zeros, AccumulationState(mini_step=state.mini_step + 1, sum=total, inner=state.inner)

        return jax.lax.cond(state.mini_step == n - 1, step, wait)

    return optax.GradientTransformation(init, update)


def downhill(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The inner direction where it agrees with the gradient, else the gradient, by a length of 1 at most."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        direction, state = inner.update(updates, state, params)
        agrees = jnp.asarray(optax.tree.vdot(direction, updates)) > 0.0
        factor = jnp.minimum(1.0, 1.0 / optax.tree.norm(updates))
        return jax.tree.map(lambda d, g: jnp.where(agrees, d, g * factor.astype(g.dtype)), direction, updates), state

    return optax.GradientTransformation(inner.init, update)


def scale_by_learning_rate(scales: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
    """Multiplies the update of each leaf with the learning rate, an argument of `update`, and its own factor.

    Args:
        scales: The factor of each leaf of the flat dict of parameters.
    """

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: jax.typing.ArrayLike) -> tuple[Any, Any]:
        del params
        rate = jnp.asarray(learning_rate)
        return {path: (rate * scales[path]).astype(u.dtype) * u for path, u in updates.items()}, state

    # optax has no type for an update with a required keyword
    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)  # pyright: ignore[reportArgumentType]
