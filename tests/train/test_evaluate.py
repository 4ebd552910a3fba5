import json
import logging
from pathlib import Path

import numpy as np
import pytest

from diffff import spec
from diffff.data.systems import read_systems
from diffff.errors import InputError
from diffff.model import Model
from diffff.potentials.deep import DeepModel
from diffff.train import evaluate, plot, testing
from diffff.train.details import DetailFiles
from diffff.train.evaluate import Errors, compare
from tests.train.made_systems import write_mixed_system, write_system

TYPE_MAP = ["O", "H"]  # other than in the data, so that the atoms are sorted
DETAILS = ["ae", "e", "e_peratom", "f", "v", "v_peratom"]


def make_model(**fitting) -> Model:
    descriptor = {"type": "se_e2_a", "sel": [8, 16], "rcut": 3.0, "neuron": [4, 8], "axis_neuron": 2, "seed": 1}
    model = spec.validate(
        DeepModel,
        {
            "type_map": TYPE_MAP,
            "descriptor": {**descriptor, "evaluation": "direct"},
            "fitting_net": {"neuron": [8, 8], "seed": 1, **fitting},
        },
    )
    return Model(model, {"DeepPot": {**model.init(), "bias": np.array([-3.0, -1.0])}})


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def run(model, monkeypatch, caplog):
    """Test the model; gives the errors, and what was printed in `run.text()`."""
    monkeypatch.setattr(testing, "load_model_of", lambda path, whole: model)
    caplog.set_level(logging.INFO, logger="diffff")

    def run(**options) -> Errors:
        return testing.test(Path("model.dp"), **options)

    run.text = lambda: [record.getMessage() for record in caplog.records]
    return run


def relabel(folder: Path, model: Model, energy: float, force: float, virial: float) -> None:
    """Labels that lie these amounts above what the model predicts; the force only in x of the first atom."""
    system = read_systems(str(folder), TYPE_MAP)[0]
    prediction = evaluate.evaluate(model, system, np.arange(system.n_frames))
    forces = system.in_file_order(prediction["force"])
    forces[:, 0, 0] += force
    stop = 0
    for part, size in zip(sorted(folder.glob("set.*")), system.set_sizes, strict=True):
        frames = slice(stop, stop := stop + size)
        np.save(part / "energy.npy", prediction["energy"][frames] + energy)
        np.save(part / "force.npy", forces[frames].reshape(size, -1))
        np.save(part / "virial.npy", prediction["virial"][frames].reshape(size, 9) + virial)


# -------------------------------------------------------------------------------------------------------- compare
def test_errors_of_a_batch_by_hand():
    shapes = {"energy": (2,), "force": (2, 2, 3), "virial": (2, 3, 3), "atom_ener": (2, 2)}
    prediction = {name: np.zeros(shape) for name, shape in shapes.items()}
    force = np.zeros((2, 2, 3))
    force[0, 0, 0], force[1, 1, 2] = 3.0, -1.0
    labels = {
        "energy": np.array([2.0, -4.0]),
        "force": force,
        "virial": np.stack([np.eye(3), np.zeros((3, 3))]),
        "atom_ener": np.array([[1.0, 0.0], [0.0, -3.0]]),
        "atom_pref": np.array([[1.0, 1.0], [0.0, 3.0]]),
    }
    boxes = np.stack([2.0 * np.eye(3), np.eye(3)])
    errors = compare(prediction, labels, np.array([0, 1]), TYPE_MAP, boxes=boxes)

    assert errors.n_frames == 2
    expected = {
        "e": (3.0, 10**0.5),
        "e_peratom": (1.5, 2.5**0.5),
        "f": (4 / 12, (10 / 12) ** 0.5),
        "f_O": (3 / 6, (9 / 6) ** 0.5),
        "f_H": (1 / 6, (1 / 6) ** 0.5),
        "fw": ((3 + 3) / 15, (9 + 3) ** 0.5 / 15**0.5),
        "v": (3 / 18, (3 / 18) ** 0.5),
        "v_peratom": (1.5 / 18, (0.75 / 18) ** 0.5),
        "s": (3 / 8 / 18, (3 / 64 / 18) ** 0.5),
        "ae": (1.0, 2.5**0.5),
    }
    assert set(errors.sums) == set(expected)
    for name, (mae, rmse) in expected.items():
        assert errors.mae(name) == pytest.approx(mae, rel=1e-14), name
        assert errors.rmse(name) == pytest.approx(rmse, rel=1e-14), name


