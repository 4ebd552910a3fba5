"""Lennard-Jones and Coulomb with and without cutoff, excluded and scaled pairs, against OpenMM and by hand."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.neighbors import neighbor_list
from diffff.potentials import pairwise
from diffff.potentials.base import Potential
from diffff.potentials.nonbonded import Nonbonded
from diffff.potentials.nonbonded_setup import nonbonded
from diffff.units import COULOMB_CONSTANT
from tests.check_term import check_term
from tests.potentials.charged_systems import CUBIC, PARAMS, TRICLINIC, assert_same, molecules

OWN = {  # exceptions of two molecules, one pair of different molecules, and one without any interaction
    "exceptions": ((0, 3), (4, 7), (2, 9), (5, 20)),
    "params": {
        **PARAMS,
        "chargeprod": np.array([0.3, -0.1, 0.2, 0.0]),
        "exception_sigma": np.array([0.25, 0.2, 0.3, 1.0]),
        "exception_epsilon": np.array([0.1, 0.0, 0.5, 0.0]),
    },
}
SWITCHED = {"cutoff": 0.9, "switch_distance": 0.7}
SMALL = 0.55 * TRICLINIC


def two_atoms(r: float, **options):
    positions = jnp.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + r]])
    params = {"charge": jnp.array([0.5, -0.4]), "sigma": jnp.array([0.3]), "epsilon": jnp.array([0.8])}
    return nonbonded([0, 1], [0, 0], **options), params, positions


def test_two_atoms_by_hand():
    """Well depth epsilon at 2^(1/6) sigma; Coulomb's law; both vanish at the cutoff with switch and reaction field."""
    r = 2 ** (1 / 6) * 0.3
    term, params, positions = two_atoms(r)
    energy, slope = jax.value_and_grad(term.energy, 1)(params, positions, None, neighbor_list(positions, None, 0.0))
    coulomb = -0.2 * 138.935457644382 / r
    np.testing.assert_allclose(energy, -0.8 + coulomb, rtol=1e-13)
    np.testing.assert_allclose(slope[1], [0, 0, -coulomb / r], rtol=1e-12, atol=1e-11)
    term, params, positions = two_atoms(0.99999 * 0.9, method="CutoffNonPeriodic", **SWITCHED)
    assert abs(term.energy(params, positions, None, neighbor_list(positions, None, 0.9))) < 1e-5


@pytest.mark.parametrize(
    ("box", "options", "own"),
    [
        (None, {}, True),
        (None, {"method": "CutoffNonPeriodic", **SWITCHED}, False),
        (CUBIC, {"method": "CutoffPeriodic", "cutoff": 0.9, "dielectric": 60.0}, True),
        (TRICLINIC, {"method": "CutoffPeriodic", **SWITCHED}, False),
    ],
    ids=["no cutoff", "cutoff", "cubic", "triclinic"],
)
def test_energy_and_forces_of_openmm(box, options, own):
    system = molecules(27, box, **options)
    assert_same(replace(system, **OWN) if own else system, 1e-12)


@pytest.mark.parametrize(
    ("box", "options"), [(None, {}), (CUBIC, {"method": "CutoffPeriodic", **SWITCHED})], ids=["no cutoff", "cubic"]
)
def test_row_gradients_are_differences_of_openmm(box, options):
    system = replace(molecules(8, box, **options), **OWN)
    term = system.term()
    listed = neighbor_list(system.positions, box, term.cutoff)
    params = jax.tree.map(jnp.asarray, system.params)
    gradient = jax.grad(term.energy)(params, system.positions, box, listed)
    for column, row in [
        *(("charge", k) for k in range(4)),
        *(("sigma", k) for k in range(3)),
        *(("epsilon", k) for k in range(2)),
        *((c, k) for c in ("chargeprod", "exception_sigma", "exception_epsilon") for k in (0, 2)),
        ("coulomb14scale", ()),
        ("lj14scale", ()),
    ]:
        energies = []
        for step in (1e-5, -1e-5):
            moved = np.array(system.params[column])
            moved[row] += step
            energies.append(system.with_params(**{column: moved}).reference(forces=False)[0])
        scale = max(1.0, float(np.abs(gradient[column]).max()))
        found = (energies[0] - energies[1]) / 2e-5
        np.testing.assert_allclose(gradient[column][row], found, atol=1e-6 * scale, err_msg=f"{column} {row}")


def test_the_derivative_where_epsilon_is_zero_is_zero():
    system = molecules(8, None)
    gradient = jax.grad(system.term().energy)(
        jax.tree.map(jnp.asarray, system.params), system.positions, None, neighbor_list(system.positions, None, 0.0)
    )
    assert gradient["epsilon"][2] == 0.0 and np.isfinite(gradient["epsilon"]).all()


@pytest.mark.parametrize(
    ("box", "options"),
    [
        (None, {}),
        (SMALL, {"method": "CutoffPeriodic", "cutoff": 0.7, "switch_distance": 0.5, "periodic_exceptions": True}),
    ],
    ids=["no cutoff", "triclinic"],
)
def test_contract(box, options):
    system = molecules(2, box, **options).with_params(epsilon=np.array([0.4, 0.65, 0.2]))
    check_term(system.term(), jax.tree.map(jnp.asarray, system.params), system.positions, box)


def test_float32_stays_float32():
    system = molecules(8, CUBIC, method="CutoffPeriodic", **SWITCHED)
    energy, forces = system.energy_and_forces(jnp.float32)
    exact, exact_forces = system.reference()
    assert energy.dtype == forces.dtype == np.float32
    np.testing.assert_allclose(energy, exact, rtol=3e-6)
    np.testing.assert_allclose(forces, exact_forces, rtol=0, atol=3e-6 * np.abs(exact_forces).max())


