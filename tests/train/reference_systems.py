"""The made-up systems of references/statistics.npz, as the trainer sees them."""

import json
from pathlib import Path

import numpy as np

from diffff.data.systems import System
from diffff.potentials.deep import DeepModel
from diffff.spec import validate

REFERENCES = Path(__file__).parents[1] / "references"
STORED = dict(np.load(REFERENCES / "statistics.npz"))
CASES = json.loads(STORED["cases"].item())
TYPE_MAP = ["O", "H", "X"]


def in_slots(number: int) -> System:
    """One of the systems, with its atoms in blocks by type."""
    data = {k.split("/")[1]: v for k, v in STORED.items() if k.startswith(f"system_{number}/")}
    types = data["atype"]
    n_frames = len(types)
    layout = np.max([np.bincount(t[t >= 0], minlength=3) for t in types], axis=0)
    slot_types = np.repeat(np.arange(3), layout)
    order = np.full((n_frames, len(slot_types)), -1)
    for f, frame in enumerate(types):
        for t in range(3):
            atoms = np.flatnonzero(frame == t)
            order[f, np.flatnonzero(slot_types == t)[: len(atoms)]] = atoms
    real = order >= 0

    def placed(values):
        taken = np.stack([v[o] for v, o in zip(values, order, strict=True)])
        return np.where(real[:, :, None], taken, 0.0)

    return System(
        name=f"system_{number}",
        types=slot_types,
        layout=tuple(layout.tolist()),
        real=None if real.all() else real,
        order=order[0] if real.all() else order,
        n_atoms_file=types.shape[1],
        positions=placed(data["coord"]),
        boxes=data.get("box"),
        labels={"energy": data["energy"][:, 0], "fparam": data["fparam"], "aparam": placed(data["aparam"])},
        set_sizes=(n_frames,),
    )


SYSTEMS = [in_slots(number) for number in range(4)]
BATCHES = [1] * len(SYSTEMS)


def make_model(descriptor=None, fitting=None, **model) -> DeepModel:
    """A small model of the reference descriptor, changed in the given keys."""
    section = {
        "type_map": TYPE_MAP,
        "descriptor": {"type": "se_e2_a", "neuron": [2], "axis_neuron": 1, **CASES["descriptor"], **(descriptor or {})},
        "fitting_net": {"neuron": [2], **(fitting or {})},
        **model,
    }
    return validate(DeepModel, section)
