import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffff.errors import InputError
from diffff.spec import Spec, completed, validate
from diffff.train.optim import (
    LBFGS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Muon,
    Optimizer,
    build,
    state_from_arrays,
    state_to_arrays,
)

KINDS = ["Adam", "AdamW", "SGD", "Adagrad", "RMSprop", "Adamax", "Muon", "LBFGS"]
WEIGHTS = {
    "net/0/w": jnp.asarray(np.random.default_rng(0).normal(size=(6, 4))),
    "net/0/b": jnp.asarray(np.random.default_rng(1).normal(size=4)),
}
UNIT = dict.fromkeys(WEIGHTS, 1.0)


class Section(Spec):
    optimizer: Optimizer


def read(section):
    return validate(Section, {"optimizer": section}).optimizer


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return {path: jnp.asarray(rng.normal(size=w.shape)) for path, w in WEIGHTS.items()}


def run(optimizer, n_steps, rate=lambda step: 1e-2, weights=WEIGHTS, gradient=lambda step, w: gradients(step)):
    state = optimizer.init(weights)
    for step in range(n_steps):
        updates, state = optimizer.update(gradient(step, weights), state, weights, learning_rate=rate(step))
        weights = optax.apply_updates(weights, updates)
    return weights, state


def assert_equal(a, b, rtol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


def adam_by_hand(n_steps, rate, l2=0.0, decoupled=0.0, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam as PyTorch documents it."""
    result = {}
    for path, start in WEIGHTS.items():
        w, m, v = np.asarray(start), 0.0, 0.0
        for step in range(n_steps):
            g = np.asarray(gradients(step)[path]) + l2 * w
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            m_hat, v_hat = m / (1 - beta1 ** (step + 1)), v / (1 - beta2 ** (step + 1))
            w = w - rate(step) * (m_hat / (np.sqrt(v_hat) + eps) + decoupled * w)
        result[path] = w
    return result


def test_adam_follows_the_published_formula():
    def rate(step):
        return 1e-2 * 0.9**step

    assert_equal(run(build(Adam(), UNIT), 7, rate)[0], adam_by_hand(7, rate), rtol=1e-13)
    assert_equal(run(build(Adam(weight_decay=0.1), UNIT), 7, rate)[0], adam_by_hand(7, rate, l2=0.1), rtol=1e-13)
    decayed = adam_by_hand(7, rate, decoupled=0.1, beta2=0.9)
    assert_equal(run(build(AdamW(weight_decay=0.1, adam_beta2=0.9), UNIT), 7, rate)[0], decayed, rtol=1e-13)


def test_first_steps_by_hand():
    g = gradients(0)
    moved = {kind: run(build(read({"type": kind}), UNIT), 1)[0] for kind in ("SGD", "Adagrad", "RMSprop", "Adamax")}
    signs = jax.tree.map(lambda w, g: w - 1e-2 * jnp.sign(g), WEIGHTS, g)
    assert_equal(moved["SGD"], jax.tree.map(lambda w, g: w - 1e-2 * g, WEIGHTS, g), rtol=1e-14)
    assert_equal(moved["Adagrad"], signs, rtol=1e-6)
    assert_equal(moved["Adamax"], signs, rtol=1e-6)
    assert_equal(moved["RMSprop"], jax.tree.map(lambda w, g: w - 1e-1 * jnp.sign(g), WEIGHTS, g), rtol=1e-6)


def test_momentum_sums_up_and_nesterov_looks_ahead():
    ones = {path: jnp.ones_like(w) for path, w in WEIGHTS.items()}
    for spec, factor in ((SGD(momentum=0.5), 1 + 1.5), (SGD(momentum=0.5, nesterov=True), 1.5 + 1.75)):
        weights, _ = run(build(spec, UNIT), 2, gradient=lambda step, w: ones)
        assert_equal(weights, jax.tree.map(lambda w, f=factor: w - 1e-2 * f, WEIGHTS), rtol=1e-14)


def test_muon_moves_matrices_along_all_directions_alike():
    weights, _ = run(build(Muon(weight_decay=0.0), UNIT), 1)
    update = (weights["net/0/w"] - WEIGHTS["net/0/w"]) / -1e-2
    singular = np.linalg.svd(update / (0.2 * 6**0.5), compute_uv=False)
    assert np.all((singular > 0.6) & (singular < 1.3))
    assert np.vdot(update, gradients(0)["net/0/w"]) > 0
    column = {"w": jnp.ones((5, 1)), "b": jnp.ones(3)}
    g = {"w": jnp.arange(1.0, 6.0)[:, None], "b": jnp.ones(3)}
    moved, _ = run(build(Muon(), dict.fromkeys(column, 1.0)), 1, weights=column, gradient=lambda step, w: g)
    assert np.ptp(moved["w"]) < 1e-6  # by Adam: the same step for all entries


def test_lbfgs_finds_the_minimum_of_a_narrow_valley_and_never_walks_uphill():
    stiffness = jnp.asarray([1.0, 10.0, 100.0])
    start = {"x": jnp.ones(3)}
    optimizer = build(LBFGS(), {"x": 1.0})
    optimizer = optimizer._replace(update=jax.jit(optimizer.update))
    found, _ = run(optimizer, 25, lambda step: 1.0, start, lambda step, w: {"x": stiffness * w["x"]})
    assert np.max(np.abs(found["x"])) < 1e-6

    state, weights = optimizer.init(start), start
    for _ in range(10):  # a maximum at 0: the curvature is negative everywhere
        g = {"x": -weights["x"]}
        updates, state = optimizer.update(g, state, weights, learning_rate=1.0)
        assert float(jnp.vdot(updates["x"], g["x"])) < 0
        weights = optax.apply_updates(weights, updates)


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimiser_lowers_a_valley_in_float32_under_jit_and_restarts_bit_for_bit(kind):
    optimizer = build(read({"type": kind}), UNIT, gradient_max_norm=10.0, acc_freq=2)
    start = jax.tree.map(lambda w: w.astype(jnp.float32), WEIGHTS)

    def value(w):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w))

    @jax.jit
    def step(weights, state, rate):
        updates, state = optimizer.update(jax.grad(value)(weights), state, weights, learning_rate=rate)
        return optax.apply_updates(weights, updates), state

    def steps(weights, state, n):
        for _ in range(n):
            weights, state = step(weights, state, jnp.asarray(2e-2))
        return weights, state

    weights, state = steps(start, optimizer.init(start), 7)
    saved = {name: np.asarray(array) for name, array in state_to_arrays(state).items()}
    restored = state_from_arrays(optimizer.init(start), saved)
    through = steps(weights, state, 6)
    again = steps(weights, restored, 6)
    assert_equal(through, again)
    assert jax.tree.map(lambda x: x.dtype, through) == jax.tree.map(lambda x: x.dtype, (start, optimizer.init(start)))
    assert value(through[0]) < value(weights) < value(start)


def test_gradients_are_clipped_as_one_vector():
    g = {"net/0/w": jnp.full((6, 4), 3.0), "net/0/b": jnp.full(4, 4.0)}  # length √(24·9 + 4·16)
    norm = (24 * 9 + 4 * 16) ** 0.5
    clipped, _ = run(build(SGD(), UNIT, gradient_max_norm=2.0), 1, gradient=lambda step, w: g)
    assert_equal(clipped, jax.tree.map(lambda w, g: w - 1e-2 * g * 2.0 / (norm + 1e-6), WEIGHTS, g), rtol=1e-14)
    free, _ = run(build(SGD(), UNIT, gradient_max_norm=norm + 1.0), 1, gradient=lambda step, w: g)
    assert_equal(free, run(build(SGD(), UNIT), 1, gradient=lambda step, w: g)[0])


def test_accumulation_is_one_step_with_the_mean_gradient_and_the_rate_of_its_last_step():
    optimizer = build(Adam(), UNIT, gradient_max_norm=0.5, acc_freq=3)
    before, _ = run(optimizer, 2)
    assert_equal(before, WEIGHTS)
    accumulated, _ = run(optimizer, 8, rate=lambda step: 1e-3 * step)

    def mean_gradient(step, w):
        return jax.tree.map(lambda *g: sum(g) / 3, *[gradients(3 * step + i) for i in range(3)])

    large = build(Adam(), UNIT, gradient_max_norm=0.5)
    whole, _ = run(large, 2, rate=lambda step: 1e-3 * (3 * step + 2), gradient=mean_gradient)
    assert_equal(accumulated, whole, rtol=1e-13)


def test_scales_multiply_the_learning_rate_of_a_leaf():
    scales = {"net/0/w": 0.1, "net/0/b": 3.0}
    grouped, _ = run(build(AdamW(), scales), 4)
    for path, scale in scales.items():
        alone, _ = run(build(AdamW(), UNIT), 4, rate=lambda step, scale=scale: 1e-2 * scale)
        np.testing.assert_allclose(grouped[path], alone[path], rtol=1e-14)


def test_state_has_names_and_fits_one_optimiser_only():
    state = build(Adam(), UNIT).init(WEIGHTS)
    arrays = state_to_arrays(state)
    assert {name for name in arrays if "/mu/" in name} == {"Adam/0/mu/net/0/w", "Adam/0/mu/net/0/b"}
    with pytest.raises(InputError, match=r"not that of the optimiser in the input: .* first SGD/0/trace/net/0/b"):
        state_from_arrays(build(SGD(momentum=0.9), UNIT).init(WEIGHTS), arrays)
    narrower = {name: np.asarray(a, dtype=np.float32) if a.ndim else a for name, a in arrays.items()}
    with pytest.raises(InputError, match="of another shape"):
        state_from_arrays(state, narrower)


def test_sections_of_deepmd_kit_are_read():
    assert read({}) == Adam()
    muon = read({"type": "Muon", "muon_momentum": 0.9, "rules": [{"select": "*/b", "lr_scale": 0.5}]})
    assert muon.momentum == 0.9 and muon.rules[0].lr_scale == 0.5
    for kind in KINDS:
        spec = read({"type": kind})
        assert read(completed(spec)) == spec


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "LKF", "kf_blocksize": 1024}, r'\$\.optimizer\.type: "LKF": the Kalman filter is not available'),
        ({"type": "HybridMuon"}, 'choose "Muon"'),
        ({"type": "RMSProp"}, 'did you mean "RMSprop"'),
        ({"adam_beta1": 1.0}, r"\$\.optimizer\.adam_beta1: must be less than 1"),
        ({"type": "SGD", "nesterov": True}, "nesterov needs a momentum"),
        ({"rules": [{"select": "*/b", "lr_scale": 0}]}, r"\$\.optimizer\.rules\[0\]\.lr_scale: must be greater than 0"),
    ],
)
def test_what_has_no_meaning_is_refused(section, message):
    with pytest.raises(InputError, match=message):
        read(section)


def test_adagrad_starts_from_its_accumulator():
    moved, _ = run(
        build(Adagrad(initial_accumulator_value=3.0), {"x": 1.0}),
        1,
        weights={"x": jnp.ones(1)},
        gradient=lambda step, w: {"x": jnp.ones(1)},
    )
    assert float(moved["x"][0]) == pytest.approx(1 - 1e-2 / 2)
