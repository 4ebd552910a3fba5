"""Training steps of several ranks beside those of one process that uses all cores, with the same frames in each batch.

    python benchmarks/ranks.py --batch 4 --ranks 1 2 --steps 100

Runs `mpiexec -n N dff train` on data/water in turn and in several rounds, and prints the median time of a step and the
ratio to one rank. Of each run the last half of the steps counts.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "water"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="Frames over all ranks.")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=json.loads, default={}, help="More keys of training: '{\"zero_stage\": 1}'")
    options = parser.parse_args()
    times: dict[int, list[float]] = {n: [] for n in options.ranks}
    for _ in range(options.rounds):
        for n in options.ranks:
            times[n].append(step_time(n, options.batch, options.steps, options.keys))
    first = np.array(times[options.ranks[0]])
    print(f"{options.batch} frames of 96 atoms a step, {options.keys or 'float64'}")
    print("| ranks | ms/step | over the first |\n|---|---|---|")
    for n, found in times.items():
        print(f"| {n} | {np.median(found):.1f} | {np.median(np.array(found) / first):.2f} |")


def step_time(n_ranks: int, batch: int, steps: int, keys: dict) -> float:
    """Milliseconds of a step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = json.loads((DATA / "input.json").read_text())
        given["learning_rate"]["scale_by_worker"] = "none"
        given["training"] = {
            "training_data": {"systems": [str(DATA / "train" / "300K")], "batch_size": batch // n_ranks},
            "numb_steps": steps,
            "disp_freq": steps // 2,
            "save_freq": steps,
            "seed": 1,
            **keys,
        }
        (folder / "input.json").write_text(json.dumps(given))
        command = [sys.executable, "-c", "from diffff.cli import main; main()", "train", "input.json"]
        launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(n_ranks)]
        done = subprocess.run([*launcher, *command], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return float(re.findall(rf"batch {steps}: .* ([\d.]+) ms/step", done.stderr)[0])


if __name__ == "__main__":
    main()
