"""The file from which a fit goes on: free variables, steps done, and the state of an optimiser that has one."""

import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
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

logger = logging.getLogger(__name__)

_FORMAT = "diffff fit checkpoint"
_ROUNDING = 1e-6  # in units of the scales


@dataclass(frozen=True, eq=False)
class FitCheckpoint:
    """The content of such a file.

    Attributes:
        start: where the fit goes on.
        numbers: the numbers that move, in the order of the fit, shape ``(n_numbers,)``.
        labels: theirs, with the names of their arrays.
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
    def read(cls, path: Path) -> Self:
        """Read the file of a fit.

        Raises:
            InputError: there is no such file, or it is none.
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
            state = {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}
            start = Start(arrays["free"], int(header["step"]), state)
            return cls(start, arrays["numbers"], tuple(header["labels"]), header["input"])
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such checkpoint.") from None
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: no checkpoint of a fit, or damaged ({error}).") from None

    def require_same(self, path: Path, free: Free, labels: tuple[str, ...]) -> None:
        """Refuse a fit of other numbers, or from other files, which cannot go on from here.

        Args:
            path: of the file, for messages.
            free: the variables of the fit.
            labels: of its numbers.

        Raises:
            InputError: it is so.
        """
        if self.labels != labels or len(self.start.free) != free.n_free:
            raise InputError(
                f"{path}: is of a fit of other numbers ({len(self.labels)}, here {len(labels)}). Change files, rules "
                "and ties back, or begin anew, with --init-model from the numbers there."
            )
        if not np.allclose(np.asarray(free.numbers(jnp.asarray(self.start.free))), self.numbers, rtol=1e-9, atol=1e-12):
            raise InputError(
                f"{path}: the numbers there are not those that its variables make here. Have the files of the force "
                "field, bounds or scales changed since? Change them back, or begin anew, with --init-model from the "
                "numbers there."
            )

    def variables(self, path: Path, free: Free, labels: tuple[str, ...]) -> np.ndarray:
        """The free variables ``(n_free,)`` that make the numbers of the file, which are found by their labels.

        Args:
            path: of the file, for messages.
            free: the variables of the fit; bounds, scales and ties may be others than those of the file.
            labels: of its numbers.

        Raises:
            InputError: a number is not in the file, or beyond its bounds.
        """
        there = dict(zip(_counted(self.labels), self.numbers, strict=True))
        wanted = _counted(labels)
        if missing := [one[0] for one in wanted if one not in there]:
            raise InputError(
                f"{path}: lacks {len(missing)} of the {len(labels)} numbers that move, such as {missing[0]}. Take the "
                "files of the force field that it is of, or let only numbers move that it has."
            )
        x = np.array([there[one] for one in wanted])
        lower, upper = np.asarray(free.lower), np.asarray(free.upper)
        for k in np.flatnonzero((x <= lower) | (x >= upper)):
            raise InputError(
                f"{path}: {labels[k]} is {x[k]:g}, not within its bounds [{lower[k]:g}, {upper[k]:g}]. Change them, or "
                "take the number out of the rules."
            )
        v = free.variables(x)
        moved = np.abs(np.asarray(free.numbers(jnp.asarray(v))) - x) / np.asarray(free.scales)
        if moved.max(initial=0.0) > _ROUNDING:
            k = int(np.argmax(moved))
            logger.warning("%s: ties move its numbers, %s by %.2g of its scale", path, labels[k], moved[k])
        return v


def _counted(labels: Sequence[str]) -> list[tuple[str, int]]:
    """Each label, and how many times it has come before."""
    seen = Counter[str]()
    found = []
    for label in labels:
        found.append((label, seen[label]))
        seen[label] += 1
    return found
