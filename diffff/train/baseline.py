"""What a network is trained on top of: Deep Potentials that stay as they are, and a force field.

The labels of the data are `measured`; what the Deep Potentials leave of them, and the force field unless its numbers
move, is what the network learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffff.data.systems import System
from diffff.errors import InputError
from diffff.input_file import resolve
from diffff.model import Model, load
from diffff.model_input import Deep
from diffff.potentials.deep import DeepModel
from diffff.train.evaluate import CHUNK_ATOMS, evaluate

_LABELS = ("energy", "force", "virial", "atom_ener")
_OF_FRAMES, _OF_ATOMS = ("numb_fparam", "default_fparam"), ("numb_aparam",)  # keys of a fitting net, its number first


@dataclass(frozen=True, eq=False)
class FrozenDeep:
    """Deep Potentials under a network, with their weights in the sum.

    Attributes:
        models: of each its file, itself and its weight.
    """

    models: tuple[tuple[str, Model, float], ...]

    @classmethod
    def read(cls, parts: Sequence[tuple[Deep, float]], folder: Path) -> "FrozenDeep":
        """The models of the sections of an input in that folder.

        Raises:
            InputError: there is no such file, or it is no model.
        """
        files = [(str(resolve(part.file, folder) or part.file), weight) for part, weight in parts]
        return cls(tuple((file, load(file), weight) for file, weight in files))

    @property
    def files(self) -> list[Path]:
        """The model files."""
        return [Path(file) for file, *_ in self.models]

    def inputs(self) -> dict[str, Any]:
        """Parameters of frames and atoms that the models need, as keywords of `read_systems`.

        Raises:
            InputError: some need others, but all are given the same.
        """
        found: dict[str, Any] = {}
        for keys in (_OF_FRAMES, _OF_ATOMS):
            needing = {file: inputs_of(model.spec, keys) for file, model, _ in self.models}
            needing = {file: needs for file, needs in needing.items() if needs[keys[0]]}
            _require_alike(needing)
            found |= next(iter(needing.values()), {})
        return found

    def require_inputs_of(self, network: DeepModel) -> None:
        """Refuse models that need parameters of frames or atoms which a network that is trained on top does not have.

        Raises:
            InputError: one does.
        """
        for keys in (_OF_FRAMES, _OF_ATOMS):
            for file, model, _ in self.models:
                if (needs := inputs_of(model.spec, keys))[keys[0]]:
                    _require_alike({file: needs, "the network that is trained": inputs_of(network, keys)})

    def without(self, system: System, type_map: Sequence[str]) -> System:
        """The system with the energies, forces and virials of the models taken from the labels.

        Args:
            system: with all labels.
            type_map: names of its types.

        Raises:
            InputError: a model lacks one of the types, or needs parameters that the system does not have; or the
                energies are sums with coefficients.
        """
        if self.models and "atom_ener_coeff" in system.labels:
            raise InputError(
                f"{system.name}: atom_ener_coeff is for energies of the network, but it is trained on top of another. "
                "Remove the labels, or train the network alone."
            )
        for file, model, weight in self.models:
            labels = dict(system.labels)
            for name, values in _said(file, model, system, type_map).items():
                labels[name] = labels[name] - weight * values
            system = replace(system, labels=labels)
        return system


def inputs_of(model: DeepModel, keys: Sequence[str] = (*_OF_FRAMES, *_OF_ATOMS)) -> dict[str, Any]:
    """Parameters of frames and atoms that a network needs, as keywords of `read_systems`."""
    return {key: getattr(model.fitting_net, key) for key in keys}


def _require_alike(needing: dict[str, dict[str, Any]]) -> None:
    """Refuse models of a sum that need other parameters, each by its name."""
    told = [
        f"{name} has {', '.join(f'{key} {value}' for key, value in needs.items())}" for name, needs in needing.items()
    ]
    if any(needs != next(iter(needing.values())) for needs in needing.values()):
        raise InputError(
            f"the models of a sum are given the same parameters, but {', and '.join(told)}. Make them alike."
        )


def _said(file: str, model: Model, system: System, type_map: Sequence[str]) -> dict[str, np.ndarray]:
    """What a model says beside the labels of a system."""
    fitting = model.spec.fitting_net
    own = {"fparam": fitting.numb_fparam, "aparam": fitting.numb_aparam}
    inputs = {name: values for name, values in system.labels.items() if own.get(name)}
    seen = replace(system, types=_types_in(file, model, system, type_map), labels=inputs)
    atomic = "atom_ener" in system.labels
    chunk = max(1, CHUNK_ATOMS // len(system.types))
    frames = np.split(np.arange(system.n_frames), range(chunk, system.n_frames, chunk))
    each = [evaluate(model, seen, some, atomic=atomic) for some in frames]
    return {name: np.concatenate([one[name] for one in each]) for name in _LABELS if name in system.labels}


def _types_in(file: str, model: Model, system: System, type_map: Sequence[str]) -> np.ndarray:
    """The types of a system as a model numbers them."""
    place = {name: number for number, name in enumerate(model.type_map)}
    for t in np.unique(system.types):
        if type_map[t] not in place:
            raise InputError(
                f"{file}: {system.name} has atoms of the type {type_map[t]}; the model is for {list(model.type_map)}."
            )
    return np.array([place.get(name, -1) for name in type_map])[system.types]
