"""Learning curves of water with several seeds: here and in DeePMD-kit, from the same input and data.

    python benchmarks/learning_curves.py --deepmd-python ENVIRONMENT/bin/python --output curves

ENVIRONMENT holds DeePMD-kit with TensorFlow: pip install "deepmd-kit[cpu]". The input is DeePMD-kit's standard one for
water with the whole schedule of the learning rate in --numb-steps. Both programs show the error over all validation
frames, each counted once. (DeePMD-kit shows the mean of the errors of the batches; here it is made to show the root of
their mean square, as ours does.) The folder --output gets the inputs, the curves, table.txt and curves.png; a run that
is complete there is not repeated. With --until the runs end at an error, and the time that they took to it is told.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from train_deepmd import CPU, DFF, WATER, last_step, systems, water_input

PROGRAMS = ("diffff", "DeePMD-kit")
TABLES = {"rmse_f_val": "Validation force RMSE, meV/Å", "rmse_e_val": "Validation energy RMSE, meV/atom"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deepmd-python", help="The python of an environment with DeePMD-kit and TensorFlow.")
    parser.add_argument("--train", type=Path, nargs="+", default=[WATER], help="Training systems.")
    parser.add_argument("--valid", type=Path, nargs="+", default=[WATER.with_name("valid")], help="Validation systems.")
    parser.add_argument("--precision", default="float64", choices=["float64", "float32"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--numb-steps", type=int, default=4000, help="Length of the schedule.")
    parser.add_argument("--at", type=int, nargs="+", default=[100, 200, 500, 1000, 4000], help="Steps in the table.")
    parser.add_argument("--stop-at", type=int, help="End the runs after this step; the schedule stays the same.")
    parser.add_argument("--two-sided", action="store_true", help="A net for each pair of types, not each neighbour.")
    parser.add_argument("--until", type=float, help="End the runs at this validation force error, meV/Å.")
    parser.add_argument("--output", type=Path, default=Path("curves"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker()
    elif options.deepmd_python is None:
        parser.error("--deepmd-python is missing")
    else:
        os.environ.update(CPU)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    from diffff.errors import InputError
    from diffff.train.plot import plot

    last = options.stop_at or options.numb_steps
    at = [step for step in options.at if step <= last] or [last]
    options.output.mkdir(parents=True, exist_ok=True)
    valid, n_frames = joined(systems(options.valid), options.output / "valid")
    size = max(k for k in range(1, 5) if n_frames % k == 0)
    commands = {
        "diffff": [sys.executable, "-c", DFF, "train", "input.json"],
        "DeePMD-kit": [options.deepmd_python, str(Path(__file__).resolve()), "--worker"],
    }
    files: dict[str, list[Path]] = {program: [] for program in PROGRAMS}
    for seed in options.seeds:
        given = water_input(
            systems(options.train), 1, options.precision,
            numb_steps=options.numb_steps, disp_freq=math.gcd(*at, last), decay_steps=max(1, options.numb_steps // 200),
        )  # fmt: skip
        given["model"]["descriptor"]["type_one_side"] = not options.two_sided
        given["training"]["validation_data"] = {"systems": [valid], "batch_size": size, "numb_btch": n_frames // size}
        for section in (given["model"]["descriptor"], given["model"]["fitting_net"], given["training"]):
            section["seed"] = seed
        for program, command in commands.items():
            folder = options.output / program / f"seed{seed}"
            if options.until:
                print(f"{program}, seed {seed}: {time_to(options.until, command, given, folder)}", flush=True)
                continue
            files[program].append(trained(command, given, folder, last))
            report = tables(files, at, options.seeds)
            (options.output / "table.txt").write_text(report)
    if options.until:
        return
    print(f"{n_frames} validation frames\n\n{report}")
    try:
        print("wrote", plot([file for row in files.values() for file in row], options.output / "curves.png"))
    except InputError as error:
        print(error)


def joined(paths: list[str], folder: Path) -> tuple[str, int]:
    """All frames of systems of the same atoms as one set, so that a row of batches meets each frame once."""
    first, sets = Path(paths[0]), [s for path in paths for s in sorted(Path(path).glob("set.*"))]
    if any((Path(path) / file).read_text() != (first / file).read_text()
           for path in paths for file in ("type.raw", "type_map.raw")):  # fmt: skip
        sys.exit("--valid: systems of the same atoms in the same order are needed")
    (folder / "set.000").mkdir(parents=True, exist_ok=True)
    for name in ("type.raw", "type_map.raw"):
        (folder / name).write_text((first / name).read_text())
    for name in ("coord", "box", "energy", "force"):
        np.save(folder / "set.000" / name, np.concatenate([np.load(s / f"{name}.npy") for s in sets]))
    return str(folder.resolve()), len(np.load(folder / "set.000" / "coord.npy"))


def trained(command: list[str], given: dict, folder: Path, last: int) -> Path:
    """The curve of a run, ended after the step `last`."""
    curve, file = folder / "lcurve.out", folder / "input.json"
    text = json.dumps(given, indent=1)
    if file.is_file() and file.read_text() == text and last_step(curve) >= last:
        return curve
    folder.mkdir(parents=True, exist_ok=True)
    curve.unlink(missing_ok=True)
    file.write_text(text)
    print(f"{folder} …", flush=True)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and (last_step(curve) < last or last == given["training"]["numb_steps"]):
                time.sleep(1)
        finally:
            process.terminate()
            process.wait()
    if last_step(curve) < last:
        sys.exit(f"{folder} failed:\n{(folder / 'log').read_text()[-3000:]}")
    return curve


def time_to(target: float, command: list[str], given: dict, folder: Path) -> str:
    """When a run has come to a validation force error, from its start on and from its first step on."""
    from diffff.train.lcurve import read_lcurve

    curve = folder / "lcurve.out"
    folder.mkdir(parents=True, exist_ok=True)
    curve.unlink(missing_ok=True)
    (folder / "input.json").write_text(json.dumps(given, indent=1))
    began, first, found = time.monotonic(), None, None
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and found is None:
                time.sleep(0.2)
                if not curve.is_file() or last_step(curve) < 1:
                    continue
                first = first or time.monotonic()
                known = read_lcurve(curve)
                below = np.flatnonzero(1e3 * known["rmse_f_val"] <= target)
                found = int(known["step"][below[0]]) if len(below) else None
        finally:
            process.terminate()
            process.wait()
    if found is None or first is None:
        return f"did not come to {target:g} meV/Å; see {folder / 'log'}"
    whole, steps = (time.monotonic() - since for since in (began, first))
    return f"{target:g} meV/Å at step {found} after {whole:.0f} s, {steps:.0f} s of them after the first step"


def tables(files: dict[str, list[Path]], at: list[int], seeds: list[int]) -> str:
    """The errors at some steps for each seed, with mean and standard deviation."""
    lines = []
    for column, title in TABLES.items():
        values = {program: errors(row, column, at) for program, row in files.items() if row}
        head = f"{'step':>6}"
        for program, table in values.items():
            head += f"{program:>12}" + "".join(f"{f'seed {s}':>9}" for s in seeds[: table.shape[1]])
            head += f"{'mean ± spread':>17}"
        lines += [title, f"{head}{'difference':>14}"]
        for i, step in enumerate(at):
            line = f"{step:6d}"
            for table in values.values():
                spread = f"{table[i].std(ddof=1):.1f}" if len(table[i]) > 1 else "?"
                line += " " * 12 + "".join(f"{v:9.2f}" for v in table[i]) + f"{f'{table[i].mean():.2f} ± {spread}':>17}"
            if len(values) == len(PROGRAMS):
                ours, theirs = (values[program][i].mean() for program in PROGRAMS)
                line += f"{100 * (ours / theirs - 1):+12.1f} %"
            lines.append(line)
        lines.append("")
    return "\n".join(lines)


def errors(files: list[Path], column: str, at: list[int]) -> np.ndarray:
    """A column of the curves in thousandths of its unit, shape (n_steps, n_files)."""
    from diffff.train.lcurve import read_lcurve

    curves = [read_lcurve(file) for file in files]
    return 1e3 * np.array([[curve[column][curve["step"] == step][0] for curve in curves] for step in at])


def worker() -> None:
    """`dp train` whose errors over several batches are the root of the mean square."""
    from deepmd.main import main as dp
    from deepmd.tf.loss.ener import EnerStdLoss
    from deepmd.tf.train.trainer import DPTrainer

    of_batch, mean = EnerStdLoss.eval, DPTrainer.eval_single_list

    def squares(self, *args, **kwargs):
        return {k: v if k == "natoms" else v**2 for k, v in of_batch(self, *args, **kwargs).items()}

    def root_of_mean(*args, **kwargs):
        squared = mean(*args, **kwargs)
        return None if squared is None else {k: np.sqrt(v) for k, v in squared.items()}

    EnerStdLoss.eval, DPTrainer.eval_single_list = squares, staticmethod(root_of_mean)
    dp(["--tf", "train", "input.json"])


if __name__ == "__main__":
    main()
