"""The training as a whole: stopping and going on, beginnings from other runs, and what it refuses."""

import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from diffff import tree
from diffff.errors import InputError
from diffff.model import load
from diffff.train import checkpoint as ckpt
from diffff.train import loop
from diffff.train.config import read_input
from diffff.train.evaluate import evaluate
from diffff.train.lcurve import read_lcurve
from diffff.train.loop import Interruption, Run
from diffff.train.progress import Progress
from diffff.train.setup import prepare
from diffff.train.step import _all_finite, batch_loss
from tests.train import small


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Systems of three layouts: two molecules in a box, one without a box or virial, and of type mixed_type."""
    folder = tmp_path_factory.mktemp("data")
    small.write_system(folder / "water", (3, 2), 2)
    small.write_system(folder / "shifted", (5,), 2, seed=30, energy_shift=7.0)
    small.write_system(folder / "gas", (4,), 1, box=None, leave_out=["virial"])
    small.write_mixed_system(folder / "mixed", [[0, 1, 1, -1], [1, 0, 1, 0], [1, -1, -1, 0], [1, 1, 1, 0]])
    small.write_system(folder / "valid", (3,), 2, seed=50)
    return folder


def simple(data, **changes):
    return {"training.training_data.systems": [str(data / "water")], **changes}


def everything(data):
    """An input with all that a checkpoint has to remember."""
    return {
        "training.training_data": {
            "systems": [str(data / name) for name in ("water", "gas", "mixed")],
            "batch_size": [2, 1, 2],
        },
        "training.validation_data": {"systems": [str(data / "valid")], "batch_size": 2, "numb_btch": 2},
        "training.numb_steps": 23,
        "training.disp_avg": True,
        "training.max_ckpt_keep": 10,
        "training.acc_freq": 2,
        "training.enable_ema": True,
        "training.ema_decay": 0.9,
        "training.enable_swa": True,
        "training.swa_start": 0.3,
        "training.swa_freq": 2,
        "training.gradient_max_norm": 50.0,
        "loss.start_pref_v": 1.0,
        "optimizer": {"type": "AdamW", "rules": [{"select": "*/b", "lr_scale": 0.5}]},
    }


@pytest.fixture(autouse=True)
def no_summary(monkeypatch):
    """The errors over all data at the end of a run are another matter, and take a program for each layout."""
    monkeypatch.setattr(loop, "summary", lambda *_: "")


class Killed(BaseException):
    """What a `kill -9` looks like from inside: nothing is done any more."""


@pytest.fixture
def at_step(monkeypatch):
    """Does something right after a step of the next training, whose steps are calls of their own."""

    def plan(wanted, action):
        original = Progress.update
        monkeypatch.setattr(loop, "_CALL", 0.0)

        def update(self, step):
            original(self, step)
            if step == wanted:
                monkeypatch.setattr(Progress, "update", original)
                action()

        monkeypatch.setattr(Progress, "update", update)

    return plan


def kill():
    raise Killed


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A simple run of 10 steps."""
    return small.train_in(tmp_path_factory.mktemp("finished"), simple(data))