def test_empty_slots_count_nowhere():
    real = np.array([[True, True, False]])
    force = np.array([[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [50.0, 50.0, 50.0]]])
    prediction = {"energy": np.array([4.0]), "force": force, "atom_ener": np.array([[2.0, 2.0, 50.0]])}
    labels = {"energy": np.zeros(1), "force": np.zeros((1, 3, 3)), "atom_ener": np.zeros((1, 3))}
    errors = compare(prediction, labels, np.array([0, 1, 1]), TYPE_MAP, real=real)
    assert [errors.mae(name) for name in ("e_peratom", "f", "f_H", "ae")] == [2.0, 1.0, 1.0, 2.0]


def test_errors_of_parts_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(0)
    prediction = {"energy": rng.normal(size=5), "force": rng.normal(size=(5, 2, 3))}
    labels = {"energy": rng.normal(size=5), "force": rng.normal(size=(5, 2, 3))}

    def part(frames: slice) -> Errors:
        prediction_part, labels_part = ({k: v[frames] for k, v in d.items()} for d in (prediction, labels))
        return compare(prediction_part, labels_part, np.array([0, 1]), TYPE_MAP)

    whole, parts = part(slice(None)), part(slice(0, 2)) + part(slice(2, 5))
    assert parts.n_frames == 5
    assert [parts.rmse(name) for name in whole.sums] == pytest.approx([whole.rmse(name) for name in whole.sums])
    assert np.isnan(parts.mae("v"))


# ----------------------------------------------------------------------------------------------------------- test
def test_the_report_and_the_average_over_frames(tmp_path, model, run):
    relabel(write_system(tmp_path / "a", (1,)), model, energy=0.3, force=0.9, virial=0.6)
    relabel(write_system(tmp_path / "b", (2, 1)), model, energy=-0.6, force=1.8, virial=0.0)
    errors = run(system=str(tmp_path))
    assert errors.n_frames == 4
    assert errors.mae("e") == pytest.approx((0.3 + 3 * 0.6) / 4)
    assert errors.rmse("f") == pytest.approx(((0.9**2 + 3 * 1.8**2) / (4 * 9)) ** 0.5)
    lines = run.text()
    assert f"# testing system : {tmp_path / 'a'}" in lines
    first = lines[lines.index("# number of test data : 1") + 1 :]
    assert first[:12] == [
        "Energy MAE         : 3.000000e-01 eV",
        "Energy RMSE        : 3.000000e-01 eV",
        "Energy MAE/Natoms  : 1.000000e-01 eV",
        "Energy RMSE/Natoms : 1.000000e-01 eV",
        "Force  MAE         : 1.000000e-01 eV/Å",
        "Force  RMSE        : 3.000000e-01 eV/Å",
        "Virial MAE         : 6.000000e-01 eV",
        "Virial RMSE        : 6.000000e-01 eV",
        "Virial MAE/Natoms  : 2.000000e-01 eV",
        "Virial RMSE/Natoms : 2.000000e-01 eV",
        "Stress MAE         : 1.171875e-03 eV/Å³",
        "Stress RMSE        : 1.171875e-03 eV/Å³",
    ]
    by_element = [line.split(" : ") for line in first[12:16]]
    names = [name.strip() for name, _ in by_element]
    assert names == ["O force MAE", "O force RMSE", "H force MAE", "H force RMSE"]
    values = [float(value.split()[0]) for _, value in by_element]  # the first atom, whose label is off, is H
    assert values == pytest.approx([0, 0, 0.9 / 6, 0.9 / 6**0.5], abs=1e-6)
    assert "# ----------weighted average of errors-----------" in lines
    assert "# number of systems : 2" in lines


