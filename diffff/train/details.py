"""Detail files of a test, in DeePMD-kit's form: labels beside predictions, one row for each frame or atom.

| file                 | a row is | columns                                        | unit        |
|----------------------|----------|------------------------------------------------|-------------|
| PREFIX.e.out         | a frame  | data_e pred_e                                  | eV          |
| PREFIX.e_peratom.out | a frame  | data_e pred_e                                  | eV per atom |
| PREFIX.f.out         | an atom  | data_fx data_fy data_fz pred_fx …              | eV/Å        |
| PREFIX.v.out         | a frame  | data_vxx data_vxy data_vxz data_vyx … pred_vxx | eV          |
| PREFIX.v_peratom.out | a frame  | as .v.out                                      | eV per atom |
| PREFIX.ae.out        | an atom  | data_ae pred_ae                                | eV          |

Systems follow each other, each below a comment with its name and the columns; frames and atoms are in the order of
the data. A label that is missing is nan, and so is that of a virtual atom.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.files import replacing

Array = NDArray[np.float64]

_COLUMNS = {
    "e": ["e"],
    "f": [f"f{a}" for a in "xyz"],
    "v": [f"v{a}{b}" for a in "xyz" for b in "xyz"],
    "ae": ["ae"],
}
_PER_FRAME = {"energy": "e", "virial": "v"}
_PER_ATOM = {"force": "f", "atom_ener": "ae"}


class DetailFiles:
    """The files of one test. Leaving the context puts them in place, or after an error none of them."""

    def __init__(self, prefix: Path) -> None:
        """Prepare files whose paths begin with `prefix`; they appear when the context is left."""
        self._prefix = prefix
        self._stack = ExitStack()
        self._files: dict[str, TextIO] = {}
        self._last_system: dict[str, str] = {}  # whose rows a file ends with

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def add(self, system: System, frames: NDArray[np.int64], prediction: Mapping[str, Array]) -> None:
        """Append some frames.

        Args:
            system: The frames' system, which holds the labels.
            frames: Their indices, shape (n,).
            prediction: "energy" (n,) eV, "force" (n, n_atoms, 3) eV/Å, "virial" (n, 3, 3) eV and, if wanted,
                "atom_ener" (n, n_atoms) eV; the atoms as in `system`.
        """
        is_real = np.ones((len(frames), len(system.types)), bool) if system.real is None else system.real[frames]
        n_real = is_real.sum(axis=1)[:, None]
        in_file = system.in_file_order(is_real, frames)
        for label, predicted in prediction.items():
            known = system.labels[label][frames] if label in system.labels else np.full_like(predicted, np.nan)
            if label in _PER_ATOM:
                known, predicted = system.in_file_order(known, frames), system.in_file_order(predicted, frames)
                known[~in_file] = np.nan
                self._write(_PER_ATOM[label], system.name, known, predicted)
            else:
                known, predicted = known.reshape(len(frames), -1), predicted.reshape(len(frames), -1)
                name = _PER_FRAME[label]
                self._write(name, system.name, known, predicted)
                self._write(f"{name}_peratom", system.name, known / n_real, predicted / n_real)

    def _write(self, name: str, system: str, known: Array, predicted: Array) -> None:
        columns = _COLUMNS[name.removesuffix("_peratom")]
        rows = np.concatenate([values.reshape(-1, len(columns)) for values in (known, predicted)], axis=1)
        title = " ".join(f"{source}_{column}" for source in ("data", "pred") for column in columns)
        header = f"{system}: {title}" if self._last_system.get(name) != system else ""
        self._last_system[name] = system
        if name not in self._files:
            beside = self._stack.enter_context(replacing(self._prefix.with_name(f"{self._prefix.name}.{name}.out")))
            self._files[name] = self._stack.enter_context(beside.open("w", encoding="utf-8"))
        np.savetxt(self._files[name], rows, header=header)
