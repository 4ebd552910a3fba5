"""Strains of a box and what is in it: energies follow the pressure tensor, lattices stay what they are."""

from dataclasses import replace
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

from diffff import units
from diffff.md.deformation import Coupling, directions, reduced, strained
from diffff.md.observables import pressure, pressure_tensor
from diffff.md.state import particles, state_of
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential, energy_forces_virial
from diffff.pytree import pytree, static

RNG = np.random.default_rng(4)
BOX = np.array([[1.1, 0.0, 0.0], [0.2, 1.3, 0.0], [-0.3, 0.1, 1.2]])


@pytree
class Pairs:
    """``E = sum (1 - r^2 / r_c^2)^3`` of all pairs within r_c, and bonds inside pairs of atoms."""

    name: str = static(default="Pairs")
    cutoff: float = static(default=0.9)

    def energy(self, params, positions, box, neighbors):
        i, j = neighbors.i, neighbors.j
        dr = positions.at[j].get(mode="clip") - positions.at[i].get(mode="clip") + neighbors.shift @ box
        near = jnp.where(i < len(positions), 1.0 - jnp.sum(dr**2, axis=1) / self.cutoff**2, 0.0)
        return 300.0 * jnp.sum(jnp.maximum(near, 0.0) ** 3) + 50.0 * jnp.sum((positions[1::2] - positions[::2]) ** 2)


PAIRS = Potential(terms=(Pairs(),))


def energy(x, box):
    return energy_forces_virial(PAIRS, {"Pairs": {}}, x, box, neighbor_list(np.asarray(x), np.asarray(box), 0.9))


def molecules():
    """Six diatomic molecules that move and turn, with what a barostat looks at."""
    some = particles(RNG.uniform(1.0, 20.0, 12), molecules=np.repeat(np.arange(6), 2), free_center=True)
    x = (RNG.uniform(size=(6, 1, 3)) @ BOX + 0.1 * RNG.normal(size=(6, 2, 3))).reshape(12, 3)
    batch = state_of(x, BOX, some, {}, temperature=300.0, seed=1)
    state = replace(batch, positions=batch.positions[0], velocities=batch.velocities[0], box=batch.box[0])
    potential, forces, virial = energy(state.positions, state.box)
    return replace(state, energy=potential, forces=forces, virial=virial), some


def test_the_energy_follows_the_pressure_tensor():
    """``dE/d epsilon_ab = -V P_ab``, potential and kinetic energy together, for all nine strains."""
    state, some = molecules()
    slope, step = np.zeros((3, 3)), 1e-5
    for a, b in np.ndindex(3, 3):
        for sign in (1.0, -1.0):
            new = strained(state, some, jnp.zeros((3, 3)).at[a, b].set(sign * step))
            total = energy(new.positions, new.box)[0] + some.kinetic_energy(new.velocities)
            slope[a, b] += sign * float(total) / (2 * step)
    tensor = np.asarray(pressure_tensor(state, some))
    volume = np.linalg.det(BOX)
    np.testing.assert_allclose(tensor, -slope / volume * units.BAR_PER_KJ_PER_MOL_PER_NM3, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(np.trace(tensor) / 3.0, pressure(state, some), rtol=1e-12)
    assert np.abs(tensor - tensor.T).max() > 1.0  # bonds turn the molecules


def test_strains_can_be_taken_back_and_keep_molecules():
    state, some = molecules()
    strain = jnp.asarray(0.3 * np.tril(RNG.normal(size=(3, 3))))
    new = strained(state, some, strain)
    assert new.box is not None
    assert np.allclose(np.triu(new.box, 1), 0.0)
    np.testing.assert_allclose(
        np.linalg.det(np.asarray(new.box)), np.linalg.det(BOX) * np.exp(np.trace(strain)), rtol=1e-13
    )
    for old, now in ((state.positions, new.positions), (state.velocities, new.velocities)):
        np.testing.assert_allclose(now[1::2] - now[::2], old[1::2] - old[::2], rtol=0, atol=1e-12)
    back = strained(new, some, -strain)
    for name in ("positions", "velocities", "box"):
        np.testing.assert_allclose(getattr(back, name), getattr(state, name), rtol=0, atol=1e-13)


def test_directions_are_orthonormal_strains():
    for coupling, number in zip(get_args(Coupling), (1, 2, 3, 6), strict=True):
        symmetric = (directions(coupling) + directions(coupling).swapaxes(1, 2)) / 2.0
        np.testing.assert_allclose(np.einsum("iab,jab->ij", symmetric, symmetric), np.eye(number), atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_reduced_box_is_the_same_lattice(dtype):
    small = 1e-5 if dtype == "float32" else 1e-12
    for _ in range(20):
        box = np.tril(RNG.normal(scale=3.0, size=(3, 3)), -1) + np.diag(RNG.uniform(0.8, 1.5, 3))
        new = np.asarray(reduced(jnp.asarray(box, dtype)), float)
        whole = new @ np.linalg.inv(box)
        np.testing.assert_allclose(whole, np.rint(whole), rtol=0, atol=small)
        np.testing.assert_allclose(np.diag(new), np.diag(box), rtol=small)
        assert np.all(np.triu(new, 1) == 0.0)
        assert 2.0 * max(abs(new[1, 0]), abs(new[2, 0])) <= new[0, 0] * (1.0 + small)
        assert 2.0 * abs(new[2, 1]) <= new[1, 1] * (1.0 + small)
    skewed = np.array([[1, 0, 0], [2, 1, 0], [-3, -1, 1]]) @ BOX
    x = RNG.uniform(size=(12, 3))
    np.testing.assert_allclose(reduced(jnp.asarray(skewed)), BOX, atol=1e-14)
    np.testing.assert_allclose(energy(x, jnp.asarray(skewed))[0], energy(x, jnp.asarray(BOX))[0], rtol=1e-12)
