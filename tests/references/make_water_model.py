"""Trains tests/references/md/water.dp, a small Deep Potential of water: python tests/references/make_water_model.py"""

import json
import subprocess
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    config = json.loads((ROOT / "data/water/input.json").read_text())
    config["model"]["descriptor"].update(neuron=[8, 16, 32], axis_neuron=4, rcut=5.0, rcut_smth=2.0)
    config["model"]["fitting_net"].update(neuron=[32, 32])
    config["learning_rate"]["decay_steps"] = 100
    config["training"]["numb_steps"] = 20000
    for name in ("training_data", "validation_data"):
        data = config["training"][name]
        data["systems"] = [str(ROOT / "data/water" / system) for system in data["systems"]]
    with TemporaryDirectory() as folder:
        (Path(folder) / "input.json").write_text(json.dumps(config))
        subprocess.run(["dff", "train", "input.json"], cwd=folder, check=True)
        subprocess.run(["dff", "freeze", "-o", "water.dp"], cwd=folder, check=True)
        copy(Path(folder) / "water.dp", ROOT / "tests/references/md/water.dp")


if __name__ == "__main__":
    main()
