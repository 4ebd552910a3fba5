"""Batch sizes and probabilities, against DeePMD-kit's (tests/references/make_sampling.py)."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from diffff.data.systems import System
from diffff.errors import InputError
from diffff.train.batches import batch_sizes, epoch_steps, kept_systems, n_batches, probabilities, systems_table

REFERENCE = json.loads((Path(__file__).parents[1] / "references/sampling.json").read_text())


def made_system(n_atoms, set_sizes, name="system", pbc=True):
    n_frames = sum(set_sizes)
    return System(
        name=name,
        types=np.zeros(n_atoms, dtype=int),
        layout=(n_atoms,),
        real=None,
        order=np.arange(n_atoms),
        n_atoms_file=n_atoms,
        positions=np.zeros((n_frames, n_atoms, 3)),
        boxes=np.zeros((n_frames, 3, 3)) if pbc else None,
        labels={},
        set_sizes=tuple(set_sizes),
    )


SYSTEMS = [made_system(*system) for system in REFERENCE["systems"]]


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=str)
def test_deepmd_counts_the_same(case):
    systems = kept_systems(case["batch_size"], SYSTEMS)
    sizes = batch_sizes(case["batch_size"], systems)
    frames = [system.n_frames for system in systems]
    assert list(sizes) == [min(size, n) for size, n in zip(case["batch_sizes"], frames, strict=True)]
    n_bch = [n_batches(system.set_sizes, size) for system, size in zip(systems, sizes, strict=True)]
    assert n_bch == case["n_bch"]
    probs = probabilities(case.get("auto_prob", "prob_sys_size"), case.get("sys_probs"), n_bch)
    assert probs == pytest.approx(case["probs"], abs=1e-15)
    assert epoch_steps(1, n_bch, probs) == case["epoch"]
    assert epoch_steps(2.5, n_bch, probs) == np.ceil(2.5 * case["epoch"])


def test_too_large_batches_are_cut_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert batch_sizes("auto:1000", SYSTEMS) == (5, 11, 14, 2)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        assert batch_sizes(4, SYSTEMS) == (4, 4, 4, 2)
    assert caplog.messages == ["system: batch size 4; it has 2 frames and gets them all"]


def test_filter_says_what_it_leaves_out(caplog):
    with caplog.at_level(logging.WARNING):
        assert kept_systems("filter:9", SYSTEMS) == SYSTEMS[:2]
    assert caplog.messages == ["batch_size filter:9 leaves out 2 of 4 systems"]
    with pytest.raises(InputError, match=r"filter:2: every system has more atoms; the smallest has 3\."):
        kept_systems("filter:2", SYSTEMS)


def test_one_batch_size_per_system():
    with pytest.raises(InputError, match="batch_size: 2 numbers, but there are 4 systems:\n  system\n"):
        batch_sizes([1, 2], SYSTEMS)


@pytest.mark.parametrize(
    ("auto_prob", "sys_probs", "message"),
    [
        ("prob_sys_size;0:5:1", None, "auto_prob: block 0:5:1 goes beyond the 4 systems."),
        ("prob_sys_size;0:2:1;1:3:2", None, "auto_prob: block 1:3:2 overlaps the one before. Make them disjoint."),
        ("prob_sys_size", [0.5, 0.5], "sys_probs: 2 numbers, but there are 4 systems."),
        (
            "prob_sys_size",
            [0.2, 0.2, 0.2, 0.2],
            "sys_probs: they add up to 0.8, not 1. A negative entry takes the rest.",
        ),
        ("prob_sys_size", [0.5, 0.5, -1, 0], "sys_probs: the given ones add up to 1 or more, so nothing is left for"),
    ],
)
def test_bad_probabilities(auto_prob, sys_probs, message):
    with pytest.raises(InputError) as error:
        probabilities(auto_prob, sys_probs, [1, 2, 3, 4])
    assert str(error.value).startswith(message)


def test_table():
    systems = [
        made_system(192, [80], "data/water"),
        made_system(9, [100, 50], "a/very/long/path/to/the/data/of/ethanol/in/the/gas/phase", pbc=False),
    ]
    assert systems_table(systems, [1, 4], [0.6838, 0.3162]).splitlines() == [
        "                                    system  natoms  bch_sz   n_bch       prob  pbc",
        "                                data/water     192       1      80  6.838e-01    T",
        "… /to/the/data/of/ethanol/in/the/gas/phase       9       4      37  3.162e-01    F",
    ]
