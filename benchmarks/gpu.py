"""All measurements on one accelerator in one go: training, memory, start-up, molecular dynamics, parts, repeatability.

    python benchmarks/gpu.py --output results          on a machine with a GPU, in less than 9 minutes
    python benchmarks/gpu.py --quick                   small sizes, on a CPU too

It needs diffff and what diffff depends on, and reads data/water. Tables go to the screen as markdown, the numbers
behind them to gpu.json in the folder --output. Sections that would begin after --seconds are left out, and it says so.
It ends with an error where a section has failed.

Beside a training step stand three floors, from rates that are measured in the same run: the six products of each
hidden layer of the fitting nets that no program avoids, over the rate of matrix products in that precision; all
operations that the compiler counts over that rate; all bytes that it counts over the bandwidth of the memory. XLA may
use TF32 for float32 products on a GPU; the rates of float32 with and without it stand in the first table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two processes share the device for a moment

import numpy as np
from train_deepmd import DFF, WATER, last_step, systems, water_input

STEP = "training step"
MATRIX = {"float64": ("float64", "highest"), "float32": ("float32", "highest"), "TF32": ("float32", "default"),
          "bfloat16": ("bfloat16", "default")}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="Folder of gpu.json and of the trace.")
    parser.add_argument("--quick", action="store_true", help="Small sizes, few repetitions.")
    parser.add_argument("--seconds", type=float, default=480.0, help="No section begins after so long.")
    parser.add_argument("--only", help="Run only the sections whose title contains this; device is always run.")
    parser.add_argument("--trace", action="store_true", help="Write a jax.profiler trace of some training steps.")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    report = Report(options)
    report.section("first step of dff train", first_steps)  # before this process takes the device

    from diffff.cli import start_jax

    start_jax()
    report.section("device", device)
    for kind in kinds():
        report.section(f"training, {kind}", training, kind)
    for dtype in ("float32", "float64"):
        report.section(f"energy and forces, {dtype}", dynamics, dtype)
    for kind in ("float32", "float64"):
        report.section(f"parts of a step, {kind}", parts, kind)
    report.section("deterministic", deterministic)
    report.section("memory of the whole run", memory)
    if failed := report.failed():
        sys.exit(f"failed: {'; '.join(failed)}")


class Report:
    """Sections with their rows, on the screen and in the file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rows, self._began = options, {}, time.perf_counter()

    def section(self, title: str, rows: Callable[..., Iterator[dict[str, Any]]], *words: str) -> None:
        """Print a table whose rows come one by one; what fails leaves a line, and the others still come."""
        if title != "device" and (self.options.only or "") not in title:
            return
        elapsed = time.perf_counter() - self._began
        print(f"\n## {title}\n", flush=True)
        if elapsed > self.options.seconds:
            print(f"left out: {elapsed:.0f} s have passed", flush=True)
            return
        self.rows[title] = []
        try:
            heads: list[str] = []
            for row in rows(self, *words):
                if list(row) != heads:
                    heads = list(row)
                    print("\n| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
                print("| " + " | ".join(shown(value) for value in row.values()) + " |", flush=True)
                self.rows[title].append(row)
        except Exception as error:
            line = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            print(f"\nfailed: {line}", flush=True)
            self.rows[title].append({"failed": line})
        self.rows[title].append({"seconds of the section": time.perf_counter() - self._began - elapsed})
        (self.options.output / "gpu.json").write_text(json.dumps(self.rows, indent=1) + "\n")

    def failed(self) -> list[str]:
        """Titles of the sections that did not get to their end."""
        return [title for title, rows in self.rows.items() if any("failed" in row for row in rows)]

    def rate(self, kind: str) -> float:
        """Operations per second of matrix products."""
        return next(row["rate"] for row in self.rows["device"] if row.get("what") == f"products, {kind}")

    def bandwidth(self) -> float:
        """Bytes per second."""
        return next(row["rate"] for row in self.rows["device"] if row.get("what") == "memory")


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def seconds_of(function: Callable[..., Any], at_least: float, *arrays: Any) -> float:
    """Least seconds of a call; repeated for a while, after one that does not count."""
    import jax

    jax.block_until_ready(function(*arrays))
    best, began = np.inf, time.perf_counter()
    while time.perf_counter() - began < at_least:
        begin = time.perf_counter()
        jax.block_until_ready(function(*arrays))
        best = min(best, time.perf_counter() - begin)
    return best


def compiled(function: Callable, *arrays: Any) -> tuple[Any, dict[str, float]]:
    """The program, and what the compiler says of it."""
    import jax

    return described(lambda: jax.jit(function).lower(*arrays).compile())


def described(compiles: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What is compiled, and what the compiler says of it: operations, bytes moved, MiB beside its arguments."""
    begin = time.perf_counter()
    program = compiles()
    costs, sizes = program.cost_analysis() or {}, program.memory_analysis()
    return program, {
        "operations": float(costs.get("flops", np.nan)),
        "bytes": float(costs.get("bytes accessed", np.nan)),
        "MiB": np.nan if sizes is None else sizes.temp_size_in_bytes / 2**20,
        "compile s": time.perf_counter() - begin,
    }


# ---------------------------------------------------------------------- device
def device(report: Report) -> Iterator[dict[str, Any]]:
    """What it is, and how fast it multiplies matrices and reads and writes memory."""
    import jax
    import jax.numpy as jnp

    import diffff

    quick, (first, *_) = report.options.quick, jax.devices()
    yield {
        "device": first.device_kind,
        "platform": first.platform,
        "JAX": jax.__version__,
        "diffff": diffff.__version__,
    }
    n = 512 if quick else 8192
    for kind, (dtype, precision) in MATRIX.items():
        x = jnp.ones((n, n), dtype)

        def product(x: Any, precision: str = precision) -> Any:
            return jnp.matmul(x, x, precision=precision)

        seconds = seconds_of(jax.jit(product), 0.1 if quick else 0.5, x)
        yield {"what": f"products, {kind}", "rate": 2.0 * n**3 / seconds, "unit": "operations/s"}
    x = jnp.ones(2**20 if quick else 2**28, "float32")
    seconds = seconds_of(jax.jit(lambda x: x + 1.0), 0.1 if quick else 0.5, x)
    yield {"what": "memory", "rate": 2.0 * x.nbytes / seconds, "unit": "bytes/s"}


def memory(report: Report) -> Iterator[dict[str, Any]]:
    """The most that was in use, all sections together."""
    del report
    import jax

    found = jax.devices()[0].memory_stats() or {}
    names = ("peak_bytes_in_use", "largest_alloc_size", "bytes_limit")
    yield {name: found[name] / 2**30 if name in found else "unknown here" for name in names} | {"unit": "GiB"}


def peak() -> float:
    """MiB of the device in use at most since the process began; nan where it is not known."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", np.nan) / 2**20


# ---------------------------------------------------------------------- training
def kinds() -> list[str]:
    """Precisions in which networks can be trained here."""
    from diffff.train.config import Training

    keys = Training.model_fields
    return ["float32", "float64", *(["TF32"] if "enable_tf32" in keys else []),
            *(["bfloat16"] if "mixed_precision" in keys else [])]  # fmt: skip


def given(kind: str, **training: Any) -> dict[str, Any]:
    """The input of a training."""
    found = water_input(
        systems([WATER / "300K"]), 1, "float64" if kind == "float64" else "float32", numb_steps=10**6, disp_freq=1
    )
    if kind == "TF32":
        training["enable_tf32"] = True
    if kind == "bfloat16":
        training["mixed_precision"] = {"output_prec": "float32", "compute_prec": "bfloat16"}
    found["training"].update(training)
    return found


def begun(kind: str, **training: Any) -> Any:
    """A run at its beginning."""
    from diffff.train.config import read_input
    from diffff.train.loop import Run
    from diffff.train.setup import prepare

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input.json"
        file.write_text(json.dumps(given(kind, **training)))
        return Run.begin(prepare(read_input(file), None, skip_neighbor_stat=True))


def training(report: Report, kind: str) -> Iterator[dict[str, Any]]:
    """Frames per second, beside the floors."""
    import jax
    import jax.numpy as jnp

    quick, run = report.options.quick, begun(kind)
    step, (system, *_) = run._compiled_step(), run.problem.train.systems
    for batch in (1, 4) if quick else (1, 4, 16, 64, 256):
        frames, indices = run.problem.train.locate(0, np.arange(batch) % system.n_frames)
        begin = time.perf_counter()
        _, costs = described(partial(step.program, run.state, run.frozen, frames, [indices]))
        state = jax.block_until_ready(step(jax.tree.map(jnp.copy, run.state), run.frozen, frames, [indices]))[0]
        first = time.perf_counter() - begin

        def some_steps(frames: Any = frames, indices: Any = indices) -> Any:
            """In one call, as the training does them."""
            nonlocal state
            state, _ = step(state, run.frozen, frames, [indices] * step.most)
            return state

        tracing = report.options.trace and batch in (1, 64)
        with jax.profiler.trace(str(report.options.output / f"{kind}-{batch}")) if tracing else nullcontext():
            jax.block_until_ready(some_steps())
        seconds = seconds_of(some_steps, 0.1 if quick else 2.0) / step.most
        products = 6 * 2 * batch * products_of(run.problem, np.bincount(system.types))
        yield {
            "batch": batch, "frames/s": batch / seconds, "ms per step": 1e3 * seconds,
            "floor, nets ms": 1e3 * products / report.rate(kind),
            "floor, operations ms": 1e3 * costs["operations"] / report.rate(kind),
            "floor, bytes ms": 1e3 * costs["bytes"] / report.bandwidth(),
            "program MiB": costs["MiB"], "peak so far MiB": peak(), "compile s": costs["compile s"],
            "first step s": first,
        }  # fmt: skip


def products_of(problem: Any, counts: np.ndarray) -> int:
    """Multiplications of one pass through the hidden layers of the fitting nets of one frame."""
    nets = problem.params["DeepPot"]["fitting"]["nets"]
    return sum(
        int(n) * layer["w"].size
        for element, n in zip(problem.model.type_map, counts, strict=True)
        for layer in nets[element][:-1]
    )


def first_steps(report: Report) -> Iterator[dict[str, Any]]:
    """From the command to the end of the first step, with no compiled programs, and with those of the run before."""
    for kind in ("float32",) if report.options.quick else ("float32", "float64"):
        with tempfile.TemporaryDirectory() as cache:
            for start in ("cold", "warm"):
                yield {"precision": kind, "start": start, "s": first_step(kind, cache)}


def first_step(kind: str, cache: str) -> float:
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        (Path(folder) / "input.json").write_text(json.dumps(given(kind)))
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", DFF, "train", "--skip-neighbor-stat", "input.json"], cwd=folder, stdout=log,
            stderr=log, env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
        )  # fmt: skip
        while process.poll() is None and last_step(Path(folder) / "lcurve.out") < 1:
            time.sleep(0.02)
        elapsed = time.perf_counter() - begin
        failed = process.poll() is not None
        process.kill()
        process.wait()
        log.seek(0)
        if failed:
            raise ChildProcessError(log.read()[-500:].replace("\n", " "))
    return elapsed


