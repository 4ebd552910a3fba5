"""Optimisers: the `optimizer` section and the optax transformation it stands for.

An optimiser works on the trained leaves, a flat dict {"DeepPot/fitting/nets/O/0/w": array}:

    scales = learning_rate_scales(params, spec.rules)
    trained, frozen = partition(params, scales)
    optimizer = build(spec, scales, gradient_max_norm=0.0, acc_freq=1)
    state = optimizer.init(trained)
    updates, state = optimizer.update(gradients, state, trained, learning_rate=lr)
    params = merge(optax.apply_updates(trained, updates), frozen)

The learning rate is an argument: the step is counted in one place, by the training loop.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from diffff.errors import InputError
from diffff.spec import Spec, Variants
from diffff.train.groups import Rule
from diffff.train.transforms import accumulate, clip_by_norm, downhill, scale_by_learning_rate

Fraction = Annotated[float, Field(ge=0, lt=1)]
State = TypeVar("State", bound=optax.OptState)

EPS = 1e-8
"""ε in m̂ / (√v̂ + ε), outside the root and after the bias correction, as in PyTorch and optax. TensorFlow adds it before
the correction, which makes it larger by 1/√(1 − β₂ᵗ): 32 times at the first step, the same after a few thousand."""


class _Optimizer(Spec):
    """What all optimisers have in common."""

    rules: tuple[Rule, ...] = ()
    "Ordered rules for groups of parameters; what no rule selects is trained with the learning rate as it is."

    @abstractmethod
    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """Gradients -> what is added to the parameters when the learning rate is 1."""


class Adam(_Optimizer):
    """Adam (doi:10.48550/arXiv.1412.6980)."""

    type: Literal["Adam"] = "Adam"
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    weight_decay: NonNegativeFloat = 0.0
    "L2 penalty: weight_decay · w is added to the gradient."

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−m̂ / (√v̂ + ε)."""
        return _with_l2(self.weight_decay, optax.adam(1.0, b1=self.adam_beta1, b2=self.adam_beta2, eps=EPS))


class AdamW(_Optimizer):
    """Adam with decoupled weight decay (doi:10.48550/arXiv.1711.05101)."""

    type: Literal["AdamW"] = "AdamW"
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    weight_decay: NonNegativeFloat = 0.001
    "Every step takes lr · weight_decay of each weight away."

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−m̂ / (√v̂ + ε) − weight_decay · w."""
        return optax.adamw(1.0, b1=self.adam_beta1, b2=self.adam_beta2, eps=EPS, weight_decay=self.weight_decay)


class SGD(_Optimizer):
    """Gradient descent, with momentum if wanted."""

    type: Literal["SGD"] = "SGD"
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum greater than 0")
        return self

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−b with b ← momentum · b + g."""
        return _with_l2(self.weight_decay, optax.sgd(1.0, momentum=self.momentum or None, nesterov=self.nesterov))


class Adagrad(_Optimizer):
    """Adagrad (Duchi, Hazan, Singer, JMLR 12, 2121, 2011)."""

    type: Literal["Adagrad"] = "Adagrad"
    initial_accumulator_value: NonNegativeFloat = 0.0
    eps: PositiveFloat = 1e-10
    weight_decay: NonNegativeFloat = 0.0

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−g / √(Σ g² + ε)."""
        step = optax.adagrad(1.0, initial_accumulator_value=self.initial_accumulator_value, eps=self.eps)
        return _with_l2(self.weight_decay, step)


class RMSprop(_Optimizer):
    """RMSprop as in PyTorch: ε outside the root, momentum on the scaled gradient."""

    type: Literal["RMSprop"] = "RMSprop"
    alpha: Fraction = 0.99
    "The part of the mean square that stays."
    eps: PositiveFloat = 1e-8
    momentum: Fraction = 0.0
    centered: bool = False
    "Divides by the standard deviation of the gradient instead of its root mean square."
    weight_decay: NonNegativeFloat = 0.0

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−b with b ← momentum · b + g / (√v + ε)."""
        step = optax.rmsprop(
            1.0,
            decay=self.alpha,
            eps=self.eps,
            eps_in_sqrt=False,
            centered=self.centered,
            momentum=self.momentum or None,
        )
        return _with_l2(self.weight_decay, step)


