"""Upgrades inputs written for DeePMD-kit 0.x, 1.x and 3.0-3.1 to today's sections.

A key is moved only where its new place is free; what cannot be moved stays, and the check of the file then names it.
"""

from collections.abc import Mapping
from typing import Any

Section = dict[str, Any]

_V0_KEYS = ("use_smooth", "filter_neuron", "fitting_neuron", "n_neuron", "sel_a")
_V0_DESCRIPTOR = {
    "sel_a": "sel",
    "rcut": "rcut",
    "rcut_smth": "rcut_smth",
    "filter_neuron": "neuron",
    "axis_neuron": "axis_neuron",
    "n_axis_neuron": "axis_neuron",
    "filter_resnet_dt": "resnet_dt",
}
_V0_FITTING = {
    "fitting_neuron": "neuron",
    "n_neuron": "neuron",
    "resnet_dt": "resnet_dt",
    "fitting_resnet_dt": "resnet_dt",
}
_V0_RATE = ("start_lr", "decay_steps", "decay_rate")
_V0_TRAINING = (
    *(
        "systems",
        "set_prefix",
        "stop_batch",
        "batch_size",
        "disp_file",
        "disp_freq",
        "numb_test",
        "save_freq",
        "save_ckpt",
    ),
    *("disp_training", "time_training", "profiling", "profiling_file"),
)
_DATA_KEYS = {
    "systems": "systems",
    "set_prefix": "set_prefix",
    "batch_size": "batch_size",
    "auto_prob": "auto_prob",
    "auto_prob_style": "auto_prob",
    "sys_prob": "sys_probs",
    "sys_probs": "sys_probs",
    "sys_weights": "sys_probs",
}
_WARMUP_KEYS = ("warmup_steps", "warmup_ratio", "warmup_start_factor")
_OPTIMIZER_KEYS = {
    "opt_type": "type",
    **{key: key for key in ("adam_beta1", "adam_beta2", "weight_decay", "momentum", "lr_adjust", "lr_adjust_coeff")},
    "muon_momentum": "momentum",
    **{
        f"kf_{key}": f"kf_{key}"
        for key in ("blocksize", "start_pref_e", "limit_pref_e", "start_pref_f", "limit_pref_f")
    },
}


def upgrade(data: Mapping[str, Any]) -> tuple[Section, list[str]]:
    """Brings an old input into today's form.

    Args:
        data: The whole input, as read from its file.

    Returns:
        The input in today's form, and a sentence for each change; no sentence means nothing was changed.
    """
    notes: list[str] = []
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    if "model" not in data and any(key in data for key in _V0_KEYS):
        data = _from_v0(data)
        notes.append("the keys of a DeePMD-kit 0.x input were sorted into the sections of today")
    training = data.get("training")
    if not isinstance(training, dict):
        return data, notes
    if "systems" in training and "training_data" not in training:
        training["training_data"] = {}
        moved = _move(training, training["training_data"], _DATA_KEYS)
        notes.append(f"{moved}: moved from training to training.training_data")
        notes += _stop_lr(data)
    if "numb_test" in training:
        del training["numb_test"]
        notes.append("training.numb_test: dropped, it has had no effect since DeePMD-kit 2.0")
    rate, optimizer = data.get("learning_rate"), data.get("optimizer", {})
    if isinstance(rate, dict) and (moved := _move(training, rate, {key: key for key in _WARMUP_KEYS})):
        notes.append(f"{moved}: moved from training to learning_rate")
    if isinstance(optimizer, dict) and (moved := _move(training, optimizer, _OPTIMIZER_KEYS)):
        data["optimizer"] = optimizer
        notes.append(f"{moved}: moved from training to optimizer")
    return data, notes


def _move(source: Section, target: Section, names: Mapping[str, str]) -> str:
    """Moves keys to their new names where these are free; returns the names of those moved."""
    moved = []
    for key, name in names.items():
        if key in source and name not in target:
            target[name] = source.pop(key)
            moved.append(key)
    return ", ".join(moved)


def _from_v0(data: Section) -> Section:
    """One flat section becomes four. Keys that nobody knows stay at the top, where the check finds them."""
    left = dict(data)
    descriptor: Section = {"type": "se_e2_a" if left.pop("use_smooth", True) else "loc_frame"}
    fitting: Section = {}
    rate: Section = {"type": "exp"}
    loss: Section = {"type": "ener"}
    training: Section = {}
    for section in (descriptor, fitting, training):
        if left.get("seed") is not None:
            section["seed"] = left["seed"]
    left.pop("seed", None)
    if "rcut" in left:
        left.setdefault("rcut_smth", left["rcut"])
    _move(left, descriptor, _V0_DESCRIPTOR)
    _move(left, fitting, _V0_FITTING)
    _move(left, rate, {key: key for key in _V0_RATE})
    _move(left, loss, {key: key for key in left if key.startswith(("start_pref_", "limit_pref_"))})
    _move(left, training, {key: key for key in _V0_TRAINING})
    model = {key: left.pop(key) for key in ("type_map",) if key in left}
    model |= {"descriptor": descriptor, "fitting_net": fitting}
    return {**left, "model": model, "learning_rate": rate, "loss": loss, "training": training}


def _stop_lr(data: Section) -> list[str]:
    """The decay per `decay_steps` of a 1.x input as the rate reached at the end of the training."""
    rate, training = data.get("learning_rate"), data["training"]
    steps = next((training[key] for key in ("stop_batch", "numb_steps", "num_steps") if key in training), None)
    if not isinstance(rate, dict) or "decay_rate" not in rate:
        return []
    numbers = (rate["decay_rate"], rate.get("start_lr"), rate.get("decay_steps", 5000), steps)
    if not all(isinstance(number, int | float) and number > 0 for number in numbers):
        return []
    decay, start, period, n_steps = numbers
    del rate["decay_rate"]
    rate["stop_lr"] = start * decay ** (n_steps / period)
    return [f"learning_rate.decay_rate: replaced by stop_lr = {rate['stop_lr']:.6g}, the rate it leads to"]
