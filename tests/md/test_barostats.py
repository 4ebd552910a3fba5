"""Barostats against the exact law of an ideal gas and of dumbbells in it, and against each other."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffff import units
from diffff.errors import InputError
from diffff.md.barostats import CellRescaling, MonteCarlo
from diffff.md.engine import Engine
from diffff.md.integrators import CSVR, Langevin, VelocityVerlet
from diffff.md.simulate import Outputs, simulate
from diffff.md.state import particles, state_of
from diffff.potentials.base import Potential
from diffff.pytree import pytree, static
from tests.md.systems import deep_water

T, P = 300.0, 200.0  # K, bar
KT = units.GAS_CONSTANT * T * units.BAR_PER_KJ_PER_MOL_PER_NM3  # bar nm^3
DT = 0.002


@pytree
class Dumbbells:
    """``E = 1/2 k sum (r - r0)^2`` between atoms 2 i and 2 i + 1, which do not see anybody else."""

    name: str = static(default="Dumbbells")
    cutoff: float = static(default=0.0)

    def energy(self, params, positions, box, neighbors):
        r = jnp.linalg.norm(positions[1::2] - positions[::2], axis=1)
        return 0.5 * params["k"] * jnp.sum((r - 0.1) ** 2)


GAS = Potential(terms=(Dumbbells(),))
BAROSTATS = {
    "rescaling": CellRescaling(
        pressure=P, temperature=T, time_step=DT, time_constant=0.2, compressibility=1 / P, every=5
    ),
    "Monte Carlo": MonteCarlo(pressure=P, temperature=T, every=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["molecules", "atoms"])
@pytest.mark.parametrize("kind", BAROSTATS)
def test_the_volume_of_an_ideal_gas_has_its_law(kind, whole):
    """``p(V) ~ V^N exp(-P V / kT)``: a gamma variable of N + 1, N the number of what moves in the box by itself.

    Atoms that are not bonded are N = 12; dumbbells are N = 6 for whichever way they are scaled.
    """
    molecules = np.repeat(np.arange(6), 2) if whole else None
    some = particles(np.full(12, 20.0), molecules=molecules, free_center=True)
    n = 6 if whole else 12
    integrator, barostat = Langevin(time_step=DT, temperature=T, friction=5.0), BAROSTATS[kind]
    engine = Engine(GAS, {"Dumbbells": {"k": jnp.float64(3e4 if whole else 0.0)}}, some, integrator, barostat)
    side = (n * KT / P) ** (1 / 3)
    x = side * np.random.default_rng(1).uniform(size=(6, 1, 3)) + np.array([[0, 0, 0], [0.1, 0, 0]])
    options = {"temperature": T, "seed": 2, "n_replicas": 300}
    bath = integrator.bath() | barostat.bath()
    state = engine.start(state_of(x.reshape(12, 3), side * np.eye(3), some, bath, **options))
    volumes = []
    for chunk in range(10):
        state = engine.advance(state, 400)
        if chunk > 3:
            volumes.append(np.linalg.det(np.asarray(state.box)))
    law = stats.gamma(n + 1, scale=KT / P)
    assert stats.kstest(np.concatenate(volumes), law.cdf).pvalue > 1e-3


@pytest.mark.slow
def test_water_in_a_box_that_moves_has_the_energy_of_that_box():
    system = deep_water()
    molecules = np.repeat(np.arange(32), 3)
    for barostat in (
        CellRescaling(pressure=1.0, temperature=T, time_step=0.0005, time_constant=0.1, every=5),
        MonteCarlo(pressure=1.0, temperature=T, every=5),
    ):
        some = particles(system.masses, molecules=molecules, free_center=True)
        integrator = Langevin(time_step=0.0005, temperature=T, friction=5.0)
        engine = Engine(system.potential, system.params, some, integrator, barostat)
        bath = integrator.bath() | barostat.bath()
        state = engine.start(state_of(system.positions, system.box, some, bath, temperature=T, seed=2, n_replicas=2))
        state = engine.advance(state, 150)
        energy, forces, _ = system.expected(state.positions[0], state.box[0])
        np.testing.assert_allclose(state.energy[0], energy, rtol=1e-12)
        np.testing.assert_allclose(state.forces[0], forces, rtol=0, atol=1e-9 * np.abs(forces).max())
        growth = np.linalg.det(np.asarray(state.box)) / np.linalg.det(system.box) - 1.0
        assert np.all((np.abs(growth) > 1e-4) & (np.abs(growth) < 0.3))


@pytest.mark.parametrize("kind", BAROSTATS)
def test_a_run_that_was_cut_in_two_is_the_same_run(kind, tmp_path):
    x = 2.0 * np.random.default_rng(1).uniform(size=(3, 1, 3)) + np.array([[0, 0, 0], [0.1, 0, 0]])
    integrator, params = Langevin(time_step=DT, temperature=T), {"Dumbbells": {"k": jnp.float64(3e4)}}

    def run(name, n_steps, restart=False):
        files = Outputs(tmp_path / name / "md.log", 10, None, 10, tmp_path / name / "md.npz", 30)
        options = {"barostat": BAROSTATS[kind], "molecules": np.repeat(np.arange(3), 2), "outputs": files}
        where = (x.reshape(6, 3), 2.0 * np.eye(3), np.full(6, 20.0))
        return simulate(GAS, params, *where, integrator, n_steps, restart=restart, **options)

    whole = run("whole", 120)
    run("parts", 60)
    parts = run("parts", 120, restart=True)
    np.testing.assert_array_equal(parts.box, whole.box)
    np.testing.assert_array_equal(parts.velocities, whole.velocities)
    assert (tmp_path / "parts/md.log").read_bytes() == (tmp_path / "whole/md.log").read_bytes()
    assert whole.box[0, 0, 0] != 2.0


def test_what_makes_no_sense_is_refused():
    x, box, masses = np.array([[0.0] * 3, [0.1] * 3]), 2.0 * np.eye(3), np.ones(2)
    params = {"Dumbbells": {"k": jnp.float64(1.0)}}
    thermostat = CSVR(time_step=DT, temperature=T)

    def run(box, integrator, barostat, **options):
        simulate(GAS, params, x, box, masses, integrator, 1, barostat=barostat, **options)

    fine = MonteCarlo(pressure=1.0, temperature=T)
    with pytest.raises(InputError, match="MonteCarlo: there is no box"):
        run(None, thermostat, fine)
    with pytest.raises(InputError, match="MonteCarlo needs a thermostat"):
        run(box, VelocityVerlet(time_step=DT), fine)
    with pytest.raises(InputError, match=r"MonteCarlo has the temperature 310\.0, the integrator 300\.0"):
        run(box, thermostat, MonteCarlo(pressure=1.0, temperature=310.0))
    with pytest.raises(InputError, match="CellRescaling: time_constant is 0"):
        run(box, thermostat, CellRescaling(pressure=1.0, temperature=T, time_step=DT, time_constant=0.0))
    with pytest.raises(InputError, match="MonteCarlo: pressure is nan bar"):
        run(box, thermostat, MonteCarlo(pressure=float("nan"), temperature=T))
    with pytest.raises(InputError, match=r"molecules: shape \(3,\)"):
        run(box, thermostat, fine, molecules=np.arange(3))