@pytest.mark.slow
# ---------------------------------------------------------------------- stopping and going on
def test_an_interrupted_run_ends_as_if_it_had_not_been(data, tmp_path, at_step, caplog):
    changes = everything(data)
    whole = small.train_in(tmp_path / "whole", changes)
    parts = tmp_path / "parts"
    at_step(7, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        small.train_in(parts, changes)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert ckpt.find(parts) == parts / "model.ckpt-7.h5"
    assert "SIGTERM: stopped at step 7; continue with --restart model.ckpt-7.h5" in caplog.messages
    at_step(18, kill)
    with pytest.raises(Killed):
        small.train_in(parts, changes, restart=parts)
    assert ckpt.find(parts) == parts / "model.ckpt-15.h5"
    assert read_lcurve(parts / "lcurve.out")["step"][-1] == 18 - 3
    end = small.train_in(parts, changes, restart=parts)
    assert small.digest(end) == small.digest(whole)
    assert (parts / "lcurve.out").read_bytes() == (tmp_path / "whole" / "lcurve.out").read_bytes()
    assert not any("not the input of the checkpoint" in message for message in caplog.messages)


@pytest.mark.slow
def test_refined_splines_are_those_of_an_uninterrupted_run(data, tmp_path, at_step):
    changes = simple(data, **{"learning_rate.start_lr": 0.5, "training.numb_steps": 12, "training.save_freq": 10})
    whole = small.train_in(tmp_path / "whole", changes)
    begun, refined = Run.begin(small.problem_of(tmp_path, changes)).basis, ckpt.read(whole).basis
    assert refined.n > begun.n
    parts = tmp_path / "parts"
    for step in (7, 11):  # before and after they are refined, which an interruption must not bring forward
        at_step(step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit):
            small.train_in(parts, changes, restart=parts if step > 7 else None)
        assert ckpt.read(parts).basis == (begun if step < 10 else refined)
    assert small.digest(small.train_in(parts, changes, restart=parts)) == small.digest(whole)


def dff(folder, *words):
    env = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-c", "import diffff.cli; diffff.cli.main()", "train", "input.json", *words]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(folder, process, than=""):
    """Until another checkpoint than this is there."""
    pointer, deadline = folder / "checkpoint", time.monotonic() + 120
    while not pointer.is_file() or pointer.read_text() == than:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pointer.read_text()


@pytest.mark.slow
def test_processes_that_are_terminated_and_killed_end_as_one_that_is_not(data, tmp_path):
    changes = simple(data, **{"training.numb_steps": 3001, "training.save_freq": 50, "training.disp_freq": 20})
    for name in ("whole", "parts"):
        small.write_input(tmp_path / name, changes)
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    uninterrupted = dff(whole)
    _, log = uninterrupted.communicate()
    assert uninterrupted.returncode == 0, log

    terminated = dff(parts)
    wait_for_checkpoint(parts, terminated)
    terminated.send_signal(signal.SIGTERM)
    _, log = terminated.communicate()
    assert terminated.returncode == 128 + signal.SIGTERM
    assert "WARNING: SIGTERM: stopped at step" in log
    assert "Traceback" not in log

    killed = dff(parts, "--restart", ".")
    wait_for_checkpoint(parts, killed, than=(parts / "checkpoint").read_text())
    time.sleep(random.uniform(0.0, 0.5))
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert ckpt.read(parts).step < 3001

    continued = dff(parts, "--restart", ".")
    _, log = continued.communicate()
    assert continued.returncode == 0, log
    assert small.digest(parts / "model.ckpt-3001.h5") == small.digest(whole / "model.ckpt-3001.h5")
    assert (parts / "lcurve.out").read_bytes() == (whole / "lcurve.out").read_bytes()


def test_ctrl_c_saves_and_a_second_one_stops_at_once(data, tmp_path, at_step):
    at_step(2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as stopped:
        small.train_in(tmp_path, simple(data))
    assert stopped.value.code == 130
    assert ckpt.read(tmp_path).step == 2

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(4, twice)
    with pytest.raises(KeyboardInterrupt):
        small.train_in(tmp_path, simple(data), restart=tmp_path)
    assert ckpt.read(tmp_path).step == 2


def test_sigterm_may_come_twice():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_longer_run_can_be_continued_and_says_that_it_is_another(data, finished, tmp_path, caplog, monkeypatch):
    with pytest.raises(InputError, match=r"the checkpoint is at step 10, and the run ends at 10. Raise numb_steps."):
        small.train_in(tmp_path, simple(data), restart=finished)
    monkeypatch.setattr(Run, "to_the_end", lambda run, *_, **__: run)
    longer = simple(data, **{"training.numb_steps": 12, "optimizer": {"adam_beta1": 0.8}})
    path = small.write_input(tmp_path, longer)
    with contextlib.chdir(tmp_path):
        run = loop.train(path, restart=finished)
    assert int(run.state.step) == 10
    assert caplog.messages[-1] == (
        "not the input of the checkpoint, so the run continues as another: "
        "optimizer.adam_beta1 was 0.9 and is 0.8; training.numb_steps was 10 and is 12"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.descriptor.neuron": [3, 6]},
            r"model: model.descriptor.neuron is \[3, 6\] in the input and \[2, 4\]",
        ),
        ({"model.type_map": ["H", "O"]}, r"another model: model.type_map is \['H', 'O'\] in the input"),
        (
            {"training.training_data.systems": ["gas"]},
            "The data are not those of the checkpoint: it has systems of",
        ),
        ({"optimizer": {"type": "AdamW"}}, "the state of the optimiser in the checkpoint is not that"),
        ({"training.acc_freq": 2}, "the state of the optimiser in the checkpoint is not that"),
        ({"training.enable_ema": True}, "training.enable_ema differs between the input and the checkpoint"),
        ({"training.disp_avg": True}, "training.disp_avg differs between the input and the checkpoint"),
        (
            {"model.descriptor.trainable": False},
            "DeepPot/descriptor/embeddings/H/0/b is trained in one of them",
        ),
    ],
)
def test_a_restart_of_another_run_is_refused(data, finished, tmp_path, changes, message):
    changes = {key: [str(data / "gas")] if value == ["gas"] else value for key, value in changes.items()}
    with pytest.raises(InputError, match=message):
        small.train_in(tmp_path, {**simple(data), "training.numb_steps": 20, **changes}, restart=finished)


