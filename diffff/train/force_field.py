"""The force field under a Deep Potential in training: its energies for the frames on the device.

Where none of its numbers move, its energies, forces and virials are taken from the labels once, and the network is
trained on what is left. Where some move, they are computed in each step and have gradients of their own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from diffff import units
from diffff.data.systems import System
from diffff.errors import InputError
from diffff.fit.data import atoms_in_files, fit_system, frame_lists, require_whole_frames
from diffff.fit.free import Free, free_of
from diffff.fit.parameters import Parameters
from diffff.fit.plausible import require_plausible, sampled
from diffff.fit.rules import Numbers
from diffff.frontend.forcefield import ForceField
from diffff.neighbors import Neighbors
from diffff.potentials.base import Params, Potential, energy_forces_virial
from diffff.pytree import pytree, static
from diffff.train.topology_models import TopologyModels

GROUP, LEAF = "ForceField", "free"
FREE = f"{GROUP}/{LEAF}"
"""Path of the free variables among the leaves that are trained."""
_AT_ONCE = 256  # frames
_LABELS = ("energy", "force", "virial")  # that it has a part in


@pytree
class ForceFieldFrames:
    """What a force field needs of frames with one topology, beside their positions and boxes.

    Attributes:
        potential: for the atoms in the order of the topology.
        free: from the free variables to the numbers that move; None: none does.
        atoms: those of the topology that the frames have, all but virtual sites, shape ``(n_own,)``.
        slots: where they stand in the frames, shape ``(n_own,)``.
        neighbors: lists of all frames, with a leading axis; None without a cutoff.
        periodic: whether the frames have boxes.
        n_atoms: number of atoms and sites of the topology.
    """

    potential: Potential
    free: Free | None
    atoms: jax.Array
    slots: jax.Array
    neighbors: Neighbors | None
    periodic: bool = static()
    n_atoms: int = static()

    def take(self, indices: jax.Array) -> "ForceFieldFrames":
        """The frames of these indices."""
        return replace(self, neighbors=jax.tree.map(lambda leaf: leaf[indices], self.neighbors))

    def predict(self, params: Params, positions: jax.Array, boxes: jax.Array) -> dict[str, jax.Array]:
        """Energies, forces and virials.

        Args:
            params: the parameter tree of the force field.
            positions: shape ``(n_frames, n_slots, 3)``, Å.
            boxes: shape ``(n_frames, 3, 3)``, Å; unused without periodicity.

        Returns:
            ``energy (n_frames,)`` eV, ``force (n_frames, n_slots, 3)`` eV/Å, ``virial (n_frames, 3, 3)`` eV.
        """
        x = jnp.zeros((len(positions), self.n_atoms, 3), positions.dtype)
        x = x.at[:, self.atoms].set(positions[:, self.slots] * units.NM_PER_ANGSTROM)
        box = boxes * units.NM_PER_ANGSTROM if self.periodic else None

        def of_one(x: jax.Array, box: jax.Array | None, neighbors: Neighbors | None) -> tuple[jax.Array, ...]:
            listed = Neighbors.none() if neighbors is None else neighbors
            return energy_forces_virial(self.potential, params, x, box, listed)

        energy, forces, virial = jax.vmap(of_one)(x, box, self.neighbors)
        placed = jnp.zeros(positions.shape, forces.dtype).at[:, self.slots].set(forces[:, self.atoms])
        return {
            "energy": energy / units.KJ_PER_MOL_PER_EV,
            "force": placed / units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM,
            "virial": virial / units.KJ_PER_MOL_PER_EV,
        }


@dataclass(frozen=True, eq=False)
class ForceFieldPart:
    """The force field of a sum with a network.

    Attributes:
        models: its potentials, with its weight in the sum.
        type_map: names of the types of the systems.
    """

    models: TopologyModels
    type_map: tuple[str, ...]

    @property
    def field(self) -> ForceField:
        """The files."""
        return self.models.field

    def key(self, system: System) -> tuple[int, bool, tuple[int, ...]]:
        """Systems with the same one share programs: topology, periodicity and order of the atoms."""
        return id(self.models.structure(system.name)), system.boxes is not None, tuple(system.order.tolist())

    def moves(self, parameters: Parameters) -> tuple[list[Numbers], Free]:
        """The numbers that move, and the free variables; ties are about the residues of all topologies read so far."""
        params = self.field.params()
        found = parameters.moving(params, self.field.rows)
        return found, free_of(params, found, parameters.ties, self.models.residues(), self.field.units)

    def require_plausible(self, system: System, assumed: str, targets: Collection[str]) -> None:
        """Refuse labels that the force field says are in another unit or of another sign, and atoms in another order.

        Args:
            system: as it has been read.
            assumed: the unit of its files.
            targets: the labels that matter.

        Raises:
            InputError: see `diffff.fit.plausible`.
        """
        frames, structure = sampled(system.n_frames), self.models.structure(system.name)
        # the size of the labels is that of the physics, whatever the weight
        potential, params = replace(self.models.bound(structure).potential, weights=()), self.field.params()
        frames_of_fit = fit_system(system.take(frames, _LABELS), structure.topology, self.type_map, potential, params)
        wanted = [name for name in _LABELS if name in targets]
        require_plausible(frames_of_fit, params, structure.topology, assumed, wanted, whole=False)

    def frames(self, systems: Sequence[System], free: Free | None = None) -> ForceFieldFrames:
        """What the force field needs of all frames of systems with one `key`, one after the other.

        Raises:
            InputError: the atoms are not those of the topology.
        """
        first, structure = systems[0], self.models.structure(systems[0].name)
        potential, params = self.models.bound(structure).potential, self.field.params()
        atoms, slots = atoms_in_files(first, structure.symbols, self.type_map), np.argsort(first.order)
        positions = np.concatenate([one.positions for one in systems])
        x = np.zeros((len(positions), len(structure.symbols), 3))
        x[:, atoms] = positions[:, slots] * units.NM_PER_ANGSTROM
        each = [one.boxes * units.NM_PER_ANGSTROM for one in systems if one.boxes is not None]
        boxes = np.concatenate(each) if each else None
        require_whole_frames(first.name, potential, x, boxes)
        return ForceFieldFrames(
            potential=potential,
            free=free,
            atoms=jnp.asarray(atoms),
            slots=jnp.asarray(slots),
            neighbors=frame_lists(potential, params, x, boxes),
            periodic=boxes is not None,
            n_atoms=len(structure.symbols),
        )

    def without(self, system: System, params: Params | None = None) -> System:
        """The system with the force field's energies, forces and virials taken from the labels.

        Args:
            system: with all labels.
            params: of the force field; None: those of the files.

        Raises:
            InputError: see `Topologies.of`; or the frames have labels that the force field has no part in.
        """
        if other := {"atom_ener", "atom_ener_coeff"} & system.labels.keys():
            raise InputError(
                f"{system.name}: {min(other)} is for single atoms, but a force field has no energy of them."
            )
        base, params = self.frames([system]), self.field.params() if params is None else params
        found: dict[str, list[np.ndarray]] = {name: [] for name in _LABELS}
        zero = np.zeros((system.n_frames, 3, 3))
        boxes = zero if system.boxes is None else system.boxes
        for first in range(0, system.n_frames, _AT_ONCE):
            some = np.arange(first, min(first + _AT_ONCE, system.n_frames))
            out = _predict(base.take(jnp.asarray(some)), params, system.positions[some], boxes[some])
            for name, values in found.items():
                values.append(np.asarray(out[name]))
        labels = {
            name: values - np.concatenate(found[name]) if name in found else values
            for name, values in system.labels.items()
        }
        return replace(system, labels=labels)


_predict = jax.jit(ForceFieldFrames.predict)
