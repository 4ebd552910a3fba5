"""Custom forces against OpenMM's, Reference platform."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential
from diffff.potentials.custom import CustomAngle, CustomBond, CustomEnergy, CustomTorsion
from diffff.potentials.custom_nonbonded import CustomNonbonded, custom_nonbonded
from diffff.potentials.tabulated import Continuous1D, Discrete
from tests.check_term import check_term

RNG = np.random.default_rng(5)
CHAIN = np.cumsum(RNG.normal(size=(8, 3)) * 0.08 + np.array([0.07, 0.02, -0.03]), axis=0)
BOX = np.array([[2.4, 0.0, 0.0], [0.4, 2.5, 0.0], [-0.3, 0.5, 2.3]])
GRID = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:24] / 3.0
FLUID = (GRID + 0.05 * RNG.normal(size=(24, 3))) @ BOX
NOBODY = neighbor_list(np.zeros((1, 3)), None, 1.0)

LAWS = {
    "bond": (CustomBond, mm.CustomBondForce, "r", 2, "CustomBondForce"),
    "angle": (CustomAngle, mm.CustomAngleForce, "theta", 3, "CustomAngleForce"),
    "torsion": (CustomTorsion, mm.CustomTorsionForce, "theta", 4, "CustomTorsionForce"),
}
TEXTS = [
    ("bond", "scale*k*(r-r0)^2", ("k", "r0"), {"scale": 0.5}),
    ("bond", "d*(1-exp(-a*(r-r0)))^2", ("d", "a", "r0"), {}),
    ("bond", "select(step(r-r0), k*(r-r0)^2, k*(r0-r)^3); k=2*k0", ("k0", "r0"), {}),
    ("angle", "0.5*k*(theta-t0)^2 + c*(cos(theta)-cos(t0))^2", ("k", "t0"), {"c": 2.5}),
    ("torsion", "k*min(dtheta, 2*pi-dtheta)^2; dtheta = abs(theta-t0); pi = 3.1415926535", ("k", "t0"), {}),
    ("torsion", "k*(1+cos(n*theta-t0)) + shift", ("k", "n", "t0"), {"shift": 1.5}),
]


def in_openmm(force, positions, box):
    """A function that gives energy and forces, and the context."""
    system = mm.System()
    for _ in positions:
        system.addParticle(1.0)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*(mm.Vec3(*row) for row in box))
    system.addForce(force)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)

    def evaluate():
        state = context.getState(energy=True, forces=True)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        return state.getPotentialEnergy()._value, np.array(forces)

    return evaluate, context


@jax.jit
def energy_of(term, params, positions, box, neighbors):
    return term.energy(params, positions, box, neighbors)


@jax.jit
def all_gradients(term, params, positions, box, neighbors):
    energy, (by_params, by_positions) = jax.value_and_grad(term.energy, (0, 1))(params, positions, box, neighbors)
    return energy, -by_positions, by_params


def bonded_case(kind, text, parameters, shared, periodic=False):
    """The term, its parameters, and OpenMM's force with one bond per row of atoms; rows are shared by several."""
    make, theirs, coordinate, n, name = LAWS[kind]
    atoms = np.array([np.arange(k, k + n) for k in range(len(CHAIN) - n + 1)])
    rows = np.arange(len(atoms)) % 3
    columns = {p: RNG.uniform(0.5, 3.0, size=3) if p != "n" else np.array([1.0, 2.0, 3.0]) for p in parameters}
    law = CustomEnergy(text, coordinate, parameters, tuple(shared))
    term = make(atoms=jnp.asarray(atoms), rows=jnp.asarray(rows), law=law, periodic=periodic)
    assert term.name == name and term.cutoff == 0.0
    force = theirs(text)
    force.setUsesPeriodicBoundaryConditions(periodic)
    for p, value in shared.items():
        force.addGlobalParameter(p, value)
    add = {"bond": "Bond", "angle": "Angle", "torsion": "Torsion"}[kind]
    for p in parameters:
        getattr(force, f"addPer{add}Parameter")(p)
    for who, row in zip(atoms, rows, strict=True):
        getattr(force, f"add{add}")(*map(int, who), [columns[p][row] for p in parameters])
    return term, {**columns, **{p: np.float64(v) for p, v in shared.items()}}, force, (atoms, rows, add)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(("kind", "text", "parameters", "shared"), TEXTS)