def test_a_restart_with_other_columns_of_the_learning_curve_is_refused(data, finished, tmp_path):
    changes = simple(data, **{"training.numb_steps": 20, "loss.start_pref_v": 1.0})
    tmp_path.joinpath("lcurve.out").write_bytes(finished.with_name("lcurve.out").read_bytes())
    with pytest.raises(InputError, match=r"has the columns step rmse_trn .* while this run writes"):
        small.train_in(tmp_path, changes, restart=finished)


# ---------------------------------------------------------------------- beginnings
def test_a_run_begins_with_the_weights_of_a_checkpoint_or_a_model_file(data, finished, tmp_path):
    ckpt.freeze(finished, tmp_path / "model.dp")
    given = read_input(small.write_input(tmp_path, simple(data)))
    weights = ckpt.read(finished).params()
    for file in (finished, finished.parent, tmp_path / "model.dp"):
        problem = prepare(given, ckpt.load_model_of(file), skip_neighbor_stat=False)
        jax.tree.map(np.testing.assert_array_equal, problem.params, weights)
        assert int(Run.begin(problem).state.step) == 0


def test_what_the_input_leaves_to_the_data_comes_from_the_weights(data, finished, tmp_path):
    changes = simple(data, **{"model.descriptor.sel": "auto", "model.type_map": None})
    given = read_input(small.write_input(tmp_path, changes))
    problem = prepare(given, ckpt.load_model_of(finished), skip_neighbor_stat=False)
    assert problem.model.descriptor.slots == (4, 8)
    assert problem.model.type_map == ("O", "H")


def test_finetuning_removes_the_mean_error_of_the_energies(data, finished, tmp_path):
    changes = simple(data, **{"training.training_data.systems": [str(data / "shifted")]})
    given = read_input(small.write_input(tmp_path, changes))

    def mean_error(finetune):
        problem = prepare(given, ckpt.load_model_of(finished), skip_neighbor_stat=False, finetune=finetune)
        (system,) = problem.train.systems
        model = ckpt.load_model_of(finished)
        model = type(model)(spec=problem.model, params=problem.params)
        energy = evaluate(model, system, np.arange(system.n_frames))["energy"]
        return np.mean(energy - system.labels["energy"])

    assert mean_error(False) < -5.0
    assert abs(mean_error(True)) < 1e-10


