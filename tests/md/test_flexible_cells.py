"""Cells that change their shape around a crystal and around water, against OpenMM."""

import jax
import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff import units
from diffff.frontend.system import from_openmm
from diffff.md.barostats import CellRescaling, MonteCarlo
from diffff.md.constraints import constraints_of
from diffff.md.engine import Engine
from diffff.md.integrators import Langevin, NoseHoover
from diffff.md.observables import observe, pressure_tensor
from diffff.md.state import particles, state_of


def lennard_jones() -> tuple[mm.System, np.ndarray, np.ndarray]:
    """108 argon atoms, face-centred cubic; the switch makes the energy smooth, so that the virial says all."""
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    cells = np.stack(np.meshgrid(*3 * [np.arange(3)], indexing="ij"), axis=-1).reshape(-1, 1, 3)
    x, box = 0.53 * (cells + sites).reshape(-1, 3), 3 * 0.53 * np.eye(3)
    system, force = mm.System(), mm.NonbondedForce()
    for _ in x:
        system.addParticle(39.948)
        force.addParticle(0.0, 0.3405, 0.996)
    force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.75)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.6)
    force.setUseDispersionCorrection(False)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*box)
    return system, x, box


STRAINED = np.array([[1.1, 0, 0], [0.06, 0.98, 0], [-0.05, 0.04, 1.0]])
COLD, HIGH, LONG = 60.0, 500.0, 0.005  # K, bar, ps


def crystal_boxes_of_openmm(n_replicas: int, n_samples: int) -> np.ndarray:
    """Boxes ``(n_samples, n_replicas, 3, 3)`` of OpenMM's flexible barostat, 50 steps apart."""
    boxes = []
    for seed in range(1, n_replicas + 1):
        system, x, box = lennard_jones()
        barostat = mm.MonteCarloFlexibleBarostat(HIGH, COLD, 5)
        barostat.setRandomNumberSeed(seed)
        system.addForce(barostat)
        integrator = mm.LangevinMiddleIntegrator(COLD, 1.0, LONG)
        integrator.setRandomNumberSeed(seed)
        context = mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
        context.setPeriodicBoxVectors(*(box @ STRAINED))
        context.setPositions(x @ STRAINED)
        context.setVelocitiesToTemperature(COLD, seed)
        integrator.step(2000)
        for _ in range(n_samples):
            integrator.step(50)
            boxes.append(np.array(context.getState().getPeriodicBoxVectors().value_in_unit(unit.nanometer)))
    return np.reshape(boxes, (n_replicas, n_samples, 3, 3)).swapaxes(0, 1)


