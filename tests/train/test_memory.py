"""What a step takes is told, and refused where there is not so much."""

import logging
from dataclasses import replace

import jax
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train import memory
from diffff.train.devices import ONE_DEVICE
from diffff.train.loop import Run
from diffff.train.memory import free_on_device, free_on_host, require_room
from tests.train import small


def test_there_is_memory():
    free = free_on_host(ONE_DEVICE)
    assert free is None or 1e6 < free < 1e15
    assert free_on_device(ONE_DEVICE) == pytest.approx(free, rel=0.5)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MACHINE = {"proc/meminfo": "MemTotal:       9000 kB\nMemAvailable:   8000 kB\n"}
V2 = {
    "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
    "sys/fs/cgroup/slurm/memory.max": "max\n",
    "sys/fs/cgroup/slurm/memory.current": "1000\n",
    "sys/fs/cgroup/slurm/job_7/memory.max": "5000000\n",
    "sys/fs/cgroup/slurm/job_7/memory.current": "2000000\n",
    "sys/fs/cgroup/slurm/job_7/memory.stat": "anon 1\nactive_file 300000\ninactive_file 700000\n",
}
V1 = {
    "proc/self/cgroup": "9:cpu,cpuacct:/other\n4:memory:/job/step\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "9000\n",
    "sys/fs/cgroup/memory/job/step/memory.limit_in_bytes": "3000000\n",
    "sys/fs/cgroup/memory/job/step/memory.usage_in_bytes": "2500000\n",
    "sys/fs/cgroup/memory/job/step/memory.stat": "cache 5\ntotal_active_file 400000\ntotal_inactive_file 100000\n",
    "sys/fs/cgroup/memory/other/memory.limit_in_bytes": "1\n",
    "sys/fs/cgroup/memory/other/memory.usage_in_bytes": "0\n",
}
ROOT = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "700\n", "sys/fs/cgroup/memory.current": "200\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [({}, None), (MACHINE, 8192e3), (V2, 4e6), (V1, 1e6), (ROOT, 500.0), ({**MACHINE, **V2}, 4e6),
     ({**MACHINE, "proc/self/cgroup": "0::/not/mounted\n"}, 8192e3)],
)  # fmt: skip
def test_limits_of_batch_systems_and_containers_are_found(tmp_path, files, free):
    write(tmp_path, files)
    assert free_on_host(ONE_DEVICE, tmp_path) == free


def test_ranks_and_devices_of_a_machine_share_its_memory(tmp_path, monkeypatch):
    write(tmp_path, MACHINE)
    shared = replace(ONE_DEVICE, n_ranks=8, n_ranks_here=4)
    assert free_on_host(shared, tmp_path) == 2048e3
    monkeypatch.setattr(memory, "free_on_host", lambda devices: 2048e3)
    device = jax.local_devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 2)
    assert free_on_device(shared) == 1024e3


@pytest.mark.parametrize(("free", "largest"), [(1e9, 99), (205.0, 20), (29.5, 2), (20.0, 1), (19.0, 0)])
def test_the_largest_batch_that_fits_is_named(monkeypatch, caplog, free, largest):
    monkeypatch.setattr(memory, "free_on_device", lambda devices: free)
    caplog.set_level(logging.INFO)

    def needs(n):
        return 10.0 + 9.7 * n

    if largest == 99:
        require_room(needs, 99, "a step of {} frames", ONE_DEVICE)
        assert "a step of 99 frames takes 970 B; 1 GB are free" in caplog.text
        return
    wanted = f"The largest batch that fits has {largest}: set" if largest else "Not even one fits"
    with pytest.raises(InputError, match=rf"a step of 99 frames takes 970 B of memory, and .* {wanted}"):
        require_room(needs, 99, "a step of {} frames", ONE_DEVICE)


def test_a_batch_that_cannot_fit_is_refused_before_the_run(tmp_path, monkeypatch):
    small.write_system(tmp_path / "water", (8,))
    changes = {"training.training_data": {"systems": [str(tmp_path / "water")], "batch_size": 8}}
    monkeypatch.setattr(memory, "free_on_device", lambda devices: 6e5)
    wanted = r"of 8 frames with 3 atoms takes .* The largest batch that fits has [1-7]: set"
    with pytest.raises(InputError, match=wanted):
        small.train_in(tmp_path, changes)
    assert not list(tmp_path.glob("*.h5"))


def test_larger_batches_of_the_validation_data_are_looked_at_too(tmp_path, caplog):
    small.write_system(tmp_path / "water", (8,))
    systems = [str(tmp_path / "water")]
    caplog.set_level(logging.INFO)
    for size, told in ((2, False), (8, True)):
        caplog.clear()
        changes = {
            "training.training_data": {"systems": systems, "batch_size": 2},
            "training.validation_data": {"systems": systems, "batch_size": size},
            "training.numb_steps": 1,
        }
        small.train_in(tmp_path, changes)
        assert ("memory: the errors of 8 frames of the validation data with 3 atoms takes" in caplog.text) == told


def test_what_a_deterministic_step_takes_grows_with_its_frames(tmp_path, caplog):
    small.write_system(tmp_path / "water", (8,))
    changes = {"training.training_data.systems": [str(tmp_path / "water")], "training.deterministic": True}
    problem = small.problem_of(tmp_path, changes)
    run = Run.begin(problem)
    step, frames = run._compiled_step(), problem.train.on_device[0]
    one, four, eight = (step.bytes_for(n, run.state, run.frozen, frames) for n in (1, 4, 8))
    gradients = sum(leaf.nbytes for leaf in run.state.trained.values())
    assert (eight - four) / 4 >= 2 * gradients
    assert one < four < eight
    caplog.set_level(logging.INFO)
    small.train_in(tmp_path, {**changes, "training.numb_steps": 1})
    assert "memory: a step of 2 frames with 3 atoms takes" in caplog.text


def test_the_most_atoms_and_the_most_pairs_are_looked_at(tmp_path, caplog):
    small.write_system(tmp_path / "dense", (2,), 20, box=None)
    far = small.molecules(2, 21, 1) * 2.5  # few of the atoms see each other
    small.write_set(tmp_path / "thin/set.000", far, np.tile([0, 1, 1] * 21, (2, 1)), box=None)
    small.write_types(tmp_path / "thin", [0, 1, 1] * 21)
    (tmp_path / "thin/nopbc").touch()
    caplog.set_level(logging.INFO)
    systems = [str(tmp_path / name) for name in ("dense", "thin")]
    small.train_in(tmp_path, {"training.training_data.systems": systems, "training.numb_steps": 1})
    assert "a step of 2 frames with 60 atoms takes" in caplog.text
    assert "a step of 2 frames with 63 atoms takes" in caplog.text