def test_weights_of_another_model_are_refused_with_all_keys_that_differ(data, finished, tmp_path):
    changes = {"model.descriptor.rcut": 3.5, "model.fitting_net.neuron": [6], "model.fitting_net.seed": 9}
    with pytest.raises(InputError) as refused:
        small.train_in(tmp_path, simple(data, **changes), init_model=finished)
    assert str(refused.value) == (
        "the weights belong to another model: model.descriptor.rcut is 3.5 in the input and 3.0 in the file; "
        "model.fitting_net.neuron is [6] in the input and [6, 6] in the file. Make the section model that of the run "
        "they are from (it stands in its out.json), or train from the start."
    )


# ---------------------------------------------------------------------- during the run
def test_an_infinite_loss_stops_the_run_before_it_is_saved(data, tmp_path):
    changes = {"learning_rate.start_lr": 1e300, "training.save_freq": 1}
    with pytest.raises(InputError) as stopped:
        small.train_in(tmp_path, simple(data, **changes))
    name = data / "water"
    assert str(stopped.value).startswith(
        f"loss, gradient or weights are not finite after step 2: system {name}, frames ["
    )
    assert [path.name for path in tmp_path.glob("model.ckpt-*.h5")] == ["model.ckpt-1.h5"]
    assert all(np.all(np.isfinite(array)) for array in small.flat(ckpt.read(tmp_path).parts).values())


def test_what_is_finite():
    good = {"a": np.ones(3), "b": [np.zeros(2)]}
    assert _all_finite(good)
    for bad in (np.nan, np.inf, -np.inf):
        assert not _all_finite({**good, "b": [np.array([0.0, bad])]})


def test_frozen_parameters_stay_and_all_others_move(data, tmp_path):
    changes = {
        "model.descriptor.trainable": False,
        "model.fitting_net.trainable": [False, True, True],
        "model.fitting_net.resnet_dt": False,
        "optimizer": {"rules": [{"select": "*/nets/H/1/*", "train": False}]},
        "training.numb_steps": 2,
    }
    before = tree.flatten(small.problem_of(tmp_path, simple(data, **changes)).params)
    end = ckpt.read(small.train_in(tmp_path, simple(data, **changes)))
    moving = {f"DeepPot/fitting/nets/{net}/{leaf}" for net in ("O/1", "O/2", "H/2") for leaf in ("w", "b")}
    assert end.parts["trained"].keys() == moving
    assert end.parts["frozen"].keys() == before.keys() - moving
    assert {name.split("/mu/")[1] for name in end.parts["optimizer"] if "/mu/" in name} == moving
    for path, leaf in before.items():
        after = end.parts["trained" if path in moving else "frozen"][path]
        assert np.array_equal(leaf, after) == (path not in moving), path


def test_splines_and_the_direct_path_train_the_same_model(data, finished, tmp_path):
    spline = ckpt.read(finished)
    direct = ckpt.read(small.train_in(tmp_path, simple(data, **{"model.descriptor.evaluation": "direct"})))
    assert spline.basis is not None
    assert direct.basis is None
    for name, leaf in spline.parts["trained"].items():
        np.testing.assert_allclose(leaf, direct.parts["trained"][name], rtol=0, atol=1e-8)


def test_splines_are_refined_when_the_weights_outgrow_them(data, tmp_path, caplog):
    problem = small.problem_of(tmp_path, simple(data))
    run = Run.begin(problem)
    begun = run.basis
    with caplog.at_level(logging.INFO):
        assert not run._refined()
        assert run.basis == begun
        scale = {path: 4.0 if "embeddings" in path else 1.0 for path in run.state.trained}
        run.state.trained.update({path: leaf * scale[path] for path, leaf in run.state.trained.items()})
        assert run._refined()
    assert run.basis.n > begun.n
    assert run.basis.upper == begun.upper
    assert f"from here on {run.basis.n} functions" in caplog.messages[-1]
    error, tolerance = problem.model.descriptor.spline_error, problem.model.descriptor.tolerance()
    inner = tree.unflatten({**run.state.trained, **run.frozen})["DeepPot"]["descriptor"]
    assert error(inner, problem.model.type_map, run.basis) <= tolerance < error(inner, problem.model.type_map, begun)
    assert not run._refined()


