"""Packed pairs are those that were packed."""

import dataclasses
import gc
import os
import tempfile

import numpy as np
import pytest

from diffff.data.systems import read_systems
from diffff.errors import InputError
from diffff.potentials.pairs import truncate
from diffff.train.neighbor_stat import all_pairs, count, cut, pair_tables
from diffff.train.pair_table import _BLOCK as BLOCK
from diffff.train.pair_table import PairStore
from tests.train import small
from tests.train.reference_systems import SYSTEMS, make_model

RCUT = 3.5


def assert_same(found, wanted):
    for name in ("center", "neighbor", "shift", "dr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize("limit", [np.inf, 0, 400])
def test_pairs_come_back_as_they_were(limit):
    store = PairStore(limit)
    tables, counts = pair_tables(SYSTEMS, RCUT, 3, store)
    assert store.on_disk == (limit != np.inf)
    pairs = [all_pairs(system, RCUT) for system in SYSTEMS]
    for system, table, frames in zip(SYSTEMS, tables, pairs, strict=True):
        assert table.n_pairs == [len(frame.center) for frame in frames]
        for f, wanted in enumerate(frames):
            assert_same(table.pairs(system, f), wanted)
    wanted = count(SYSTEMS, pairs, 3)
    assert counts.shortest == wanted.shortest
    assert counts.most.tolist() == wanted.most.tolist()


def test_pairs_stay_as_long_as_their_table():
    tables, _ = pair_tables(SYSTEMS, RCUT, 3, PairStore(0))
    gc.collect()
    assert_same(tables[0].pairs(SYSTEMS[0], 0), all_pairs(SYSTEMS[0], RCUT, [0])[0])


def test_more_frames_than_a_block_and_atoms_far_outside_the_box(tmp_path):
    small.write_system(tmp_path / "a", (BLOCK + 3,), 2)
    (system,) = read_systems([str(tmp_path / "a")], small.ELEMENTS)
    far = system.positions.copy()
    far[BLOCK + 1, 1] += 300 * system.boxes[BLOCK + 1, 0]
    moved = dataclasses.replace(system, positions=far)
    (table,), _ = pair_tables([moved], 3.0, 2, PairStore(np.inf))
    assert [np.dtype(kind) for kind in table.shift_types] == [np.int8, np.int16]
    for frame in (0, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2):
        (wanted,) = all_pairs(moved, 3.0, [frame])
        assert_same(table.pairs(moved, frame), wanted)


@pytest.mark.parametrize("limit", [np.inf, 0, 400])
def test_cut_pairs_take_the_place_of_all(limit):
    model, store = make_model({"sel": [3, 5, 1]}), PairStore(limit)
    tables, _ = pair_tables(SYSTEMS, RCUT, 3, store)
    before = [sum(table.n_pairs) for table in tables]
    in_memory, size = store._in_memory, 0 if store._file is None else os.fstat(store._file.fileno()).st_size
    for table, system, n_pairs in zip(tables, SYSTEMS, before, strict=True):
        gone = cut(table, system, model, store)
        assert gone == n_pairs - sum(table.n_pairs)
        for f, frame in enumerate(all_pairs(system, RCUT)):
            assert_same(table.pairs(system, f), truncate(frame, system.types, model.descriptor))
    assert sum(before) > sum(sum(table.n_pairs) for table in tables)
    assert store._in_memory <= in_memory
    if limit == np.inf:
        kept = (rows.rows.nbytes for table in tables for _, rows in table.blocks)
        assert store._in_memory == sum(kept) < in_memory
    elif limit == 0:
        assert os.fstat(store._file.fileno()).st_size == size


def test_a_full_disk_is_told(monkeypatch):
    class Full:
        def close(self):
            pass

        def seek(self, *place):
            return 0

        def tell(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **kwargs: Full())
    with pytest.raises(InputError, match=r"no room in memory, nor in .* No space left on device"):
        pair_tables(SYSTEMS, RCUT, 3, PairStore(0))
