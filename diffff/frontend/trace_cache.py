"""Traces that took long are kept on disk: CHARMM's large files take OpenMM up to a minute for a small peptide.

They are arrays without Python objects in ``$XDG_CACHE_HOME/diffff`` (``~/.cache/diffff``), found by a hash of all that
they depend on. Nothing is lost when the directory is removed.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.files import replacing

FORMAT = 3  # of what is kept; another number forgets all older traces
SLOW = 2.0  # s; what takes longer is kept
MOST = 100  # files; the oldest go first


def key(parts: Iterable[bytes | str]) -> str:
    """A hash of many parts, and of the format of what is kept."""
    digest = hashlib.sha256(f"{FORMAT} ".encode())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def topology_parts(topology: Any) -> Iterable[str]:
    """All of a topology that the choice of parameters can depend on."""
    for residue in topology.residues():
        yield f"{residue.chain.index} {residue.chain.id} {residue.name} {residue.id} {residue.insertionCode}"
        for atom in residue.atoms():
            yield f"{atom.name} {atom.element.symbol if atom.element else None}"
    yield str([(bond[0].index, bond[1].index) for bond in topology.bonds()])
    yield str(topology.getPeriodicBoxVectors())


def load(name: str, wanted: Iterable[str] = ()) -> Mapping[str, np.ndarray] | None:
    """The arrays kept under a name; None if there are none, the file is damaged, or they are not those wanted."""
    with suppress(Exception):  # damage has many faces
        with np.load(io.BytesIO(_path(name).read_bytes()), allow_pickle=False) as kept:
            arrays = dict(kept)
        return arrays if set(arrays) == set(wanted or arrays) else None
    return None


def save(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under a name; where nothing can be written, nothing is kept."""
    with suppress(InputError, OSError), replacing(_path(name)) as part:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
        files = sorted(part.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for old in files[: max(0, len(files) - MOST + 1)]:
            old.unlink(missing_ok=True)


def _path(name: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "diffff" / f"{name}.npz"
