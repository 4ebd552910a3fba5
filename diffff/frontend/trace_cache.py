"""Traces that took long are kept on disk: CHARMM's large files take OpenMM up to a minute for a small peptide.

They are arrays without Python objects in ``$XDG_CACHE_HOME/diffff`` (``~/.cache/diffff``), found by a hash of all that
they depend on. Nothing is lost when the directory is removed.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from diffff.errors import InputError
from diffff.files import replacing

SLOW = 2.0  # s; what takes longer is kept
MOST = 100  # files; the oldest go first


def key(parts: Iterable[bytes | str]) -> str:
    """A hash of many parts."""
    digest = hashlib.sha256()
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


def load(name: str) -> Mapping[str, np.ndarray] | None:
    """The arrays kept under a name, or None."""
    with (
        suppress(OSError, ValueError, KeyError, EOFError, BadZipFile),
        np.load(_path(name), allow_pickle=False) as kept,
    ):
        return dict(kept)
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
