"""Frames of data sets for a fit: in nm and kJ/mol, in the order of a topology, with their neighbour lists."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff import units as conversion
from diffff.data.checks import MIN_DISTANCE_ANGSTROM
from diffff.data.folders import Folder
from diffff.data.systems import System, Units, data_type_map, read_systems
from diffff.errors import InputError
from diffff.fit.fragments import fragment_atoms, sub_topology
from diffff.fit.plausible import require_plausible
from diffff.fit.problem import UNITS, FitSystem
from diffff.fit.targets import Fragment
from diffff.frontend.reference import symbols_of
from diffff.md.whole import bonded_pairs, require_whole
from diffff.neighbors import Neighbors, capacity_for, neighbor_list
from diffff.potentials.base import Params, Potential

_NM, _KJ = conversion.NM_PER_ANGSTROM, conversion.KJ_PER_MOL_PER_EV
_LABELS = {  # in nm, kJ/mol and e
    "energy": _KJ,
    "force": conversion.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM,
    "virial": _KJ,
    "dipole": _NM,
    "esp": _KJ,
    "esp_grid": _NM,
    "interaction": _KJ,
}


def read_frames(
    paths: str | Sequence[str | Folder],
    topology: Any,
    potential: Potential,
    params: Params,
    *,
    part: Callable[[Any], Potential] | None = None,
    units: Units = "eV/Angstrom",
    check_units: bool = True,
    targets: Sequence[str] = tuple(UNITS),
    relative: bool = True,
    rglob_patterns: Sequence[str] | None = None,
) -> list[FitSystem]:
    """Systems of one topology, with the labels that they have.

    | file | shape | unit with eV and Å | label |
    |---|---|---|---|
    | `energy.npy` | `(n_frames,)` | eV | energy |
    | `force.npy` | `(n_frames, 3 n_atoms)` | eV/Å | forces |
    | `virial.npy` | `(n_frames, 9)` | eV | -dE/d(strain) |
    | `dipole.npy` | `(n_frames, 3)` | e Å | dipole |
    | `esp.npy` | `(n_frames, n_points)` | V | electrostatic potential |
    | `esp_grid.npy` | `(n_frames, 3 n_points)` | Å | where it is |
    | `interaction.npy` | `(n_frames,)` | eV | energy of the frame without those of its fragments |
    | `fragment.raw` | `n_atoms` integers, in the directory of the system | | which fragment each atom is in |

    Frames may leave out virtual sites, which are atoms of the topology without an element.

    Args:
        paths: directories or HDF5 groups of DeePMD-kit's layout with type_map.raw, or extended XYZ; all systems below
            them. Or folders that `find_systems` has found.
        topology: ``openmm.app.Topology``, its atoms in the order of the files.
        potential: for this topology; its cutoff is that of the neighbour lists.
        params: at the start, with which virtual sites are placed for these lists.
        part: makes the potential of the topology of a fragment, ``lambda top: field.create_potential(top)``; without it
            interaction energies are read, but cannot be predicted.
        units: of the files.
        check_units: whether to refuse what `require_plausible` finds to be in another unit, sign or order.
        targets: what is going to be compared; labels of others may lack what they need, and are in any unit.
        relative: whether energies are going to be compared up to a constant.
        rglob_patterns: take only the directories below a path that match one of these.

    Raises:
        InputError: see `read_systems`; or the atoms are not those of the topology, a boundary has cut molecules, units
            are wrong, or fragments or points of a potential make no sense.
    """
    type_map = data_type_map(paths, rglob_patterns)
    systems = read_systems(paths, type_map, rglob_patterns=rglob_patterns, labels=tuple(_LABELS), units=units)
    part = part if "interaction" in targets else None
    found = [fit_system(system, topology, type_map, potential, params, part) for system in systems]
    for system in found if check_units else ():
        require_plausible(system, params, topology, units, targets, relative=relative)
    return found


def fit_system(
    system: System,
    topology: Any,
    type_map: Sequence[str],
    potential: Potential,
    params: Params,
    part: Callable[[Any], Potential] | None = None,
) -> FitSystem:
    """A system as a fit sees it.

    Args:
        system: with none but labels of `read_frames`.
        topology: see `read_frames`, as potential, params and part.
        type_map: names of its types.
        potential: for the topology.
        params: parameters at the start.
        part: makes the potential of the topology of a fragment.

    Raises:
        InputError: see `read_frames`.
    """
    n_atoms, own = topology.getNumAtoms(), atoms_in_files(system, symbols_of(topology), type_map)
    real = np.array([k for k, symbol in enumerate(symbols_of(topology)) if symbol is not None], int)
    x = np.zeros((system.n_frames, n_atoms, 3))
    x[:, own] = system.in_file_order(system.positions) * _NM
    boxes = None if system.boxes is None else system.boxes * _NM
    require_whole_frames(system.name, potential, x, boxes)
    labels = {name: jnp.asarray(values * _LABELS[name]) for name, values in _in_file_order(system).items()}
    if "force" in labels and len(real) < len(own):
        labels["force"] = labels["force"][:, real]
    _check_points(system, x[:, real])
    return FitSystem(
        potential=potential,
        positions=jnp.asarray(x),
        boxes=None if boxes is None else jnp.asarray(boxes),
        neighbors=frame_lists(potential, params, x, boxes),
        energy=labels.get("energy"),
        forces=labels.get("force"),
        virial=labels.get("virial"),
        dipole=labels.get("dipole"),
        esp=labels.get("esp"),
        esp_points=labels.get("esp_grid"),
        interaction=labels.get("interaction"),
        fragments=_fragments(system, topology, own, params, x, boxes, part),
        real=None if len(real) == n_atoms else jnp.asarray(real),
        name=system.name,
    )


def require_whole_frames(name: str, potential: Potential, x: np.ndarray, boxes: np.ndarray | None) -> None:
    """Refuse frames ``(n_frames, n_atoms, 3)`` in which a boundary has cut a molecule."""
    pairs = bonded_pairs(potential)
    for frame in range(len(x)):
        try:
            require_whole(pairs, x[frame], None if boxes is None else boxes[frame])
        except InputError as error:
            raise InputError(f"{name}, frame {frame}: {error}") from None


def _in_file_order(system: System) -> dict[str, np.ndarray]:
    """The labels that the system has; forces by atoms of the files."""
    return {name: system.in_file_order(values) if name == "force" else values for name, values in system.labels.items()}


def atoms_in_files(system: System, symbols: Sequence[str | None], type_map: Sequence[str]) -> np.ndarray:
    """The place in the topology of each atom of the files, shape ``(n_atoms_file,)``."""
    if system.real is not None:
        raise InputError(f"{system.name}: frames have different atoms (mixed_type), but a fit has one topology.")
    types = system.in_file_order(system.types[None], slice(0, 1))[0]
    own = np.array([k for k, symbol in enumerate(symbols) if symbol is not None or len(types) == len(symbols)], int)
    if len(types) != len(own):
        sites = f" and {len(symbols) - len(own)} virtual sites" if len(own) < len(symbols) else ""
        raise InputError(f"{system.name}: frames of {len(types)} atoms, but the topology has {len(own)}{sites}.")
    for atom, (kind, place) in enumerate(zip(types, own, strict=True)):
        if symbols[place] not in (None, type_map[kind]):
            raise InputError(
                f"{system.name}: atom {atom} (from 0) is {type_map[kind]}, but {symbols[place]} in the topology. "
                "Bring both into one order."
            )
    return own


def _check_points(system: System, x: np.ndarray) -> None:
    """Refuse points of a potential without values, values without points, and points on top of atoms."""
    values, points = (system.labels.get(name) for name in ("esp", "esp_grid"))
    if values is None and points is None:
        return
    if values is None or points is None or values.shape != points.shape[:2]:
        shapes = [f"{name} {v.shape}" for name, v in (("esp.npy", values), ("esp_grid.npy", points)) if v is not None]
        raise InputError(
            f"{system.name}: a potential needs esp.npy (n_frames, n_points) and esp_grid.npy (n_frames, 3 n_points); "
            f"there is {' and '.join(shapes)}."
        )
    for frame, (where, atoms) in enumerate(zip(points, x / _NM, strict=True)):
        apart = np.linalg.norm(where[:, None] - atoms[None], axis=2)
        if apart.size and apart.min() < MIN_DISTANCE_ANGSTROM:
            point, atom = np.unravel_index(np.argmin(apart), apart.shape)
            raise InputError(
                f"{system.name}, frame {frame}: point {point} of esp_grid.npy is {apart.min():.2g} Å from atom {atom} "
                "(from 0). Are the points in the unit of the coordinates?"
            )


def _fragments(
    system: System,
    topology: Any,
    own: np.ndarray,
    params: Params,
    x: np.ndarray,
    boxes: np.ndarray | None,
    part: Callable[[Any], Potential] | None,
) -> tuple[Fragment, ...]:
    """The fragments of interaction energies, if there are any."""
    if "interaction" not in system.labels or part is None:
        return ()
    if system.fragments is None:
        raise InputError(
            f"{system.name}: has interaction.npy, but no fragment.raw that tells which fragment each atom belongs to. "
            "Write one integer for each atom beside type.raw, such as 0 0 0 1 1 1."
        )
    found = []
    for atoms in fragment_atoms(topology, system.fragments, own, f"{system.name}/fragment.raw"):
        potential = part(sub_topology(topology, atoms))
        lists = frame_lists(potential, params, x[:, atoms], boxes)
        found.append(Fragment(atoms=jnp.asarray(atoms), potential=potential, neighbors=lists))
    return tuple(found)


def frame_lists(potential: Potential, params: Params, x: np.ndarray, boxes: np.ndarray | None) -> Neighbors | None:
    """The neighbour lists of all frames, of one capacity; None if no term has a cutoff."""
    if not potential.cutoff:
        return None
    placed = np.asarray(jax.vmap(lambda one: potential.placed(params, one))(jnp.asarray(x)))
    each = [None] * len(x) if boxes is None else list(boxes)
    lists = [neighbor_list(one, box, potential.cutoff) for one, box in zip(placed, each, strict=True)]
    capacity = capacity_for(max(len(found.i) for found in lists))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(found.padded(capacity, x.shape[1]) for found in lists))
