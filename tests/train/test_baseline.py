"""Networks on top of Deep Potentials that stay as they are, alone and with a force field."""

import re

import numpy as np
import openmm.app as app
import pytest

import diffff
from diffff import units
from diffff.data.systems import System
from diffff.errors import InputError
from diffff.fit.parity import read_parity
from diffff.formats.deepmd import save_model as save_model_file
from diffff.frontend.forcefield import ForceField
from diffff.md.calculator import Calculator
from diffff.model import Model
from diffff.model_input import Deep, Sum, Xml
from diffff.report.run import report
from diffff.structure import Structure
from diffff.train import checkpoint as ckpt
from diffff.train.baseline import FrozenDeep
from diffff.train.config import Input, read_input
from diffff.train.data_errors import errors_over
from diffff.train.setup import prepare
from diffff.train.start import start
from tests.train import small
from tests.train.made_fit import write_data, write_input, write_molecule
from tests.train.test_force_field import MOVING, NETWORK, sum_input

XML_PART = {"type": "xml", "files": ["mol.xml"], "topology": "mol.pdb"}


def save_model(file, seed, type_map=("O", "C", "H"), fitting=None):
    """A random network; its types are in another order than those of the data."""
    place = {"C": 2, "H": 4, "O": 2}
    given = {
        **NETWORK,
        "type_map": list(type_map),
        "descriptor": {**NETWORK["descriptor"], "sel": [place[name] for name in type_map], "seed": seed},
        "fitting_net": {**NETWORK["fitting_net"], "seed": seed, **(fitting or {})},
    }
    whole = {"model": given, "learning_rate": {"start_lr": 1e-3}, "training": {"training_data": {"systems": "."}}}
    whole["training"]["numb_steps"] = 1
    model = diffff.spec.validate(Input, whole).deep
    params = model.init(seed)
    params["descriptor"] |= {"dstd": 0.4 * np.ones_like(params["descriptor"]["dstd"])}
    params["bias"] = np.arange(len(type_map)) - 3.0
    save_model_file(file, model, params)
    return Model(spec=model, params={"DeepPot": params})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_molecule(tmp_path)
    write_data(tmp_path / "train", 8, seed=2)
    return tmp_path


def on_top_of(*parts, **changes):
    """An input of a network on top of other parts."""
    return sum_input(**{"model": {"type": "sum", "models": [*parts, NETWORK]}, **changes})


def problem_of(folder, given):
    return prepare(read_input(write_input(folder, given)), None, skip_neighbor_stat=False, folder=folder)


def said(model, x):
    """Energies and forces of a model, the atoms in the order of the files, eV and Å."""
    types = np.array([model.type_map.index(name) for name in ("C", "O", "H", "H")])
    energy, force, _ = model.eval(x, None, types)
    return energy[:, 0], force


def test_the_network_learns_what_deep_potentials_leave(folder):
    first, second = save_model("first.dp", 3), save_model("second.dp", 4, ("H", "C", "O"))
    parts = [{"type": "deep", "file": "first.dp"}, {"type": "frozen", "model_file": "second.dp"}]
    given = on_top_of(*parts)
    given["model"]["weights"] = [1.0, 0.25, 1.0]
    problem = problem_of(folder, given)
    (system,) = problem.train.systems
    x = np.load("train/set.000/coord.npy").reshape(8, 4, 3)
    energy, force = (a + 0.25 * b for a, b in zip(said(first, x), said(second, x), strict=True))
    np.testing.assert_allclose(system.labels["energy"], np.load("train/set.000/energy.npy") - energy, atol=1e-9)
    left = system.in_file_order(system.labels["force"])
    np.testing.assert_allclose(left, np.load("train/set.000/force.npy").reshape(8, 4, 3) - force, atol=1e-9)
    assert problem.train.of_baseline is not None
    assert errors_over(problem.model, problem.params, problem.train, None).rmse("f") == pytest.approx(
        np.sqrt(np.mean(left**2))
    )


