"""A model with its parameters: what `load` returns, what training produces, what every engine runs.

>>> import diffff  # doctest: +SKIP
>>> water = diffff.load("model.dp")  # doctest: +SKIP
>>> energy, force, virial = water.eval(coords, box, types)  # doctest: +SKIP
"""

import dataclasses
import logging
from dataclasses import dataclass
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
from diffff.potentials.deep import DeepModel, Layout, bind
from diffff.potentials.pairs import FramePairs, pairs_within, truncate

Params = dict[str, Any]
logger = logging.getLogger(__name__)

predict = jax.jit(DeepModel.predict, static_argnames=("self", "layout", "basis", "atomic_virial"))


def spline_range(model: DeepModel, shortest: float) -> float:
    """Upper end of the splines, 1/Å, that covers pairs down to ``shortest`` Å; from a ladder, so that programs are shared."""
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
        """Splines that follow the embedding nets, for pairs down to ``shortest`` Å; None on the direct path."""
        upper = spline_range(self.spec, shortest)
        return self.spec.descriptor.choose_basis(self.params["DeepPot"]["descriptor"], self.type_map, upper)

    def potential(self, types: np.ndarray, shortest: float = 0.5) -> Potential:
        """The potential for atoms of these types, in nm and kJ/mol.

        Args:
            types: shape ``(n_atoms,)``, indices into the type map.
            shortest: closest approach of two atoms that the splines must cover, Å; below it the energy is NaN.
        """
        return Potential(terms=(bind(self.spec, np.asarray(types), self.basis(shortest)),))

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
        shortest = min((np.linalg.norm(f.pairs.dr, axis=1).min(initial=self.rcut) for f in frames), default=self.rcut)
        basis = self.basis(float(shortest))
        dropped = sum(f.pairs.truncated for f in frames)
        if dropped:
            logger.warning(
                "%d neighbour pairs exceed descriptor.sel = %s and were left out, as DeePMD-kit does; "
                "energies are not smooth there. Train with a larger sel.",
                dropped,
                list(self.spec.descriptor.slots),
            )
        results = [self._eval_frame(frame, basis, atomic) for frame in frames]
        return tuple(np.stack(column) for column in zip(*results, strict=True))

    def _frames(
        self,
        coords: np.ndarray,
        box: np.ndarray | None,
        types: np.ndarray,
        fparam: np.ndarray | None,
        aparam: np.ndarray | None,
    ) -> "list[_Frame]":
        types = np.asarray(types, int)
        n_atoms = types.shape[-1]
        coords = _shaped(coords, "coords", (n_atoms, 3))
        n_frames, fitting = len(coords), self.spec.fitting_net
        types = np.broadcast_to(types, (n_frames, n_atoms))
        if types.max(initial=-1) >= len(self.type_map):
            raise InputError(f"types: {types.max()} is no type of this model; its type map is {list(self.type_map)}.")
        boxes = None if box is None else np.broadcast_to(_shaped(box, "box", (3, 3)), (n_frames, 3, 3))
        if fitting.numb_fparam and fparam is None:
            fparam = None if fitting.default_fparam is None else np.asarray(fitting.default_fparam)
        wanted = (("fparam", fparam, (fitting.numb_fparam,)), ("aparam", aparam, (n_atoms, fitting.numb_aparam)))
        extra = {}
        for name, given, shape in wanted:
            if shape[-1] and given is None:
                raise InputError(
                    f"this model needs {name}: {shape[-1]} numbers for each {'frame' if name[0] == 'f' else 'atom'}."
                )
            extra[name] = np.broadcast_to(_shaped(given, name, shape), (n_frames, *shape)) if shape[-1] else None
        return [
            _Frame.make(
                self.spec,
                coords[f],
                None if boxes is None else boxes[f],
                types[f],
                **{name: None if values is None else values[f] for name, values in extra.items()},
            )
            for f in range(n_frames)
        ]

    def _eval_frame(self, frame: "_Frame", basis: SplineBasis | None, atomic: bool) -> tuple[np.ndarray, ...]:
        n_real, n_atoms = len(frame.order), frame.n_atoms
        center, neighbor, dr = frame.pairs.padded(capacity_for(len(frame.pairs.center)), n_real)
        out = predict(
            self.spec,
            self.params["DeepPot"],
            center,
            neighbor,
            dr,
            layout=frame.layout,
            basis=basis,
            fparam=frame.fparam,
            aparam=frame.aparam,
            atomic_virial=atomic,
        )

        def placed(values: jax.Array) -> np.ndarray:
            full = np.zeros((n_atoms, *values.shape[1:]))
            full[frame.order] = values
            return full

        result = (np.asarray(out["energy"]).reshape(1), placed(out["force"]), np.asarray(out["virial"]).reshape(9))
        if not atomic:
            return result
        return (*result, placed(out["atom_ener"][:, None]), placed(out["atom_virial"].reshape(-1, 9)))


@dataclass(frozen=True)
class _Frame:
    """One frame with its atoms in blocks by type; virtual atoms are left out."""

    pairs: FramePairs
    order: np.ndarray
    layout: Layout
    n_atoms: int
    fparam: np.ndarray | None
    aparam: np.ndarray | None

    @classmethod
    def make(
        cls,
        model: DeepModel,
        positions: np.ndarray,
        box: np.ndarray | None,
        types: np.ndarray,
        fparam: np.ndarray | None,
        aparam: np.ndarray | None,
    ) -> "_Frame":
        order = np.argsort(types, kind="stable")
        order = order[types[order] >= 0]
        layout = tuple(int(n) for n in np.bincount(types[order], minlength=len(model.type_map)))
        pairs = pairs_within(model.descriptor.rcut, positions[order], box)
        pairs = truncate(pairs, types[order], model.descriptor)
        return cls(pairs, order, layout, len(types), fparam, None if aparam is None else aparam[order])


def _shaped(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """``values`` as frames of the given shape."""
    array = np.asarray(values, float)
    if array.size % int(np.prod(shape)) or array.size == 0:
        raise InputError(f"{name}: shape {array.shape} does not fit frames of shape {shape}.")
    return array.reshape(-1, *shape)


def load(path: str | PathLike[str]) -> Model:
    """Read a Deep Potential from a ``.dp`` or ``.yaml`` file written by diffff or DeePMD-kit.

    Raises:
        InputError: not such a file, or a model of a kind diffff does not have.
    """
    from diffff.formats.deepmd import load_model

    spec, params = load_model(Path(path))
    return Model(spec=spec, params={"DeepPot": params})


def with_params(model: Model, params: Params) -> Model:
    """The same model with other parameters."""
    return dataclasses.replace(model, params=params)
