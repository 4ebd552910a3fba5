"""Targets of a fit beside energies and forces: what charges do far away, and how strongly molecules hold together.

    dipole         mu = sum_i q_i (x_i - c)             c: the mean of the positions, which changes nothing if sum q = 0
    potential      phi(p) = K sum_i q_i / |p - x_i|     in vacuum
    interaction    E_AB - E_A - E_B                     of fragments as they lie in the frame

with the virtual sites where they belong. K is `diffff.units.COULOMB_CONSTANT`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials.base import Params, Potential
from diffff.potentials.nonbonded import Nonbonded
from diffff.pytree import pytree
from diffff.units import COULOMB_CONSTANT

OFF_INTEGER = 0.02  # e, by how much the charges of a residue may miss an integer before a fit


@pytree
class Fragment:
    """Some atoms of all frames, as if they were alone.

    Attributes:
        atoms: shape ``(n_own,)``, their places in the whole.
        potential: for these atoms.
        neighbors: its lists of all frames, with a leading axis; None if no term has a cutoff.
    """

    atoms: jax.Array
    potential: Potential
    neighbors: Neighbors | None = None


def charged_term(potential: Potential, target: str) -> Nonbonded:
    """The term that has the charges.

    Args:
        potential: with one such term.
        target: what messages say needs them.

    Raises:
        InputError: it has none, or more than one, or one that does not count once.
    """
    found = [term for term in potential.terms if isinstance(term, Nonbonded)]
    if not found:
        names = ", ".join(dict.fromkeys(term.name for term in potential.terms)) or "nothing"
        raise InputError(
            f"{target}: it needs charges, but the potential, which is {names}, has none. Use a force field with a "
            "NonbondedForce, or leave the target out."
        )
    if len(found) > 1:
        raise InputError(f"{target}: {len(found)} parts of the potential have charges, so it is unclear which count.")
    if (weight := dict(potential.weights).get(found[0].name, 1.0)) != 1.0:
        raise InputError(
            f"{target}: {found[0].name} counts {weight:g} times in the sum, so it is unclear how much its charges do."
        )
    return found[0]


def charges(potential: Potential, params: Params, target: str = "charges") -> jax.Array:
    """The charges of all atoms and sites, e, shape ``(n_atoms,)``.

    Raises:
        InputError: see `charged_term`.
    """
    term = charged_term(potential, target)
    return term.charges(potential.part(params, term.name))


def dipole(potential: Potential, params: Params, positions: jax.Array) -> jax.Array:
    """Dipole of a frame, e nm, shape ``(3,)``.

    Args:
        potential: with charges, which sum up to zero.
        params: the parameter tree.
        positions: shape ``(n_atoms, 3)``, nm, of whole molecules.

    Raises:
        InputError: see `charged_term`.
    """
    q, x = charges(potential, params, "dipole"), potential.placed(params, positions)
    return q @ (x - jnp.mean(x, axis=0))


def potential_at(potential: Potential, params: Params, positions: jax.Array, points: jax.Array) -> jax.Array:
    """Electrostatic potential at some points, kJ/mol/e, shape ``(n_points,)``.

    Args:
        potential: with charges.
        params: the parameter tree.
        positions: shape ``(n_atoms, 3)``, nm.
        points: shape ``(n_points, 3)``, nm.

    Raises:
        InputError: see `charged_term`.
    """
    q, x = charges(potential, params, "esp"), potential.placed(params, positions)
    return COULOMB_CONSTANT * (1.0 / jnp.linalg.norm(points[:, None] - x[None], axis=2)) @ q


def interaction(
    whole: jax.Array,
    fragments: Sequence[Fragment],
    params: Params,
    positions: jax.Array,
    box: jax.Array | None,
    lists: Sequence[Neighbors | None],
) -> jax.Array:
    """Interaction energy of a frame, kJ/mol, a scalar.

    Args:
        whole: energy of the whole frame, kJ/mol.
        fragments: all parts of it.
        params: the parameter tree.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
        lists: the neighbour list of each fragment in this frame.

    Raises:
        InputError: there are no fragments.
    """
    if not fragments:
        raise InputError(
            "interaction: it needs the potentials of the fragments, but there are none; read the frames with `part`, "
            "which makes the potential of a fragment's topology."
        )
    alone = [
        fragment.potential.energy(params, positions[fragment.atoms], box, listed)
        for fragment, listed in zip(fragments, lists, strict=True)
    ]
    return whole - jnp.sum(jnp.stack(alone))