def test_detail_files_are_read_back(tmp_path, model, run):
    relabel(write_system(tmp_path / "data/a", (2,)), model, energy=0.3, force=0.9, virial=0.6)
    relabel(write_system(tmp_path / "data/b", (1,)), model, energy=0.6, force=0.0, virial=0.0)
    prefix = tmp_path / "out/run.1"
    run(system=str(tmp_path / "data"), detail_file=prefix, atomic=True)
    assert sorted(p.name for p in prefix.parent.iterdir()) == [f"run.1.{kind}.out" for kind in DETAILS]

    def read(kind: str) -> np.ndarray:
        return plot._read_detail(prefix.with_name(f"run.1.{kind}.out"))

    known, predicted = read("e")
    assert known - predicted == pytest.approx([0.3, 0.3, 0.6])
    assert np.array_equal(read("e_peratom"), read("e") / 3)
    known, predicted = read("f")
    assert known - predicted == pytest.approx(np.r_[np.tile(np.r_[0.9, np.zeros(8)], 2), np.zeros(9)])
    known, predicted = read("v")
    assert known - predicted == pytest.approx(np.r_[np.full(18, 0.6), np.zeros(9)])
    assert read("v_peratom").shape == (2, 27)
    text = (prefix.parent / "run.1.f.out").read_text()
    headers = [line for line in text.splitlines() if line.startswith("#")]
    columns = "data_fx data_fy data_fz pred_fx pred_fy pred_fz"
    assert headers == [f"# {tmp_path / 'data' / name}: {columns}" for name in "ab"]
    assert "data_vxx data_vxy data_vxz data_vyx" in (prefix.parent / "run.1.v.out").read_text()

    atomic = np.loadtxt(prefix.parent / "run.1.ae.out")  # no labels
    assert np.isnan(atomic[:, 0]).all()
    assert atomic[:, 1].reshape(3, 3).sum(axis=1) == pytest.approx(read("e")[1])


def test_a_missing_label_is_said(tmp_path, model, run):
    system = write_system(tmp_path / "a", (2,))
    (system / "set.000/virial.npy").unlink()
    (system / "set.000/energy.npy").unlink()
    (system / "set.000/box.npy").unlink()
    (system / "nopbc").touch()
    errors = run(system=str(system), detail_file=tmp_path / "out")
    assert set(errors.sums) == {"f", "f_O", "f_H"}
    assert "# no label in the data, so no error : energy, virial" in run.text()
    assert not any(line.startswith(("Energy", "Virial", "Stress")) for line in run.text())
    energies = np.loadtxt(tmp_path / "out.e.out")
    assert np.isnan(energies[:, 0]).all() and np.isfinite(energies[:, 1]).all()


def test_virtual_atoms_of_a_mixed_system(tmp_path, model, run):
    system = write_mixed_system(tmp_path / "a", [[0, 1, 0], [0, 1, -1]], (2,))
    errors = run(system=str(system), detail_file=tmp_path / "out")
    forces = np.loadtxt(tmp_path / "out.f.out").reshape(2, 3, 6)
    assert np.isnan(forces[1, 2, :3]).all() and not forces[1, 2, 3:].any()
    assert np.isfinite(forces[0]).all() and np.isfinite(forces[1, :2]).all()
    label, prediction = plot._read_detail(tmp_path / "out.f.out")
    assert errors.rmse("f") == pytest.approx(np.sqrt(np.mean((label - prediction) ** 2)))

    coord, box = (np.load(system / f"set.000/{name}.npy") for name in ("coord", "box"))
    energy, force, _ = model.eval(coord[1, :6], box[1], [1, 0])
    assert np.loadtxt(tmp_path / "out.e.out")[1, 1] == pytest.approx(energy.item(), rel=1e-12)
    assert np.loadtxt(tmp_path / "out.e_peratom.out")[1, 1] == pytest.approx(energy.item() / 2, rel=1e-12)
    assert forces[1, :2, 3:] == pytest.approx(force[0], abs=1e-12)


