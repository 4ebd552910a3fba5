"""Checkpoints of fits: what goes on from them, and what only begins with their numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.fit.free import free_of
from diffff.fit.optimizers import Start
from diffff.fit.rules import Rule, Treatment, moving
from diffff.fit.ties import Equal
from diffff.train.fit_checkpoint import FitCheckpoint

A = {"A": {"k": jnp.array([2.0, 3.0])}}
PARAMS = {**A, "B": {"k": jnp.array([5.0])}}
V = np.array([0.3, -0.2, 0.1])


def made(params=PARAMS, ties=(), **treatment):
    """The variables of all numbers, and their labels."""
    found = moving(params, {}, [Rule(select="*", treatment=Treatment(**treatment))])
    return free_of(params, found, ties), tuple(some.full_label(k) for some in found for k in range(len(some.index)))


@pytest.fixture
def path(tmp_path):
    free, labels = made(scale=1.0)
    state = {"mu/free": np.arange(3.0), "count": np.array(4)}
    FitCheckpoint(Start(V, 7, state), np.asarray(free.numbers(V)), labels, {"loss": {"energy": 1.0}}).write(
        tmp_path / "a.h5"
    )
    return tmp_path / "a.h5"


def test_what_is_written_is_read(path):
    found = FitCheckpoint.read(path)
    assert found.start.n_steps == 7 and found.input == {"loss": {"energy": 1.0}}
    np.testing.assert_array_equal(found.start.free, V)
    assert {name: array.tolist() for name, array in found.start.state.items()} == {"mu/free": [0, 1, 2], "count": 4}
    found.require_same(path, *made(scale=1.0))


def test_another_fit_does_not_go_on(path):
    found = FitCheckpoint.read(path)
    with pytest.raises(InputError, match=r"is of a fit of other numbers \(3, here 2\)"):
        found.require_same(path, *made(A))
    with pytest.raises(InputError, match="bounds or scales changed since"):
        found.require_same(path, *made(scale=2.0))


@pytest.mark.parametrize("treatment", [{"scale": 0.5}, {"bounds": (0.0, None)}, {"bounds": (0.0, 9.0)}, {"params": A}])
def test_numbers_are_found_by_their_labels(path, treatment):
    """Whatever scales and bounds are, and of however many."""
    free, labels = made(**treatment)
    v = FitCheckpoint.read(path).variables(path, free, labels)
    expected = np.array([2.3, 2.8, 5.1])[: len(labels)]
    np.testing.assert_allclose(free.numbers(jnp.asarray(v)), expected, rtol=1e-12)


def test_numbers_that_ties_move_are_told(path, caplog):
    free, labels = made(scale=1.0, ties=[Equal(select="A/k")])
    v = FitCheckpoint.read(path).variables(path, free, labels)
    np.testing.assert_allclose(free.numbers(jnp.asarray(v)), [2.55, 2.55, 5.1], rtol=1e-12)
    assert "ties move its numbers, A/k: A/k[0] by 0.25 of its scale" in caplog.text


def test_numbers_that_are_missing_or_beyond_their_bounds(path):
    found = FitCheckpoint.read(path)
    free, labels = made()
    with pytest.raises(InputError, match=r"lacks 1 of the 3 numbers that move, such as C/k: C/k\[0\]"):
        found.variables(path, free, (*labels[:2], "C/k: C/k[0]"))
    with pytest.raises(InputError, match=r"A/k: A/k\[0\] is 2.3, not within its bounds \[1, 2.2\]"):
        found.variables(path, *made({"A": {"k": jnp.array([2.0, 2.1])}}, bounds=(1.0, 2.2)))


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "b.h5").write_text("no HDF5")
    for name, message in (("b.h5", "no checkpoint of a fit, or damaged"), ("c.h5", "there is no such checkpoint")):
        with pytest.raises(InputError, match=message):
            FitCheckpoint.read(tmp_path / name)
