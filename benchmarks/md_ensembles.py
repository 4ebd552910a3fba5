"""Do thermostats and barostats sample their ensembles? Kinetic energies, and pairs of states.

    python benchmarks/md_ensembles.py --systems argon water

| check            | exact law                                                                                      |
|------------------|------------------------------------------------------------------------------------------------|
| kinetic energy   | a gamma variable of half the degrees of freedom: Kolmogorov-Smirnov on decorrelated samples     |
| U at T1, T2      | ln P2(U) / P1(U) = (beta1 - beta2) U + const at constant volume                                 |
| H at T1, T2      | ln P2(H) / P1(H) = (beta1 - beta2) H + const, H = U + P V, at constant pressure                 |
| V at P1, P2      | ln P2(V) / P1(V) = beta (P1 - P2) V + const at constant temperature                             |

as M. R. Shirts, J. Chem. Theory Comput. 9, 909 (2013), doi:10.1021/ct300688p, with his maximum likelihood for the
slope. Its standard error comes from drawing whole replicas anew, which are independent, so that it knows of all
correlations. "overlap" is the distance of both means in standard deviations; about 1 to 2 is best.
"per state" is the number of samples divided by their statistical inefficiency.

argon: 64 atoms, Lennard-Jones, steps of 5 fs. water: 64 rigid TIP3P with PME, steps of 2 fs. Both in single precision.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from md_openmm import FILE, water_box
from openmm import Vec3, app, unit
from scipy import stats

import diffff
from diffff import units
from diffff.md.barostats import Barostat, CellRescaling, MonteCarlo
from diffff.md.calculator import Calculator
from diffff.md.constraints import Constraints, constraints_of
from diffff.md.engine import Engine
from diffff.md.integrators import CSVR, Integrator, Langevin, NoseHoover
from diffff.md.minimize import minimize
from diffff.md.precision import cast, cast_params
from diffff.md.state import particles, state_of
from diffff.potentials.base import Params, Potential

ARGON = """<ForceField>
 <AtomTypes><Type name="Ar" class="Ar" element="Ar" mass="39.948"/></AtomTypes>
 <Residues><Residue name="AR"><Atom name="AR" type="Ar"/></Residue></Residues>
 <NonbondedForce coulomb14scale="1" lj14scale="1">
  <Atom type="Ar" charge="0" sigma="0.3405" epsilon="0.996"/>
 </NonbondedForce>
