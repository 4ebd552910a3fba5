"""SETTLE: rigid three-site molecules, such as water, put back into their shape in closed form.

S. Miyamoto and P. A. Kollman, J. Comput. Chem. 13, 952 (1992), doi:10.1002/jcc.540130805.
"""

import jax
import jax.numpy as jnp

from diffff.pytree import pytree


@pytree
class Waters:
    """Rigid isosceles triangles: an apex (oxygen) and a base of two atoms of one mass (hydrogens).

    Attributes:
        atoms: shape ``(n_waters, 3)``: apex, base, base.
        masses: shape ``(n_waters, 2)``, amu: of the apex and of one base atom.
        lengths: shape ``(n_waters, 2)``, nm: from the apex to a base atom, and of the base.
    """

    atoms: jax.Array
    masses: jax.Array
    lengths: jax.Array

    def displacements(self, new: jax.Array, old: jax.Array) -> jax.Array:
        """What brings new positions back into shape by forces along the old sides; the centre of mass stays.

        With the origin at the centre of mass of the new positions and z normal to the old triangle, the forces leave
        every z as it is. The triangle in the plane x = 0 with its apex on y is turned by phi about x and by psi about
        y, so that its z are those; the last angle, theta about z, follows from the torque, which has no z component:

            sum over both base atoms of (old - old apex) x (final - new) = 0   (z)
            =>  alpha sin(theta) + beta cos(theta) = gamma

        Args:
            new: shape ``(n_atoms, 3)``, nm.
            old: shape ``(n_atoms, 3)``, nm; in shape.

        Returns:
            Shape ``(n_waters, 3, 3)``, nm, in the order of `atoms`; NaN for a molecule that no such forces bring back.
        """
        apex, base = self.masses[:, 0], self.masses[:, 1]
        side, width = self.lengths[:, 0], self.lengths[:, 1]
        half = width / 2.0
        height = jnp.sqrt(side**2 - half**2)
        above = height * 2.0 * base / (apex + 2.0 * base)  # of the apex, from the centre of mass
        below = height - above

        b0, c0 = _sides(old, self.atoms)
        b1, c1 = _sides(new, self.atoms)
        a1 = -(base / (apex + 2.0 * base))[:, None] * (b1 + c1)
        z = _unit(jnp.cross(b0, c0))
        x = _unit(jnp.cross(a1, z))
        axes = jnp.stack([x, jnp.cross(z, x), z], axis=1)
        (bx0, by0, _), (cx0, cy0, _) = _along(axes, b0), _along(axes, c0)
        (ax1, ay1, az1), (bx1, by1, bz1), (cx1, cy1, cz1) = (_along(axes, v) for v in (a1, b1 + a1, c1 + a1))

        sin_phi = az1 / above
        cos_phi = jnp.sqrt(1.0 - sin_phi**2)
        sin_psi = (bz1 - cz1) / (width * cos_phi)
        cos_psi = jnp.sqrt(1.0 - sin_psi**2)
        ay2, bx2 = above * cos_phi, -half * cos_psi
        by2 = -below * cos_phi - half * sin_psi * sin_phi
        cy2 = -below * cos_phi + half * sin_psi * sin_phi

        alpha = bx2 * (bx0 - cx0) + by0 * by2 + cy0 * cy2
        beta = bx2 * (cy0 - by0) + bx0 * by2 + cx0 * cy2
        gamma = bx0 * by1 - bx1 * by0 + cx0 * cy1 - cx1 * cy0
        norm = alpha**2 + beta**2
        root = jnp.sqrt(norm - gamma**2)
        sin, cos = (alpha * gamma - beta * root) / norm, (beta * gamma + alpha * root) / norm

        still = jnp.zeros_like(sin)
        a = jnp.stack([-ay2 * sin - ax1, ay2 * cos - ay1, still], axis=1)
        b = jnp.stack([bx2 * cos - by2 * sin - bx1, bx2 * sin + by2 * cos - by1, still], axis=1)
        c = jnp.stack([-bx2 * cos - cy2 * sin - cx1, -bx2 * sin + cy2 * cos - cy1, still], axis=1)
        return jnp.sum(jnp.stack([a, b, c], axis=1)[..., None] * axes[:, None], axis=2)


def _sides(positions: jax.Array, atoms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Vectors from the apex to both base atoms."""
    apex = positions[atoms[:, 0]]
    return positions[atoms[:, 1]] - apex, positions[atoms[:, 2]] - apex


def _unit(vectors: jax.Array) -> jax.Array:
    return vectors / jnp.sqrt(jnp.sum(vectors**2, axis=1, keepdims=True))


def _along(axes: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Components along the axes; sums of products, for a matrix product may be rounded to ten bits on a GPU."""
    x, y, z = jnp.moveaxis(jnp.sum(axes * vectors[:, None], axis=2), 1, 0)
    return x, y, z
