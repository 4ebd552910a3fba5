"""Runs with files: killed and continued they are the same, byte for byte; their logs say what is so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit
from pydantic import ValidationError

from diffff import units
from diffff.errors import InputError
from diffff.md.constraints import constraints_of
from diffff.md.integrators import CSVR, Langevin, NoseHoover, VelocityVerlet
from diffff.md.simulate import Outputs, simulate
from diffff.md.state import particles
from diffff.md.trajectory import Trajectory
from tests.md.systems import AMBER, deep_water, peptide
from tests.md.test_integrators import MASSES, PARAMS, WELLS

X = 0.02 * np.random.default_rng(3).normal(size=(4, 3))


def outputs(folder: Path, **changes) -> Outputs:
    return replace(
        Outputs(folder / "md.log", 20, folder / "md.xyz", 30, folder / "md.npz", 50),
        **changes,
    )


def run(folder: Path, n_steps: int, *, integrator=None, n_replicas=2, restart=False, **changes):
    integrator = integrator or Langevin(time_step=0.002, temperature=300.0)
    given = {"n_replicas": n_replicas, "seed": 5, "atoms": ["C", "H", "O", "H"], "restart": restart}
    return simulate(WELLS, PARAMS, X, None, MASSES, integrator, n_steps, outputs=outputs(folder, **changes), **given)


@pytest.mark.parametrize(
    "integrator",
    [
        VelocityVerlet(time_step=0.002),
        Langevin(time_step=0.002, temperature=300.0),
        NoseHoover(time_step=0.002, temperature=300.0),
        CSVR(time_step=0.002, temperature=300.0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, integrator):
    whole = run(tmp_path / "whole", 160, integrator=integrator)
    written = Trajectory.write

    def killed(self, frame):
        if frame.step == 150:
            raise KeyboardInterrupt
        written(self, frame)

    monkeypatch.setattr(Trajectory, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 160, integrator=integrator)
    monkeypatch.undo()
    parts = run(tmp_path / "parts", 160, integrator=integrator, restart=True)
    np.testing.assert_array_equal(parts.positions, whole.positions)
    np.testing.assert_array_equal(parts.velocities, whole.velocities)
    for name in ("md-0.log", "md-1.log", "md-0.xyz", "md-1.xyz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    steps = np.loadtxt(tmp_path / "parts/md-0.log")[:, 0]
    np.testing.assert_array_equal(steps, np.arange(0, 161, 20))


@pytest.mark.slow
def test_deep_water_goes_on_as_if_it_had_not_been_killed(tmp_path):
    system = deep_water()

    def run(name, n_steps, restart=False):
        files = Outputs(tmp_path / name / "md.log", 10, tmp_path / name / "md.dcd", 10, tmp_path / name / "md.npz", 25)
        integrator = Langevin(time_step=0.0005, temperature=300.0)
        options = {"seed": 1, "atoms": system.topology, "skin": 0.02, "outputs": files, "restart": restart}
        where = (system.potential, system.params, system.positions, system.box, system.masses)
        return simulate(*where, integrator, n_steps, **options)

    whole = run("whole", 100)
    run("parts", 50)
    parts = run("parts", 100, restart=True)
    np.testing.assert_array_equal(parts.velocities, whole.velocities)
    for name in ("md.log", "md.dcd"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.sampling
@pytest.mark.slow
def test_rigid_water_with_a_peptide_keeps_energy_and_distances(tmp_path):
    """The log of the last state: energy, temperature, and pressure from the energy of boxes of other volumes."""
    system = peptide()
    field = app.ForceField(*AMBER)
    native = field.createSystem(
        system.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.8, constraints=app.HBonds, rigidWater=True
    )
    constraints = constraints_of(native)
    context = mm.Context(native, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CPU"))
    context.setPositions(system.positions)
    context.setPeriodicBoxVectors(*system.box)
    mm.LocalEnergyMinimizer.minimize(context, 10.0, 100)
    context.applyConstraints(1e-10)
    x = np.array(context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    state = simulate(
        *(system.potential, system.params, x, system.box, system.masses, VelocityVerlet(time_step=0.001), 20),
        constraints=constraints,
        temperature=100.0,
        outputs=Outputs(tmp_path / "md.log", 5, checkpoint=None),
    )
    table = np.loadtxt(tmp_path / "md.log")
    names = (tmp_path / "md.log").read_text().splitlines()[0].lstrip("#").split()
    column = {name.split("/")[0]: table[:, i] for i, name in enumerate(names)}
    assert np.ptp(column["conserved"]) < 0.02 * np.mean(column["kinetic"])
    i, j = np.asarray(constraints.atoms).T
    lengths = np.linalg.norm(state.positions[0, i] - state.positions[0, j], axis=1)
    np.testing.assert_allclose(lengths, constraints.distances, rtol=1e-9)
    energy, *_ = system.expected(np.asarray(state.positions[0]))
    np.testing.assert_allclose(column["potential"][-1], energy, rtol=0, atol=1e-6)
    n_free = 3 * len(system.masses) - constraints.n_constraints - 3
    kinetic = 0.5 * np.sum(system.masses[:, None] * np.asarray(state.velocities[0]) ** 2)
    np.testing.assert_allclose(column["temperature"][-1], 2 * kinetic / (n_free * units.GAS_CONSTANT), rtol=1e-7)
    x, v = np.asarray(state.positions[0]), np.asarray(state.velocities[0])
    groups = np.asarray(particles(system.masses, constraints).groups)
    mass = np.bincount(groups, system.masses)[:, None]
    centres, speeds = (
        np.stack([np.bincount(groups, system.masses * y[:, c]) for c in range(3)], axis=1) / mass for y in (x, v)
    )
    # The median of several differences: the energy jumps where a pair crosses the cutoff between two of the volumes.
    strains = 1e-7 * np.arange(-3, 4, 2)
    energies = [system.expected(x + s * centres[groups], (1 + s) * system.box)[0] for s in strains]
    slope = np.median(np.diff(energies) / np.diff(strains))
    pressure = (np.sum(mass * speeds**2) - slope) / (3 * 8.0) * 16.6053906717
    np.testing.assert_allclose(column["pressure"][-1], pressure, rtol=1e-4)
    np.testing.assert_allclose(column["density"][-1], system.masses.sum() / 8.0 * 1.66053907e-3, rtol=1e-6)


def test_what_makes_no_sense_is_refused(tmp_path):
    run(tmp_path, 60)
    with pytest.raises(InputError, match="a checkpoint of another run"):
        run(tmp_path, 80, restart=True, n_replicas=3)
    with pytest.raises(InputError, match="there is no such checkpoint"):
        run(tmp_path / "other", 80, restart=True)
    (tmp_path / "md.npz").write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match="damaged"):
        run(tmp_path, 80, restart=True)
    with pytest.raises(ValidationError, match="time_step"):
        Langevin(time_step=0.0, temperature=300.0)
    with pytest.raises(InputError, match="log_every is 0"):
        run(tmp_path, 10, log_every=0)
    with pytest.raises(InputError, match="no trajectory format"):
        run(tmp_path, 10, trajectory=tmp_path / "md.trr")
    with pytest.raises(InputError, match="for 3 masses"):
        simulate(WELLS, PARAMS, X, None, MASSES[:3], VelocityVerlet(time_step=0.001), 5)
