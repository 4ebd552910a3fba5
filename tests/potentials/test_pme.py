"""Particle-mesh Ewald for 1/r and 1/r^6: OpenMM, the exact sums, derivatives of first and second order."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest
from jax.test_util import check_grads

from diffff.neighbors import neighbor_list
from diffff.potentials import dispersion, ewald, pme
from diffff.potentials.nonbonded_setup import nonbonded
from tests.potentials.charged_systems import CUBIC, TRICLINIC, assert_same, molecules


@pytest.mark.parametrize(
    ("box", "options"),
    [
        (CUBIC, {"method": "PME", "switch_distance": 0.7}),
        (TRICLINIC, {"method": "PME"}),
        (CUBIC, {"method": "LJPME"}),
        (TRICLINIC, {"method": "LJPME", "ewald_error_tolerance": 1e-4}),
    ],
    ids=["PME cubic", "PME triclinic", "LJPME cubic", "LJPME triclinic"],
)
def test_energy_and_forces_of_openmm(box, options):
    """Charged cells of whole molecules; alpha and grids are chosen by the same rules."""
    assert_same(molecules(27, box, cutoff=0.9, **options), 1e-10)


@pytest.mark.parametrize("tolerance", [5e-4, 1e-5])
def test_alpha_and_grid_follow_openmm(tolerance):
    force = openmm.NonbondedForce()
    force.addParticle(1.0, 0.3, 0.5)
    force.setNonbondedMethod(openmm.NonbondedForce.LJPME)
    force.setEwaldErrorTolerance(tolerance)
    force.setCutoffDistance(0.9)
    system = openmm.System()
    system.addParticle(1.0)
    system.setDefaultPeriodicBoxVectors(*TRICLINIC.tolist())
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    term = nonbonded([0], [0], method="LJPME", cutoff=0.9, box=TRICLINIC, ewald_error_tolerance=tolerance)
    assert [term.alpha, *term.grid] == force.getPMEParametersInContext(context)
    assert [term.dispersion_alpha, *term.dispersion_grid] == force.getLJPMEParametersInContext(context)


@pytest.mark.slow
def test_a_fine_grid_gives_the_exact_sum():
    """The error of the forces falls with the fourth power of the spacing at least."""
    system = molecules(2, 0.4 * TRICLINIC)
    x, box, charges = (
        jnp.asarray(a) for a in (system.positions, system.box, system.params["charge"][[0, 1, 2, 3] * 2])
    )
    exact, slope = jax.value_and_grad(ewald.reciprocal_energy)(x, charges, box, 5.0, (13, 13, 13))
    errors = []
    for grid in ((24, 25, 22), (48, 49, 46)):
        green = pme.coulomb_green(box, 5.0, grid)
        energy, found = jax.value_and_grad(pme.reciprocal_energy)(x, charges, box, green, grid)
        errors.append(np.abs(found - slope).max() / np.abs(slope).max())
    np.testing.assert_allclose(energy, exact, rtol=1e-6)
    assert errors[1] < 1e-4 and errors[1] < errors[0] / 2**3.5


@pytest.mark.slow
def test_the_dispersion_sum_does_not_depend_on_the_splitting():
    """Reciprocal, self and direct parts against the plain lattice sum of two atoms, ``-sum c^2 / r^6``."""
    box, c = 0.9 * jnp.eye(3), 0.07
    positions = np.array([[0.1, 0.2, 0.3], [0.5, 0.65, 0.4]])
    images = np.stack(np.meshgrid(*[np.arange(-24, 25)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * 0.9
    r = np.concatenate(
        [np.linalg.norm(difference + images, axis=1) for difference in (0.0, positions[1] - positions[0])]
    )
    r = r[r > 0.0]  # an atom with its own images counts half, and there are two of them
    nodes, weights = np.polynomial.legendre.leggauss(20)
    cube = (
        2.0 * weights @ (1.0 + nodes[:, None] ** 2 + nodes**2) ** -3.0 @ weights
    )  # integral of r^-6 outside of [-1, 1]^3
    expected = -(c**2) * (np.sum(r**-6.0) + 2.0 * cube / 0.9**3 / (24.5 * 0.9) ** 3)
    near = r[r < 2.5]
    for alpha in (4.0, 5.0):
        green = pme.dispersion_green(box, alpha, (48, 48, 48))
        smooth = pme.reciprocal_energy(jnp.asarray(positions), jnp.full(2, c), box, green, (48, 48, 48))
        smooth += dispersion.self_energy(jnp.full(2, c), alpha)
        direct = -(c**2) * np.sum(near**-6.0 - alpha**6 * np.asarray(dispersion.damping((alpha * near) ** 2)))
        np.testing.assert_allclose(smooth + direct, expected, rtol=5e-6)


def small(**options):
    """Eight atoms in a cell of about a nanometre and a function of parameters, positions and box."""
    system = molecules(2, 0.45 * TRICLINIC, cutoff=0.5, ewald_error_tolerance=1e-3, **options)
    term = system.term()
    listed = neighbor_list(system.positions, system.box, 0.6)
    arrays = jax.tree.map(jnp.asarray, (system.params, system.positions, system.box))
    smooth = {k: v for k, v in arrays[0].items() if k != "epsilon"}
    energy = jax.jit(
        lambda columns, x, box: term.energy({**columns, "epsilon": arrays[0]["epsilon"]}, x, box, listed) / 1000.0
    )
    return energy, (smooth, arrays[1], arrays[2])


@pytest.mark.slow
def test_derivatives_are_differences():
    """First order in parameters, positions and box."""
    energy, arguments = small(method="LJPME")
    check_grads(energy, arguments, order=1, modes=["rev"], atol=1e-6, rtol=1e-6, eps=1e-6)


@pytest.mark.slow
def test_second_derivatives_are_differences():
    """The gradient of a force-matching loss in charges, positions and box."""
    energy, (columns, positions, box) = small(method="PME")
    target = 0.1 * jnp.asarray(np.random.default_rng(0).normal(size=positions.shape))

    @jax.jit
    def loss(charge, x, cell):
        return jnp.sum((jax.grad(energy, 1)({**columns, "charge": charge}, x, cell) - target) ** 2)

    arguments = (columns["charge"], positions, box)
    check_grads(loss, arguments, order=1, modes=["rev"], atol=1e-5, rtol=1e-5, eps=1e-6)


@pytest.mark.slow
def test_forward_over_reverse_is_reverse_over_reverse():
    system = molecules(2, 0.4 * TRICLINIC)
    box, grid = jnp.asarray(system.box), (8, 9, 10)
    charges = jnp.linspace(-1.0, 1.3, 8)
    direction = jnp.cos(jnp.arange(24.0)).reshape(8, 3)

    def slope(x):
        return jax.grad(pme.reciprocal_energy)(x, charges, box, pme.coulomb_green(box, 5.0, grid), grid)

    x = jnp.asarray(system.positions)
    _, forward = jax.jvp(slope, (x,), (direction,))
    reverse = jax.grad(lambda x: jnp.vdot(slope(x), direction))(x)
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=1e-12 * float(jnp.abs(reverse).max()))


def test_row_gradients_are_differences_of_openmm():
    system = molecules(8, CUBIC, method="LJPME", cutoff=0.9)
    arguments = jax.tree.map(jnp.asarray, (system.params, system.positions, system.box))
    listed = neighbor_list(system.positions, system.box, 0.9)
    gradient = jax.jit(jax.grad(system.term().energy))(*arguments, listed)
    for column, row in [*(("charge", k) for k in range(4)), ("sigma", 0), ("sigma", 1), ("epsilon", 0), ("epsilon", 1)]:
        energies = []
        for step in (1e-5, -1e-5):
            moved = np.array(system.params[column])
            moved[row] += step
            energies.append(system.with_params(**{column: moved}).reference(forces=False)[0])
        scale = max(1.0, float(np.abs(gradient[column]).max()))
        found = (energies[0] - energies[1]) / 2e-5
        np.testing.assert_allclose(gradient[column][row], found, atol=1e-6 * scale, err_msg=f"{column} {row}")


def test_float32_stays_float32():
    system = molecules(8, CUBIC, method="LJPME", cutoff=0.9)
    energy, forces = system.energy_and_forces(jnp.float32)
    exact, exact_forces = system.reference()
    assert energy.dtype == forces.dtype == np.float32
    np.testing.assert_allclose(energy, exact, rtol=1e-5)
    np.testing.assert_allclose(forces, exact_forces, rtol=0, atol=1e-5 * np.abs(exact_forces).max())


def test_images_of_atoms_are_the_same_atoms():
    """Molecules moved as a whole by lattice vectors, and atoms at the very edge of the cell."""
    system = molecules(8, CUBIC, method="PME", cutoff=0.9)
    cells = np.repeat(np.random.default_rng(3).integers(-2, 3, (8, 3)), 4, axis=0)
    moved = replace(system, positions=system.positions + cells @ CUBIC)
    np.testing.assert_allclose(moved.energy_and_forces()[0], system.energy_and_forces()[0], rtol=1e-12)
    green = pme.coulomb_green(jnp.asarray(CUBIC), 3.0, (8, 9, 10))
    edge = [
        pme.reciprocal_energy(jnp.array([[x, 0.3, 0.4], [1.0, 1.1, 1.2]]), jnp.ones(2), CUBIC, green, (8, 9, 10))
        for x in (0.0, 2.3, -1e-17, 2.3 - 1e-16, -2.3)
    ]
    np.testing.assert_allclose(edge, edge[0], rtol=1e-13)


def test_splines_are_a_partition_of_one():
    t = jnp.linspace(0.0, 1.0, 7)
    weights = jnp.stack(pme.spline_weights(t))
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-14)
    np.testing.assert_allclose(weights[:, 0], np.array([1, 11, 11, 1, 0]) / 24, atol=1e-15)
    np.testing.assert_allclose(weights[::-1, -1], weights[:, 0], atol=1e-15)


def test_damping_is_smooth_across_its_two_forms():
    u = jnp.array([0.0, 1.0 - 1e-12, 1.0 + 1e-12, 30.0])
    values, slopes = jax.vmap(jax.value_and_grad(dispersion.damping))(u)
    np.testing.assert_allclose(values[0], 1 / 6, rtol=1e-15)
    np.testing.assert_allclose(slopes[0], -1 / 8, rtol=1e-15)
    np.testing.assert_allclose(values[1], values[2], rtol=1e-11)
    np.testing.assert_allclose(slopes[1], slopes[2], rtol=1e-10)
    np.testing.assert_allclose(values[3], 30.0**-3, rtol=1e-10)
