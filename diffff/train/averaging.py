"""Averages of the weights over the training: often a better model than the last weights alone.

Both averages are plain trees of arrays beside the weights, so that a checkpoint can hold them; the functions are pure.

EMA, from the first step on:       ema ← decay · ema + (1 − decay) · weights
SWA, every `freq` steps from `start` on:   mean ← mean + (weights − mean) / n
"""

from typing import Any

import jax
import jax.numpy as jnp


def ema_init(weights: Any) -> Any:
    """The exponential moving average before the first step: a copy of the weights, in buffers of its own."""
    return jax.tree.map(jnp.copy, weights)


def ema_update(ema: Any, weights: Any, decay: float) -> Any:
    """The exponential moving average after one more step.

    Args:
        ema: The average so far, of the weights' structure, shapes and dtypes.
        weights: The weights after the step.
        decay: The part of the old average that stays, 0.999: an average over about 1000 steps.
    """
    return jax.tree.map(lambda average, weight: average + (1.0 - decay) * (weight - average), ema, weights)


def swa_init(weights: Any) -> dict[str, Any]:
    """The stochastic weight average of no weights yet: {"count": 0, "mean": the structure of the weights}."""
    return {"count": jnp.zeros((), dtype=jnp.int32), "mean": jax.tree.map(jnp.zeros_like, weights)}


def swa_update(
    swa: dict[str, Any], weights: Any, *, step: jax.typing.ArrayLike, start: int, freq: int
) -> dict[str, Any]:
    """The stochastic weight average after `step` steps: the mean of the weights after steps start, start + freq, ….

    Args:
        swa: The state so far.
        weights: The weights after the step.
        step: Number of steps done, 1 after the first.
        start: The first step whose weights count.
        freq: Every so many steps they count again.
    """

    def taken() -> dict[str, Any]:
        count = swa["count"] + 1
        mean = jax.tree.map(lambda mean, w: mean + (w - mean) / count.astype(w.dtype), swa["mean"], weights)
        return {"count": count, "mean": mean}

    since = jnp.asarray(step) - start
    return jax.lax.cond((since >= 0) & (since % freq == 0), taken, lambda: swa)
