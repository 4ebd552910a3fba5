"""Tiny labelled systems and inputs: a training of a few steps takes seconds, nearly all of them for compiling."""

import contextlib
import copy
import hashlib
import json
from pathlib import Path

import numpy as np

from diffff.train import checkpoint as ckpt
from diffff.train.config import read_input
from diffff.train.loop import train
from diffff.train.setup import prepare

ELEMENTS = ["O", "H"]
OWN_ENERGY = np.array([-10.0, -3.0])  # eV, of an atom of each type
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])  # Å
BOX = np.array([[6.0, 0.0, 0.0], [0.5, 6.5, 0.0], [0.0, -0.3, 7.0]])  # Å


def labels(positions, types):
    """Energy (eV), forces (eV/Å) and virial (eV) of E = Σ_i e_i + Σ_(i<j) exp(−d_ij / Å), without periodicity."""
    energy, force = OWN_ENERGY[types].sum(), np.zeros_like(positions)
    for i in range(len(types)):
        for j in range(i):
            d = positions[i] - positions[j]
            r = np.linalg.norm(d)
            energy += np.exp(-r)
            force[i] += np.exp(-r) * d / r
            force[j] -= np.exp(-r) * d / r
    return energy, force, force.T @ positions


def write_set(folder, positions, types, *, box=BOX, energy_shift=0.0, leave_out=()):
    """One set.* directory; positions (n_frames, n_atoms, 3), types (n_frames, n_atoms), -1 for virtual atoms."""
    folder.mkdir(parents=True)
    n = len(positions)
    energy, force, virial = np.zeros(n), np.zeros_like(positions), np.zeros((n, 3, 3))
    for f in range(n):
        real = types[f] >= 0
        energy[f], force[f, real], virial[f] = labels(positions[f, real], types[f, real])
    arrays = {"coord": positions, "energy": energy + energy_shift, "force": force, "virial": virial}
    if box is not None:
        arrays["box"] = np.tile(box, (n, 1, 1))
    for name, values in arrays.items():
        if name not in leave_out:
            np.save(folder / f"{name}.npy", values.reshape(n, -1) if values.ndim > 1 else values)


def molecules(n_frames, n_molecules, seed):
    """Distorted water molecules in a row, shape (n_frames, 3 n_molecules, 3), Å."""
    rng = np.random.default_rng(seed)
    sites = np.concatenate([WATER + np.array([0.0, 0.0, 2.2 * k]) for k in range(n_molecules)])
    return sites + rng.uniform(-0.15, 0.15, (n_frames, len(sites), 3))


def write_system(folder, set_sizes=(3,), n_molecules=1, seed=0, *, box=BOX, energy_shift=0.0, leave_out=()):
    """A system of water molecules; box None: without periodicity."""
    types = [0, 1, 1] * n_molecules
    for i, size in enumerate(set_sizes):
        write_set(
            folder / f"set.{i:03d}",
            molecules(size, n_molecules, seed + i),
            np.tile(types, (size, 1)),
            box=box,
            energy_shift=energy_shift,
            leave_out=leave_out,
        )
    write_types(folder, types)
    if box is None:
        (folder / "nopbc").touch()
    return folder


def write_types(folder, types):
    """type.raw and type_map.raw."""
    (folder / "type.raw").write_text("\n".join(map(str, types)))
    (folder / "type_map.raw").write_text(" ".join(ELEMENTS))


def write_mixed_system(folder, frame_types, seed=7, *, sites=None):
    """A system of type mixed_type: the atoms of each frame are at the sites of water molecules."""
    types = np.array(frame_types)
    n_frames, n_atoms = types.shape
    positions = molecules(n_frames, -(-n_atoms // 3), seed)[:, :n_atoms] if sites is None else sites
    write_set(folder / "set.000", positions, types)
    np.save(folder / "set.000" / "real_atom_types.npy", types)
    write_types(folder, [0] * n_atoms)
    return folder


INPUT = {
    "model": {
        "type_map": ELEMENTS,
        "descriptor": {
            "type": "se_e2_a",
            "rcut": 3.0,
            "rcut_smth": 0.5,
            "sel": [4, 8],
            "neuron": [2, 4],
            "axis_neuron": 2,
            "type_one_side": True,
            "seed": 1,
        },
        "fitting_net": {"neuron": [6, 6], "seed": 2},
    },
    "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 1e-4, "decay_steps": 5},
    "loss": {"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 100, "limit_pref_f": 1},
    "training": {
        "training_data": {"systems": ["water"], "batch_size": 2},
        "numb_steps": 10,
        "seed": 3,
        "disp_freq": 3,
        "save_freq": 5,
    },
}


def changed(changes):
    """The input with some keys set: {"training.numb_steps": 20}; None leaves a key out."""
    given = copy.deepcopy(INPUT)
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = given
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
        if value is None:
            del section[key]
    return given


def write_input(folder: Path, changes=None, name="input.json"):
    """input.json in a folder that also holds the run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(changed(changes or {})))
    return path


def train_in(folder: Path, changes=None, **options) -> Path:
    """`dff train` in a folder; the last checkpoint."""
    path = write_input(folder, changes)
    with contextlib.chdir(folder):
        return folder / train(path, output=folder / "out.json", **options)


def problem_of(folder: Path, changes=None):
    """What the input in a folder stands for: data on the device, model and initial weights."""
    return prepare(read_input(write_input(folder, changes)), None, skip_neighbor_stat=False)


def flat(parts):
    """All arrays of a checkpoint in one dict."""
    return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def digest(checkpoint: Path) -> str:
    """sha256 of all that a checkpoint holds, step and basis included."""
    found = ckpt.read(checkpoint)
    seen = hashlib.sha256(f"{found.step} {found.basis}".encode())
    for name, array in sorted(flat(found.parts).items()):
        seen.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()