def test_frame_and_atomic_parameters(tmp_path, monkeypatch):
    model = make_model(numb_fparam=1, numb_aparam=1)
    monkeypatch.setattr(testing, "load_model_of", lambda path, whole: model)
    system = write_system(tmp_path / "a", (2,))
    with pytest.raises(InputError, match=r"fparam\.npy"):
        testing.test(Path("model.dp"), system=str(system))
    fparam, aparam = np.array([[0.5], [-0.5]]), np.arange(6.0).reshape(2, 3)
    np.save(system / "set.000/fparam.npy", fparam)
    np.save(system / "set.000/aparam.npy", aparam)
    testing.test(Path("model.dp"), system=str(system), detail_file=tmp_path / "out")
    coord, box = (np.load(system / f"set.000/{name}.npy") for name in ("coord", "box"))
    energy, *_ = model.eval(coord, box, [1, 0, 1], fparam=fparam, aparam=aparam)
    assert np.loadtxt(tmp_path / "out.e.out")[:, 1] == pytest.approx(energy[:, 0], rel=1e-12)


def test_chunks_change_nothing(tmp_path, run, monkeypatch):
    system = str(write_system(tmp_path / "a", (5,)))
    whole = run(system=system, detail_file=tmp_path / "whole")
    monkeypatch.setattr(testing, "CHUNK_ATOMS", 7)
    assert run(system=system, detail_file=tmp_path / "parts").rmse("f") == pytest.approx(whole.rmse("f"), rel=1e-12)
    assert (tmp_path / "parts.f.out").read_text() == (tmp_path / "whole.f.out").read_text()


def test_some_frames_only(tmp_path, run):
    system = write_system(tmp_path / "a", (10,))
    labels = np.load(system / "set.000/energy.npy")

    def tested(**options) -> list[float]:
        run(system=str(system), numb_test=3, detail_file=tmp_path / "out", **options)
        return np.loadtxt(tmp_path / "out.e.out")[:, 0].tolist()

    assert tested() == labels[:3].tolist()
    drawn = tested(shuffle_test=True, rand_seed=5)
    assert len(set(drawn)) == 3 and set(drawn) < set(labels) and drawn != labels[:3].tolist()
    assert drawn == tested(shuffle_test=True, rand_seed=5)


# -------------------------------------------------------------------------------------------------------- sources
def test_where_the_systems_come_from(tmp_path, run):
    for name in ("a", "b", "c"):
        write_system(tmp_path / name, (1,))
    datafile = tmp_path / "list"
    datafile.write_text(f"{tmp_path / 'a'}\n\n{tmp_path / 'b'}\n")
    assert run(datafile=datafile).n_frames == 2
    given = {
        "model": {
            "type_map": TYPE_MAP,
            "descriptor": {"type": "se_e2_a", "sel": [8, 16]},
            "fitting_net": {"neuron": [8]},
        },
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-8},
        "training": {"training_data": {"systems": ["a", "b", "c"], "batch_size": 1}, "numb_steps": 1},
    }
    path = tmp_path / "input.json"
    path.write_text(json.dumps(given))
    assert run(train_data=path).n_frames == 3
    with pytest.raises(InputError, match="has no training"):
        run(valid_data=path)
    given["training"]["validation_data"] = {"systems": "a"}
    path.write_text(json.dumps(given))
    assert run(valid_data=path).n_frames == 1


def test_nothing_to_test_on(tmp_path, run):
    (tmp_path / "list").write_text("\n")
    with pytest.raises(InputError, match="names no system"):
        run(datafile=tmp_path / "list")
    with pytest.raises(InputError, match="cannot be read as a list"):
        run(datafile=tmp_path / "missing")
    with pytest.raises(InputError, match="no data to test on"):
        run()


# --------------------------------------------------------------------------------------------------------- details
def test_detail_files_appear_as_a_whole_or_not_at_all(tmp_path, model):
    folder = tmp_path / "out"
    system = read_systems(str(write_system(tmp_path / "a")), TYPE_MAP)[0]
    frames = np.arange(2)
    prediction = {"energy": np.zeros(2), "force": np.zeros((2, 3, 3)), "virial": np.zeros((2, 3, 3))}
    with pytest.raises(KeyboardInterrupt), DetailFiles(folder / "x") as details:
        details.add(system, frames, prediction)
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == []
    with DetailFiles(folder / "x") as details:
        details.add(system, frames, prediction)
        assert not list(folder.glob("x.*"))
    assert len(list(folder.iterdir())) == 5

    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no directory"), DetailFiles(tmp_path / "file/x") as details:
        details.add(system, frames, prediction)