def test_bonded_terms_are_those_of_openmm(kind, text, parameters, shared, periodic):
    term, params, force, (atoms, rows, add) = bonded_case(kind, text, parameters, shared, periodic)
    positions = CHAIN + RNG.integers(-1, 2, CHAIN.shape) @ BOX if periodic else CHAIN
    evaluate, context = in_openmm(force, positions, BOX if periodic else None)
    expected, forces = evaluate()
    energy, found, gradient = all_gradients(term, params, positions, BOX if periodic else None, NOBODY)
    np.testing.assert_allclose(energy, expected, rtol=1e-12)
    np.testing.assert_allclose(found, forces, rtol=0, atol=1e-10 * np.abs(forces).max())
    h = 1e-5
    for p in parameters:
        for row in range(3):
            ends = []
            for sign in (1, -1):
                for index, (who, of_row) in enumerate(zip(atoms, rows, strict=True)):
                    values = [params[q][of_row] + sign * h * (q == p and of_row == row) for q in parameters]
                    getattr(force, f"set{add}Parameters")(index, *map(int, who), values)
                force.updateParametersInContext(context)
                ends.append(evaluate()[0])
            slope = (ends[0] - ends[1]) / (2 * h)
            np.testing.assert_allclose(gradient[p][row], slope, rtol=1e-7, atol=1e-7, err_msg=p)
    for index, (who, row) in enumerate(zip(atoms, rows, strict=True)):
        getattr(force, f"set{add}Parameters")(index, *map(int, who), [params[q][row] for q in parameters])
    force.updateParametersInContext(context)
    for p, value in shared.items():
        ends = []
        for sign in (1, -1):
            context.setParameter(p, value + sign * h)
            ends.append(evaluate()[0])
        np.testing.assert_allclose(gradient[p], (ends[0] - ends[1]) / (2 * h), rtol=1e-7)


@pytest.mark.parametrize(("kind", "text", "parameters", "shared"), [TEXTS[0], TEXTS[3], TEXTS[5]])
def test_the_contract_of_bonded_terms(kind, text, parameters, shared):
    term, params, *_ = bonded_case(kind, text, parameters, shared)
    check_term(term, params, CHAIN, None)


def test_no_bonds_constant_energies_and_single_precision():
    law = CustomEnergy("2", "r")
    atoms, rows = jnp.zeros((0, 2), int), jnp.zeros(0, int)
    assert CustomBond(atoms=atoms, rows=rows, law=law).energy({}, CHAIN, None, NOBODY) == 0.0
    four = CustomBond(atoms=jnp.array([[0, 1]] * 4), rows=jnp.zeros(4, int), law=law)
    assert four.energy({}, jnp.asarray(CHAIN), None, NOBODY) == 8.0
    for kind, text, parameters, shared in (TEXTS[1], TEXTS[3], TEXTS[4]):
        term, params, *_ = bonded_case(kind, text, parameters, shared)
        single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, CHAIN))
        energy = energy_of(term, *single, None, NOBODY)
        assert energy.dtype == jnp.float32
        np.testing.assert_allclose(energy, energy_of(term, params, CHAIN, None, NOBODY), rtol=1e-4)


LJ = "4*epsilon*((sigma/r)^12-(sigma/r)^6)*scale; sigma=0.5*(sigma1+sigma2); epsilon=sqrt(epsilon1*epsilon2)"
N_TYPES = 3
TABLES = (
    ("acoef", Discrete((N_TYPES, N_TYPES))),
    ("bcoef", Discrete((N_TYPES, N_TYPES))),
    ("soft", Continuous1D(12, 0.0, 0.75)),
)
SYMMETRIC = RNG.uniform(0.5, 1.5, size=(2, N_TYPES, N_TYPES))
SYMMETRIC = SYMMETRIC + SYMMETRIC.transpose(0, 2, 1)


def lennard_jones(**settings):
    law = CustomEnergy(LJ, "r", ("sigma", "epsilon"), ("scale",), pairwise=True)
    params = {"sigma": np.array([0.32, 0.25, 0.28]), "epsilon": np.array([0.6, 0.0, 0.4]), "scale": np.float64(0.9)}
    return custom_nonbonded(law=law, rows=np.arange(24) % 3, excluded=EXCLUDED, **settings), params


def tabulated(**settings):
    text = "acoef(type1,type2)*1e-6/r^12-bcoef(type1,type2)*1e-3/r^6+soft(r)*q1*q2"
    law = CustomEnergy(text, "r", ("type", "q"), (), TABLES, pairwise=True)
    tables = {"acoef": SYMMETRIC[0].ravel(), "bcoef": SYMMETRIC[1].ravel(), "soft": np.cos(np.arange(12.0))}
    params = {"type": np.array([0.0, 1.0, 2.0]), "q": np.array([0.5, -0.4, 0.2]), **tables}
    return custom_nonbonded(law=law, rows=np.arange(24) % 3, excluded=EXCLUDED, **settings), params


