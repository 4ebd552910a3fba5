"""Lennard-Jones by atom type, with rows of their own for some pairs of types (CHARMM's NBFIX).

    E = sum_pairs S(r) LJ(r, sigma_ab, eps_ab)  +  lj14scale sum_1-4 LJ(r, sigma14_ab, eps14_ab)
    LJ = 4 eps [(sigma/r)^12 - (sigma/r)^6]
    sigma_ab = (sigma_a + sigma_b) / 2,   eps_ab = sqrt(eps_a eps_b),   or the row of the pair of types a, b

What a pair of types has stands in a small table, made anew from the parameters in each evaluation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials import dispersion, pairwise
from diffff.pytree import pytree, static

Method = Literal["NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic"]
Pairs = np.ndarray | Sequence[Sequence[int]]


@pytree
class LennardJones:
    """The term; `lennard_jones` makes and checks one.

    Parameters: ``sigma`` (nm) and ``epsilon`` (kJ/mol) of types; ``sigma14`` and ``epsilon14``, which some types have
    for 1-4 pairs; ``nbfix_sigma`` and ``nbfix_epsilon`` of pairs of types, which 1-4 pairs have too; the scalar
    ``lj14scale``. Where the epsilon of a type is zero its derivative is given as zero: that of its square root has no
    finite value.

    Attributes:
        types: shape ``(n_atoms,)``, type of each atom.
        rows: shape ``(n_types,)``, row of sigma and epsilon of each type.
        sigma14_rows: shape ``(n_types,)``, row of sigma14; -1: it is sigma.
        epsilon14_rows: shape ``(n_types,)``, row of epsilon14; -1: it is epsilon.
        nbfix_rows: shape ``(n_types, n_types)``, symmetric, row of nbfix_sigma and nbfix_epsilon; -1: none.
        excluded: shape ``(n, 2)``, smaller index first, sorted: pairs without the plain interaction, 1-4 pairs too.
        pairs14: shape ``(n, 2)``; they interact where they are, not with the nearest image, as in OpenMM.
        method: OpenMM's name.
        cutoff: nm; 0 for NoCutoff, which needs no neighbours.
        switch_distance: where the interaction starts to be switched off, nm; None: it is cut.
        dispersion_correction: add the energy beyond the cutoff of a uniform fluid.
        name: key in the parameter tree.
    """

    types: jax.Array
    rows: jax.Array
    sigma14_rows: jax.Array
    epsilon14_rows: jax.Array
    nbfix_rows: jax.Array
    excluded: jax.Array
    pairs14: jax.Array
    method: Method = static(default="NoCutoff")
    cutoff: float = static(default=0.0)
    switch_distance: float | None = static(default=None)
    dispersion_correction: bool = static(default=False)
    name: str = static(default="LennardJonesForce")

    def energy(self, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; arguments as in `Term.energy`.

        Raises:
            InputError: box and method do not go together.
        """
        if self.method != "NoCutoff":
            pairwise.require_box(box, self.method, self.name)
        positions, box = jnp.asarray(positions), None if box is None else jnp.asarray(box)
        sigma, epsilon = params["sigma"][self.rows], params["epsilon"][self.rows]
        tables = self._tables(params, sigma, epsilon)
        columns = (self.types.astype(positions.dtype),)  # whole numbers, exact in any dtype
        if self.method == "NoCutoff":
            total = pairwise.sum_all(partial(self._pair, tables=tables), positions, columns, self.excluded)
        else:
            total = pairwise.sum_listed(
                self._pair, positions, box, columns, neighbors, self.excluded, self.cutoff, (tables,)
            )
        if len(self.pairs14):
            sigma14 = _either(params["sigma14"], self.sigma14_rows, sigma)
            epsilon14 = _either(params["epsilon14"], self.epsilon14_rows, epsilon)
            total += params["lj14scale"] * self._sum14(positions, *self._tables(params, sigma14, epsilon14))
        if box is not None and self.dispersion_correction:
            total += self._tail(*tables, jnp.abs(jnp.linalg.det(box)))
        return total

    def _tables(self, params: Any, sigma: jax.Array, epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Sigma and epsilon of each pair of types, ``(n_types * n_types,)``, from those of the types."""
        root = pairwise.root(epsilon)
        sigmas = _either(params["nbfix_sigma"], self.nbfix_rows, 0.5 * (sigma[:, None] + sigma))
        epsilons = _either(params["nbfix_epsilon"], self.nbfix_rows, root[:, None] * root)
        return sigmas.ravel(), epsilons.ravel()

    def _pair(
        self,
        squared: jax.Array,
        first: pairwise.Columns,
        second: pairwise.Columns,
        tables: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """Energy of pairs of the plain interaction, whose columns are their types."""
        which = first[0].astype(jnp.int32) * len(self.rows) + second[0].astype(jnp.int32)
        sigma, epsilon = (table.at[which].get(mode="clip") for table in tables)
        energy = pairwise.lennard_jones(squared, sigma, epsilon)
        if self.switch_distance is None:
            return energy
        return energy * pairwise.switch(jnp.sqrt(squared), self.switch_distance, self.cutoff)

    def _sum14(self, positions: jax.Array, sigma: jax.Array, epsilon: jax.Array) -> jax.Array:
        squared = pairwise.squared_distances(positions, None, self.pairs14)
        which = self.types[self.pairs14[:, 0]] * len(self.rows) + self.types[self.pairs14[:, 1]]
        return jnp.sum(pairwise.lennard_jones(squared, sigma[which], epsilon[which]))

    def _tail(self, sigma: jax.Array, epsilon: jax.Array, volume: jax.Array) -> jax.Array:
        """Energy beyond the cutoff and of what the switch takes away; the mean over all N (N + 1) / 2 pairs, as OpenMM.

        For one pair of types it is that of a single particle in the cell, which is proportional to epsilon.
        """
        n = len(self.types)
        counts = jnp.zeros(len(self.rows), volume.dtype).at[self.types].add(1.0)
        pairs = (0.5 * (counts[:, None] * counts + jnp.diag(counts))).ravel()  # a particle with itself included
        one = jnp.ones(1, volume.dtype)

        def alone(sigma: jax.Array) -> jax.Array:
            return dispersion.tail_energy(sigma[None], one, volume, self.cutoff, self.switch_distance)

        return 2.0 * n / (n + 1) * jnp.sum(pairs * epsilon * jax.vmap(alone)(sigma))


def lennard_jones(
    types: Any,
    rows: Any,
    *,
    sigma14_rows: Any = None,
    epsilon14_rows: Any = None,
    nbfix_rows: Any = None,
    excluded: Pairs = (),
    pairs14: Pairs = (),
    method: Method = "NoCutoff",
    cutoff: float = 1.0,
    switch_distance: float | None = None,
    dispersion_correction: bool = True,
    name: str = "LennardJonesForce",
) -> LennardJones:
    """Make the term, on the host. Arguments that a method does not use are ignored, as in OpenMM.

    Args:
        types: shape ``(n_atoms,)``, type of each atom, an index into the next.
        rows: shape ``(n_types,)``, row of each type.
        sigma14_rows: see `LennardJones`; None: no type has one.
        epsilon14_rows: the same.
        nbfix_rows: the same; None: no pair of types has one.
        excluded: pairs without interaction; those of the next need not be repeated.
        pairs14: pairs whose interaction is scaled.
        method: OpenMM's name.
        cutoff: nm, for all methods but NoCutoff.
        switch_distance: nm; None: no switch.
        dispersion_correction: for CutoffPeriodic.
        name: key in the parameter tree.

    Raises:
        InputError: a number, shape or pair that makes no sense.
    """
    if method not in get_args(Method):
        raise InputError(f"{name}: method {method!r} is unknown; use one of {', '.join(get_args(Method))}")
    if method == "NoCutoff":
        cutoff, switch_distance = 0.0, None
    elif not 0.0 < cutoff < float("inf"):
        raise InputError(f"{name}: the cutoff is {cutoff} nm; {method} needs a positive number")
    if switch_distance is not None and not 0.0 <= switch_distance < cutoff:
        raise InputError(f"{name}: switch_distance {switch_distance} nm must lie between 0 and the cutoff {cutoff} nm")
    types, rows = np.asarray(types, np.int32), np.asarray(rows, np.int32)
    n = len(rows)
    if types.ndim != 1 or (types.size and not 0 <= types.min() <= types.max() < n):
        raise InputError(f"{name}: the types of the atoms must be numbers of 0 to {n - 1}, one for each atom")
    optional = {
        what: np.full(shape, -1, np.int32) if given is None else np.asarray(given, np.int32)
        for what, given, shape in (
            ("sigma14_rows", sigma14_rows, (n,)),
            ("epsilon14_rows", epsilon14_rows, (n,)),
            ("nbfix_rows", nbfix_rows, (n, n)),
        )
    }
    nbfix = optional["nbfix_rows"]
    if any(len(given) != n for given in optional.values()) or nbfix.shape != (n, n) or (nbfix != nbfix.T).any():
        raise InputError(f"{name}: there are {n} types; give one row to each, and nbfix_rows as a symmetric table")
    scaled = _pairs(pairs14, len(types), name)
    return LennardJones(
        types=jnp.asarray(types),
        rows=jnp.asarray(rows),
        **{what: jnp.asarray(given) for what, given in optional.items()},
        excluded=jnp.asarray(np.unique(np.concatenate([_pairs(excluded, len(types), name), scaled]), axis=0)),
        pairs14=jnp.asarray(scaled),
        method=method,
        cutoff=float(cutoff),
        switch_distance=switch_distance,
        dispersion_correction=dispersion_correction and method == "CutoffPeriodic",
        name=name,
    )


def _pairs(pairs: Pairs, n_atoms: int, name: str) -> np.ndarray:
    """Pairs with the smaller index first, ``(n, 2)``."""
    found = np.sort(np.asarray(pairs, np.int32).reshape(-1, 2), axis=1)
    if len(found) and (found.min() < 0 or found.max() >= n_atoms or (found[:, 0] == found[:, 1]).any()):
        raise InputError(f"{name}: an excluded or 1-4 pair is not of two of the atoms 0 to {n_atoms - 1}; correct it")
    return found


def _either(own: jax.Array, rows: jax.Array, other: jax.Array) -> jax.Array:
    """``own[rows]`` where there is a row, else ``other``, which has the shape of ``rows``."""
    if not len(own):
        return other
    return jnp.where(rows >= 0, own[jnp.maximum(rows, 0)], other)
