"""A model as users call it: shapes, virtual atoms, and what it says to wrong input."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffff
from diffff.errors import InputError
from diffff.model import Model, spline_range
from diffff.potentials.deep import DeepModel
from diffff.spec import validate

RNG = np.random.default_rng(2)
BOX = np.array([[5.0, 0.0, 0.0], [0.7, 4.6, 0.0], [-0.4, 0.9, 5.2]])
GRID = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) * 0.45 @ BOX
COORDS = GRID + RNG.uniform(-0.3, 0.3, (3, 5, 3))  # three frames of five atoms
BOXES = BOX * np.array([1.0, 1.02, 0.97])[:, None, None]
TYPES = np.array([1, 0, 1, 0, 1])


def make_model(descriptor=None, **fitting):
    section = {
        "type_map": ["O", "H"],
        "descriptor": {"type": "se_e2_a", "sel": [40, 60], "rcut": 3.5, "rcut_smth": 1.0, "neuron": [3, 6],
                       "axis_neuron": 2, "type_one_side": True, "evaluation": "direct", **(descriptor or {})},
        "fitting_net": {"neuron": [5, 5], **fitting},
    }  # fmt: skip
    spec = validate(DeepModel, section)
    params = spec.init(0)
    params["descriptor"]["dstd"] = jnp.full((2, 4), 0.2)
    params["bias"] = jnp.array([-3.0, -1.0])
    return Model(spec=spec, params={"DeepPot": params})


MODEL = make_model()


@pytest.fixture(scope="module")
def results():
    return MODEL.eval(COORDS, BOXES, TYPES, atomic=True)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_shapes_are_those_of_deepmd_kit(results):
    assert [x.shape for x in results] == [(3, 1), (3, 5, 3), (3, 9), (3, 5, 1), (3, 5, 9)]
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float64 for x in results)
    energy, force, virial, atom_energy, atom_virial = results
    np.testing.assert_allclose(atom_energy.sum(axis=1), energy)
    np.testing.assert_allclose(atom_virial.sum(axis=1), virial, atol=1e-12)
    np.testing.assert_allclose(force.sum(axis=1), 0.0, atol=1e-12)
    assert len(MODEL.eval(COORDS, BOXES, TYPES)) == 3


def test_flattened_input(results):
    assert_same(MODEL.eval(COORDS.reshape(3, 15), BOXES.reshape(3, 9), TYPES.tolist(), atomic=True), results)
    assert_same(MODEL.eval(COORDS.ravel(), BOXES.ravel(), TYPES, atomic=True), results)


def test_one_frame_and_one_box_for_all(results):
    assert_same(MODEL.eval(COORDS[1], BOXES[1], TYPES, atomic=True), [x[1:2] for x in results])
    one_box = MODEL.eval(COORDS, BOX, TYPES)
    assert_same(one_box, MODEL.eval(COORDS, np.stack([BOX] * 3), TYPES))


def test_atoms_of_other_types_and_order(results):
    """Types of each frame; the same atoms in another order give the same numbers in that order."""
    orders = np.array([RNG.permutation(5) for _ in range(3)])
    coords = np.stack([x[o] for x, o in zip(COORDS, orders, strict=True)])
    found = MODEL.eval(coords, BOXES, TYPES[orders], atomic=True)
    per_atom = [np.stack([x[f][orders[f]] for f in range(3)]) for x in (results[1], results[3], results[4])]
    assert_same(found, [results[0], per_atom[0], results[2], *per_atom[1:]])


def test_virtual_atoms_are_not_there():
    """Of frames with different numbers of atoms each gives the numbers it gives alone; virtual atoms have zeros."""
    types = np.array([[1, 0, 1, 0, 1], [1, -1, 1, 0, -1], [-1] * 5])
    energy, force, virial, atom_energy, _ = MODEL.eval(COORDS, BOXES, types, atomic=True)
    for f in range(2):
        there = types[f] >= 0
        alone = MODEL.eval(COORDS[f][there], BOXES[f], types[f][there])
        assert_same((energy[f : f + 1], force[f : f + 1, there], virial[f : f + 1]), alone)
        assert not force[f, ~there].any() and not atom_energy[f, ~there].any()
    assert not energy[2].any() and not force[2].any() and not virial[2].any()


def test_atoms_without_a_cell_or_without_neighbours():
    far = np.array([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    energy, force, virial = MODEL.eval(far, None, [0, 1])
    assert np.isfinite(energy).all() and not force.any() and not virial.any()
    parts = [MODEL.eval(np.zeros((1, 3)), None, [t])[0] for t in (0, 1)]
    np.testing.assert_allclose(energy, sum(parts), rtol=1e-12)


def test_frame_and_atomic_parameters():
    model = make_model(numb_fparam=1, numb_aparam=2)
    fparam, aparam = RNG.normal(size=(3, 1)), RNG.normal(size=(3, 5, 2))
    energy, *_ = model.eval(COORDS, BOXES, TYPES, fparam=fparam, aparam=aparam)
    again, *_ = model.eval(COORDS, BOXES, TYPES, fparam=fparam.ravel(), aparam=aparam.reshape(3, 10))
    np.testing.assert_array_equal(energy, again)
    second, *_ = model.eval(COORDS[1], BOXES[1], TYPES, fparam=fparam[1], aparam=aparam[1])
    np.testing.assert_allclose(second[0], energy[1], rtol=1e-13)
    for_all, *_ = model.eval(COORDS, BOXES, TYPES, fparam=fparam[1], aparam=aparam[1])
    np.testing.assert_allclose(for_all[1], energy[1], rtol=1e-13)
    assert not np.isclose(for_all[0], energy[0])
    with pytest.raises(InputError, match="this model needs fparam: 1 numbers for each frame"):
        model.eval(COORDS, BOXES, TYPES, aparam=aparam)
    with pytest.raises(InputError, match="this model needs aparam: 2 numbers for each atom"):
        model.eval(COORDS, BOXES, TYPES, fparam=fparam)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"types": [0, 1, 2, 0, 1]}, r"types: 2 is no type of this model; its type map is \['O', 'H'\]"),
        ({"coords": COORDS[:, :4]}, r"coords: shape \(3, 4, 3\) does not fit frames of shape \(5, 3\)"),
        ({"coords": COORDS[:0]}, r"coords: shape \(0, 5, 3\) does not fit"),
        ({"box": np.ones(3)}, r"box: shape \(3,\) does not fit frames of shape \(3, 3\)"),
        ({"box": BOXES[:2]}, "box: 2 frames, but coords has 3"),
    ],
)
def test_wrong_input_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        MODEL.eval(**{"coords": COORDS, "box": BOXES, "types": TYPES, **changes})


def test_truncation_is_said_once(caplog):
    model = make_model({"sel": [1, 2]})
    with caplog.at_level(logging.WARNING, "diffff"):
        first = model.eval(COORDS, BOXES, TYPES)
        second = model.eval(COORDS, BOXES, TYPES)
    assert_same(first, second)
    (record,) = caplog.records
    assert "more neighbours than descriptor.sel = [1, 2] holds" in record.getMessage()
    with pytest.raises(InputError, match=r"but descriptor\.sel is \[1, 2\]\. Set sel to"):
        make_model({"sel": [1, 2], "sel_overflow": "error"}).eval(COORDS, BOXES, TYPES)


def test_the_splines_reach_the_closest_pair():
    model = make_model({"evaluation": "auto"})
    energy, force, _ = model.eval(COORDS[:1], BOXES[:1], TYPES)
    exact = MODEL.eval(COORDS[:1], BOXES[:1], TYPES)
    np.testing.assert_allclose(energy, exact[0], rtol=1e-9)
    np.testing.assert_allclose(force, exact[1], rtol=0, atol=1e-7 * np.abs(exact[1]).max())
    for shortest in (0.3, 0.5, 1.0, 3.4999):
        upper = spline_range(model.spec, shortest)
        s = float(model.spec.descriptor.shape.switch(jnp.asarray(shortest))) / shortest
        assert s < upper < max(0.06, 1.35 * s)
    assert model.basis(1.0) is model.basis(1.0)
    assert MODEL.basis(1.0) is None


def test_double_precision_has_to_be_switched_on():
    with jax.enable_x64(False), pytest.raises(InputError, match=r'jax\.config\.update\("jax_enable_x64", True\)'):
        Model(spec=MODEL.spec, params=MODEL.params)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.dp"):
        diffff.load(tmp_path / "none.dp")
