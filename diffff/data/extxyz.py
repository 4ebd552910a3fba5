"""Extended XYZ as labelled systems, read by ASE: frames of the same atoms look like a directory of .npy files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffff.errors import InputError
from diffff.space import box_of

if TYPE_CHECKING:
    from diffff.data.folders import Folder

Array = NDArray[np.float64]

ENDINGS = (".xyz", ".extxyz")

_PREFIXES = ("", "REF_", "dft_")
_NAMES = {
    "energy": ("energy",),
    "force": ("forces", "force"),
    "virial": ("virial", "virials"),
    "stress": ("stress",),
    "dipole": ("dipole",),
    "interaction": ("interaction",),
}
_SHAPES = {"energy": (), "force": (-1, 3), "virial": (3, 3), "stress": (3, 3), "dipole": (3,), "interaction": ()}
_VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # xx, yy, zz, yz, xz, xy
_MOST_LISTED = 6  # frames that a message names


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of the same atoms in the same order; a `Folder` that is its own only set.

    Attributes:
        name: The file and, if it holds other atoms too, the formula.
        set_name: The file with the formula and the numbers of the frames, for messages.
        symbols: Of the elements, shape (n_atoms,).
        fragments: Number of the fragment of each atom, or nothing.
        arrays: By the names of their files, such as "coord.npy"; each (n_frames, ...).
    """

    name: str
    set_name: str
    symbols: tuple[str, ...]
    fragments: tuple[int, ...]
    arrays: Mapping[str, Array]

    def __contains__(self, file: str) -> bool:
        if file == "nopbc":
            return "box.npy" not in self.arrays
        return file in self.arrays or bool(self.words(file))

    def sets(self) -> "list[Folder]":
        """See `Folder`."""
        return [replace(self, name=self.set_name)]

    def array(self, file: str) -> np.ndarray:
        """See `Folder`."""
        return self.arrays[file]

    def rows(self, file: str, frames: NDArray[np.int64]) -> np.ndarray:
        """See `Folder`."""
        return self.arrays[file][frames]

    def size(self, file: str) -> tuple[int, ...]:
        """See `Folder`."""
        return self.arrays[file].shape

    def n_bytes(self, file: str) -> int:
        """See `Folder`."""
        return self.arrays[file].nbytes

    def words(self, file: str) -> list[str]:
        """See `Folder`."""
        elements = list(dict.fromkeys(self.symbols))
        if file == "type_map.raw":
            return elements
        numbers = {"type.raw": [elements.index(symbol) for symbol in self.symbols], "fragment.raw": self.fragments}
        return [str(number) for number in numbers.get(file, ())]


def read_extxyz(path: Path) -> "list[Folder]":
    """Read a file; its frames are grouped by their symbols in order, their fragments and their periodicity.

    Labels are `energy` (eV), `forces` or `force` (eV/Å), `virial` or `virials` (eV, −dE/d(strain)), `stress`
    (eV/Å³, dE/d(strain)/V as ASE has it, so that virial = −V stress), `dipole` (e Å) and `interaction` (eV) of the
    fragments that the integers `fragment` of the atoms tell apart. Each label may be called `REF_…` or `dft_…` too.

    Args:
        path: The file.

    Returns:
        Groups in the order of their first frames.

    Raises:
        InputError: ASE is missing or cannot read the file; a frame is periodic along some directions only, lacks a
            label that others have, has one under two names, or a stress without a volume.
    """
    groups: dict[tuple[tuple[str, ...], tuple[int, ...], bool], list[int]] = {}
    atoms = _read(path)
    if not atoms:
        raise InputError(f"{path}: holds no frames.")
    frames = [_frame(one, f"{path}: frame {i}") for i, one in enumerate(atoms)]
    _check_same_labels(frames, path)
    for index, (one, arrays) in enumerate(zip(atoms, frames, strict=True)):
        fragments = tuple(one.arrays["fragment"].ravel().tolist()) if "fragment" in one.arrays else ()
        groups.setdefault((tuple(one.symbols), fragments, "box.npy" in arrays), []).append(index)
    formulas = Counter(_formula(symbols) for symbols, _, _ in groups)
    found: list[Folder] = []
    for (symbols, fragments, _), members in groups.items():
        formula, number = _formula(symbols), f"{len(members)} frame{'s' if len(members) > 1 else ''}"
        first = f" from {members[0]}" if formulas[formula] > 1 else ""
        parts = [frames[i] for i in members]
        found.append(
            Frames(
                name=str(path) if len(groups) == 1 else f"{path} ({formula}, {number}{first})",
                set_name=f"{path} ({formula}, {number}: {_listed(members)} of the file)",
                symbols=symbols,
                fragments=fragments,
                arrays={file: np.stack([part[file] for part in parts]) for file in parts[0]},
            )
        )
    return found


