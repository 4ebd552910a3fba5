"""What the precision of a training does to the model it ends with, and to the time of a step.

    python benchmarks/precision.py --numb-steps 1500 --seeds 1 2

DeePMD-kit's standard water model is trained with the whole schedule of the learning rate in --numb-steps: in float64,
in float32, and in float32 with products of TF32 and of bfloat16 factors in the fitting nets (`training.enable_tf32`,
`training.mixed_precision`). Seeds, frames and their order are the same for all. The errors are those over all
validation frames, predicted without short factors. A CPU has no TF32: there its rounding is emulated, and not timed.
Times are medians over turns of a few steps, which all take in rotation.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from train_deepmd import WATER, Ours, systems, water_input

KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # precision of the nets, keys of `training`
    "float64": ("float64", {}),
    "float32": ("float32", {}),
    "TF32": ("float32", {"enable_tf32": True}),
    "bfloat16": ("float32", {"mixed_precision": {"output_prec": "float32", "compute_prec": "bfloat16"}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", default=[WATER], help="Training systems.")
    parser.add_argument("--valid", type=Path, nargs="+", default=[WATER.with_name("valid")], help="Validation systems.")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--numb-steps", type=int, default=1500, help="Length of the schedule.")
    parser.add_argument("--batch", type=int, default=1, help="Frames per step.")
    parser.add_argument("--rounds", type=int, default=7, help="Turns of each kind for the times.")
    parser.add_argument("--steps", type=int, default=10, help="Steps in a turn.")
    options = parser.parse_args()

    import jax

    from diffff.cli import start_jax

    start_jax()
    device = jax.devices()[0]
    print(f"JAX {jax.__version__} on {device.device_kind}, {options.numb_steps} steps, batch {options.batch}")
    emulated = device.platform == "cpu" and "TF32" in options.kinds
    if emulated:
        emulate_tf32()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        times = milliseconds(options, [kind for kind in options.kinds if not (emulated and kind == "TF32")])
        print(f"\n{'':10}{'seed':>6}{'energy, meV/atom':>18}{'force, meV/Å':>14}{'ms per step':>13}")
        for kind in options.kinds:
            shown = f"{times[kind]:13.1f}" if kind in times else f"{'emulated':>13}"
            for seed in options.seeds:
                energy, force = final_errors(written(options, kind, seed))
                print(f"{kind:10}{seed:6}{energy:18.4f}{force:14.3f}{shown}", flush=True)


def written(options: argparse.Namespace, kind: str, seed: int) -> Path:
    """The input file of a run."""
    precision, keys = KINDS[kind]
    n = options.numb_steps
    given = water_input(
        systems(options.train), options.batch, precision, numb_steps=n, disp_freq=n, decay_steps=max(1, n // 200)
    )
    given["training"] |= {"validation_data": {"systems": systems(options.valid)}, "disp_training": False, **keys}
    for section in (given["model"]["descriptor"], given["model"]["fitting_net"], given["training"]):
        section["seed"] = seed
    path = Path(f"{kind}-{seed}.json").absolute()
    path.write_text(json.dumps(given))
    return path


def milliseconds(options: argparse.Namespace, kinds: list[str]) -> dict[str, float]:
    """Median time of a step of each kind."""
    runs = {kind: Ours(written(options, kind, options.seeds[0])) for kind in kinds}
    for run in runs.values():  # compiles
        run.seconds(options.steps)
    turns = [{kind: run.seconds(options.steps) for kind, run in runs.items()} for _ in range(options.rounds)]
    return {kind: 1e3 * float(np.median([turn[kind] for turn in turns])) for kind in kinds}


def final_errors(file: Path) -> tuple[float, float]:
    """Train, and return the root mean square errors of energy (meV/atom) and force (meV/Å) over the validation data."""
    from diffff import spec
    from diffff.train.config import read_input
    from diffff.train.data_errors import errors_over
    from diffff.train.interruption import Interruption
    from diffff.train.loop import Run
    from diffff.train.setup import prepare

    given = read_input(file)
    problem = prepare(given, None, skip_neighbor_stat=True)
    run = Run.begin(problem)
    with Interruption() as interruption:
        run.to_the_end(spec.completed(given), interruption, resumed=False)
    assert problem.valid is not None
    errors = errors_over(problem.model, run._weights()["last"], problem.valid, run.basis)
    return 1e3 * errors.rmse("e_peratom"), 1e3 * errors.rmse("f")


def emulate_tf32() -> None:
    """Let factors that may be TF32 be rounded to its 11 significant bits, in the derivatives too."""
    import jax
    import jax.numpy as jnp

    from diffff import nn

    @jax.custom_vjp
    def of_rounded(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10) for x in (a, b))
        return jnp.matmul(a, b, precision="float32")

    of_rounded.defvjp(
        lambda a, b: (of_rounded(a, b), (a, b)),
        lambda ab, g: (of_rounded(g, ab[1].T), of_rounded(ab[0].T, g)),
    )
    whole = nn.product

    def product(a: jax.Array, b: jax.Array, factors: nn.Factors = "float32") -> jax.Array:
        return of_rounded(a, b) if factors == "tensorfloat32" else whole(a, b, factors)

    nn.product = product


if __name__ == "__main__":
    main()
