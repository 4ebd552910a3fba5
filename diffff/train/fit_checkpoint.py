"""The file from which a fit goes on: free variables, steps done, and the state of an optimiser that has one."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import jax.numpy as jnp
import numpy as np

from diffff import __version__
from diffff.errors import InputError
from diffff.files import replacing
from diffff.fit.free import Free
from diffff.fit.optimizers import Start

_FORMAT = "diffff fit checkpoint"


@dataclass(frozen=True, eq=False)
class FitCheckpoint:
    """The content of such a file.

    Attributes:
        start: where the fit goes on.
        numbers: the numbers that move, in the order of the fit, shape ``(n_numbers,)``.
        labels: theirs.
        input: the completed input.
    """

    start: Start
    numbers: np.ndarray
    labels: tuple[str, ...]
    input: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the file; an old one of that name stays until the new one is complete."""
        header = {"format": _FORMAT, "version": __version__, "step": self.start.n_steps}
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file["header"] = json.dumps({**header, "labels": self.labels, "input": self.input})
            file["free"], file["numbers"] = self.start.free, self.numbers
            for name, array in self.start.state.items():
                file[f"state/{name}"] = array
        with replacing(path) as beside:
            beside.write_bytes(content.getvalue())

    @classmethod
    def read(cls, path: Path, free: Free, labels: tuple[str, ...]) -> Self:
        """Read the file of a fit of the same numbers.

        Raises:
            InputError: there is no such file, or it is of another fit.
        """
        try:
            with h5py.File(path, "r") as file:
                header = json.loads(file["header"][()])  # pyright: ignore[reportIndexIssue, reportArgumentType]
                arrays: dict[str, np.ndarray] = {}
                file.visititems(
                    lambda name, node: arrays.update({name: node[()]} if isinstance(node, h5py.Dataset) else {})
                )
            if header.get("format") != _FORMAT:
                raise ValueError("another format")
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such checkpoint.") from None
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: no checkpoint of a fit, or damaged ({error}).") from None
        if tuple(header["labels"]) != labels or len(arrays["free"]) != free.n_free:
            raise InputError(
                f"{path}: is of a fit of other numbers ({len(header['labels'])}, here {len(labels)}). Change files, "
                "rules and ties back, or begin anew."
            )
        state = {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}
        start = Start(arrays["free"], int(header["step"]), state)
        found = cls(start, arrays["numbers"], labels, header["input"])
        if not np.allclose(np.asarray(free.numbers(jnp.asarray(start.free))), found.numbers, rtol=1e-9, atol=1e-12):
            raise InputError(
                f"{path}: the numbers there are not those that its variables make here. Have the files of the force "
                "field, bounds or scales changed since? Change them back, or begin anew."
            )
        return found