</ForceField>"""


class System(NamedTuple):
    """What is run, and in which states.

    Attributes:
        potential: its energy.
        params: parameter tree.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)``, nm.
        masses: shape ``(n_atoms,)``, amu.
        constraints: None: there are none.
        time_step: ps.
        temperatures: the two, K.
        pressures: the two, bar.
        compressibility: about that of the system, 1/bar.
        thermostats: of the runs at constant volume.
    """

    potential: Potential
    params: Params
    positions: np.ndarray
    box: np.ndarray
    masses: np.ndarray
    constraints: Constraints | None
    time_step: float
    temperatures: tuple[float, float]
    pressures: tuple[float, float]
    compressibility: float
    thermostats: tuple[str, ...]


class Samples(NamedTuple):
    """Of one state, each of shape ``(n_replicas, n_samples)``, kJ/mol and nm^3; and the degrees of freedom."""

    kinetic: np.ndarray
    potential: np.ndarray
    volume: np.ndarray
    n_free: int


def argon() -> System:
    topology = app.Topology()
    side = 0.3405 * (64 / 0.7) ** (1 / 3)
    topology.setPeriodicBoxVectors([Vec3(*row) for row in side * np.eye(3)] * unit.nanometer)
    chain = topology.addChain()
    for _ in range(64):
        topology.addAtom("AR", app.Element.getBySymbol("Ar"), topology.addResidue("AR", chain))
    x = side / 4 * np.stack(np.meshgrid(*3 * [np.arange(4.0)], indexing="ij"), axis=-1).reshape(-1, 3)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "argon.xml").write_text(ARGON)
        field = diffff.ForceField(Path(folder) / "argon.xml")
    options = {"nonbonded_cutoff": 0.75, "switch_distance": 0.65, "use_dispersion_correction": False}
    potential = field.create_potential(topology, nonbonded_method="CutoffPeriodic", **options)
    return System(
        *(potential, field.params(), x, side * np.eye(3), np.full(64, 39.948), None),
        time_step=0.005,
        temperatures=(140.0, 165.0),
        pressures=(400.0, 650.0),
        compressibility=3e-4,
        thermostats=("Langevin", "NoseHoover", "CSVR"),
    )


def water() -> System:
    topology, x, box = water_box(64)
    field = diffff.ForceField(FILE)
    options = {"nonbonded_method": "PME", "nonbonded_cutoff": 0.6, "switch_distance": 0.54}
    potential, params = field.create_potential(topology, **options), field.params()
    system = field.create_system(topology, params, **options)
    constraints = constraints_of(system)
    masses = np.array([system.getParticleMass(i)._value for i in range(len(x))])
    start = minimize(Calculator(potential, params), x, box=box, constraints=constraints, tolerance=1000.0)
    return System(
        *(potential, params, np.asarray(start.positions), box, masses, constraints),
        time_step=0.002,
        temperatures=(300.0, 325.0),
        pressures=(1.0, 1001.0),
        compressibility=5e-5,
        thermostats=("CSVR",),
    )


# ------------------------------------------------------------------ samples
def integrator_of(kind: str, system: System, temperature: float) -> Integrator:
    step = system.time_step
    match kind:
        case "Langevin":
            return Langevin(time_step=step, temperature=temperature, friction=2.0)
        case "NoseHoover":
            return NoseHoover(time_step=step, temperature=temperature, time_constant=0.2)
        case _:
            return CSVR(time_step=step, temperature=temperature, time_constant=0.2)


def barostat_of(kind: str, system: System, pressure: float) -> Barostat:
    if kind == "MonteCarlo":
        return MonteCarlo(pressure=pressure, every=10)
    return CellRescaling(pressure=pressure, time_constant=0.5, compressibility=system.compressibility, every=5)


def sample(system: System, integrator: Integrator, barostat: Barostat | None, options: argparse.Namespace) -> Samples:
    """Run all replicas, and leave out what they need to come to equilibrium."""
    some = particles(system.masses, system.constraints, free_center=isinstance(integrator, Langevin))
    mine = cast(some, "float32")
    arrays = cast(system.potential, "float32"), cast_params(system.params, "float32")
    engine = Engine(*arrays, mine, integrator, barostat, skin=0.1)
    bath = integrator.bath() | ({} if barostat is None else barostat.bath())
    chosen: dict[str, Any] = {"temperature": integrator.temperature, "seed": options.seed, "dtype": "float32"}
    state = state_of(system.positions, system.box, mine, bath, n_replicas=options.replicas, **chosen)
    state = engine.start(state)
    every = round(options.every / system.time_step)
    n, before = round(options.length / options.every), round(options.equilibration / options.every)
    found = []
    for number in range(before + n):
        state = engine.advance(state, every)
        if number >= before:
            v, box = np.asarray(state.velocities, np.float64), np.asarray(state.box, np.float64)
            kinetic = 0.5 * np.sum(system.masses[:, None] * v**2, axis=(1, 2))
            found.append((kinetic, np.asarray(state.energy), np.abs(np.linalg.det(box))))
    return Samples(*(np.stack(column, axis=1) for column in zip(*found, strict=True)), some.n_free)


# ------------------------------------------------------------------ statistics
def inefficiency(values: np.ndarray) -> float:
    """``g = 1 + 2 sum_t (1 - t / n) C(t)`` up to the first t at which C is negative, over all replicas."""
    rest, n = values - values.mean(), values.shape[1]
    g = 1.0
    for t in range(1, n):
        correlation = np.mean(rest[:, t:] * rest[:, :-t]) / np.mean(rest**2)
        if correlation <= 0.0:
            break
        g += 2.0 * (1.0 - t / n) * correlation
    return g


def most_likely(one: np.ndarray, two: np.ndarray) -> float:
    """Slope b of ``ln P2 / P1 = a + b x`` by maximum likelihood, with Newton's method."""
    x = np.concatenate([one.ravel(), two.ravel()])
    second = np.repeat([0.0, 1.0], [one.size, two.size])
    centre, scale = x.mean(), x.std()
    columns = np.stack([np.ones_like(x), (x - centre) / scale], axis=1)
    found = np.zeros(2)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-columns @ found))
        change = np.linalg.solve((columns * (p * (1.0 - p))[:, None]).T @ columns, columns.T @ (second - p))
        found = found + change
        if np.abs(change).max() < 1e-10:
            break
    return found[1] / scale


def slope(one: np.ndarray, two: np.ndarray, rounds: int = 200) -> tuple[float, float]:
    """The slope and its standard error."""
    chance, n = np.random.default_rng(1), len(one)
    drawn = [most_likely(one[chance.integers(n, size=n)], two[chance.integers(n, size=n)]) for _ in range(rounds)]
    return most_likely(one, two), float(np.std(drawn, ddof=1))


