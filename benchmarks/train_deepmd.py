"""Seconds per training step of water: here, in DeePMD-kit, and of the matrix products that no program can avoid.

    python benchmarks/train_deepmd.py --deepmd-python ENVIRONMENT/bin/python

ENVIRONMENT holds DeePMD-kit with TensorFlow, its fastest backend on CPU: pip install "deepmd-kit[cpu]"; with
"deepmd-kit[cpu,jax]" its JAX backend runs too. All train DeePMD-kit's standard water model on the same frames and take
turns of a few steps, so that other load on the machine meets all alike. A turn is timed from the choice of its first
batch to the end of its last update; the first turn, which compiles, and the display of errors do not count.

The floor is the products of the fitting nets' hidden layers in one step, six per layer: forward and backward for the
forces, and from both of them backward again for the loss and to the weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WATER = Path(__file__).parents[1] / "data" / "water" / "train"
MARK = "answer: "  # begins the lines of DeePMD-kit's process that are meant for this one
BACKENDS = {"tensorflow": "tf", "jax": "jax"}  # and DeePMD-kit's short names for them
DFF = "from diffff.cli import main; main()"  # the command `dff` of this python
CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deepmd-python", help="The python of an environment with DeePMD-kit and TensorFlow.")
    parser.add_argument("--systems", type=Path, nargs="+", default=[WATER], help="Frames of the same O and H atoms.")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="Frames per step.")
    parser.add_argument(
        "--precision", nargs="+", default=["float64", "float32"], choices=["float64", "float32", "mixed"]
    )
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), choices=list(BACKENDS))
    parser.add_argument("--steps", type=int, default=10, help="Steps in a turn.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", choices=list(BACKENDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
    elif options.deepmd_python is None:
        parser.error("--deepmd-python is missing")
    else:
        os.environ.update(CPU)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    import jax

    import diffff
    from diffff.cli import start_jax

    start_jax()

    backends = [name for name in options.backends if installed(options.deepmd_python, name)]
    print(f"diffff {diffff.__version__}, JAX {jax.__version__}; {len(os.sched_getaffinity(0))} cores; ", end="")
    print(f"{options.rounds} rounds of {options.steps} steps")
    for name in options.backends:
        print(f"DeePMD-kit, {name}: {version(options.deepmd_python, name) if name in backends else 'not installed'}")
    first_step(options, backends)
    names = ["floor", "diffff", *backends]
    ratios = [("diffff", "floor"), *((name, "diffff") for name in backends)]
    heads = "".join(f"{name:>12}" for name in names), "".join(f"{' / '.join(pair):>21}" for pair in ratios)
    print("\nms per step" + " " * 19 + "  ".join(heads))
    for batch in options.batch:
        for precision in options.precision:
            seconds = measured(options, backends, batch, precision)
            for title, summary in (("median", np.median), ("minimum", np.min)):
                ms = {name: 1e3 * float(summary(seconds.get(name, np.nan))) for name in names}
                times = "".join(f"{ms[name]:12.1f}" for name in names)
                shares = "".join(f"{ms[a] / ms[b]:19.2f} x" for a, b in ratios)
                print(f"batch {batch:2d}   {precision}   {title:<8}  {times}  {shares}", flush=True)


def measured(options: argparse.Namespace, backends: list[str], batch: int, precision: str) -> dict[str, list[float]]:
    """Seconds per step in each round."""
    if precision == "mixed":  # of which DeePMD-kit's is another, with float16 on GPUs
        backends = []
    endless = water_input(systems(options.systems), batch, precision, numb_steps=10**6, disp_freq=options.steps)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "input.json").write_text(json.dumps(endless))
        ours = Ours(Path(folder) / "input.json")
        workers = [Worker(options.deepmd_python, name, Path(folder)) for name in backends]
        turns = [
            floor(ours.problem, batch, "float64" if precision == "float64" else "float32"),
            ours.seconds,
            *(w.seconds for w in workers),
        ]
        for turn in turns:  # compiles
            turn(options.steps)
        seconds: dict[str, list[float]] = {name: [] for name in ("floor", "diffff", *backends)}
        for _ in range(options.rounds):
            for name, turn in zip(seconds, turns, strict=True):
                time.sleep(0.2)  # the threads of the others go to rest
                seconds[name].append(turn(options.steps))
        for w in workers:
            w.close()
    return seconds


def water_input(
    systems: list[str], batch: int, precision: str, *, numb_steps: int, disp_freq: int, decay_steps: int = 5000
) -> dict[str, Any]:
    """DeePMD-kit's standard input for water; "mixed": nets in float32 whose products have factors in bfloat16."""
    mixed = {"mixed_precision": {"output_prec": "float32", "compute_prec": "bfloat16"}} if precision == "mixed" else {}
    precision = "float32" if precision == "mixed" else precision
    return {
        "model": {
            "type_map": ["O", "H"],
            "descriptor": {
                "type": "se_e2_a",
                "sel": [46, 92],
                "rcut_smth": 0.5,
                "rcut": 6.0,
                "neuron": [25, 50, 100],
                "resnet_dt": False,
                "axis_neuron": 16,
                "type_one_side": True,
                "precision": precision,
                "seed": 1,
            },
            "fitting_net": {"neuron": [240, 240, 240], "resnet_dt": True, "precision": precision, "seed": 1},
        },
        "learning_rate": {"type": "exp", "decay_steps": decay_steps, "start_lr": 1e-3, "stop_lr": 3.51e-8},
        "loss": {
            "type": "ener",
            "start_pref_e": 0.02,
            "limit_pref_e": 1,
            "start_pref_f": 1000,
            "limit_pref_f": 1,
            "start_pref_v": 0,
            "limit_pref_v": 0,
        },
        "training": {
            "training_data": {"systems": systems, "batch_size": batch},
            "numb_steps": numb_steps,
            "seed": 1,
            "disp_file": "lcurve.out",
            "disp_freq": disp_freq,
            "save_freq": numb_steps,
            **mixed,
        },
    }