def crystal_of_diffff(barostat, n_replicas: int, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and pressure tensors ``(n_samples, n_replicas, 3, 3)``; the first steps are one long way for the lists."""
    system, x, box = lennard_jones()
    model = from_openmm(system)
    some = particles(np.full(len(x), 39.948), free_center=True)
    integrator = Langevin(time_step=LONG, temperature=COLD)
    engine = Engine(model.potential, model.params, some, integrator, barostat)
    options = {"temperature": COLD, "seed": 3, "n_replicas": n_replicas}
    first = state_of(x @ STRAINED, box @ STRAINED, some, integrator.bath() | barostat.bath(), **options)
    state = engine.start(first)
    assert engine.sizes is not None
    assert engine.sizes.cells == (2, 1, 1)
    state = engine.advance(state, 2000)
    assert engine.sizes.cells == (1, 1, 1)  # it has become too narrow for two
    tensor, boxes, tensors = jax.jit(jax.vmap(lambda one: pressure_tensor(one, some))), [], []
    conserved = jax.jit(jax.vmap(lambda one: observe(one, some).conserved))
    begun = conserved(state)
    for _ in range(n_samples):
        state = engine.advance(state, 50)
        boxes.append(np.asarray(state.box))
        tensors.append(np.asarray(tensor(state)))
    drift = np.mean(conserved(state) - begun) / (len(x) * units.GAS_CONSTANT * COLD)
    assert abs(drift) < 1e-2  # kT for each atom, in 20 ps
    return np.array(boxes), np.array(tensors)


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over samples, then replicas, which are independent."""
    means = values.mean(axis=0)
    return means.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(len(means))


@pytest.mark.sampling
@pytest.mark.slow
def test_a_strained_crystal_relaxes_as_in_openmm():
    """Volume, edges and tilts have OpenMM's means, the same spread, and the pressure is that of the surroundings.

    Exactly ``<V (P_ab - P0 delta_ab)> = -kT (delta_ab + c_ab)``, with the c of the weight 3, 1 and -1 for the diagonal:
    an integral of a derivative is zero.
    """
    barostats = {
        "rescaling": CellRescaling(
            pressure=HIGH,
            time_constant=0.5,
            compressibility=1e-4,
            every=5,
            coupling="full",
        ),
        "Monte Carlo": MonteCarlo(pressure=HIGH, every=5, coupling="full"),
    }
    n_replicas = 8
    reference = crystal_boxes_of_openmm(n_replicas, 300)
    kt = units.GAS_CONSTANT * COLD * units.BAR_PER_KJ_PER_MOL_PER_NM3
    for barostat in barostats.values():
        boxes, tensors = crystal_of_diffff(barostat, n_replicas, 80)
        for of in (np.linalg.det, lambda h: h):
            (ours, error), (theirs, other) = mean_and_error(of(boxes)), mean_and_error(of(reference))
            assert np.all(np.abs(ours - theirs) <= 5.0 * np.hypot(error, other))
        np.testing.assert_allclose(boxes.std(axis=(0, 1)), reference.std(axis=(0, 1)), rtol=0.2)
        volumes = np.linalg.det(boxes)[..., None, None]
        work, error = mean_and_error(volumes * (tensors - HIGH * np.eye(3)) + kt * np.diag([3.0, 1.0, -1.0]))
        assert np.all(np.abs(work) < 5.0 * error)
        assert np.all(error / 4.15 < 0.1 * HIGH)


@pytest.mark.sampling
@pytest.mark.slow
def test_rigid_water_in_a_flexible_cell_has_the_energy_of_that_cell():
    """PME in a skewed box against OpenMM with the same grid; distances stay, and energy is kept."""
    modeller = app.Modeller(app.Topology(), [])
    modeller.addSolvent(app.ForceField("tip3p.xml"), numAdded=64)
    native = app.ForceField("tip3p.xml").createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.5, removeCMMotion=False
    )
    next(f for f in native.getForces() if isinstance(f, mm.NonbondedForce)).setPMEParameters(6.0, 30, 30, 30)
    box = np.array(modeller.topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    native.setDefaultPeriodicBoxVectors(*box)
    context = mm.Context(native, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(modeller.positions)
    mm.LocalEnergyMinimizer.minimize(context, 10.0, 100)
    context.applyConstraints(1e-10)
    x = np.array(context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    masses = np.array([native.getParticleMass(k)._value for k in range(len(x))])
    model, constraints = from_openmm(native), constraints_of(native)
    some = particles(masses, constraints)
    integrator = NoseHoover(time_step=0.001, temperature=300.0, time_constant=0.5)
    barostat = CellRescaling(
        pressure=1.0,
        time_constant=0.1,
        compressibility=4.5e-4,
        every=5,
        coupling="full",
    )
    engine = Engine(model.potential, model.params, some, integrator, barostat)
    state = engine.start(state_of(x, box, some, integrator.bath(), temperature=300.0, seed=4))
    begun = jax.vmap(lambda one: observe(one, some))(state)
    state = engine.advance(state, 200)
    ended = jax.vmap(lambda one: observe(one, some))(state)
    new = np.asarray(state.box[0])
    assert np.all(np.triu(new, 1) == 0.0)
    assert np.all(np.abs(new[np.tril_indices(3, -1)]) > 1e-3)
    context.setPeriodicBoxVectors(*new)
    context.setPositions(np.asarray(state.positions[0]))
    energy = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    np.testing.assert_allclose(state.energy[0], energy, rtol=1e-6)
    i, j = np.asarray(constraints.atoms).T
    lengths = np.linalg.norm(state.positions[0, i] - state.positions[0, j], axis=1)
    np.testing.assert_allclose(lengths, constraints.distances, rtol=1e-9)
    np.testing.assert_allclose(ended.conserved, begun.conserved, rtol=0, atol=0.02 * float(begun.kinetic[0]))
