"""Small made-up systems on disk, for the tests of reading and drawing them."""

from pathlib import Path

import h5py
import numpy as np

ELEMENTS = ["H", "O"]
TYPES = [0, 1, 0]  # H O H
WATER = np.array([[0.96, 0.0, 0.0], [0.0, 0.0, 0.0], [-0.24, 0.93, 0.0]])  # Å


def write_set(folder: Path, n_frames: int, seed: int = 0) -> None:
    """A set of one distorted water molecule in a box of 8 Å, with random labels."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", (WATER + rng.uniform(-0.1, 0.1, (n_frames, 3, 3))).reshape(n_frames, 9))
    np.save(folder / "box.npy", np.tile(8.0 * np.eye(3).ravel(), (n_frames, 1)))
    np.save(folder / "energy.npy", rng.normal(size=n_frames))
    np.save(folder / "force.npy", rng.normal(size=(n_frames, 9)))
    np.save(folder / "virial.npy", rng.normal(size=(n_frames, 9)))


def write_system(folder: Path, set_sizes: tuple[int, ...] = (3,)) -> Path:
    """A system of such sets."""
    for i, size in enumerate(set_sizes):
        write_set(folder / f"set.{i:03d}", size, seed=i)
    (folder / "type.raw").write_text("\n".join(map(str, TYPES)))
    (folder / "type_map.raw").write_text(" ".join(ELEMENTS))
    return folder


def write_mixed_system(folder: Path, frame_types: list[list[int]], set_sizes: tuple[int, ...]) -> Path:
    """A `mixed_type` system with these types in each frame."""
    write_system(folder, set_sizes)
    (folder / "type.raw").write_text("0 0 0")
    start = 0
    for i, size in enumerate(set_sizes):
        np.save(folder / f"set.{i:03d}" / "real_atom_types.npy", np.array(frame_types[start : start + size]))
        start += size
    return folder


def to_hdf5(system: Path, file: Path, group: str) -> None:
    """Copy a system into a group of an HDF5 file."""
    with h5py.File(file, "a") as root:
        top = root.require_group(group)
        top["type.raw"] = np.loadtxt(system / "type.raw", dtype=int, ndmin=1)
        top["type_map.raw"] = (system / "type_map.raw").read_text().split()
        if (system / "nopbc").is_file():
            top["nopbc"] = True
        for path in system.glob("set.*/*.npy"):
            top[f"{path.parent.name}/{path.stem}.npy"] = np.load(path)
