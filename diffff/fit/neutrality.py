"""What becomes of the total charge of topologies in a fit that moves charges."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.fit.free import Free
from diffff.fit.problem import FitSystem
from diffff.fit.rules import Numbers, labels_of
from diffff.potentials.base import Params, Potential
from diffff.potentials.nonbonded import Nonbonded

_ROUNDING = 1e-8  # part of the largest slope of a total charge
_SEEN = 1e-4  # e
_TIE = 'Tie them by {"type": "residue_charge"} in parameters.ties'


def total_charge(potential: Potential, params: Params) -> jax.Array | None:
    """The sum of all charges, e; None if there are none."""
    for term in potential.terms:
        if isinstance(term, Nonbonded):
            return jnp.sum(term.charges(potential.part(params, term.name)))
    return None


def require_fixed_charges(systems: Sequence[FitSystem], free: Free, found: Sequence[Numbers]) -> None:
    """Refuse dipoles of topologies whose total charge the fit may change, for they would depend on the origin.

    Args:
        systems: all that have dipoles, which are going to be compared.
        free: the variables.
        found: the numbers that they stand for.

    Raises:
        InputError: there is one.
    """
    ties = np.eye(free.n_free) if free.ties is None else np.asarray(free.ties)
    for system in {id(one.potential): one for one in systems}.values():
        if total_charge(system.potential, free.params(jnp.zeros(free.n_free))) is None:
            continue
        by_number = np.asarray(_slopes(free, system.potential))
        changed = by_number @ ties
        if np.abs(changed).max(initial=0.0) > _ROUNDING * np.abs(by_number).max(initial=0.0):
            k = int(np.argmax(np.abs(ties @ changed)))
            raise InputError(
                f"{system.name or 'a system'}: dipole: the charges that move may change the total charge of the "
                f"topology, as {labels_of(found)[k]} does, and the dipole of what is charged depends on the origin. "
                f"{_TIE}, or leave the target out."
            )


@jax.jit
def _slopes(free: Free, potential: Potential) -> jax.Array:
    """Of the total charge, by number in units of its scale, at the start ``(n_numbers,)``."""

    def total(numbers: jax.Array) -> jax.Array:
        found = total_charge(potential, free.placed(numbers))
        return jnp.zeros(()) if found is None else found

    return free.scales * jax.grad(total)(free.starts)


def changed_charges(potentials: Mapping[str, Potential], before: Any, after: Any) -> list[str]:
    """A sentence for each potential whose total charge a fit has changed.

    Args:
        potentials: by what sentences call them.
        before: the parameter tree at the start.
        after: that at the end.
    """
    found = []
    for name, potential in potentials.items():
        start, end = (total_charge(potential, params) for params in (before, after))
        if start is not None and end is not None and abs(float(end - start)) > _SEEN:
            found.append(
                f"{name}: the charges sum up to {float(end):.4g} e now, and to {_clean(float(start)):.4g} e at the "
                f"start. {_TIE}, if that is not meant."
            )
    return found


def _clean(charge: float) -> float:
    return 0.0 if abs(charge) < _SEEN else charge
