"""Frames of data sets for a fit: in nm and kJ/mol, in the order of a topology, with their neighbour lists."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff import units
from diffff.data.systems import System, data_type_map, read_systems
from diffff.errors import InputError
from diffff.fit.problem import FitSystem
from diffff.frontend.reference import symbols_of
from diffff.md.whole import bonded_pairs, require_whole
from diffff.neighbors import Neighbors, neighbor_list
from diffff.potentials.base import Params, Potential

_LABELS = ("energy", "force", "virial")


def read_frames(paths: str | Sequence[str], topology: Any, potential: Potential, params: Params) -> list[FitSystem]:
    """Systems of one topology, with the energies, forces and virials that they have.

    Args:
        paths: directories or HDF5 groups of DeePMD-kit's layout, eV and Å, with type_map.raw; all systems below them.
        topology: ``openmm.app.Topology``, its atoms in the order of the files.
        potential: for this topology; its cutoff is that of the neighbour lists.
        params: with which virtual sites are placed for these lists.

    Raises:
        InputError: see `read_systems`; or the atoms are not those of the topology, or a boundary has cut molecules.
    """
    symbols = symbols_of(topology)
    type_map = data_type_map(paths)
    return [
        _converted(system, symbols, type_map, potential, params)
        for system in read_systems(paths, type_map, labels=_LABELS)
    ]


def _converted(
    system: System, symbols: Sequence[str | None], type_map: Sequence[str], potential: Potential, params: Params
) -> FitSystem:
    if system.real is not None:
        raise InputError(f"{system.name}: frames have different atoms (mixed_type), but a fit has one topology.")
    types = system.in_file_order(system.types[None], slice(0, 1))[0]
    if len(types) != len(symbols):
        raise InputError(f"{system.name}: frames of {len(types)} atoms, but the topology has {len(symbols)}.")
    for atom, (kind, symbol) in enumerate(zip(types, symbols, strict=True)):
        if type_map[kind] != symbol:
            raise InputError(
                f"{system.name}: atom {atom} (from 0) is {type_map[kind]}, but {symbol or 'a site'} in the topology. "
                "Bring both into one order."
            )
    x = system.in_file_order(system.positions) / units.ANGSTROM_PER_NM
    boxes = None if system.boxes is None else system.boxes / units.ANGSTROM_PER_NM
    pairs = bonded_pairs(potential)
    for frame in range(len(x)):
        try:
            require_whole(pairs, x[frame], None if boxes is None else boxes[frame])
        except InputError as error:
            raise InputError(f"{system.name}, frame {frame}: {error}") from None
    energy, force, virial = (system.labels.get(name) for name in _LABELS)
    kj, per_nm = units.KJ_PER_MOL_PER_EV, units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM
    return FitSystem(
        potential=potential,
        positions=jnp.asarray(x),
        boxes=None if boxes is None else jnp.asarray(boxes),
        neighbors=_lists(potential, params, x, boxes),
        energy=None if energy is None else jnp.asarray(energy * kj),
        forces=None if force is None else jnp.asarray(system.in_file_order(force) * per_nm),
        virial=None if virial is None else jnp.asarray(virial * kj),
        name=system.name,
    )


def _lists(potential: Potential, params: Params, x: np.ndarray, boxes: np.ndarray | None) -> Neighbors | None:
    """The neighbour lists of all frames, of one capacity; None if no term has a cutoff."""
    if not potential.cutoff:
        return None
    placed = np.asarray(jax.vmap(lambda one: potential.placed(params, one))(jnp.asarray(x)))
    each = [None] * len(x) if boxes is None else list(boxes)
    lists = [neighbor_list(one, box, potential.cutoff) for one, box in zip(placed, each, strict=True)]
    capacity = max(len(found.i) for found in lists)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(found.padded(capacity, x.shape[1]) for found in lists))
