"""The script for machines with a GPU runs where there is none, so that it is ready when there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(folder, *words):
    path = os.pathsep.join([str(GPU.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, *words, "--quick", "--output", str(folder)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("only", "sections"),
    [
        ("float32", {"training, float32", "energy and forces, float32", "parts of a step, float32"}),
        ("deterministic", {"deterministic"}),
        ("memory", {"memory of the whole run"}),
        pytest.param("first step", {"first step of dff train"}, marks=pytest.mark.sampling),
    ],
)
def test_sections_run_on_a_cpu(tmp_path, only, sections):
    done = run(tmp_path, str(GPU), "--only", only)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found.keys() == {*sections, "device"}
    assert all(len(rows) > 1 for rows in found.values())


@pytest.mark.slow
def test_a_section_that_fails_ends_in_an_error(tmp_path):
    begin = f"import sys; sys.path.insert(0, {str(GPU.parent)!r}); import gpu"
    code = f"{begin}; gpu.memory = lambda report: 1 / 0; gpu.main()"
    done = run(tmp_path, "-c", code, "--only", "memory")
    assert done.returncode == 1
    assert "failed: ZeroDivisionError: division by zero" in done.stdout
    assert "failed: memory of the whole run" in done.stderr
