"""The calculator of all engines: the same numbers as the potential, whatever was computed before."""

import jax.numpy as jnp
import numpy as np
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.model import Model, load
from diffff.neighbors import directed_pairs
from diffff.potentials.base import Potential
from diffff.pytree import pytree, static
from tests.md.systems import MODEL, deep_water, hybrid, peptide

TOLERANCE = {"float64": 1e-9, "float32": 2e-4}


def check(calculator, system, x, box, tolerance):
    found, (energy, forces, virial) = calculator(x, box), system.expected(x, box)
    np.testing.assert_allclose(found.energy, energy, rtol=tolerance)
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=tolerance * np.abs(forces).max())
    np.testing.assert_allclose(found.virial, virial, rtol=0, atol=tolerance * np.abs(virial).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", [deep_water, pytest.param(peptide, marks=pytest.mark.slow)])
def test_energy_forces_and_virial_are_those_of_the_potential(make, dtype):
    system = make()
    calculator = Calculator(system.potential, system.params, dtype=dtype)
    check(calculator, system, system.positions, system.box, TOLERANCE[dtype])


def test_a_sum_of_a_deep_potential_and_xml_is_a_potential_like_others(tmp_path):
    system = hybrid(tmp_path)
    check(Calculator(system.potential, system.params), system, system.positions, system.box, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("make", [deep_water, peptide])
def test_the_virial_is_the_derivative_with_respect_to_the_box(make):
    """The step is so small that hardly a pair crosses the cutoff, where the energy of a pair is cut."""
    system = make()
    calculator = Calculator(system.potential, system.params)
    found = calculator(system.positions, system.box).virial
    for a, b in ((0, 0), (1, 2), (2, 0)):
        strain = np.zeros((3, 3))
        strain[a, b] = 1e-6
        deformed = (np.eye(3) + strain, np.eye(3) - strain)
        ahead, behind = (calculator(system.positions @ d, system.box @ d).energy for d in deformed)
        np.testing.assert_allclose(found[a, b], -(ahead - behind) / 2e-6, rtol=0, atol=1e-6 * np.abs(found).max())


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


def test_cells_below_the_cutoff_and_other_vectors_of_one_lattice():
    """Sums over images by brute force; the order and the choice of lattice vectors do not matter."""
    rng = np.random.default_rng(3)
    box = 0.14 * np.array([[1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [-0.2, 0.4, 1.0]])
    x = rng.uniform(size=(3, 3)) @ box
    images = np.stack(np.meshgrid(*3 * [np.arange(-6, 7)]), -1).reshape(-1, 1, 1, 3) @ box
    r = np.linalg.norm(x[:, None] - x[None] + images, axis=-1)
    expected = np.sum(2.0 * (1.0 - r[(r > 0) & (r < 0.3)] / 0.3) ** 2) / 2
    calculator = Calculator(Potential(terms=(Spheres(),)), {"Spheres": {"epsilon": 2.0}}, skin=0.02)
    forces = calculator(x, box).forces
    for vectors in (np.eye(3), np.eye(3)[[1, 0, 2]], np.diag([1, 1, -1]), [[1, 0, 0], [3, 1, 0], [-2, 2, 1]]):
        found = calculator(x + rng.integers(-9, 9, (3, 3)) @ box, vectors @ box)
        np.testing.assert_allclose(found.energy, expected, rtol=1e-12)
        np.testing.assert_allclose(found.forces, forces, rtol=0, atol=1e-10)


def test_lengths_with_a_unit_are_converted():
    calculator = Calculator(Potential(terms=(Spheres(),)), {"Spheres": {"epsilon": 2.0}})
    x, box = np.random.default_rng(5).uniform(size=(9, 3)), np.eye(3)
    expected = calculator(x, box).energy
    assert calculator(10.0 * x * unit.angstrom, 1000.0 * box * unit.picometer).energy == pytest.approx(expected)
    with pytest.raises(InputError, match="positions or box have a unit that is no length"):
        calculator(x * unit.kelvin, box)


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
    with pytest.raises(InputError, match="skin is wide nm; give a positive number"):
        Calculator(system.potential, system.params, skin="wide")
    with pytest.raises(InputError, match="dtype is 'float16'"):
        Calculator(system.potential, system.params, dtype="float16")
    with pytest.raises(InputError, match=r"but dict and dict are given; of a model that is model\.potential\(types\)"):
        Calculator(system.params, system.params)
    with pytest.raises(InputError, match=r"the parameters have no 'DeepPot', but \[Other\]"):
        Calculator(system.potential, {"Other": {}})(system.positions, system.box)
    with pytest.raises(InputError, match=r"the parameters have no DeepPot/bias, but \[\]"):
        Calculator(system.potential, {"DeepPot": {}})(system.positions, system.box)
    whole = peptide()
    cut = whole.positions - np.floor(whole.positions @ np.linalg.inv(whole.box)) @ whole.box
    with pytest.raises(InputError, match=r"are bonded, but \d+\.\d Å apart, more than half the box: wrapped atoms"):
        Calculator(whole.potential, whole.params)(cut, whole.box)


@pytest.mark.parametrize(
    ("positions", "box", "message"),
    [
        (np.zeros((0, 3)), None, "there are no atoms: the positions are empty"),
        ([["a", "b", "c"]], None, "positions must be an array .n_atoms, 3. of real numbers, in nm, but is a list"),
        ([[0.0, 0.0, 0.0], [1.0]], None, "positions must be an array"),
        (np.zeros((2, 3), complex), None, "of real numbers, in nm, but is a ndarray of others"),
        (np.zeros((2, 3)), "cubic", "the box must be an array .3, 3. of real numbers"),
        (np.zeros((2, 3)), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1e-12]], "span a volume"),
        (np.full((2, 3), 1e4), None, "up to 1e.04 nm from the origin, where the numbers of float32 .* Or compute"),
        (np.full((2, 3), 1e39), None, "the numbers of float32 are too coarse to place an atom. Move the atoms nearer"),
        (np.full((2, 3), 900.0), 5e-7 * np.eye(3), "900 nm from the origin, more than 1073741824 boxes"),
    ],
)
def test_positions_and_boxes_that_make_no_sense(positions, box, message):
    calculator = Calculator(Potential(terms=(Spheres(),)), {"Spheres": {"epsilon": 2.0}}, dtype="float32")
    with pytest.raises(InputError, match=message):
        calculator(positions, box)


def test_the_reason_of_an_energy_that_is_not_finite():
    """A parameter, if that is it."""
    calculator = Calculator(Potential(terms=(Spheres(),)), {"Spheres": {"epsilon": np.nan}})
    with pytest.raises(InputError, match=r"not finite: the parameter \['Spheres'\]\['epsilon'\] is not"):
        calculator(np.array([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]]))


def test_more_neighbours_than_sel_are_told(caplog):
    """Their number is that of a count by hand; with sel_overflow "error" nothing is computed."""
    system, model = deep_water(), load(MODEL)
    i, j, _ = directed_pairs(system.positions, system.box, system.potential.cutoff)
    hydrogen = np.array(system.symbols) == "H"
    most = np.bincount(i[hydrogen[j]]).max()
    types = np.where(hydrogen, model.type_map.index("H"), model.type_map.index("O"))
    sel = tuple(most - 1 if name == "H" else 999 for name in model.type_map)
    for overflow in ("truncate", "error"):
        descriptor = model.spec.descriptor.model_copy(update={"sel": sel, "sel_overflow": overflow})
        small = Model(model.spec.model_copy(update={"descriptor": descriptor}), model.params)
        calculator = Calculator(small.potential(types), small.params)
        said = f"an atom has {most} neighbours of type H, more than the {most - 1} of descriptor.sel"
        if overflow == "error":
            with pytest.raises(InputError, match=said):
                calculator(system.positions, system.box)
        else:
            calculator(system.positions, system.box)
            calculator(system.positions + 0.2, system.box)
            assert [said in record.message for record in caplog.records] == [True]
