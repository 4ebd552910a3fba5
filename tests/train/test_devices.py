"""Several devices of one process: parts of the state of a run, and what a step takes with them."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
from diffff.train.config import read_input
from diffff.train.devices import Devices
from diffff.train.loop import Run
from diffff.train.setup import prepare
from tests.train import small

folder, found = Path.cwd(), {}
small.write_system(folder / "water", (8,))
for stage in range(4):
    changes = {
        "training.zero_stage": stage,
        "training.training_data.batch_size": 1,
        "model.fitting_net.neuron": [256, 256, 256],
        "learning_rate.scale_by_worker": "none",
    }
    run = Run.begin(prepare(read_input(small.write_input(folder, changes)), None, skip_neighbor_stat=False,
                            devices=Devices.all()))
    step, (frames, indices) = run._compiled_step(), run.problem.train.locate(0, np.arange(4))
    sizes = step.program(run.state, run.frozen, frames, [indices]).memory_analysis()
    state = run.state
    for _ in range(2):
        state, _ = step(state, run.frozen, frames, [indices])
    weights = {name: np.asarray(leaf) for name, leaf in run.problem.devices.whole(state.trained).items()}
    first = weights if stage == 0 else first
    apart = max(float(np.abs(weights[name] - first[name]).max()) for name in first)
    found[stage] = sizes.argument_size_in_bytes, sizes.temp_size_in_bytes, apart
print(json.dumps(found))
"""


@pytest.mark.slow
def test_each_zero_stage_takes_less_and_gives_the_same(tmp_path):
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "TF_CPP_MIN_LOG_LEVEL": "3"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kept, beside, apart = zip(*json.loads(done.stdout.splitlines()[-1]).values(), strict=True)
    assert max(apart) < 1e-9
    assert kept[1] < 0.6 * kept[0]  # weights, and a quarter of the two moments of Adam
    assert kept[3] < 0.6 * kept[2]
    assert beside[2] < 0.7 * beside[1]  # a quarter of the gradients
