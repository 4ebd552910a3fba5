"""Checkpoints that a computer has cut short or changed are never continued."""

import jax
import numpy as np
import pytest

from diffff.cell_list import CellList
from diffff.errors import InputError
from diffff.md import checkpoint
from diffff.md.state import particles, state_of

SIZES = CellList(cutoff=0.4, width=0.4, cells=(1, 2, 3), reach=(1, 1, 1), cell_capacity=8, row_capacity=8, capacity=256)


@pytest.fixture
def saved(tmp_path):
    x = np.random.default_rng(1).uniform(size=(5, 3))
    state = state_of(x, np.eye(3), particles(np.full(5, 40.0)), {"a": np.zeros(3)}, temperature=300.0, seed=1)
    checkpoint.save(tmp_path / "md.npz", state, SIZES, "this run")
    return tmp_path / "md.npz", state


def test_all_comes_back(saved):
    path, state = saved
    found, sizes = checkpoint.load(path, "this run")
    assert vars(sizes) == vars(SIZES)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        if jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.7, 0.9995])
def test_a_file_that_breaks_off_is_refused(saved, part):
    path, _ = saved
    text = path.read_bytes()
    path.write_bytes(text[: int(part * len(text))])
    with pytest.raises(InputError, match=r"md\.npz: no checkpoint of a simulation, or a damaged one"):
        checkpoint.load(path, "this run")


def test_a_changed_bit_is_noticed(saved):
    path, _ = saved
    text = bytearray(path.read_bytes())
    text[text.index(b"positions.npy") + 200] ^= 1
    path.write_bytes(bytes(text))
    with pytest.raises(InputError, match=r"damaged one \(Bad CRC-32"):
        checkpoint.load(path, "this run")


def test_other_files_are_refused(saved, tmp_path):
    path, _ = saved
    with pytest.raises(InputError, match="a checkpoint of another run, which cannot be continued as this one"):
        checkpoint.load(path, "another run")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(tmp_path / "others.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("array", "others", "text"):
        with pytest.raises(InputError, match=f"{name}.npz: no checkpoint of a simulation"):
            checkpoint.load(tmp_path / f"{name}.npz", "this run")
    with pytest.raises(InputError, match="there is no such checkpoint"):
        checkpoint.load(tmp_path / "none.npz", "this run")
