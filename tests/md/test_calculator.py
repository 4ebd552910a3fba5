"""The calculator of all engines: the same numbers as the potential, whatever was computed before."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.potentials.base import Potential
from diffff.pytree import pytree, static
from tests.md.systems import deep_water, hybrid, peptide

TOLERANCE = {"float64": 1e-9, "float32": 2e-4}


def check(calculator, system, x, box, tolerance):
    found, (energy, forces, virial) = calculator(x, box), system.expected(x, box)
    np.testing.assert_allclose(found.energy, energy, rtol=tolerance)
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=tolerance * np.abs(forces).max())
    np.testing.assert_allclose(found.virial, virial, rtol=0, atol=tolerance * np.abs(virial).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", [deep_water, peptide])
def test_energy_forces_and_virial_are_those_of_the_potential(make, dtype):
    system = make()
    calculator = Calculator(system.potential, system.params, dtype=dtype)
    check(calculator, system, system.positions, system.box, TOLERANCE[dtype])


def test_a_sum_of_a_deep_potential_and_xml_is_a_potential_like_others(tmp_path):
    system = hybrid(tmp_path)
    check(Calculator(system.potential, system.params), system, system.positions, system.box, 1e-9)


@pytest.mark.parametrize("make", [deep_water, peptide])
def test_the_virial_is_the_derivative_with_respect_to_the_box(make):
    """The step is so small that hardly a pair crosses the cutoff, where the energy of a pair is cut."""
    system = make()
    calculator = Calculator(system.potential, system.params)
    found = calculator(system.positions, system.box).virial
    for a, b in ((0, 0), (1, 2), (2, 0)):
        strain = np.zeros((3, 3))
        strain[a, b] = 1e-7
        deformed = (np.eye(3) + strain, np.eye(3) - strain)
        ahead, behind = (calculator(system.positions @ d, system.box @ d).energy for d in deformed)
        np.testing.assert_allclose(found[a, b], -(ahead - behind) / 2e-7, rtol=0, atol=1e-6 * np.abs(found).max())


def test_what_was_computed_before_does_not_matter():
    """Atoms that move, wrap and jump, a box that breathes and one that halves the density, always with one object."""
    system, rng = deep_water(), np.random.default_rng(1)
    calculator = Calculator(system.potential, system.params, skin=0.05)
    x, box = system.positions, system.box
    for step in range(6):
        deform = np.eye(3) + 0.01 * rng.normal(size=(3, 3))
        x, box = (x + rng.normal(scale=0.002, size=x.shape)) @ deform, box @ deform
        check(calculator, system, x, box, 1e-9)
        if step == 3:
            x = x + rng.integers(-1, 2, x.shape) @ box
    stretch = np.diag([1.3, 1.3, 1.2])
    check(calculator, system, system.positions @ stretch, system.box @ stretch, 1e-9)
    check(calculator, system, system.positions, system.box, 1e-9)


@pytree
class Spheres:
    """``E = sum over pairs of eps (1 - r / sigma)^2``, for any number of atoms."""

    name: str = static(default="Spheres")
    cutoff: float = static(default=0.3)

    def energy(self, params, positions, box, neighbors):
        n = len(positions)
        dr = positions[jnp.minimum(neighbors.j, n - 1)] - positions[jnp.minimum(neighbors.i, n - 1)]
        dr = dr if box is None else dr + neighbors.shift.astype(dr.dtype) @ box
        r = jnp.sqrt(jnp.where(neighbors.i < n, jnp.sum(dr**2, axis=1), 1.0))
        return jnp.sum(jnp.where(r < self.cutoff, params["epsilon"] * (1.0 - r / self.cutoff) ** 2, 0.0))


def test_a_list_that_grows_too_small_is_made_larger():
    """A gas that is compressed until each atom has many times the neighbours it had when the list was allocated."""
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(100, 3))
    calculator = Calculator(Potential(terms=(Spheres(),)), {"Spheres": {"epsilon": 2.0}}, skin=0.02)
    images = np.stack(np.meshgrid(*3 * [np.arange(-1, 2)]), -1).reshape(-1, 1, 1, 3)
    for size in (4.0, 1.0, 2.0):
        r = np.linalg.norm(size * (x[:, None] - x[None] + images), axis=-1)
        expected = np.sum(2.0 * (1.0 - r[(r > 0) & (r < 0.3)] / 0.3) ** 2) / 2
        np.testing.assert_allclose(calculator(size * x, size * np.eye(3)).energy, expected, rtol=1e-12)


def test_atomic_energies_add_up():
    system = deep_water()
    calculator = Calculator(system.potential, system.params)
    energies = calculator.atomic_energies(system.positions, system.box)
    np.testing.assert_allclose(energies.sum(), calculator(system.positions, system.box).energy, rtol=1e-13)
    assert energies.shape == (96,)
    with pytest.raises(InputError, match="HarmonicBondForce has no energies of single atoms"):
        Calculator(peptide().potential, peptide().params).atomic_energies(peptide().positions, peptide().box)


def test_what_makes_no_sense_is_refused():
    system = deep_water()
    calculator = Calculator(system.potential, system.params)
    broken = system.positions.copy()
    broken[5, 1] = np.nan
    with pytest.raises(InputError, match=r"the position of atom 5 \(from 0\)"):
        calculator(broken, system.box)
    with pytest.raises(InputError, match="the potential is for 96 atoms, but there are positions of 95"):
        calculator(system.positions[:-1], system.box)
    on_top = system.positions.copy()
    on_top[4] = on_top[9] + 0.001
    with pytest.raises(InputError, match=r"not finite.* closest atoms are 4 and 9 \(from 0\), 0\.017 Å apart"):
        calculator(on_top, system.box)
    with pytest.raises(InputError, match="span a volume"):
        calculator(system.positions, 0.0 * system.box)
    calculator(system.positions, system.box)  # still serves
    with pytest.raises(InputError, match="skin is 0 nm"):
        Calculator(system.potential, system.params, skin=0)
    with pytest.raises(InputError, match="dtype is 'float16'"):
        Calculator(system.potential, system.params, dtype="float16")
