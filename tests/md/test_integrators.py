"""Integrators against what is known exactly: harmonic oscillators, distributions of the canonical ensemble."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffff import units
from diffff.errors import InputError
from diffff.md.engine import Engine
from diffff.md.integrators import CSVR, Langevin, NoseHoover, VelocityVerlet
from diffff.md.simulate import simulate
from diffff.md.state import particles, state_of
from diffff.potentials.base import Potential
from diffff.pytree import pytree, static
from tests.md.systems import deep_water

KT = units.GAS_CONSTANT * 300.0


@pytree
class Wells:
    """``E = 1/2 k sum x^2 + 1/4 q sum x^4``: each coordinate by itself, about its own place."""

    name: str = static(default="Wells")
    cutoff: float = static(default=0.0)

    def energy(self, params, positions, box, neighbors):
        return jnp.sum(0.5 * params["k"] * positions**2 + 0.25 * params["q"] * positions**4)


WELLS = Potential(terms=(Wells(),))
PARAMS = {"Wells": {"k": jnp.float64(500.0), "q": jnp.float64(4e4)}}
MASSES = np.array([12.0, 1.0, 16.0, 2.0])


def run(integrator, n_replicas=1, *, params=PARAMS, masses=MASSES, seed=3, n_chunks=1, n_steps=100, free=False):
    """States after each chunk of steps, with the engine that made them."""
    some = particles(masses, free_center=free)
    engine = Engine(WELLS, params, some, integrator)
    x = 0.02 * np.random.default_rng(seed).normal(size=(len(masses), 3))
    options = {"temperature": 300.0, "seed": seed, "n_replicas": n_replicas}
    states = [engine.start(state_of(x, None, some, integrator.bath(), **options))]
    for _ in range(n_chunks):
        states.append(engine.advance(states[-1], n_steps))
    return some, states


def conserved(some, state):
    return np.asarray(state.energy + jax.vmap(some.kinetic_energy)(state.velocities) + state.heat)


def test_velocity_verlet_has_the_trajectory_of_a_harmonic_oscillator():
    """``x_n = A cos(n theta + phi)`` with ``sin(theta / 2) = omega dt / 2`` is its exact solution."""
    params = {"Wells": {"k": jnp.float64(500.0), "q": jnp.float64(0.0)}}
    _, states = run(VelocityVerlet(time_step=0.002), params=params, n_steps=500, n_chunks=1)
    theta = 2.0 * np.arcsin(0.5 * np.sqrt(500.0 / MASSES) * 0.002)[:, None]
    x, v = states[0].positions[0], states[0].velocities[0]
    amplitude = v * 0.002 / np.sin(theta)
    expected = x * np.cos(500 * theta) + amplitude * np.sin(500 * theta)
    np.testing.assert_allclose(states[1].positions[0], expected, rtol=0, atol=1e-12)
    assert int(states[1].step[0]) == 500


@pytest.mark.parametrize(
    "integrator",
    [
        VelocityVerlet(time_step=0.0005),
        Langevin(time_step=0.0005, temperature=300.0, friction=2.0),
        NoseHoover(time_step=0.0005, temperature=300.0, time_constant=0.05),
        CSVR(time_step=0.0005, temperature=300.0, time_constant=0.05),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_conserved_quantity_is_conserved_to_second_order(integrator):
    errors = []
    for half in (1, 2):
        finer = type(integrator)(**{**vars(integrator), "time_step": integrator.time_step / half})
        some, states = run(finer, n_chunks=20, n_steps=50 * half)
        values = np.array([conserved(some, state)[0] for state in states])
        errors.append(np.std(values))
    assert errors[0] < 0.02 * KT
    if not isinstance(integrator, Langevin | CSVR):  # whose noise is another one with another step
        np.testing.assert_allclose(errors[0] / errors[1], 4.0, rtol=0.1)


@pytest.mark.sampling
@pytest.mark.slow
@pytest.mark.parametrize(
    "integrator",
    [
        Langevin(time_step=0.002, temperature=300.0, friction=5.0),
        NoseHoover(time_step=0.002, temperature=300.0, time_constant=0.02),
        CSVR(time_step=0.002, temperature=300.0, time_constant=0.02),
    ],
    ids=lambda one: type(one).__name__,
)
def test_thermostats_give_the_canonical_distribution(integrator):
    """The kinetic energy is a gamma variable; with friction, each coordinate has the density exp(-U/kT) of its well.

    The others act on all coordinates alike, and wells that do not know of each other stay in step; of them it is asked
    that ``<x dU/dx> = kT`` on average.
    """
    some, states = run(integrator, 400, n_chunks=12, n_steps=150, free=True)
    kinetic = np.concatenate([jax.vmap(some.kinetic_energy)(state.velocities) for state in states[4:]])
    assert stats.kstest(kinetic, stats.gamma(some.n_free / 2, scale=KT).cdf).pvalue > 1e-3
    x = np.stack([np.asarray(state.positions) for state in states[4:]])
    if isinstance(integrator, Langevin):
        grid = np.linspace(-0.5, 0.5, 20001)
        law = np.cumsum(np.exp(-(0.5 * 500.0 * grid**2 + 0.25 * 4e4 * grid**4) / KT))
        assert stats.kstest(x[..., 0].ravel(), lambda q: np.interp(q, grid, law / law[-1])).pvalue > 1e-3
    virial = (500.0 * x**2 + 4e4 * x**4).mean(axis=(0, 2, 3)) / KT  # of each replica
    np.testing.assert_allclose(virial.mean(), 1.0, rtol=0, atol=4.0 * virial.std() / np.sqrt(len(virial)) + 0.003)


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
def test_single_precision_stays_single(integrator):
    """But for energies, whose sums would lose their decimals."""
    x = 0.02 * np.random.default_rng(3).normal(size=(4, 3))
    end = simulate(WELLS, PARAMS, x, None, MASSES, integrator, 5, dtype="float32")
    assert {end.positions.dtype, end.velocities.dtype, end.forces.dtype} == {np.dtype("float32")}
    assert {end.energy.dtype, end.heat.dtype} == {np.dtype("float64")}
    assert np.isfinite(end.energy).all()


def test_replicas_are_independent_and_a_seed_tells_all():
    integrator = Langevin(time_step=0.002, temperature=300.0)
    _, many = run(integrator, 3)
    _, again = run(integrator, 3)
    np.testing.assert_array_equal(many[-1].positions, again[-1].positions)
    assert len({float(x) for x in many[-1].positions[:, 0, 0]}) == 3
    _, other = run(integrator, 3, seed=4)
    assert not np.any(np.asarray(other[-1].velocities) == np.asarray(many[-1].velocities))


def test_steps_in_one_go_or_in_many_are_the_same():
    integrator = Langevin(time_step=0.002, temperature=300.0)
    _, one = run(integrator, n_steps=60)
    _, many = run(integrator, n_steps=20, n_chunks=3)
    np.testing.assert_array_equal(one[-1].velocities, many[-1].velocities)


@pytest.mark.slow
def test_deep_water_keeps_its_energy_and_renews_its_lists():
    system = deep_water()
    some = particles(system.masses)
    integrator = VelocityVerlet(time_step=0.0005)
    engine = Engine(system.potential, system.params, some, integrator, skin=0.01)
    state = state_of(system.positions, system.box, some, {}, temperature=300.0, seed=1, n_replicas=2)
    np.testing.assert_allclose(jax.vmap(some.temperature)(state.velocities), 300.0, rtol=0.25)
    first = state = engine.start(state)
    np.testing.assert_allclose(first.energy, system.expected()[0], rtol=1e-12)
    state = engine.advance(state, 60)
    np.testing.assert_allclose(conserved(some, state), conserved(some, first), rtol=0, atol=0.5 * KT)
    assert np.max(np.linalg.norm(state.positions[0] - first.positions[0], axis=1)) > 0.01
    for replica in range(2):
        energy, forces, virial = system.expected(state.positions[replica], state.box[replica])
        np.testing.assert_allclose(state.energy[replica], energy, rtol=1e-12)
        np.testing.assert_allclose(state.forces[replica], forces, rtol=0, atol=1e-9 * np.abs(forces).max())
        np.testing.assert_allclose(state.virial[replica], virial, rtol=0, atol=1e-9 * np.abs(virial).max())


@pytest.mark.slow
def test_what_cannot_go_well_is_told():
    system = deep_water()
    some = particles(system.masses)
    engine = Engine(system.potential, system.params, some, VelocityVerlet(time_step=0.01))
    state = engine.start(state_of(system.positions, system.box, some, {}, temperature=300.0, seed=1))
    with pytest.raises(InputError, match="became unstable between the steps 0 and 100"):
        engine.advance(state, 100)
    on_top = system.positions.copy()
    on_top[4] = on_top[9]
    with pytest.raises(InputError, match="first positions is not finite"):
        engine.start(state_of(on_top, system.box, some, {}, temperature=300.0, seed=1))
