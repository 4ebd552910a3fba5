"""`mpiexec -n N dff train`: the same answer for any number of ranks, restarts, and ranks that fail."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from diffff.train import checkpoint as ckpt
from diffff.train.lcurve import read_lcurve
from tests.train import small

DFF = [sys.executable, "-c", "import diffff.cli; diffff.cli.main()", "train", "input.json"]
LONG = [pytest.mark.slow, pytest.mark.sampling]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
pytestmark = pytest.mark.skipif(not MPIEXEC.exists(), reason="mpich is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Systems of one and two molecules, and one whose frames have different numbers of atoms."""
    folder = tmp_path_factory.mktemp("data")
    small.write_system(folder / "one", (5, 4))
    small.write_system(folder / "two", (7,), 2, seed=3)
    small.write_mixed_system(folder / "mixed", [[0, 1, 1, 0, 1, 1], [0, 1, 1, -1, -1, -1], [0, 0, 1, 1, 1, -1]] * 2)
    return folder


def write(folder, data, n_ranks, **changes):
    """An input whose batches have four frames over all ranks."""
    small.write_input(
        folder,
        {
            "training.training_data.systems": [str(data / "mixed")],
            "training.training_data.batch_size": 4 // n_ranks,
            "training.validation_data": {"systems": [str(data / "mixed")], "batch_size": 4},
            "learning_rate.scale_by_worker": "none",
            "training.disp_freq": 1,
            "training.numb_steps": 6,
            **changes,
        },
    )
    return folder


def begin(folder, n_ranks, *words):
    env = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [str(MPIEXEC), "-n", str(n_ranks), *DFF, *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, n_ranks, *words, fails=False):
    process = begin(folder, n_ranks, *words)
    _, log = process.communicate(timeout=300)
    assert (process.returncode != 0) == fails, log
    assert "Traceback" not in log
    return log


@pytest.mark.parametrize("systems", ["one", pytest.param("two mixed", marks=LONG)])
def test_bits_do_not_depend_on_the_number_of_ranks(data, tmp_path, systems):
    changes = {
        "training.deterministic": True,
        "training.enable_ema": True,
        "training.gradient_max_norm": 5.0,
        "training.training_data.systems": [str(data / name) for name in systems.split()],
        "training.validation_data": {"systems": [str(data / "one")], "batch_size": 4},
    }
    for n in (1, 2):
        run(write(tmp_path / f"{n}", data, n, **changes), n)
    assert small.digest(tmp_path / "1/model.ckpt-6.h5") == small.digest(tmp_path / "2/model.ckpt-6.h5")
    assert (tmp_path / "1/lcurve.out").read_bytes() == (tmp_path / "2/lcurve.out").read_bytes()


@pytest.mark.slow
def test_without_a_seed_all_ranks_draw_the_same_batches(data, tmp_path):
    """Those of the seed that the log tells; a rank with other batches would change the bits."""
    changes = {"training.deterministic": True, "training.training_data.systems": [str(data / "one")]}
    log = run(write(tmp_path / "drawn", data, 2, **changes, **{"training.seed": None}), 2)
    seed = int(re.search(r"no training seed given: drew (\d+)", log)[1])
    run(write(tmp_path / "given", data, 1, **changes, **{"training.seed": seed}), 1)
    assert small.digest(tmp_path / "drawn/model.ckpt-6.h5") == small.digest(tmp_path / "given/model.ckpt-6.h5")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """A run of one rank."""
    folder = write(tmp_path_factory.mktemp("alone"), data, 1)
    run(folder, 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "zero_stage"),
    [pytest.param(4, 0, marks=LONG), pytest.param(2, 1, marks=LONG), pytest.param(2, 2, marks=LONG), (2, 3)],
)
def test_weights_are_the_same_to_rounding(data, alone, tmp_path, n, zero_stage):
    """With frames of different numbers of atoms in a batch, and with the state in parts."""
    run(write(tmp_path, data, n, **{"training.zero_stage": zero_stage}), n)
    wanted, found = (small.flat(ckpt.read(folder).parts) for folder in (alone, tmp_path))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-7, atol=1e-11, err_msg=name)
    curves = [read_lcurve(folder / "lcurve.out") for folder in (alone, tmp_path)]
    for name in curves[0]:
        np.testing.assert_allclose(curves[1][name], curves[0][name], rtol=0.006, err_msg=name)  # three digits


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(data, tmp_path):
    changes = {"training.deterministic": True, "training.save_freq": 3}
    run(write(tmp_path / "whole", data, 2, **changes), 2)
    wanted = ckpt.read(tmp_path / "whole").params()
    for n in (1, 4):
        folder = tmp_path / f"{n}"
        shutil.copytree(tmp_path / "whole", folder)
        log = run(write(folder, data, n, **changes), n, "--restart", "model.ckpt-3")
        assert "not the devices of the checkpoint" not in log  # batches and rate are the same
        found = ckpt.read(folder).params()
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, wanted))