def _read(path: Path) -> list[Any]:
    try:
        import ase.io
    except ImportError:
        raise InputError(f"{path}: ASE reads this format, but is not installed: pip install diffff[ase].") from None
    frames: list[Any] = []
    try:
        frames.extend(ase.io.iread(path, index=":", format="extxyz"))
    except Exception as error:  # ASE raises all kinds
        raise InputError(
            f"{path}: ASE cannot read frame {len(frames)} of it as extended XYZ: {error or type(error).__name__}"
        ) from error
    return frames


def _frame(atoms: Any, where: str) -> dict[str, Array]:
    """The arrays of one frame by the names of their files."""
    try:
        box = box_of(atoms.cell.array, atoms.pbc)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if box is not None and np.linalg.matrix_rank(box) < 3:
        raise InputError(f"{where}: is periodic, but has no cell of three vectors. Add Lattice, or set pbc to F F F.")
    values = {**atoms.info, **atoms.arrays, **(atoms.calc.results if atoms.calc else {})}
    labels = {label: _label(values, label, len(atoms), where) for label in _NAMES}
    labels["virial"] = _virial(labels["virial"], labels.pop("stress"), box, where)
    arrays = {"coord": atoms.positions, "box": box, **labels}
    return {f"{name}.npy": array for name, array in arrays.items() if array is not None}


def _label(values: Mapping[str, Any], label: str, n_atoms: int, where: str) -> Array | None:
    spellings = [prefix + name for prefix in _PREFIXES for name in _NAMES[label]]
    found = [name for name in spellings if name in values]
    if not found:
        return None
    if len(found) > 1:
        raise InputError(f"{where}: has {' and '.join(found)}, which are names of one label. Remove one.")
    shape = tuple(n_atoms if n < 0 else n for n in _SHAPES[label])
    value = np.asarray(values[found[0]])
    if label == "stress" and value.shape == (6,):
        value = value[_VOIGT]
    if value.dtype.kind not in "fiu":
        raise InputError(f"{where}: {found[0]} is {values[found[0]]!r}, which is not a number.")
    if value.size != prod(shape):
        raise InputError(f"{where}: {found[0]} has shape {value.shape}, expected {shape}.")
    return value.reshape(shape).astype(np.float64)


def _virial(virial: Array | None, stress: Array | None, box: Array | None, where: str) -> Array | None:
    """The virial −V stress; one that is there too has to be the same to a thousandth."""
    if stress is None:
        return virial
    if box is None:
        raise InputError(f"{where}: has a stress, but no periodicity and so no volume. Remove the stress.")
    of_stress = -abs(np.linalg.det(box)) * stress
    if virial is None:
        return of_stress
    if np.abs(virial - of_stress).max() > 1e-3 * max(np.abs(virial).max(), np.abs(of_stress).max()) + 1e-5:
        raise InputError(
            f"{where}: virial and stress contradict each other: virial xx is {virial[0, 0]:g}, but −volume × stress xx "
            f"is {of_stress[0, 0]:g} (the stress is dE/d(strain)/V, positive under tension). Correct or remove one."
        )
    return virial


def _check_same_labels(frames: Sequence[Mapping[str, Array]], path: Path) -> None:
    """Refuse a label that only some of the frames have; of virials, some of the periodic ones or some of the others."""
    everything = list(range(len(frames)))
    periodic = [i for i in everything if "box.npy" in frames[i]]
    alike = {"virial": (periodic, sorted(set(everything) - set(periodic)))}
    for label in _NAMES:
        for asked in alike.get(label, (everything,)):
            lacking = [i for i in asked if f"{label}.npy" not in frames[i]]
            if lacking and len(lacking) < len(asked):
                having = min(set(asked) - set(lacking))
                raise InputError(
                    f"{path}: frame {lacking[0]}: has no {_NAMES[label][0]}, but frame {having} has. All frames of a "
                    "file need the same labels; put the others into a file of their own."
                )


def _formula(symbols: Sequence[str]) -> str:
    """In the order of Hill: carbon, hydrogen, then by the alphabet; without carbon all by the alphabet.

    Example:
        >>> _formula(["H", "O", "C", "H", "H", "H"])
        'CH4O'
    """
    counts = Counter(symbols)
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    order = [*first, *sorted(set(counts) - set(first))]
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)


def _listed(frames: Sequence[int]) -> str:
    """Example: `_listed([3, 4, 5])` is "3 to 5", `_listed([3, 5])` is "3, 5"."""
    if len(frames) > 1 and frames[-1] - frames[0] == len(frames) - 1:
        return f"{frames[0]} to {frames[-1]}"
    return ", ".join(map(str, frames[:_MOST_LISTED])) + (", …" if len(frames) > _MOST_LISTED else "")
