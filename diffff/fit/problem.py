"""What a fit compares: frames of systems, each with its own potential, and residuals whose squares are added up.

    objective = 1/2 sum_k r_k^2,   r_k = sqrt(w_k) (predicted_k - reference_k) / sigma_k

| target | prediction | unit of sigma |
|---|---|---|
| energy | E of a frame, up to a constant of the system if relative | kJ/mol |
| force | -dE/dx | kJ/mol/nm |
| virial | -dE/d(strain) | kJ/mol |
| dipole | see `diffff.fit.targets` | e nm |
| esp | potential at points, see there | kJ/mol/e |
| interaction | energy of a frame without those of its fragments, see there | kJ/mol |

For relative energies the constant is the weighted mean of the differences, which minimises the sum of squares, so that
no variable is needed for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import model_validator

from diffff.errors import InputError
from diffff.fit import targets
from diffff.fit.sizes import Size
from diffff.fit.targets import Fragment
from diffff.neighbors import Neighbors
from diffff.potentials.base import Params, Potential, energy_and_forces, energy_forces_virial
from diffff.pytree import pytree, static
from diffff.spec import Spec
from diffff.units import GAS_CONSTANT

UNITS = {
    "energy": "kJ/mol",
    "force": "kJ/mol/nm",
    "virial": "kJ/mol",
    "dipole": "e nm",
    "esp": "kJ/mol/e",
    "interaction": "kJ/mol",
}


class Boltzmann(Spec):
    """Energies count by ``w = exp(-(E - min E) / (k T))`` of the reference, with the mean 1 in each system."""

    type: Literal["boltzmann"] = "boltzmann"
    temperature: Size
    "T, K."


@jax.tree_util.register_static  # pyright: ignore[reportArgumentType]  # frozen, so that it has a hash
class Sigmas(Spec):
    """How far predictions may be off, one standard deviation of each target; a target without one is left out."""

    type: Literal["residuals"] = "residuals"
    energy: Size | None = None
    "Of energies, kJ/mol."
    force: Size | None = None
    "Of each component of a force, kJ/mol/nm."
    virial: Size | None = None
    "Of each component of a virial, kJ/mol."
    dipole: Size | None = None
    "Of each component of a dipole, e nm."
    esp: Size | None = None
    "Of the electrostatic potential at a point, kJ/mol/e."
    interaction: Size | None = None
    "Of interaction energies, kJ/mol."
    relative: bool = True
    "Compares energies up to a constant of each system."
    weights: Literal["uniform"] | Boltzmann = "uniform"
    "How much the energy of each frame counts."

    @model_validator(mode="after")
    def _has_a_target(self) -> Self:
        if not self.targets:
            raise ValueError(f"names no target; give the sigma of at least one of {', '.join(UNITS)}")
        if self.weights != "uniform" and self.energy is None:
            raise ValueError(
                '"weights" are those of energies, which have no sigma; give "energy" one or remove "weights"'
            )
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that have a sigma."""
        return tuple(name for name in UNITS if getattr(self, name) is not None)


