"""Dense layers with residual connections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff import nn

X = jnp.array([[0.3, -1.2]])


def layer(n_in, n_out, **more):
    rng = np.random.default_rng(n_in + 10 * n_out)
    return {"w": jnp.asarray(rng.normal(size=(n_in, n_out))), "b": jnp.asarray(rng.normal(size=n_out)), **more}


def test_a_layer_that_keeps_its_width_adds_its_input():
    one = layer(2, 2)
    expected = np.tanh(X @ one["w"] + one["b"]) + X
    np.testing.assert_allclose(nn.apply_layer(one, X, jnp.tanh), expected, rtol=1e-14)


def test_a_layer_that_doubles_its_width_adds_its_input_twice():
    one = layer(2, 4)
    expected = np.tanh(X @ one["w"] + one["b"]) + np.array([[0.3, -1.2, 0.3, -1.2]])
    np.testing.assert_allclose(nn.apply_layer(one, X, jnp.tanh), expected, rtol=1e-14)


@pytest.mark.parametrize("n_out", [1, 3, 5])
def test_other_widths_have_no_skip(n_out):
    one = layer(2, n_out)
    np.testing.assert_allclose(nn.apply_layer(one, X, jnp.tanh), np.tanh(X @ one["w"] + one["b"]), rtol=1e-14)
    assert not nn.has_skip(2, n_out)


def test_the_time_step_scales_the_activation_and_not_the_skip():
    one = layer(2, 2, idt=jnp.array([0.5, -2.0]))
    expected = np.tanh(X @ one["w"] + one["b"]) * np.array([0.5, -2.0]) + X
    np.testing.assert_allclose(nn.apply_layer(one, X, jnp.tanh), expected, rtol=1e-14)


def test_a_net_is_its_layers_one_after_the_other():
    layers = [layer(2, 4), layer(4, 3), layer(3, 3)]
    x = X
    for one in layers:
        x = nn.apply_layer(one, x, jnp.tanh)
    np.testing.assert_array_equal(nn.apply_net(layers, X, jnp.tanh), x)
    np.testing.assert_array_equal(nn.apply_net([], X, jnp.tanh), X)


def test_time_steps_belong_to_residual_layers_only():
    net = nn.init_net(jax.random.key(0), 3, (3, 6, 7, 14), resnet_dt=True)
    assert ["idt" in one for one in net] == [True, True, False, True]
    assert [one["w"].shape for one in net] == [(3, 3), (3, 6), (6, 7), (7, 14)]
    assert not any("idt" in one for one in nn.init_net(jax.random.key(0), 3, (3, 6), resnet_dt=False))
    assert nn.init_net(jax.random.key(0), 3, (), resnet_dt=True) == []


def test_initial_weights_have_the_spread_of_deepmd_kit():
    one = nn.init_layer(jax.random.key(3), 300, 500, idt=True)
    assert one["w"].dtype == one["b"].dtype == one["idt"].dtype == jnp.float64
    assert np.std(one["w"]) == pytest.approx(1 / np.sqrt(800), rel=0.01)
    assert np.mean(one["w"]) == pytest.approx(0.0, abs=4 / np.sqrt(800 * 150000))
    assert np.std(one["b"]) == pytest.approx(1.0, rel=0.1)
    assert np.mean(one["idt"]) == pytest.approx(0.1, abs=2e-4) and np.std(one["idt"]) == pytest.approx(1e-3, rel=0.1)


def test_initial_weights_depend_on_the_key_alone():
    first, again, other = (nn.init_net(jax.random.key(k), 2, (3, 3), resnet_dt=True) for k in (1, 1, 2))
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))
    assert not any(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(other)))
    assert not np.array_equal(first[1]["w"], first[0]["w"][:3])  # layers differ from each other


VALUES = {  # by hand, at x = 1.5
    "tanh": np.tanh(1.5),
    "relu": 1.5,
    "relu6": 1.5,
    "softplus": np.log1p(np.exp(1.5)),
    "sigmoid": 1 / (1 + np.exp(-1.5)),
    "gelu": 0.75 * (1 + np.tanh(np.sqrt(2 / np.pi) * (1.5 + 0.044715 * 1.5**3))),
    "gelu_tf": 0.75 * (1 + np.tanh(np.sqrt(2 / np.pi) * (1.5 + 0.044715 * 1.5**3))),
    "silu": 1.5 / (1 + np.exp(-1.5)),
    "none": 1.5,
    "linear": 1.5,
    "silut": 1.5 / (1 + np.exp(-1.5)),
    "silut:2.5": 1.5 / (1 + np.exp(-1.5)),
    "Tanh": np.tanh(1.5),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_of_activations(name):
    assert nn.known_activation(name) == name
    np.testing.assert_allclose(nn.activation(name)(jnp.array(1.5)), VALUES[name], rtol=1e-14)


def test_every_activation_has_a_value_here():
    assert set(nn.ACTIVATIONS) <= set(VALUES)


def test_clipped_activations():
    np.testing.assert_array_equal(nn.activation("relu")(jnp.array([-1.0, 7.0])), [0.0, 7.0])
    np.testing.assert_array_equal(nn.activation("relu6")(jnp.array([-1.0, 7.0])), [0.0, 6.0])


@pytest.mark.parametrize("name", ["silut:2.0", "custom_silu:0.4", "silut", "custom_silu:3"])
def test_silut_is_continuous_in_value_and_slope_and_bounded(name):
    threshold = float(name.partition(":")[2] or 3.0)
    function = nn.activation(name)
    below, above = jnp.array(threshold - 1e-9), jnp.array(threshold + 1e-9)
    np.testing.assert_allclose(function(below), function(above), rtol=1e-8)
    np.testing.assert_allclose(jax.grad(function)(below), jax.grad(function)(above), rtol=1e-8)
    far = function(jnp.array(1e3))
    np.testing.assert_allclose(far, threshold / (1 + np.exp(-threshold)) + 1.0, rtol=1e-12)
    assert np.isfinite(jax.grad(function)(jnp.array([1e4])[0])) and np.isfinite(jax.grad(function)(jnp.array(-1e4)))


@pytest.mark.parametrize("name", ["tan", "silut:", "silut:-1", "relu7", ""])
def test_unknown_activations_are_refused(name):
    with pytest.raises(ValueError, match=f'unknown activation function "{name}"; known: tanh, relu'):
        nn.known_activation(name)


def short(x):
    """Rounded to bfloat16."""
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


def matrices(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def test_short_factors_are_those_of_the_product_and_of_its_derivatives():
    """Of ``y = a b``, of the first derivatives of ``g . y``, and of their derivatives along u and v."""
    a, b, g, u, v = matrices((7, 5), (5, 3), (7, 3), (7, 5), (5, 3))

    def slopes(a, b, g):
        y, pull = jax.vjp(lambda a, b: nn.product(a, b, "bfloat16"), a, b)
        return y, pull(g)

    (y, (da, db)), pull = jax.vjp(jax.jit(slopes), a, b, g)
    expected = {
        "y": (y, short(a) @ short(b)),
        "da": (da, short(g) @ short(b).T),
        "db": (db, short(a).T @ short(g)),
    }
    by_a, by_b, by_g = pull((jnp.zeros_like(y), (u, v)))
    expected |= {
        "by a": (by_a, short(g) @ short(v).T),
        "by b": (by_b, short(u).T @ short(g)),
        "by g": (by_g, short(u) @ short(b) + short(a) @ short(v)),
    }
    for name, (found, wanted) in expected.items():
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    assert np.abs(y - a @ b).max() > 1e-3


@pytest.mark.parametrize("factors", ["float32", "tensorfloat32"])
def test_whole_factors_change_nothing_on_a_cpu(factors):
    a, b = matrices((7, 5), (5, 3))
    assert np.array_equal(nn.product(a, b, factors), a @ b)
    a, b = a.astype(jnp.float64), b.astype(jnp.float64)
    assert np.array_equal(nn.product(a, b, factors), a @ b)