# ------------------------------------------------------------------ pairs
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 16, 17, 40])
def test_the_ring_meets_each_pair_once(n):
    rng = np.random.default_rng(n)
    positions, weight = rng.uniform(size=(n, 3)), rng.normal(size=n)
    pairs = list(itertools.combinations(range(n), 2))
    excluded = [p for p in pairs if rng.uniform() < 0.3]
    found = pairwise.sum_all(
        lambda squared, a, b: a[0] * b[0] * squared,
        jnp.asarray(positions),
        (jnp.asarray(weight),),
        jnp.asarray(np.array(excluded, np.int32).reshape(-1, 2)),
    )
    expected = sum(
        weight[a] * weight[b] * ((positions[a] - positions[b]) ** 2).sum() for a, b in pairs if (a, b) not in excluded
    )
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize("box", [None, 0.4 * TRICLINIC], ids=["molecule", "cutoff beyond the box"])
def test_only_the_nearest_image_of_an_excluded_pair_is_left_out(box):
    rng = np.random.default_rng(1)
    positions = rng.uniform(size=(12, 3)) @ np.diag([1.0, 1.0, 0.9])
    excluded = np.array([[0, 1], [0, 2], [3, 4], [10, 11]])
    positions[excluded[:, 1]] = positions[excluded[:, 0]] + 0.05
    if box is not None:
        positions[[1, 4]] += np.array([[1, 0, -1], [0, 2, 0]]) @ box
    listed = neighbor_list(positions, box, 1.1)
    keep = np.asarray(pairwise.included(positions, box, listed, jnp.asarray(excluded)))
    left_out = np.stack([listed.i, listed.j], axis=-1)[~keep]
    np.testing.assert_array_equal(left_out, excluded)
    dr = positions[left_out[:, 1]] - positions[left_out[:, 0]]
    dr = dr if box is None else dr + np.asarray(listed.shift)[~keep] @ box
    assert np.linalg.norm(dr, axis=1).max() < 0.35
    assert pairwise.included(positions, box, listed, jnp.zeros((0, 2), jnp.int32)).all()


def test_excluded_pairs_may_lie_on_top_of_each_other():
    """No infinity of an excluded pair leaks into energy or gradient."""
    for options in ({}, {"method": "CutoffNonPeriodic", "cutoff": 0.9}):
        term, params, positions = two_atoms(0.0, excluded=[(1, 0)], **options)
        listed = neighbor_list(positions, None, term.cutoff)
        energy, gradient = jax.value_and_grad(term.energy, (0, 1))(params, positions, None, listed)
        assert energy == 0.0 and all((np.asarray(g) == 0.0).all() for g in jax.tree.leaves(gradient))


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "Cutoff"}, "method 'Cutoff' is unknown"),
        ({"excluded": [(0, 0)]}, r"pair \[0, 0\] in excluded must be two different atoms of 0 to 1"),
        ({"pairs14": [(0, 2)]}, r"pair \[0, 2\] in pairs14"),
        ({"pairs14": [(0, 1)], "exceptions": [(1, 0)]}, r"pair \[0, 1\] appears twice"),
        ({"exceptions": [(0, 1)], "exception_rows": [0, 1]}, "1 exceptions, but exception_rows"),
        ({"lj_rows": [0]}, "charge_rows .* and lj_rows .* must both"),
        ({"method": "CutoffPeriodic", "cutoff": -1.0}, "the cutoff is -1.0 nm"),
        ({"method": "CutoffPeriodic", "switch_distance": 1.2}, "switch_distance 1.2 nm must lie between 0"),
        ({"method": "LJPME", "switch_distance": 0.8, "box": CUBIC}, "LJPME allows no switching"),
        ({"method": "PME"}, "PME needs box, or grid"),
        ({"method": "PME", "grid": (4, 8, 8)}, r"grid is \(4, 8, 8\); PME needs at least 5"),
        ({"method": "PME", "box": CUBIC, "alpha": -2.0}, "alpha is -2.0"),
        ({"method": "PME", "box": CUBIC, "ewald_error_tolerance": 0.7}, "ewald_error_tolerance 0.7 must lie"),
    ],
)
def test_what_is_refused(changes, says):
    with pytest.raises(InputError, match=f"NonbondedForce: {says}"):
        nonbonded(**{"charge_rows": [0, 1], "lj_rows": [0, 0], **changes})


@pytest.mark.parametrize(
    ("method", "box", "reach", "says"),
    [
        ("CutoffPeriodic", CUBIC, 0.8, "list reaches 0.8 nm, the cutoff is 0.9"),
        ("CutoffPeriodic", None, 0.9, "needs a periodic box"),
        ("CutoffNonPeriodic", CUBIC, 0.9, "knows no periodic images"),
    ],
)
def test_lists_and_boxes_that_do_not_fit(method, box, reach, says):
    term, params, positions = two_atoms(0.4, method=method, cutoff=0.9)
    with pytest.raises(InputError, match=says):
        Potential(terms=(term,)).energy({term.name: params}, positions, box, neighbor_list(positions, box, reach))


def test_constants_and_shape_of_the_term():
    assert COULOMB_CONSTANT == 138.93545764438198
    term = molecules(2, None).term()
    assert isinstance(term, Nonbonded) and (term.name, term.cutoff) == ("NonbondedForce", 0.0)
    np.testing.assert_array_equal(term.excluded[:6], [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