def deterministic(report: Report) -> Iterator[dict[str, Any]]:
    """Whether two runs of some steps end with the same bits, with the key `deterministic` and without."""
    import jax

    for flag in (True, False):
        ends = []
        for _ in range(2):
            run = begun(
                "float32", deterministic=flag, training_data={"systems": systems([WATER / "300K"]), "batch_size": 4}
            )
            step = run._compiled_step()
            for _ in range(2 if report.options.quick else 20):
                frames, indices = run.problem.train.locate(*run.sampler.next())
                run.state, _ = step(run.state, run.frozen, frames, [indices])
            ends.append([np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(run.state)])
        yield {"deterministic": flag, "same bits": ends[0] == ends[1]}


# ---------------------------------------------------------------------- molecular dynamics
def copies(n_atoms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions Å, box Å and types of at least so many atoms: copies of the first frame of water side by side."""
    files = WATER / "300K"
    types = np.loadtxt(files / "type.raw", dtype=int)
    coords = np.load(files / "set.000" / "coord.npy")[0].reshape(-1, 3)
    box = np.load(files / "set.000" / "box.npy")[0].reshape(3, 3)
    repeats = np.ones(3, int)
    while repeats.prod() * len(types) < n_atoms:
        repeats[np.argmin(repeats)] += 1
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in repeats), indexing="ij"), axis=-1).reshape(-1, 3)
    return (coords + (grid @ box)[:, None]).reshape(-1, 3), box * repeats[:, None], np.tile(types, len(grid))


def dynamics(report: Report, dtype: str) -> Iterator[dict[str, Any]]:
    """Energy and forces with a neighbour list that stays, and with one that is made at each step."""
    import jax
    import jax.numpy as jnp

    from diffff.cell_list import allocate, update
    from diffff.md.precision import cast_params, cast_potential
    from diffff.model import Model
    from diffff.potentials.base import energy_and_forces

    quick, problem = report.options.quick, begun(dtype).problem
    model = Model(spec=problem.model, params=problem.params)
    params, renewed = cast_params(model.params, dtype), jax.jit(update)
    for n in (500, 2000) if quick else (10**4, 10**5, 10**6):
        coords, box, types = copies(n)
        potential = cast_potential(model.potential(types), dtype)
        x, cell = (jnp.asarray(0.1 * values, dtype) for values in (coords, box))
        try:
            sizes = allocate(np.asarray(x), np.asarray(cell), potential.cutoff)
            listed = renewed(sizes, x, cell)
            assert not bool(listed.overflow)
            forces, costs = compiled(energy_and_forces, potential, params, x, cell, listed)
            available = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", np.inf) / 2**20
            if costs["MiB"] > available:
                print(
                    f"\n{len(x)} atoms need {costs['MiB']:.0f} MiB, more than the {available:.0f} MiB of the device\n"
                )
                continue
            at_least = 0.1 if quick else 1.0
            fixed = seconds_of(forces, at_least, potential, params, x, cell, listed)
            lists = seconds_of(renewed, at_least, sizes, x, cell)
        except jax.errors.JaxRuntimeError as error:
            print(f"\n{len(x)} atoms do not fit: {str(error).splitlines()[0][:200]}\n", flush=True)
            continue
        yield {
            "atoms": len(x), "µs per atom, list stays": 1e6 * fixed / len(x),
            "µs per atom, list anew": 1e6 * (fixed + lists) / len(x), "ms per step, list stays": 1e3 * fixed,
            "ms for a list": 1e3 * lists, "program MiB": costs["MiB"], "bytes per atom": costs["MiB"] * 2**20 / len(x),
            "peak so far MiB": peak(), "compile s": costs["compile s"],
        }  # fmt: skip


# ---------------------------------------------------------------------- where the time goes
def parts(report: Report, kind: str) -> Iterator[dict[str, Any]]:
    """The parts of a training step, each as a program of its own; together they miss what the compiler joins."""
    import jax
    import jax.numpy as jnp

    from diffff.potentials.pairs import pairs_within
    from diffff.train.loop import _optimizer

    quick, run = report.options.quick, begun(kind)
    model, params, basis = run.problem.model, run.problem.params["DeepPot"], run.basis
    optimizer = _optimizer(run.problem, run.scales)
    for batch in (1,) if quick else (1, 64):
        coords, box, types = copies(192 * batch)
        order = np.argsort(types, kind="stable")
        found, types = pairs_within(model.descriptor.rcut, coords[order], box), types[order]
        layout = tuple(np.bincount(types).tolist())
        pairs = model.pairs(jnp.asarray(found.center), jnp.asarray(found.neighbor), jnp.asarray(found.dr), types)

        def moments(dr: Any, pairs: Any = pairs, types: Any = types) -> Any:
            return model.descriptor.moments(replace(pairs, dr=dr), types, len(model.type_map), basis)

        def energy(params: Any, moments: Any, layout: tuple[int, ...] = layout) -> Any:
            ends = np.cumsum((0, *layout))
            each = [jax.tree.map(lambda x, t=t: x[ends[t] : ends[t + 1]], moments) for t in range(len(layout))]
            energies = (model._net(t, basis, "float32", params, (rows, None, None)) for t, rows in enumerate(each))
            return sum(jnp.sum(energy) for energy in energies)

        def loss(params: Any, moments: Any) -> Any:
            slopes = jax.grad(energy, argnums=1)(params, moments)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(slopes))

        def update(grads: Any, state: Any, trained: Any) -> Any:
            return optimizer.update(grads, state, trained, learning_rate=jnp.asarray(1e-3))

        def slopes(dr: Any, g: Any) -> Any:
            return jax.vjp(moments, dr)[1](g)

        sums = jax.jit(moments)(pairs.dr)
        trained, state = run.state.trained, run.state.optimizer
        programs = {
            "neighbour sums": (moments, (pairs.dr,)),
            "neighbour sums and their derivative": (slopes, (pairs.dr, sums)),
            "nets": (energy, (params, sums)),
            "nets and their slopes": (jax.value_and_grad(energy, argnums=1), (params, sums)),
            "nets, gradient of the loss": (jax.value_and_grad(loss), (params, sums)),
            "optimiser": (update, (trained, state, trained)),
        }
        for name, (function, arrays) in programs.items():
            program, costs = compiled(function, *arrays)
            seconds = seconds_of(program, 0.1 if quick else 0.5, *arrays)
            yield {
                "batch": batch, "part": name, "ms": 1e3 * seconds,
                "floor, operations ms": 1e3 * costs["operations"] / report.rate(kind),
                "floor, bytes ms": 1e3 * costs["bytes"] / report.bandwidth(), "program MiB": costs["MiB"],
            }  # fmt: skip


if __name__ == "__main__":
    main()