EXCLUDED = [(1, 0), (1, 2), (3, 20), (5, 23), (0, 21), (7, 8)]
METHODS = {
    "NoCutoff": {},
    "CutoffNonPeriodic": {"cutoff": 0.9},
    "CutoffPeriodic": {"cutoff": 0.9, "switch_distance": 0.7},
}


def their_force(term, params):
    law = term.law
    force = mm.CustomNonbondedForce(law.text)
    force.setNonbondedMethod(getattr(mm.CustomNonbondedForce, term.method))
    if term.cutoff:
        force.setCutoffDistance(term.cutoff)
    if term.switch_distance is not None:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(term.switch_distance)
    force.setUseLongRangeCorrection(len(term.class_rows) > 0)
    for p in law.parameters:
        force.addPerParticleParameter(p)
    for p in law.global_parameters:
        force.addGlobalParameter(p, float(params[p]))
    for name, table in law.functions:
        values = np.asarray(params[name]).tolist()
        if isinstance(table, Discrete):
            force.addTabulatedFunction(name, mm.Discrete2DFunction(*table.sizes, values))
        else:
            force.addTabulatedFunction(name, mm.Continuous1DFunction(values, table.low, table.high))
    for row in np.asarray(term.rows):
        force.addParticle([params[p][row] for p in law.parameters])
    for pair in np.asarray(term.excluded):
        force.addExclusion(*map(int, pair))
    return force


def surroundings(term):
    box = BOX if term.method == "CutoffPeriodic" else None
    return box, neighbor_list(FLUID, box, max(1.1 * term.cutoff, 0.1))


@pytest.mark.parametrize(
    ("method", "make"),
    [
        ("NoCutoff", lennard_jones),
        ("CutoffNonPeriodic", tabulated),
        ("CutoffPeriodic", lennard_jones),
        ("CutoffPeriodic", tabulated),
    ],
)
def test_pairs_are_those_of_openmm(method, make):
    term, params = make(method=method, **METHODS[method])
    box, neighbors = surroundings(term)
    evaluate, _ = in_openmm(their_force(term, params), FLUID, box)
    expected, forces = evaluate()
    energy, found, gradient = all_gradients(term, params, FLUID, box, neighbors)
    np.testing.assert_allclose(energy, expected, rtol=1e-11)
    np.testing.assert_allclose(found, forces, rtol=0, atol=1e-10 * np.abs(forces).max())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    for name, index in {"sigma": (0,), "epsilon": (2,), "scale": (), "q": (1,), "acoef": (4,), "soft": (9,)}.items():
        if name not in params:
            continue
        h, ends = 1e-5, []
        for sign in (1, -1):
            changed = {key: np.array(value) for key, value in params.items()}
            changed[name][index] += sign * h
            ends.append(in_openmm(their_force(term, changed), FLUID, box)[0]()[0])
        slope = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(gradient[name][index], slope, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize(("make", "switch_distance"), [(lennard_jones, None), (lennard_jones, 0.7), (tabulated, 0.7)])
def test_the_correction_beyond_the_cutoff(make, switch_distance):
    """OpenMM's quadrature of it is good to 1e-5; the exact value for Lennard-Jones is known without a switch."""
    settings = {"method": "CutoffPeriodic", "cutoff": 0.9, "switch_distance": switch_distance}
    box, neighbors = surroundings(make(**settings)[0])
    found = []
    for correct in (True, False):
        term, params = make(**settings, long_range_correction=correct)
        expected = in_openmm(their_force(term, params), FLUID, box)[0]()[0]
        found.append((float(energy_of(term, params, FLUID, box, neighbors)), expected))
    ours, theirs = np.array(found[0]) - np.array(found[1])
    np.testing.assert_allclose(ours, theirs, rtol=5e-5)
    if make is lennard_jones and switch_distance is None:
        rows = np.arange(24) % 3
        sigma, epsilon = params["sigma"][rows], params["epsilon"][rows]
        i, j = np.triu_indices(24)
        s6, e = (0.5 * (sigma[i] + sigma[j])) ** 6, np.sqrt(epsilon[i] * epsilon[j])
        mean = np.mean(4 * 0.9 * e * (s6**2 / 9 / 0.9**9 - s6 / 3 / 0.9**3))
        np.testing.assert_allclose(ours, 2 * np.pi * 24**2 / np.linalg.det(box) * mean, rtol=1e-10)


def test_a_correction_that_does_not_converge_is_not_a_number():
    law = CustomEnergy("q1*q2/r", "r", ("q",), (), pairwise=True)
    settings = {"law": law, "rows": np.zeros(24, int), "method": "CutoffPeriodic", "cutoff": 0.9}
    for correct in (False, True):
        term = custom_nonbonded(**settings, long_range_correction=correct)
        box, neighbors = surroundings(term)
        energy = energy_of(term, {"q": jnp.array([0.3])}, FLUID, box, neighbors)
        assert np.isnan(energy) == correct


@pytest.mark.parametrize("method", ["NoCutoff", "CutoffPeriodic"])
def test_the_contract_of_pairs(method):
    term, params = lennard_jones(method=method, **METHODS[method], long_range_correction=True)
    params["epsilon"][1] = 0.3  # the square root has no difference quotient at zero
    some = np.r_[0:4, 22:24]
    law, excluded = term.law, [(0, 1), (1, 4)]
    settings = {"cutoff": term.cutoff, "switch_distance": term.switch_distance, "method": method}
    small = custom_nonbonded(law=law, rows=np.arange(6) % 3, excluded=excluded, **settings, long_range_correction=True)
    check_term(small, params, FLUID[some], BOX if method == "CutoffPeriodic" else None, alike=[(2, 5)])


def test_pairs_in_single_precision_and_without_parameters():
    term, params = tabulated(method="CutoffPeriodic", cutoff=0.9, long_range_correction=True)
    box, neighbors = surroundings(term)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, FLUID, box))
    energy = energy_of(term, *single, neighbors)
    assert energy.dtype == jnp.float32
    np.testing.assert_allclose(energy, energy_of(term, params, FLUID, box, neighbors), rtol=1e-4)
    plain = custom_nonbonded(law=CustomEnergy("k/r^2", "r", (), ("k",), pairwise=True), rows=np.zeros(24))
    r = np.linalg.norm(FLUID[:, None] - FLUID, axis=-1)[np.triu_indices(24, 1)]
    np.testing.assert_allclose(energy_of(plain, {"k": 2.0}, FLUID, None, NOBODY), np.sum(2.0 / r**2), rtol=1e-12)