def test_frames_that_differ_in_their_atoms(folder):
    model = save_model("first.dp", 3)
    random = np.random.default_rng(1)
    positions = random.uniform(0.0, 3.0, (2, 5, 3))
    real = np.array([[True, True, False, True, True], [True, False, True, True, False]])
    types = np.array([0, 0, 1, 2, 2])
    place = np.array([model.type_map.index(name) for name in ("C", "O", "H")])
    virial, force = np.zeros((2, 3, 3)), np.zeros((2, 5, 3))
    labels = {"energy": np.zeros(2), "force": force, "virial": virial, "atom_ener": np.zeros((2, 5))}
    order = np.zeros((2, 5), int)
    system = System("mixed", types, (2, 1, 2), real, order, 5, positions, None, labels, (2,))
    found = FrozenDeep((("first.dp", model, 1.0),)).without(system, ("C", "O", "H")).labels
    for frame in range(2):
        own = real[frame]
        energy, force, virial, of_atoms, _ = model.eval(positions[frame, own], None, place[types[own]], atomic=True)
        np.testing.assert_allclose(found["energy"][frame], -energy[0, 0], atol=1e-9)
        np.testing.assert_allclose(found["force"][frame, own], -force[0], atol=1e-9)
        np.testing.assert_allclose(found["virial"][frame], -virial.reshape(3, 3), atol=1e-9)
        np.testing.assert_allclose(found["atom_ener"][frame, own], -of_atoms[0, :, 0], atol=1e-9)
        assert not np.any(found["force"][frame, ~own]) and not np.any(found["atom_ener"][frame, ~own])


@pytest.mark.parametrize("moving", [False, True], ids=["as it is", "moving"])
@pytest.mark.slow
def test_a_sum_of_three_in_use(folder, moving):
    """Force field, a Deep Potential and the network on both give the energies whose errors the training has printed."""
    base = save_model("base.dp", 3)
    (folder / "model.ckpt.parity.h5").write_bytes(b"of an earlier run")
    given = on_top_of(XML_PART, {"type": "deep", "file": "base.dp"}, **({"parameters": MOVING} if moving else {}))
    start(write_input(folder, given), output=folder / "out.json")
    ckpt.freeze(folder / "model.ckpt-6.h5", folder / "model.dp")
    model = diffff.load("model.dp")
    files = "fitted/mol.xml" if moving else "mol.xml"
    field = ForceField(str(folder / files))
    pdb = app.PDBFile("mol.pdb")
    structure = Structure(("C", "O", "H", "H"), np.zeros((4, 3)), None, pdb.topology)
    whole = Sum(models=(Xml(files=(files,)), Deep(file="base.dp"), Deep(file="model.dp")))
    bound = whole.bound(structure, folder)
    assert set(bound.params) == {*field.params(), "DeepPot", "DeepPot2"}
    calculator = Calculator(bound.potential, bound.params)
    x = np.load("train/set.000/coord.npy").reshape(-1, 4, 3) / units.ANGSTROM_PER_NM
    energy = np.array([calculator(one).energy for one in x]) / units.KJ_PER_MOL_PER_EV
    alone = Calculator(field.create_potential(pdb.topology), field.params())
    parts = sum(said(one, x * units.ANGSTROM_PER_NM)[0] for one in (base, model))
    np.testing.assert_allclose(
        energy, parts + np.array([alone(one).energy for one in x]) / units.KJ_PER_MOL_PER_EV, atol=1e-8
    )
    reference = np.load("train/set.000/energy.npy")
    error = np.sqrt(np.mean((energy - reference) ** 2)) / 4
    _check_the_report(folder, moving, reference, energy)
    given["training"] = {**given["training"], "numb_steps": 7, "disp_freq": 7}
    given["training"]["training_data"]["batch_size"] = 8
    start(write_input(folder, given), restart=folder / "model.ckpt-6.h5", output=folder / "out.json")
    last = float((folder / "lcurve.out").read_text().splitlines()[-1].split()[2])
    np.testing.assert_allclose(last, error, rtol=0.01)


def _check_the_report(folder, moving, reference, energy):
    """What stands there of the end of the run are the predictions of the sum."""
    assert (folder / "model.ckpt.parity.h5").is_file() != moving
    found = read_parity(folder / ("fitted/parity.h5" if moving else "model.ckpt.parity.h5"))
    (one,) = [one for one in found if one.target == "energy"]
    order = np.argsort(reference)
    np.testing.assert_allclose(np.sort(one.reference), (reference - reference.mean())[order], atol=1e-9)
    np.testing.assert_allclose(one.after[np.argsort(one.reference)], (energy - energy.mean())[order], atol=1e-8)
    page = report(folder).read_text()
    assert 'id="parity-train-force-figure_1"' in page and "Residuals" in page
    assert ("Numbers of the force field" in page) == moving


