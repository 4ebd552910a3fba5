"""Lennard-Jones and Coulomb interactions of point particles, OpenMM's NonbondedForce.

    E = sum_pairs 4 eps_ij [(sigma_ij/r)^12 - (sigma_ij/r)^6] + K q_i q_j / r
    sigma_ij = (sigma_i + sigma_j) / 2,   eps_ij = sqrt(eps_i eps_j)

and what a cutoff, a periodic box, excluded pairs and scaled 1-4 pairs make of it.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials import dispersion, ewald, pairwise, pme
from diffff.pytree import pytree, static
from diffff.units import COULOMB_CONSTANT

Method = Literal["NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME"]

EWALD = ("Ewald", "PME", "LJPME")
PERIODIC = ("CutoffPeriodic", *EWALD)


@pytree
class Nonbonded:
    """The term; `diffff.potentials.nonbonded_setup.nonbonded` makes and checks one.

    Parameters, one array per XML column: ``charge`` (e), ``sigma`` (nm), ``epsilon`` (kJ/mol); with 1-4 pairs the
    scalars ``coulomb14scale`` and ``lj14scale``, and ``special_coulomb14scale`` and ``special_lj14scale`` for the pairs
    with scales of their own; with exceptions ``chargeprod`` (e^2), ``exception_sigma`` and ``exception_epsilon``.
    Where an epsilon is zero its derivative is given as zero: that of its square root has no finite value.

    Attributes:
        charge_rows: shape ``(n_atoms,)``, row of the charge of each atom.
        lj_rows: shape ``(n_atoms,)``, row of sigma and epsilon.
        excluded: shape ``(n, 2)``, smaller index first, sorted: pairs without the plain interaction, which are those of
            ``pairs14`` and ``exceptions`` too.
        pairs14: shape ``(n, 2)``: interaction from the rows of the atoms, times the two scales.
        special14: shape ``(n,)``: the row of the special scales of each of those pairs, -1 for the plain ones; or empty
            if all are plain.
        exceptions: shape ``(n, 2)``: interaction from rows of their own.
        exception_rows: shape ``(n,)``.
        method: OpenMM's name.
        cutoff: nm; 0 for NoCutoff, which needs no neighbours.
        switch_distance: where Lennard-Jones starts to be switched off, nm.
        dielectric: of the reaction field beyond the cutoff.
        alpha: Ewald splitting parameter, 1/nm.
        grid: points of PME along each axis; for Ewald the number of wave vectors.
        dispersion_alpha: splitting parameter of 1/r^6 for LJPME, 1/nm.
        dispersion_grid: its grid.
        dispersion_correction: add the Lennard-Jones energy beyond the cutoff of a uniform fluid.
        periodic_exceptions: excluded, 1-4 and exception pairs interact with the nearest image. As in OpenMM they do not
            by default, so molecules must be whole.
        name: key in the parameter tree.
    """

    charge_rows: jax.Array
    lj_rows: jax.Array
    excluded: jax.Array
    pairs14: jax.Array
    special14: jax.Array
    exceptions: jax.Array
    exception_rows: jax.Array
    method: Method = static(default="NoCutoff")
    cutoff: float = static(default=0.0)
    switch_distance: float | None = static(default=None)
    dielectric: float = static(default=78.3)
    alpha: float = static(default=0.0)
    grid: tuple[int, int, int] = static(default=(0, 0, 0))
    dispersion_alpha: float = static(default=0.0)
    dispersion_grid: tuple[int, int, int] = static(default=(0, 0, 0))
    dispersion_correction: bool = static(default=False)
    periodic_exceptions: bool = static(default=False)
    name: str = static(default="NonbondedForce")

    def energy(self, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; arguments as in `Term.energy`.

        Raises:
            InputError: box and method do not go together.
        """
        parts = self.parts(params, positions, box, neighbors)
        return jnp.sum(jnp.stack(list(parts.values())))

    def parts(
        self, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
    ) -> dict[str, jax.Array]:
        """The energy by origin: ``pairs``, ``exceptions``, ``reciprocal`` and ``tail``, as far as there are any."""
        self._check(box)
        positions, box = jnp.asarray(positions), None if box is None else jnp.asarray(box)
        charge = self.charges(params)
        sigma = params["sigma"][self.lj_rows]
        root_epsilon = pairwise.root(params["epsilon"])[self.lj_rows]
        columns = (charge, sigma, root_epsilon)
        found: dict[str, jax.Array] = {}
        if self.method == "NoCutoff":
            found["pairs"] = pairwise.sum_all(self._pair, positions, columns, self.excluded)
        else:
            found["pairs"] = pairwise.sum_listed(
                self._pair, positions, box, columns, neighbors, self.excluded, self.cutoff
            )
        near = box if self.periodic_exceptions and self.method in PERIODIC else None
        if len(self.pairs14) or len(self.exceptions):
            found["exceptions"] = self._exceptions(params, columns, positions, near)
        if box is None:
            return found
        if self.method in EWALD:
            found["reciprocal"] = self._reciprocal(columns, positions, box, near)
        if self.dispersion_correction:
            found["tail"] = dispersion.tail_energy(
                sigma, root_epsilon, ewald.volume(box), self.cutoff, self.switch_distance
            )
        return found

    def charges(self, params: Any) -> jax.Array:
        """The charges of all atoms, e, shape ``(n_atoms,)``."""
        return params["charge"][self.charge_rows]

    def _check(self, box: jax.Array | None) -> None:
        if box is None and self.method in PERIODIC:
            raise InputError(f"{self.name}: {self.method} needs a periodic box, but box is None; give the box vectors")
        if box is not None and self.method == "CutoffNonPeriodic":
            raise InputError(
                f"{self.name}: CutoffNonPeriodic knows no periodic images, but a box was given; "
                "give box=None here and for the neighbour list, or use CutoffPeriodic"
            )

    def _pair(self, squared: jax.Array, first: pairwise.Columns, second: pairwise.Columns) -> jax.Array:
        """Energy of pairs of the plain interaction."""
        (q1, sigma1, root1), (q2, sigma2, root2) = first, second
        sigma, epsilon = 0.5 * (sigma1 + sigma2), root1 * root2
        r = jnp.sqrt(squared)
        attraction = pairwise.lennard_jones(squared, sigma, epsilon)
        if self.switch_distance is not None:
            attraction = attraction * pairwise.switch(r, self.switch_distance, self.cutoff)
        if self.method == "LJPME":
            both = _c6(sigma1, root1) * _c6(sigma2, root2)
            end = jnp.asarray(self.cutoff**2, squared.dtype)
            attraction = attraction - pairwise.lennard_jones(end, sigma, epsilon)
            attraction = attraction + both * (self._smooth_dispersion(squared) - self._smooth_dispersion(end))
        if self.method == "NoCutoff":
            inverse = 1.0 / r
        elif self.method in EWALD:
            inverse = jax.scipy.special.erfc(self.alpha * r) / r
        else:
            inverse = pairwise.reaction_field(r, self.cutoff, self.dielectric)
        return attraction + COULOMB_CONSTANT * q1 * q2 * inverse

    def _smooth_dispersion(self, squared: jax.Array) -> jax.Array:
        """Part of 1/r^6 that is in the reciprocal sum."""
        return self.dispersion_alpha**6 * dispersion.damping(self.dispersion_alpha**2 * squared)

    def _exceptions(
        self, params: Any, columns: pairwise.Columns, positions: jax.Array, near: jax.Array | None
    ) -> jax.Array:
        total = jnp.zeros((), positions.dtype)
        if len(self.pairs14):
            (q1, q2), (sigma1, sigma2), (root1, root2) = (
                (column[self.pairs14[:, 0]], column[self.pairs14[:, 1]]) for column in columns
            )
            squared = pairwise.squared_distances(positions, near, self.pairs14)
            scaled = self._scale14(params, "lj14scale") * root1 * root2
            total += jnp.sum(pairwise.lennard_jones(squared, 0.5 * (sigma1 + sigma2), scaled))
            charges = self._scale14(params, "coulomb14scale") * q1 * q2
            total += COULOMB_CONSTANT * jnp.sum(charges / jnp.sqrt(squared))
        if len(self.exceptions):
            charge, sigma, epsilon = (
                params[column][self.exception_rows] for column in ("chargeprod", "exception_sigma", "exception_epsilon")
            )
            squared = pairwise.squared_distances(positions, near, self.exceptions)
            total += jnp.sum(pairwise.lennard_jones(squared, sigma, epsilon))
            total += COULOMB_CONSTANT * jnp.sum(charge / jnp.sqrt(squared))
        return total

    def _scale14(self, params: Any, column: str) -> jax.Array:
        """A scale for all 1-4 pairs, or one for each of them."""
        if not len(self.special14):
            return params[column]
        return jnp.append(params[f"special_{column}"], params[column])[self.special14]  # the last one at -1

    def _reciprocal(
        self, columns: pairwise.Columns, positions: jax.Array, box: jax.Array, near: jax.Array | None
    ) -> jax.Array:
        """Everything of Ewald's sum but the short-ranged part."""
        charge, sigma, root_epsilon = columns
        if self.method == "Ewald":
            total = ewald.reciprocal_energy(positions, charge, box, self.alpha, self.grid)
        else:
            green = pme.coulomb_green(box, self.alpha, self.grid)
            total = pme.reciprocal_energy(positions, charge, box, green, self.grid)
        total += ewald.self_energy(charge, self.alpha) + ewald.background_energy(charge, box, self.alpha)
        squared = pairwise.squared_distances(positions, near, self.excluded)
        first, second = self.excluded[:, 0], self.excluded[:, 1]
        smooth = charge[first] * charge[second] * ewald.erf_over_r(squared, self.alpha)
        total -= COULOMB_CONSTANT * jnp.sum(smooth)
        if self.method == "LJPME":
            c6 = _c6(sigma, root_epsilon)
            green = pme.dispersion_green(box, self.dispersion_alpha, self.dispersion_grid)
            total += pme.reciprocal_energy(positions, c6, box, green, self.dispersion_grid)
            total += dispersion.self_energy(c6, self.dispersion_alpha)
            total += jnp.sum(c6[first] * c6[second] * self._smooth_dispersion(squared))
        return total


def _c6(sigma: jax.Array, root_epsilon: jax.Array) -> jax.Array:
    """``c_i = 2 sigma^3 sqrt(eps)``, so that ``c_i c_j / r^6`` is the attraction by geometric means."""
    return 2.0 * sigma**3 * root_epsilon
