"""How well a model reproduces labelled frames.

| quantity    | error                                    | unit        | counted once for each       |
|-------------|------------------------------------------|-------------|-----------------------------|
| `e`         | E − E*                                   | eV          | frame                       |
| `e_peratom` | (E − E*) / N, N real atoms               | eV per atom | frame                       |
| `f`         | F − F*                                   | eV/Å        | force component             |
| `f_O`, …    | the same for one element                 | eV/Å        | force component             |
| `fw`        | the same, atoms weighted by `atom_pref`  | eV/Å        | force component, its weight |
| `v`         | Ξ − Ξ*                                   | eV          | virial component            |
| `v_peratom` | (Ξ − Ξ*) / N                             | eV per atom | virial component            |
| `s`         | (Ξ* − Ξ) / volume                        | eV/Å³       | stress component            |
| `ae`        | E_i − E_i*                               | eV          | atom                        |

Empty slots and virtual atoms count nowhere. Errors of batches and of systems are added, so that an average over systems
is that over all their frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.model import Model

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK_ATOMS = 16384  # atoms that are evaluated at once; their neighbour lists take some 50 MB

# What a report prints, in DeePMD-kit's words: quantity, text for "MAE" or "RMSE", unit.
_LINES = (
    ("e", "Energy {}", "eV"),
    ("e_peratom", "Energy {}/Natoms", "eV"),
    ("f", "Force  {}", "eV/Å"),
    ("fw", "Force weighted {}", "eV/Å"),
    ("v", "Virial {}", "eV"),
    ("v_peratom", "Virial {}/Natoms", "eV"),
    ("s", "Stress {}", "eV/Å³"),
    ("ae", "Atomic ener {}", "eV"),
)


@dataclass(frozen=True)
class Sums:
    """Sums over the errors of one quantity.

    Attributes:
        absolute: Sum of absolute values.
        squared: Sum of squares.
        weight: Number of errors, or the sum of their weights.
    """

    absolute: float = 0.0
    squared: float = 0.0
    weight: float = 0.0

    @classmethod
    def of(cls, error: Array, weight: Array | None = None) -> Self:
        """The sums over an array; `weight` has its shape or one that broadcasts to it."""
        weight = np.ones_like(error) if weight is None else np.broadcast_to(weight, error.shape)
        size = np.abs(error)
        return cls(float(np.sum(weight * size)), float(np.sum(weight * size**2)), float(np.sum(weight)))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.absolute + other.absolute, self.squared + other.squared, self.weight + other.weight)


@dataclass(frozen=True)
class Errors:
    """Errors over some frames; `+` joins them with those of other frames.

    Attributes:
        sums: For each quantity with a label, by the names in the table above.
        n_frames: Number of frames, with and without labels.

    Example:
        >>> first = Errors({"e": Sums.of(np.array([3.0, -1.0]))}, n_frames=2)
        >>> both = first + Errors({"e": Sums.of(np.array([1.0]))}, n_frames=1)
        >>> both.mae("e") == 5 / 3, both.rmse("e") == (11 / 3) ** 0.5, both.rmse("v")
        (True, True, nan)
    """

    sums: Mapping[str, Sums] = field(default_factory=dict)
    n_frames: int = 0

    def __add__(self, other: "Errors") -> "Errors":
        sums = {
            name: self.sums.get(name, Sums()) + other.sums.get(name, Sums()) for name in {**self.sums, **other.sums}
        }
        return Errors(sums, self.n_frames + other.n_frames)

    def mae(self, quantity: str) -> float:
        """Mean absolute error; nan where no frame has the label."""
        sums = self.sums.get(quantity, Sums())
        return sums.absolute / sums.weight if sums.weight else float("nan")

    def rmse(self, quantity: str) -> float:
        """Root mean square error; nan where no frame has the label."""
        sums = self.sums.get(quantity, Sums())
        return (sums.squared / sums.weight) ** 0.5 if sums.weight else float("nan")

    def lines(self) -> list[str]:
        """The report: a line for each error, such as `Energy RMSE/Natoms : 1.234567e-03 eV`."""
        elements = [name for name in self.sums if name.startswith("f_")]
        elements = [(name, f"{name.removeprefix('f_')} force {{}}", "eV/Å") for name in elements if len(elements) > 1]
        return [
            f"{text.format(kind):<19}: {value:e} {unit}"
            for quantity, text, unit in (*_LINES, *elements)
            if quantity in self.sums
            for kind, value in (("MAE", self.mae(quantity)), ("RMSE", self.rmse(quantity)))
        ]


def compare(
    prediction: Mapping[str, Any],
    labels: Mapping[str, Any],
    types: Ints,
    type_map: Sequence[str],
    *,
    real: NDArray[np.bool_] | None = None,
    boxes: Array | None = None,
) -> Errors:
    """Errors of a batch of frames; what lacks a prediction or a label is left out.

    Args:
        prediction: "energy" (n_frames,) eV, "force" (n_frames, n_atoms, 3) eV/Å, "virial" (n_frames, 3, 3) eV,
            "atom_ener" (n_frames, n_atoms) eV; any of them.
        labels: The same, and "atom_pref" (n_frames, n_atoms).
        types: Model type of each atom, shape (n_atoms,).
        type_map: Names of the types.
        real: (n_frames, n_atoms), False for empty slots; None: all atoms are real.
        boxes: (n_frames, 3, 3), Å; None without periodicity.
    """
    error = {
        name: np.asarray(prediction[name], np.float64) - np.asarray(labels[name], np.float64)
        for name in ("energy", "force", "virial", "atom_ener")
        if name in prediction and name in labels
    }
    n_frames = len(next(iter(prediction.values())))
    is_real = np.ones((n_frames, len(types)), bool) if real is None else np.asarray(real)
    n_real = is_real.sum(axis=1)
    sums = {}
    if "energy" in error:
        sums["e"], sums["e_peratom"] = Sums.of(error["energy"]), Sums.of(error["energy"] / n_real)
    if "force" in error:
        sums["f"] = Sums.of(error["force"][is_real])
        for t, name in enumerate(type_map):
            if (of_type := is_real & (types == t)).any():
                sums[f"f_{name}"] = Sums.of(error["force"][of_type])
        if "atom_pref" in labels:
            sums["fw"] = Sums.of(error["force"], np.where(is_real, labels["atom_pref"], 0.0)[..., None])
    if "virial" in error:
        sums["v"], sums["v_peratom"] = Sums.of(error["virial"]), Sums.of(error["virial"] / n_real[:, None, None])
        if boxes is not None:
            sums["s"] = Sums.of(error["virial"] / np.linalg.det(boxes)[:, None, None])
    if "atom_ener" in error:
        sums["ae"] = Sums.of(error["atom_ener"][is_real])
    return Errors(sums, n_frames)


def evaluate(model: Model, system: System, frames: Ints, *, atomic: bool = False) -> dict[str, Array]:
    """Predictions for some frames of a system, the atoms in its order.

    Returns:
        "energy" (n,) eV, "force" (n, n_atoms, 3) eV/Å, "virial" (n, 3, 3) eV and, if `atomic`, "atom_ener"
        (n, n_atoms) eV.
    """
    types = system.types if system.real is None else np.where(system.real[frames], system.types, -1)
    extra = {name: system.labels[name][frames] if name in system.labels else None for name in ("fparam", "aparam")}
    boxes = None if system.boxes is None else system.boxes[frames]
    energy, force, virial, *of_atoms = model.eval(system.positions[frames], boxes, types, atomic=atomic, **extra)
    prediction = {"energy": energy[:, 0], "force": force, "virial": virial.reshape(-1, 3, 3)}
    return {**prediction, "atom_ener": of_atoms[0][..., 0]} if atomic else prediction
