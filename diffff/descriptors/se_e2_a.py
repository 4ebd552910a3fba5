"""The two-body embedding descriptor ``se_e2_a`` (DeepPot-SE).

For the centre i with neighbours j, ``s`` and ``a`` of `env.environment` are normalised by the statistics of the
centre's type, ``u = (s - davg_0) / dstd_0`` and ``b = a / dstd_1..3``; an embedding net G of the type pair weighs them:

    T_i = (1 / n_sel) sum_j G(u_ij) (u_ij, b_ij)        shape (M, 4)
    D_i = T_i T_i[:axis]^T                              M * axis features

The sum of DeePMD-kit runs over ``n_sel = sum(sel)`` slots; an empty slot of type t has s = 0 and adds
``H(0) = G(u0) u0`` with ``u0 = -davg_0 / dstd_0``. So all empty slots together are a constant, and a neighbour counts
*relative to the empty slot*: ``sum_slots = sel[t] H(0) + sum_j (H(s_j) - H(0))``, at the cost of the real neighbours.

**Spline path** (the default). G depends on one number, so G and H(s) = G(u(s)) u(s) are written in a B-spline basis
phi_k(s). The sum over neighbours then separates from the network:

    A_i[k] = sum_j phi_k(s_ij) (1, a_ij)                moments: no weight, no statistics in them
    T_i    = (1 / n_sel) (sum_k C_H[k] A_i[k, 0] + const,   sum_k C_G[k] A_i[k, 1..3] / dstd)

``C_G`` and ``C_H`` interpolate the net at fixed sites: it is evaluated on some 100 numbers instead of once per pair.
**Direct path**: the net at each pair, the reference for the other.

Source: Zhang et al., arXiv:1805.09003 (descriptor); doi:10.1063/5.0155600 (conventions of DeePMD-kit).
"""

import logging
import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from diffff import nn
from diffff.descriptors.env import Pairs, RadialShape, environment
from diffff.descriptors.moments import sum_over_neighbors
from diffff.descriptors.outer import outer_sum
from diffff.descriptors.radial import SplineBasis
from diffff.errors import InputError
from diffff.pytree import pytree
from diffff.spec import Spec

Params = dict[str, Any]
logger = logging.getLogger(__name__)


def auto_factor(sel: str) -> float:
    """The factor in ``"auto:factor"``, 1.1 for ``"auto"``.

    Raises:
        ValueError: it is neither.
    """
    match = re.fullmatch(r"auto(?::([0-9]*\.?[0-9]+))?", sel)
    factor = float(match[1] or 1.1) if match else 0.0
    if factor < 1.0:
        raise ValueError(f'"{sel}" is no rule for sel; give a list with one number per type, "auto" or "auto:1.2"')
    return factor


def _auto_text(sel: str) -> str:
    auto_factor(sel)
    return sel


AutoSel = Annotated[str, AfterValidator(_auto_text)]


@pytree
class Moments:
    """What the descriptor needs to know of the neighbours of each atom.

    Attributes:
        values: shape ``(n_atoms, 4, n_types * n_basis)``: sums of ``phi_k (1, a_x, a_y, a_z)`` by type of neighbour.
        excluded: shape ``(n_atoms, n_types)``, number of neighbours within the cutoff that ``exclude_types`` silences;
            None without exclusions.
    """

    values: jax.Array
    excluded: jax.Array | None


