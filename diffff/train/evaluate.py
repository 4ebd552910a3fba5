"""How well a model reproduces labelled frames: `compare` measures it, `test` (`dff test`) reports it.

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

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System, Units, read_systems
from diffff.errors import InputError
from diffff.model import Model
from diffff.train.checkpoint import load_model_of
from diffff.train.config import read_input
from diffff.train.details import DetailFiles

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
logger = logging.getLogger(__name__)

CHUNK_ATOMS = 16384  # atoms that are evaluated at once; their neighbour lists take some 50 MB

_LABELS = ("energy", "force", "virial")

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


def test(
    model: Path,
    *,
    system: str | None = None,
    datafile: Path | None = None,
    train_data: Path | None = None,
    valid_data: Path | None = None,
    numb_test: int = 0,
    rand_seed: int | None = None,
    shuffle_test: bool = False,
    detail_file: Path | None = None,
    atomic: bool = False,
) -> Errors:
    """Report the errors of a model for each system and over all of them.

    Args:
        model: A model file, or a checkpoint of a training.
        system: Where the systems are: at or below this path.
        datafile: Instead, a file that names a path on each line.
        train_data: Instead, an input file: its training data.
        valid_data: Instead, an input file: its validation data.
        numb_test: Frames of each system; 0 means all.
        rand_seed: Seed of the choice of frames.
        shuffle_test: Take random frames of each system rather than the first ones.
        detail_file: Beginning of the paths of the detail files; None: none are written.
        atomic: Whether to test the atomic energies too.

    Returns:
        The errors over all systems.

    Raises:
        InputError: The model or the data cannot be read, or the detail files not be written.
    """
    tested = load_model_of(model, whole=True)
    paths, patterns, units = _sources(system, datafile, train_data, valid_data)
    fitting = tested.spec.fitting_net
    systems = read_systems(
        paths,
        tested.type_map,
        rglob_patterns=patterns,
        labels=(*_LABELS, "atom_pref", *(("atom_ener",) if atomic else ())),
        numb_fparam=fitting.numb_fparam,
        default_fparam=fitting.default_fparam,
        numb_aparam=fitting.numb_aparam,
        units=units,
    )
    random = np.random.default_rng(None if rand_seed is None else rand_seed % 2**32)
    total = Errors()
    with nullcontext() if detail_file is None else DetailFiles(detail_file) as details:
        for data in systems:
            frames = random.permutation(data.n_frames) if shuffle_test else np.arange(data.n_frames)
            frames = np.sort(frames[: numb_test or None])
            logger.info("# ---------------output of dff test---------------")
            logger.info("# testing system : %s", data.name)
            total = total + _test_system(tested, data, frames, details, atomic)
            logger.info("# -----------------------------------------------")
    logger.info("# ----------weighted average of errors-----------")
    logger.info("# number of systems : %d", len(systems))
    _report(total)
    logger.info("# -----------------------------------------------")
    return total


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


def _test_system(model: Model, data: System, frames: Ints, details: DetailFiles | None, atomic: bool) -> Errors:
    errors = Errors()
    chunk = max(1, CHUNK_ATOMS // len(data.types))
    for some in np.split(frames, range(chunk, len(frames), chunk)):
        prediction = evaluate(model, data, some, atomic=atomic)
        if details is not None:
            details.add(data, some, prediction)
        errors = errors + compare(
            prediction,
            {name: values[some] for name, values in data.labels.items()},
            data.types,
            model.type_map,
            real=None if data.real is None else data.real[some],
            boxes=None if data.boxes is None else data.boxes[some],
        )
    _report(errors)
    missing = [name for name in (*_LABELS, *(("atom_ener",) if atomic else ())) if name not in data.labels]
    if missing:
        logger.info("# no label in the data, so no error : %s", ", ".join(missing))
    return errors


def _report(errors: Errors) -> None:
    logger.info("# number of test data : %d", errors.n_frames)
    for line in errors.lines():
        logger.info("%s", line)


def _sources(
    system: str | None, datafile: Path | None, train_data: Path | None, valid_data: Path | None
) -> tuple[str | list[str], Sequence[str] | None, Units]:
    """Paths of the systems, the patterns that choose among the directories below them, and the units of the files."""
    if datafile is not None:
        try:
            lines = datafile.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{datafile}: cannot be read as a list of systems: {error}.") from error
        paths = [line.strip() for line in lines if line.strip()]
        if not paths:
            raise InputError(f"{datafile}: names no system. Write the path of one on each line.")
        return paths, None, "eV/Angstrom"
    if system is not None:
        return system, None, "eV/Angstrom"
    path = train_data or valid_data
    if path is None:
        raise InputError("no data to test on: give a system, a datafile, train_data or valid_data.")
    training = read_input(path).training
    data = training.training_data if train_data is not None else training.validation_data
    if data is None:
        raise InputError(f"{path}: has no training.validation_data. Add it, or name the systems with --system.")
    return (data.systems if isinstance(data.systems, str) else list(data.systems)), data.rglob_patterns, data.units
