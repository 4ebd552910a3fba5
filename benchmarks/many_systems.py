"""`dff train` on thousands of small systems of mixed sizes: time to the first step, compiled shapes, memory.

    python benchmarks/many_systems.py --systems 2000 --frames 10

Makes molecules of 5 to 30 atoms H, C, N and O at random places with energies and forces of a pair potential, trains a
few steps, starts the run a second time with the programs that the first has left, and prints a table. With --streaming
the frames are read as they are needed; --shapes is `training.max_shapes`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from train_deepmd import DFF, last_step

ELEMENTS = ["H", "C", "N", "O"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=10, help="Of each system.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shapes", type=int, nargs="+", default=[16])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--streaming", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sizes = write(Path(folder) / "data", options.systems, options.frames)
        print(
            f"{options.systems} systems, {len(set(sizes))} different, {options.frames} frames each, "
            f"written in {time.perf_counter() - began:.0f} s; {len(os.sched_getaffinity(0))} cores"
        )
        print("shapes  start  first step s  all s  ms/step  peak MB  told")
        for shapes in options.shapes:
            cache = tempfile.mkdtemp(dir=folder)
            for start in ("cold", "warm"):
                print(f"{shapes:6d}  {start:5s}  {run(Path(folder), options, shapes, cache)}", flush=True)


def write(folder: Path, n_systems: int, n_frames: int) -> list[tuple[int, ...]]:
    """The systems; the atoms of each element in each."""
    rng = np.random.default_rng(1)
    found = []
    for k in range(n_systems):
        heavy = rng.multinomial(rng.integers(2, 12), [0.7, 0.15, 0.15])
        counts = (int(rng.integers(3, 2 * heavy.sum() + 3)), *heavy.tolist())
        found.append(counts)
        types = rng.permutation(np.repeat(np.arange(4), counts))
        x = placed(rng, len(types)) + rng.normal(0.0, 0.05, (n_frames, len(types), 3))
        dx = x[:, :, None] - x[:, None]
        r = np.linalg.norm(dx, axis=-1) + 1e9 * np.eye(len(types))
        part = folder / f"system{k:05d}" / "set.000"
        part.mkdir(parents=True)
        np.save(part / "coord.npy", x.reshape(n_frames, -1))
        np.save(part / "energy.npy", np.exp(-r).sum(axis=(1, 2)) / 2)
        np.save(part / "force.npy", (np.exp(-r)[..., None] * dx / r[..., None]).sum(axis=2).reshape(n_frames, -1))
        (part.parent / "nopbc").touch()
        (part.parent / "type.raw").write_text("\n".join(map(str, types)))
        (part.parent / "type_map.raw").write_text(" ".join(ELEMENTS))
    return found


def placed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Points of a lattice of 1.3 Å, those nearest to its origin, shape (n, 3)."""
    grid = np.stack(np.meshgrid(*3 * [np.arange(-3, 4)], indexing="ij"), axis=-1).reshape(-1, 3)
    nearest = np.argsort((grid**2).sum(axis=1) + 0.1 * rng.random(len(grid)))
    return 1.3 * grid[nearest[:n]]


def run(folder: Path, options: argparse.Namespace, shapes: int, cache: str) -> str:
    """A line of the table."""
    given = {
        "model": {
            "type_map": ELEMENTS,
            "descriptor": {"type": "se_e2_a", "sel": "auto", "rcut": 6.0, "rcut_smth": 0.5, "neuron": [25, 50, 100],
                           "axis_neuron": 16, "type_one_side": True, "precision": "float32", "seed": 1},
            "fitting_net": {"neuron": [240, 240, 240], "precision": "float32", "seed": 1},
        },
        "learning_rate": {"type": "exp", "decay_steps": 5000, "start_lr": 1e-3, "stop_lr": 1e-8},
        "loss": {"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        "training": {
            "training_data": {"systems": str(folder / "data"), "batch_size": options.batch_size},
            "numb_steps": options.steps, "seed": 1, "disp_freq": options.steps, "max_shapes": shapes,
            **({"streaming": True} if options.streaming else {}),
        },
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / "input.json").write_text(json.dumps(given))
        began = time.perf_counter()
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        with (Path(place) / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", DFF, "train", "input.json"], cwd=place, stdout=log, stderr=log, env=environment
            )
            while process.poll() is None and last_step(Path(place) / "lcurve.out") < 1:
                time.sleep(0.05)
            first = time.perf_counter() - began
            failed = process.poll() is not None
            _, status, used = (0, 1, None) if failed else os.wait4(process.pid, 0)
        text = (Path(place) / "log").read_text()
        if status or used is None:
            raise SystemExit(text[-3000:])
        pace = re.findall(r"([\d.]+) ms/step", text)
        told = re.findall(r"(?:data: .*|.* shapes of .*|memory: .*)", text)
        whole = time.perf_counter() - began
        return f"{first:12.1f}  {whole:5.0f}  {pace[-1]:>7s}  {used.ru_maxrss / 1024:7.0f}  {'; '.join(told)}"


if __name__ == "__main__":
    main()
