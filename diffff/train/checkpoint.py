"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is an HDF5 file: the arrays by path (`trained/...`, `frozen/...`, `optimizer/...`, `ema/...`, `swa/...`,
`sampler/...`), the step, the spline basis, and the completed input as JSON. It is written beside its place and renamed.
"""

import glob
import io
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffff import __version__, spec, tree
from diffff.descriptors.radial import SplineBasis
from diffff.errors import InputError
from diffff.files import replacing
from diffff.model import Model, load
from diffff.potentials.deep import DeepModel

Arrays = dict[str, np.ndarray]
SUFFIX = ".h5"
_FORMAT = "diffff checkpoint"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        step: number of steps done.
        model: hyper-parameters, with type map and slots as numbers.
        input: the completed input of the run.
        basis: spline functions in use, or None on the direct path.
        parts: arrays by path, in parts: "trained", "frozen", "optimizer", "ema", "swa", "sums", "sampler",
            "valid_sampler".
        n_devices: on how many the run was; None: a release wrote it that did not say.
    """

    step: int
    model: DeepModel
    input: dict[str, Any]
    basis: SplineBasis | None
    parts: dict[str, Arrays]
    n_devices: int | None = None

    def params(self, weights: str = "trained") -> dict[str, Any]:
        """The parameter tree; ``weights`` may also be "ema" or "swa", the averages over the run.

        Raises:
            InputError: The run does not keep this average, or has not begun with it.
        """
        arrays = self.parts.get(weights, {"count": np.zeros(())})
        if not arrays.get("count", True):
            raise InputError(
                f'step {self.step} has no weights "{weights}". Set training.enable_{weights} in the input of the run; '
                "the plain mean, swa, begins at training.swa_start."
            )
        mean = {name.removeprefix("mean/"): array for name, array in arrays.items() if name != "count"}
        return tree.unflatten({**self.parts["frozen"], **mean})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the old file of that name, if any, stays until the new one is complete."""
    header = {
        "format": _FORMAT,
        "version": __version__,
        "step": checkpoint.step,
        "devices": checkpoint.n_devices,
        "model": spec.completed(checkpoint.model),
        "input": checkpoint.input,
        "basis": None if checkpoint.basis is None else asdict(checkpoint.basis),
    }
    content = io.BytesIO()  # HDF5 does not get over a full disk in good order, a plain file does
    with h5py.File(content, "w") as file:
        file["header"] = json.dumps(header)  # a dataset: attributes are limited to 64 kB
        for part, arrays in checkpoint.parts.items():
            for name, array in arrays.items():
                file.create_dataset(f"{part}/{name}", data=np.asarray(array))
    with replacing(path) as beside:
        beside.write_bytes(content.getvalue())


def read(path: Path) -> Checkpoint:
    """Read the checkpoint that a file, a path without suffix or the directory of a run stands for.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = find(path)
    if path.suffix in (".dp", ".yaml", ".yml"):
        raise InputError(f"{path}: a model file, which has the weights only. Begin a new run with --init-model {path}.")
    try:
        with h5py.File(path, "r") as file:
            dataset = file["header"]
            if not isinstance(dataset, h5py.Dataset):
                raise KeyError("header")
            header = json.loads(dataset[()])
            arrays: Arrays = {}
            file.visititems(
                lambda name, node: arrays.update({name: node[()]} if isinstance(node, h5py.Dataset) else {})
            )
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: no checkpoint of diffff, or damaged ({error}). Use an earlier one.") from None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise InputError(f"{path}: no checkpoint of diffff.")
    parts: dict[str, Arrays] = {"optimizer": {}}  # plain gradient descent has no state
    del arrays["header"]
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = array
    if missing := {"trained", "frozen", "sampler"} - parts.keys():
        raise InputError(f"{path}: damaged, it lacks {', '.join(sorted(missing))}. Use an earlier checkpoint.")
    basis = header["basis"]
    if basis is not None and "scale" not in basis:
        raise InputError(
            f"{path}: its splines are those of an earlier version of diffff. Freeze the model with that version, and "
            "begin a new run with --init-model."
        )
    return Checkpoint(
        step=header["step"],
        model=spec.validate(DeepModel, header["model"], str(path)),
        input=header["input"],
        basis=None if basis is None else SplineBasis(**basis),
        parts=parts,
        n_devices=header.get("devices"),
    )