def systems(paths: list[Path]) -> list[str]:
    """The systems at and below these directories."""
    found = sorted({str(file.parent.resolve()) for path in paths for file in path.rglob("type.raw")})
    return found or sys.exit(f"{', '.join(map(str, paths))}: no type.raw there")


def first_step(options: argparse.Namespace, backends: list[str]) -> None:
    """Print how long the commands take from their start to the first step's row in the learning curve, and memory.

    `dff train` is started twice: without programs that an earlier run has left, and with them.
    """
    given = water_input(systems(options.systems), 1, "float64", numb_steps=10**6, disp_freq=1)
    cache = tempfile.mkdtemp()
    ours = [sys.executable, "-c", DFF, "train", "input.json"]
    commands = {"dff train": ours, "dff train again": ours}
    for name in backends:
        flag = f"--{BACKENDS[name]}"
        commands[f"dp {flag} train"] = [options.deepmd_python, "-m", "deepmd", flag, "train", "input.json"]
    for name, command in commands.items():
        with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
            (Path(folder) / "input.json").write_text(json.dumps(given))
            begin = time.perf_counter()
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
            while process.poll() is None and last_step(Path(folder) / "lcurve.out") < 1:
                time.sleep(0.02)
            elapsed = time.perf_counter() - begin
            if process.poll() is not None:
                log.seek(0)
                sys.exit(f"{name} failed:\n{log.read()[-3000:]}")
            time.sleep(2)  # some steps
            process.kill()
            _, _, used = os.wait4(process.pid, 0)
        peak = used.ru_maxrss / 1024
        print(
            f"{name}: {elapsed:.1f} s to the end of the first step, at most {peak:.0f} MB (batch 1, float64)",
            flush=True,
        )


def last_step(curve: Path) -> int:
    """The step of the last complete row of a learning curve, or -1."""
    lines = curve.read_text().rpartition("\n")[0].splitlines() if curve.is_file() else []
    return int(lines[-1].split()[0]) if lines and not lines[-1].startswith("#") else -1