class SeE2A(Spec):
    """Hyper-parameters of the descriptor and the functions that use them; lengths in Å, as in DeePMD-kit.

    Parameter tree: ``{"davg": (n_types, 4), "dstd": (n_types, 4), "embeddings": {key: layers}}``, where the key is the
    neighbour's type (``type_one_side``) or ``"centre-neighbour"``.
    """

    type: Literal["se_e2_a"] = Field(default="se_e2_a", description="Two-body embedding descriptor, all information.")
    sel: tuple[NonNegativeInt, ...] | AutoSel = Field(
        default="auto", description="Neighbour slots per type, 'auto' or 'auto:factor'."
    )
    rcut: float = Field(default=6.0, gt=0, description="Cutoff, Å.")
    rcut_smth: float = Field(default=0.5, ge=0, description="Where the switch from 1 to 0 begins, Å.")
    neuron: tuple[PositiveInt, ...] = Field(
        default=(10, 20, 40), min_length=1, description="Widths of the embedding net."
    )
    axis_neuron: int = Field(default=4, gt=0, description="Columns of T used on the right of D = T T[:axis]^T.")
    activation_function: nn.ActivationName = Field(default="tanh", description="Activation of the embedding net.")
    resnet_dt: bool = Field(default=False, description="Trainable time step in the residual layers.")
    type_one_side: bool = Field(default=False, description="One net per neighbour type instead of per pair of types.")
    precision: Literal["default", "float32", "float64"] = Field(
        default="default", description="Precision; default: float64."
    )
    trainable: bool = Field(default=True, description="Whether the embedding nets are trained.")
    seed: int | None = Field(default=None, description="Seed of the initial weights.")
    exclude_types: tuple[tuple[int, int], ...] = Field(
        default=(), description="Pairs of types that do not see each other."
    )
    env_protection: float = Field(default=0.0, ge=0, description="Added to the distance in denominators, Å.")
    set_davg_zero: bool = Field(default=False, description="Keep davg at zero instead of the mean over the data.")
    sel_overflow: Literal["truncate", "error"] = Field(
        default="truncate",
        description="More neighbours than sel: keep the nearest as DeePMD-kit does, with a warning, or stop.",
    )
    evaluation: Literal["auto", "spline", "direct"] = Field(
        default="auto",
        description="Embedding net in a spline basis, or at each pair; auto: splines where they follow it.",
    )
    spline_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Largest error of the spline relative to the net; default 1e-8 (float64), 1e-5 (float32).",
    )

    aliases: ClassVar[Mapping[str, str]] = {"n_axis_neuron": "axis_neuron"}
    type_aliases: ClassVar[tuple[str, ...]] = ("se_a",)

    @model_validator(mode="after")
    def _consistent(self) -> "SeE2A":
        if self.rcut_smth >= self.rcut:
            raise ValueError(f"rcut_smth = {self.rcut_smth} must be smaller than rcut = {self.rcut}")
        if self.axis_neuron > self.neuron[-1]:
            raise ValueError(f"axis_neuron = {self.axis_neuron} exceeds the last width of neuron, {self.neuron[-1]}")
        return self

    # ------------------------------------------------------------------ shapes
    @property
    def n_sel(self) -> int:
        """Number of neighbour slots, the constant divisor of T."""
        return sum(self.slots)

    @property
    def slots(self) -> tuple[int, ...]:
        """``sel`` as numbers, which it is once the data have been seen."""
        if isinstance(self.sel, str):
            raise ValueError(f'sel = "{self.sel}" has not been resolved: it needs the data')
        return self.sel

    @property
    def shape(self) -> RadialShape:
        """The radial function s(r)."""
        return RadialShape(self.rcut, self.rcut_smth, self.env_protection)

    @property
    def n_features(self) -> int:
        """Width of D."""
        return self.neuron[-1] * self.axis_neuron

    @property
    def dtype(self) -> Any:
        """Precision of weights and arithmetic."""
        return jnp.float32 if self.precision == "float32" else jnp.float64

    def tolerance(self) -> float:
        """Accepted error of the spline, relative to the largest value of the net."""
        return self.spline_tolerance or (1e-5 if self.precision == "float32" else 1e-8)

    def net_key(self, center: str, neighbor: str) -> str:
        """Key of the embedding net for a pair of type names."""
        return neighbor if self.type_one_side else f"{center}-{neighbor}"

    # ------------------------------------------------------------------ parameters
    def init(self, key: jax.Array, type_map: tuple[str, ...]) -> Params:
        """Random nets; statistics zero and one until `diffff.train.statistics` fills them in."""
        names = sorted({self.net_key(c, n) for c in type_map for n in type_map})
        nets = {
            name: nn.init_net(k, 1, self.neuron, resnet_dt=self.resnet_dt)
            for name, k in zip(names, jax.random.split(key, len(names)), strict=True)
        }
        n_types = len(type_map)
        return {
            "davg": jnp.zeros((n_types, 4), jnp.float64),
            "dstd": jnp.ones((n_types, 4), jnp.float64),
            "embeddings": jax.tree.map(lambda x: x.astype(self.dtype), nets),
        }

    def excluded(self, center_types: jax.Array, neighbor_types: jax.Array, n_types: int) -> jax.Array:
        """Which pairs ``exclude_types`` silences; shape of the inputs, bool."""
        table = np.zeros((n_types, n_types), bool)
        for a, b in self.exclude_types:
            table[a, b] = table[b, a] = True
        return jnp.asarray(table)[center_types, neighbor_types]

    # ------------------------------------------------------------------ spline path
    def moments(
        self, pairs: Pairs, atom_types: np.ndarray, n_types: int, basis: SplineBasis, *, block: int | None = None
    ) -> Moments:
        """Sum the spline functions and the direction vectors over the neighbours of each atom.

        Args:
            pairs: directed pairs, Å.
            atom_types: shape ``(n_atoms,)``, type of each centre; static.
            n_types: number of types of the model.
            basis: spline functions of ``s``, 1/Å.
            block: pairs whose splines are computed at a time; None: all.
        """
        n_atoms = len(atom_types)
        center, dr, excluded = pairs.center, pairs.dr.astype(self.dtype), None
        if self.exclude_types:
            center_types = jnp.asarray(atom_types)[jnp.minimum(center, n_atoms - 1)]
            silent = self.excluded(center_types, pairs.types, n_types)
            counted = (silent & (jnp.sum(pairs.dr**2, axis=-1) <= self.rcut**2)).astype(self.dtype)
            excluded = jnp.zeros((n_atoms, n_types), self.dtype).at[center, pairs.types].add(counted, mode="drop")
            center = jnp.where(silent, n_atoms, center)
            dr = jnp.where(silent[:, None], 2.0 * self.rcut, dr)  # s = 0: nothing of it reaches the derivative
        out_shape = (n_atoms, 4, n_types * basis.n)
        values: Any = sum_over_neighbors(self.shape, basis, out_shape, dr, center, pairs.types, block)
        return Moments(values=values, excluded=excluded)

    def spline_error(self, params: Params, type_map: tuple[str, ...], basis: SplineBasis) -> float:
        """Largest error of the splines of G and H between their sites, relative to the largest value of each."""
        between = basis.evenly(4 * basis.n + 1)
        values = self._nets_at(params, type_map, np.concatenate([basis.sites, between]))
        matrix = basis.design_matrix(between) @ basis.from_sites
        at_sites, exact = values[:, : basis.n], values[:, basis.n :]
        largest = np.maximum(np.abs(exact).max(axis=(1, 2)), np.finfo(float).tiny)
        return float((np.abs(matrix @ at_sites - exact).max(axis=(1, 2)) / largest).max())

    def choose_basis(
        self, params: Params, type_map: tuple[str, ...], upper: float, room: float = 1.0
    ) -> SplineBasis | None:
        """Smallest basis up to ``upper`` (1/Å) whose measured error is below the tolerance; None: the direct path.

        It is below ``tolerance / room`` if any basis is.

        Args:
            params: of the descriptor.
            type_map: names of the types.
            upper: largest s, 1/Å.
            room: of nets that are going to change.

        Raises:
            InputError: splines are asked for, but no basis of up to 1024 functions is good enough.
        """
        if self.evaluation == "direct":
            return None
        found = None
        for n in _SIZES:
            basis = SplineBasis(n, upper, _SCALE / self.rcut)
            error = self.spline_error(params, type_map, basis)
            if error <= self.tolerance() / room:
                return basis
            if found is None and error <= self.tolerance():
                found = basis
        if found is not None:
            return found
        if self.evaluation == "auto":
            logger.info("the embedding net is evaluated at each pair: it is too rough for splines, hence slower")
            return None
        raise InputError(
            f"descriptor: no spline of up to {_SIZES[-1]} functions follows the embedding net to "
            f'{self.tolerance():.0e}. Set "evaluation": "direct" in the descriptor, or a larger "spline_tolerance".'
        )

    def _nets_at(self, params: Params, type_map: tuple[str, ...], s: np.ndarray) -> np.ndarray:
        """G and H side by side for each pair of types at s ``(m,)``: shape ``(n_pairs, m, 2 M)``, float64."""
        padded = np.zeros(-(-len(s) // _CHUNK) * _CHUNK)
        padded[: len(s)] = s
        chunks = [_nets_at(self, params, type_map, chunk) for chunk in padded.reshape(-1, _CHUNK)]
        return np.concatenate(chunks, axis=1)[:, : len(s)]

    def features_from_moments(
        self, params: Params, moments: Moments, center: int, type_map: tuple[str, ...], basis: SplineBasis
    ) -> jax.Array:
        """Features of atoms of one type, shape ``(n, n_features)``, from their moments."""
        coefficients_h, coefficients_g, empty = [], [], []
        for neighbor in type_map:
            net = params["embeddings"][self.net_key(type_map[center], neighbor)]
            u, g = self.net_at(net, params, center, jnp.asarray(basis.sites), double=True)
            h = g * u[:, None]
            empty.append(h[0])
            coefficients_h.append(basis.coefficients(h - h[0]))
            coefficients_g.append(basis.coefficients(g))
        radial = nn.product(moments.values[:, 0], jnp.concatenate(coefficients_h).astype(self.dtype))
        angular = nn.product(moments.values[:, 1:], jnp.concatenate(coefficients_g).astype(self.dtype))
        return self._features(params, center, radial, angular, jnp.stack(empty).astype(self.dtype), moments.excluded)

    def net_at(
        self, net: list, params: Params, center: int, s: jax.Array, *, double: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Normalised argument u ``(m,)`` and net G ``(m, M)`` at s ``(m,)``; in float64 if ``double``."""
        u = (s - params["davg"][center, 0]) / params["dstd"][center, 0]
        if double:
            net = jax.tree.map(lambda w: w.astype(u.dtype), net)
        else:
            u = u.astype(self.dtype)
        return u, nn.apply_net(net, u[:, None], nn.activation(self.activation_function))

    def _features(
        self,
        params: Params,
        center: int,
        radial: jax.Array,
        angular: jax.Array,
        empty: jax.Array,
        excluded: jax.Array | None,
    ) -> jax.Array:
        """D from the sums over real neighbours relative to the empty slot, ``(n, M)`` and ``(n, 3, M)``."""
        radial = radial + nn.product(jnp.asarray(self.slots, self.dtype), empty)
        if excluded is not None:
            radial = radial - nn.product(excluded, empty)
        angular = angular / params["dstd"][center, 1:, None].astype(self.dtype)
        t = jnp.concatenate([radial[:, None], angular], axis=1) / self.n_sel
        features = outer_sum(t, t[..., : self.axis_neuron])
        return features.reshape(len(t), self.n_features)

    # ------------------------------------------------------------------ direct path
    def features_direct(
        self, params: Params, pairs: Pairs, atoms: slice, center: int, n_atoms: int, type_map: tuple[str, ...]
    ) -> jax.Array:
        """Features ``(n, n_features)`` of the atoms of one type, by the embedding net at each pair: the reference."""
        s, a = environment(pairs.dr.astype(self.dtype), self.shape)
        mine = (pairs.center >= atoms.start) & (pairs.center < atoms.stop)
        width, empty = self.neuron[-1], []
        radial = jnp.zeros((n_atoms, width), self.dtype)
        angular = jnp.zeros((n_atoms, 3, width), self.dtype)
        for t, neighbor in enumerate(type_map):
            net = params["embeddings"][self.net_key(type_map[center], neighbor)]
            u, g = self.net_at(net, params, center, jnp.concatenate([jnp.zeros(1, s.dtype), s]))
            h = g * u[:, None]
            empty.append(h[0])
            taken = mine & (pairs.types == t)
            silent = (center, t) in self.exclude_types or (t, center) in self.exclude_types
            inside = jnp.sum(pairs.dr**2, axis=-1) <= self.rcut**2
            h_pair = jnp.where(inside[:, None], -h[0], 0.0) if silent else h[1:] - h[0]
            ga_pair = (0.0 if silent else 1.0) * a[:, :, None] * g[1:, None, :]
            rows = jnp.where(taken, pairs.center, n_atoms)
            radial = radial.at[rows].add(h_pair, mode="drop")
            angular = angular.at[rows].add(ga_pair, mode="drop")
        return self._features(params, center, radial[atoms], angular[atoms], jnp.stack(empty), None)


_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of a basis
_SCALE = 0.6  # over the cutoff: where trained nets of water are followed with fewest functions
_CHUNK = 512  # one compiled program serves all numbers of points


@partial(jax.jit, static_argnums=(0, 2))
def _nets_at(spec: SeE2A, params: Params, type_map: tuple[str, ...], s: jax.Array) -> jax.Array:
    """See `SeE2A._nets_at`."""
    values = []
    for center, name in enumerate(type_map):
        for neighbor in type_map:
            net = params["embeddings"][spec.net_key(name, neighbor)]
            u, g = spec.net_at(net, params, center, s, double=True)
            values.append(jnp.concatenate([g, g * u[:, None]], axis=1))
    return jnp.stack(values)
