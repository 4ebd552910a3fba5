"""Constraints against OpenMM's Reference platform, conservation laws, and what they cannot do."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.md.constraints import Constraints, constraints_of, constraints_on
from tests.md.systems import AMBER, ROOT

OPENMM_TOLERANCE = 1e-13
project = jax.jit(Constraints.positions)
displace = jax.jit(Constraints.displacements)
tangent = jax.jit(Constraints.velocities)


def openmm_context(system, dt=0.001):
    integrator = mm.VerletIntegrator(dt)
    integrator.setConstraintTolerance(OPENMM_TOLERANCE)
    return mm.Context(system, integrator, mm.Platform.getPlatformByName("Reference"))


def positions_of(context):
    return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)


def masses_of(system):
    return np.array([system.getParticleMass(k)._value for k in range(system.getNumParticles())])


def without_forces(system):
    for k in reversed(range(system.getNumForces())):
        system.removeForce(k)
    return system


def errors(constraints, positions):
    i, j = np.asarray(constraints.atoms).T
    x = np.asarray(positions, np.float64)
    return np.abs(np.linalg.norm(x[j] - x[i], axis=1) / np.asarray(constraints.distances) - 1.0)


@cache
def dipeptide(kind):
    pdb = app.PDBFile(str(ROOT / "tests/references/molecules/dipeptide.pdb"))
    system = app.ForceField(*AMBER).createSystem(pdb.topology, constraints=getattr(app, kind))
    return without_forces(system), np.array(pdb.positions.value_in_unit(unit.nanometer))


@cache
def waters(model="tip3p"):
    """A box of rigid water; distances are rounded to single precision, in which OpenMM's SETTLE keeps them."""
    modeller, field = app.Modeller(app.Topology(), []), app.ForceField(f"{model}.xml")
    modeller.addSolvent(field, numAdded=60, model=model)
    system = without_forces(field.createSystem(modeller.topology))
    for k in range(system.getNumConstraints()):
        i, j, d = system.getConstraintParameters(k)
        system.setConstraintParameters(k, i, j, float(np.float32(d._value)))
    return system, np.array(modeller.positions.value_in_unit(unit.nanometer))


@cache
def chain(n=30):
    """Beads of alternating masses in a zigzag that is bent at random."""
    rng = np.random.default_rng(3)
    steps = np.stack([np.ones(n - 1), 0.7 * (-1.0) ** np.arange(n - 1), np.zeros(n - 1)], axis=1)
    steps += 0.3 * rng.normal(size=steps.shape)
    steps *= 0.15 / np.linalg.norm(steps, axis=1, keepdims=True)
    system = mm.System()
    for k in range(n):
        system.addParticle(12.0 if k % 2 else 3.0)
    for k in range(n - 1):
        system.addConstraint(k, k + 1, 0.15)
    return system, np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])


