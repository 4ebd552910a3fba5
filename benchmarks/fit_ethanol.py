"""Force errors of ethanol over the number of frames: a force field as it is and fitted, networks, and both.

    python benchmarks/fit_ethanol.py --frames 5 10 20 50 100 200

For each number N, the same N frames of GFN2-xTB at 300 K (data/ethanol) train

    xml       the rows of GAFF's numbers for ethanol, by least squares (data/ethanol/gaff.json)
    dp        a Deep Potential alone (the nets of data/ethanol/input.json)
    xml + dp  the same nets on top of that fitted force field, which stays as it is
    joint     the same nets and the rows of that force field together

each by `dff train` in a process of its own. The error is the root mean square of the force components of all 42
validation frames, in kJ/mol/nm; for networks, which learn few frames by heart, that at the best of 50 points of the run
and that at its end. With --seeds, means and standard deviations over choices of the frames and seeds of the nets.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from diffff.train.lcurve import read_lcurve
from diffff.units import KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM as PER_NM

DATA = Path(__file__).parents[1] / "data" / "ethanol"
METHODS = ("xml", "dp", "xml + dp", "joint")


def main() -> None:
    """Print a table of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[5, 10, 20, 50, 100, 200])
    parser.add_argument("--steps", type=int, default=10000, help="Of the networks.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    print(f"{options.steps} steps, seeds {options.seeds}; force error of 42 validation frames, kJ/mol/nm")
    columns = ["start"]
    for method in options.methods:
        columns += [method] if method == "xml" else [method, f"{method}, end"]
    print(f"| frames | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|", flush=True)
    for n_frames in options.frames:
        rows = [errors(n_frames, options.steps, seed, options.methods) for seed in options.seeds]
        cells = [shown([row[method] for row in rows]) for method in columns]
        print(f"| {n_frames} | {' | '.join(cells)} |", flush=True)


def errors(n_frames: int, steps: int, seed: int, methods: list[str]) -> dict[str, float]:
    """The error of each method, kJ/mol/nm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        systems = subset(folder, n_frames, seed)
        fit = trained(folder / "xml", fit_input(systems))
        found = {"start": float(fit["rmse_force_val"][0]), "xml": float(fit["rmse_force_val"][-1])}
        for method in methods:
            if method != "xml":
                curve = trained(folder / method, network_input(method, systems, steps, seed, n_frames))
                found[method], found[f"{method}, end"] = (
                    float(curve["rmse_f_val"][k]) * PER_NM for k in (np.argmin(curve["rmse_f_val"]), -1)
                )
    return found


def subset(folder: Path, n_frames: int, seed: int) -> str:
    """A data set of some training frames."""
    source, target = DATA / "train" / "300K", folder / "frames"
    (target / "set.000").mkdir(parents=True)
    for file in ("type.raw", "type_map.raw", "nopbc"):
        if (source / file).exists():
            (target / file).write_bytes((source / file).read_bytes())
    files = {
        name: np.concatenate([np.load(part / f"{name}.npy") for part in sorted(source.glob("set.*"))])
        for name in ("coord", "energy", "force")
    }
    chosen = np.sort(np.random.default_rng(seed).permutation(len(files["coord"]))[:n_frames])
    for name, values in files.items():
        np.save(target / "set.000" / f"{name}.npy", values[chosen])
    return str(target)


def fit_input(systems: str) -> dict:
    """The fit of the rows."""
    given = json.loads((DATA / "gaff.json").read_text())
    given["model"] |= {"files": [str(DATA / "ethanol.xml")], "topology": str(DATA / "ethanol.pdb")}
    given["training"] |= {"training_data": {"systems": [systems]}}
    given["training"] |= {"validation_data": {"systems": [str(DATA / "valid" / "300K")]}}
    return given


def network_input(method: str, systems: str, steps: int, seed: int, n_frames: int) -> dict:
    """The training of the networks."""
    given = json.loads((DATA / "input.json").read_text())
    deep = {**given["model"], "type": "standard"}
    deep["descriptor"] |= {"seed": seed, "precision": "float32"}
    deep["fitting_net"] |= {"seed": seed, "precision": "float32"}
    given["model"] = deep
    if method != "dp":
        files = [str(Path(systems).parent / "xml" / "fitted" / "ethanol.xml")]
        xml = {"type": "xml", "files": files, "topology": str(DATA / "ethanol.pdb")}
        given["model"] = {"type": "sum", "models": [xml, deep]}
    if method == "joint":
        given["parameters"] = {**json.loads((DATA / "gaff.json").read_text())["parameters"], "prior_weight": 1e-3}
    given["learning_rate"] = {"type": "exp", "start_lr": 3e-3, "stop_lr": 1e-6, "decay_steps": max(1, steps // 200)}
    given["loss"] |= {"limit_pref_f": 100}  # the force is what is compared
    given["training"] |= {
        "training_data": {"systems": [systems], "batch_size": min(8, n_frames)},
        "validation_data": {"systems": [str(DATA / "valid" / "300K")], "batch_size": 42},
        "numb_steps": steps,
        "disp_freq": max(1, steps // 50),
        "save_freq": steps,
        "seed": seed,
    }
    return given


def trained(folder: Path, given: dict) -> dict[str, np.ndarray]:
    """Run `dff train`; the columns of its learning curve."""
    folder.mkdir()
    (folder / "input.json").write_text(json.dumps(given))
    command = [sys.executable, "-c", "from diffff.cli import main; main()", "train", "input.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return read_lcurve(folder / "lcurve.out")


def shown(values: list[float]) -> str:
    """Mean, and standard deviation of several."""
    spread = f" ± {np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
    return f"{np.mean(values):.0f}{spread}"


if __name__ == "__main__":
    main()
