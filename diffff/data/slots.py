"""Which atom of a data file sits in which slot: the model's types, sorted, one block per type."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffff.data.folders import Folder, read_frames
from diffff.errors import InputError

Ints = NDArray[np.int64]
MIXED = "real_atom_types.npy"  # the file that makes a system a `mixed_type` one


@dataclass(frozen=True, eq=False)
class Slots:
    """The arrangement of a system's atoms; the attributes of the same names in `System` describe it.

    Attributes:
        types: Shape (n_slots,).
        layout: Slots of each model type.
        order: Shape (n_slots,), or (n_frames, n_slots) for `mixed_type`.
        real: Shape (n_frames, n_slots), or None.
        in_file: False for the virtual atoms of the file, shape (n_frames, n_atoms_file), or None.
    """

    types: Ints
    layout: tuple[int, ...]
    order: Ints
    real: NDArray[np.bool_] | None = None
    in_file: NDArray[np.bool_] | None = None

    @property
    def n_atoms_file(self) -> int:
        """Atoms per frame in the files, virtual ones included."""
        return len(self.order) if self.in_file is None else self.in_file.shape[1]

    def fill(self, values: NDArray[np.float64], frames: slice | Ints) -> NDArray[np.float64]:
        """Bring the values of some frames, shape (n, n_atoms_file, ...), into the slots; empty slots get zero."""
        if self.real is None:
            is_sorted = np.array_equal(self.order, np.arange(len(self.order)))
            return values if is_sorted else values[:, self.order]
        frame, slot = np.nonzero(self.real[frames])
        filled = np.zeros((len(values), len(self.types), *values.shape[2:]))
        filled[frame, slot] = values[frame, self.order[frames][frame, slot]]
        return filled


def read_slots(
    folder: Folder, sets: Sequence[Folder], types: Ints, set_sizes: Sequence[int], type_map: Sequence[str]
) -> Slots:
    """Arrange the atoms of a system by the model's types.

    Args:
        folder: The system. Its `type_map.raw` names the elements; without it its types are model types.
        sets: Its sets; those of a `mixed_type` system hold `real_atom_types.npy`.
        types: The integers of `type.raw`.
        set_sizes: Frames of each set.
        type_map: Element of each model type.

    Raises:
        InputError: A type has no element, or the model does not have that element.
    """
    names = read_elements(folder) if "type_map.raw" in folder else list(type_map)
    mixed = [MIXED in part for part in sets]
    if all(mixed):
        parts = [
            _frame_types(part, size, len(types), names, type_map) for part, size in zip(sets, set_sizes, strict=True)
        ]
        return _mixed_slots(np.concatenate(parts), len(type_map))
    if any(mixed):
        raise InputError(f"{sets[mixed.index(False)].name}/{MIXED}: the file is missing, but another set has it.")
    if (types < 0).any():
        raise InputError(
            f"{folder.name}/type.raw: atom {np.argmax(types < 0)}: negative type. "
            f"Virtual atoms (-1) are marked frame by frame in set.*/{MIXED}."
        )
    return _sorted_slots(_model_types(types, names, type_map, f"{folder.name}/type.raw"), len(type_map))


def read_types(folder: Folder) -> Ints:
    """The integers of `type.raw`, one per atom; in a `mixed_type` system only their number matters."""
    hint = "type.raw holds one index per atom; the elements they stand for belong in type_map.raw."
    types = _integers(folder, "type.raw", hint)
    if not len(types):
        raise InputError(f"{folder.name}/type.raw: is empty. It must hold one integer per atom.")
    return types


def read_fragments(folder: Folder, n_atoms: int) -> Ints | None:
    """The integers of `fragment.raw`, one per atom, which tell the molecules of dimers apart; None without the file."""
    if "fragment.raw" not in folder:
        return None
    found = _integers(folder, "fragment.raw", "fragment.raw holds the number of a fragment for each atom.")
    if len(found) != n_atoms:
        raise InputError(f"{folder.name}/fragment.raw: holds {len(found)} integers, but type.raw has {n_atoms} atoms.")
    return found


def _integers(folder: Folder, file: str, hint: str) -> Ints:
    words = folder.words(file)
    for atom, word in enumerate(words):
        if not _is_whole(word):
            raise InputError(f"{folder.name}/{file}: atom {atom}: {word!r} is not an integer. {hint}")
    return np.array([int(float(word)) for word in words], np.int64)


def read_elements(folder: Folder) -> list[str]:
    """The elements in `type_map.raw`."""
    names = folder.words("type_map.raw")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{folder.name}/type_map.raw: names {', '.join(repeated)} twice. Name each element once.")
    return names


def _is_whole(word: str) -> bool:
    try:
        return float(word).is_integer()
    except ValueError:
        return False


def _frame_types(part: Folder, n_frames: int, n_atoms: int, names: Sequence[str], type_map: Sequence[str]) -> Ints:
    """Model types of a mixed set, shape (n_frames, n_atoms), -1 for virtual atoms."""
    where = f"{part.name}/{MIXED}"
    types = read_frames(part, MIXED, (n_atoms,), n_frames=n_frames, per_atom=True)
    wrong = (types != np.floor(types)) | (types < -1)
    if wrong.any():
        value = f"{types[wrong][0]:g}"
        raise InputError(f"{where}: {_place(wrong)}: {value} is neither an index into type_map.raw nor -1 (virtual).")
    empty = (types < 0).all(axis=1)
    if empty.any():
        raise InputError(f"{where}: frame {np.argmax(empty)}: all atoms are virtual. Remove the frame.")
    return _model_types(types.astype(np.int64), names, type_map, where)


def _model_types(types: Ints, names: Sequence[str], type_map: Sequence[str], where: str) -> Ints:
    """Translate indices into `names` to indices into `type_map`; -1 stays."""
    nameless = types >= len(names)
    if nameless.any():
        raise InputError(
            f"{where}: {_place(nameless)}: there is no type {types[nameless][0]}; the elements are "
            f"{_listed(names)} (type_map.raw, or the model's type_map where that file is missing)."
        )
    model_type = {element: index for index, element in enumerate(type_map)}
    lookup = np.array([*(model_type.get(name, -1) for name in names), -1])  # the last entry is read by -1
    translated = lookup[types]
    unknown = (translated < 0) & (types >= 0)
    if unknown.any():
        raise InputError(
            f"{where}: {_place(unknown)}: the model has no element {names[types[unknown][0]]}; its type_map is "
            f"{_listed(type_map)}. Add the element there, or leave the system out."
        )
    return translated


def _sorted_slots(types: Ints, n_types: int) -> Slots:
    order = np.argsort(types, kind="stable")
    return Slots(types[order], tuple(np.bincount(types, minlength=n_types).tolist()), order)


def _mixed_slots(types: Ints, n_types: int) -> Slots:
    """Slots for types that differ from frame to frame, shape (n_frames, n_atoms), -1 for virtual atoms."""
    counts = np.stack([(types == t).sum(axis=1) for t in range(n_types)], axis=1)
    layout = counts.max(axis=0)
    last = np.where(types < 0, n_types, types)
    order = np.argsort(last, axis=1, kind="stable")  # real atoms by type, then the virtual ones
    first_slot, first_atom = np.cumsum([0, *layout[:-1]]), np.cumsum(counts, axis=1) - counts
    frame, rank = np.nonzero(np.take_along_axis(types, order, axis=1) >= 0)
    atom = order[frame, rank]
    kind = types[frame, atom]
    slot = first_slot[kind] + rank - first_atom[frame, kind]
    slot_order = np.full((len(types), layout.sum()), -1)
    slot_order[frame, slot] = atom
    return Slots(
        types=np.repeat(np.arange(n_types), layout),
        layout=tuple(layout.tolist()),
        order=slot_order,
        real=slot_order >= 0,
        in_file=types >= 0,
    )


def _place(wrong: NDArray[np.bool_]) -> str:
    *frame, atom = np.argwhere(wrong)[0]
    return f"frame {frame[0]}, atom {atom}" if frame else f"atom {atom}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
