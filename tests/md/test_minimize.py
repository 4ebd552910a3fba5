"""Minimisation against published minima, OpenMM's minimiser, and what it must never do."""

from functools import cache
from itertools import pairwise

import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff import ForceField
from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.md.constraints import constraints_of, constraints_on
from diffff.md.minimize import LONGEST_STEP, minimize
from tests.md.systems import AMBER, ROOT, SPRING, deep_water

METHODS = ("lbfgs", "fire")
SIGMA = 0.34  # nm
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8.0)  # edges of 1
GOLDEN = (1 + np.sqrt(5)) / 2
ICOSAHEDRON = np.array(
    [np.roll([0, a, b * GOLDEN], k) for a in (-1, 1) for b in (-1, 1) for k in range(3)] + [[0, 0, 0]]
) / np.sqrt(1 + GOLDEN**2)


def lennard_jones(x):
    """``4 ((sigma/r)^12 - (sigma/r)^6)``, the energy of one pair at its minimum is -1 kJ/mol."""
    i, j = np.triu_indices(len(x), 1)
    dr = x[j] - x[i]
    r2 = np.sum(dr**2, axis=1)
    s6 = (SIGMA**2 / r2) ** 3
    pairs = (24.0 * (2.0 * s6**2 - s6) / r2)[:, None] * dr
    forces = np.zeros_like(x)
    np.add.at(forces, j, pairs)
    np.add.at(forces, i, -pairs)
    return np.sum(4.0 * (s6**2 - s6)), forces


@cache
def dipeptide(kind):
    """A dipeptide in vacuum on OpenMM's Reference platform: energy and forces, positions, System, Context."""
    pdb = app.PDBFile(str(ROOT / "tests/references/molecules/dipeptide.pdb"))
    system = app.ForceField(*AMBER).createSystem(pdb.topology, constraints=getattr(app, kind) if kind else None)
    integrator = mm.VerletIntegrator(0.001)
    integrator.setConstraintTolerance(1e-9)
    context = mm.Context(system, integrator, mm.Platform.getPlatformByName("Reference"))

    def energy_and_forces(x):
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)

    return energy_and_forces, np.array(pdb.positions.value_in_unit(unit.nanometer)), system, context


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "energy"),
    [  # D. J. Wales and J. P. K. Doye, doi:10.1021/jp970984n
        (TETRAHEDRON[:2], -1.0),
        (TETRAHEDRON[:3], -3.0),
        (TETRAHEDRON, -6.0),
        (ICOSAHEDRON, -44.326801),
    ],
)
def test_clusters_of_lennard_jones_reach_their_published_energies(shape, energy, method):
    x = 1.2 * SIGMA * shape + np.random.default_rng(1).normal(scale=0.01, size=shape.shape)
    found = minimize(lennard_jones, x, method=method, tolerance=1e-4)
    assert found.converged and found.largest_force <= 1e-4 and found.n_steps < 1000
    np.testing.assert_allclose(found.energy, energy, rtol=0, atol=1e-6)
    np.testing.assert_allclose((found.energy, found.largest_force), measured(lennard_jones, found.positions), rtol=1e-9)


def measured(function, x):
    energy, forces = function(x)
    return energy, np.linalg.norm(forces, axis=1).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [None, "HBonds", "AllBonds"])
