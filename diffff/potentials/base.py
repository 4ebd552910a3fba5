"""What every energy term offers, and their sum.

    E(params, positions, box, neighbors),   F = -dE/dx,   virial = -dE/d(strain) = sum_i F_i (x) x_i

Units: nm, kJ/mol.
"""

from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials.virtual_sites import GROUP, VirtualSites
from diffff.pytree import pytree, static
from diffff.space import times

Params = dict[str, Any]


class Term(Protocol):
    """A contribution to the energy: it knows its atoms and parameter rows, not their numbers."""

    @property
    def name(self) -> str:
        """Key of its parameters in the tree."""
        ...

    @property
    def cutoff(self) -> float:
        """Distance up to which it needs neighbours, nm; 0 if none."""
        ...

    def energy(self, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol, a scalar.

        Args:
            params: the term's own part of the parameter tree.
            positions: shape ``(n_atoms, 3)``, nm.
            box: shape ``(3, 3)`` or None, nm; rows are the lattice vectors.
            neighbors: pairs up to at least `cutoff`, which `Potential` has made sure of.
        """
        ...


@runtime_checkable
class AtomicEnergies(Protocol):
    """A term whose energy is a sum over atoms."""

    def atomic_energies(
        self, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
    ) -> jax.Array:
        """Energy of each atom, kJ/mol, shape ``(n_atoms,)``; arguments as in `Term.energy`."""
        ...


class Shared(NamedTuple):
    """A column that a term takes from another group, such as the charges of an implicit solvent.

    Attributes:
        term: name of the term.
        column: its column.
        group: whose column of that name it is.
    """

    term: str
    column: str
    group: str


@pytree
class Potential:
    """Sum of terms; ``Potential + Potential`` is a Potential.

    Attributes:
        terms: what is summed.
        sites: virtual sites, which are placed before any term sees the positions.
        shared: columns that stand in the tree once, though several terms use them.
        shapes: ``(group, column, shape)`` of arrays in the tree, which are checked: an index beyond the end of an
            array is no error in JAX.
        n_atoms: number of atoms it is for, which is checked for the same reason; None: any.
        weights: ``(name, weight)`` of terms that do not count once.
    """

    terms: tuple[Term, ...]
    sites: tuple[VirtualSites, ...] = ()
    shared: tuple[Shared, ...] = static(default=())
    shapes: tuple[tuple[str, str, tuple[int, ...]], ...] = static(default=())
    n_atoms: int | None = static(default=None)
    weights: tuple[tuple[str, float], ...] = static(default=())

    @property
    def cutoff(self) -> float:
        """Largest cutoff of the terms, nm."""
        return max((term.cutoff for term in self.terms), default=0.0)

    def energy(
        self, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors | None
    ) -> jax.Array:
        """Total energy, kJ/mol; arguments as in `Term.energy`, with the whole parameter tree."""
        zero = jnp.zeros((), jnp.result_type(positions))
        return sum(self.energies(params, positions, box, neighbors).values(), zero)

    def energies(
        self, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors | None
    ) -> dict[str, jax.Array]:
        """Energy by name, kJ/mol; terms of one name, which have the same parameters, count together.

        They are NaN, and so are their derivatives, if the neighbour list lacks pairs. Without a cutoff, None will do.

        Raises:
            InputError: no neighbour list, or one that reaches less far than a term; another number of atoms; an array
                of the parameters is missing or has another shape.
        """
        neighbors = self._served_by(neighbors)
        positions = self.placed(params, positions)
        complete = jnp.where(neighbors.overflow, jnp.nan, 1.0).astype(positions.dtype)
        found: dict[str, jax.Array] = {}
        weights = dict(self.weights)
        for term in self.terms:
            energy = (
                complete
                * weights.get(term.name, 1.0)
                * term.energy(self.part(params, term.name), positions, box, neighbors)
            )
            found[term.name] = found[term.name] + energy if term.name in found else energy
        return found

    def atomic_energies(
        self, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors | None
    ) -> jax.Array:
        """Energy of each atom, kJ/mol, shape ``(n_atoms,)``.

        Raises:
            InputError: a term has no energies of atoms; or see `energies`.
        """
        neighbors = self._served_by(neighbors)
        positions = self.placed(params, positions)
        total, weights = jnp.zeros(len(positions), positions.dtype), dict(self.weights)
        for term in self.terms:
            if not isinstance(term, AtomicEnergies):
                raise InputError(f"{term.name} has no energies of single atoms; a Deep Potential has.")
            energies = term.atomic_energies(self.part(params, term.name), positions, box, neighbors)
            total = total + weights.get(term.name, 1.0) * energies
        return jnp.where(neighbors.overflow, jnp.nan, total)

    def _served_by(self, neighbors: Neighbors | None) -> Neighbors:
        """The list, which has all pairs that any term needs."""
        if neighbors is None:
            if self.cutoff > 0.0:
                raise InputError(f"there is no neighbour list, but the potential has a cutoff of {self.cutoff} nm.")
            return Neighbors.none()
        for term in self.terms:
            neighbors.require(term.cutoff, term.name)
        return neighbors

    def _check(self, params: Params, positions: jax.Array) -> None:
        if self.n_atoms not in (None, len(positions)):
            raise InputError(f"the potential is for {self.n_atoms} atoms, but there are positions of {len(positions)}.")
        for group, column, shape in self.shapes:
            found = jnp.shape(params[group][column]) if column in params.get(group, {}) else None
            if found != shape:
                what = "is missing in the parameters" if found is None else f"has the shape {found}"
                raise InputError(f"{group}/{column} {what}; it must have the shape {shape}.")

    def part(self, params: Params, name: str) -> Any:
        """What the terms of that name see of the parameter tree: their own group, and the columns they share."""
        if name not in params and not any(link.term == name for link in self.shared):
            raise InputError(f"the parameters have no {name!r}, but [{', '.join(sorted(params))}].")
        shared = {link.column: params[link.group][link.column] for link in self.shared if link.term == name}
        return {**params.get(name, {}), **shared} if shared else params[name]

    def placed(self, params: Params, positions: jax.Array) -> jax.Array:
        """The positions with all virtual sites where they belong, from which neighbours are to be found.

        Raises:
            InputError: another number of atoms; an array of the parameters is missing or has another shape.
        """
        self._check(params, positions)
        positions = jnp.asarray(positions)
        for sites in self.sites:
            positions = sites.placed(params[GROUP], positions)
        return positions

    def weighted(self, weight: float) -> "Potential":
        """The potential times a number."""
        before = dict(self.weights)
        names = dict.fromkeys(term.name for term in self.terms)
        return replace(self, weights=tuple((name, weight * before.get(name, 1.0)) for name in names))

    def __add__(self, other: "Potential") -> "Potential":
        if None not in (self.n_atoms, other.n_atoms) and self.n_atoms != other.n_atoms:
            raise InputError(f"a potential for {self.n_atoms} atoms and one for {other.n_atoms} have no sum.")
        deep = [{term.name for term in one.terms if isinstance(term, AtomicEnergies)} for one in (self, other)]
        if twice := deep[0] & deep[1]:
            raise InputError(
                f"both potentials have a Deep Potential {min(twice)}; give one another name, as potential(types, "
                "name=…) of its model does."
            )
        ours, theirs = (
            {term.name: dict(one.weights).get(term.name, 1.0) for term in one.terms} for one in (self, other)
        )
        if twice := [name for name in ours if theirs.get(name, ours[name]) != ours[name]]:
            raise InputError(f"both potentials have the term {twice[0]}, with different weights; give them the same.")
        return Potential(
            terms=self.terms + other.terms,
            sites=self.sites + other.sites,
            shared=self.shared + other.shared,
            shapes=self.shapes + other.shapes,
            n_atoms=other.n_atoms if self.n_atoms is None else self.n_atoms,
            weights=self.weights + other.weights,
        )


def require_potential(potential: Any, params: Any) -> None:
    """Refuse what is no potential with its parameters, such as a model.

    Raises:
        InputError: one of them is something else.
    """
    if not isinstance(potential, Potential) or not isinstance(params, dict):
        kinds = f"{type(potential).__name__} and {type(params).__name__}"
        raise InputError(
            f"a potential and its params are wanted, but {kinds} are given; "
            "of a model that is model.potential(types) and model.params."
        )


def energy_and_forces(
    potential: Potential, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
) -> tuple[jax.Array, jax.Array]:
    """Energy, kJ/mol, and forces ``(n_atoms, 3)``, kJ/mol/nm."""
    energy, gradient = jax.value_and_grad(potential.energy, argnums=1)(params, positions, box, neighbors)
    return energy, -gradient


def virial(
    potential: Potential, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
) -> jax.Array:
    """Virial ``(3, 3)``, kJ/mol: ``-dE/d(epsilon)`` for ``x -> x (1 + epsilon)``, ``box -> box (1 + epsilon)``."""

    def strained(epsilon: jax.Array) -> jax.Array:
        deform = jnp.eye(3, dtype=positions.dtype) + epsilon
        return potential.energy(
            params, times(positions, deform), None if box is None else times(box, deform), neighbors
        )

    return -jax.grad(strained)(jnp.zeros((3, 3), positions.dtype))


def energy_forces_virial(
    potential: Potential, params: Params, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All of `energy_and_forces` and `virial` at once."""

    def strained(positions: jax.Array, epsilon: jax.Array) -> jax.Array:
        deform = jnp.eye(3, dtype=positions.dtype) + epsilon
        return potential.energy(
            params, times(positions, deform), None if box is None else times(box, deform), neighbors
        )

    none = jnp.zeros((3, 3), positions.dtype)
    energy, (gradient, by_strain) = jax.value_and_grad(strained, (0, 1))(positions, none)
    return energy, -gradient, -by_strain
