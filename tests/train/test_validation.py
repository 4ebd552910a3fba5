"""Errors over whole data sets: against the frame-by-frame evaluation, and in runs that stop and go on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.model import Model
from diffff.train import checkpoint, data_errors
from diffff.train import summary as summaries
from diffff.train.config import read_input
from diffff.train.data_errors import errors_of_nothing, errors_over
from diffff.train.evaluate import Errors, compare, evaluate
from diffff.train.loop import train
from diffff.train.setup import Problem, prepare
from diffff.train.summary import summary
from diffff.train.validation import full_validations
from tests.train.made_systems import write_mixed_system, write_system


def write_input(folder: Path, systems: list[Path], validating: dict[str, Any] | None = None, **training: Any) -> Path:
    data = {"systems": [str(system) for system in systems], "batch_size": 1}
    section = {
        "model": {
            "type_map": ["H", "O"],
            "descriptor": {"type": "se_a", "sel": [8, 4], "rcut": 3.0, "neuron": [4, 8], "axis_neuron": 2, "seed": 1},
            "fitting_net": {"neuron": [8], "seed": 1},
        },
        "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 1e-4, "decay_steps": 2},
        "loss": {"type": "ener", "start_pref_e": 1, "start_pref_f": 10, "start_pref_v": 1, "limit_pref_v": 1},
        "training": {"training_data": data, "validation_data": data, "numb_steps": 8, "seed": 3, **training},
        "validating": {} if validating is None else validating,
    }
    path = folder / "input.json"
    path.write_text(json.dumps(section))
    return path


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    """Two systems of one group, one of them without a box, and a mixed one with virtual atoms."""
    folder = tmp_path_factory.mktemp("data")
    boxed, free = write_system(folder / "boxed", (3, 2)), write_system(folder / "free", (4,))
    (free / "nopbc").touch()
    (free / "set.000" / "box.npy").unlink()
    mixed = write_mixed_system(folder / "mixed", [[0, 1, 0], [1, 0, -1], [0, -1, -1]], (3,))
    return prepare(read_input(write_input(folder, [boxed, free, mixed])), None, skip_neighbor_stat=False)


def by_frame(problem: Problem) -> Errors:
    model, total = Model(spec=problem.model, params=problem.params), Errors()
    for system in problem.train.systems:
        frames = np.arange(system.n_frames)
        labels = {name: system.labels[name] for name in ("energy", "force", "virial")}
        total += compare(
            evaluate(model, system, frames), labels, system.types, model.type_map, real=system.real, boxes=system.boxes
        )
    return total


@pytest.mark.parametrize("chunk_atoms", [7, 1024])
def test_agrees_with_evaluation_frame_by_frame(problem: Problem, monkeypatch, chunk_atoms: int) -> None:
    monkeypatch.setattr(data_errors, "CHUNK_ATOMS", chunk_atoms)
    basis = Model(spec=problem.model, params=problem.params).basis(problem.shortest)
    found = errors_over(problem.model, problem.params, problem.train, basis)
    zero, alone = errors_of_nothing(problem.train, problem.model.type_map)
    assert alone is None
    wanted = by_frame(problem)
    assert found.n_frames == wanted.n_frames == 12
    for quantity in wanted.sums:
        assert found.mae(quantity) == pytest.approx(wanted.mae(quantity), rel=1e-9), quantity
        assert found.rmse(quantity) == pytest.approx(wanted.rmse(quantity), rel=1e-9), quantity
    forces = [s.labels["force"][s.real if s.real is not None else ...].ravel() for s in problem.train.systems]
    assert zero.rmse("f") == pytest.approx(np.sqrt(np.mean(np.concatenate(forces) ** 2)), rel=1e-12)


def test_is_compiled_once_for_each_group(problem: Problem, monkeypatch) -> None:
    traced = []

    def counted(*arguments):
        traced.append(arguments)
        return data_errors._share_predicted(*arguments)

    monkeypatch.setattr(data_errors, "_predict", jax.jit(counted, static_argnums=(0, 4, 5)))
    monkeypatch.setattr(data_errors, "CHUNK_ATOMS", 7)
    for factor in (1.0, 1.1):
        params = jax.tree.map(lambda x, factor=factor: factor * x, problem.params)
        errors_over(problem.model, params, problem.train, None)
        errors_over(problem.model, params, problem.train, None, limit=5)
    assert len(traced) == len(problem.train.groups) == 2


def test_summary_says_how_many_frames_it_looked_at(problem: Problem, monkeypatch) -> None:
    monkeypatch.setattr(summaries, "SUMMARY_FRAMES", 5)
    basis = Model(spec=problem.model, params=problem.params).basis(problem.shortest)
    lines = summary(problem, {"last": problem.params, "ema": problem.params}, basis).splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "training", "training, EMA weights", "validation", "validation, EMA weights",
    ]  # fmt: skip
    assert "5 of 12" in lines[1]
    assert lines[3].split()[1] == "12"
    wanted = by_frame(problem)
    assert f"{1000 * wanted.rmse('e_peratom'):.4g} meV" in lines[3]
    assert f"{1000 * wanted.rmse('f'):.4g} meV/Å" in lines[3]


VALIDATING = {
    "full_validation": True,
    "ema_full_validation": True,
    "validation_freq": 2,
    "full_val_start": 2,
    "validation_metric": "f:rmse",
    "max_best_ckpt": 2,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run with full validation of the weights and of their average."""
    folder = tmp_path_factory.mktemp("run")
    system = write_system(folder / "data", (3,))
    path = write_input(
        folder, [system], VALIDATING, enable_ema=True, ema_decay=0.5, save_freq=3, disp_freq=4,
        save_ckpt=str(folder / "model.ckpt"), disp_file=str(folder / "lcurve.out"),
    )  # fmt: skip
    given = json.loads(path.read_text())
    given["validating"]["full_val_file"] = str(folder / "val.log")
    path.write_text(json.dumps(given))
    train(path, output=folder / "out.json")
    return folder


