"""Training steps in calls of one and of many: what a call costs beside the steps in it.

    python benchmarks/steps_in_a_call.py --data water ethanol --batch 1 4

Trains the inputs of data/water and data/ethanol on their frames of 300 K. Programs of one step each, and the program
for any number of steps in calls of one and of 32, take turns; milliseconds per step, medians over the rounds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["water", "ethanol"], choices=["water", "ethanol"])
    parser.add_argument("--precision", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()

    from diffff.cli import start_jax

    start_jax()
    print("| data | precision | batch | a program for each step | in calls of 1 | in calls of 32 | ratio |")
    print("|---" * 7 + "|")
    for data in options.data:
        for precision in options.precision:
            for batch in options.batch:
                each, one, many = measured(data, precision, batch, options.rounds)
                print(
                    f"| {data} | {precision} | {batch} | {each:.2f} | {one:.2f} | {many:.2f} | {each / many:.2f} |",
                    flush=True,
                )


def measured(data: str, precision: str, batch: int, rounds: int) -> list[float]:
    """Milliseconds per step: a program for each step, and the program for several in calls of one and of many."""
    import jax
    import jax.numpy as jnp

    from diffff.train import loop
    from diffff.train.config import read_input
    from diffff.train.setup import prepare

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input.json"
        file.write_text(json.dumps(given(data, precision, batch)))
        run = loop.Run.begin(prepare(read_input(file), None, skip_neighbor_stat=True))
    several, make = run._compiled_step(), loop.make_step
    with mock.patch.object(loop, "make_step", lambda *words, **keys: make(*words, **{**keys, "one_shape": False})):
        single = run._compiled_step()
    batches = [run.problem.train.locate(*run.sampler.next()) for _ in range(several.most)]
    frames, indices = batches[0][0], [of_batch for _, of_batch in batches]

    def turn(step: Callable[..., Any], n: int) -> float:
        state = jax.tree.map(jnp.copy, run.state)
        begin = time.perf_counter()
        for k in range(0, len(indices), n):
            state, _ = step(state, run.frozen, frames, indices[k : k + n])
        jax.block_until_ready(state)
        return 1e3 * (time.perf_counter() - begin) / len(indices)

    turns = [partial(turn, single, 1), partial(turn, several, 1), partial(turn, several, several.most)]
    for one in turns:  # compiles
        one()
    return np.median([[one() for one in turns] for _ in range(rounds)], axis=0).tolist()


def given(data: str, precision: str, batch: int) -> dict[str, Any]:
    """The input."""
    found = json.loads((DATA / data / "input.json").read_text())
    found["model"]["descriptor"]["precision"] = found["model"]["fitting_net"]["precision"] = precision
    systems = [str(DATA / data / "train" / "300K")]
    found["training"] = {"training_data": {"systems": systems, "batch_size": batch}, "numb_steps": 1000, "seed": 1}
    return found


if __name__ == "__main__":
    main()
