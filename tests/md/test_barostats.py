"""Barostats against exact laws of volume and shape, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from diffff import units
from diffff.errors import InputError
from diffff.md.barostats import CellRescaling, MonteCarlo
from diffff.md.engine import Engine
from diffff.md.integrators import CSVR, Langevin, NoseHoover, VelocityVerlet
from diffff.md.observables import observe
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


@pytree
class TetheredBox:
    """``E = k/2 (h_xx^2 + h_yy^2 + h_zz^2) - p V - c (cos(2 pi h_yx / h_xx) + cos(2 pi h_zy / h_yy))``, and dumbbells.

    The cosines are the same for all vectors of a lattice that can replace each other.
    """

    name: str = static(default="Dumbbells")
    cutoff: float = static(default=0.0)

    def energy(self, params, positions, box, neighbors):
        edges = jnp.diagonal(box)
        skew = jnp.cos(2.0 * jnp.pi * box[1, 0] / edges[0]) + jnp.cos(2.0 * jnp.pi * box[2, 1] / edges[1])
        tether = 0.5 * params["tether"] * jnp.sum(edges**2) - params["p"] * jnp.prod(edges) - params["c"] * skew
        return tether + Dumbbells().energy(params, positions, box, neighbors)


GAS = Potential(terms=(Dumbbells(),))
BAROSTATS = {
    "rescaling": CellRescaling(pressure=P, time_constant=0.2, compressibility=1 / P, every=5),
    "Monte Carlo": MonteCarlo(pressure=P, every=2),
}


def sampled(potential, params, some, integrator, barostat, side):
    """Boxes of 300 replicas of six pairs of atoms in the second half of a run."""
    engine = Engine(potential, params, some, integrator, barostat)
    x = side * np.random.default_rng(1).uniform(size=(6, 1, 3)) + np.array([[0, 0, 0], [0.1, 0, 0]])
    options = {"temperature": T, "seed": 2, "n_replicas": 300}
    bath = integrator.bath() | barostat.bath()
    state = engine.start(state_of(x.reshape(12, 3), side * np.eye(3), some, bath, **options))
    boxes = []
    for chunk in range(10):
        state = engine.advance(state, 400)
        if chunk > 3:
            boxes.append(np.asarray(state.box))
    return np.concatenate(boxes)


@pytest.mark.sampling
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
    params = {"Dumbbells": {"k": jnp.float64(3e4 if whole else 0.0)}}
    boxes = sampled(GAS, params, some, integrator, barostat, (n * KT / P) ** (1 / 3))
    law = stats.gamma(n + 1, scale=KT / P)
    assert stats.kstest(np.linalg.det(boxes), law.cdf).pvalue > 1e-3


@pytest.mark.sampling
@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["semi-isotropic", "anisotropic", "full"])
@pytest.mark.parametrize("kind", BAROSTATS)
def test_the_shape_of_a_tethered_box_has_its_law(kind, coupling):
    """Six dumbbells as an ideal gas, ``U = tether / 2 tr D^2 - P V``, D being the diagonal of the box.

    The pressures cancel. With ``s^2 = kT / tether``, in the measures of `diffff.md.deformation`:

    - anisotropic, ``dL V^N``: each ``L^2 / s^2`` is chi-square of N + 1;
    - semi-isotropic, ``dA dL_z V^N``, x and y alike: ``A / s^2`` is gamma of N + 1;
    - full, ``dh V^(N - 2)`` with ``dh ~ L_x^2 L_y dL (L_x dt_yx) (L_x dt_zx) (L_y dt_zy)`` and ``t_ab = h_ab / h_bb``:
      chi-square of N + 3, N + 1 and N - 1; ``2 pi t`` is von Mises' for yx and zy; t_zx is uniform.
    """
    n = 6
    some = particles(np.full(12, 20.0), molecules=np.repeat(np.arange(n), 2), free_center=True)
    integrator, barostat = Langevin(time_step=DT, temperature=T, friction=5.0), BAROSTATS[kind]
    barostat = barostat.model_copy(update={"coupling": coupling, "every": 1 if kind == "Monte Carlo" else 5})
    kt, side = units.GAS_CONSTANT * T, (n * KT / P) ** (1 / 3)
    s = side / np.sqrt(n)
    numbers = {"k": 3e4, "tether": kt / s**2, "p": P / units.BAR_PER_KJ_PER_MOL_PER_NM3, "c": kt}
    params = {"Dumbbells": {name: jnp.float64(number) for name, number in numbers.items()}}
    h = sampled(Potential(terms=(TetheredBox(),)), params, some, integrator, barostat, side) / s
    tilt = {(a, b): h[:, a, b] / h[:, b, b] for a, b in ((1, 0), (2, 0), (2, 1))}
    edges, chi2 = np.diagonal(h, axis1=1, axis2=2).T, stats.chi2
    laws = {
        "semi-isotropic": [(edges[0] * edges[1], stats.gamma(n + 1)), (edges[2] ** 2, chi2(n + 1))],
        "anisotropic": [(edge**2, chi2(n + 1)) for edge in edges],
        "full": [(edge**2, chi2(free)) for edge, free in zip(edges, (n + 3, n + 1, n - 1), strict=True)]
        + [(2.0 * np.pi * tilt[which], stats.vonmises(1.0)) for which in ((1, 0), (2, 1))]
        + [(tilt[2, 0], stats.uniform(-0.5, 1.0))],
    }
    for found, law in laws[coupling]:
        assert stats.kstest(found, law.cdf).pvalue > 1e-3
    if coupling != "full":
        assert all(np.all(part == 0.0) for part in tilt.values())


@pytest.mark.sampling
@pytest.mark.slow
def test_water_in_a_box_that_moves_has_the_energy_of_that_box():
    system = deep_water()
    molecules = np.repeat(np.arange(32), 3)
    for barostat in (
        CellRescaling(pressure=1.0, time_constant=0.1, every=5),
        MonteCarlo(pressure=1.0, every=5),
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


@pytest.mark.parametrize(
    ("coupling", "dtype"), [("isotropic", "float64"), pytest.param("full", "float32", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", BAROSTATS)
def test_a_run_that_was_cut_in_two_is_the_same_run(kind, coupling, dtype, tmp_path):
    x = 2.0 * np.random.default_rng(1).uniform(size=(3, 1, 3)) + np.array([[0, 0, 0], [0.1, 0, 0]])
    integrator, params = Langevin(time_step=DT, temperature=T), {"Dumbbells": {"k": jnp.float64(3e4)}}

    def run(name, n_steps, restart=False):
        files = Outputs(tmp_path / name / "md.log", 10, None, 10, tmp_path / name / "md.npz", 30)
        options = {
            "barostat": BAROSTATS[kind].model_copy(update={"coupling": coupling}),
            "outputs": files,
            "n_replicas": 2,
        }
        options |= {"molecules": np.repeat(np.arange(3), 2), "dtype": dtype}
        where = (x.reshape(6, 3), 2.0 * np.eye(3), np.full(6, 20.0))
        return simulate(GAS, params, *where, integrator, n_steps, restart=restart, **options)

    whole = run("whole", 120)
    run("parts", 60)
    parts = run("parts", 120, restart=True)
    np.testing.assert_array_equal(parts.box, whole.box)
    np.testing.assert_array_equal(parts.velocities, whole.velocities)
    for name in ("md-0.log", "md-1.log"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert whole.box is not None
    assert str(whole.box.dtype) == dtype
    changed = np.asarray(whole.box) != 2.0 * np.eye(3)
    assert np.all(changed == (np.tril(np.ones((3, 3))) if coupling == "full" else np.eye(3)))


@pytest.mark.parametrize("kind", BAROSTATS)
@pytest.mark.slow
def test_energy_is_conserved_beside_every_thermostat(kind):
    """What thermostat and barostat take out is booked by both: dumbbells in a box that changes by a fifth."""
    x = 2.0 * np.random.default_rng(1).uniform(size=(20, 1, 3)) + np.array([[0, 0, 0], [0.1, 0, 0]])
    where = (x.reshape(40, 3), 2.0 * np.eye(3), np.full(40, 20.0))
    params = {"Dumbbells": {"k": jnp.float64(3e4)}}
    for thermostat in (Langevin, NoseHoover, CSVR):
        integrator = thermostat(time_step=DT, temperature=T)
        some = particles(where[2], molecules=np.repeat(np.arange(20), 2), free_center=thermostat is Langevin)
        engine = Engine(GAS, params, some, integrator, BAROSTATS[kind])
        bath = integrator.bath() | BAROSTATS[kind].bath()
        begun = engine.start(state_of(where[0], where[1], some, bath, temperature=T, seed=1))
        ended = engine.advance(begun, 400)
        assert abs(np.linalg.det(ended.box[0]) / 8.0 - 1.0) > 0.1
        before, after = (observe(jax.tree.map(lambda v: v[0], one), some) for one in (begun, ended))
        np.testing.assert_allclose(after.conserved, before.conserved, rtol=0, atol=0.02 * float(before.kinetic))


def test_a_virtual_site_by_itself_is_no_body():
    """Else four-point water would have twice the pressure of an ideal gas of it."""
    masses = np.array([16.0, 1.0, 1.0, 0.0] * 5)
    assert (particles(masses).n_groups, particles(masses).n_bodies) == (20, 15)
    assert particles(masses, molecules=np.repeat(np.arange(5), 4)).n_bodies == 5


def test_what_makes_no_sense_is_refused():
    x, box, masses = np.array([[0.0] * 3, [0.1] * 3]), 2.0 * np.eye(3), np.ones(2)
    params = {"Dumbbells": {"k": jnp.float64(1.0)}}
    thermostat = CSVR(time_step=DT, temperature=T)

    def run(box, integrator, barostat, **options):
        simulate(GAS, params, x, box, masses, integrator, 1, barostat=barostat, **options)

    fine = MonteCarlo(pressure=1.0)
    with pytest.raises(InputError, match="MonteCarlo: there is no box"):
        run(None, thermostat, fine)
    with pytest.raises(InputError, match="MonteCarlo needs a thermostat"):
        run(box, VelocityVerlet(time_step=DT), fine)
    with pytest.raises(ValidationError, match="time_constant"):
        CellRescaling(pressure=1.0, time_constant=0.0)
    with pytest.raises(ValidationError, match="pressure"):
        MonteCarlo(pressure=float("nan"))
    with pytest.raises(ValidationError, match="coupling"):
        MonteCarlo(pressure=1.0, coupling="triclinic")  # pyright: ignore[reportArgumentType]
    for wrong in (box + np.eye(3, k=1), box * np.array([1.0, 1.0, -1.0])):
        with pytest.raises(InputError, match=r"coupling 'full' needs a box \(a_x, 0, 0\), \(b_x, b_y, 0\)"):
            run(wrong, thermostat, fine.model_copy(update={"coupling": "full"}))
    with pytest.raises(InputError, match=r"molecules: shape \(3,\)"):
        run(box, thermostat, fine, molecules=np.arange(3))