def test_several_sizes_in_one_shape(tmp_path, monkeypatch):
    """Systems that are widened to one number of slots learn the same, and the parity has their own atoms only."""
    monkeypatch.chdir(tmp_path)
    base = save_model("base.dp", 3, ("O", "H"))
    for n in (1, 2, 3):
        small.write_system(tmp_path / f"data/{n}", n_molecules=n, seed=n)
    network = {**NETWORK, "type_map": ["O", "H"], "descriptor": {**NETWORK["descriptor"], "sel": [4, 8]}}
    given = sum_input(model={"type": "sum", "models": [{"type": "deep", "file": "base.dp"}, network]})
    given["training"] |= {
        "training_data": {"systems": "data"},
        "max_shapes": 1,
        "save_ckpt": "out/model",
        "numb_steps": 1,
    }
    start(write_input(tmp_path, given), output=tmp_path / "out.json")
    found = {(one.system, one.target): one for one in read_parity(tmp_path / "out/model.parity.h5")}
    for n in (1, 2, 3):
        force = np.load(f"data/{n}/set.000/force.npy").reshape(3, 3 * n, 3)
        order = np.argsort([0, 1, 1] * n, kind="stable")
        one = found[f"data/{n}", "force"]
        np.testing.assert_allclose(one.reference, force[:, order], atol=1e-12)
        x, box = (np.load(f"data/{n}/set.000/{name}.npy").reshape(3, -1, 3) for name in ("coord", "box"))
        _, said_force, _ = base.eval(x, box, np.array([0, 1, 1] * n))
        np.testing.assert_allclose(one.before, said_force[:, order], atol=1e-9)
    assert 'id="parity-train-force-figure_1"' in report(tmp_path).read_text()


@pytest.mark.parametrize(
    ("of_base", "of_network", "message"),
    [
        ({"numb_fparam": 1}, {}, r"base\.dp has numb_fparam 1.*the network that is trained has numb_fparam 0"),
        ({"numb_aparam": 2}, {"numb_aparam": 1}, "numb_aparam 2, and the network that is trained has numb_aparam 1"),
        (
            {"numb_fparam": 1, "default_fparam": [2.0]},
            {"numb_fparam": 1, "default_fparam": [3.0]},
            r"default_fparam \(2\.0,\), and the network",
        ),
    ],
)
def test_parameters_of_frames_are_the_same_for_all(folder, of_base, of_network, message):
    save_model("base.dp", 1, fitting=of_base)
    network = {**NETWORK, "fitting_net": {**NETWORK["fitting_net"], **of_network}}
    given = sum_input(model={"type": "sum", "models": [{"type": "deep", "file": "base.dp"}, network]})
    with pytest.raises(InputError, match=message):
        problem_of(folder, given)


def test_a_sum_in_python_keeps_two_models_apart(folder):
    first, second = save_model("first.dp", 3), save_model("second.dp", 4)
    types = np.array([1, 0, 2, 2])
    with pytest.raises(InputError, match="both potentials have a Deep Potential DeepPot; give one another name"):
        first.potential(types) + second.potential(types)
    potential = first.potential(types) + second.potential(types, name="DeepPot2")
    calculator = Calculator(potential, {**first.params, "DeepPot2": second.params["DeepPot"]})
    x = np.load("train/set.000/coord.npy").reshape(8, 4, 3)[0]
    wanted = sum(float(one.eval(x[None], None, types)[0][0, 0]) for one in (first, second))
    np.testing.assert_allclose(calculator(x / 10).energy / units.KJ_PER_MOL_PER_EV, wanted, rtol=1e-7)


BAD = {
    "no file": ([{"type": "deep", "file": "none.dp"}], "none.dp"),
    "type": ([{"type": "deep", "file": "water.dp"}], r"water\.dp: train has atoms of the type C; the model is for"),
    "nothing moves": ([{"type": "deep", "file": "water.dp"}], "they are of a force field, and the model has none"),
    "two networks": ([NETWORK], "networks are trained one after the other"),
    "two force fields": ([XML_PART, XML_PART], "name all their files in one"),
    "output": ([{"type": "deep", "file": "base.dp"}], r"base\.dp: is read by the run"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_refused(folder, case):
    save_model("water.dp", 1, ("O", "H"))
    save_model("base.dp", 1)
    parts, message = BAD[case]
    given = on_top_of(*parts)
    if case == "nothing moves":
        given["parameters"] = MOVING
    if case == "output":
        given["training"]["disp_file"] = "base.dp"
    with pytest.raises(InputError) as error:
        start(write_input(folder, given), output=folder / "out.json")
    assert re.search(message, str(error.value)), error.value


def test_coefficients_of_atomic_energies_are_of_a_network_alone(folder):
    save_model("base.dp", 1)
    np.save("train/set.000/atom_ener_coeff.npy", np.ones((8, 4)))
    with pytest.raises(InputError, match="atom_ener_coeff is for energies of the network"):
        problem_of(folder, on_top_of({"type": "deep", "file": "base.dp"}))
