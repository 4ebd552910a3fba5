"""The descriptor against the sum over slots written out, and its spline path against its direct one."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.descriptors.env import Pairs
from diffff.descriptors.radial import SplineBasis
from diffff.descriptors.se_e2_a import SeE2A, auto_factor
from diffff.errors import InputError
from diffff.spec import validate

TYPE_MAP = ("O", "H")
ATOM_TYPES = np.array([0, 0, 1, 1, 1])
BLOCKS = (slice(0, 2), slice(2, 5))
N_ATOMS = len(ATOM_TYPES)
KEYS = {"sel": [7, 9], "rcut": 4.0, "rcut_smth": 1.0, "neuron": [3, 6], "axis_neuron": 2, "type_one_side": True}
BASIS = SplineBasis(128, 1.2, 0.1)

RNG = np.random.default_rng(11)
UNIT = RNG.normal(size=(24, 3))
LENGTHS = RNG.uniform(0.9, 4.3, 24)  # Å, some beyond the cutoff
PAIRS = Pairs(
    center=jnp.asarray(np.r_[RNG.integers(0, N_ATOMS, 22), N_ATOMS, N_ATOMS]),
    types=jnp.asarray(RNG.integers(0, 2, 24)),
    dr=jnp.asarray(UNIT / np.linalg.norm(UNIT, axis=1)[:, None] * LENGTHS[:, None]),
)


def descriptor(**keys):
    return validate(SeE2A, {**KEYS, **keys})


def parameters(spec, *, mean=True):
    """Random nets and statistics."""
    rng = np.random.default_rng(3)
    params = spec.init(jax.random.key(0), TYPE_MAP)
    davg = np.zeros((2, 4))
    davg[:, 0] = [0.07, 0.12] if mean else 0.0
    dstd = np.repeat(rng.uniform(0.1, 0.3, (2, 2)), [1, 3], axis=1)
    return {**params, "davg": jnp.asarray(davg), "dstd": jnp.asarray(dstd)}


@functools.partial(jax.jit, static_argnums=(0, 3))
def features(spec, params, dr, basis):
    """Features of all atoms on the direct (basis None) or the spline path."""
    pairs = Pairs(center=PAIRS.center, types=PAIRS.types, dr=dr)
    if basis is None:
        parts = [spec.features_direct(params, pairs, block, t, N_ATOMS, TYPE_MAP) for t, block in enumerate(BLOCKS)]
    else:
        moments = spec.moments(pairs, ATOM_TYPES, 2, basis)
        parts = [
            spec.features_from_moments(params, jax.tree.map(lambda x, b=block: x[b], moments), t, TYPE_MAP, basis)
            for t, block in enumerate(BLOCKS)
        ]
    return jnp.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 3))
def forces(spec, params, dr, basis):
    """Derivative of a smooth function of the features."""

    def energy(dr):
        d = features(spec, params, dr, basis)
        return jnp.sum(jnp.tanh(d * jnp.sin(jnp.arange(d.size)).reshape(d.shape).astype(d.dtype)))

    return jax.grad(energy)(dr)


def written_out(spec, params):
    """The features by a loop over atoms, types and slots, empty ones included; numpy."""
    table = [[None] * spec.n_features for _ in range(N_ATOMS)]
    for i, center in enumerate(ATOM_TYPES):
        davg, dstd = np.asarray(params["davg"])[center], np.asarray(params["dstd"])[center]
        t = np.zeros((spec.neuron[-1], 4))
        for neighbor in range(2):
            silent = (center, neighbor) in spec.exclude_types or (neighbor, center) in spec.exclude_types
            net = params["embeddings"][spec.net_key(TYPE_MAP[center], TYPE_MAP[neighbor])]
            mine = np.flatnonzero((np.asarray(PAIRS.center) == i) & (np.asarray(PAIRS.types) == neighbor))
            mine = mine[np.linalg.norm(PAIRS.dr[mine], axis=1) < spec.rcut]
            slots = [environment_row(spec, np.asarray(PAIRS.dr)[p]) for p in mine]
            slots += [np.zeros(4)] * (spec.slots[neighbor] - len(mine))
            for number, row in enumerate(slots):
                if silent and number < len(mine):
                    continue  # an excluded neighbour; the empty slots of its type stay
                row = (row - davg) / dstd
                t += embedded(net, row[0])[:, None] * row
        t /= spec.n_sel
        table[i] = (t @ t[: spec.axis_neuron].T).ravel()
    return np.array(table)


def environment_row(spec, dr):
    r = np.linalg.norm(dr)
    u = np.clip((r - spec.rcut_smth) / (spec.rcut - spec.rcut_smth), 0.0, 1.0)
    s = (1 - 10 * u**3 + 15 * u**4 - 6 * u**5) / (r + spec.env_protection)
    return np.array([s, *(s * dr / (r + spec.env_protection))])


def embedded(net, u):
    x = np.array([u])
    for layer in net:
        y = np.tanh(x @ np.asarray(layer["w"]) + np.asarray(layer["b"]))
        x = y + np.tile(x, 2) if len(y) == 2 * len(x) else y
    return x


VARIANTS = {
    "one-sided": {},
    "two-sided": {"type_one_side": False},
    "excluded": {"exclude_types": [[0, 1]]},
    "excluded, two-sided": {"type_one_side": False, "exclude_types": [[1, 1]]},
    "protected": {"env_protection": 0.4},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_paths_are_the_sum_over_all_slots(variant):
    spec = descriptor(**VARIANTS[variant])
    params = parameters(spec)
    expected = written_out(spec, params)
    scale = np.abs(expected).max()
    direct, splines = (features(spec, params, PAIRS.dr, basis) for basis in (None, BASIS))
    assert direct.shape == (N_ATOMS, spec.n_features) == (5, 12)
    np.testing.assert_allclose(direct, expected, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(splines, expected, rtol=0, atol=1e-8 * scale)
    assert spec.spline_error(params, TYPE_MAP, BASIS) < 1e-8


def test_forces_of_the_paths_agree():
    spec = descriptor(exclude_types=[[0, 1]])
    params = parameters(spec)
    direct, splines = (forces(spec, params, PAIRS.dr, basis) for basis in (None, BASIS))
    np.testing.assert_allclose(splines, direct, rtol=0, atol=1e-6 * np.abs(direct).max())


@pytest.mark.parametrize("basis", [None, BASIS], ids=["direct", "spline"])
def test_without_a_mean_the_slots_are_a_factor_only(basis):
    """With davg = 0 an empty slot adds nothing, so D n_sel^2 does not depend on sel."""
    few, many = descriptor(sel=[7, 9]), descriptor(sel=[20, 60])
    params = parameters(few, mean=False)
    found = [features(spec, params, PAIRS.dr, basis) * spec.n_sel**2 for spec in (few, many)]
    np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.parametrize("basis", [None, BASIS], ids=["direct", "spline"])
def test_forces_in_single_precision(basis):
    double, single = descriptor(), descriptor(precision="float32")
    params = parameters(double)
    rounded = {**params, "embeddings": jax.tree.map(lambda x: x.astype(jnp.float32), params["embeddings"])}
    expected = forces(double, params, PAIRS.dr, basis)
    found = forces(single, rounded, PAIRS.dr, basis)
    assert features(single, rounded, PAIRS.dr, basis).dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# ---------------------------------------------------------------------- choice of the basis
def real_error(spec, params, basis):
    """Largest error of the splines of G and H on a fine grid, relative to the largest value of each pair of types."""
    s = np.linspace(0.0, basis.upper, 10007)
    matrix = basis.design_matrix(s) @ basis.from_sites
    worst = 0.0
    for t, center in enumerate(TYPE_MAP):
        for neighbor in TYPE_MAP:
            net = params["embeddings"][spec.net_key(center, neighbor)]
            u, g = spec.net_at(net, params, t, jnp.asarray(np.r_[basis.sites, s]), double=True)
            values = np.concatenate([g, g * np.asarray(u)[:, None]], axis=1)
            error = np.abs(matrix @ values[: basis.n] - values[basis.n :]).max()
            worst = max(worst, error / np.abs(values[basis.n :]).max())
    return worst


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, None])
def test_the_chosen_basis_keeps_its_tolerance(tolerance):
    """The error is measured at four points per function; between them it is at most a little larger."""
    spec = descriptor(spline_tolerance=tolerance)
    params = parameters(spec)
    basis = spec.choose_basis(params, TYPE_MAP, 1.2)
    assert basis is not None and basis.upper == 1.2
    reported = spec.spline_error(params, TYPE_MAP, basis)
    assert reported <= spec.tolerance() == (tolerance or 1e-8)
    assert real_error(spec, params, basis) <= 1.2 * reported


def test_room_is_taken_where_a_basis_has_it():
    spec = descriptor()
    params = parameters(spec)
    tight, roomy = (spec.choose_basis(params, TYPE_MAP, 1.2, room=room) for room in (1.0, 1e3))
    assert tight.n < roomy.n and spec.spline_error(params, TYPE_MAP, roomy) <= spec.tolerance() / 1e3
    assert spec.choose_basis(params, TYPE_MAP, 1.2, room=1e30) == tight  # no basis has so much


def test_a_wider_tolerance_needs_fewer_functions():
    sizes = []
    for keys in ({"spline_tolerance": 1e-11}, {}, {"precision": "float32"}):
        spec = descriptor(**keys)
        sizes.append(spec.choose_basis(parameters(spec), TYPE_MAP, 1.2).n)
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_a_rough_net_stays_on_the_direct_path(caplog):
    spec = descriptor(activation_function="relu")
    with caplog.at_level(logging.INFO, "diffff"):
        assert spec.choose_basis(parameters(spec), TYPE_MAP, 1.2) is None
    assert "too rough for splines" in caplog.text
    with pytest.raises(InputError, match=r'no spline of up to 1024 functions .* to 1e-08\. Set "evaluation": "direct"'):
        descriptor(activation_function="relu", evaluation="spline").choose_basis(parameters(spec), TYPE_MAP, 1.2)
    assert descriptor(evaluation="direct").choose_basis(parameters(spec), TYPE_MAP, 1.2) is None


# ---------------------------------------------------------------------- parameters and keys
def test_initial_parameters():
    one, two = descriptor(), descriptor(type_one_side=False)
    params = one.init(jax.random.key(4), TYPE_MAP)
    assert set(params["embeddings"]) == {"O", "H"}
    assert set(two.init(jax.random.key(4), TYPE_MAP)["embeddings"]) == {"O-O", "O-H", "H-O", "H-H"}
    assert not params["davg"].any() and (params["dstd"] == 1.0).all() and params["davg"].shape == (2, 4)
    again = one.init(jax.random.key(4), TYPE_MAP)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, again)))
    assert not np.array_equal(params["embeddings"]["O"][0]["w"], params["embeddings"]["H"][0]["w"])


def test_slots_need_numbers():
    assert descriptor().slots == (7, 9) and descriptor().n_sel == 16
    with pytest.raises(ValueError, match="has not been resolved"):
        descriptor(sel="auto").slots  # noqa: B018
    assert auto_factor("auto") == 1.1 and auto_factor("auto:2") == 2.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rcut_smth": 4.0}, "rcut_smth = 4.0 must be smaller than rcut = 4.0"),
        ({"axis_neuron": 7}, "axis_neuron = 7 exceeds the last width of neuron, 6"),
        ({"activation_function": "tan"}, 'unknown activation function "tan"'),
        ({"sel": "auto:0.5"}, r'"auto:0.5" is no rule for sel'),
        ({"sel": [-1, 2]}, "sel"),
        ({"neuron": []}, "neuron"),
    ],
)
def test_refused_keys(keys, message):
    with pytest.raises(InputError, match=message):
        descriptor(**keys)
