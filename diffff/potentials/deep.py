"""The Deep Potential: descriptor and fitting net as one energy term.

    E = sum_i [ Net_{t_i}(D_i) + bias_{t_i} ],    F = -dE/dx,    virial = sum_i F_i (x) x_i

Inside, lengths are Å and energies eV, as in DeePMD-kit and its files; `DeepPot.energy` converts to nm and kJ/mol.
Atoms are kept in blocks of one type (the *layout*), so that each fitting net runs on its own atoms only.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

from diffff import nn, units
from diffff.blocks import each_in_blocks
from diffff.descriptors.env import Pairs
from diffff.descriptors.radial import SplineBasis
from diffff.descriptors.se_e2_a import Moments, SeE2A
from diffff.errors import InputError
from diffff.fitting.energy import EnergyFitting
from diffff.neighbors import Neighbors
from diffff.pytree import pytree, static
from diffff.space import times
from diffff.spec import Spec, Variants

Params = dict[str, Any]
Layout = tuple[int, ...]

_WHOLE = 65536  # atoms of a system that is computed at once, which is faster; it takes 2 to 4 GB
BLOCK = 8192  # atoms of one type whose nets are computed at a time in larger ones
_PAIRS = 32  # pairs for each of them, of which the neighbour sums take so many at a time

_LATER = 'is not in diffff yet; use "se_e2_a", or train this model with DeePMD-kit'
_DESCRIPTORS = (
    *("se_e2_r", "se_r", "se_e3", "se_at", "se_a_3be", "se_t", "se_a_tpe", "se_a_tpe_v2", "se_a_ebd", "se_a_ebd_v2"),
    *("loc_frame", "se_a_mask", "hybrid", "se_atten", "dpa1", "se_atten_v2", "se_e3_tebd"),
    *("dpa2", "dpa3", "dpa4", "DPA4", "SeZM", "sezm", "dpa4c", "DPA4C"),
)
_FITTINGS = ("dos", "dipole", "polar", "property", "population", "dpa4_ener", "sezm_ener")


class PresetBias(Spec):
    """Energy biases that the fit to the data must not change."""

    energy: tuple[float | None, ...] = Field(description="eV per type; null: fitted to the data.")


class DeepModel(Spec):
    """The ``model`` section of input.json for ``"type": "standard"``, and the energy it defines.

    Parameter tree: ``{"descriptor": ..., "fitting": ..., "bias": (n_types,)}``, bias in eV.
    """

    type: Literal["standard"] = Field("standard", description="A descriptor and a fitting net.")
    type_map: tuple[str, ...] = Field(
        default=(), description="Names of the types, in order; by default those of the data."
    )
    descriptor: Annotated[SeE2A, Variants(refused={n: f'descriptor "{n}" {_LATER}' for n in _DESCRIPTORS})] = Field(
        description="Turns the surroundings of an atom into features."
    )
    fitting_net: Annotated[
        EnergyFitting,
        Variants(default="ener", refused={n: f'fitting net "{n}" is not in diffff yet; use "ener"' for n in _FITTINGS}),
    ] = Field(EnergyFitting(), description="Turns the features into an energy.")
    data_stat_nbatch: int = Field(10, gt=0, description="Batches per system for the statistics.")
    data_stat_protect: float = Field(1e-2, gt=0, description="Smallest standard deviation of fparam and aparam.")
    data_bias_nsample: int = Field(10, gt=0, description="Batches per system for a change of the energy bias.")
    pair_exclude_types: tuple[tuple[int, int], ...] = Field((), description="Pairs of types that are no neighbours.")
    atom_exclude_types: tuple[int, ...] = Field((), description="Types that contribute no energy.")
    preset_out_bias: PresetBias | None = Field(None, description="Energy biases that are not fitted.")

    refused: ClassVar[Mapping[str, str]] = {
        "model_dict": "multi-task training is not in diffff; give one model",
        "shared_dict": "multi-task training is not in diffff; write the shared section out in the model",
    }
    refused_unless: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "type_embedding": (None, "a type embedding is not used by se_e2_a in diffff; remove the section"),
        "use_srtab": (None, "a short-range pair table is not in diffff yet; remove the key"),
        "modifier": (None, "the dipole-charge modifier (DPLR) is not in diffff yet; remove the section"),
        "spin": (None, "spin models are not in diffff; remove the section"),
        "compress": (None, "diffff needs no compression: the spline path is as fast; remove the section"),
        "finetune_head": (None, "multi-task heads are not in diffff; remove the key"),
        "model_branch_alias": ([], "multi-task heads are not in diffff; remove the key"),
        "info": ({}, "metadata are not kept with the model in diffff; remove the key"),
        "bridging_method": ("None", "short-range bridging is not in diffff; remove the key"),
        "srtab_add_bias": (True, "a short-range pair table is not in diffff yet; remove the key"),
        "smin_alpha": (None, "a short-range pair table is not in diffff yet; remove the key"),
        "sw_rmin": (None, "a short-range pair table is not in diffff yet; remove the key"),
        "sw_rmax": (None, "a short-range pair table is not in diffff yet; remove the key"),
    }

    moot: ClassVar[frozenset[str]] = frozenset({"bridging_r_inner", "bridging_r_outer"})

    @model_validator(mode="after")
    def _consistent(self) -> "DeepModel":
        n = len(self.type_map)
        if len(set(self.type_map)) < n:
            raise ValueError("type_map names a type twice")
        sel = self.descriptor.sel
        if n and not isinstance(sel, str) and len(sel) != n:
            raise ValueError(f"descriptor.sel has {len(sel)} entries, type_map {n} types; give one number per type")
        numbers = [t for pair in (*self.pair_exclude_types, *self.descriptor.exclude_types) for t in pair]
        wrong = [t for t in (*numbers, *self.atom_exclude_types) if t < 0 or (n and t >= n)]
        if wrong:
            raise ValueError(f"excluded type {wrong[0]} does not exist; types are 0 to {n - 1}")
        return self

    def in_single_precision(self) -> "DeepModel":
        """The same model, whose nets compute in float32."""
        single = {"precision": "float32"}
        return self.model_copy(
            update={
                "descriptor": self.descriptor.model_copy(update=single),
                "fitting_net": self.fitting_net.model_copy(update=single),
            }
        )

    # ------------------------------------------------------------------ parameters
    def init(self, seed: int = 0) -> Params:
        """Random networks from the seeds of the sections, or from ``seed`` where these have none."""
        descriptor_seed = seed if self.descriptor.seed is None else self.descriptor.seed
        fitting_seed = seed if self.fitting_net.seed is None else self.fitting_net.seed
        key_d = jax.random.fold_in(jax.random.key(descriptor_seed), 0)
        key_f = jax.random.fold_in(jax.random.key(fitting_seed), 1)
        return {
            "descriptor": self.descriptor.init(key_d, self.type_map),
            "fitting": self.fitting_net.init(key_f, self.descriptor.n_features, self.type_map),
            "bias": jnp.zeros(len(self.type_map), jnp.float64),
        }

    # ------------------------------------------------------------------ neighbours
    def pairs(self, center: jax.Array, neighbor: jax.Array, dr: jax.Array, atom_types: jax.Array | np.ndarray) -> Pairs:
        """Directed pairs as the descriptor wants them; pairs of ``pair_exclude_types`` are taken out.

        Args:
            center: shape ``(n_pairs,)``; unused entries hold ``n_atoms``.
            neighbor: shape ``(n_pairs,)``.
            dr: shape ``(n_pairs, 3)``, Å.
            atom_types: shape ``(n_atoms,)``.
        """
        n_atoms, n_types = len(atom_types), len(self.type_map)
        types = jnp.asarray(atom_types, jnp.int32)
        neighbor_types = types[jnp.minimum(neighbor, n_atoms - 1)]
        if self.pair_exclude_types:
            table = np.zeros((n_types, n_types), bool)
            for a, b in self.pair_exclude_types:
                table[a, b] = table[b, a] = True
            gone = jnp.asarray(table)[types[jnp.minimum(center, n_atoms - 1)], neighbor_types]
            center = jnp.where(gone, n_atoms, center)
        far = jnp.asarray([2.0 * self.descriptor.rcut, 0.0, 0.0], dr.dtype)
        return Pairs(center=center, types=neighbor_types, dr=jnp.where((center < n_atoms)[:, None], dr, far))

    # ------------------------------------------------------------------ energy
    def atomic_energies(
        self,
        params: Params,
        pairs: Pairs,
        layout: Layout,
        basis: SplineBasis | None,
        *,
        fparam: jax.Array | None = None,
        aparam: jax.Array | None = None,
        factors: nn.Factors = "float32",
        block: int | None = None,
    ) -> jax.Array:
        """Energy of each atom, eV, shape ``(n_atoms,)``, float64.

        Args:
            params: parameter tree.
            pairs: directed pairs, Å; indices of atoms in blocks of one type.
            layout: number of atoms of each type; static.
            basis: spline functions, or None for the direct path.
            fparam: shape ``(n_atoms, numb_fparam)``, the frame parameters of each atom's frame.
            aparam: shape ``(n_atoms, numb_aparam)``.
            factors: of the products in the fitting nets, see `nn.product`.
            block: atoms whose nets are computed at a time, with so many times `_PAIRS` pairs; None: all of them. It
                bounds the memory on the path of the splines.
        """
        n_types, atom_types = len(layout), np.repeat(np.arange(len(layout)), layout)
        moments = None if basis is None else self.descriptor.moments(
            pairs, atom_types, n_types, basis, block=None if block is None else _PAIRS * block
        )  # fmt: skip
        bounds = np.concatenate([[0], np.cumsum(layout)])
        energies = []
        for t in range(n_types):
            mine = slice(int(bounds[t]), int(bounds[t + 1]))
            if layout[t] == 0:
                continue
            if t in self.atom_exclude_types:
                energies.append(jnp.zeros(layout[t], params["bias"].dtype))
                continue
            extra = (None if fparam is None else fparam[mine], None if aparam is None else aparam[mine])
            if basis is None or moments is None:
                features = self.descriptor.features_direct(
                    params["descriptor"], pairs, mine, t, len(atom_types), self.type_map
                )
                energy = self.fitting_net.apply(params["fitting"], features, t, self.type_map, *extra, factors)
            else:
                rows = (jax.tree.map(lambda x, mine=mine: x[mine], moments), *extra)
                net, whole = partial(self._net, t, basis, factors), block is None or layout[t] <= block
                energy: Any = net(params, rows) if whole else each_in_blocks(net, block, params, rows)
            energies.append(energy.astype(params["bias"].dtype) + params["bias"][t])
        return jnp.concatenate(energies)

    def _net(
        self,
        t: int,
        basis: SplineBasis,
        factors: nn.Factors,
        params: Params,
        rows: tuple[Moments, jax.Array | None, jax.Array | None],
    ) -> jax.Array:
        """Energies of atoms of type t from their moments and their parameters of frame and atom, without the bias."""
        moments, fparam, aparam = rows
        features = self.descriptor.features_from_moments(params["descriptor"], moments, t, self.type_map, basis)
        return self.fitting_net.apply(params["fitting"], features, t, self.type_map, fparam, aparam, factors)

    def predict(
        self,
        params: Params,
        center: jax.Array,
        neighbor: jax.Array,
        dr: jax.Array,
        layout: Layout,
        basis: SplineBasis | None,
        *,
        real: jax.Array | None = None,
        fparam: jax.Array | None = None,
        aparam: jax.Array | None = None,
        atomic_virial: bool = False,
        factors: nn.Factors = "float32",
        block: int | None = None,
    ) -> dict[str, jax.Array]:
        """Energies of frames and their derivatives.

        The frames are evaluated as one system of ``n_frames`` groups of atoms that do not see each other. With
        ``g = dE/d(dr)`` of each directed pair, ``F_center += g``, ``F_neighbor -= g``, ``virial = -sum g (x) dr``.

        Args:
            params: parameter tree.
            center: shape ``(n_frames, n_pairs)``, atoms in blocks by type; unused entries hold ``n_atoms``.
            neighbor: shape ``(n_frames, n_pairs)``.
            dr: shape ``(n_frames, n_pairs, 3)``, Å.
            layout: number of atoms of each type in a frame; static.
            basis: spline functions, or None for the direct path.
            real: shape ``(n_frames, n_atoms)``, False for slots without an atom; None: all are atoms.
            fparam: shape ``(n_frames, numb_fparam)``.
            aparam: shape ``(n_frames, n_atoms, numb_aparam)``.
            atomic_virial: whether to return it.
            factors: of the products in the fitting nets, see `nn.product`.
            block: see `atomic_energies`; static.

        Returns:
            ``energy (n_frames,)``, ``atom_ener (n_frames, n_atoms)``, ``force (n_frames, n_atoms, 3)``, ``virial
            (n_frames, 3, 3)``, ``atom_virial (n_frames, n_atoms, 3, 3)``; eV, eV/Å. The virial of a pair is counted
            with its neighbour, as in DeePMD-kit.
        """
        n_frames, n_atoms = len(center), sum(layout)
        place = _places(n_frames, layout)
        center, neighbor = (
            jnp.take_along_axis(jnp.asarray(place, jnp.int32), index, axis=1).reshape(-1)
            for index in (center, neighbor)
        )
        place = place[:, :n_atoms]
        frame, slot = np.unravel_index(np.argsort(place, axis=None), place.shape)
        fparam = None if fparam is None else fparam[frame]
        aparam = None if aparam is None else aparam[frame, slot]
        joined = tuple(n_frames * n for n in layout)
        atom_types = np.repeat(np.arange(len(layout)), joined)

        def total(dr: jax.Array) -> tuple[jax.Array, jax.Array]:
            pairs = self.pairs(center, neighbor, dr, atom_types)
            e = self.atomic_energies(
                params, pairs, joined, basis, fparam=fparam, aparam=aparam, factors=factors, block=block
            )[place]
            e = e if real is None else jnp.where(real, e, 0.0)
            return jnp.sum(e), e

        (_, atom_ener), g = jax.value_and_grad(total, has_aux=True)(dr.reshape(-1, 3))
        force = jnp.zeros((n_frames * n_atoms, 3), g.dtype).at[center].add(g, mode="drop")
        force = force.at[neighbor].add(-g, mode="drop")[place]
        per_pair = g.reshape(dr.shape)
        out = {
            "energy": jnp.sum(atom_ener, axis=1),
            "atom_ener": atom_ener,
            "force": force,
            "virial": -jnp.einsum("fpa,fpb->fab", per_pair, dr, precision="float32"),
        }
        if atomic_virial:
            of_pair = -(per_pair[..., :, None] * dr[..., None, :]).reshape(-1, 3, 3)
            zero = jnp.zeros((n_frames * n_atoms, 3, 3), g.dtype)
            out["atom_virial"] = zero.at[neighbor].add(of_pair, mode="drop")[place]
        return out


def _places(n_frames: int, layout: Layout) -> np.ndarray:
    """Where the atoms of frames are when all frames make one system in blocks by type.

    Returns:
        Shape ``(n_frames, n_atoms + 1)``; the last column, of unused entries, holds ``n_frames * n_atoms``.

    Example:
        >>> _places(2, (1, 2))
        array([[0, 2, 3, 6],
               [1, 4, 5, 6]])
    """
    ends = np.cumsum((0, *(n_frames * n for n in layout)))
    blocks = [end + np.arange(n_frames * n).reshape(n_frames, n) for end, n in zip(ends, layout, strict=False)]
    return np.concatenate([*blocks, np.full((n_frames, 1), ends[-1])], axis=1)


@pytree
class DeepPot:
    """A Deep Potential bound to the atoms of one system.

    Attributes:
        order: shape ``(n_atoms,)``, atoms sorted by type.
        slot: shape ``(n_atoms,)``, the inverse: place of each atom in that order.
        fparam: shape ``(numb_fparam,)``, frame parameters, which stay the same; None: the model has none.
        aparam: shape ``(n_atoms, numb_aparam)``, of the atoms as the potential has them; None: the model has none.
        model: hyper-parameters.
        layout: number of atoms of each type.
        basis: spline functions; None for the direct path.
        block: atoms whose nets are computed at a time; None: all.
        name: key of its parameters.
    """

    order: jax.Array
    slot: jax.Array
    fparam: jax.Array | None = None
    aparam: jax.Array | None = None
    model: DeepModel = static()
    layout: Layout = static()
    basis: SplineBasis | None = static()
    block: int | None = static(default=None)
    name: str = static(default="DeepPot")

    @property
    def cutoff(self) -> float:
        """Cutoff, nm."""
        return self.model.descriptor.rcut * units.NM_PER_ANGSTROM

    def energy(self, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; see `potentials.base.Term`."""
        return jnp.sum(self.atomic_energies(params, positions, box, neighbors))

    def atomic_energies(
        self, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
    ) -> jax.Array:
        """Energy of each atom, kJ/mol, shape ``(n_atoms,)``."""
        if missing := {"descriptor", "fitting", "bias"} - set(params):
            raise InputError(f"the parameters have no {self.name}/{min(missing)}, but [{', '.join(sorted(params))}].")
        n_atoms = len(positions)
        i, j, shift = neighbors.directed()
        dr = positions[jnp.minimum(j, n_atoms - 1)] - positions[jnp.minimum(i, n_atoms - 1)]
        if box is not None:
            dr = dr + times(shift.astype(positions.dtype), box)
        i = jnp.where(jnp.sum(dr**2, axis=1) < self.cutoff**2, i, n_atoms)  # so that no bit depends on a list's skin
        slot = jnp.append(self.slot, n_atoms)
        atom_types = np.repeat(np.arange(len(self.layout)), self.layout)
        pairs = self.model.pairs(slot[i], slot[j], dr * units.ANGSTROM_PER_NM, atom_types)
        energies = self.model.atomic_energies(
            params,
            pairs,
            self.layout,
            self.basis,
            fparam=None if self.fparam is None else jnp.broadcast_to(self.fparam, (n_atoms, len(self.fparam))),
            aparam=None if self.aparam is None else self.aparam[self.order],
            block=self.block,
        )
        return energies[self.slot] * units.KJ_PER_MOL_PER_EV

    def most_neighbors(self, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """The largest number of neighbours of each type that any atom has within the cutoff, shape ``(n_types,)``."""
        n_atoms, n_types = len(positions), len(self.layout)
        i, j, shift = neighbors.directed()
        dr = positions[jnp.minimum(j, n_atoms - 1)] - positions[jnp.minimum(i, n_atoms - 1)]
        dr = dr if box is None else dr + times(shift.astype(positions.dtype), box)
        near = (i < n_atoms) & (jnp.sum(dr**2, axis=1) < self.cutoff**2)
        types = jnp.asarray(np.repeat(np.arange(n_types), self.layout))[self.slot[jnp.minimum(j, n_atoms - 1)]]
        counts = jnp.zeros((n_atoms + 1, n_types), jnp.int32).at[i, types].add(near)
        return jnp.max(counts[:n_atoms], axis=0, initial=0)


def block_for(n_atoms: int) -> int | None:
    """How many atoms of a type are computed at a time where no more is wanted than forces; None: all."""
    return None if n_atoms <= _WHOLE else BLOCK


def bind(
    model: DeepModel,
    types: np.ndarray,
    basis: SplineBasis | None,
    fparam: np.ndarray | None = None,
    aparam: np.ndarray | None = None,
) -> DeepPot:
    """The term for atoms of the given types, shape ``(n_atoms,)``; parameters of frame and atoms as in `DeepPot`."""
    order = np.argsort(types, kind="stable")
    layout = tuple(int(n) for n in np.bincount(types, minlength=len(model.type_map)))
    return DeepPot(
        order=jnp.asarray(order),
        slot=jnp.asarray(np.argsort(order)),
        fparam=None if fparam is None else jnp.asarray(fparam),
        aparam=None if aparam is None else jnp.asarray(aparam),
        model=model,
        layout=layout,
        basis=basis,
        block=block_for(len(types)),
    )
