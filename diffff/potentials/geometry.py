"""Distances, angles and dihedrals of listed atoms, with gradients that are finite wherever the physics is.

    r = |x_j - x_i|
    theta = atan2(|u x v|, u . v)                                    u, v: from the middle atom to its neighbours
    phi = atan2(|b| a . (b x c), (a x b) . (b x c))                  a, b, c: the three bonds in turn

phi is in (-pi, pi], 0 for cis, and positive when, looking along b, the far bond is turned clockwise from the near one
(IUPAC, OpenMM). Where a number is not defined or not smooth (coincident atoms, an angle of 0 or pi, a dihedral with
three atoms in line), its gradient is zero. NaN positions give NaN.

No periodic boundaries by default, since bonded forces of OpenMM have none unless asked for: molecules are whole.
"""

import jax
import jax.numpy as jnp
from jax import lax

from diffff.errors import InputError


def minimum_image(dr: jax.Array, box: jax.Array) -> jax.Array:
    """Vectors to the nearest images as OpenMM picks them: reduced along c, then b, then a.

    Along each lattice vector it subtracts ``round(dr . p / p . p)``, p being the part of that vector that is
    perpendicular to the ones before it. That is right up to half the smallest width of the cell.

    Args:
        dr: shape ``(..., 3)``, nm.
        box: shape ``(3, 3)``, nm; any orientation.
    """
    a, b, c = box
    normal = cross(a, b)
    b_part = b - dot(b, a) / dot(a, a) * a
    c_part = dot(c, normal) / dot(normal, normal) * normal
    for vector, part in ((c, c_part), (b, b_part), (a, a)):
        cells = jnp.floor(dot(dr, part) / dot(part, part) + 0.5)
        dr = dr - lax.stop_gradient(cells)[..., None] * vector
    return dr


def displacements(
    positions: jax.Array, box: jax.Array | None, i: jax.Array, j: jax.Array, periodic: bool = False
) -> jax.Array:
    """Vectors ``x[j] - x[i]``, shape ``(n, 3)``, nm.

    Args:
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm; only looked at if ``periodic``.
        i: shape ``(n,)``, integers.
        j: shape ``(n,)``, integers.
        periodic: whether to take nearest images.

    Raises:
        InputError: ``periodic`` without a box.
    """
    return _reduced(positions[j] - positions[i], box, periodic)


def distance(positions: jax.Array, box: jax.Array | None, atoms: jax.Array, periodic: bool = False) -> jax.Array:
    """Distances of the pairs ``atoms (n, 2)``, shape ``(n,)``, nm; other arguments as in `displacements`."""
    (dr,) = _bonds(positions, box, atoms, periodic)
    return norm(dr)


def angle(positions: jax.Array, box: jax.Array | None, atoms: jax.Array, periodic: bool = False) -> jax.Array:
    """Angles at the middle of the triples ``atoms (n, 3)``, shape ``(n,)``, rad; arguments as in `displacements`."""
    first, second = _bonds(positions, box, atoms, periodic)
    return angle_between(-first, second)


def dihedral(positions: jax.Array, box: jax.Array | None, atoms: jax.Array, periodic: bool = False) -> jax.Array:
    """Dihedrals of the chains ``atoms (n, 4)``, shape ``(n,)``, rad, (-pi, pi]; arguments as in `displacements`."""
    return dihedral_between(*_bonds(positions, box, atoms, periodic))


def norm(dr: jax.Array) -> jax.Array:
    """Length of each vector ``(..., 3)``; the gradient at length zero is zero."""
    squared = dot(dr, dr)
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def angle_between(u: jax.Array, v: jax.Array) -> jax.Array:
    """Angle between the vectors ``(..., 3)``, rad, in [0, pi]."""
    return _atan2(norm(cross(u, v)), dot(u, v))


def dihedral_between(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """Dihedral of three bond vectors ``(..., 3)`` in turn, rad, in (-pi, pi]."""
    m, n = cross(a, b), cross(b, c)
    phi = _atan2(norm(b) * dot(a, n), dot(m, n))
    return jnp.where(phi <= -jnp.pi, phi + 2 * jnp.pi, phi)


def dot(u: jax.Array, v: jax.Array) -> jax.Array:
    """Scalar product along the last axis."""
    return jnp.sum(u * v, axis=-1)


def cross(u: jax.Array, v: jax.Array) -> jax.Array:
    """Vector product along the last axis."""
    return jnp.cross(u, v)


def _atan2(y: jax.Array, x: jax.Array) -> jax.Array:
    """``atan2``, without a gradient at the origin."""
    origin = (x == 0) & (y == 0)
    return jnp.arctan2(jnp.where(origin, 0.0, y), jnp.where(origin, 1.0, x))


def _bonds(positions: jax.Array, box: jax.Array | None, atoms: jax.Array, periodic: bool) -> tuple[jax.Array, ...]:
    """Vectors from each atom of the chains ``atoms (n, m)`` to the next: m - 1 arrays ``(n, 3)``."""
    x = positions[atoms]
    dr = _reduced(x[:, 1:] - x[:, :-1], box, periodic)
    return tuple(dr[:, k] for k in range(atoms.shape[1] - 1))


def _reduced(dr: jax.Array, box: jax.Array | None, periodic: bool) -> jax.Array:
    if not periodic:
        return dr
    if box is None:
        raise InputError(
            "bonded terms: they apply periodic boundary conditions, but there is no box. "
            "Pass the box vectors (3, 3) in nm, or make the terms with periodic=False"
        )
    return minimum_image(dr, box)
