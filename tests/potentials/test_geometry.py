"""Distances, angles and dihedrals: hand numbers, limits, and gradients where they are hard to have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.potentials import geometry

BOX = np.array([[1.3, 0.0, 0.0], [0.4, 1.2, 0.0], [-0.5, 0.3, 1.1]])
CHAIN = jnp.array([[0, 1, 2, 3]])


def chain_with(phi: float) -> np.ndarray:
    """Four atoms whose dihedral is phi: b along z, the first bond in the x direction."""
    return np.array([[0.1, 0.0, 0.02], [0, 0, 0], [0, 0, 0.15], [0.1 * np.cos(phi), 0.1 * np.sin(phi), 0.19]])


def test_distance_by_hand():
    positions = jnp.array([[0.0, 0.0, 0.0], [0.3, 0.4, 1.2]])
    np.testing.assert_allclose(geometry.distance(positions, None, jnp.array([[0, 1], [1, 0]])), 1.3, rtol=1e-15)
    np.testing.assert_allclose(
        geometry.displacements(positions, None, jnp.array([0]), jnp.array([1])), [[0.3, 0.4, 1.2]], rtol=1e-15
    )


@pytest.mark.parametrize("theta", [0.0, 1e-9, 0.5, np.pi / 2, np.pi - 1e-9, np.pi])
def test_angles_of_all_sizes(theta):
    """Rounding does not grow towards a line, where the cosine alone would lose half of the digits."""
    positions = jnp.array([[0.2, 0.0, 0.0], [0.0, 0.0, 0.0], [0.1 * np.cos(theta), 0.1 * np.sin(theta), 0.0]])
    found = geometry.angle(positions, None, jnp.array([[0, 1, 2]]))
    np.testing.assert_allclose(found, theta, rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("phi", [0.0, 1e-9, 0.7, np.pi / 2, 3.1, np.pi - 1e-9, -np.pi + 1e-9, -2.0, -1e-9])
def test_dihedrals_of_all_sizes(phi):
    found = geometry.dihedral(jnp.asarray(chain_with(phi)), None, CHAIN)
    np.testing.assert_allclose(found, phi, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_trans_is_plus_pi(zero, dtype):
    positions = np.array([[0.1, 0.0, 0.0], [0, 0, 0], [0, 0, 0.15], [-0.1, zero, 0.2]], dtype)
    for atoms in (CHAIN, CHAIN[:, ::-1]):
        found = geometry.dihedral(jnp.asarray(positions), None, atoms)
        assert found.dtype == dtype and found[0] == dtype(np.pi)


def test_slope_of_a_dihedral_is_one_over_the_lever():
    """Also at cis and trans, where the sine of the angle is zero."""
    gradient = jax.jit(jax.grad(lambda x: geometry.dihedral(x, None, CHAIN)[0]))
    for phi in (0.0, 1.0, np.pi, -np.pi / 2):
        slope = gradient(jnp.asarray(chain_with(phi)))
        np.testing.assert_allclose(slope[3], [-np.sin(phi) / 0.1, np.cos(phi) / 0.1, 0.0], atol=1e-12)
        np.testing.assert_allclose(slope[0], [0.0, -1 / 0.1, 0.0], atol=1e-12)
        np.testing.assert_allclose(slope.sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "positions"),
    [
        (geometry.distance, [[0.1, 0.2, 0.3]] * 2),
        (geometry.angle, [[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], [-0.2, 0.0, 0.0]]),
        (geometry.angle, [[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], [0.2, 0.0, 0.0]]),
        (geometry.angle, [[0.1, 0.1, 0.0], [0.1, 0.1, 0.0], [0.2, 0.2, 0.0]]),
        (geometry.dihedral, [[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], [-0.1, 0.0, 0.0], [0.0, 0.1, 0.3]]),
        (geometry.dihedral, [[0.1, 0.2, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.1, 0.3]]),
    ],
    ids=["coincident", "straight", "folded", "angle without a bond", "chain in line", "dihedral without a bond"],
)
def test_no_gradient_where_there_is_no_slope(kind, positions):
    """Zero instead of NaN, beside a regular entry that keeps its own; second derivatives are finite too."""
    positions = jnp.array(positions)
    regular = jnp.asarray(chain_with(1.0))[: len(positions)]
    atoms = jnp.arange(len(positions))[None]

    def total(x):
        return kind(x, None, jnp.concatenate([atoms, atoms + len(positions)])).sum()

    @jax.jit
    def found(x):
        return total(x), jax.grad(total)(x), jax.hessian(total)(x)

    energy, slope, curvature = found(jnp.concatenate([positions, regular]))
    assert jnp.isfinite(energy) and jnp.isfinite(curvature).all()
    assert not slope[: len(positions)].any() and slope[len(positions) :].any()


@pytest.mark.parametrize("kind", [geometry.distance, geometry.angle, geometry.dihedral])
def test_nan_positions_are_not_hidden(kind):
    size = {geometry.distance: 2, geometry.angle: 3, geometry.dihedral: 4}[kind]
    positions = jnp.asarray(chain_with(1.0)).at[1, 2].set(jnp.nan)
    assert jnp.isnan(kind(positions, None, CHAIN[:, :size])).all()


def brute_force(dr: np.ndarray, box: np.ndarray) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    images = dr[:, None] + grid @ box
    return images[np.arange(len(dr)), np.argmin(np.sum(images**2, axis=-1), axis=1)]


@pytest.mark.parametrize("turned", [False, True])
def test_nearest_images_up_to_half_the_width(turned):
    rng = np.random.default_rng(0)
    box = BOX @ np.linalg.qr(rng.normal(size=(3, 3)))[0] if turned else BOX
    short = rng.normal(size=(200, 3))
    short *= rng.uniform(0, 0.5, (200, 1)) / np.linalg.norm(short, axis=1, keepdims=True)
    far = short + rng.integers(-3, 4, (200, 3)) @ box
    np.testing.assert_allclose(geometry.minimum_image(jnp.asarray(far), jnp.asarray(box)), short, atol=1e-14)
    np.testing.assert_allclose(brute_force(far, box), short, atol=1e-14)


def test_images_of_long_vectors_are_openmms_and_follow_the_box():
    """In the reduced form: z first, then y, then x, each to at most half of the diagonal element."""
    long = np.random.default_rng(1).uniform(-3, 3, (100, 3))
    found = geometry.minimum_image(jnp.asarray(long), jnp.asarray(BOX))
    assert np.all(np.abs(found) <= 0.5 * np.diag(BOX) + 1e-12)
    cells = (found - long) @ np.linalg.inv(BOX)
    np.testing.assert_allclose(cells, np.round(cells), atol=1e-12)
    by_box = jax.jit(jax.jacobian(geometry.minimum_image, 1))(jnp.asarray(long), jnp.asarray(BOX))
    np.testing.assert_allclose(np.einsum("nxax->na", by_box) / 3, np.round(cells), atol=1e-12)


def test_periodic_geometry_of_scattered_atoms():
    positions = chain_with(0.8)
    far = positions + np.array([[0, 0, 0], [1, -2, 0], [0, 3, -1], [2, 2, 2]]) @ BOX
    for kind, size in ((geometry.distance, 2), (geometry.angle, 3), (geometry.dihedral, 4)):
        atoms = CHAIN[:, :size]
        near = kind(jnp.asarray(positions), None, atoms)
        np.testing.assert_allclose(kind(jnp.asarray(far), jnp.asarray(BOX), atoms, periodic=True), near, rtol=1e-12)
        assert abs(kind(jnp.asarray(far), jnp.asarray(BOX), atoms) - near) > 0.1
        with pytest.raises(InputError, match="there is no box"):
            kind(jnp.asarray(far), None, atoms, periodic=True)
