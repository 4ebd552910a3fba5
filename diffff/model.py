"""A model with its parameters: what `load` returns, what training produces, what every engine runs.

>>> import diffff  # doctest: +SKIP
>>> water = diffff.load("model.dp")  # doctest: +SKIP
>>> energy, force, virial = water.eval(coords, box, types)  # doctest: +SKIP
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff.descriptors.radial import SplineBasis
from diffff.errors import InputError
from diffff.neighbors import capacity_for
from diffff.potentials.base import Potential
from diffff.potentials.deep import DeepModel, Layout, bind, block_for
from diffff.potentials.pairs import FramePairs, pairs_within, truncate

Params = dict[str, Any]
logger = logging.getLogger(__name__)

predict = jax.jit(DeepModel.predict, static_argnames=("self", "layout", "basis", "atomic_virial", "block"))


def spline_range(model: DeepModel, shortest: float) -> float:
    """Upper end of splines for pairs down to ``shortest`` Å, 1/Å; from a ladder, so that programs are shared."""
    s = float(model.descriptor.shape.switch(jnp.asarray(shortest))) / (shortest + model.descriptor.env_protection)
    return float(1.1 ** np.ceil(np.log(max(s, 0.05)) / np.log(1.1) + 0.2))


@dataclass(frozen=True)
class Model:
    """Hyper-parameters and parameters together.

    Attributes:
        spec: hyper-parameters.
        params: parameter tree, ``{"DeepPot": ...}``.
    """

    spec: DeepModel
    params: Params
    _bases: dict[float, SplineBasis | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        double = {"default", "float64"} & {self.spec.descriptor.precision, self.spec.fitting_net.precision}
        if double and not jax.config.read("jax_enable_x64"):
            raise InputError(
                "this model computes in float64, but JAX is in 32-bit mode. "
                'Call jax.config.update("jax_enable_x64", True) at the start of the program.'
            )

    @property
    def type_map(self) -> tuple[str, ...]:
        """Names of the types, in order."""
        return self.spec.type_map

    @property
    def rcut(self) -> float:
        """Cutoff, Å."""
        return self.spec.descriptor.rcut

    def basis(self, shortest: float) -> SplineBasis | None:
        """Splines that follow the embedding nets, for pairs down to ``shortest`` Å; None: the direct path."""
        upper = spline_range(self.spec, shortest)
        if upper not in self._bases:
            params = self.params["DeepPot"]["descriptor"]
            self._bases[upper] = self.spec.descriptor.choose_basis(params, self.type_map, upper)
        return self._bases[upper]

    def potential(
        self,
        types: np.ndarray,
        shortest: float = 0.5,
        *,
        fparam: np.ndarray | Sequence[float] | None = None,
        aparam: np.ndarray | None = None,
        name: str = "DeepPot",
    ) -> Potential:
        """The potential for atoms of these types, in nm and kJ/mol.

        Args:
            types: shape ``(n_atoms,)``, indices into the type map.
            shortest: closest approach of two atoms that the splines must cover, Å; below it the energy is NaN.
            fparam: shape ``(numb_fparam,)``, the same in all that follows; None: those of the model, if it has them.
            aparam: shape ``(n_atoms, numb_aparam)``, likewise.
            name: under which its parameters, ``model.params["DeepPot"]``, stand in the tree; in a sum of two models
                one needs another.

        Raises:
            InputError: a type that the model lacks, no atoms, or frame or atomic parameters that are missing, of
                another shape, or not the model's.
        """
        types = np.asarray(types)
        if not types.size:
            raise InputError("there are no atoms: types is empty.")
        if types.ndim != 1 or not np.issubdtype(types.dtype, np.integer):
            raise InputError(f"types: {types.dtype} of shape {types.shape}; give an index into the type map per atom.")
        if len(wrong := np.flatnonzero((types < 0) | (types >= len(self.type_map)))):
            raise InputError(
                f"types: atom {wrong[0]} (from 0) has the type {types[wrong[0]]}, which is none of this model; its "
                f"type map is {list(self.type_map)}, numbered from 0."
            )
        if not 0.0 < shortest < np.inf:
            raise InputError(f"shortest is {shortest} Å; give a positive number.")
        extra = self._extra(fparam, aparam, len(types))
        for key, values in extra.items():
            if values is not None and len(values) > 1:
                raise InputError(f"{key}: {values.size} numbers are given, but the potential takes {values[0].size}.")
        one = {key: None if values is None else values[0] for key, values in extra.items()}
        term = replace(bind(self.spec, types, self.basis(shortest), **one), name=name)
        return Potential(terms=(term,), n_atoms=len(types))

    def eval(
        self,
        coords: np.ndarray,
        box: np.ndarray | None,
        types: np.ndarray,
        *,
        fparam: np.ndarray | None = None,
        aparam: np.ndarray | None = None,
        atomic: bool = False,
    ) -> tuple[np.ndarray, ...]:
        """Energy, forces and virial of frames, called as DeePMD-kit's ``DeepPot.eval``.

        Args:
            coords: shape ``(n_frames, n_atoms, 3)`` or flattened, Å.
            box: shape ``(n_frames, 3, 3)`` or flattened, Å; None without periodicity.
            types: shape ``(n_atoms,)``, or ``(n_frames, n_atoms)`` when frames differ; -1 for a virtual atom.
            fparam: shape ``(n_frames, numb_fparam)``, or ``(numb_fparam,)`` for all frames.
            aparam: shape ``(n_frames, n_atoms, numb_aparam)``, or without the first axis for all frames.
            atomic: whether to return atomic energies and virials too.

        Returns:
            ``energy (n_frames, 1)`` eV, ``force (n_frames, n_atoms, 3)`` eV/Å, ``virial (n_frames, 9)`` eV and, if
            ``atomic``, ``atom_energy (n_frames, n_atoms, 1)``, ``atom_virial (n_frames, n_atoms, 9)``, eV.

        Raises:
            InputError: shapes that do not fit, or missing frame or atomic parameters.
        """
        frames = self._frames(coords, box, types, fparam, aparam)
        if any(frame.pairs.truncated for frame in frames):
            _warn_of_truncation(self.spec.descriptor.slots)
        shortest = min(np.linalg.norm(frame.pairs.dr, axis=1).min(initial=self.rcut) for frame in frames)
        if shortest == 0.0:
            raise InputError("coords: two atoms are at the same place.")
        basis = self.basis(float(shortest))
        capacity = capacity_for(max(len(frame.pairs.center) for frame in frames))
        results = [self._eval_frame(frame, capacity, basis, atomic) for frame in frames]
        return tuple(np.stack(column) for column in zip(*results, strict=True))

    def _frames(self, coords: Any, box: Any, types: Any, fparam: Any, aparam: Any) -> "list[_Frame]":
        types = np.asarray(types, int)
        n_atoms = types.shape[-1] if types.ndim else 0
        coords = _shaped(coords, "coords", (n_atoms, 3))
        n_frames = len(coords)
        if not np.any(types >= 0) or types.min() < -1:
            raise InputError(
                "types: give an index into the type map for each atom, or -1 for a virtual one; not all -1."
            )
        if types.max(initial=-1) >= len(self.type_map):
            raise InputError(f"types: {types.max()} is no type of this model; its type map is {list(self.type_map)}.")
        boxes = None if box is None else _spread(box, "box", (3, 3), n_frames)
        if boxes is not None and not np.all(np.linalg.det(boxes)):
            raise InputError("box: a box has no volume; give None for a system that is not periodic.")
        extra = {
            name: [None] * n_frames if values is None else _for_frames(values, name, n_frames)
            for name, values in self._extra(fparam, aparam, n_atoms).items()
        }
        types = np.broadcast_to(types, (n_frames, n_atoms))
        counts = (types[:, :, None] == np.arange(len(self.type_map))).sum(axis=1)
        layout = tuple(int(n) for n in counts.max(axis=0))
        return [
            _Frame.make(
                self.spec, layout, coords[f], None if boxes is None else boxes[f], types[f],
                extra["fparam"][f], extra["aparam"][f],
            )
            for f in range(n_frames)
        ]  # fmt: skip

    def _extra(self, fparam: Any, aparam: Any, n_atoms: int) -> dict[str, np.ndarray | None]:
        """Frame and atomic parameters of some frames or of one, as arrays; None where the model has none."""
        fitting, found = self.spec.fitting_net, {}
        for name, given, shape, each in (
            ("fparam", fitting.default_fparam if fparam is None else fparam, (fitting.numb_fparam,), "frame"),
            ("aparam", aparam, (n_atoms, fitting.numb_aparam), "atom"),
        ):
            if shape[-1] and given is None:
                raise InputError(f"this model needs {name}: {shape[-1]} numbers for each {each}.")
            if not shape[-1] and given is not None and np.size(given):
                raise InputError(f"{name} is given, but this model has none (fitting_net.numb_{name} is 0).")
            found[name] = _shaped(given, name, shape) if shape[-1] else None
        return found

    def _eval_frame(
        self, frame: "_Frame", capacity: int, basis: SplineBasis | None, atomic: bool
    ) -> tuple[np.ndarray, ...]:
        center, neighbor, dr = frame.pairs.padded(capacity, len(frame.order))
        out = predict(
            self.spec,
            self.params["DeepPot"],
            center[None],
            neighbor[None],
            dr[None],
            layout=frame.layout,
            basis=basis,
            real=None if frame.real.all() else frame.real[None],
            fparam=None if frame.fparam is None else frame.fparam[None],
            aparam=None if frame.aparam is None else frame.aparam[None],
            atomic_virial=atomic,
            block=block_for(len(frame.order)),
        )
        out = {name: values[0] for name, values in out.items()}

        def placed(values: jax.Array) -> np.ndarray:
            full = np.zeros((frame.n_atoms, *values.shape[1:]))
            full[frame.order[frame.real]] = np.asarray(values)[frame.real]
            return full

        result = (np.asarray(out["energy"]).reshape(1), placed(out["force"]), np.asarray(out["virial"]).reshape(9))
        if not atomic:
            return result
        return (*result, placed(out["atom_ener"][:, None]), placed(out["atom_virial"].reshape(-1, 9)))


@dataclass(frozen=True, eq=False)
class _Frame:
    """One frame with its atoms in blocks by type; a block may have empty slots at its end."""

    pairs: FramePairs
    order: np.ndarray  # (n_slots,) atom in each slot
    real: np.ndarray  # (n_slots,) whether there is one
    layout: Layout
    n_atoms: int
    fparam: np.ndarray | None
    aparam: np.ndarray | None

    @classmethod
    def make(
        cls,
        model: DeepModel,
        layout: Layout,
        positions: np.ndarray,
        box: np.ndarray | None,
        types: np.ndarray,
        fparam: np.ndarray | None,
        aparam: np.ndarray | None,
    ) -> "_Frame":
        order, real = [], []
        for t, n_slots in enumerate(layout):
            atoms = np.flatnonzero(types == t)
            order.append(np.r_[atoms, np.zeros(n_slots - len(atoms), int)])
            real.append(np.arange(n_slots) < len(atoms))
        order, real = np.concatenate(order), np.concatenate(real)
        slot_types = np.repeat(np.arange(len(layout)), layout)
        pairs = pairs_within(model.descriptor.rcut, positions[order], box, None if real.all() else real)
        pairs = truncate(pairs, slot_types, model.descriptor)
        return cls(pairs, order, real, layout, len(types), fparam, None if aparam is None else aparam[order])


@functools.cache
def _warn_of_truncation(sel: tuple[int, ...]) -> None:
    """Say once per program and ``sel``."""
    logger.warning(
        "an atom has more neighbours than descriptor.sel = %s holds: the farthest are left out, as DeePMD-kit does, "
        "and the energy is not smooth there. Train with a larger sel.",
        list(sel),
    )


def _spread(values: Any, name: str, shape: tuple[int, ...], n_frames: int) -> np.ndarray:
    """``values`` of one frame, or of each, as one array for each frame."""
    return _for_frames(_shaped(values, name, shape), name, n_frames)


def _for_frames(array: np.ndarray, name: str, n_frames: int) -> np.ndarray:
    if len(array) not in (1, n_frames):
        raise InputError(f"{name}: {len(array)} frames, but coords has {n_frames}.")
    return np.broadcast_to(array, (n_frames, *array.shape[1:]))


def _shaped(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """``values`` as frames of the given shape."""
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: no array of numbers ({error}).") from None
    if array.size == 0 or array.size % max(1, int(np.prod(shape))):
        raise InputError(f"{name}: shape {array.shape} does not fit frames of shape {shape}.")
    if not np.all(np.isfinite(array)):
        raise InputError(f"{name}: not all values are finite.")
    return array.reshape(-1, *shape)


def load(path: str | PathLike[str]) -> Model:
    """Read a Deep Potential from a ``.dp`` or ``.yaml`` file written by diffff or DeePMD-kit.

    Raises:
        InputError: not such a file, or a model of a kind diffff does not have.
    """
    from diffff.formats.deepmd import load_model

    spec, params = load_model(Path(path))
    return Model(spec=spec, params={"DeepPot": params})
