"""Make sampling.json: batch sizes, numbers of batches, probabilities and epochs as DeePMD-kit counts them.

Run with a Python that has DeePMD-kit 3.2: `python make_sampling.py`.
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
from deepmd.dpmodel.utils.training_utils import compute_total_numb_batch
from deepmd.utils.data import DeepmdData
from deepmd.utils.data_system import DeepmdDataSystem

SYSTEMS = [(3, [5]), (9, [7, 4]), (40, [10, 1, 3]), (64, [2])]  # atoms, frames of each set
CASES = [
    {"batch_size": 1},
    {"batch_size": 3},
    {"batch_size": [1, 2, 3, 4]},
    {"batch_size": "auto"},
    {"batch_size": "auto:100"},
    {"batch_size": "max:20"},
    {"batch_size": "max:100"},
    {"batch_size": "filter:50"},
    {"batch_size": 2, "auto_prob": "prob_uniform"},
    {"batch_size": 2, "auto_prob": "prob_sys_size;0:2:0.3;2:4:0.7"},
    {"batch_size": 2, "auto_prob": "prob_sys_size;0:1:1;1:4:4"},
    {"batch_size": 2, "auto_prob": "prob_sys_size;1:3:1"},
    {"batch_size": 2, "sys_probs": [0.1, 0.2, 0.3, 0.4]},
    {"batch_size": 2, "sys_probs": [-1, 0.2, -1, 0.4]},
    {"batch_size": "auto", "sys_probs": [0.5, -0.1, -7, 0]},
]
NUMB_COPY = [1, 2, 0, 3]


def write_system(path: Path, n_atoms: int, set_sizes: list[int]) -> str:
    path.mkdir()
    np.savetxt(path / "type.raw", np.zeros(n_atoms), fmt="%d")
    for i, size in enumerate(set_sizes):
        part = path / f"set.{i:03d}"
        part.mkdir()
        np.save(part / "coord.npy", np.zeros((size, 3 * n_atoms)))
        np.save(part / "box.npy", np.tile(np.eye(3).ravel(), (size, 1)))
    return str(path)


def counts(case: dict, systems: list[str]) -> dict:
    data = DeepmdDataSystem(
        systems,
        case["batch_size"],
        1,
        sys_probs=case.get("sys_probs"),
        auto_prob_style=case.get("auto_prob", "prob_sys_size"),
    )
    return {
        **case,
        "batch_sizes": [int(size) for size in data.get_batch_size()],
        "n_bch": [int(n) for n in data.get_nbatches()],
        "probs": [float(p) for p in data.sys_probs],
        "epoch": compute_total_numb_batch(data.get_nbatches(), np.asarray(data.sys_probs)),
    }


def copies(path: Path) -> list[int]:
    """How often one pass over a set uses each frame."""
    system = write_system(path, 1, [len(NUMB_COPY)])
    np.save(path / "set.000/coord.npy", np.arange(3.0 * len(NUMB_COPY)).reshape(-1, 3))
    np.save(path / "set.000/numb_copy.npy", np.array(NUMB_COPY))
    batch = DeepmdData(system).get_batch(sum(NUMB_COPY))
    return np.bincount((batch["coord"][:, 0] / 3).astype(int), minlength=len(NUMB_COPY)).tolist()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        systems = [write_system(Path(folder) / f"s{i}", *system) for i, system in enumerate(SYSTEMS)]
        cases = [counts(case, systems) for case in CASES]
        numb_copy = {"numb_copy": NUMB_COPY, "frames": copies(Path(folder) / "copies")}
    content = {"systems": SYSTEMS, "cases": cases, "copies": numb_copy}
    lines = json.dumps(content, indent=None).replace('{"batch', '\n{"batch').replace('], "copies"', '],\n"copies"')
    Path(__file__).with_name("sampling.json").write_text(lines + "\n")
