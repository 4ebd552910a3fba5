"""What a fit compares: frames of systems, each with its own potential, and residuals whose squares are added up.

    objective = 1/2 sum_k r_k^2,   r_k = sqrt(w_k) (predicted_k - reference_k) / sigma_k

| target | prediction | unit of sigma |
|---|---|---|
| energy | E of a frame, up to a constant of the system if relative | kJ/mol |
| force | -dE/dx | kJ/mol/nm |
| virial | -dE/d(strain) | kJ/mol |

For relative energies the constant is the weighted mean of the differences, which minimises the sum of squares, so that
no variable is needed for it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffff.neighbors import Neighbors
from diffff.potentials.base import Params, Potential, energy_and_forces, energy_forces_virial
from diffff.pytree import pytree, static


@pytree
class FitSystem:
    """Frames of one topology.

    Attributes:
        potential: for its atoms.
        positions: shape ``(n_frames, n_atoms, 3)``, nm.
        boxes: shape ``(n_frames, 3, 3)``, nm, or None.
        neighbors: lists of all frames, with a leading axis; None if no term has a cutoff.
        energy: shape ``(n_frames,)``, kJ/mol, or None.
        forces: shape ``(n_frames, n_atoms, 3)``, kJ/mol/nm, or None.
        virial: shape ``(n_frames, 3, 3)``, kJ/mol, or None.
        energy_weights: shape ``(n_frames,)``, with the mean 1; None: all 1.
        name: for tables.
    """

    potential: Potential
    positions: jax.Array
    boxes: jax.Array | None = None
    neighbors: Neighbors | None = None
    energy: jax.Array | None = None
    forces: jax.Array | None = None
    virial: jax.Array | None = None
    energy_weights: jax.Array | None = None
    name: str = static(default="")


@pytree
class Sigmas:
    """How far predictions may be off, one standard deviation; None leaves a target out.

    Attributes:
        energy: kJ/mol.
        force: kJ/mol/nm.
        virial: kJ/mol.
        relative: whether energies are compared up to a constant of each system.
    """

    energy: float | None = static(default=None)
    force: float | None = static(default=None)
    virial: float | None = static(default=None)
    relative: bool = static(default=True)


def predictions(system: FitSystem, params: Params, sigmas: Sigmas) -> dict[str, jax.Array]:
    """What the potential says of all frames: the targets that have a sigma and labels.

    Returns:
        ``energy (n_frames,)``, ``force (n_frames, n_atoms, 3)``, ``virial (n_frames, 3, 3)``.
    """
    wants_virial = sigmas.virial is not None and system.virial is not None
    wants_force = sigmas.force is not None and system.forces is not None

    def of_one(x: jax.Array, box: jax.Array | None, neighbors: Neighbors | None) -> dict[str, jax.Array]:
        listed = Neighbors.none() if neighbors is None else neighbors
        if wants_virial:
            energy, forces, virial = energy_forces_virial(system.potential, params, x, box, listed)
            return {"energy": energy, "force": forces, "virial": virial}
        if wants_force:
            energy, forces = energy_and_forces(system.potential, params, x, box, listed)
            return {"energy": energy, "force": forces}
        return {"energy": system.potential.energy(params, x, box, listed)}

    return jax.vmap(of_one)(system.positions, system.boxes, system.neighbors)


def residuals(system: FitSystem, params: Params, sigmas: Sigmas) -> dict[str, jax.Array]:
    """The residuals ``r_k`` of each target, flat."""
    found, out = predictions(system, params, sigmas), {}
    if sigmas.energy is not None and system.energy is not None:
        difference = found["energy"] - system.energy
        weights = jnp.ones_like(difference) if system.energy_weights is None else system.energy_weights
        if sigmas.relative:
            difference = difference - jnp.sum(weights * difference) / jnp.sum(weights)
        out["energy"] = jnp.sqrt(weights) * difference / sigmas.energy
    if sigmas.force is not None and system.forces is not None:
        out["force"] = jnp.ravel(found["force"] - system.forces) / sigmas.force
    if sigmas.virial is not None and system.virial is not None:
        out["virial"] = jnp.ravel(found["virial"] - system.virial) / sigmas.virial
    return out


def all_residuals(systems: Sequence[FitSystem], params: Any, sigmas: Sigmas) -> jax.Array:
    """The residuals of all systems and targets, one after the other."""
    parts = [part for system in systems for part in residuals(system, params, sigmas).values()]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)