class Ours:
    """Training here: the compiled step of `dff train`, fed by its sampler."""

    def __init__(self, file: Path) -> None:
        from diffff.train.config import read_input
        from diffff.train.loop import Run
        from diffff.train.setup import prepare

        self.problem = prepare(read_input(file), None, skip_neighbor_stat=True)
        if len(self.problem.train.groups) > 1:
            sys.exit("--systems: systems with the same number of atoms of each element and the same labels are needed")
        self._run = Run.begin(self.problem)
        self._step = self._run._compiled_step()

    def seconds(self, n: int) -> float:
        """Seconds per step over the next n steps."""
        import jax

        run = self._run
        begin = time.perf_counter()
        batches = [self.problem.train.locate(*run.sampler.next()) for _ in range(n)]
        for k in range(0, n, self._step.most):
            indices = [of_batch for _, of_batch in batches[k : k + self._step.most]]
            run.state, _ = self._step(run.state, run.frozen, batches[0][0], indices)
        jax.block_until_ready(run.state)
        return (time.perf_counter() - begin) / n


def floor(problem: Any, batch: int, precision: str) -> Callable[[int], float]:
    """Measures the products of the hidden layers of the fitting nets in one step."""
    import jax
    import jax.numpy as jnp

    random = np.random.default_rng(1)

    def matrix(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape), precision)

    @jax.jit
    def products(layers: list[tuple[jax.Array, ...]]) -> list[jax.Array]:
        return [y for w, *pairs in layers for x, g in zip(pairs[::2], pairs[1::2], strict=True)
                for y in (x @ w, g @ w.T, x.T @ g)]  # fmt: skip

    layers, model = [], problem.model
    rows = batch * np.bincount(problem.train.systems[0].types, minlength=len(model.type_map))
    for element, n in zip(model.type_map, rows.tolist(), strict=True):
        for layer in problem.params["DeepPot"]["fitting"]["nets"][element][:-1]:
            n_in, n_out = layer["w"].shape
            layers.append((matrix(n_in, n_out), *(matrix(n, k) for k in (n_in, n_out, n_in, n_out))))

    def seconds(n: int) -> float:
        begin = time.perf_counter()
        for _ in range(n):
            jax.block_until_ready(products(layers))
        return (time.perf_counter() - begin) / n

    return seconds


def installed(python: str, backend: str) -> bool:
    """Whether DeePMD-kit has this backend there."""
    command = [python, "-c", f"import deepmd.{BACKENDS[backend]}.train.trainer"]
    return subprocess.run(command, capture_output=True).returncode == 0


def version(python: str, backend: str) -> str:
    """The releases of DeePMD-kit and of its backend there."""
    line = f"import deepmd, {backend}; print(deepmd.__version__ + ', {backend} ' + {backend}.__version__)"
    return subprocess.run([python, "-c", line], capture_output=True, text=True, check=True).stdout.split("\n")[-2]


class Worker:
    """DeePMD-kit in its own process, which trains from one display to the next for each line of its input."""

    def __init__(self, python: str, backend: str, folder: Path) -> None:
        self._log = folder / f"{backend}.log"
        (folder / backend).mkdir()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, str(Path(__file__).resolve()), "--worker", backend],
                cwd=folder / backend,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._answer()

    def seconds(self, n: int) -> float:
        """Seconds per step over the next n steps, `disp_freq` of the input."""
        print("go", file=self._process.stdin, flush=True)
        return self._answer() / n

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> float:
        for line in self._process.stdout:
            if line.startswith(MARK):
                return float(line.removeprefix(MARK))
        sys.exit(f"DeePMD-kit failed:\n{self._log.read_text()[-3000:]}")


def worker(backend: str) -> None:
    """The other process: `dp train` that stops at each display until it is told to go on."""
    from deepmd.main import main as dp

    if backend == "tensorflow":
        from deepmd.tf.train.trainer import DPTrainer

        display, wait = "valid_on_the_fly", lambda: None
    else:
        import jax
        from deepmd.jax.train.trainer import DPTrainer

        display, wait = "collect_display_results", lambda: jax.block_until_ready(jax.live_arrays())
    original = getattr(DPTrainer, display)
    begin = time.perf_counter()

    def take_turns(self, *args, **kwargs):
        nonlocal begin
        wait()
        elapsed = time.perf_counter() - begin
        shown = original(self, *args, **kwargs)
        print(f"{MARK}{elapsed}", flush=True)
        if not sys.stdin.readline():
            sys.exit()
        begin = time.perf_counter()
        return shown

    setattr(DPTrainer, display, take_turns)
    dp([f"--{BACKENDS[backend]}", "train", "--skip-neighbor-stat", "../input.json"])


if __name__ == "__main__":
    main()
