"""Geometry of the cell."""

import numpy as np
import pytest

from diffff import space

TRICLINIC = np.array([[7.0, 0.0, 0.0], [2.1, 6.2, 0.0], [-1.3, 1.7, 5.9]])


def test_face_distances_by_hand():
    np.testing.assert_allclose(space.face_distances(np.diag([2.0, 3.0, 5.0])), [2.0, 3.0, 5.0])
    sheared = np.array([[2.0, 0.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 5.0]])  # faces across a: 2 sin(45°) apart
    np.testing.assert_allclose(space.face_distances(sheared), [np.sqrt(2.0), 3.0, 5.0])


def test_face_distances_do_not_depend_on_handedness_or_orientation():
    expected = space.face_distances(TRICLINIC)
    np.testing.assert_allclose(space.face_distances(TRICLINIC[[1, 0, 2]]), expected[[1, 0, 2]])
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    np.testing.assert_allclose(space.face_distances(TRICLINIC @ turn), expected)


@pytest.mark.parametrize("box", [np.diag([2.0, 3.0, 5.0]), TRICLINIC, TRICLINIC[::-1]])
def test_wrapped_atoms_are_in_the_cell_and_the_cells_undo_it(box):
    positions = np.random.default_rng(1).normal(scale=30.0, size=(40, 3))
    wrapped, cells = space.wrap(positions, box)
    fractional = wrapped @ np.linalg.inv(box)
    assert fractional.min() >= -1e-12 and fractional.max() < 1.0 + 1e-12
    assert cells.dtype == np.int32 and np.abs(cells).max() > 1
    np.testing.assert_allclose(wrapped + cells @ box, positions, atol=1e-12)


def test_wrap_of_nothing():
    wrapped, cells = space.wrap(np.zeros((0, 3)), np.eye(3))
    assert wrapped.shape == cells.shape == (0, 3)