@pytree
class FitSystem:
    """Frames of one topology.

    Attributes:
        potential: for its atoms.
        positions: shape ``(n_frames, n_atoms, 3)``, nm; those of virtual sites do not matter.
        boxes: shape ``(n_frames, 3, 3)``, nm, or None.
        neighbors: lists of all frames, with a leading axis; None if no term has a cutoff.
        energy: shape ``(n_frames,)``, kJ/mol, or None.
        forces: shape ``(n_frames, n_real, 3)``, kJ/mol/nm, or None.
        virial: shape ``(n_frames, 3, 3)``, kJ/mol, or None.
        dipole: shape ``(n_frames, 3)``, e nm, or None.
        esp: shape ``(n_frames, n_points)``, kJ/mol/e, or None.
        esp_points: where, shape ``(n_frames, n_points, 3)``, nm, or None.
        interaction: shape ``(n_frames,)``, kJ/mol, or None.
        fragments: of the interaction energies.
        energy_weights: shape ``(n_frames,)``, beside those of `Sigmas`; None: all 1.
        real: shape ``(n_real,)``, the atoms that have forces; None: all, as there are no virtual sites.
        group: shape ``(n_frames,)``, which of several systems a frame is from; None: all from one.
        n_groups: number of these systems, each with a constant of its own in relative energies.
        name: for tables.
    """

    potential: Potential
    positions: jax.Array
    boxes: jax.Array | None = None
    neighbors: Neighbors | None = None
    energy: jax.Array | None = None
    forces: jax.Array | None = None
    virial: jax.Array | None = None
    dipole: jax.Array | None = None
    esp: jax.Array | None = None
    esp_points: jax.Array | None = None
    interaction: jax.Array | None = None
    fragments: tuple[Fragment, ...] = ()
    energy_weights: jax.Array | None = None
    real: jax.Array | None = None
    group: jax.Array | None = None
    n_groups: int = static(default=1)
    name: str = static(default="")

    @property
    def labels(self) -> dict[str, jax.Array]:
        """What the predictions are compared with, by target."""
        given = {name: self.forces if name == "force" else getattr(self, name) for name in UNITS}
        return {name: values for name, values in given.items() if values is not None}

    def take(self, frames: np.ndarray) -> "FitSystem":
        """The system with some of its frames, shape ``(n,)``, in this order."""
        of_all = ("potential", "fragments", "real", "name", "n_groups")
        by_frame = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in of_all}  # pyright: ignore[reportArgumentType]
        fragments = tuple(replace(one, neighbors=_taken(one.neighbors, frames)) for one in self.fragments)
        return replace(self, **_taken(by_frame, frames), fragments=fragments)


def merged(systems: Sequence[FitSystem]) -> list[FitSystem]:
    """The frames of systems with the same potential and labels put together, so that they share one program."""
    alike: dict[tuple[Any, ...], list[FitSystem]] = {}
    for one in systems:
        parts = tuple((id(part.potential), np.asarray(part.atoms).tobytes()) for part in one.fragments)
        points = None if one.esp_points is None else one.esp_points.shape[1]
        weighted = one.energy_weights is None
        key = (id(one.potential), parts, one.boxes is None, tuple(one.labels), points, weighted, one.group is None)
        alike.setdefault(key, []).append(one)
    return [_joined(some) if len(some) > 1 else some[0] for some in alike.values()]


def _joined(systems: Sequence[FitSystem]) -> FitSystem:
    first = systems[0]
    groups = np.repeat(np.arange(len(systems)), [len(one.positions) for one in systems])
    n_atoms = first.positions.shape[1]
    fragments = tuple(
        replace(each[0], neighbors=_joined_lists([one.neighbors for one in each], len(each[0].atoms)))
        for each in zip(*(one.fragments for one in systems), strict=True)
    )
    apart = ("potential", "fragments", "real", "name", "neighbors", "group", "n_groups")
    by_frame = [field.name for field in fields(first) if field.name not in apart]  # pyright: ignore[reportArgumentType]
    each = [{name: getattr(one, name) for name in by_frame} for one in systems]
    return replace(
        first,
        **jax.tree.map(_end_to_end, *each),
        neighbors=_joined_lists([one.neighbors for one in systems], n_atoms),
        fragments=fragments,
        group=jnp.asarray(groups),
        n_groups=len(systems),
        name=", ".join(one.name for one in systems),
    )


def _joined_lists(lists: Sequence[Neighbors | None], n_atoms: int) -> Neighbors | None:
    some = [one for one in lists if one is not None]
    if not some:
        return None
    capacity = max(one.i.shape[1] for one in some)
    padded = [jax.vmap(lambda listed: listed.padded(capacity, n_atoms))(one) for one in some]
    return jax.tree.map(_end_to_end, *padded)