@pytest.mark.slow
def test_what_is_found_on_the_way_is_the_same_on_all_ranks(data, alone, tmp_path):
    """The bias before and after the run, and the splines, of which the tolerance asks for more and more."""
    changes = {
        "training.deterministic": True,
        "training.training_data.systems": [str(data / "one")],
        "training.change_bias_after_training": True,
        "training.save_freq": 2,
        "learning_rate.start_lr": 0.5,
    }
    logs = []
    for n in (1, 2):
        logs.append(run(write(tmp_path / f"{n}", data, n, **changes), n, "--finetune", str(alone / "model.ckpt-6.h5")))
    assert small.digest(tmp_path / "1/model.ckpt-6.h5") == small.digest(tmp_path / "2/model.ckpt-6.h5")
    for log in logs:
        assert log.count("energy bias, eV") == 2
        assert "exceeds the tolerance" in log


def wait_for_checkpoint(folder, process):
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint").is_file():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks_in(folder):
    """Process numbers of the ranks that run in a folder, the first rank first."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):  # processes come and go
            number, variables = int(entry.name), (entry / "environ").read_bytes().split(b"\0")
            own = [one for one in variables if one.startswith(b"PMI_RANK=")]
            if own and Path(os.readlink(entry / "cwd")) == folder:
                found[int(own[0].partition(b"=")[2])] = number
    return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_loses_nothing(data, tmp_path, rank):
    """The first rank, 0, is the one that writes; it is most likely killed while it writes a checkpoint."""
    changes = {"training.deterministic": True, "training.numb_steps": 100000, "training.save_freq": 1}
    folder = write(tmp_path / "run", data, 2, **changes, **{"training.disp_freq": 1000})
    process = begin(folder, 2)
    wait_for_checkpoint(folder, process)
    own = ranks_in(folder)
    assert len(own) == 2
    os.kill(own[rank], signal.SIGKILL)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode != 0
    while any(number in ranks_in(folder) for number in own):
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    last = ckpt.read(folder)
    assert last.step > 0
    write(folder, data, 2, **{**changes, "training.numb_steps": last.step + 2})
    run(folder, 2, "--restart", ".")
    assert ckpt.read(folder).step == last.step + 2


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_in_good_order(data, tmp_path):
    changes = {"training.numb_steps": 100000, "training.save_freq": 20}
    folder = write(tmp_path / "run", data, 2, **changes)
    process = begin(folder, 2)
    wait_for_checkpoint(folder, process)
    os.kill(ranks_in(folder)[1], signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: stopped at step" in log
    assert ckpt.read(folder).step < 100000


@pytest.mark.slow
def test_a_writer_that_cannot_write_ends_all(data, tmp_path):
    folder = write(tmp_path / "run", data, 2, **{"training.save_dir": "ckpt", "training.numb_steps": 100000})
    process = begin(folder, 2)
    deadline = time.monotonic() + 120
    while not (folder / "ckpt" / "checkpoint").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    shutil.rmtree(folder / "ckpt")
    (folder / "ckpt").write_text("in the way")
    _, log = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Error: " in log
    assert "cannot be written" in log or "Not a directory" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_rate_that_follows_the_number_of_ranks_is_told(data, alone, tmp_path):
    changes = {"training.deterministic": True, "learning_rate.scale_by_worker": "linear", "training.numb_steps": 8}
    log = run(write(tmp_path, data, 2, **changes), 2, "--restart", str(alone / "model.ckpt-6.h5"))
    assert "WARNING: training.deterministic: on another number of devices the bits differ" in log
    assert "not the devices of the checkpoint" in log
    assert "1 before, 2 now: the factor of the learning rate was 1 and is 2" in log


def test_bad_input_is_told_once(data, tmp_path):
    folder = write(tmp_path / "run", data, 2, **{"training.disp_frequency": 3})
    log = run(folder, 2, fails=True)
    assert log.count("unknown key") == 1


def test_fits_of_force_fields_run_in_one_process(tmp_path):
    (tmp_path / "input.json").write_text('{"model": {"type": "xml", "files": ["a.xml"]}}')
    assert "runs in one process, but 2 were started" in run(tmp_path, 2, fails=True)
