"""Dense layers with residual connections, the building block of embedding and fitting nets.

A layer is a dict ``{"w": (n_in, n_out), "b": (n_out,)}``, with ``"idt": (n_out,)`` where the layer has a trainable
time step; a net is the list of its layers. Source of the architecture: doi:10.1016/j.cpc.2018.03.016.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from pydantic import AfterValidator

Layer: TypeAlias = dict[str, jax.Array]
Activation: TypeAlias = Callable[[jax.Array], jax.Array]
Factors: TypeAlias = Literal["float32", "tensorfloat32", "bfloat16"]

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


def product(a: jax.Array, b: jax.Array, factors: Factors = "float32") -> jax.Array:
    """The product of matrices, summed in their own precision.

    Args:
        a: shape ``(..., n, k)``.
        b: shape ``(k, m)``.
        factors: how exact the factors of float32 matrices are, here and in all derivatives. "float32": as they are.
            "tensorfloat32": with 11 significant bits on devices that are faster so, NVIDIA's since A100. "bfloat16":
            rounded to 8 bits everywhere; ``a`` has two axes then. Those of float64 are exact unless "bfloat16".

    Returns:
        Shape ``(..., n, m)``.
    """
    return _of_rounded(a, b) if factors == "bfloat16" else jnp.matmul(a, b, precision=factors)


@jax.custom_vjp
def _of_rounded(a: jax.Array, b: jax.Array) -> jax.Array:
    """Factors in bfloat16, sums in float32. The derivatives are such products again, to any order."""
    # without reduce_precision, XLA may take the way to bfloat16 and back for nothing and leave it out
    a, b = (lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16) for x in (a, b))
    return jnp.matmul(a, b, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32)


_of_rounded.defvjp(
    lambda a, b: (_of_rounded(a, b), (a, b)),
    lambda ab, g: (_of_rounded(g, ab[1].T), _of_rounded(ab[0].T, g)),
)


def apply_layer(layer: Layer, x: jax.Array, function: Activation, factors: Factors = "float32") -> jax.Array:
    """One residual layer: ``y = f(x w + b) idt``, plus ``x`` or ``[x, x]`` where the widths allow it.

    Args:
        layer: weights.
        x: input, shape ``(..., n_in)``.
        function: activation.
        factors: of the product, see `product`.

    Returns:
        Shape ``(..., n_out)``.
    """
    n_in, n_out = layer["w"].shape
    y = function(product(x, layer["w"], factors) + layer["b"])
    if "idt" in layer:
        y = y * layer["idt"]
    if n_out == n_in:
        return y + x
    if n_out == 2 * n_in:
        return y + jnp.concatenate([x, x], axis=-1)
    return y


def apply_net(layers: Sequence[Layer], x: jax.Array, function: Activation, factors: Factors = "float32") -> jax.Array:
    """Residual layers one after the other; ``x (..., n_in) -> (..., n_out)``."""
    for layer in layers:
        x = apply_layer(layer, x, function, factors)
    return x
