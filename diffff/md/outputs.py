"""What a simulation writes as it goes: log, trajectory, model deviation, and how fast it is."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffff.errors import InputError
from diffff.md.calculator import Calculator, Result
from diffff.md.deviation import result_deviation
from diffff.md.deviation_file import DeviationFile
from diffff.md.log import Log
from diffff.md.observables import Observables, observe
from diffff.md.state import Particles, State
from diffff.md.trajectory import Frame, Trajectory, open_trajectory
from diffff.md.trajectory.frame import writing

logger = logging.getLogger(__name__)

_SAY_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Outputs:
    """Files of a run. Replicas have files of their own: ``md.log`` becomes ``md-0.log``, ``md-1.log``, ….

    Attributes:
        log: a table of energies and the like; None: none.
        log_every: steps.
        trajectory: .dcd, .xyz, .extxyz, .h5 or .hdf5; None: none.
        trajectory_every: steps.
        checkpoint: what a run is continued from, .npz; None: none.
        checkpoint_every: steps. The bits of a run depend on it, since neighbour lists are made anew there.
        deviation: how far a committee of potentials is apart, in DeePMD-kit's format; None: none.
        deviation_every: steps.
    """

    log: Path | None = Path("md.log")
    log_every: int = 100
    trajectory: Path | None = None
    trajectory_every: int = 1000
    checkpoint: Path | None = Path("md.npz")
    checkpoint_every: int = 10000
    deviation: Path | None = None
    deviation_every: int = 1000

    @property
    def schedule(self) -> dict[Path, int]:
        """The files there are, and after how many steps each is written."""
        pairs = (
            (self.log, self.log_every),
            (self.trajectory, self.trajectory_every),
            (self.checkpoint, self.checkpoint_every),
            (self.deviation, self.deviation_every),
        )
        return {path: every for path, every in pairs if path is not None}

    def steps_to_next(self, step: int) -> int:
        """Until something is to be written."""
        return min((every - step % every for every in self.schedule.values()), default=1000)

    def __post_init__(self) -> None:
        for name in ("log", "trajectory", "checkpoint", "deviation"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))

    def check(self, n_others: int) -> None:
        """See whether these files make sense together.

        Args:
            n_others: potentials of the committee beside that of the run.

        Raises:
            InputError: a file is meant for two things, is never due, or a deviation lacks what it is the deviation of.
        """
        for name in ("log_every", "trajectory_every", "checkpoint_every", "deviation_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more.")
        files = [path for path in (self.log, self.trajectory, self.checkpoint, self.deviation) if path is not None]
        if len(files) > len(self.schedule):
            raise InputError(f"two outputs go to one file: {', '.join(str(path) for path in files)}.")
        if (self.deviation is None) != (n_others == 0):
            raise InputError(
                "a model deviation needs both: a committee, the other potentials, and outputs.deviation, its file."
            )
        for path in files:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(path.parent, os.W_OK) or path.is_dir():
                raise InputError(f"{path}: cannot be written. Name a file in a folder of yours.")


class Files:
    """The files of all replicas but for checkpoints; a context manager, which closes them."""

    def __init__(
        self,
        outputs: Outputs,
        atoms: Any | Sequence[str],
        particles: Particles,
        others: Sequence[Calculator],
        *,
        time_step: float,
        n_replicas: int,
        after: int | None,
    ) -> None:
        """Open them.

        Args:
            outputs: their names.
            atoms: an OpenMM topology or the symbols of the elements, for the trajectory.
            particles: masses and constraints.
            others: of the committee, without the one that moves the atoms.
            time_step: ps.
            n_replicas: how many there are.
            after: step of the checkpoint from which the run goes on: what is later in the files is removed. None: new.

        Raises:
            InputError: one of them cannot be written, or not continued.
        """
        self._outputs, self._time_step, self._others = outputs, time_step, others
        self._real = np.asarray(particles.masses) > 0.0
        self._observe = jax.jit(jax.vmap(lambda state: observe(state, particles)))
        self._logs: list[Log] = []
        self._trajectories: list[Trajectory] = []
        self._deviations: list[DeviationFile] = []
        for replica in range(n_replicas):
            paths = {name: _of_replica(getattr(outputs, name), replica, n_replicas) for name in _NAMES}
            if (path := paths["log"]) is not None:
                self._logs.append(Log(path, append_at_step=after))
            if (path := paths["trajectory"]) is not None:
                self._trajectories.append(open_trajectory(path, atoms, append_at_step=after))
            if (path := paths["deviation"]) is not None:
                self._deviations.append(DeviationFile(path, append_at_step=after))

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *error: object) -> None:
        for file in (*self._trajectories, *self._deviations):
            file.close()

    def write(self, state: State) -> None:
        """What is due at this step.

        Raises:
            InputError: a file cannot be written.
        """
        step, outputs = int(state.step[0]), self._outputs
        logs = self._logs if step % outputs.log_every == 0 else []
        trajectories = self._trajectories if step % outputs.trajectory_every == 0 else []
        seen = self._observe(state) if logs or trajectories else None
        for replica, log in enumerate(logs):
            log.write(step, step * self._time_step, jax.tree.map(lambda x, r=replica: x[r], seen))
        for replica, trajectory in enumerate(trajectories):
            assert seen is not None
            trajectory.write(_frame(state, seen, replica, step, self._time_step))
        for replica, deviation in enumerate(self._deviations if step % outputs.deviation_every == 0 else []):
            deviation.write(step, result_deviation(self._results(state, replica), real=self._real))

    def flush(self) -> None:
        """Have all of it on disk.

        Raises:
            InputError: a file cannot be written.
        """
        for file in (*self._trajectories, *self._deviations):
            file.flush()

    def _results(self, state: State, replica: int) -> list[Result]:
        """What all potentials say of the positions of a replica."""
        energy, forces, virial = (np.asarray(x[replica], float) for x in (state.energy, state.forces, state.virial))
        x, box = np.asarray(state.positions[replica]), None if state.box is None else np.asarray(state.box[replica])
        return [Result(float(energy), forces, virial), *(other(x, box) for other in self._others)]


_NAMES = ("log", "trajectory", "deviation")


def _of_replica(path: Path | None, replica: int, n_replicas: int) -> Path | None:
    return path if n_replicas == 1 or path is None else path.with_name(f"{path.stem}-{replica}{path.suffix}")


def _frame(state: State, seen: Observables, replica: int, step: int, time_step: float) -> Frame:
    return Frame(
        step=step,
        time=step * time_step,
        positions=np.asarray(state.positions[replica]),
        box=None if state.box is None else np.asarray(state.box[replica]),
        velocities=np.asarray(state.velocities[replica]),
        forces=np.asarray(state.forces[replica]),
        potential_energy=float(seen.potential[replica]),
        kinetic_energy=float(seen.kinetic[replica]),
        temperature=float(seen.temperature[replica]),
    )


class Pace:
    """Says in the log of the program now and then where a run is, how fast it is and when it will be done.

    The first steps, which are compiled, do not count.
    """

    def __init__(self, n_steps: int, time_step: float, n_replicas: int) -> None:
        """Take the length of the run and of a step, ps."""
        self._n_steps, self._time_step, self._n_replicas = n_steps, time_step, n_replicas
        self._since: tuple[int, float] | None = None
        self._said = time.monotonic()

    def passed(self, step: int) -> None:
        """Some more steps are done."""
        now = time.monotonic()
        if self._since is None:
            self._since = (step, now)
        elif step >= self._n_steps or now - self._said > _SAY_EVERY:
            self._said = now
            first, begun = self._since
            rate = (step - first) / max(now - begun, 1e-9)
            left = timedelta(seconds=round((self._n_steps - step) / rate))
            each = "" if self._n_replicas == 1 else f" for each of {self._n_replicas} replicas"
            ns_per_day = rate * self._time_step * 86.4
            logger.info(
                "step %d of %d: %.1f steps/s, %.3g ns/day%s, %s left",
                *(step, self._n_steps, rate, ns_per_day, each, left),
            )