def _end_to_end(*leaves: jax.Array) -> jax.Array:
    return jnp.asarray(np.concatenate([np.asarray(leaf) for leaf in leaves]))


def _taken(values: Any, frames: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[frames]), values)


def predictions(system: FitSystem, params: Params, sigmas: Sigmas) -> dict[str, jax.Array]:
    """What the potential says of all frames: the targets that have a sigma and labels.

    Returns:
        Of each target an array like its labels in `FitSystem`, absolute energies.

    Raises:
        InputError: the potential has no charges, but a target needs them; or there are no fragments.
    """
    return _predictions(system, params, [name for name in sigmas.targets if name in system.labels])


def _predictions(system: FitSystem, params: Params, wanted: Sequence[str]) -> dict[str, jax.Array]:
    potential, fragments = system.potential, system.fragments

    def of_one(
        x: jax.Array,
        box: jax.Array | None,
        neighbors: Neighbors | None,
        points: jax.Array | None,
        lists: tuple[Neighbors | None, ...],
    ) -> dict[str, jax.Array]:
        found = _mechanics(system, params, wanted, x, box, Neighbors.none() if neighbors is None else neighbors)
        if "dipole" in wanted:
            found["dipole"] = targets.dipole(potential, params, x)
        if "esp" in wanted and points is not None:
            found["esp"] = targets.potential_at(potential, params, x, points)
        if "interaction" in wanted:
            found["interaction"] = targets.interaction(found["energy"], fragments, params, x, box, lists)
        return {name: found[name] for name in wanted}

    lists = tuple(fragment.neighbors for fragment in fragments)
    return jax.vmap(of_one)(system.positions, system.boxes, system.neighbors, system.esp_points, lists)


_AT_ONCE = 64  # frames
_predicted = jax.jit(_predictions, static_argnames="wanted")


def _mechanics(
    system: FitSystem,
    params: Params,
    wanted: Sequence[str],
    x: jax.Array,
    box: jax.Array | None,
    neighbors: Neighbors,
) -> dict[str, jax.Array]:
    """Energy of a frame and what follows from its slopes, as far as it is wanted."""
    if "virial" in wanted:
        energy, forces, virial = energy_forces_virial(system.potential, params, x, box, neighbors)
    elif "force" in wanted:
        (energy, forces), virial = energy_and_forces(system.potential, params, x, box, neighbors), None
    elif "energy" in wanted or "interaction" in wanted:
        energy, forces, virial = system.potential.energy(params, x, box, neighbors), None, None
    else:
        return {}
    if forces is not None and system.real is not None:
        forces = forces[system.real]
    found = {"energy": energy, "force": forces, "virial": virial}
    return {name: values for name, values in found.items() if values is not None}


def frames_at_once(system: FitSystem) -> Iterator[tuple[FitSystem, int]]:
    """The frames without labels, some at a time, the last ones filled up; and how many are not filled in."""
    bare = replace(system, **{"forces" if name == "force" else name: None for name in UNITS}, energy_weights=None)
    bare = replace(bare, group=None, n_groups=1, name="")
    n_frames = len(system.positions)
    for first in range(0, n_frames, _AT_ONCE):
        frames = np.minimum(np.arange(first, first + _AT_ONCE), n_frames - 1)
        yield bare.take(frames), min(_AT_ONCE, n_frames - first)


def predicted(system: FitSystem, params: Params, sigmas: Sigmas) -> dict[str, np.ndarray]:
    """`predictions`, some frames at a time by a program that all systems of one potential share."""
    wanted = tuple(name for name in sigmas.targets if name in system.labels)
    if not wanted:
        return {}
    mechanics = ("energy",) if {"force", "virial"} & set(wanted) else ()
    asked = tuple(dict.fromkeys((*mechanics, *wanted)))
    parts = []
    for frames, n_own in frames_at_once(system):
        found = _predicted(frames, params, asked)
        parts.append({name: np.asarray(found[name])[:n_own] for name in wanted})
    return {name: np.concatenate([part[name] for part in parts]) for name in wanted}


