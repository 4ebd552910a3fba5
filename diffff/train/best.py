"""The best models of a run: which steps they are from, and their checkpoints `best.ckpt-STEP.t-RANK.h5`."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffff.files import writing
from diffff.train.checkpoint import SUFFIX, Arrays, Checkpoint, save


@dataclass
class BestModels:
    """Keeps the checkpoints with the smallest errors, named by step and rank.

    Attributes:
        prefix: Path of the checkpoints without step, rank and suffix.
        keep: How many stay.
        record: Error and step of each of them, the best first; of two equal errors the earlier step is the better.

    Example:
        >>> best = BestModels(Path("best.ckpt"), keep=2)
        >>> [best.enter(error, step) for error, step in ((3.0, 10), (1.0, 20), (4.0, 30), (2.0, 40))]
        [True, True, False, True]
        >>> best.record
        [(1.0, 20), (2.0, 40)]
    """

    prefix: Path
    keep: int
    record: list[tuple[float, int]]

    def __init__(self, prefix: Path, keep: int) -> None:
        self.prefix, self.keep, self.record = prefix, keep, []

    def enter(self, error: float, step: int) -> bool:
        """Note the error of a step; whether it is among the best. An error that is not finite never is."""
        record = [entry for entry in self.record if entry[1] != step]
        if np.isfinite(error):
            record.append((error, step))
        self.record = sorted(record)[: self.keep]
        return (error, step) in self.record

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step in the record belongs."""
        rank = 1 + [entry[1] for entry in self.record].index(step)
        return Path(f"{self.prefix}-{step}.t-{rank}{SUFFIX}")

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint of a step in the record; rename the others by rank, remove those no longer in it."""
        path = self.path(step)
        save(path, checkpoint)
        steps = {entry[1] for entry in self.record}
        pattern = re.compile(rf"{re.escape(self.prefix.name)}-(\d+)\.t-\d+{re.escape(SUFFIX)}")
        for old in sorted(path.parent.iterdir()):
            match = pattern.fullmatch(old.name)
            if match is None:
                continue
            its_step = int(match[1])
            with writing(old):
                if its_step not in steps or (its_step == step and old != path):
                    old.unlink()
                elif its_step != step:
                    old.replace(self.path(its_step))
        return path

    def to_arrays(self) -> Arrays:
        """The record as it stands in a checkpoint."""
        errors, steps = np.array([e for e, _ in self.record], float), np.array([s for _, s in self.record], int)
        return {"errors": errors, "steps": steps}

    def from_arrays(self, arrays: Arrays) -> None:
        """Take the record of a checkpoint, the inverse of `to_arrays`."""
        self.record = list(zip(arrays["errors"].tolist(), arrays["steps"].tolist(), strict=True))[: self.keep]
