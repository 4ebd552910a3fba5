"""Neighbour lists against brute force over many images."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffff import space
from diffff.errors import InputError
from diffff.neighbors import capacity_for, directed_pairs, keep_nearest, neighbor_list

TRICLINIC = np.array([[7.0, 0.0, 0.0], [2.1, 6.2, 0.0], [-1.3, 1.7, 5.9]])


def by_brute_force(positions, box, cutoff):
    """All ``(i, j, shift)``, sorted, by trying every image that can matter."""
    found = []
    if box is None:
        shifts = [(0, 0, 0)]
    else:
        spread = np.ptp(positions @ np.linalg.inv(box), axis=0) if len(positions) else np.zeros(3)
        reach = np.ceil(spread + cutoff / space.face_distances(box)).astype(int)
        shifts = list(itertools.product(*(range(-n, n + 1) for n in reach)))
    translations = np.array(shifts) @ (np.zeros((3, 3)) if box is None else box)
    for i, x in enumerate(positions):
        for j, y in enumerate(positions):
            r = np.linalg.norm(y - x + translations, axis=1)
            found += [(i, j, *shifts[k]) for k in np.flatnonzero(r <= cutoff) if i != j or any(shifts[k])]
    return sorted(found)


def as_rows(i, j, shift):
    return [(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)]


def random_positions(n_atoms, box, rng, outside=True):
    fractional = rng.uniform(-2.0 if outside else 0.0, 3.0 if outside else 1.0, (n_atoms, 3))
    return fractional @ (4.0 * np.eye(3) if box is None else box)


CELLS = {
    "none": None,
    "cubic": 8.0 * np.eye(3),
    "triclinic": TRICLINIC,
    "left-handed": TRICLINIC[[1, 0, 2]],
    "tiny": np.diag([1.1, 1.3, 1.7]),
    "tiny and sheared": np.array([[1.47, 0.0, 0.0], [1.4, 1.2, 0.0], [-1.3, 0.9, 1.6]]),
    "flat": np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [4.0, 3.0, 1.0]]),
}


@pytest.mark.parametrize("n_atoms", [0, 1, 2, 9])
@pytest.mark.parametrize("cell", CELLS)
def test_directed_pairs_are_those_of_brute_force(cell, n_atoms):
    box = CELLS[cell]
    positions = random_positions(n_atoms, box, np.random.default_rng(n_atoms))
    i, j, shift = directed_pairs(positions, box, 3.0)
    assert i.dtype == j.dtype == shift.dtype == np.int32 and shift.shape == (len(i), 3)
    assert as_rows(i, j, shift) == by_brute_force(positions, box, 3.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(0.3, 4.0), st.sampled_from([0.0, 0.5, 1.5]), st.booleans()
)
def test_random_cells(seed, n_atoms, cutoff, shear, flip):
    rng = np.random.default_rng(seed)
    box = np.diag(rng.uniform(1.5, 6.0, 3)) + shear * rng.uniform(-1.0, 1.0, (3, 3))
    box = box[::-1] if flip else box
    if space.face_distances(box).min() < 0.7:
        return
    positions = random_positions(n_atoms, box, rng)
    assert as_rows(*directed_pairs(positions, box, cutoff)) == by_brute_force(positions, box, cutoff)


def test_pairs_at_round_distances_on_a_lattice():
    """A simple cubic crystal of one atom: shells of 6, 12 and 8 neighbours, all images of itself."""
    for cutoff, n in ((0.99, 0), (1.01, 6), (1.42, 18), (1.74, 26), (2.01, 32)):
        i, j, shift = directed_pairs(np.array([[0.5, 0.5, 0.5]]), np.eye(3), cutoff)
        assert len(i) == n and not i.any() and not j.any()
        assert len({tuple(s) for s in shift.tolist()}) == n


def test_atoms_at_the_same_place_are_still_pairs():
    i, j, _ = directed_pairs(np.zeros((2, 3)), None, 1.0)
    assert as_rows(i, j, np.zeros((2, 3))) == [(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)]


@pytest.mark.parametrize("cell", CELLS)
def test_the_half_list_holds_each_pair_once(cell):
    box = CELLS[cell]
    positions = random_positions(7, box, np.random.default_rng(3))
    listed = neighbor_list(positions, box, 3.0)
    used = np.asarray(listed.i) < 7
    i, j, shift = (np.asarray(x)[used] for x in (listed.i, listed.j, listed.shift))
    assert used[: used.sum()].all() and (np.diff(i) >= 0).all() and (i <= j).all()
    both = as_rows(np.r_[i, j], np.r_[j, i], np.r_[shift, -shift])
    assert sorted(both) == by_brute_force(positions, box, 3.0)
    center, neighbor, directed_shift = listed.directed()
    used = np.asarray(center) < 7
    assert sorted(as_rows(np.asarray(center)[used], np.asarray(neighbor)[used], np.asarray(directed_shift)[used])) == (
        by_brute_force(positions, box, 3.0)
    )


def test_unused_entries_point_behind_the_last_atom():
    listed = neighbor_list(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), None, 2.0, capacity=4)
    assert listed.i.tolist() == [0, 2, 2, 2] and listed.j.tolist() == [1, 2, 2, 2] and not listed.shift.any()
    assert neighbor_list(np.zeros((0, 3)), None, 1.0).i.tolist() == [0] * capacity_for(0)


def test_too_many_pairs_for_the_capacity_are_an_error():
    positions = np.random.default_rng(0).uniform(size=(5, 3))
    assert neighbor_list(positions, None, 9.0, capacity=10).i.shape == (10,)
    with pytest.raises(ValueError, match=r"10 pairs within 9\.0 nm exceed the capacity 9"):
        neighbor_list(positions, None, 9.0, capacity=9)


@given(st.integers(0, 10**8))
def test_capacities_hold_the_pairs_and_waste_little(n_pairs):
    capacity = capacity_for(n_pairs)
    assert n_pairs <= capacity <= max(256, 255 + n_pairs + n_pairs // 16)
    assert capacity_for(capacity) == capacity and capacity % 256 == 0


def test_the_nearest_neighbours_stay():
    """First the nearest sum(sel) of each centre, then of these the nearest sel[t] of each type."""
    center = np.array([0, 0, 0, 0, 0, 3, 3])
    types = np.array([0, 0, 0, 1, 1, 1, 1])
    distance = np.array([1.0, 2.0, 3.0, 4.0, 0.5, 2.0, 1.0])
    kept = keep_nearest(center, types, distance, (2, 1))  # of atom 0: 0.5, 1, 2; the 3 and 4 are beyond three
    assert kept.tolist() == [True, True, False, False, True, False, True]
    kept = keep_nearest(center, types, distance, (1, 2))  # 0.5 (type 1), 1 (type 0), 2 (type 0: no slot left)
    assert kept.tolist() == [True, False, False, False, True, True, True]
    assert keep_nearest(center, types, distance, (9, 9)).all()
    assert keep_nearest(center, types, distance, (5, 0)).tolist() == [True, True, True, False, False, False, False]
    assert keep_nearest(center[:0], types[:0], distance[:0], (1, 1)).shape == (0,)


def test_truncation_does_not_depend_on_the_order_of_the_pairs():
    rng = np.random.default_rng(5)
    center, types, distance = rng.integers(0, 6, 80), rng.integers(0, 3, 80), rng.uniform(size=80)
    kept = keep_nearest(center, types, distance, (2, 1, 3))
    order = rng.permutation(80)
    np.testing.assert_array_equal(keep_nearest(center[order], types[order], distance[order], (2, 1, 3)), kept[order])


@pytest.mark.parametrize(
    ("positions", "box", "message"),
    [
        ([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0]], None, r"atom 1 \(from 0\) is \[nan"),
        ([0.0, 0.0, 0.0], None, r"shape \(3,\)"),
        ([[0.0, 0.0, 0.0]], [2.0, 2.0, 2.0], r"box is \[2.0, 2.0, 2.0\]; give three lattice vectors"),
        ([[0.0, 0.0, 0.0]], np.diag([2.0, 2.0, 0.0]), "span a volume"),
        ([[0.0, 0.0, 0.0]], np.diag([2.0, 2.0, np.inf]), "span a volume"),
    ],
)
def test_positions_and_boxes_without_sense_are_refused(positions, box, message):
    with pytest.raises(InputError, match=message):
        neighbor_list(np.array(positions), box if box is None else np.array(box), 0.5)
