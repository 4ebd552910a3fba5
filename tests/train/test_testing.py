"""`dff test` of force fields and sums: against OpenMM's energies and those of the networks themselves."""

import json

import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train import testing
from tests.train.made_fit import perturbed, write_data, write_molecule
from tests.train.test_baseline import XML_PART, said, save_model
from tests.train.test_force_field import NETWORK


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Data of one force field, and mol.xml of another; beside it the labels that the latter leaves of the data."""
    monkeypatch.chdir(tmp_path)
    write_molecule(tmp_path, perturbed(0.1, seed=1))
    write_data(tmp_path / "data", 6, seed=2)
    write_data(tmp_path / "alone", 6, seed=2, xml=(tmp_path / "mol.xml").read_text())
    return tmp_path


def labels(name):
    return tuple(np.load(f"{name}/set.000/{label}.npy").reshape(6, -1) for label in ("energy", "force"))


def write(model, file="model.json"):
    with open(file, "w") as out:
        json.dump({"model": model, "_comment": "the rest of the file is not looked at", "training": 3}, out)


def test_a_force_field_up_to_a_constant(folder):
    write(XML_PART)
    errors = testing.test(folder / "model.json", system="data")
    (energy, force), (said_energy, said_force) = labels("data"), labels("alone")
    assert errors.n_frames == 6
    assert errors.rmse("f") == pytest.approx(np.sqrt(np.mean((force - said_force) ** 2)), rel=1e-6)
    assert errors.rmse("e") == pytest.approx(np.std(energy - said_energy), rel=1e-6)


def test_a_sum_with_the_zero_of_its_networks(folder, caplog):
    model = save_model("base.dp", 3)
    parts = [XML_PART, {"type": "deep", "file": "base.dp"}]
    write({"type": "sum", "models": parts, "weights": [1.0, 0.5]})
    errors = testing.test(folder / "model.json", system="data", detail_file=folder / "out")
    (energy, force), (field_energy, field_force) = labels("data"), labels("alone")
    deep_energy, deep_force = said(model, np.load("data/set.000/coord.npy").reshape(6, 4, 3))
    found = field_energy[:, 0] + 0.5 * deep_energy, field_force + 0.5 * deep_force.reshape(6, -1)
    assert errors.rmse("e") == pytest.approx(np.sqrt(np.mean((energy[:, 0] - found[0]) ** 2)), rel=1e-6)
    assert errors.rmse("f") == pytest.approx(np.sqrt(np.mean((force - found[1]) ** 2)), rel=1e-6)
    np.testing.assert_allclose(np.loadtxt("out.e.out"), np.stack([energy[:, 0], found[0]], axis=1), rtol=0, atol=1e-6)


def test_some_frames_of_a_sum(folder):
    save_model("base.dp", 3)
    write({"type": "sum", "models": [{"type": "deep", "file": "base.dp"}]})
    errors = testing.test(folder / "model.json", system="data", numb_test=2)
    with_file = testing.test(folder / "base.dp", system="data", numb_test=2)
    assert errors.n_frames == 2
    assert errors.rmse("f") == pytest.approx(with_file.rmse("f"), rel=1e-9)


def test_chunks_change_nothing(folder, monkeypatch):
    write(XML_PART)
    whole = testing.test(folder / "model.json", system="data")
    monkeypatch.setattr(testing, "CHUNK_ATOMS", 8)
    parts = testing.test(folder / "model.json", system="data")
    assert parts.rmse("e") == pytest.approx(whole.rmse("e"), rel=1e-9)
    assert parts.rmse("f") == pytest.approx(whole.rmse("f"), rel=1e-9)


def test_data_without_names_of_types_have_those_of_the_first_network(folder):
    save_model("base.dp", 3, ("C", "O", "H"))
    (folder / "data/type_map.raw").unlink()
    (folder / "data/type.raw").write_text("0 1 2 2")
    write({"type": "sum", "models": [{"type": "deep", "file": "base.dp"}]})
    with_file = testing.test(folder / "base.dp", system="data", atomic=True)
    assert testing.test(folder / "model.json", system="data", atomic=True).rmse("e") == pytest.approx(
        with_file.rmse("e")
    )


def test_models_that_need_other_parameters_are_refused(folder):
    for number, default in enumerate((1.0, 2.0)):
        save_model(f"{number}.dp", 1, fitting={"numb_fparam": 1, "default_fparam": [default]})
    write({"type": "sum", "models": [{"type": "deep", "file": f"{number}.dp"} for number in range(2)]})
    with pytest.raises(InputError, match=r"0\.dp has .*default_fparam \(1\.0,\), and 1\.dp has"):
        testing.test(folder / "model.json", system="data")


def test_data_of_the_input_of_a_fit(folder):
    given = {
        "model": XML_PART,
        "parameters": {"rules": [{"select": "*"}]},
        "loss": {"force": 1.0},
        "training": {"training_data": {"systems": ["data"]}},
    }
    (folder / "fit.json").write_text(json.dumps(given))
    assert testing.test(folder / "fit.json", train_data=folder / "fit.json").n_frames == 6


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (NETWORK, {}, "a network without weights"),
        ({"type": "sum", "models": [XML_PART, NETWORK]}, {}, 'give the trained one, {"type": "deep"'),
        ({"type": "deep", "file": "base.dp"}, {}, "name the model file itself"),
        (XML_PART, {"atomic": True}, "--atomic is for networks"),
        ({**XML_PART, "topology": "none.pdb"}, {}, 'no file "none.pdb"'),
        ({"type": "sum", "models": [XML_PART, XML_PART]}, {}, "name all their files in one"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, model, options, message):
    write(model)
    with pytest.raises(InputError, match=message):
        testing.test(folder / "model.json", system="data", **options)


def test_a_file_without_a_model_is_refused(folder):
    (folder / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"\$\.model: this key is required"):
        testing.test(folder / "model.json", system="data")