def test_laws_that_are_refused():
    with pytest.raises(InputError, match="the name 'r1' has no value here; did you mean 'r'"):
        CustomEnergy("k*r1^2", "r", ("k",))
    with pytest.raises(InputError, match="the name 'sigma' has no value here; did you mean"):
        CustomEnergy("sigma/r", "r", ("sigma",), pairwise=True)
    with pytest.raises(InputError, match="the name 'k' stands for two things"):
        CustomEnergy("k*r", "r", ("k",), ("k",))
    with pytest.raises(InputError, match="the name 'r' stands for two things"):
        CustomEnergy("r", "r", ("r",))
    with pytest.raises(InputError, match="unknown function 'f'"):
        CustomEnergy("f(r)", "r")
    with pytest.raises(InputError, match="of 'r' with pairwise=False; make it with coordinate='theta'"):
        CustomAngle(atoms=jnp.zeros((0, 3)), rows=jnp.zeros(0), law=CustomEnergy("r", "r"))
    bond = CustomBond(atoms=jnp.array([[0, 1]]), rows=jnp.array([0]), law=CustomEnergy("k*r*c", "r", ("k",), ("c",)))
    with pytest.raises(InputError, match="the parameters have no 'c', only k"):
        bond.energy({"k": jnp.ones(1)}, CHAIN, None, NOBODY)


def test_nonbonded_settings_that_are_refused():
    law = CustomEnergy("a1*a2/r", "r", ("a",), pairwise=True)
    cases = [
        ({"method": "CutoffPeriodic"}, "cutoff of 0.0 nm; give a positive one"),
        ({"method": "CutoffPeriodic", "cutoff": 1.0, "switch_distance": 1.0}, "start below the cutoff"),
        ({"excluded": [(0, 4)]}, "not of two of the atoms 0 ... 3"),
        ({"excluded": [(1, 1)]}, "not of two of the atoms"),
        ({"law": CustomEnergy("r", "r")}, "make it with coordinate='r' and pairwise=True"),
        (
            {"rows": np.arange(1001), "method": "CutoffPeriodic", "cutoff": 1.0, "long_range_correction": True},
            "1001 different rows, more than 1000",
        ),
    ]
    for settings, why in cases:
        with pytest.raises(InputError, match=why.replace(".", r"\.")):
            custom_nonbonded(**{"law": law, "rows": np.zeros(4), **settings})
    term = custom_nonbonded(law=law, rows=np.zeros(24), method="CutoffPeriodic", cutoff=0.9)
    assert isinstance(term, CustomNonbonded)
    params = {"a": jnp.ones(1)}
    with pytest.raises(InputError, match="the neighbour list reaches"):
        Potential(terms=(term,)).energy({term.name: params}, FLUID, BOX, neighbor_list(FLUID, BOX, 0.5))
    with pytest.raises(InputError, match="the method is CutoffPeriodic, but there is no box"):
        term.energy(params, FLUID, None, neighbor_list(FLUID, None, 0.9))