def test_a_peptide_goes_as_far_down_as_in_openmm(kind, method):
    """To the same tolerance not above OpenMM's end, but for what a force of that size can still bring."""
    energy_and_forces, x, system, context = dipeptide(kind)
    constraints = constraints_of(system)
    found = minimize(energy_and_forces, x, method=method, tolerance=0.1, constraints=constraints)
    context.setPositions(x)
    mm.LocalEnergyMinimizer.minimize(context, 0.1)
    theirs = context.getState(energy=True).getPotentialEnergy()._value
    assert found.converged
    assert found.energy <= theirs + 2e-4
    assert found.energy == energy_and_forces(found.positions)[0]
    if constraints is not None:
        i, j = np.asarray(constraints.atoms).T
        r = np.linalg.norm(found.positions[j] - found.positions[i], axis=1)
        np.testing.assert_allclose(r, constraints.distances, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_at_a_constrained_minimum_no_allowed_move_lowers_the_energy(method):
    """Three bodies of Lennard-Jones, two of them held too far apart: the third sits where its force vanishes."""
    far = 1.5 * SIGMA
    constraints = constraints_on([[0, 1]], [far], [1.0, 30.0, 1.0])
    x = SIGMA * np.array([[0.0, 0.0, 0.0], [1.3, 0.1, 0.0], [0.4, 0.9, 0.2]])
    found = minimize(lennard_jones, x, method=method, tolerance=1e-5, constraints=constraints)
    assert found.converged
    at_rest = 2 ** (1 / 6) * SIGMA  # of a pair
    a, b, c = found.positions
    r = [np.linalg.norm(d) for d in (b - a, c - a, c - b)]
    np.testing.assert_allclose(r, [far, at_rest, at_rest], rtol=1e-6)
    np.testing.assert_allclose(found.energy, -2.0 + 4.0 * (1.5**-12 - 1.5**-6), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_atoms_on_top_of_each_other_do_not_fly_apart(method):
    x = 1.1 * SIGMA * ICOSAHEDRON
    x[0] = x[12] + 1e-6  # forces of 1e70
    seen = [x]

    def watched(x):
        seen.append(x)
        return lennard_jones(x)

    found = minimize(watched, x, method=method, tolerance=1.0)
    assert found.converged and found.energy < -30.0
    if method == "fire":  # each place comes from the one before
        assert max(np.linalg.norm(b - a, axis=1).max() for a, b in pairwise(seen)) < 1.001 * LONGEST_STEP
    assert np.linalg.norm(found.positions - found.positions.mean(axis=0), axis=1).max() < 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_calculator_in_a_box(method, tmp_path):
    """Water that is held by nothing but springs on its bonds: the minimum is zero, in single precision as well."""
    deep = deep_water()
    file = tmp_path / "springs.xml"
    file.write_text(SPRING)
    field = ForceField(file)
    calculator = Calculator(field.create_potential(deep.topology), field.params(), dtype="float32")
    found = minimize(calculator, deep.positions, method=method, tolerance=1.0, box=deep.box)
    assert found.converged and 0.0 <= found.energy < 64 * 0.5 * 1.0**2 / 5000
    with pytest.raises(InputError, match=r"position of atom 0 \(from 0\)"):
        minimize(calculator, np.nan * deep.positions, box=deep.box)


@pytest.mark.parametrize("method", METHODS)
def test_never_higher_than_the_start(method):
    """Cut short at any step; begun at the minimum; with noise in the energy."""
    rng = np.random.default_rng(3)
    x = 1.3 * SIGMA * ICOSAHEDRON + rng.normal(scale=0.02, size=(13, 3))
    start = lennard_jones(x)[0]
    for max_steps in (0, 1, 2, 5, 13, 40):
        found = minimize(lennard_jones, x, method=method, tolerance=1e-3, max_steps=max_steps)
        assert found.energy <= start and found.n_steps <= max_steps
    bottom = minimize(lennard_jones, x, method=method, tolerance=1e-4)
    again = minimize(lennard_jones, bottom.positions, method=method, tolerance=1e-4)
    assert again.n_steps == 0 and again.converged and again.energy == bottom.energy

    def noisy(x):
        energy, forces = lennard_jones(x)
        return np.float32(energy - 1e4), forces.astype(np.float32)

    found = minimize(noisy, x, method=method, tolerance=0.1)
    assert found.converged and found.energy <= noisy(x)[0]


def test_what_makes_no_sense_is_refused():
    x = SIGMA * 1.2 * TETRAHEDRON
    open_square = constraints_on([[0, 1], [1, 2], [2, 3], [0, 3]], [0.1, 0.1, 0.1, 0.5], np.ones(4))
    for message, options in (
        ('method is \'bfgs\'; give "lbfgs" or "fire"', {"method": "bfgs"}),
        ("tolerance is 0 kJ/mol/nm; give a positive number", {"tolerance": 0}),
        ("tolerance is small kJ/mol/nm", {"tolerance": "small"}),
        ("max_steps is -1", {"max_steps": -1}),
        ("max_steps is inf", {"max_steps": np.inf}),
        ("max_steps is many", {"max_steps": "many"}),
        ("span a volume", {"box": np.zeros((3, 3))}),
        (r"constraints of atom 0 \(from 0\) cannot be met", {"constraints": open_square}),
    ):
        with pytest.raises(InputError, match=message):
            minimize(lennard_jones, x, **options)
    with pytest.raises(InputError, match=r"ndarray is no function; give Calculator\(potential, params\)"):
        minimize(x, x)
    with pytest.raises(InputError, match=r"in step 0 the energy \(nan kJ/mol\) or a force is not finite"):
        minimize(lambda x: (np.nan, np.zeros_like(x)), x)
    with pytest.raises(InputError, match=r"the forces have the shape \(3,\), the positions \(4, 3\)"):
        minimize(lambda x: (0.0, np.zeros(3)), x)