class Adamax(_Optimizer):
    """Adam with the largest instead of the mean square gradient (doi:10.48550/arXiv.1412.6980, section 7.1)."""

    type: Literal["Adamax"] = "Adamax"
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    weight_decay: NonNegativeFloat = 0.0

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−m̂ / u."""
        return _with_l2(self.weight_decay, optax.adamax(1.0, b1=self.adam_beta1, b2=self.adam_beta2, eps=EPS))


class Muon(_Optimizer):
    """Orthogonalised momentum for matrices (doi:10.48550/arXiv.2502.16982), Adam with Nesterov momentum for the rest.

    The update of an (m, n) matrix has singular values near lr_adjust_coeff · √max(m, n), which gives its entries the
    root mean square lr_adjust_coeff, as in a step of Adam.
    """

    aliases: ClassVar[Mapping[str, str]] = {"muon_momentum": "momentum"}

    type: Literal["Muon"] = "Muon"
    momentum: Fraction = 0.95
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.95
    weight_decay: NonNegativeFloat = 0.001
    "Decoupled, of the matrices only."
    lr_adjust_coeff: PositiveFloat = 0.2

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−lr_adjust_coeff · √max(m, n) · U Vᵀ of the momentum U S Vᵀ, by five Newton–Schulz steps."""
        return optax.contrib.muon(
            1.0,
            beta=self.momentum,
            weight_decay=self.weight_decay,
            adam_b1=self.adam_beta1,
            adam_b2=self.adam_beta2,
            consistent_rms=self.lr_adjust_coeff,
            muon_weight_dimension_numbers=_matrices,
        )


class LBFGS(_Optimizer):
    """L-BFGS without line search: the learning rate is the step length, 1 near a minimum.

    It takes the differences of successive gradients for curvature, so all steps must see the same frames: give one
    system and a batch_size of all its frames. With changing batches it is no better than gradient descent. Where the
    direction it finds leads uphill, it goes down the gradient, by a length of 1 at most.
    """

    type: Literal["LBFGS"] = "LBFGS"
    history_size: PositiveInt = 10
    "Number of past steps it remembers; each takes two copies of the weights."

    def update_at_unit_rate(self) -> optax.GradientTransformation:
        """−H g, H the approximate inverse Hessian."""
        return optax.chain(downhill(optax.scale_by_lbfgs(memory_size=self.history_size)), optax.scale(-1.0))


INSTEAD_OF_MUON = 'this variant of Muon is not available; choose "Muon", which is the method without additions'
Optimizer = Annotated[
    Adam | AdamW | SGD | Adagrad | RMSprop | Adamax | Muon | LBFGS,
    Variants(
        default="Adam",
        refused={
            "LKF": 'the Kalman filter is not available; choose "Adam" and weigh energy and force in the section "loss"',
            "AdaMuon": INSTEAD_OF_MUON,
            "HybridMuon": INSTEAD_OF_MUON,
        },
    ),
]


def build(
    spec: Adam | AdamW | SGD | Adagrad | RMSprop | Adamax | Muon | LBFGS,
    scales: Mapping[str, float | np.ndarray],
    *,
    gradient_max_norm: float = 0.0,
    acc_freq: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """The optimiser of a run; its `update` takes `learning_rate` as a keyword.

    Args:
        spec: The section `optimizer`.
        scales: Factor on the learning rate for each trained leaf.
        gradient_max_norm: Longer gradients, as one vector of all leaves, are shortened to this length; 0: never.
        acc_freq: The weights change at every acc_freq-th step only, by the mean gradient of the steps since the last
            change, that is, as with a batch acc_freq times as large, and with the learning rate of that step.
    """
    step = spec.update_at_unit_rate()
    if gradient_max_norm > 0.0:
        step = optax.chain(clip_by_norm(gradient_max_norm), step)
    if acc_freq > 1:
        step = accumulate(step, acc_freq)
    return optax.named_chain((spec.type, step), ("learning_rate", scale_by_learning_rate(scales)))


def state_to_arrays(state: optax.OptState) -> dict[str, jax.Array]:
    """The optimiser's state as named arrays, "Adam/0/mu/DeepPot/fitting/nets/O/0/w"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def state_from_arrays(template: State, arrays: Mapping[str, Any]) -> State:
    """The state that `state_to_arrays` gave, bit for bit.

    Args:
        template: A state of the same optimiser for the same parameters, for its structure.
        arrays: Named arrays.

    Raises:
        InputError: The arrays are those of another optimiser or of other parameters.
    """
    wanted = state_to_arrays(template)
    wrong = [name for name in wanted if name not in arrays or not _is_alike(arrays[name], wanted[name])]
    wrong += [name for name in arrays if name not in wanted]
    if wrong:
        raise InputError(
            f"the state of the optimiser in the checkpoint is not that of the optimiser in the input: {len(wrong)} of "
            f"its arrays are missing, superfluous or of another shape, first {wrong[0]}. Restart with the same "
            "optimizer, acc_freq and model, or begin a new run from the weights with --init-model."
        )
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.asarray(arrays[name]) for name in wanted])


def _is_alike(array: Any, other: jax.Array) -> bool:
    return np.shape(array) == other.shape and array.dtype == other.dtype


def _with_l2(weight_decay: float, step: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), step) if weight_decay else step


def _matrices(params: optax.Params) -> Any:
    """What Muon treats as a matrix: leaves with two axes longer than 1."""
    axes = optax.contrib.MuonDimensionNumbers()
    return jax.tree.map(lambda leaf: axes if leaf.ndim == 2 and min(leaf.shape) > 1 else None, params)