def find(path: Path) -> Path:
    """The checkpoint file meant by ``path``: itself, ``path.h5``, or what `checkpoint` in a directory names."""
    if path.is_dir():
        pointer = path / "checkpoint"
        if not pointer.is_file():
            raise InputError(f"{path}: no file named `checkpoint` here; give a checkpoint, model.ckpt-STEP{SUFFIX}.")
        path = path / pointer.read_text(encoding="utf-8").strip()
    for candidate in (path, Path(f"{path}{SUFFIX}")):
        if candidate.is_file():
            return candidate
    raise InputError(f"{path}: no such checkpoint; give model.ckpt-STEP{SUFFIX}, or the directory of the run.")


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` stands for a checkpoint rather than a model file."""
    return path.is_dir() or path.suffix == SUFFIX or Path(f"{path}{SUFFIX}").is_file()


def load_model_of(path: Path, *, whole: bool = False) -> Model:
    """The model of a checkpoint, with the last weights, or of a model file.

    Args:
        path: of either.
        whole: refuse a network that is only a part of what was trained.
    """
    if not is_checkpoint(path):
        return load(path)
    checkpoint = read(path)
    if whole and checkpoint.input.get("model", {}).get("type") == "sum":
        raise InputError(
            f"{path}: the network there was trained as a part of a sum, without which its energies are not those of "
            "the data. Freeze it, and name an input.json whose section model is the sum, with the network as a part "
            '{"type": "deep", "file": "model.dp"}.'
        )
    return Model(spec=checkpoint.model, params=checkpoint.params())


def freeze(checkpoint: Path, output: Path, *, weights: str = "trained") -> None:
    """Write the model of a checkpoint as a ``.dp`` or ``.yaml`` file; for ``weights`` see `Checkpoint.params`."""
    from diffff.formats.deepmd import save_model

    found = read(checkpoint)
    save_model(output, found.model, found.params(weights)["DeepPot"])
    logger.info("step %d of %s written to %s", found.step, find(checkpoint), output)


@dataclass(frozen=True)
class Keeper:
    """Names the checkpoints of a run and removes the oldest.

    Attributes:
        prefix: path without step and suffix, e.g. ``model.ckpt``.
        keep: number of checkpoints that stay.
    """

    prefix: Path
    keep: int

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step goes."""
        return Path(f"{self.prefix}-{step}{SUFFIX}")

    def check_directory(self) -> None:
        """Find out before the first step whether checkpoints can be written.

        Raises:
            InputError: They cannot.
        """
        directory = self.prefix.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise InputError(
                f"{directory}: checkpoints cannot be written here ({error.strerror}). Choose another training.save_dir."
            ) from None

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, point ``checkpoint`` and ``<prefix>.h5`` to it, remove those that are too old."""
        path = self.path(checkpoint.step)
        save(path, checkpoint)
        with replacing(path.parent / "checkpoint") as pointer:
            pointer.write_text(f"{path.name}\n", encoding="utf-8")
        link = Path(f"{self.prefix}{SUFFIX}")
        with replacing(link) as beside:
            os.symlink(path.name, beside)
        for old in self._up_to(checkpoint.step)[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def _up_to(self, last: int) -> list[Path]:
        """Checkpoints in order; those beyond the step ``last`` belong to an earlier run and are left alone."""
        steps = {}
        for path in self.prefix.parent.glob(f"{glob.escape(self.prefix.name)}-*{SUFFIX}"):
            number = path.stem.removeprefix(f"{self.prefix.name}-")
            if number.isdecimal() and int(number) <= last:
                steps[int(number)] = path
        return [steps[step] for step in sorted(steps)]
