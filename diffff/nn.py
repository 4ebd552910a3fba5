"""Dense layers with residual connections, the building block of embedding and fitting nets.

A layer is a dict ``{"w": (n_in, n_out), "b": (n_out,)}``, with ``"idt": (n_out,)`` where the layer has a trainable
time step; a net is the list of its layers. Source of the architecture: doi:10.1016/j.cpc.2018.03.016.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import jax
import jax.numpy as jnp
from pydantic import AfterValidator

Layer: TypeAlias = dict[str, jax.Array]
Activation: TypeAlias = Callable[[jax.Array], jax.Array]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "relu6": lambda x: jnp.clip(x, 0.0, 6.0),
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_tf": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "none": lambda x: x,
    "linear": lambda x: x,
}
_SILUT = re.compile(r"(?:silut|custom_silu)(?::(\d+(?:\.\d*)?))?")


def known_activation(name: str) -> str:
    """The name, if there is an activation function of that name.

    Raises:
        ValueError: there is none.
    """
    if name.lower() not in ACTIVATIONS and _SILUT.fullmatch(name.lower()) is None:
        raise ValueError(f'unknown activation function "{name}"; known: {", ".join(ACTIVATIONS)}, silut[:T]')
    return name


ActivationName = Annotated[str, AfterValidator(known_activation)]


def activation(name: str) -> Activation:
    """The activation function of that name, e.g. ``"tanh"``, ``"gelu"``, ``"silut:3.0"``.

    ``silut:T`` is silu below ``T`` and ``tanh(slope (x - T)) + silu(T)`` above, continuous in value and slope.

    Raises:
        KeyError: no such function.
    """
    if (match := _SILUT.fullmatch(name.lower())) is None:
        return ACTIVATIONS[name.lower()]
    threshold = float(match[1] or 3.0)
    silu = jax.nn.silu
    sigmoid = 1.0 / (1.0 + math.exp(-threshold))
    value, slope = threshold * sigmoid, sigmoid * (1.0 + threshold * (1.0 - sigmoid))

    def silut(x: jax.Array) -> jax.Array:
        above = jnp.maximum(x - threshold, 0.0)
        return jnp.where(x < threshold, silu(jnp.minimum(x, threshold)), jnp.tanh(slope * above) + value)

    return silut


def init_layer(key: jax.Array, n_in: int, n_out: int, *, idt: bool) -> Layer:
    """Random layer: w ~ N(0, 1/sqrt(n_in + n_out)), b ~ N(0, 1), idt ~ N(0.1, 0.001), float64."""
    key_w, key_b, key_idt = jax.random.split(key, 3)
    layer = {
        "w": jax.random.normal(key_w, (n_in, n_out), jnp.float64) / jnp.sqrt(n_in + n_out),
        "b": jax.random.normal(key_b, (n_out,), jnp.float64),
    }
    if idt:
        layer["idt"] = 0.1 + 0.001 * jax.random.normal(key_idt, (n_out,), jnp.float64)
    return layer


def has_skip(n_in: int, n_out: int) -> bool:
    """Whether a residual layer of this shape adds its input: equal or doubled width."""
    return n_out in (n_in, 2 * n_in)


def init_net(key: jax.Array, n_in: int, widths: Sequence[int], *, resnet_dt: bool) -> list[Layer]:
    """Random hidden layers of the given widths; a time step where ``resnet_dt`` and the layer has a skip."""
    sizes = [n_in, *widths]
    keys = jax.random.split(key, max(1, len(widths)))
    return [
        init_layer(k, a, b, idt=resnet_dt and has_skip(a, b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def apply_layer(layer: Layer, x: jax.Array, function: Activation) -> jax.Array:
    """One residual layer: ``y = f(x w + b) idt``, plus ``x`` or ``[x, x]`` where the widths allow it.

    Args:
        layer: weights.
        x: input, shape ``(..., n_in)``.
        function: activation.

    Returns:
        Shape ``(..., n_out)``.
    """
    n_in, n_out = layer["w"].shape
    y = function(x @ layer["w"] + layer["b"])
    if "idt" in layer:
        y = y * layer["idt"]
    if n_out == n_in:
        return y + x
    if n_out == 2 * n_in:
        return y + jnp.concatenate([x, x], axis=-1)
    return y


def apply_net(layers: Sequence[Layer], x: jax.Array, function: Activation) -> jax.Array:
    """Residual layers one after the other; ``x (..., n_in) -> (..., n_out)``."""
    for layer in layers:
        x = apply_layer(layer, x, function)
    return x
