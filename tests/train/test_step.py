"""The training step: its gradient, and empty slots that have no part in it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff import tree
from diffff.descriptors.radial import SplineBasis
from diffff.model import spline_range
from diffff.train.groups import Rule, learning_rate_scales, merge, partition
from diffff.train.loss import EnergyLoss
from diffff.train.optim import SGD, build
from diffff.train.step import TrainState, batch_loss, make_step
from tests.train import small

LOSS = EnergyLoss(
    start_pref_e=1.0, limit_pref_e=1.0, start_pref_f=3.0, limit_pref_f=3.0, start_pref_v=0.5, limit_pref_v=0.5
)
FRAMES = [[0, 1, 1, -1, -1, 0], [0, 1, 1, 0, 1, 1]]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A system of type mixed_type, and the same frames one by one in plain systems."""
    folder = tmp_path_factory.mktemp("problem")
    types = np.array(FRAMES)
    sites = small.molecules(len(types), 2, seed=4)
    small.write_mixed_system(folder / "mixed", types, sites=sites)
    for f, frame in enumerate(types):
        real = frame >= 0
        small.write_set(folder / f"plain{f}" / "set.000", sites[f : f + 1, real], types[f : f + 1, real])
        small.write_types(folder / f"plain{f}", frame[real])
    names = ["mixed", "plain0", "plain1"]
    return small.problem_of(
        folder,
        {
            "training.training_data.systems": [str(folder / name) for name in names],
            "training.training_data.batch_size": 1,
        },
    )


@pytest.fixture(scope="module")
def loss_and_gradient(problem):
    """A function of the parameters, the system and its frames."""
    compiled = jax.jit(jax.value_and_grad(lambda p, batch: batch_loss(problem.model, LOSS, p, batch, None, 1.0)[0]))

    def call(params, system, frames):
        group, indices = problem.train.locate(system, np.array(frames))
        loss, gradient = compiled(params, group.take(indices))
        return float(loss), tree.flatten(gradient)

    return call


def test_the_gradient_is_that_of_finite_differences(problem, loss_and_gradient):
    leaves = tree.flatten(problem.params)
    _, gradient = loss_and_gradient(problem.params, 2, [0])
    rng = np.random.default_rng(0)
    for name in (
        "DeepPot/descriptor/embeddings/O/0/w",
        "DeepPot/descriptor/embeddings/H/1/b",
        "DeepPot/fitting/nets/H/0/w",
        "DeepPot/fitting/nets/O/2/b",
    ):
        direction = rng.normal(size=leaves[name].shape)
        h = 1e-5
        moved = [tree.unflatten({**leaves, name: leaves[name] + sign * h * direction}) for sign in (1, -1)]
        values = [loss_and_gradient(params, 2, [0])[0] for params in moved]
        numeric = (values[0] - values[1]) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(gradient[name], direction), numeric, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("frame", [0, 1])
def test_empty_slots_change_neither_the_loss_nor_its_gradient(problem, loss_and_gradient, frame):
    mixed, mixed_gradient = loss_and_gradient(problem.params, 0, [frame])
    plain, plain_gradient = loss_and_gradient(problem.params, 1 + frame, [0])
    np.testing.assert_allclose(mixed, plain, rtol=1e-12)
    scale = max(float(jnp.abs(leaf).max()) for leaf in plain_gradient.values())
    for name, leaf in plain_gradient.items():
        np.testing.assert_allclose(mixed_gradient[name], leaf, rtol=0, atol=1e-12 * scale)


def test_what_stands_in_an_empty_slot_has_no_effect(problem):
    group, indices = problem.train.locate(0, np.array([0, 1]))
    batch = group.take(indices)
    empty = ~np.asarray(batch.real)

    def loss(positions, force):
        changed = dataclasses.replace(batch, positions=positions, labels={**batch.labels, "force": force})
        return batch_loss(problem.model, LOSS, problem.params, changed, None, 1.0)[0]

    by_position, by_force = jax.jit(jax.grad(loss, argnums=(0, 1)))(batch.positions, batch.labels["force"])
    assert np.all(np.asarray(by_position)[empty] == 0.0)
    assert np.all(np.asarray(by_force)[empty] == 0.0)
    assert np.all(np.any(np.asarray(by_position)[~empty] != 0.0, axis=1))


