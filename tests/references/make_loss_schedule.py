"""Makes loss_schedule.json: losses and learning rates of DeePMD-kit 3.2 (numpy backend) for made-up predictions.

Run it in an environment with deepmd-kit:  python tests/references/make_loss_schedule.py
"""

import json
from pathlib import Path

import numpy as np
from deepmd.dpmodel.loss.ener import EnergyLoss
from deepmd.dpmodel.utils.learning_rate import make_learning_rate_schedule

FILE = Path(__file__).with_name("loss_schedule.json")
N_FRAMES, N_ATOMS, N_COORDINATES = 3, 5, 2
START_LR = 1e-3

EFV = {"start_pref_e": 0.02, "start_pref_f": 1000.0, "start_pref_v": 0.5, "limit_pref_v": 2.0}
PF = {"start_pref_f": 0.0, "limit_pref_f": 0.0, "start_pref_pf": 3.0, "limit_pref_pf": 1.0}
AE = {"start_pref_ae": 0.3, "limit_pref_ae": 0.7}
GF = {"start_pref_gf": 2.0, "limit_pref_gf": 0.1, "numb_generalized_coord": N_COORDINATES}
LOSSES = [
    {},
    {**EFV, **AE},
    {**EFV, "intensive_ener_virial": True},
    {**EFV, **AE, "loss_func": "mae"},
    {**EFV, "loss_func": "mae", "f_use_norm": True},
    {**EFV, **AE, "use_huber": True, "huber_delta": 0.4},
    {**EFV, "use_huber": True, "huber_delta": [0.05, 0.9, 0.1], "f_use_norm": True},
    {**PF},
    {**PF, "loss_func": "mae"},
    {"relative_f": 0.7, "start_pref_pf": 1.0},
    {**GF},
    {**GF, "loss_func": "mae"},
    {"enable_atom_ener_coeff": True},
]

SCHEDULES = [
    ({"start_lr": 1e-3, "stop_lr": 3.51e-8, "decay_steps": 5000}, 1000000),
    ({"start_lr": 1e-3, "stop_lr": 1e-5, "decay_steps": 5000}, 4000),
    ({"start_lr": 1e-3, "stop_lr": 1e-5, "decay_steps": 50}, 40),
    ({"start_lr": 2e-3, "stop_lr_ratio": 1e-3, "decay_steps": 100, "smooth": True, "warmup_steps": 77}, 2000),
    ({"start_lr": 1e-3, "stop_lr": 2e-4, "decay_steps": 200, "decay_rate": 0.8}, 3000),
    ({"start_lr": 1e-3, "stop_lr": 0.0, "decay_steps": 100}, 1500),
    ({"type": "cosine", "start_lr": 1e-3, "stop_lr": 1e-6}, 1000),
    ({"type": "cosine", "start_lr": 1e-3, "stop_lr": 1e-6, "warmup_ratio": 0.1, "warmup_start_factor": 0.2}, 1234),
    ({"type": "wsd", "start_lr": 1e-3, "stop_lr": 1e-6}, 999),
    ({"type": "wsd", "start_lr": 1e-3, "stop_lr": 1e-6, "decay_phase_ratio": 0.5, "decay_type": "cosine"}, 1000),
    ({"type": "wsd", "start_lr": 1e-3, "stop_lr": 1e-5, "decay_type": "linear", "warmup_steps": 300}, 1000),
    ({"type": "wsd", "start_lr": 1e-3, "stop_lr": 1e-5, "decay_phase_ratio": 1.0, "warmup_steps": 300}, 1000),
]


def made_up_batch() -> dict[str, dict[str, np.ndarray]]:
    """Predictions and labels of frames with 5, 3 and 4 real atoms, and the names of the labels."""
    rng = np.random.default_rng(20240229)
    real = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 1, 1, 1]], dtype=float)

    def values(*shape: int) -> np.ndarray:
        return np.round(rng.normal(size=(N_FRAMES, *shape)), 3)

    atom_ener = (values(N_ATOMS) - 400.0) * real
    prediction = {
        "energy": atom_ener.sum(axis=1),
        "force": values(N_ATOMS, 3),
        "virial": values(3, 3),
        "atom_ener": atom_ener,
    }
    labels = {
        "energy": prediction["energy"] + values(),
        "force": values(N_ATOMS, 3),
        "virial": values(3, 3),
        "atom_ener": atom_ener + values(N_ATOMS) * real,
        "atom_pref": np.abs(values(N_ATOMS)),
        "atom_ener_coeff": values(N_ATOMS),
        "drdq": values(N_ATOMS, 3 * N_COORDINATES),
    }
    return {"prediction": prediction, "labels": labels, "real": {"real": real}}


def deepmd_loss(spec: dict, batch: dict, mixed: bool, present: list[str], lr_ratio: float) -> dict:
    """What DeePMD-kit gives for one batch when only the labels `present` were found."""
    prediction, labels = batch["prediction"], batch["labels"]
    model = {
        "energy": prediction["energy"][:, None],
        "force": prediction["force"],
        "virial": prediction["virial"].reshape(N_FRAMES, 9),
        "atom_energy": prediction["atom_ener"][..., None],
    }
    if mixed:
        model["mask"] = batch["real"]["real"]
    found = {name: value if name in present else np.zeros_like(value) for name, value in labels.items()}
    if "atom_pref" not in present:
        found["atom_pref"] = np.ones_like(labels["atom_pref"])
    if "atom_ener_coeff" not in present:
        found["atom_ener_coeff"] = np.ones_like(labels["atom_ener_coeff"])
    label_dict = {
        **found,
        "energy": found["energy"][:, None],
        "virial": found["virial"].reshape(N_FRAMES, 9),
        "atom_ener": found["atom_ener"][..., None],
        "atom_pref": np.repeat(found["atom_pref"], 3, axis=1),
        **{f"find_{name}": float(name in present) for name in labels},
    }
    loss, metrics = EnergyLoss(starter_learning_rate=START_LR, **spec).call(
        lr_ratio * START_LR, N_ATOMS, model, label_dict
    )
    return {"loss": float(loss), "metrics": {name: float(value) for name, value in metrics.items()}}


def main() -> None:
    """Writes the file; numbers are exact, as Python prints and reads them."""
    batch = made_up_batch()
    cases = [(spec, sorted(batch["labels"]), 0.3) for spec in LOSSES]
    cases += [
        ({**EFV, **AE}, ["energy", "atom_pref"], 1.0),
        ({**EFV}, ["force"], 0.0),
        (PF, ["force"], 0.3),
        ({**PF, "use_default_pf": True}, ["force"], 0.3),
        ({"enable_atom_ener_coeff": True}, ["energy", "force"], 0.3),
    ]
    losses = [
        {"spec": spec, "mixed": mixed, "labels": present, "lr_ratio": ratio}
        | deepmd_loss(spec, batch, mixed, present, ratio)
        for spec, present, ratio in cases
        for mixed in (False, True)
    ]
    schedules = []
    for spec, numb_steps in SCHEDULES:
        steps = sorted({*np.linspace(0, numb_steps, 41, dtype=int).tolist(), 1, 99, 100, 101, numb_steps - 1})
        schedule = make_learning_rate_schedule(spec, numb_steps)
        rates = [float(schedule.value(step)) for step in steps]
        schedules.append({"spec": spec, "numb_steps": numb_steps, "steps": steps, "rates": rates})
    arrays = {group: {name: a.tolist() for name, a in values.items()} for group, values in batch.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in arrays.items()]
    for name, entries in (("losses", losses), ("schedules", schedules)):
        lines.append(f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]")
    FILE.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
