"""How a barostat may deform a box: the directions of strain, and what a strain does to a state.

A strain epsilon takes the box h (rows are lattice vectors) to ``h exp(epsilon)``. A barostat walks along directions
G_k, orthonormal in the metric ``tr(e e^T)`` of the symmetric strain e, so that no axis is favoured. With mu, a measure
that no strain of its kind changes,

    p(h, x) ~ V w exp(-(U + P V) / kT)  against  mu x dx

| coupling | directions | mu | w | the law of the box, Q(h) being its configurational integral |
|---|---|---|---|---|
| isotropic | all edges | d ln V | 1 | ``dV Q exp(-PV/kT)`` |
| semi-isotropic | x with y, z | d ln A d ln L_z | 1 | ``dA dL_z Q exp(-PV/kT)`` |
| anisotropic | x, y, z | d ln L_x d ln L_y d ln L_z | 1 | ``dL_x dL_y dL_z Q exp(-PV/kT)`` |
| full | xx, yy, zz, yx, zx, zy | dh / (h_xx^3 h_yy^2 h_zz) | (h_xx / h_zz)^2 | ``dh V^-2 Q exp(-PV/kT)`` |

The last law is that of Martyna, Tobias and Klein 1994, doi:10.1063/1.467468, and of Del Tatto et al. 2022,
doi:10.3390/app12031139: all nine elements of h count alike, and V has the density that it has in the isotropic law when
U knows no shape. It does not depend on the choice of lattice vectors. The cell stays lower triangular, which is one way
to turn it: of its nine elements three are rotations, and without them dh is ``h_xx^2 h_yy`` times the measure of six.
"""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffff.md.observables import of_groups
from diffff.md.state import Particles, State
from diffff.space import times

Coupling = Literal["isotropic", "semi-isotropic", "anisotropic", "full"]
_TERMS = 14  # of the exponential series, exact to rounding for strains up to 1


def directions(coupling: Coupling) -> np.ndarray:
    """The G_k of a coupling, shape ``(n_directions, 3, 3)``."""
    edges = np.stack([np.diag(row) for row in np.eye(3)])
    if coupling == "isotropic":
        return edges.sum(0, keepdims=True) / np.sqrt(3.0)
    if coupling == "semi-isotropic":
        return np.stack([(edges[0] + edges[1]) / np.sqrt(2.0), edges[2]])
    if coupling == "anisotropic":
        return edges
    shears = np.zeros((3, 3, 3))
    for k, (a, b) in enumerate(((1, 0), (2, 0), (2, 1))):
        shears[k, a, b] = np.sqrt(2.0)  # e = (epsilon + epsilon^T) / 2 has the length 1
    return np.concatenate([edges, shears])


def weight(coupling: Coupling) -> np.ndarray:
    """The c of ``ln w(h exp(epsilon)) - ln w(h) = sum_ab c_ab epsilon_ab``, shape ``(3, 3)``."""
    return np.diag([2.0, 0.0, -2.0]) if coupling == "full" else np.zeros((3, 3))


def scaled(state: State, particles: Particles, growth: jax.Array, *, velocities: bool = True) -> State:
    """The volume times ``exp(growth)``, with all groups where they then belong."""
    scale = jnp.exp(growth / 3.0)
    centres = of_groups(particles, state.positions)
    moved = replace(
        state,
        positions=state.positions + (scale - 1.0) * centres,
        box=None if state.box is None else scale * state.box,
    )
    if not velocities:
        return moved
    return replace(moved, velocities=state.velocities + (1.0 / scale - 1.0) * of_groups(particles, state.velocities))


def strained(state: State, particles: Particles, strain: jax.Array, *, velocities: bool = True) -> State:
    """The box times ``exp(strain)``, with all groups where they then belong.

    ``R' = R exp(epsilon)``, ``V' = V exp(-epsilon^T)`` for the centres: the volume of phase space is kept.

    Args:
        state: of one replica, with a box.
        particles: their groups.
        strain: shape ``(3, 3)``.
        velocities: whether they follow, too.
    """
    assert state.box is not None
    grown = _exponential_less_one(strain)
    positions = state.positions + times(of_groups(particles, state.positions), grown)
    moved = replace(state, positions=positions, box=state.box + times(state.box, grown))
    if not velocities:
        return moved
    shrunk = _exponential_less_one(-strain).T
    return replace(moved, velocities=state.velocities + times(of_groups(particles, state.velocities), shrunk))


def reduced(box: jax.Array) -> jax.Array:
    """The same lattice by vectors of the same triangle, their parts aside the diagonal at most half of it.

    That is OpenMM's reduced form: ``|b_x| <= a_x / 2``, ``|c_x| <= a_x / 2``, ``|c_y| <= b_y / 2``. No atom moves; a
    list of neighbours has to be made anew, since its images are those of other vectors.

    Args:
        box: shape ``(3, 3)``, lower triangular, nm.
    """
    a, b, c = box
    c = c - jnp.round(c[1] / b[1]) * b
    c = c - jnp.round(c[0] / a[0]) * a
    b = b - jnp.round(b[0] / a[0]) * a
    return jnp.stack([a, b, c])


def _exponential_less_one(matrix: jax.Array) -> jax.Array:
    """``exp(m) - 1``, which is exact for small m, too."""
    one = jnp.eye(3, dtype=matrix.dtype)
    series = one
    for k in range(_TERMS, 1, -1):
        series = one + times(matrix, series) / k
    return times(matrix, series)
