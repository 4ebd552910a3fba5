"""A model for torch-sim (https://github.com/TorchSim/torch-sim), which runs many systems at once.

It has all that torch-sim asks of a ``ModelInterface`` without deriving from it, so that torch is needed only to run it.
"""

import copy
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from openmm import app

from diffff import units
from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.md.elements import Binding, model_of
from diffff.model import Model
from diffff.potentials.base import Params, Potential
from diffff.space import box_of


class DiffffModel:
    """Energies, forces and stresses of the systems of a ``SimState``, in torch-sim's units (eV, Å).

    Systems are computed one after the other, on the device of JAX; each keeps a neighbour list of its own, and those of
    the same elements share their compiled program. Without a cell there is no stress.
    """

    compute_forces, compute_stress, memory_scales_with = True, True, "n_atoms_x_density"

    def __init__(
        self,
        model: Model | str | PathLike[str] | None = None,
        *,
        potential: Potential | None = None,
        params: Params | None = None,
        symbols: Sequence[str] | None = None,
        fparam: Sequence[float] | None = None,
        skin: float = 0.1,
        dtype: str = "float64",
        device: Any = "cpu",
    ) -> None:
        """Take a model, or a potential with its parameters, which serves systems of its own atoms only.

        Args:
            model: a Deep Potential or the path of one.
            potential: of certain atoms; molecules with bonded terms have to be whole.
            params: its parameter tree.
            symbols: elements of these atoms, to be compared with those of the systems.
            fparam: frame parameters of a model, shape ``(numb_fparam,)``, the same for all systems.
            skin: nm, how much farther than the cutoff the neighbour lists reach.
            dtype: "float64" or "float32", in which energies are computed, and of torch's arrays.
            device: of torch's arrays.

        Raises:
            InputError: torch-sim is not installed, none or both are given, or an option makes no sense.
        """
        try:
            import torch  # pyright: ignore[reportMissingImports]
            import torch_sim  # noqa: F401 # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError("torch-sim is not installed: pip install 'diffff[torch-sim]'.") from error
        read = model_of(model)
        options = {"symbols": symbols, "fparam": fparam, "skin": skin, "dtype": dtype}
        self._new = lambda: Binding(read, potential, params, **options)
        self._bindings: dict[tuple[str, ...], Binding] = {(): self._new()}
        self._is_model = read is not None
        self._own: dict[tuple[int, tuple[str, ...]], Calculator] = {}
        self.device, self.dtype = torch.device(device), {"float32": torch.float32}.get(dtype, torch.float64)

    def __call__(self, state: Any, **_: Any) -> dict[str, Any]:
        """Compute all systems; called by torch-sim.

        Args:
            state: a ``SimState``, or a dict of what it holds.

        Returns:
            ``energy (n_systems,)``, ``forces (n_atoms, 3)`` and, with a cell, ``stress (n_systems, 3, 3)``.

        Raises:
            InputError: an element that the model lacks, other atoms than the potential was made for, periodic along
                some directions only, molecules cut by the boundary, or an energy that is not finite.
        """
        import torch  # pyright: ignore[reportMissingImports]

        if not isinstance(state, dict):
            state = {
                name: getattr(state, name) for name in ("positions", "cell", "pbc", "atomic_numbers", "system_idx")
            }
        x, cells, numbers, systems = (
            torch.as_tensor(state[name]).detach().cpu().numpy()
            for name in ("positions", "cell", "atomic_numbers", "system_idx")
        )
        periodic = np.broadcast_to(torch.as_tensor(state.get("pbc", True)).cpu().numpy(), 3).tolist()
        energies, forces, stresses = [], np.zeros(x.shape), []
        for system, cell in enumerate(cells):
            mine = systems == system
            symbols = tuple(app.Element.getByAtomicNumber(int(number)).symbol for number in numbers[mine])
            box = box_of(cell.T * units.NM_PER_ANGSTROM, periodic)  # the vectors are columns for torch-sim
            here = x[mine].astype(float) * units.NM_PER_ANGSTROM
            energy, forces[mine], virial = self._calculator(system, symbols)(here, box)
            energies.append(energy)
            if box is not None:
                stresses.append(-0.5 * (virial + virial.T) / abs(np.linalg.det(cell)))
        found = {
            "energy": np.array(energies) * units.EV_PER_KJ_PER_MOL,
            "forces": forces * units.EV_PER_ANGSTROM_PER_KJ_PER_MOL_PER_NM,
        }
        if stresses:
            found["stress"] = np.array(stresses) * units.EV_PER_KJ_PER_MOL
        return {name: torch.as_tensor(array, dtype=self.dtype, device=self.device) for name, array in found.items()}

    forward = __call__

    def _calculator(self, system: int, symbols: tuple[str, ...]) -> Calculator:
        """The calculator of a system, with its own neighbour list."""
        key = symbols if self._is_model else ()
        if key not in self._bindings:
            self._bindings[key] = self._new()
        shared = self._bindings[key].calculator(symbols)
        if (system, symbols) not in self._own:
            self._own[system, symbols] = copy.copy(shared)
        return self._own[system, symbols]
