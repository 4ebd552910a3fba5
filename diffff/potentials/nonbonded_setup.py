"""Makes a `Nonbonded` term from what a force field says, and refuses what makes no sense. Host side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.potentials.ewald import ewald_alpha, ewald_kmax
from diffff.potentials.nonbonded import EWALD, PERIODIC, Method, Nonbonded
from diffff.potentials.pme import ORDER, Grid, pme_grid

Pairs = np.ndarray | Sequence[Sequence[int]]


def nonbonded(
    charge_rows: Any,
    lj_rows: Any,
    *,
    excluded: Pairs = (),
    pairs14: Pairs = (),
    special14: Any = None,
    exceptions: Pairs = (),
    exception_rows: Any = None,
    method: Method = "NoCutoff",
    cutoff: float = 1.0,
    box: np.ndarray | None = None,
    switch_distance: float | None = None,
    dielectric: float = 78.3,
    ewald_error_tolerance: float = 5e-4,
    alpha: float | None = None,
    grid: tuple[int, int, int] | None = None,
    dispersion_alpha: float | None = None,
    dispersion_grid: tuple[int, int, int] | None = None,
    dispersion_correction: bool = True,
    periodic_exceptions: bool = False,
    name: str = "NonbondedForce",
) -> Nonbonded:
    """Make the term, on the host. Arguments that a method does not use are ignored, as in OpenMM.

    Args:
        charge_rows: shape ``(n_atoms,)``, row of each atom's charge.
        lj_rows: shape ``(n_atoms,)``, row of its sigma and epsilon.
        excluded: pairs without interaction; those of the next two need not be repeated.
        pairs14: pairs whose interaction is scaled.
        special14: row of the special scales for each of them, -1 for the plain scales; None if all are plain.
        exceptions: pairs with parameters of their own.
        exception_rows: row of each exception, by default its index.
        method: OpenMM's name.
        cutoff: nm, for all methods but NoCutoff.
        box: shape ``(3, 3)``, nm; the grid is chosen for it. Not needed when ``grid`` is given.
        switch_distance: nm; None: no switch.
        dielectric: of the reaction field.
        ewald_error_tolerance: from which alpha and grid are chosen by OpenMM's rules.
        alpha: 1/nm, instead of the rule.
        grid: instead of the rule.
        dispersion_alpha: 1/nm, for LJPME, instead of the rule.
        dispersion_grid: for LJPME, instead of the rule.
        dispersion_correction: for periodic methods other than LJPME.
        periodic_exceptions: see `Nonbonded`.
        name: key in the parameter tree.

    Raises:
        InputError: a number or pair that makes no sense.
    """
    if method not in get_args(Method):
        raise InputError(f"{name}: method {method!r} is unknown; use one of {', '.join(get_args(Method))}")
    charge_rows, lj_rows = np.asarray(charge_rows, np.int32), np.asarray(lj_rows, np.int32)
    if charge_rows.ndim != 1 or charge_rows.shape != lj_rows.shape:
        raise InputError(
            f"{name}: charge_rows {charge_rows.shape} and lj_rows {lj_rows.shape} must both have shape (n_atoms,)"
        )
    n_atoms = len(charge_rows)
    scaled, own = _pairs(pairs14, n_atoms, name, "pairs14"), _pairs(exceptions, n_atoms, name, "exceptions")
    exempt = np.concatenate([scaled, own])
    both, counts = np.unique(exempt, axis=0, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{name}: pair {both[counts > 1][0].tolist()} appears twice in pairs14 and exceptions; keep one"
        )
    special = np.full(len(scaled), -1) if special14 is None else np.asarray(special14)
    if special.shape != (len(scaled),):
        raise InputError(f"{name}: {len(scaled)} pairs14, but special14 has shape {special.shape}; give one row each")
    rows = np.arange(len(own)) if exception_rows is None else np.asarray(exception_rows)
    if rows.shape != (len(own),):
        raise InputError(f"{name}: {len(own)} exceptions, but exception_rows has shape {rows.shape}; give one row each")
    left_out = np.unique(np.concatenate([_pairs(excluded, n_atoms, name, "excluded"), exempt]), axis=0)
    _check_distances(name, method, cutoff, switch_distance)
    split = _Split(name, method, cutoff, box, ewald_error_tolerance)
    alpha = split.alpha(alpha, "alpha", EWALD)
    dispersion_alpha = split.alpha(dispersion_alpha, "dispersion_alpha", ("LJPME",))
    return Nonbonded(
        charge_rows=jnp.asarray(charge_rows),
        lj_rows=jnp.asarray(lj_rows),
        excluded=jnp.asarray(left_out, jnp.int32),
        pairs14=jnp.asarray(scaled, jnp.int32),
        special14=jnp.asarray(special if (special >= 0).any() else [], jnp.int32),
        exceptions=jnp.asarray(own, jnp.int32),
        exception_rows=jnp.asarray(rows, jnp.int32),
        method=method,
        cutoff=0.0 if method == "NoCutoff" else float(cutoff),
        switch_distance=None if method in ("NoCutoff", "LJPME") else switch_distance,
        dielectric=float(dielectric),
        alpha=alpha,
        grid=split.grid(grid, alpha, "grid", EWALD),
        dispersion_alpha=dispersion_alpha,
        dispersion_grid=split.grid(dispersion_grid, dispersion_alpha, "dispersion_grid", ("LJPME",)),
        dispersion_correction=dispersion_correction and method in PERIODIC and method != "LJPME",
        periodic_exceptions=periodic_exceptions,
        name=name,
    )


def _pairs(pairs: Pairs, n_atoms: int, name: str, what: str) -> np.ndarray:
    """Pairs with the smaller index first, ``(n, 2)``, in the order given."""
    found = np.asarray(pairs, np.int64).reshape(-1, 2)
    wrong = (found < 0).any(axis=1) | (found >= n_atoms).any(axis=1) | (found[:, 0] == found[:, 1])
    if wrong.any():
        raise InputError(
            f"{name}: pair {found[wrong][0].tolist()} in {what} must be two different atoms of 0 to {n_atoms - 1}"
        )
    return np.sort(found, axis=1)


def _check_distances(name: str, method: Method, cutoff: float, switch_distance: float | None) -> None:
    if method == "NoCutoff":
        return
    if not (np.isfinite(cutoff) and cutoff > 0.0):
        raise InputError(f"{name}: the cutoff is {cutoff} nm; {method} needs a positive number")
    if switch_distance is None:
        return
    if method == "LJPME":
        raise InputError(f"{name}: LJPME allows no switching function; leave switch_distance out or use PME")
    if not 0.0 <= switch_distance < cutoff:
        raise InputError(f"{name}: switch_distance {switch_distance} nm must lie between 0 and the cutoff {cutoff} nm")


@dataclass(frozen=True)
class _Split:
    """Chooses the numbers of Ewald's split that were not given."""

    name: str
    method: Method
    cutoff: float
    box: np.ndarray | None
    tolerance: float

    def alpha(self, given: float | None, what: str, methods: tuple[str, ...]) -> float:
        if self.method not in methods:
            return 0.0
        if given is None:
            if not 0.0 < self.tolerance < 0.5:
                raise InputError(
                    f"{self.name}: ewald_error_tolerance {self.tolerance} must lie between 0 and 0.5; OpenMM's is 5e-4"
                )
            return ewald_alpha(self.cutoff, self.tolerance)
        if not (np.isfinite(given) and given > 0.0):
            raise InputError(f"{self.name}: {what} is {given} / nm; give a positive number, or none for OpenMM's rule")
        return float(given)

    def grid(self, given: Grid | None, alpha: float, what: str, methods: tuple[str, ...]) -> Grid:
        if self.method not in methods:
            return (0, 0, 0)
        least = 1 if self.method == "Ewald" else ORDER
        if given is not None:
            x, y, z = (int(n) for n in given)
            if min(x, y, z) < least:
                raise InputError(
                    f"{self.name}: {what} is {(x, y, z)}; {self.method} needs at least {least} along each axis"
                )
            return x, y, z
        if self.box is None:
            raise InputError(f"{self.name}: {self.method} needs box, or {what}, to know how fine the grid must be")
        box = np.asarray(self.box, float)
        if self.method == "Ewald":
            x, y, z = (ewald_kmax(length, alpha, self.tolerance) for length in np.linalg.norm(box, axis=1).tolist())
            return x, y, z
        return pme_grid(box, alpha, self.tolerance, dispersion=what == "dispersion_grid")