def residuals(system: FitSystem, params: Params, sigmas: Sigmas) -> dict[str, jax.Array]:
    """The residuals ``r_k`` of each target, flat."""
    return residuals_of(system, predictions(system, params, sigmas), sigmas)


def residuals_of(system: FitSystem, found: Mapping[str, Any], sigmas: Sigmas) -> dict[str, jax.Array]:
    """The residuals of predictions, as `predictions` or `predicted` give them."""
    labels, out = system.labels, {}
    for target, values in found.items():
        difference = values - labels[target]
        if target == "energy":
            weights = energy_weights(system, sigmas)
            if sigmas.relative:
                difference = difference - mean_energy(system, weights, difference)
            difference = jnp.sqrt(weights) * difference
        out[target] = jnp.ravel(difference) / getattr(sigmas, target)
    return out


def energy_weights(system: FitSystem, sigmas: Sigmas) -> jax.Array:
    """How much the energy of each frame counts, shape ``(n_frames,)``, with the mean 1 in each system."""
    energy = system.labels["energy"]
    weights = jnp.ones_like(energy) if system.energy_weights is None else system.energy_weights
    if isinstance(sigmas.weights, Boltzmann):
        group = _group(system)
        lowest = jax.ops.segment_min(energy, group, system.n_groups)[group]
        weights = weights * jnp.exp((lowest - energy) / (GAS_CONSTANT * sigmas.weights.temperature))
    return weights / mean_energy(system, jnp.ones_like(energy), weights)


def mean_energy(system: FitSystem, weights: jax.Array, energy: jax.Array) -> jax.Array:
    """The weighted mean over the frames of the same system, at each frame ``(n_frames,)``."""
    group = _group(system)
    total, norm = (jax.ops.segment_sum(one, group, system.n_groups) for one in (weights * energy, weights))
    return (total / norm)[group]


def _group(system: FitSystem) -> jax.Array:
    return jnp.zeros(len(system.positions), int) if system.group is None else system.group


def all_residuals(systems: Sequence[FitSystem], params: Any, sigmas: Sigmas) -> jax.Array:
    """The residuals of all systems, one after the other, each in the order of the targets of `Sigmas`."""
    found = [residuals(system, params, sigmas) for system in systems]
    parts = [one[target] for one in found for target in sigmas.targets if target in one]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


def check_targets(systems: Sequence[FitSystem], params: Params, sigmas: Sigmas) -> None:
    """Refuse targets that cannot be computed or mean nothing, before a fit begins.

    Raises:
        InputError: a target has no labels in any system, the potential no charges, or interaction energies no
            fragments; or a dipole is that of charged or of periodic frames, or a potential that of periodic ones.
    """
    for target in sigmas.targets:
        having = [system for system in systems if target in system.labels]
        if not having:
            raise InputError(
                f"{target}: it has a sigma, but no system has {target}.npy. Add the labels, or leave the target out."
            )
        for system in having:
            where = f"{system.name or 'a system'}: {target}"
            if target in ("dipole", "esp"):
                _check_charges(system, params, target, where)
            if target == "interaction" and not system.fragments:
                raise InputError(f"{where}: the fragments have no potentials; read the frames with `part`.")


def _check_charges(system: FitSystem, params: Params, target: str, where: str) -> None:
    q = np.asarray(targets.charges(system.potential, params, where))
    if system.boxes is not None:
        raise InputError(
            f"{where}: the frames are periodic, but it is that of molecules in vacuum. Put an empty file nopbc beside "
            "type.raw, or leave the target out."
        )
    if target == "dipole" and abs(q.sum()) > targets.OFF_INTEGER:
        raise InputError(
            f"{where}: the charges of the topology sum up to {q.sum():.4g} e, and the dipole of what is charged "
            "depends on the origin. Fit esp instead, or leave the target out."
        )