@pytest.mark.slow
def test_rematerialized_nets_give_the_same_loss_and_gradient(problem):
    """`training.rematerialize`: the nets and the sums over neighbours in blocks, here of one atom and 32 pairs."""
    model = problem.model
    basis = SplineBasis(64, spline_range(model, problem.shortest), 0.1)
    group, indices = problem.train.locate(0, np.array([0, 1]))
    batch = group.take(indices)

    def value(params, block):
        return batch_loss(model, LOSS, params, batch, basis, 1.0, block=block)[0]

    slopes = jax.jit(jax.value_and_grad(value), static_argnums=1)
    expected, found = (tree.flatten(slopes(problem.params, block)[1]) for block in (None, 1))
    assert float(slopes(problem.params, 1)[0]) == pytest.approx(float(slopes(problem.params, None)[0]), rel=1e-12)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, rtol=1e-9, atol=1e-10, err_msg=path)


def test_a_step_goes_down_the_gradient(problem, loss_and_gradient):
    """Plain gradient descent: the trained leaves move by −lr · scale · gradient, averages and counters follow."""
    spec = SGD(rules=(Rule(select="*/b", lr_scale=0.5), Rule(select="*/nets/O/*", train=False)))
    scales = learning_rate_scales(problem.params, spec.rules)
    trained, frozen = partition(problem.params, scales)
    optimizer = build(spec, scales)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trained=jax.tree.map(jnp.copy, trained),
        optimizer=optimizer.init(trained),
        failed=jnp.full(2, -1, jnp.int32),
        ema=jax.tree.map(jnp.copy, trained),
        swa=None,
        sums={name: jnp.ones(()) for name in LOSS.metrics},
    )
    step = make_step(
        problem.model, LOSS, optimizer, lambda done: 1e-3 / (1.0 + done),
        start_lr=1e-3, basis=None, ema_decay=0.75, swa=None,
    )  # fmt: skip
    group, indices = problem.train.locate(2, np.array([0]))
    state, errors = step(state, frozen, group, [indices])
    loss, gradient = loss_and_gradient(merge(trained, frozen), 2, [0])
    for name, leaf in state.trained.items():
        expected = trained[name] - 1e-3 * scales[name] * gradient[name]
        np.testing.assert_allclose(leaf, expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(state.ema[name], 0.75 * trained[name] + 0.25 * leaf, rtol=1e-12, atol=1e-15)
        assert scales[name] == (0.5 if name.endswith("/b") else 1.0)
    np.testing.assert_allclose(errors["rmse"] ** 2, loss, rtol=1e-12)
    assert (int(state.step), state.failed.tolist()) == (1, [-1, -1])
    for name in LOSS.metrics:
        np.testing.assert_allclose(state.sums[name], 1.0 + errors[name] ** 2, rtol=1e-12)
    mixed, indices = problem.train.locate(0, np.array([0, 1]))
    broken = dataclasses.replace(mixed, positions=mixed.positions.at[indices[1]].set(jnp.nan))
    for _ in range(2):
        state, _ = step(state, frozen, broken, [indices])
        assert state.failed.tolist() == [2, 1]  # the step, and the place of the frame in its batch


def test_steps_of_one_call_are_those_of_several(problem):
    """Bit for bit, however many are done in a call."""
    trained, frozen = partition(problem.params, learning_rate_scales(problem.params, ()))
    optimizer = build(SGD(), dict.fromkeys(trained, 1.0))
    step = make_step(
        problem.model, LOSS, optimizer, lambda done: 1e-3 / (1.0 + done),
        start_lr=1e-3, basis=None, ema_decay=None, swa=None, one_shape=True,
    )  # fmt: skip
    frames, _ = problem.train.locate(0, np.array([0]))
    batches = [np.array([k % 3, (k + 1) % 3], np.int32) for k in range(7)]
    ends = []
    for sizes in ([7], [2, 1, 4], [1] * 7):
        state, left = TrainState(
            step=jnp.zeros((), jnp.int32), trained=jax.tree.map(jnp.copy, trained), optimizer=optimizer.init(trained),
            failed=jnp.full(2, -1, jnp.int32), ema=None, swa=None, sums=None,
        ), list(batches)  # fmt: skip
        for n in sizes:
            state, errors = step(state, frozen, frames, left[:n])
            left = left[n:]
        ends.append(jax.tree.leaves((state, errors)))
    assert int(ends[0][0]) == len(batches)
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