def rows(path: Path) -> list[list[float]]:
    return [[float(x) for x in line.split()] for line in path.read_text().splitlines() if not line.startswith("#")]


def contents(folder: Path) -> dict[str, Any]:
    """The tables, and the arrays of all checkpoints."""
    found: dict[str, Any] = {path.name: path.read_text() for path in folder.glob("val*.log")}
    for path in folder.glob("*.h5"):
        with h5py.File(path) as file:
            arrays: dict[str, bytes] = {}
            file.visititems(
                lambda name, node, arrays=arrays: arrays.update(
                    {name: node[()].tobytes()} if isinstance(node, h5py.Dataset) and name != "header" else {}
                )
            )
        found[path.name] = arrays
    return found


def test_table_has_a_row_for_each_validation(finished: Path) -> None:
    text = (finished / "val.log").read_text()
    assert text.splitlines()[0].split() == [
        "#", "step", "E_MAE(meV/atom)", "E_RMSE(meV/atom)", "F_MAE(meV/Å)", "F_RMSE(meV/Å)", "S_MAE(meV/Å³)",
        "S_RMSE(meV/Å³)",
    ]  # fmt: skip
    table = rows(finished / "val.log")
    assert [row[0] for row in table] == [2, 4, 6, 8]
    assert f"{finished}/best.ckpt-2.t-1.h5 (F:RMSE = " in text


def test_best_models_are_those_with_the_smallest_errors(finished: Path) -> None:
    for prefix, log in (("best", "val.log"), ("best_ema", "val_ema.log")):
        ranked = sorted(rows(finished / log), key=lambda row: row[4])[:2]
        expected = {f"{prefix}.ckpt-{row[0]:.0f}.t-{rank}.h5" for rank, row in enumerate(ranked, start=1)}
        assert {path.name for path in finished.glob(f"{prefix}.ckpt-*")} == expected


def test_best_averaged_model_holds_the_average(finished: Path) -> None:
    for path in finished.glob("best_ema.ckpt-*.t-1.h5"):
        with h5py.File(path) as file:
            name = "DeepPot/fitting/nets/O/0/w"
            assert np.array_equal(file[f"trained/{name}"], file[f"ema/{name}"])


def test_restart_continues_table_and_record(finished: Path) -> None:
    whole = contents(finished)
    given = finished / "input.json"
    train(given, restart=finished / "model.ckpt-3.h5", output=finished / "out.json")
    assert contents(finished) == whole


def test_restart_with_another_metric_begins_a_new_record(finished: Path) -> None:
    given = read_input(finished / "input.json")
    other = given.model_copy(update={"validating": given.validating.model_copy(update={"validation_metric": "E:MAE"})})
    problem = prepare(other, None, skip_neighbor_stat=True)
    old = checkpoint.read(finished / "model.ckpt-6.h5")
    assert [v.best.record for v in full_validations(problem)] == [[], []]
    for check in full_validations(prepare(given, None, skip_neighbor_stat=True)):
        check.restore(old)
        assert len(check.best.record) == 2
    for check in full_validations(problem):
        check.restore(old)
        assert check.best.record == []


def test_virial_replaces_stress_where_it_ranks(tmp_path: Path) -> None:
    system = write_system(tmp_path / "data", (3,))
    given = read_input(write_input(tmp_path, [system], {"full_validation": True, "validation_metric": "V:MAE"}))
    (check,) = full_validations(prepare(given, None, skip_neighbor_stat=True))
    check = dataclasses.replace(check, log=tmp_path / "val.log")
    check.open(None)
    assert check.log.read_text().splitlines()[0].split()[-2:] == ["V_MAE(meV/atom)", "V_RMSE(meV/atom)"]


def test_full_disks_are_told(tmp_path: Path) -> None:
    system = write_system(tmp_path / "data", (3,))
    given = read_input(write_input(tmp_path, [system], {"full_validation": True, "save_best": False}))
    problem = prepare(given, None, skip_neighbor_stat=True)
    (check,) = full_validations(problem)
    check = dataclasses.replace(check, log=Path("/dev/full"))
    with pytest.raises(InputError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        check.run(1, {"last": problem.params}, None, lambda: None)


def test_a_table_that_is_none_is_not_continued(problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "val.log").write_text("# step\nfive 1.0\n")
    given = problem.given.validating.model_copy(update={"full_validation": True, "full_val_file": tmp_path / "val.log"})
    problem = dataclasses.replace(problem, given=problem.given.model_copy(update={"validating": given}))
    with pytest.raises(InputError, match=r"val\.log: cannot be continued .*five.* Move the file away"):
        full_validations(problem)[0].open(5)


@pytest.mark.parametrize(("metric", "missing"), [("V:MAE", "virial"), ("S:RMSE", "box")])
def test_metric_without_label_is_refused(tmp_path: Path, metric: str, missing: str) -> None:
    system = write_system(tmp_path / "data", (3,))
    if missing == "virial":
        (system / "set.000" / "virial.npy").unlink()
    else:
        (system / "nopbc").touch()
    given = read_input(write_input(tmp_path, [system], {"full_validation": True, "validation_metric": metric}))
    problem = prepare(given, None, skip_neighbor_stat=True)
    with pytest.raises(InputError, match=f"{metric}.*have no {missing}"):
        full_validations(problem)
