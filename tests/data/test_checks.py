"""The search for atoms that are too close, against one that looks at all pairs and images."""

import itertools

import numpy as np
import pytest

from diffff.data.checks import MIN_DISTANCE_ANGSTROM, check_distances, right_handed
from diffff.errors import InputError


def shortest(positions, box):
    """The shortest distance between two atoms, images included."""
    shifts = np.array(list(itertools.product([-1, 0, 1], repeat=3))) @ box
    difference = positions[:, None] - positions[None]
    distances = np.linalg.norm(difference[:, :, None] + shifts, axis=-1).min(axis=-1)
    pairs = np.triu_indices(len(positions), 1)
    nearest = distances[pairs].argmin()
    return distances[pairs][nearest], (pairs[0][nearest], pairs[1][nearest])


def test_agrees_with_all_pairs_in_skewed_boxes():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(300):
        box = np.array([[2.5, 0, 0], [0.9, 2.8, 0], [-0.7, 1.1, 3.0]]) * rng.choice([1, -1])
        inside = rng.uniform(0, 1, (8, 3)) @ box
        distance, (i, j) = shortest(inside, box)
        positions = inside + rng.integers(-2, 3, (8, 3)) @ box  # unwrapped, as trajectories may be
        if distance >= MIN_DISTANCE_ANGSTROM:
            check_distances(positions[None], box[None], None, "f")
        else:
            found += 1
            with pytest.raises(InputError, match=f"f: frame 0: atoms {i} and {j} are {distance:.3g} Å apart"):
                check_distances(positions[None], box[None], None, "f")
    assert 30 < found < 270


def test_atoms_at_a_face_meet_across_it():
    for delta in (1e-17, -1e-17, 0.0, 5.0):
        positions = np.array([[[delta, 1, 1], [4.8, 1, 1]]])
        with pytest.raises(InputError, match=r"atoms 0 and 1 are 0\.2 Å apart"):
            check_distances(positions, 5.0 * np.eye(3)[None], None, "f")


def test_frames_and_missing_boxes_are_kept_apart():
    positions = np.zeros((3, 2, 3))
    positions[:, 0] = [1, 1, 1]
    check_distances(positions, None, None, "f")
    check_distances(np.zeros((4, 1, 3)), None, None, "f")
    check_distances(np.zeros((4, 2, 3)), None, np.tile([True, False], (4, 1)), "f")
    positions[2, 1] = [1, 1, 1.1]
    with pytest.raises(InputError, match="frame 2: atoms 0 and 1"):
        check_distances(positions, None, None, "f")


def test_many_frames_are_searched_in_pieces():
    positions = np.random.default_rng(0).uniform(0, 1000, (30_000, 4, 3))
    positions[29_000, 3] = positions[29_000, 1] + 0.1
    with pytest.raises(InputError, match=r"frame 29000: atoms 1 and 3 are 0\.173 Å apart"):
        check_distances(positions, None, None, "f")


def test_a_left_handed_box_keeps_its_lattice():
    box = np.array([[[3.0, 0.1, 0], [0, 4, 0.2], [0.3, 0, -5]]])
    turned = right_handed(box, "f")
    assert np.linalg.det(turned[0]) == pytest.approx(-np.linalg.det(box[0]))
    change = turned[0] @ np.linalg.inv(box[0])
    assert np.allclose(change, np.diag([1, 1, -1]))
