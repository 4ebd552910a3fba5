"""The contract of an energy term, to be checked for every term on a small system."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff.neighbors import Neighbors, directed_pairs, neighbor_list
from diffff.potentials.base import Term

STEP = 1e-5  # nm, and strain: for central differences


@jax.jit
def _derivatives(
    term: Term, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Energy, forces, virial and parameter gradient."""

    def strained(params: Any, positions: jax.Array, strain: jax.Array) -> jax.Array:
        deform = jnp.eye(3) + strain
        return term.energy(params, positions @ deform, None if box is None else box @ deform, neighbors)

    energy, (by_params, by_positions, by_strain) = jax.value_and_grad(strained, (0, 1, 2))(
        params, positions, jnp.zeros((3, 3))
    )
    return energy, -by_positions, -by_strain, by_params


@jax.jit
def _energy(term: Term, params: Any, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
    return term.energy(params, positions, box, neighbors)


def check_term(
    term: Term,
    params: Any,
    positions: np.ndarray,
    box: np.ndarray | None,
    *,
    alike: Sequence[Sequence[int]] = (),
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Assert what every term must satisfy.

    Args:
        term: bound to the atoms of the system.
        params: the term's own parameters.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)`` or None, nm.
        alike: groups of atoms whose exchange must not change the energy.
        tolerance: accepted deviation from difference quotients, relative to the largest component.
        seed: for the random directions.
    """
    rng = np.random.default_rng(seed)
    n_pairs = len(directed_pairs(positions, box, 1.1 * term.cutoff)[0]) // 2
    capacity = n_pairs + 64  # with a skin and unused entries

    def around(x: np.ndarray, cell: np.ndarray | None) -> Neighbors:
        return neighbor_list(x, cell, 1.1 * term.cutoff, capacity)

    listed = around(positions, box)
    energy, forces, stress, gradient = _derivatives(term, params, positions, box, listed)
    _check_shapes(positions, energy, forces, stress, gradient, params)
    if term.cutoff > 0:
        _check_lists(term, params, positions, box, energy)
    small = 1e-9 * max(np.abs(forces).max(), abs(float(energy)), 1.0)

    def same(x: np.ndarray, cell: np.ndarray | None, forces_there: Any, stress_there: Any) -> None:
        found = _derivatives(term, params, x, cell, around(x, cell))
        np.testing.assert_allclose(found[0], energy, rtol=0, atol=small)
        np.testing.assert_allclose(found[1], forces_there, rtol=0, atol=small)
        np.testing.assert_allclose(found[2], stress_there, rtol=0, atol=small)

    np.testing.assert_allclose(np.sum(forces, axis=0), 0.0, atol=small)
    np.testing.assert_allclose(stress, np.transpose(stress), atol=small)
    same(positions + rng.normal(size=3), box, forces, stress)
    turn = _rotation(rng)
    same(positions @ turn, None if box is None else box @ turn, forces @ turn, turn.T @ stress @ turn)
    if box is not None:
        same(positions + rng.integers(-2, 3, positions.shape) @ box, box, forces, stress)
    if alike:
        order = np.arange(len(positions))
        for group in alike:
            order[list(group)] = rng.permutation(list(group))
        same(positions[order], box, forces[order], stress)
    _check_differences(term, params, positions, box, listed, (forces, stress, gradient), tolerance, rng)


def _check_shapes(positions: np.ndarray, energy: Any, forces: Any, stress: Any, gradient: Any, params: Any) -> None:
    assert energy.shape == () and forces.shape == positions.shape and stress.shape == (3, 3)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    for path, leaf in jax.tree_util.tree_leaves_with_path((energy, forces, stress, gradient)):
        assert np.isfinite(leaf).all(), f"not finite: {jax.tree_util.keystr(path)}"


def _check_lists(term: Term, params: Any, positions: np.ndarray, box: np.ndarray | None, energy: jax.Array) -> None:
    """Neither unused entries nor pairs beyond the cutoff change the energy."""
    exact = neighbor_list(positions, box, term.cutoff)
    tight = neighbor_list(positions, box, term.cutoff, capacity=max(1, int((exact.i < len(positions)).sum())))
    for listed in (exact, tight):
        np.testing.assert_allclose(_energy(term, params, positions, box, listed), energy, rtol=1e-11)


def _check_differences(
    term: Term,
    params: Any,
    positions: np.ndarray,
    box: np.ndarray | None,
    listed: Neighbors,
    exact: tuple[Any, Any, Any],
    tolerance: float,
    rng: np.random.Generator,
) -> None:
    """Forces, virial and parameter gradient are the derivatives of the energy, by central differences."""
    forces, stress, gradient = exact

    def slope(along: Any) -> float:
        """Of the energy, where ``along(h)`` gives parameters, positions and box."""
        up, down = (_energy(term, *along(h), listed) for h in (STEP, -STEP))
        return float(up - down) / (2 * STEP)

    def moved(atom: int, axis: int) -> float:
        direction = np.zeros(positions.shape)
        direction[atom, axis] = 1.0
        return slope(lambda h: (params, positions + h * direction, box))

    def strained(a: int, b: int) -> float:
        direction = np.zeros((3, 3))
        direction[a, b] = 1.0

        def along(h: float) -> tuple[Any, np.ndarray, np.ndarray | None]:
            deform = np.eye(3) + h * direction
            return params, positions @ deform, None if box is None else box @ deform

        return slope(along)

    found = [[-moved(atom, axis) for axis in range(3)] for atom in range(len(positions))]
    np.testing.assert_allclose(found, forces, rtol=0, atol=tolerance * max(1.0, np.abs(forces).max()))
    found = [[-strained(a, b) for b in range(3)] for a in range(3)]
    np.testing.assert_allclose(found, stress, rtol=0, atol=tolerance * max(1.0, np.abs(stress).max()))
    direction = jax.tree.map(lambda x: rng.normal(size=np.shape(x)) * (0.1 + np.abs(x)), params)
    expected = sum(float(np.sum(g * d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    found = slope(lambda h: (jax.tree.map(lambda x, d: x + h * d, params, direction), positions, box))
    np.testing.assert_allclose(found, expected, rtol=10 * tolerance, atol=10 * tolerance)


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))