# ---------------------------------------------------------------------- what a run leaves behind
def test_outputs(data, finished, tmp_path):
    given = read_input(small.write_input(tmp_path, simple(data)))
    completed = read_input(finished.with_name("out.json"))
    assert completed == given
    curve = read_lcurve(finished.with_name("lcurve.out"))
    assert list(curve) == ["step", "rmse_trn", "rmse_e_trn", "rmse_f_trn", "lr"]
    assert curve["step"].tolist() == [1, 3, 6, 9]
    assert np.all(np.isfinite(np.stack([*curve.values()])))
    names = sorted(path.name for path in finished.parent.iterdir())
    assert names == [
        *("checkpoint", "input.json", "lcurve.out", "model.ckpt-10.h5", "model.ckpt-5.h5", "model.ckpt.h5", "out.json")
    ]
    assert json.loads((finished.with_name("out.json")).read_text())["model"]["descriptor"]["sel"] == [4, 8]


def test_the_frozen_model_is_that_of_the_checkpoint(data, finished, tmp_path):
    ckpt.freeze(finished.parent, tmp_path / "frozen.dp")
    (system,) = small.problem_of(tmp_path, simple(data)).train.systems
    frames = np.arange(system.n_frames)
    energies = [evaluate(m, system, frames) for m in (load(tmp_path / "frozen.dp"), ckpt.load_model_of(finished))]
    for name, values in energies[0].items():
        np.testing.assert_array_equal(values, energies[1][name])


def test_the_bias_is_fitted_again_at_the_end(data, tmp_path):
    end = small.train_in(tmp_path, simple(data, **{"training.change_bias_after_training": True}))
    (system,) = small.problem_of(tmp_path, simple(data)).train.systems
    energy = evaluate(ckpt.load_model_of(end), system, np.arange(system.n_frames))["energy"]
    assert abs(np.mean(energy - system.labels["energy"])) < 1e-10


# ---------------------------------------------------------------------- labels
def test_labels_that_no_system_has_are_said(data, tmp_path, caplog):
    gas = {"training.training_data.systems": [str(data / "gas")]}
    small.problem_of(tmp_path, {**gas, "loss.start_pref_v": 1.0})
    assert (
        "loss: the term with start_pref_v and limit_pref_v is without effect: no training system has virial.npy"
        in caplog.messages
    )
    only = {f"loss.{end}_pref_{term}": 0.0 for end in ("start", "limit") for term in "ef"}
    with pytest.raises(InputError, match=r"there is nothing to learn: .* needs \(virial.npy\)"):
        small.problem_of(tmp_path, {**gas, **only, "loss.start_pref_v": 1.0})
    with pytest.raises(InputError, match="none, for all its prefactors are 0"):
        small.problem_of(tmp_path, {**gas, **only})


def test_forces_alone_are_enough(tmp_path, caplog):
    small.write_system(tmp_path / "forces", (3,), 2, leave_out=["energy", "virial"])
    problem = small.problem_of(tmp_path, {"training.training_data.systems": [str(tmp_path / "forces")]})
    assert "no system has energies; the energy bias is zero where it is not given" in caplog.messages
    assert problem.params["DeepPot"]["bias"].tolist() == [0.0, 0.0]
    (frames,) = problem.train.on_device
    compute = jax.jit(lambda params: batch_loss(problem.model, problem.given.loss, params, frames, None, 1.0)[:2])
    loss, errors = compute(problem.params)
    assert np.isfinite(loss)
    assert np.isnan(errors["rmse_e"])
    assert np.isfinite(errors["rmse_f"])
