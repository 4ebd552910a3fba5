"""What a fit leaves out: the numbers on which no frame depends, mostly rows that no topology uses.

No frame depends on a number if the derivatives of all energies and of all charges are exactly zero, at a point where
every number that moves is a little off its start (at the start itself, the phase of a torsion of barrier 0 has none).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.fit.free import Free
from diffff.fit.problem import FitSystem, frames_at_once
from diffff.fit.rules import Numbers
from diffff.neighbors import Neighbors
from diffff.potentials.nonbonded import Nonbonded

_OFF = 0.1  # in units of the scales


def used(systems: Sequence[FitSystem], free: Free) -> np.ndarray:
    """Whether a frame of the systems depends on a number, bool ``(n_numbers,)``."""
    off = np.random.default_rng(0).uniform(0.5, 1.5, len(free.starts))
    numbers = free.starts + _OFF * free.scales * off
    found = np.zeros(len(off), bool)
    for system in systems:
        for frames, _ in frames_at_once(system):
            if not found.all():
                found |= np.asarray(_slopes(numbers, free, frames)) != 0.0
    return found


def without_unused(
    found: Sequence[Numbers], free: Free, systems: Sequence[FitSystem]
) -> tuple[list[Numbers], Free, dict[str, int]]:
    """The numbers that move without those on which no frame depends, but for numbers tied to some that count.

    Args:
        found: what moves, as `moving` tells.
        free: their variables.
        systems: all frames, those left out of the fit included.

    Returns:
        What is left of both, and how many numbers of each array are left out.

    Raises:
        InputError: nothing is left.
    """
    stay = used(systems, free)
    if free.ties is not None:
        tied = np.asarray(free.ties) != 0.0
        while (more := tied[:, tied[stay].any(axis=0)].any(axis=1) | stay).sum() > stay.sum():
            stay = more
    if stay.all():
        return list(found), free, {}
    if not stay.any():
        raise InputError(
            "parameters.rules: no frame of the data depends on any number that moves. Select rows that the topologies "
            "use."
        )
    parts = np.split(stay, np.cumsum([len(some.index) for some in found])[:-1])
    out: dict[str, int] = {}
    for some, kept in zip(found, parts, strict=True):
        out[some.path] = out.get(some.path, 0) + int(np.sum(~kept))
    left = [some.take(kept) for some, kept in zip(found, parts, strict=True) if kept.any()]
    return left, free.take(stay), {path: n for path, n in out.items() if n}


@jax.jit
def _slopes(numbers: jax.Array, free: Free, frames: FitSystem) -> jax.Array:
    """Derivatives of the sum of all energies and charges, shape ``(n_numbers,)``."""
    potential = frames.potential

    def total(numbers: jax.Array) -> jax.Array:
        params = free.placed(numbers)

        def energy(x: jax.Array, box: jax.Array | None, neighbors: Neighbors | None) -> jax.Array:
            return potential.energy(params, x, box, neighbors)

        charged = [term for term in potential.terms if isinstance(term, Nonbonded)]
        charges = [jnp.sum(term.charges(potential.part(params, term.name))) for term in charged]
        return jnp.sum(jax.vmap(energy)(frames.positions, frames.boxes, frames.neighbors)) + sum(charges, jnp.zeros(()))

    return jax.grad(total)(numbers)
