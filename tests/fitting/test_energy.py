"""The fitting net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff import nn
from diffff.errors import InputError
from diffff.fitting.energy import EnergyFitting
from diffff.spec import validate

TYPES = ("O", "H")
FEATURES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))


def fitting(**keys):
    return validate(EnergyFitting, {"neuron": [4, 8, 5], "seed": 1, **keys})


def initial(spec, seed=0):
    return spec.init(jax.random.key(seed), 4, TYPES)


def test_the_last_layer_is_linear_and_each_type_has_its_own_net():
    spec = fitting()
    params = initial(spec)
    for t, name in enumerate(TYPES):
        *hidden, last = params["nets"][name]
        assert ["idt" in layer for layer in (*hidden, last)] == [True, True, False, False]
        expected = nn.apply_net(hidden, FEATURES, jnp.tanh) @ last["w"] + last["b"]
        found = spec.apply(params, FEATURES, t, TYPES)
        assert found.shape == (3,)
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-13)
    assert not np.allclose(spec.apply(params, FEATURES, 0, TYPES), spec.apply(params, FEATURES, 1, TYPES))


def test_weights_are_reproducible():
    spec = fitting()
    same = jax.tree.map(np.array_equal, initial(spec), initial(spec))
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(initial(spec, 1)["nets"]["O"][0]["w"], initial(spec)["nets"]["O"][0]["w"])


def test_the_scale_of_the_initial_weights():
    net = validate(EnergyFitting, {"neuron": [240, 240]}).init(jax.random.key(0), 160, TYPES)["nets"]["H"]
    np.testing.assert_allclose(
        [np.std(layer["w"]) for layer in net[:2]], [1 / np.sqrt(400), 1 / np.sqrt(480)], rtol=0.02
    )
    assert net[-1]["w"].shape == (240, 1) and np.std(net[-1]["w"]) == pytest.approx(1 / np.sqrt(241), rel=0.15)


@pytest.mark.parametrize("extra", [{}, {"numb_fparam": 1}])
def test_energies_relative_to_vacuum_vanish_without_neighbours(extra):
    """Zero features: the energy of that atom is `atom_ener` alone, which is in the bias."""
    spec = fitting(atom_ener=[-2.5, None], **extra)
    params = initial(spec)
    fparam = jnp.array([0.7]) if extra else None
    assert not spec.apply(params, jnp.zeros((2, 4)), 0, TYPES, fparam).any()
    assert spec.apply(params, jnp.zeros((2, 4)), 1, TYPES, fparam).all()
    plain = fitting(**extra)
    difference = plain.apply(params, FEATURES, 0, TYPES, fparam) - plain.apply(
        params, jnp.zeros((3, 4)), 0, TYPES, fparam
    )
    np.testing.assert_allclose(spec.apply(params, FEATURES, 0, TYPES, fparam), difference, rtol=1e-12)


@pytest.mark.parametrize(
    ("atom_ener", "relative"), [([], [False, False]), ([None, None], [False, False]), ([0.0, None], [True, False])]
)
def test_which_types_are_relative_to_vacuum(atom_ener, relative):
    spec = fitting(atom_ener=atom_ener)
    assert [spec.relative_to_vacuum(t) for t in (0, 1)] == relative


def test_frame_and_atomic_parameters_are_scaled_and_appended():
    spec, bare = fitting(numb_fparam=2, numb_aparam=1), fitting()
    params = initial(spec)
    assert params["nets"]["O"][0]["w"].shape == (7, 4)
    for name, n in (("fparam", 2), ("aparam", 1)):
        assert params[f"{name}_avg"].tolist() == [0.0] * n and params[f"{name}_inv_std"].tolist() == [1.0] * n
    params |= {"fparam_avg": jnp.array([1.0, 2.0]), "fparam_inv_std": jnp.array([0.5, 4.0])}
    params |= {"aparam_avg": jnp.array([-1.0]), "aparam_inv_std": jnp.array([2.0])}
    aparam = jnp.array([[0.0], [1.0], [2.0]])
    found = spec.apply(params, FEATURES, 1, TYPES, jnp.array([3.0, 1.0]), aparam)
    inputs = np.c_[FEATURES, np.full(3, 1.0), np.full(3, -4.0), [2.0, 4.0, 6.0]]
    np.testing.assert_allclose(found, bare.apply(params, jnp.asarray(inputs), 1, TYPES), rtol=1e-13)


def test_single_precision():
    spec = fitting(precision="float32")
    params = initial(spec)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    found = spec.apply(params, FEATURES, 0, TYPES)
    assert found.dtype == jnp.float32
    double = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    np.testing.assert_allclose(found, fitting().apply(double, FEATURES, 0, TYPES), rtol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trainable": [True, False]}, "trainable has 2 entries; give one per layer, 4"),
        ({"numb_fparam": 2, "default_fparam": [1.0]}, "default_fparam has 1 numbers, numb_fparam is 2"),
        ({"activation_function": "tan"}, 'unknown activation function "tan"'),
        ({"layer_name": ["a"]}, "shared layers belong to multi-task models"),
        ({"neuron": [4, 0]}, "neuron"),
    ],
)
def test_refused_keys(keys, message):
    with pytest.raises(InputError, match=message):
        fitting(**keys)
