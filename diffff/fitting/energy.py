"""The fitting net: energy of an atom from its features."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt, model_validator

from diffff import nn
from diffff.spec import Spec

Params = dict[str, Any]


class EnergyFitting(Spec):
    """One net per type of atom, ``E_i = Net_t([D_i, fparam, aparam])``, unit-free.

    With ``atom_ener`` given for a type, its net is taken relative to an atom without neighbours:
    ``Net_t([D_i, ...]) - Net_t([0, ...])``.

    Parameter tree: ``{"nets": {type: layers}}``, and where these are used ``fparam_avg``, ``fparam_inv_std`` of shape
    ``(numb_fparam,)``, ``aparam_avg``, ``aparam_inv_std`` of shape ``(numb_aparam,)``.
    """

    type: Literal["ener"] = Field(default="ener", description="Energy, with forces and virial by differentiation.")
    neuron: tuple[PositiveInt, ...] = Field(default=(120, 120, 120), description="Widths of the hidden layers.")
    activation_function: nn.ActivationName = Field(default="tanh", description="Activation of the hidden layers.")
    resnet_dt: bool = Field(default=True, description="Trainable time step in the residual layers.")
    precision: Literal["default", "float32", "float64"] = Field(
        default="default", description="Precision; default: float64."
    )
    numb_fparam: int = Field(default=0, ge=0, description="Frame parameters, e.g. an electron temperature.")
    numb_aparam: int = Field(default=0, ge=0, description="Atomic parameters.")
    default_fparam: tuple[float, ...] | None = Field(
        default=None, description="Frame parameters of frames that give none."
    )
    trainable: bool | tuple[bool, ...] = Field(
        default=True, description="Whether the nets are trained, or each layer of them."
    )
    seed: int | None = Field(default=None, description="Seed of the initial weights.")
    rcond: float | None = Field(default=None, description="Relative cutoff of the least squares for the energy bias.")
    atom_ener: tuple[float | None, ...] = Field(
        default=(), description="Energy of an isolated atom per type, eV; null: fitted."
    )

    aliases: ClassVar[Mapping[str, str]] = {"n_neuron": "neuron"}
    refused_unless: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "dim_case_embd": (0, "case embeddings belong to multi-task models, which diffff does not have; remove the key"),
        "use_aparam_as_mask": (False, "a mask through aparam belongs to se_a_mask; remove the key"),
        "layer_name": (None, "shared layers belong to multi-task models, which diffff does not have; remove the key"),
    }

    @model_validator(mode="after")
    def _consistent(self) -> "EnergyFitting":
        if not isinstance(self.trainable, bool) and len(self.trainable) != len(self.neuron) + 1:
            raise ValueError(
                f"trainable has {len(self.trainable)} entries; give one per layer, {len(self.neuron) + 1}, or one bool"
            )
        if self.default_fparam is not None and len(self.default_fparam) != self.numb_fparam:
            raise ValueError(
                f"default_fparam has {len(self.default_fparam)} numbers, numb_fparam is {self.numb_fparam}"
            )
        return self

    @property
    def dtype(self) -> Any:
        """Precision of weights and arithmetic."""
        return jnp.float32 if self.precision == "float32" else jnp.float64

    def init(self, key: jax.Array, n_features: int, type_map: tuple[str, ...]) -> Params:
        """Random nets; frame and atomic parameters unscaled until `diffff.train.statistics` sees the data."""
        n_in = n_features + self.numb_fparam + self.numb_aparam
        nets = {}
        for name, k in zip(type_map, jax.random.split(key, len(type_map)), strict=True):
            hidden, last = jax.random.split(k)
            width = self.neuron[-1] if self.neuron else n_in
            layers = nn.init_net(hidden, n_in, self.neuron, resnet_dt=self.resnet_dt)
            nets[name] = [*layers, nn.init_layer(last, width, 1, idt=False)]
        params: Params = {"nets": jax.tree.map(lambda x: x.astype(self.dtype), nets)}
        for name, n in (("fparam", self.numb_fparam), ("aparam", self.numb_aparam)):
            if n:
                params |= {f"{name}_avg": jnp.zeros(n, jnp.float64), f"{name}_inv_std": jnp.ones(n, jnp.float64)}
        return params

    def apply(
        self,
        params: Params,
        features: jax.Array,
        center: int,
        type_map: tuple[str, ...],
        fparam: jax.Array | None = None,
        aparam: jax.Array | None = None,
        factors: nn.Factors = "float32",
    ) -> jax.Array:
        """Energies of atoms of one type, without the energy bias.

        Args:
            params: parameter tree.
            features: shape ``(n, n_features)``.
            center: type of the atoms.
            type_map: names of the types.
            fparam: shape ``(numb_fparam,)``, or ``(n, numb_fparam)`` for atoms of several frames, needed when
                ``numb_fparam > 0``.
            aparam: shape ``(n, numb_aparam)``, needed when ``numb_aparam > 0``.
            factors: of the products in the hidden layers, see `nn.product`.

        Returns:
            Shape ``(n,)``, in the precision of the net.
        """
        n = len(features)
        extra = []
        if self.numb_fparam:
            scaled = (fparam - params["fparam_avg"]) * params["fparam_inv_std"]
            extra.append(jnp.broadcast_to(scaled, (n, self.numb_fparam)).astype(self.dtype))
        if self.numb_aparam:
            extra.append(((aparam - params["aparam_avg"]) * params["aparam_inv_std"]).astype(self.dtype))
        net = params["nets"][type_map[center]]
        features = features.astype(self.dtype)
        energy = self._net(net, jnp.concatenate([features, *extra], axis=-1) if extra else features, factors)
        if self.relative_to_vacuum(center):
            energy -= self._net(net, jnp.concatenate([jnp.zeros_like(features), *extra], axis=-1), factors)
        return energy

    def relative_to_vacuum(self, center: int) -> bool:
        """Whether the energy of an isolated atom of this type is fixed by ``atom_ener``."""
        return any(e is not None for e in self.atom_ener) and (
            center >= len(self.atom_ener) or self.atom_ener[center] is not None
        )

    def _net(self, net: list, x: jax.Array, factors: nn.Factors) -> jax.Array:
        x = nn.apply_net(net[:-1], x, nn.activation(self.activation_function), factors)
        return (nn.product(x, net[-1]["w"]) + net[-1]["b"])[:, 0]
