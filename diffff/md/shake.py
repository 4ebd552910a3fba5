"""Bond constraints that share atoms, solved together by Newton's method.

The constraints ``|x_k|^2 = d_k^2`` on bond vectors x_k = x(second) - x(first) are met by impulses along the arms r_k,

    x_k  ->  x_k + sum_l C_kl p_l,   p_l = lambda_l r_l,   C_kl = sum over atoms a shared of s_ka s_la / m_a

(s = +1 for the second and -1 for the first atom of a bond). The arms are the old bond vectors for positions (SHAKE,
doi:10.1016/0021-9991(77)90098-5) and the present ones for velocities (RATTLE, doi:10.1016/0021-9991(83)90014-1). All
bonds of a cluster are solved at once (matrix SHAKE), so nothing is scattered to atoms before the end, and everything
is done on differences of positions, so that single precision loses no digits far from the origin.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import bicgstab
from scipy.sparse import csr_array

from diffff.pytree import pytree

NO_ATOM = 2**31 - 1  # index in empty places of the tables
MAX_STEPS = 50  # of Newton; usual are 3 to 6
INNER_TOLERANCE, INNER_STEPS = 1e-3, 200  # of the linear solver of large clusters; what it leaves, the next step finds


class Bonds(Protocol):
    """Constraints as a table of any shape ``(...)``; empty places have the distance 0."""

    @property
    def first(self) -> jax.Array:
        """Atoms, shape ``(...)``."""
        ...

    @property
    def second(self) -> jax.Array:
        """Atoms, shape ``(...)``."""
        ...

    @property
    def inverse_masses(self) -> jax.Array:
        """Of both atoms, shape ``(..., 2)``, 1/amu."""
        ...

    @property
    def distances(self) -> jax.Array:
        """Shape ``(...)``, nm."""
        ...

    def spread(self, impulses: jax.Array) -> jax.Array:
        """``sum_l C_kl p_l``, shape ``(..., 3)``."""
        ...

    def solve(self, gradients: jax.Array, arms: jax.Array, wanted: jax.Array) -> jax.Array:
        """The lambda, shape ``(...)``, of ``sum_l (g_k . C_kl r_l) lambda_l = wanted_k``; it may be inexact."""
        ...


@pytree
class Clusters:
    """Many clusters of few bonds each, such as CH3 groups: dense matrices, eliminated in one go.

    Attributes:
        first: shape ``(n_clusters, size)``.
        second: shape ``(n_clusters, size)``.
        inverse_masses: shape ``(n_clusters, size, 2)``, 1/amu.
        distances: shape ``(n_clusters, size)``, nm.
        coupling: shape ``(n_clusters, size, size)``, the C of the module's docstring, 1/amu.
    """

    first: jax.Array
    second: jax.Array
    inverse_masses: jax.Array
    distances: jax.Array
    coupling: jax.Array

    def spread(self, impulses: jax.Array) -> jax.Array:
        """See `Bonds`."""
        return jnp.sum(self.coupling[..., None] * impulses[:, None], axis=2)

    def solve(self, gradients: jax.Array, arms: jax.Array, wanted: jax.Array) -> jax.Array:
        """See `Bonds`; by Gauss-Jordan elimination, without pivots since the matrix is nearly positive definite."""
        matrix = self.coupling * jnp.sum(gradients[:, :, None] * arms[:, None], axis=3)
        size = self.distances.shape[1]
        empty = jnp.where(self.distances == 0.0, 1.0, 0.0).astype(matrix.dtype)
        rows = jnp.concatenate([matrix + jnp.eye(size, dtype=matrix.dtype) * empty[:, None], wanted[..., None]], axis=2)
        for k in range(size):
            pivot = rows[:, k] / rows[:, k, k, None]
            rows = (rows - rows[:, :, k, None] * pivot[:, None]).at[:, k].set(pivot)
        return rows[..., -1]


@pytree
class Network:
    """Bonds in clusters of any size, such as all bonds of a protein: a sparse matrix, solved by iteration.

    Attributes:
        first: shape ``(n_bonds,)``.
        second: shape ``(n_bonds,)``.
        inverse_masses: shape ``(n_bonds, 2)``, 1/amu.
        distances: shape ``(n_bonds,)``, nm.
        partners: shape ``(n_bonds, width)``, bonds that share an atom with it, and itself.
        coupling: shape ``(n_bonds, width)``, the C of the module's docstring, 1/amu; 0 in empty places.
    """

    first: jax.Array
    second: jax.Array
    inverse_masses: jax.Array
    distances: jax.Array
    partners: jax.Array
    coupling: jax.Array

    def spread(self, impulses: jax.Array) -> jax.Array:
        """See `Bonds`."""
        return jnp.sum(self.coupling[..., None] * impulses[self.partners], axis=1)

    def solve(self, gradients: jax.Array, arms: jax.Array, wanted: jax.Array) -> jax.Array:
        """See `Bonds`; by the stabilised biconjugate gradient method on the matrix scaled to a unit diagonal."""
        scale = 1.0 / (jnp.sum(self.inverse_masses, axis=1) * jnp.sum(gradients * arms, axis=1))

        def matrix(factors: jax.Array) -> jax.Array:
            return scale * jnp.sum(gradients * self.spread(factors[:, None] * arms), axis=1)

        return bicgstab(matrix, scale * wanted, tol=INNER_TOLERANCE, maxiter=INNER_STEPS)[0]


def clusters(label: np.ndarray, atoms: np.ndarray, distances: np.ndarray, masses: np.ndarray) -> Clusters | None:
    """Tables with a row per cluster; ``label`` is sorted."""
    if not len(atoms):
        return None
    row = np.cumsum(np.diff(label, prepend=label[0]) != 0)
    column = np.arange(len(row)) - np.searchsorted(row, row)
    shape = (row[-1] + 1, column.max() + 1)
    table, inverse, length = np.full((*shape, 2), NO_ATOM), np.zeros((*shape, 2)), np.zeros(shape)
    table[row, column], inverse[row, column], length[row, column] = atoms, 1.0 / masses[atoms], distances
    coupling = np.zeros((*shape, shape[1]))
    for a in (0, 1):
        for b in (0, 1):
            shared = table[:, :, None, a] == table[:, None, :, b]
            coupling += np.where(shared, (1.0 if a == b else -1.0) * inverse[:, :, None, a], 0.0)
    return Clusters(
        first=jnp.asarray(table[..., 0], jnp.int32),
        second=jnp.asarray(table[..., 1], jnp.int32),
        inverse_masses=jnp.asarray(inverse),
        distances=jnp.asarray(length),
        coupling=jnp.asarray(coupling),
    )


def network(atoms: np.ndarray, distances: np.ndarray, masses: np.ndarray) -> Network | None:
    """Tables with a row per bond: which bonds share an atom with it, and how strongly they couple."""
    n = len(atoms)
    if not n:
        return None
    bond = np.arange(n)
    ends = (np.r_[bond, bond], np.r_[atoms[:, 0], atoms[:, 1]])
    signs = csr_array((np.r_[-np.ones(n), np.ones(n)], ends), shape=(n, len(masses)))
    coupling = csr_array(signs * np.where(masses > 0.0, 1.0 / np.where(masses > 0.0, masses, 1.0), 0.0)) @ signs.T
    coupling = csr_array(coupling)
    count = np.diff(coupling.indptr)
    row = np.repeat(bond, count)
    column = np.arange(len(row)) - np.repeat(coupling.indptr[:-1], count)
    partners, strength = np.tile(bond[:, None], (1, count.max())), np.zeros((n, count.max()))
    partners[row, column], strength[row, column] = coupling.indices, coupling.data
    return Network(
        first=jnp.asarray(atoms[:, 0], jnp.int32),
        second=jnp.asarray(atoms[:, 1], jnp.int32),
        inverse_masses=jnp.asarray(1.0 / masses[atoms]),
        distances=jnp.asarray(distances),
        partners=jnp.asarray(partners, jnp.int32),
        coupling=jnp.asarray(strength),
    )


def vectors_of(bonds: Bonds, values: jax.Array) -> jax.Array:
    """``values(second) - values(first)``, shape ``(..., 3)``; 0 in empty places."""

    def at(atoms: jax.Array) -> jax.Array:
        return values.at[atoms].get(mode="fill", fill_value=0.0)

    return at(bonds.second) - at(bonds.first)


def on_atoms(bonds: Bonds, impulses: jax.Array, n_atoms: int) -> jax.Array:
    """How impulses move the atoms, shape ``(n_atoms, 3)``."""
    by_first, by_second = (bonds.inverse_masses[..., k, None] * impulses for k in (0, 1))
    moved = jnp.zeros((n_atoms, 3), impulses.dtype)
    return moved.at[bonds.first].add(-by_first, mode="drop").at[bonds.second].add(by_second, mode="drop")


def position_impulses(bonds: Bonds, new: jax.Array, old: jax.Array, tolerance: float) -> jax.Array:
    """Impulses that bring new positions to the distances along the old bond vectors.

    Args:
        bonds: the constraints.
        new: shape ``(n_atoms, 3)``, nm.
        old: shape ``(n_atoms, 3)``, nm.
        tolerance: relative, of the distances.

    Returns:
        Shape ``(..., 3)``, amu nm; NaN for a bond that did not come within the tolerance.
    """
    inverse = jnp.where(bonds.distances == 0.0, 0.0, 1.0 / jnp.where(bonds.distances == 0.0, 1.0, bonds.distances))

    def residual(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        scaled = vectors * inverse[..., None]
        error = (jnp.sum(scaled**2, axis=-1) - jnp.where(bonds.distances == 0.0, 0.0, 1.0)) / 2.0
        return error, scaled * inverse[..., None]

    return _impulses(bonds, vectors_of(bonds, new), vectors_of(bonds, old), residual, tolerance)


def velocity_impulses(bonds: Bonds, velocities: jax.Array, positions: jax.Array, tolerance: float) -> jax.Array:
    """Impulses that remove the velocities along the bonds.

    Args:
        bonds: the constraints.
        velocities: shape ``(n_atoms, 3)``.
        positions: shape ``(n_atoms, 3)``, nm.
        tolerance: of the velocity along a bond, relative to the largest relative velocity of two bonded atoms.

    Returns:
        Shape ``(..., 3)``, amu times the unit of the velocities; NaN for a bond that did not come within the tolerance.
    """
    arms, start = vectors_of(bonds, positions), vectors_of(bonds, velocities)
    square = jnp.sum(arms**2, axis=-1, keepdims=True)
    units = arms / jnp.sqrt(jnp.where(square == 0.0, 1.0, square))
    fastest = jnp.sqrt(jnp.max(jnp.sum(start**2, axis=-1)))
    gradients = units / jnp.where(fastest == 0.0, 1.0, fastest)

    def residual(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(gradients * vectors, axis=-1), gradients

    return _impulses(bonds, start, units, residual, tolerance)


def _impulses(
    bonds: Bonds,
    start: jax.Array,
    arms: jax.Array,
    residual: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    tolerance: float,
) -> jax.Array:
    """Newton's method: impulses along the arms, with which the residuals of the bond vectors vanish.

    A step is made after the tolerance was met, too: what Newton's method leaves of a distance is always positive, and
    the energy would drift. `residual` gives the residuals of vectors and their gradients with respect to the vectors.
    """

    def going_on(state: tuple[jax.Array, ...]) -> jax.Array:
        step, before, _, _ = state
        return (step < MAX_STEPS) & (before > tolerance)

    def improved(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        step, _, vectors, impulses = state
        errors, gradients = residual(vectors)
        more = bonds.solve(gradients, arms, -errors)[..., None] * arms
        worst = jnp.max(jnp.where(jnp.isfinite(errors), jnp.abs(errors), 0.0))  # a lost cluster does not stop the rest
        return step + 1, worst, vectors + bonds.spread(more), impulses + more

    begin = (jnp.int32(0), jnp.asarray(jnp.inf, start.dtype), start, jnp.zeros_like(start))
    _, _, vectors, impulses = jax.lax.while_loop(going_on, improved, begin)
    return jnp.where((jnp.abs(residual(vectors)[0]) <= tolerance)[..., None], impulses, jnp.nan)
