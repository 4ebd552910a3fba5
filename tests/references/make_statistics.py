"""Make statistics.npz and statistics.h5: statistics of made-up systems as DeePMD-kit computes and stores them.

Run with a Python that has DeePMD-kit 3.2: `python make_statistics.py`.
"""

import json
from pathlib import Path

import numpy as np
from deepmd.dpmodel.descriptor import DescrptSeA
from deepmd.dpmodel.fitting import EnergyFittingNet
from deepmd.dpmodel.utils.env_mat_stat import EnvMatStatSe
from deepmd.dpmodel.utils.neighbor_stat import NeighborStatOP
from deepmd.dpmodel.utils.stat import _save_observed_type_to_file, collect_observed_types, compute_output_stats
from deepmd.utils.stat_file import StatFileSpec, open_stat_file

HERE = Path(__file__).parent
TYPE_MAP = ["O", "H", "X"]  # no atom is an X
DESCRIPTOR = {"rcut": 3.5, "rcut_smth": 0.5, "sel": [20, 28, 4]}
CASES = {
    "plain": {},
    "davg_zero": {"set_davg_zero": True},
    "protected": {"env_protection": 0.3},
    "truncated": {"sel": [3, 5, 1]},
    "exclude": {"exclude_types": [[0, 1]]},
    "pair_exclude": {"pair_exclude_types": [[1, 1]]},
}
BIASES = {
    "plain": {},
    "preset": {"preset": [None, -3.25, None]},
    "rcond": {"rcond": 0.5},
    "atom_exclude": {"atom_exclude_types": [1]},
}


def make_systems() -> list[dict]:
    """Triclinic, cubic, open, and one with virtual atoms (type -1); each with its own composition."""
    rng = np.random.default_rng(7)
    kinds = [
        ([0, 0, 0, 1, 1, 1, 1], np.array([[5.0, 0.0, 0.0], [1.1, 4.5, 0.0], [-0.7, 0.9, 4.8]])),
        ([0, 1, 1], 4.0 * np.eye(3)),
        ([0, 0, 1, 1], None),
        ([[0, 1, 1, 1, -1], [0, 0, 0, 1, -1]], 5.0 * np.eye(3)),
    ]
    systems = []
    for types, cell in kinds:
        types = np.broadcast_to(types, (2, np.shape(types)[-1]))
        n = types.shape[1]
        spread = 4.0 * np.eye(3) if cell is None else cell
        counts = np.stack([(types == t).sum(axis=1) for t in range(len(TYPE_MAP))], axis=1)
        systems.append(
            {
                "coord": rng.uniform(0.0, 1.0, (2, n, 3)) @ spread,
                "box": None if cell is None else np.tile(cell, (2, 1, 1)) * np.array([1.0, 1.05])[:, None, None],
                "atype": types,
                "natoms": np.concatenate([np.full((2, 2), n), counts], axis=1),
                "energy": (counts @ [-400.0, -15.0, 0.0] + rng.normal(size=2))[:, None],
                "fparam": rng.normal(2.0, [1.0, 1e-4], (2, 2)),
                "aparam": rng.normal(-1.0, 0.5, (2, n, 1)),
            }
        )
    for system in systems:
        system |= {"find_energy": True, "find_fparam": True, "find_aparam": True}
        system["real_natoms_vec"] = system["natoms"]
    return systems


def environment(systems: list[dict], case: dict) -> tuple[np.ndarray, np.ndarray, str]:
    keys = {**DESCRIPTOR, **case}
    pair_exclude = keys.pop("pair_exclude_types", None)
    descriptor = DescrptSeA(**keys, neuron=[2], axis_neuron=1, seed=1, type_map=TYPE_MAP)
    given = [s if pair_exclude is None else {**s, "pair_exclude_types": pair_exclude} for s in systems]
    descriptor.compute_input_stats(given)
    return descriptor.davg[:, 0], descriptor.dstd[:, 0], EnvMatStatSe(descriptor).get_hash()


def bias(systems: list[dict], preset=None, rcond=None, atom_exclude_types=None) -> dict:
    if atom_exclude_types is not None:
        systems = [{**s, "atom_exclude_types": atom_exclude_types} for s in systems]
    presets = None if preset is None else {"energy": [None if b is None else np.array([b]) for b in preset]}
    return compute_output_stats(systems, len(TYPE_MAP), "energy", rcond=rcond, preset_bias=presets)


def neighbors(systems: list[dict], mixed: bool) -> tuple[float, np.ndarray]:
    found = [NeighborStatOP(3, 3.5, mixed)(s["coord"], s["atype"], s["box"]) for s in systems]
    return np.sqrt(min(r.min() for r, _ in found)), np.max([n.max(axis=0) for _, n in found], axis=0)


def fitting_net() -> EnergyFittingNet:
    return EnergyFittingNet(ntypes=3, dim_descrpt=2, neuron=[2], numb_fparam=2, numb_aparam=1, seed=1)


def store_cache(systems: list[dict]) -> None:
    """The file that DeePMD-kit writes for ``stat_file``."""
    file = HERE / "statistics.h5"
    file.unlink(missing_ok=True)
    with open_stat_file(StatFileSpec(str(file))) as root:
        folder = root / " ".join(TYPE_MAP)
        descriptor = DescrptSeA(**DESCRIPTOR, neuron=[2], axis_neuron=1, seed=1, type_map=TYPE_MAP)
        descriptor.compute_input_stats(systems, folder)
        compute_output_stats(systems, len(TYPE_MAP), "energy", stat_file_path=folder)
        _save_observed_type_to_file(folder, collect_observed_types(systems, TYPE_MAP))


def main() -> None:
    systems = make_systems()
    out: dict[str, np.ndarray] = {
        "cases": np.array(json.dumps({"descriptor": DESCRIPTOR, "environment": CASES, "bias": BIASES}))
    }
    for i, system in enumerate(systems):
        names = ("coord", "box", "atype", "energy", "fparam", "aparam")
        out |= {f"system_{i}/{name}": system[name] for name in names if system[name] is not None}
    for name, case in CASES.items():
        davg, dstd, digest = environment(systems, case)
        out |= {f"{name}/davg": davg, f"{name}/dstd": dstd, f"{name}/hash": np.array(digest)}
    for name, case in BIASES.items():
        values, deviation = bias(systems, **case)
        out |= {f"{name}/bias": values["energy"][:, 0], f"{name}/bias_std": deviation["energy"][:, 0]}
    out["shortest"], out["most"] = neighbors(systems, mixed=False)
    out["most_mixed"] = neighbors(systems, mixed=True)[1]
    fitting = fitting_net()
    fitting.compute_input_stats(systems[:3])  # the last has virtual atoms, whose parameters DeePMD-kit counts
    out |= {n: getattr(fitting, n) for n in ("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")}
    np.savez_compressed(HERE / "statistics.npz", **out)
    store_cache(systems)


if __name__ == "__main__":
    main()