SYSTEMS = {
    "HBonds": partial(dipeptide, "HBonds"),
    "AllBonds": partial(dipeptide, "AllBonds"),
    "HAngles": partial(dipeptide, "HAngles"),
    "water": waters,
    "four-site water": partial(waters, "tip4pew"),
    "chain": chain,
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_positions_and_velocities_are_openmms(name):
    system, x = SYSTEMS[name]()
    constraints, context, rng = constraints_of(system), openmm_context(system), np.random.default_rng(1)
    assert constraints.n_constraints == system.getNumConstraints()
    x = x + rng.normal(scale=0.002, size=x.shape)
    context.setPositions(x)
    context.applyConstraints(OPENMM_TOLERANCE)
    old = np.asarray(project(constraints, x, x))
    atoms = masses_of(system) > 0  # OpenMM also places virtual sites
    np.testing.assert_allclose(old[atoms], positions_of(context)[atoms], rtol=0, atol=1e-10)

    velocities = rng.normal(scale=2.0, size=x.shape) * (masses_of(system) > 0)[:, None]
    context.setPositions(old)
    context.setVelocities(velocities)
    context.applyVelocityConstraints(OPENMM_TOLERANCE)
    expected = np.array(context.getState(velocities=True).getVelocities(asNumpy=True)._value)
    np.testing.assert_allclose(tangent(constraints, velocities, old), expected, rtol=0, atol=1e-10)

    context.setVelocities(velocities)  # a step without forces, and without velocities along the bonds removed
    context.getIntegrator().step(1)
    found = np.asarray(project(constraints, old + 0.001 * velocities, old))
    np.testing.assert_allclose(found[atoms], positions_of(context)[atoms], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_distances_hold_and_momenta_are_conserved_far_from_the_origin(name, dtype):
    """Moves of 0.004 nm per step, larger than those of any stable time step."""
    system, x = SYSTEMS[name]()
    constraints, masses, rng = constraints_of(system), masses_of(system)[:, None], np.random.default_rng(2)
    old = np.asarray(project(constraints, x, x)) + 20.0
    new = old + rng.normal(scale=0.004, size=x.shape)
    new, old = (jnp.asarray(values, dtype) for values in (new, old))
    moved = displace(constraints, new, old)
    assert moved.dtype == dtype
    tolerance = {"float64": 1e-10, "float32": 1e-6}[dtype]
    final = np.asarray(new, np.float64) + np.asarray(moved, np.float64)
    assert errors(constraints, final).max() < tolerance

    impulse = masses * np.asarray(moved, np.float64)
    scale = {"float64": 1e-12, "float32": 1e-5}[dtype] * np.abs(impulse).sum()
    arms = np.asarray(old, np.float64) - np.asarray(old, np.float64).mean(axis=0)
    assert np.abs(impulse.sum(axis=0)).max() < scale
    assert np.abs(np.cross(arms, impulse).sum(axis=0)).max() < scale

    velocities = jnp.asarray(rng.normal(size=x.shape), dtype)
    found = np.asarray(tangent(constraints, velocities, old), np.float64)
    i, j = np.asarray(constraints.atoms).T
    bonds = np.asarray(old, np.float64)[j] - np.asarray(old, np.float64)[i]
    along = np.sum((found[j] - found[i]) * bonds, axis=1) / np.linalg.norm(bonds, axis=1)
    assert np.abs(along).max() < 5.0 * tolerance
    change = masses * (found - np.asarray(velocities, np.float64))
    assert np.abs(change.sum(axis=0)).max() < scale + 1e-5 * (dtype == "float32") * np.abs(change).sum()
    assert abs(np.sum(change * found)) < {"float64": 1e-10, "float32": 1e-6}[dtype] * np.abs(change * found).sum()


def test_rigid_water_is_recognised_and_settled_as_newton_would():
    system, x = waters()
    settled, masses = constraints_of(system), masses_of(system)
    assert settled.waters is not None and settled.small is None and settled.waters.atoms.shape == (60, 3)
    np.testing.assert_array_equal(masses[np.asarray(settled.waters.atoms)].argmax(axis=1), 0)
    heavy = masses.copy()
    heavy[np.asarray(settled.waters.atoms)[:, 1]] += 1e-14  # no longer symmetric: these are not settled
    general = constraints_on(settled.atoms, settled.distances, heavy)
    assert general.waters is None and general.small.distances.shape == (60, 3)
    old = project(settled, x, x)
    new = old + np.random.default_rng(5).normal(scale=0.01, size=x.shape)
    np.testing.assert_allclose(project(settled, new, old), project(general, new, old), rtol=0, atol=1e-11)


def test_replicas_are_moved_in_one_call_as_one_by_one():
    for name in ("AllBonds", "water"):
        system, x = SYSTEMS[name]()
        constraints = constraints_of(system)
        old = project(constraints, x, x)
        new = old + np.random.default_rng(4).normal(scale=0.003, size=(3, *x.shape))
        together = jax.jit(jax.vmap(constraints.positions, (0, None)))(new, old)
        speeds = jax.jit(jax.vmap(constraints.velocities, (0, None)))(new, old)
        for k in range(3):
            np.testing.assert_allclose(together[k], project(constraints, new[k], old), rtol=0, atol=1e-11)
            np.testing.assert_allclose(speeds[k], tangent(constraints, new[k], old), rtol=0, atol=1e-9)


# ---------------------------------------------------------------------- dynamics
def springs():
    """Three rigid waters and a chain of all bonds, all atoms tied by harmonic springs of 20 to 2000 kJ/mol/nm^2."""
    rng, system = np.random.default_rng(6), mm.System()
    water = np.array([[0.0, 0.0, 0.0], [0.09572, 0.0, 0.0], [-0.023999, 0.092663, 0.0]])
    x = [water + np.array([0.3 * k, 0.5, 0.1 * k]) for k in range(3)] + [chain(10)[1]]
    for _ in range(3):
        o = min(system.addParticle(mass) for mass in (15.999, 1.008, 1.008))
        for i, j, d in ((0, 1, 0.09572), (0, 2, 0.09572), (1, 2, 0.15139)):
            system.addConstraint(o + i, o + j, float(np.float32(d)))
    for k in range(10):
        system.addParticle(12.0 if k % 2 else 1.0)
    for k in range(9):
        system.addConstraint(9 + k, 10 + k, 0.15)
    x = np.concatenate(x)
    i, j = np.triu_indices(len(x), 1)
    r, k = np.linalg.norm(x[j] - x[i], axis=1), np.where((i > 8) & (j == i + 2), 2000.0, 20.0)
    r0 = r * rng.uniform(0.9, 1.1, size=r.shape)
    force = mm.HarmonicBondForce()
    for row in zip(i.tolist(), j.tolist(), r0.tolist(), k.tolist(), strict=True):
        force.addBond(*row)
    system.addForce(force)

    def energy(x):
        return jnp.sum(0.5 * k * (jnp.sqrt(jnp.sum((x[j] - x[i]) ** 2, axis=1)) - r0) ** 2)

    return system, x, energy


def test_leapfrog_steps_are_openmms():
    system, x, energy = springs()
    constraints, masses, rng = constraints_of(system), masses_of(system)[:, None], np.random.default_rng(7)
    x = project(constraints, x, x)
    v = tangent(constraints, rng.normal(size=x.shape) * np.sqrt(2.5 / masses), x)
    context = openmm_context(system, 0.002)
    context.setPositions(np.asarray(x))
    context.setVelocities(np.asarray(v))

    @jax.jit
    def steps(x, v):
        def step(_, state):
            x, v = state
            new = x + 0.002 * (v - 0.002 * jax.grad(energy)(x) / masses)
            new = constraints.positions(new, x)
            return new, (new - x) / 0.002

        return jax.lax.fori_loop(0, 100, step, (x, v))

    for _ in range(5):
        x, v = steps(x, v)
        context.getIntegrator().step(100)
        np.testing.assert_allclose(x, positions_of(context), rtol=0, atol=1e-7)
    assert errors(constraints, x).max() < 1e-10


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rattle_keeps_the_energy(dtype):
    """500 steps of velocity Verlet: no drift, and fluctuations that go with the square of the time step."""
    system, x, energy = springs()
    constraints, rng = constraints_of(system), np.random.default_rng(8)
    masses = jnp.asarray(masses_of(system)[:, None], dtype)
    x = project(constraints, x, x).astype(dtype)
    v = tangent(constraints, (rng.normal(size=x.shape) * np.sqrt(2.5 / masses)).astype(dtype), x)

    @jax.jit
    def total_energies(x, v, dt):
        def kick(v, x):
            return constraints.velocities(v - 0.5 * dt * jax.grad(energy)(x).astype(dtype) / masses, x)

        def step(state, _):
            x, v = state
            v = kick(v, x)
            new = x + dt * v
            moved = constraints.displacements(new, x)
            new, v = new + moved, kick(v + moved / dt, new + moved)
            return (new, v), jnp.sum(0.5 * masses * v**2) + energy(new)

        return jax.lax.scan(step, (x, v), length=500)

    wide = {}
    for dt in (0.001, 0.0005):
        (final, _), energies = total_energies(x, v, jnp.asarray(dt, dtype))
        energies = np.asarray(energies, np.float64)
        wide[dt] = energies[: int(0.25 / dt)].std()  # over the same 0.25 ps
        assert errors(constraints, final).max() < {"float64": 1e-10, "float32": 1e-5}[dtype]
        drift = np.polyfit(np.linspace(0.0, 1.0, 500), energies, 1)[0]
        assert abs(drift) < 2.0 * wide[dt] + {"float64": 0.0, "float32": 2e-4}[dtype] * energies.mean()
        assert wide[dt] < 2e-3 * energies.mean()
    if dtype == "float64":
        assert 3.5 < wide[0.001] / wide[0.0005] < 4.5


# ---------------------------------------------------------------------- limits
@pytest.mark.parametrize("name", ["water", "HBonds", "chain"])
def test_what_does_not_converge_is_nan_and_only_that(name):
    system, x = SYSTEMS[name]()
    constraints = constraints_of(system)
    old = np.asarray(project(constraints, x, x))
    i, j = np.asarray(constraints.atoms)[-1]
    new = old.copy()
    bond = old[j] - old[i]
    new[j] += 0.3 * np.cross(bond, [0.3, 0.5, 0.8]) / np.linalg.norm(np.cross(bond, [0.3, 0.5, 0.8]))
    found = np.asarray(project(constraints, new, old))
    assert np.isnan(found[[i, j]]).all()
    if name != "chain":  # all of it is one cluster
        assert np.isfinite(found[: min(i, j) - 3]).all()


def test_collinear_chain_and_atoms_at_rest():
    """All bonds along x: the matrix is the worst there is for an iteration."""
    x = np.zeros((30, 3))
    x[:, 0] = 0.1 * np.arange(30)
    constraints = constraints_on(
        np.stack([np.arange(29), np.arange(1, 30)], axis=1), np.full(29, 0.1), np.full(30, 12.0)
    )
    assert constraints.large is not None
    np.testing.assert_allclose(project(constraints, x, x), x, rtol=0, atol=1e-15)
    new = x + np.random.default_rng(9).normal(scale=0.003, size=x.shape)
    assert errors(constraints, project(constraints, new, x)).max() < 1e-10
    np.testing.assert_array_equal(tangent(constraints, np.zeros((30, 3)), x), 0.0)
    speeds = np.asarray(tangent(constraints, new, x))  # along x all move as one
    np.testing.assert_allclose(speeds[:, 0], new[:, 0].mean(), rtol=1e-9)
    np.testing.assert_array_equal(speeds[:, 1:], new[:, 1:])


def test_equal_masses():
    """Without weights the projection is orthogonal in space: what was removed is orthogonal to what is left."""
    system, x = dipeptide("HBonds")
    constraints = constraints_of(system).unweighted()
    old, v = project(constraints, x, x), np.random.default_rng(10).normal(size=x.shape)
    left = np.asarray(tangent(constraints, v, old))
    assert abs(np.sum((v - left) * left)) < 1e-9


def test_what_makes_no_sense_is_refused():
    assert constraints_on([], [], [1.0]) is None
    assert constraints_on([[0, 1]], [0.1], [0.0, 0.0]) is None
    tetrahedron = [[a, b] for a in range(5) for b in range(a)]
    for message, *given in (
        (r"one of the atoms 0 and 1 \(from 0\) has no mass", [[0, 1]], [0.1], [0.0, 1.0]),
        (r"several between atoms 0 and 1", [[0, 1], [1, 0]], [0.1, 0.1], [1.0, 1.0]),
        (r"atoms 1 and 1 \(from 0\)", [[1, 1]], [0.1], [1.0, 1.0]),
        (r"atoms 0 and 1 \(from 0\) at nan nm", [[0, 1]], [np.nan], [1.0, 1.0]),
        (r"counted from 0 to 1; 2 is beyond", [[0, 2]], [0.1], [1.0, 1.0]),
        (r"counted from 0 to 1; -1 is beyond", [[0, -1]], [0.1], [1.0, 1.0]),
        (r"atoms are given as float64 numbers", [[0.0, 1.0]], [0.1], [1.0, 1.0]),
        (r"mass of atom 1 \(from 0\) is no mass", [[0, 1]], [0.1], [1.0, -1.0]),
        (r"atoms have the shape \(1, 3\)", [[0, 1, 2]], [0.1], [1.0, 1.0]),
        (
            r"0.1, 0.1, 0.3 nm among the atoms 0, 1, 2 \(from 0\) make no triangle",
            [[0, 1], [0, 2], [1, 2]],
            [0.1, 0.1, 0.3],
            3 * [1.0],
        ),
        (r"5 atoms .* have 10 of them, but only 9", tetrahedron, 10 * [0.1], 5 * [1.0]),
    ):
        with pytest.raises(InputError, match=message):
            constraints_on(*given)