def pair_row(name: str, what: str, one: np.ndarray, two: np.ndarray, exact: float) -> str:
    found, error = slope(one, two)
    apart = abs(two.mean() - one.mean()) / np.sqrt(0.5 * (one.var() + two.var()))
    n = min(values.size / inefficiency(values) for values in (one, two))
    return (
        f"| {name} | {what} | {exact:.4f} | {found:.4f} ± {error:.4f} | {(found - exact) / error:+.1f} "
        f"| {apart:.1f} | {n:.0f} |"
    )


def kinetic_row(name: str, samples: Samples, temperature: float) -> str:
    kt = units.GAS_CONSTANT * temperature
    g = inefficiency(samples.kinetic)
    apart = samples.kinetic[:, :: int(np.ceil(g))]
    found = stats.kstest(apart.ravel(), stats.gamma(samples.n_free / 2, scale=kt).cdf)
    mean = 2.0 * samples.kinetic.mean(axis=1) / samples.n_free / units.GAS_CONSTANT
    error = mean.std(ddof=1) / np.sqrt(len(mean))
    wide = samples.kinetic.std() / (np.sqrt(samples.n_free / 2) * kt)
    return (
        f"| {name} | kinetic energy, {temperature:g} K | {temperature:g} | {mean.mean():.2f} ± {error:.2f} "
        f"| {(mean.mean() - temperature) / error:+.1f} | width {wide:.3f}, p = {found.pvalue:.2f} | {apart.size} |"
    )


def constant_volume(name: str, system: System, options: argparse.Namespace) -> Iterator[str]:
    one, two = system.temperatures
    beta = [1.0 / (units.GAS_CONSTANT * temperature) for temperature in (one, two)]
    for kind in system.thermostats:
        if kind not in options.methods:
            continue
        both = [sample(system, integrator_of(kind, system, t), None, options) for t in (one, two)]
        keep(options, f"{name}-{kind}", both)
        for temperature, samples in zip((one, two), both, strict=True):
            yield kinetic_row(f"{name}, {kind}", samples, temperature)
        exact = beta[0] - beta[1]
        yield pair_row(f"{name}, {kind}", f"U, {one:g} and {two:g} K", both[0].potential, both[1].potential, exact)


def constant_pressure(name: str, system: System, options: argparse.Namespace) -> Iterator[str]:
    (one, two), (low, high) = system.temperatures, system.pressures
    for thermostat, kind in (("CSVR", "CellRescaling"), ("Langevin", "MonteCarlo")):
        if kind not in options.methods:
            continue
        states = ((one, low), (one, high), (two, low))
        found = []
        for temperature, pressure in states:
            integrator = integrator_of(thermostat, system, temperature)
            found.append(sample(system, integrator, barostat_of(kind, system, pressure), options))
        keep(options, f"{name}-{kind}", found)
        full = f"{name}, {thermostat}, {kind}"
        yield kinetic_row(full, found[0], one)
        work = [p / units.BAR_PER_KJ_PER_MOL_PER_NM3 for p in (low, high)]
        beta = [1.0 / (units.GAS_CONSTANT * temperature) for temperature in (one, two)]
        what = f"V, {low:g} and {high:g} bar"
        yield pair_row(full, what, found[0].volume, found[1].volume, beta[0] * (work[0] - work[1]))
        enthalpies = [found[k].potential + work[0] * found[k].volume for k in (0, 2)]
        yield pair_row(full, f"H, {one:g} and {two:g} K", *enthalpies, beta[0] - beta[1])


def keep(options: argparse.Namespace, name: str, samples: list[Samples]) -> None:
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        arrays = {f"{what}{k}": getattr(one, what) for k, one in enumerate(samples) for what in Samples._fields}
        np.savez(options.save / f"{name}.npz", **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = ["Langevin", "NoseHoover", "CSVR", "CellRescaling", "MonteCarlo"]
    parser.add_argument("--systems", nargs="+", choices=["argon", "water"], default=["argon", "water"])
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--replicas", type=int, default=32)
    parser.add_argument("--length", type=float, default=50.0, help="of each replica, ps")
    parser.add_argument("--equilibration", type=float, default=12.0, help="before that, ps")
    parser.add_argument("--every", type=float, default=0.25, help="time between samples, ps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, help="a folder for the samples")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print("| system, method | what | exact | found | sigmas away | overlap | per state |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.systems:
        system = {"argon": argon, "water": water}[name]()
        for rows in (constant_volume, constant_pressure):
            for line in rows(name, system, options):
                print(line, flush=True)


if __name__ == "__main__":
    main()
