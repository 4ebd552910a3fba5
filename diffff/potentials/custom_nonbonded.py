"""OpenMM's CustomNonbondedForce: an expression of the distance and of the parameters of two atoms, for all pairs.

    E = sum over pairs of  S(r) expression(r, a1, a2, ...)   [+ what is beyond the cutoff in a uniform fluid]

Parameters: as in `diffff.potentials.custom`; a row of parameters belongs to an atom.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials import pairwise
from diffff.potentials.custom import Columns, CustomEnergy, check_coordinate
from diffff.pytree import pytree, static

Method = Literal["NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic"]

MAX_CLASSES = 1000  # of atoms that differ in their row, for the correction beyond the cutoff: half a million pairs
_NODES = (24, 48)  # of the quadrature of that correction, coarse and fine


@pytree
class CustomNonbonded:
    """An expression of the distance ``r``, nm, of all pairs of atoms; `custom_nonbonded` makes and checks one.

    The expression must be the same when 1 and 2 change places: which atom of a pair comes first is not defined.

    Attributes:
        rows: shape ``(n_atoms,)``, row of each atom.
        excluded: shape ``(n, 2)``, smaller index first, sorted: pairs without interaction (of the nearest image).
        class_rows: shape ``(n_classes,)``, the rows in use; empty without the correction beyond the cutoff.
        class_counts: shape ``(n_classes,)``, how many atoms have them.
        law: the expression, with coordinate "r" and per-row parameters in pairs.
        method: OpenMM's name.
        cutoff: nm; 0 for NoCutoff, which needs no neighbours.
        switch_distance: where the interaction starts to be switched off, nm; None: it is cut.
        name: key of its parameters.
    """

    rows: jax.Array
    excluded: jax.Array
    class_rows: jax.Array
    class_counts: jax.Array
    law: CustomEnergy = static()
    method: Method = static(default="NoCutoff")
    cutoff: float = static(default=0.0)
    switch_distance: float | None = static(default=None)
    name: str = static(default="CustomNonbondedForce")

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; arguments as in `Term.energy`.

        Raises:
            InputError: box and method do not go together.
        """
        positions, law = jnp.asarray(positions), self.law.bind(params)
        columns = self.law.rows_of(params, self.rows) or (jnp.zeros_like(positions[:, 0]),)
        n_columns = len(self.law.parameters)

        def pair(
            squared: jax.Array, first: pairwise.Columns, second: pairwise.Columns, params: Columns = params
        ) -> jax.Array:
            r = jnp.sqrt(squared)
            energy = self.law.bind(params)(r, first[:n_columns], second[:n_columns])
            if self.switch_distance is None:
                return energy
            return energy * pairwise.switch(r, self.switch_distance, self.cutoff)

        if self.method == "NoCutoff":
            return pairwise.sum_all(pair, positions, columns, self.excluded)
        pairwise.require_box(box, self.method, self.name)
        total = pairwise.sum_listed(pair, positions, box, columns, neighbors, self.excluded, self.cutoff, (params,))
        if box is None or not len(self.class_rows):
            return total
        return total + self._tail(params, law, jnp.abs(jnp.linalg.det(box)))

    def _tail(self, params: Columns, law: Callable[..., jax.Array], volume: jax.Array) -> jax.Array:
        """Energy beyond the cutoff, and of what the switch takes away, if atoms were distributed uniformly.

            2 pi N^2 / V  mean over pairs of  integral (1 - S(r)) E(r) r^2 dr

        The mean runs over all N (N + 1) / 2 pairs, an atom with itself included, as in OpenMM, whose quadrature is good
        to about 1e-5; ours is Gauss-Legendre in ``cutoff / r``. NaN where coarse and fine quadrature are more than 10 %
        apart: the integral does not converge.
        """
        n = len(self.rows)
        one, other = np.triu_indices(len(self.class_rows))
        counts = self.class_counts.astype(volume.dtype)
        pairs = counts[one] * jnp.where(one == other, (counts[one] + 1.0) / 2.0, counts[other])
        columns = self.law.rows_of(params, self.class_rows)
        first, second = (tuple(column[which] for column in columns) for which in (one, other))

        @jax.checkpoint
        def step(total: jax.Array, node: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            r, weights = node
            return total + weights * jnp.sum(pairs * law(jnp.full_like(pairs, r), first, second)), None

        nodes = tuple(jnp.asarray(x, volume.dtype) for x in _quadrature(self.cutoff, self.switch_distance))
        (coarse, fine), _ = jax.lax.scan(step, jnp.zeros(2, volume.dtype), nodes)
        integral = jnp.where(jnp.abs(fine - coarse) <= 0.1 * jnp.abs(fine), fine, jnp.nan)
        return 4.0 * jnp.pi * n / (n + 1) / volume * integral


def custom_nonbonded(
    *,
    law: CustomEnergy,
    rows: np.ndarray,
    excluded: np.ndarray | None = None,
    method: Method = "NoCutoff",
    cutoff: float = 0.0,
    switch_distance: float | None = None,
    long_range_correction: bool = False,
    name: str = "CustomNonbondedForce",
) -> CustomNonbonded:
    """A checked `CustomNonbonded` term.

    Args:
        law: the expression, ``pairwise=True``, of "r".
        rows: shape ``(n_atoms,)``, row of each atom.
        excluded: shape ``(n, 2)``, pairs without interaction, in any order.
        method: OpenMM's name.
        cutoff: nm; for NoCutoff it has no meaning.
        switch_distance: nm, or None for no switch.
        long_range_correction: add the energy beyond the cutoff; without effect unless the method is CutoffPeriodic.
        name: key of its parameters.

    Raises:
        InputError: an impossible cutoff, switch, row or excluded pair.
    """
    check_coordinate(name, law, "r", True)
    rows = np.asarray(rows, np.int32)
    pairs = np.sort(np.asarray([] if excluded is None else excluded, np.int32).reshape(-1, 2), axis=1)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= len(rows) or (pairs[:, 0] == pairs[:, 1]).any()):
        raise InputError(f"{name}: an excluded pair is not of two of the atoms 0 ... {len(rows) - 1}; correct it.")
    if method == "NoCutoff":
        cutoff, switch_distance = 0.0, None
    elif not 0.0 < cutoff < float("inf"):
        raise InputError(f"{name}: {method} with a cutoff of {cutoff} nm; give a positive one.")
    if switch_distance is not None and not 0.0 <= switch_distance < cutoff:
        raise InputError(f"{name}: the switch starts at {switch_distance} nm; start below the cutoff, {cutoff} nm.")
    correct = long_range_correction and method == "CutoffPeriodic"
    class_rows, counts = np.unique(rows if correct else rows[:0], return_counts=True)
    if len(class_rows) > MAX_CLASSES:
        raise InputError(
            f"{name}: the long-range correction has {len(class_rows)} different rows, more than {MAX_CLASSES}; "
            "let equal atoms share a row, or switch the correction off."
        )
    return CustomNonbonded(
        rows=jnp.asarray(rows),
        excluded=jnp.asarray(np.unique(pairs, axis=0)),
        class_rows=jnp.asarray(class_rows),
        class_counts=jnp.asarray(counts),
        law=law,
        method=method,
        cutoff=cutoff,
        switch_distance=switch_distance,
        name=name,
    )


def _quadrature(cutoff: float, switch_distance: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Distances ``(n,)`` and their weights in the coarse and in the fine integral of ``(1 - S) r^2``, ``(n, 2)``."""
    distances, weights = [], []
    for column, n in enumerate(_NODES):
        x, w = np.polynomial.legendre.leggauss(n)
        x, w = (x + 1.0) / 2.0, np.outer(w / 2.0, np.eye(2)[column])
        distances.append(cutoff / x)
        weights.append(w * (cutoff**3 / x**4)[:, None])
        if switch_distance is not None:
            width = cutoff - switch_distance
            r = switch_distance + width * x
            distances.append(r)
            weights.append(w * (width * r**2 * x**3 * (10.0 - 15.0 * x + 6.0 * x**2))[:, None])
    return np.concatenate(distances), np.concatenate(weights)
