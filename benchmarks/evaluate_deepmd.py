"""Seconds for energy, forces and virial of water: here, and in DeePMD-kit with the model as it is and compressed.

    python benchmarks/evaluate_deepmd.py --deepmd-python ENVIRONMENT/bin/python

ENVIRONMENT holds DeePMD-kit with TensorFlow, its fastest backend on CPU: pip install "deepmd-kit[cpu]". All three
evaluate the same frames and take turns, so that other load on the machine meets all alike. Each call starts from
coordinates: the neighbour list is part of the time. The table gives the median over the rounds.

Without --model the nets are the usual ones for water with random weights; trained nets may need more splines.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WATER = Path(__file__).parents[1] / "data" / "water" / "train" / "300K"
SMALLEST = 192  # atoms; the other frames are 8 and 27 times as large
MODEL = {
    "type_map": ["O", "H"],
    "descriptor": {
        "type": "se_e2_a",
        "rcut": 6.0,
        "rcut_smth": 0.5,
        "sel": [46, 92],
        "neuron": [25, 50, 100],
        "axis_neuron": 16,
        "type_one_side": True,
        "seed": 1,
    },
    "fitting_net": {"neuron": [240, 240, 240], "seed": 1},
}
MARK = "answer: "  # begins the lines of DeePMD-kit's process that are meant for this one
KINDS = {"DeePMD-kit": "model.pb", "compressed": "compressed.pb"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deepmd-python", help="The python of an environment with DeePMD-kit and TensorFlow.")
    parser.add_argument("--data", type=Path, default=WATER, help="A periodic system; its first frame is taken.")
    parser.add_argument("--model", type=Path, help="A trained model (.dp) of these elements.")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 2, 3], help="1: 192 atoms, 2: 1536, 3: 5184.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
    elif options.deepmd_python is None:
        parser.error("--deepmd-python is missing")
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    import diffff
    from diffff.data.systems import read_systems

    model = make_models(options, folder)
    system = read_systems(str(options.data), model.type_map)[0]
    if system.boxes is None or SMALLEST % len(system.types):
        sys.exit(f"{options.data}: a periodic system whose number of atoms divides {SMALLEST} is needed")
    frames = [tiled(system, k) for k in options.repeat]
    deepmd = Worker(options.deepmd_python, folder)
    print(f"diffff {diffff.__version__}, JAX {jax.__version__} on {jax.default_backend()}; {deepmd.version}; ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores, float64, {options.rounds} rounds\n")
    print(" atoms   DeePMD-kit   compressed       diffff   speed-up over both   first call   largest ΔF, both")
    for coords, box, types in frames:
        np.savez(folder / "frame.npz", coords=coords, box=box, types=types)
        begin = time.perf_counter()
        ours = model.eval(coords, box, types)
        first = time.perf_counter() - begin
        theirs = {kind: deepmd.forces(kind) for kind in KINDS}
        seconds: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "diffff")}
        for _ in range(options.rounds):
            for kind in KINDS:
                seconds[kind].append(deepmd.seconds(kind))
            time.sleep(0.1)  # the threads of the others go to rest
            begin = time.perf_counter()
            model.eval(coords, box, types)
            seconds["diffff"].append(time.perf_counter() - begin)
        ms = {kind: 1e3 * np.median(values) for kind, values in seconds.items()}
        times = "   ".join(f"{value:7.1f} ms" for value in ms.values())
        ratios = "   ".join(f"{ms[kind] / ms['diffff']:6.1f} x" for kind in KINDS)
        errors = "   ".join(f"{np.abs(force - ours[1]).max():.0e}" for force in theirs.values())
        print(f"{len(types):6d}   {times}   {ratios}   {first:10.1f} s   {errors} eV/Å", flush=True)


def make_models(options: argparse.Namespace, folder: Path):
    """The model, and in `folder` what DeePMD-kit makes of it."""
    import diffff
    from diffff import spec
    from diffff.formats.deepmd import read_tree, save_model
    from diffff.potentials.deep import DeepModel

    if options.model is None:
        model = spec.validate(DeepModel, MODEL)
        save_model(folder / "model.dp", model, model.init())
    else:
        model = diffff.load(options.model)
        save_model(folder / "model.dp", model.spec, model.params["DeepPot"])
    script = {  # compression wants the model section, and data for the shortest distance
        "model": read_tree(folder / "model.dp")["model_def_script"],
        "learning_rate": {"start_lr": 1e-3},
        "training": {"training_data": {"systems": [str(options.data.resolve())], "batch_size": 1}, "numb_steps": 1},
    }
    (folder / "input.json").write_text(json.dumps(script))
    return diffff.load(folder / "model.dp")


def tiled(system, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first frame, repeated until it has 192 k³ atoms: coords, box and types."""
    times = np.array([k * SMALLEST // len(system.types), k, k])
    shifts = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    coords = (system.positions[0] + shifts @ system.boxes[0]).reshape(-1, 3)
    return coords, system.boxes[0] * times[:, None], np.tile(system.types, len(shifts))


class Worker:
    """DeePMD-kit in its own process; it answers each line of its input with one of its output."""

    def __init__(self, python: str, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "log"
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, str(Path(__file__).resolve()), "--worker", str(folder)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.version = self._answer()

    def forces(self, kind: str) -> np.ndarray:
        """Forces on the atoms of frame.npz, eV/Å, shape (1, n_atoms, 3)."""
        self._ask(f"forces {kind}")
        return np.load(self._folder / "force.npy")

    def seconds(self, kind: str) -> float:
        """Seconds for one evaluation of frame.npz."""
        return float(self._ask(f"seconds {kind}"))

    def _ask(self, question: str) -> str:
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        for line in self._process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK).strip()
        sys.exit(f"DeePMD-kit failed:\n{self._log.read_text()[-3000:]}")


def worker(folder: Path) -> None:
    """The other process: convert and compress the model, then answer."""
    import deepmd
    import tensorflow
    from deepmd.infer import DeepPot

    def dp(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "deepmd", *words], check=True, stdout=sys.stderr)

    dp("convert-backend", "model.dp", KINDS["DeePMD-kit"])
    dp("compress", "-i", KINDS["DeePMD-kit"], "-o", KINDS["compressed"], "-t", "input.json")
    models = {kind: DeepPot(str(folder / file), auto_batch_size=False) for kind, file in KINDS.items()}
    print(f"{MARK}DeePMD-kit {deepmd.__version__} on TensorFlow {tensorflow.__version__}", flush=True)
    for line in sys.stdin:
        question, kind = line.split()
        frame = np.load("frame.npz")
        coords, box, types = frame["coords"].reshape(1, -1), frame["box"].reshape(1, 9), frame["types"]
        begin = time.perf_counter()
        _, force, _ = models[kind].eval(coords, box, types)
        elapsed = time.perf_counter() - begin
        if question == "forces":
            np.save("force.npy", force)
        print(f"{MARK}{elapsed}", flush=True)


if __name__ == "__main__":
    main()
