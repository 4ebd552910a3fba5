"""The sections of an input about the factors of products: `training.mixed_precision`, and what goes with it.

Only the hidden layers of the fitting nets take short factors; they are nearly all of the arithmetic of a step. Where
moments meet the coefficients of splines, factors stay whole: the force is a difference of neighbouring coefficients.
Weights, sums, activations and the optimiser stay float32, energies of frames float64. What a model predicts outside
the training steps never has short factors.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from diffff.spec import Spec


def _wide_enough(name: Any) -> Any:
    if name == "float16":
        raise ValueError(
            '"float16" overflows beyond 65504, which forces and gradients may reach; give "bfloat16", which has the '
            "range of float32"
        )
    return name


class MixedPrecision(Spec):
    """The section `training.mixed_precision`: products of short factors in the steps of a training."""

    output_prec: Literal["float32"] = "float32"
    "Of weights, activations and sums."
    compute_prec: Annotated[Literal["bfloat16"], BeforeValidator(_wide_enough)]
    "To which the factors of products are rounded in the hidden layers of the fitting nets."
