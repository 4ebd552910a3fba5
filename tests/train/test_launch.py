"""Who started the ranks: what the variables of launchers say, and what is refused."""

import importlib.util
import os
import subprocess
import sys

import pytest

from diffff.errors import InputError
from diffff.train.launch import Launch
from tests.train import small


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch(1, None)),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, Launch(1, None)),
        ({"PMI_SIZE": "4"}, Launch(4, "mpi4py")),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Launch(2, "mpi4py")),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, Launch(1, None)),  # a batch script, not srun
        ({"SLURM_STEP_NUM_TASKS": "8"}, Launch(8, "slurm")),
        ({"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "16"}, Launch(16, "mpi4py")),  # mpiexec, which uses srun for nodes
    ],
)
def test_launchers_are_known_by_their_variables(environment, launch):
    assert Launch.of(environment) == launch


def test_without_mpi4py_srun_will_do_and_mpiexec_will_not(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Launch.of({"SLURM_STEP_NUM_TASKS": "8", "PMI_SIZE": "8"}) == Launch(8, "slurm")
    with pytest.raises(InputError, match=r"MPI has started 2 processes, but mpi4py, .* pip install 'diffff\[mpi\]'"):
        Launch.of({"PMI_SIZE": "2"})


def test_another_mpi_than_that_of_the_launcher_is_refused(tmp_path):
    """Never as several runs of one process each."""
    small.write_system(tmp_path / "water")
    small.write_input(tmp_path)
    command = [sys.executable, "-c", "import diffff.cli; diffff.cli.main()", "train", "input.json"]
    env = {**os.environ, "OMPI_COMM_WORLD_SIZE": "2"}  # while mpi4py finds itself alone
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "2 processes were started, but the MPI of mpi4py sees 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("rank", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_ranks_that_do_not_come_are_told(tmp_path, rank):
    """In a sentence, before JAX ends the process with a dump of its stack."""
    small.write_system(tmp_path / "water")
    small.write_input(tmp_path)
    code = "import diffff.cli, diffff.train.launch as launch; launch._MEET = 3; diffff.cli.main()"
    slurm = {"JOB_ID": "1", "STEP_NODELIST": "localhost", "NTASKS": "2", "STEP_NUM_TASKS": "2", "PROCID": rank,
             "LOCALID": rank}  # fmt: skip
    env = {**os.environ, **{f"SLURM_{name}": value for name, value in slurm.items()}}
    command = [sys.executable, "-c", code, "train", "input.json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "the 2 ranks did not find each other within 3 s" in done.stderr
    assert not any(word in done.stderr for word in ("Traceback", "DEADLINE", "Check failure"))
