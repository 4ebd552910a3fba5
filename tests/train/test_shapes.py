"""Systems of many sizes in few shapes: no atom is lost, and no number changes."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffff.data.systems import read_systems
from diffff.train.shapes import in_few_shapes, merged, widened
from diffff.train.step import batch_loss
from tests.train import small


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(1, 2), st.tuples(st.integers(0, 9), st.integers(0, 9))), st.integers(1, 5), min_size=1
    ),
    st.integers(1, 6),
)
def test_each_finds_room_and_there_are_few(frames, limit):
    found = merged(frames, limit)
    assert all(np.all(np.array(wide) >= layout) for (_, layout), wide in found.items())
    shapes = {(size, wide) for (size, _), wide in found.items()}
    assert len(shapes) <= max(limit, len({size for size, _ in frames}))
    if len(frames) <= limit:
        assert all(wide == layout for (_, layout), wide in found.items())


def test_many_shapes_are_rounded_first(monkeypatch):
    monkeypatch.setattr("diffff.train.shapes._EXACT", 10)
    frames = {(1, (n, 2 * n + k)): 1 for n in range(1, 20) for k in range(3)}
    found = merged(frames, 4)
    assert len(set(found.values())) == 4
    assert all(np.all(np.array(wide) >= layout) for (_, layout), wide in found.items())


def test_more_sets_of_elements_than_are_compared_one_by_one(monkeypatch):
    monkeypatch.setattr("diffff.train.shapes._EXACT", 10)
    frames = {(1, tuple(int(bit) for bit in f"{n:06b}")): 1 for n in range(1, 64)}
    assert 1 <= len(set(merged(frames, 4).values())) <= 4
    assert len({(size, wide) for (size, _), wide in merged({(n, (1,)): 1 for n in range(30)}, 4).items()}) == 30


@pytest.fixture
def systems(tmp_path):
    small.write_system(tmp_path / "a", (2, 1), 2)
    small.write_system(tmp_path / "b", (2,), 3, seed=9)
    small.write_system(tmp_path / "c", (4,), 1, box=None)
    small.write_mixed_system(tmp_path / "d", [[0, 1, 1, -1], [1, 0, 1, 0], [1, -1, -1, 0]])
    return [str(tmp_path / name) for name in "abcd"]


@pytest.mark.parametrize("stored_from", [0, np.inf])
def test_widened_systems_have_the_same_atoms(systems, stored_from):
    for system in read_systems(systems, small.ELEMENTS, stored_from=stored_from):
        wide = widened(system, tuple(n + 2 for n in system.layout))
        assert wide.types.tolist() == np.repeat([0, 1], wide.layout).tolist()
        np.testing.assert_array_equal(wide.real.sum(axis=1), system.n_atoms_file - (system.order.T < 0).sum(axis=0)
                                      if system.real is None else system.real.sum(axis=1))  # fmt: skip
        for values in ("positions", "force"):
            each = [np.asarray(s.labels[values] if values == "force" else s.positions) for s in (system, wide)]
            np.testing.assert_array_equal(*(s.in_file_order(v) for s, v in zip((system, wide), each, strict=True)))


def test_the_loss_is_the_same_in_wider_shapes(systems, tmp_path):
    """Errors and gradients of each system in a batch of its own."""
    changes = {
        "training.training_data": {"systems": systems, "batch_size": 1},
        "training.seed": 1,
        "loss.start_pref_v": 1.0,
    }
    results = []
    for limit in (8, 1):
        problem = small.problem_of(tmp_path, {**changes, "training.max_shapes": limit})
        sizes = problem.train.sizes
        assert problem.train.n_shapes == (4 if limit == 8 else 1)
        found = []
        for k, size in enumerate(sizes):
            frames, indices = problem.train.locate(k, np.arange(size))

            def value(params, batch):
                return batch_loss(problem.model, problem.given.loss, params, batch, None, 1.0)[0]  # noqa: B023

            found.append(jax.jit(jax.value_and_grad(value))(problem.params, frames.take(indices)))
        results.append(found)
    for one, other in zip(*results, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, other)


def test_systems_that_fit_are_left_alone(systems):
    found = read_systems(systems, small.ELEMENTS)
    assert all(a is b for a, b in zip(in_few_shapes(found, [1, 1, 1, 1], 4), found, strict=True))
