"""Labelled frames: a system in DeePMD's npy or HDF5 layout becomes arrays sorted by the model's types."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from diffff import units as conversion
from diffff.data.checks import check_counts, check_distances, right_handed
from diffff.data.folders import Folder, find_systems, read_frames, stored_frames
from diffff.data.slots import Slots, read_elements, read_fragments, read_slots, read_types
from diffff.data.stored import Stored
from diffff.errors import InputError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Units = Literal["eV/Angstrom", "kJ/mol/nm"]

_TO_EV_AND_ANGSTROM = {  # what a value in nm and kJ/mol is multiplied by
    "length": conversion.ANGSTROM_PER_NM,
    "energy": conversion.EV_PER_KJ_PER_MOL,
    "force": conversion.EV_PER_ANGSTROM_PER_KJ_PER_MOL_PER_NM,
}


@dataclass(frozen=True, eq=False)
class System:
    """All frames of one directory or HDF5 group, the atoms sorted by model type.

    In a system of type `mixed_type` every frame has its own elements. Its slots are laid out in one block per type,
    as long as the most atoms of that type in any frame; the slots a frame does not need are empty (`real` is False,
    positions and labels are zero).

    Attributes:
        name: The path.
        types: Model type of each slot, ascending, shape (n_atoms,).
        layout: Number of slots of each model type.
        real: False where a slot is empty, shape (n_frames, n_atoms), or None when every slot holds an atom.
        order: Index in the files of the atom in each slot, shape (n_atoms,); for `mixed_type`
            shape (n_frames, n_atoms) with -1 for an empty slot.
        n_atoms_file: Atoms per frame in the files, virtual ones included.
        positions: Å, shape (n_frames, n_atoms, 3).
        boxes: Rows are the lattice vectors, right-handed, Å, shape (n_frames, 3, 3), or None without periodicity.
        labels: What the files hold of
            `energy` eV (n_frames,), `force` eV/Å (n_frames, n_atoms, 3), `virial` eV (n_frames, 3, 3),
            `dipole` e Å (n_frames, 3), electrostatic potentials `esp` V (n_frames, n_points) at the points `esp_grid` Å
            (n_frames, n_points, 3), `interaction` energies eV (n_frames,) of the fragments,
            `atom_ener` eV, `atom_pref` and `atom_ener_coeff` (n_frames, n_atoms),
            `drdq` (n_frames, n_atoms, 3, numb_generalized_coord),
            `fparam` (n_frames, numb_fparam), `aparam` (n_frames, n_atoms, numb_aparam) and
            `numb_copy` (n_frames,), how often an epoch uses each frame.
        set_sizes: Frames in each `set.*`; the frames are numbered through all sets.
        fragments: Number of the fragment that each atom of the files belongs to, shape (n_atoms_file,), or None.
    """

    name: str
    types: Ints
    layout: tuple[int, ...]
    real: NDArray[np.bool_] | None
    order: Ints
    n_atoms_file: int
    positions: Array
    boxes: Array | None
    labels: dict[str, Array]
    set_sizes: tuple[int, ...]
    fragments: Ints | None = None

    @property
    def n_frames(self) -> int:
        """Number of frames, over all sets."""
        return len(self.positions)

    def take(self, frames: Ints, labels: Collection[str]) -> "System":
        """Some frames, as one set, with those of these labels that there are."""
        return replace(
            self,
            real=None if self.real is None else self.real[frames],
            order=self.order if self.order.ndim == 1 else self.order[frames],
            positions=self.positions[frames],
            boxes=None if self.boxes is None else self.boxes[frames],
            labels={name: self.labels[name][frames] for name in labels if name in self.labels},
            set_sizes=(len(frames),),
        )

    def in_file_order(self, values: NDArray, frames: slice | Ints = slice(None)) -> NDArray:
        """Put values per slot back into the order of the files; virtual atoms get zero.

        Args:
            values: Shape (n, n_atoms, ...).
            frames: The n frames the values belong to.
        """
        out = np.zeros((len(values), self.n_atoms_file, *values.shape[2:]), values.dtype)
        if self.real is None:
            out[:, self.order] = values
        else:
            frame, slot = np.nonzero(self.real[frames])
            out[frame, self.order[frames][frame, slot]] = values[frame, slot]
        return out


@dataclass(frozen=True)
class _Field:
    """Shape of one frame's entry, or of one atom's if `per_atom`, and what it measures ("": nothing to convert).

    A length of -1 is what the file has.
    """

    shape: tuple[int, ...] = ()
    per_atom: bool = False
    unit: Literal["", "energy", "force", "length"] = ""


LABELS = {
    "energy": _Field(unit="energy"),
    "force": _Field((3,), per_atom=True, unit="force"),
    "virial": _Field((3, 3), unit="energy"),
    "atom_ener": _Field(per_atom=True, unit="energy"),
    "atom_pref": _Field(per_atom=True),
    "atom_ener_coeff": _Field(per_atom=True),
    "numb_copy": _Field(),
    "dipole": _Field((3,), unit="length"),  # per charge of an electron
    "esp": _Field((-1,), unit="energy"),  # per charge of an electron
    "esp_grid": _Field((-1, 3), unit="length"),
    "interaction": _Field(unit="energy"),
}
_OF_FITS = ("dipole", "esp", "esp_grid", "interaction")
_OF_TRAINING = tuple(name for name in LABELS if name not in _OF_FITS)


def read_systems(
    paths: str | Sequence[str | Folder],
    type_map: Sequence[str],
    *,
    rglob_patterns: Sequence[str] | None = None,
    labels: Collection[str] = _OF_TRAINING,
    numb_fparam: int = 0,
    default_fparam: Sequence[float] | None = None,
    numb_aparam: int = 0,
    numb_generalized_coord: int = 0,
    units: Units = "eV/Angstrom",
    stored_from: float = inf,
) -> list[System]:
    """Read every system at or below some paths.

    Args:
        paths: Directories, `file.hdf5`, `file.hdf5#/group` or extended XYZ; see `find_systems`.
        type_map: Element of each model type. Types are matched by element name through `type_map.raw`;
            without that file, the numbers in `type.raw` are model types already.
        rglob_patterns: Take only the directories that match one of these.
        labels: The labels to read where the files have them, of `LABELS`.
        numb_fparam: Frame parameters of the model; the files must have them, unless there is a default.
        default_fparam: Frame parameters of frames without any.
        numb_aparam: Atomic parameters of the model; the files must have them.
        numb_generalized_coord: Generalised coordinates of the loss; with any, `drdq` is a label too.
        units: Of the files. Positions, boxes, energies, forces, virials and dipoles are converted to Å, eV and e;
            what a model or a loss alone gives a meaning (`fparam`, `drdq`, …) stays.
        stored_from: Positions and labels in files of more bytes than this are not read into memory: they are `Stored`,
            which can be indexed by frames, and made an array by `numpy.asarray`.

    Raises:
        InputError: A file is missing, unreadable, of the wrong shape or without physical sense.
    """
    fields = {name: LABELS[name] for name in labels}
    if numb_fparam:
        fields["fparam"] = _Field((numb_fparam,))
    if numb_aparam:
        fields["aparam"] = _Field((numb_aparam,), per_atom=True)
    if numb_generalized_coord:
        fields["drdq"] = _Field((3, numb_generalized_coord), per_atom=True)
    if default_fparam is not None and len(default_fparam) != numb_fparam:
        raise InputError(f"default_fparam: has {len(default_fparam)} values, but numb_fparam is {numb_fparam}.")
    factors = dict.fromkeys(_TO_EV_AND_ANGSTROM, 1.0) if units == "eV/Angstrom" else _TO_EV_AND_ANGSTROM
    folders = find_systems(paths, rglob_patterns)
    units_of = {"": 1.0, **factors}
    return [_read_system(folder, type_map, fields, default_fparam, units_of, stored_from) for folder in folders]


def bytes_on_disk(folders: Sequence[Folder]) -> int:
    """Of the positions and forces of systems, see `find_systems`."""
    sets = [part for folder in folders for part in folder.sets()]
    return sum(part.n_bytes(file) for part in sets for file in ("coord.npy", "force.npy") if file in part)


def data_type_map(paths: str | Sequence[str | Folder], rglob_patterns: Sequence[str] | None = None) -> list[str]:
    """Collect the elements that the data name, in the order of their first appearance: a type map for the model.

    Raises:
        InputError: A system has no `type_map.raw`, so that its types have no names.
    """
    elements: dict[str, None] = {}
    for folder in find_systems(paths, rglob_patterns):
        if "type_map.raw" not in folder:
            raise InputError(f"{folder.name}: has no type_map.raw. Add it, or set type_map in the model section.")
        elements.update(dict.fromkeys(read_elements(folder)))
    return list(elements)


@dataclass(frozen=True)
class _Part:
    """One set, and the place of its frames in the system."""

    folder: Folder
    frames: slice

    @property
    def n_frames(self) -> int:
        return self.frames.stop - self.frames.start


def _read_system(
    folder: Folder,
    type_map: Sequence[str],
    fields: Mapping[str, _Field],
    default_fparam: Sequence[float] | None,
    factors: Mapping[str, float],
    stored_from: float,
) -> System:
    sets = folder.sets()
    if not sets:
        raise InputError(f"{folder.name}: has no set.* directory, such as set.000, that holds coord.npy and labels.")
    types = read_types(folder)
    length = factors["length"]
    shape = (len(types), 3)
    coords = [_entries(part, "coord.npy", shape, None, length, stored_from, per_atom=True) for part in sets]
    sizes = [len(coord) for coord in coords]
    slots = read_slots(folder, sets, types, sizes, type_map)
    stops = np.cumsum(sizes).tolist()
    parts = [_Part(part, slice(stop - size, stop)) for part, size, stop in zip(sets, sizes, stops, strict=True)]
    boxes = None if "nopbc" in folder else [_read_box(part, length) for part in parts]
    for i, part in enumerate(parts):
        in_file = None if slots.in_file is None else slots.in_file[part.frames]
        check_distances(coords[i], None if boxes is None else boxes[i], in_file, f"{part.folder.name}/coord.npy")
    return System(
        name=folder.name,
        types=slots.types,
        layout=slots.layout,
        real=slots.real,
        order=slots.order,
        n_atoms_file=len(types),
        positions=_join(coords, slots),
        boxes=None if boxes is None else np.concatenate(boxes),
        labels=_read_labels(parts, fields, slots, default_fparam, factors, stored_from),
        set_sizes=tuple(sizes),
        fragments=read_fragments(folder, len(types)),
    )


def _read_box(part: _Part, length: float) -> Array:
    where = f"{part.folder.name}/box.npy"
    if "box.npy" not in part.folder:
        raise InputError(
            f"{where}: the file is missing. Add it, or, if the system is not periodic, "
            "put an empty file named nopbc beside type.raw."
        )
    return right_handed(_scaled(read_frames(part.folder, "box.npy", (3, 3), n_frames=part.n_frames), length), where)


def _read_labels(
    parts: Sequence[_Part],
    fields: Mapping[str, _Field],
    slots: Slots,
    default_fparam: Sequence[float] | None,
    factors: Mapping[str, float],
    stored_from: float,
) -> dict[str, Array]:
    labels = {}
    for name, field in fields.items():
        values = _read_label(parts, name, field, slots, factors[field.unit], stored_from)
        if values is None and name == "fparam" and default_fparam is not None:
            values = np.tile(np.asarray(default_fparam, dtype=np.float64), (parts[-1].frames.stop, 1))
        if values is not None:
            labels[name] = values
        elif name in ("fparam", "aparam"):
            raise InputError(
                f"{parts[0].folder.name}/{name}.npy: the file is missing, but the model has numb_{name} > 0."
            )
    return labels


def _read_label(
    parts: Sequence[_Part], name: str, field: _Field, slots: Slots, factor: float, stored_from: float
) -> Array | None:
    files = [_label_file(part.folder, name) for part in parts]
    if not any(files):
        return None
    values = []
    for part, file in zip(parts, files, strict=True):
        if file is None:
            raise InputError(
                f"{part.folder.name}/{name}.npy: missing, but another set has it. All sets need the same labels."
            )
        shape = _shape(part, file, field, slots)
        limit = inf if name == "numb_copy" else stored_from
        values.append(_entries(part.folder, file, shape, part.n_frames, factor, limit, per_atom=field.per_atom))
        if name == "numb_copy":
            check_counts(values[-1], f"{part.folder.name}/{file}")
    if len(shapes := {value.shape[1:] for value in values}) > 1:
        raise InputError(
            f"{parts[0].folder.name}/{name}.npy: frames of the shapes {' and '.join(map(str, sorted(shapes)))} in the "
            "sets of one system. Make several systems of them."
        )
    return _join(values, slots if field.per_atom else None)


def _shape(part: _Part, file: str, field: _Field, slots: Slots) -> tuple[int, ...]:
    """Shape of one frame's entry in a file, which tells lengths of -1 by its size."""
    if -1 in field.shape:
        width = part.folder.array(file).size // part.n_frames
        return tuple(width // abs(prod(field.shape)) if length == -1 else length for length in field.shape)
    return (slots.n_atoms_file, *field.shape) if field.per_atom else field.shape


def _label_file(folder: Folder, name: str) -> str | None:
    """The file of a label in a set: `atom_x.npy` may also be called `atomic_x.npy`."""
    spellings = [f"{name}.npy"]
    if name.startswith("atom_"):
        spellings.append(f"atomic_{name.removeprefix('atom_')}.npy")
    found = [file for file in spellings if file in folder]
    if len(found) > 1:
        raise InputError(f"{folder.name}: holds both {' and '.join(found)}, two names of one label. Remove one.")
    return found[0] if found else None


def _entries(
    folder: Folder,
    file: str,
    shape: tuple[int, ...],
    n_frames: int | None,
    factor: float,
    stored_from: float,
    *,
    per_atom: bool,
) -> Array:
    """The frames of a set, as the file has them, in our units: an array, or `Stored` where they are many."""
    if stored_from == inf or file not in folder or folder.n_bytes(file) <= stored_from:
        return _scaled(read_frames(folder, file, shape, n_frames=n_frames, per_atom=per_atom), factor)
    source = stored_frames(folder, file, shape, n_frames=n_frames, per_atom=per_atom)
    return cast(Array, Stored((source,), (source[0], *shape), lambda values, frames: _scaled(values, factor)))


def _scaled(values: Array, factor: float) -> Array:
    return values if factor == 1.0 else factor * values


def _join(sets: Sequence[Array], slots: Slots | None) -> Array:
    """The frames of all sets, one after the other, values per atom in the slots."""
    n_frames, rest = sum(map(len, sets)), sets[0].shape[1:]
    fill = (lambda values, frames: values) if slots is None else slots.fill
    if not any(isinstance(one, Stored) for one in sets):
        return fill(np.concatenate(sets) if len(sets) > 1 else sets[0], slice(0, n_frames))
    shape = (n_frames, *rest) if slots is None else (n_frames, len(slots.types), *rest[1:])
    return cast(Array, Stored(tuple((len(one), one.__getitem__) for one in sets), shape, fill))
