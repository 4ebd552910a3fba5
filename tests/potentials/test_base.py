"""Sums of terms, and whether the contract catches terms that break it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential, Shared, energy_and_forces, virial
from diffff.pytree import pytree, static
from tests.check_term import check_term

BOX = np.array([[0.9, 0.0, 0.0], [0.2, 0.8, 0.0], [-0.1, 0.15, 0.7]])
POSITIONS = np.random.default_rng(4).uniform(size=(3, 3)) @ BOX
CUTOFF = 0.8


@pytree
class Pairwise:
    """``k (1 - r^2 / cutoff^2)^3`` for each pair, and one of the ways to get it wrong."""

    mistake: str = static(default="")
    name: str = static(default="Pairwise")
    cutoff: float = static(default=CUTOFF)

    def energy(self, params, positions, box, neighbors):
        n_atoms, i, j = len(positions), neighbors.i, neighbors.j
        dr = positions[jnp.minimum(j, n_atoms - 1)] - positions[jnp.minimum(i, n_atoms - 1)]
        if box is not None and self.mistake != "no images":
            dr = dr + neighbors.shift @ (jax.lax.stop_gradient(box) if self.mistake == "stiff box" else box)
        squared = jnp.sum(dr**2, axis=-1)
        if self.mistake == "fixed axes":
            squared = squared + 0.1 * dr[:, 0] ** 2
        inside = (i < n_atoms) if self.mistake == "no cutoff" else (i < n_atoms) & (squared < self.cutoff**2)
        if self.mistake == "unused entries":
            inside = squared < self.cutoff**2
        k = jax.lax.stop_gradient(params["k"]) if self.mistake == "no gradient" else params["k"]
        pair = k * jnp.where(inside, (1.0 - squared / self.cutoff**2) ** 3, 0.0)
        if self.mistake == "not a number":
            pair = jnp.where(inside, jnp.sqrt(squared), 0.0)
        if self.mistake == "atoms differ":
            pair = pair * (1.0 + 0.1 * i)
        return jnp.sum(pair)


PARAMS = {"k": jnp.array(30.0)}
MISTAKES = ["fixed axes", "no cutoff", "unused entries", "no gradient", "not a number", "atoms differ"]


@pytest.mark.parametrize("box", [None, BOX], ids=["molecule", "triclinic"])
def test_a_right_term_passes(box):
    check_term(Pairwise(), PARAMS, POSITIONS, box, alike=[range(3)])


@pytest.mark.parametrize("mistake", [*MISTAKES, "no images", "stiff box"])
def test_a_wrong_term_is_caught(mistake):
    with pytest.raises(AssertionError):
        check_term(Pairwise(mistake=mistake), PARAMS, POSITIONS, BOX, alike=[range(3)])


def test_the_sum_of_potentials():
    first, second = Potential(terms=(Pairwise(),)), Potential(terms=(Pairwise(name="Other", cutoff=0.5),))
    both = first + second
    assert both.cutoff == CUTOFF and Potential(terms=()).cutoff == 0.0
    system = (
        {"Pairwise": PARAMS, "Other": {"k": jnp.array(-2.0)}},
        POSITIONS,
        BOX,
        neighbor_list(POSITIONS, BOX, CUTOFF),
    )
    energies = both.energies(*system)
    assert set(energies) == {"Pairwise", "Other"}
    np.testing.assert_allclose(both.energy(*system), energies["Pairwise"] + energies["Other"], rtol=1e-13)
    np.testing.assert_allclose(first.energy(*system), energies["Pairwise"], rtol=1e-13)
    energy, forces = energy_and_forces(both, *system)
    np.testing.assert_allclose(energy, both.energy(*system))
    np.testing.assert_allclose(forces, energy_and_forces(first, *system)[1] + energy_and_forces(second, *system)[1])
    np.testing.assert_allclose(virial(both, *system), virial(first, *system) + virial(second, *system), atol=1e-12)
    assert Potential(terms=()).energy(*system) == 0.0


def test_a_list_that_reaches_less_far_than_a_term_is_refused():
    """Also by the cutoff of a term that looks at nothing itself, and of the shorter of two."""
    both = Potential(terms=(Pairwise(cutoff=0.3), Pairwise(name="Other")))
    params = {"Pairwise": PARAMS, "Other": PARAMS}
    both.energy(params, POSITIONS, BOX, neighbor_list(POSITIONS, BOX, CUTOFF * (1.0 - 1e-15)))  # rounding
    short = neighbor_list(POSITIONS, BOX, 0.5)
    with pytest.raises(InputError, match=r"Other: the neighbour list reaches 0\.5 nm, the cutoff is 0\.8 nm; build"):
        both.energy(params, POSITIONS, BOX, short)
    with pytest.raises(InputError, match="Other: the neighbour list reaches"):
        both.atomic_energies(params, POSITIONS, BOX, short)
    with pytest.raises(InputError, match=r"no neighbour list, but the potential has a cutoff of 0\.8 nm"):
        both.atomic_energies(params, POSITIONS, BOX, None)


def test_terms_of_one_name_count_together():
    system = ({"Pairwise": PARAMS}, POSITIONS, BOX, neighbor_list(POSITIONS, BOX, CUTOFF))
    once, twice = Potential(terms=(Pairwise(),)), Potential(terms=(Pairwise(), Pairwise()))
    np.testing.assert_allclose(twice.energies(*system)["Pairwise"], 2 * once.energy(*system))


def test_a_shared_column_has_the_gradient_of_all_its_terms():
    other = Potential(terms=(Pairwise(name="Other"),), shared=(Shared("Other", "k", "Pairwise"),))
    both = other + Potential(terms=(Pairwise(),))
    system = ({"Pairwise": PARAMS}, POSITIONS, BOX, neighbor_list(POSITIONS, BOX, CUTOFF))
    once, all_of_it = (jax.grad(p.energy)(*system)["Pairwise"]["k"] for p in (other, both))
    assert both.shared == other.shared
    np.testing.assert_allclose(all_of_it, 2 * once)


def test_an_array_of_another_shape_is_refused():
    potential = Potential(terms=(Pairwise(),), shapes=(("Pairwise", "k", ()),))
    system = (POSITIONS, BOX, neighbor_list(POSITIONS, BOX, CUTOFF))
    assert (potential + potential).shapes == 2 * potential.shapes
    potential.energy({"Pairwise": PARAMS}, *system)
    with pytest.raises(InputError, match=r"Pairwise/k has the shape \(2,\); it must have the shape \(\)"):
        potential.energy({"Pairwise": {"k": jnp.ones(2)}}, *system)
    with pytest.raises(InputError, match="Pairwise/k is missing"):
        potential.energy({}, *system)


def test_forces_and_virial_of_two_atoms_by_hand():
    """At r = d: E = k (1 - d^2/c^2)^3, F = 6 k d/c^2 (1 - d^2/c^2)^2 outwards, virial xx = F d."""
    positions = jnp.array([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0]])
    system = ({"Pairwise": PARAMS}, positions, None, neighbor_list(positions, None, CUTOFF))
    potential = Potential(terms=(Pairwise(),))
    energy, forces = energy_and_forces(potential, *system)
    force = 6 * 30.0 * 0.4 / 0.64 * 0.75**2
    np.testing.assert_allclose(energy, 30.0 * 0.75**3)
    np.testing.assert_allclose(forces, [[-force, 0, 0], [force, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(virial(potential, *system), np.diag([0.4 * force, 0, 0]), atol=1e-12)
