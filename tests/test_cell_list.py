"""Lists made on the device against those of the host, which are checked against brute force."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.cell_list import allocate, update
from diffff.errors import InputError
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential
from diffff.pytree import pytree, static

TRICLINIC = np.array([[7.0, 0.0, 0.0], [2.1, 6.2, 0.0], [-1.3, 1.7, 5.9]])
FLAT = np.diag([1.0, 9.0, 3.0])
SKEWED = np.array([[3.0, 0.0, 0.0], [-1.5, 2.6, 0.0], [1.5, 1.3, 2.0]])
filled = jax.jit(update)


def scattered(n_atoms: int, box: np.ndarray | None, dtype: type = np.float64, seed: int = 0) -> np.ndarray:
    """Positions inside and far outside of the box."""
    fractional = np.random.default_rng(seed).uniform(-2.0, 3.0, (n_atoms, 3))
    return (fractional @ (4.0 * np.eye(3) if box is None else box)).astype(dtype)


def check(sizes, x, box, cutoff):
    found = filled(sizes, jnp.asarray(x), None if box is None else jnp.asarray(box, x.dtype))
    expected = neighbor_list(x, box, cutoff)
    used, wanted = np.asarray(found.i) < len(x), np.asarray(expected.i) < len(x)
    assert not found.overflow
    assert np.all(np.asarray(found.i)[~used] == len(x)) and np.all(np.asarray(found.j)[~used] == len(x))
    assert np.all(np.diff(used.astype(int)) <= 0)  # the unused entries are the last ones
    for name in ("i", "j", "shift"):
        np.testing.assert_array_equal(
            np.asarray(getattr(found, name))[used], np.asarray(getattr(expected, name))[wanted]
        )


@pytest.mark.parametrize(
    ("n_atoms", "box", "cutoff"),
    [
        (150, TRICLINIC, 0.8),
        (150, TRICLINIC, 2.0),
        (40, TRICLINIC, 9.0),
        (120, SKEWED, 0.9),
        (120, FLAT, 1.1),
        (1, TRICLINIC, 8.0),
        (150, None, 0.4),
        (150, None, 3.0),
        (20, None, 40.0),
        (2, None, 0.1),
    ],
)
def test_the_pairs_are_those_of_the_host_in_the_same_order(n_atoms, box, cutoff):
    x = scattered(n_atoms, box)
    check(allocate(x, box, cutoff), x, box, cutoff)


def test_one_allocation_serves_other_positions_and_boxes():
    x = scattered(150, TRICLINIC)
    sizes = allocate(x, TRICLINIC, 2.0)
    for scale in (0.995, 1.2, 2.0):
        strained = TRICLINIC @ (scale * np.eye(3) + 0.01 * np.eye(3, k=1))
        check(sizes, x @ np.linalg.inv(TRICLINIC) @ strained, strained, 2.0)
    free = allocate(scattered(80, None), None, 1.5)
    for shift, scale in ((0.0, 0.97), (50.0, 1.0), (0.0, 1.5)):
        check(free, scale * scattered(80, None) + shift, None, 1.5)


def test_single_precision_finds_the_same_pairs():
    x = np.round(scattered(150, TRICLINIC), 3).astype(np.float32)
    check(allocate(x, TRICLINIC.astype(np.float32), 2.0), x, TRICLINIC, 2.0)


def test_a_molecule_far_from_all_others_takes_no_memory():
    x = scattered(60, None)
    x[0] += 1e5
    sizes = allocate(x, None, 0.5)
    assert np.prod(sizes.cells) <= 60
    check(sizes, x, None, 0.5)


@pytest.mark.parametrize("name", ["cell_capacity", "row_capacity", "capacity"])
def test_what_does_not_fit_is_told(name):
    x = scattered(150, TRICLINIC)
    sizes = allocate(x, TRICLINIC, 2.0)
    small = replace(sizes, **{name: {"cell_capacity": 8, "row_capacity": 8, "capacity": 256}[name]})
    assert filled(small, jnp.asarray(x), jnp.asarray(TRICLINIC)).overflow


def test_a_box_that_shrinks_below_its_cells_is_told():
    x = scattered(150, TRICLINIC)
    sizes = allocate(x, TRICLINIC, 1.9)
    assert sizes.cells == (3, 3, 3)
    assert filled(sizes, jnp.asarray(0.8 * x), jnp.asarray(0.8 * TRICLINIC)).overflow
    check(allocate(0.8 * x, 0.8 * TRICLINIC, 1.9), 0.8 * x, 0.8 * TRICLINIC, 1.9)


def test_positions_without_sense_are_refused():
    with pytest.raises(InputError, match="atom 1"):
        allocate(np.array([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0]]), None, 1.0)


@pytree
class Springs:
    """Between all pairs of the list."""

    name: str = static(default="Springs")
    cutoff: float = static(default=2.0)

    def energy(self, params, positions, box, neighbors):
        n = len(positions)
        dr = positions[jnp.minimum(neighbors.j, n - 1)] - positions[jnp.minimum(neighbors.i, n - 1)]
        return params["k"] * jnp.sum(jnp.where(neighbors.i < n, jnp.sum((dr + neighbors.shift @ box) ** 2, axis=1), 0))


def test_a_list_that_lacks_pairs_makes_energy_and_forces_nan():
    x = jnp.asarray(scattered(150, TRICLINIC))
    box, potential = jnp.asarray(TRICLINIC), Potential(terms=(Springs(),))
    sizes = allocate(np.asarray(x), TRICLINIC, 2.0)
    for one, finite in ((sizes, True), (replace(sizes, capacity=256), False)):
        energy, gradient = jax.value_and_grad(potential.energy, 1)({"Springs": {"k": 2.0}}, x, box, filled(one, x, box))
        assert np.isfinite(energy) == finite
        assert np.isfinite(gradient).all() == finite


@pytest.mark.parametrize(
    ("positions", "box", "message"),
    [
        (np.zeros((1, 3)), np.array([[1.0, 0, 0], [300, 1, 0], [-200, 500, 1]]), "the box is very skewed: "),
        (np.zeros((1, 3)), 1e-3 * np.eye(3), "the box is tiny, 0.001 nm between two faces. Is it in nm"),
        (np.append(np.linspace(0, 1, 24000), 1e5).reshape(-1, 1) * np.ones(3), None, "24001 atoms are spread"),
        (np.linspace(0, 0.1, 24000).reshape(-1, 1) * np.ones(3), None, "there are 24000 atoms, too close"),
    ],
)
def test_a_list_that_no_memory_holds_is_refused(positions, box, message):
    with pytest.raises(InputError, match="a neighbour list up to 0.5 nm does not fit into memory: .*" + message):
        allocate(positions, box, 0.5)
