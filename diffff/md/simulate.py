"""`simulate`: a run with its log, trajectory and checkpoints, which can be killed and continued without a trace."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffff.errors import InputError
from diffff.md import checkpoint
from diffff.md.barostats import Barostat
from diffff.md.constraints import Constraints
from diffff.md.engine import Engine
from diffff.md.integrators import Integrator, Langevin
from diffff.md.log import Log
from diffff.md.observables import observe
from diffff.md.precision import cast, cast_params, check_dtype
from diffff.md.state import Particles, State, particles, state_of
from diffff.md.trajectory import Frame, Trajectory, open_trajectory
from diffff.potentials.base import Params, Potential

logger = logging.getLogger(__name__)


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
    """

    log: Path | None = Path("md.log")
    log_every: int = 100
    trajectory: Path | None = None
    trajectory_every: int = 1000
    checkpoint: Path | None = Path("md.npz")
    checkpoint_every: int = 10000


def simulate(
    potential: Potential,
    params: Params,
    positions: np.ndarray,
    box: np.ndarray | None,
    masses: np.ndarray,
    integrator: Integrator,
    n_steps: int,
    *,
    barostat: Barostat | None = None,
    molecules: np.ndarray | None = None,
    atoms: Any | Sequence[str] = (),
    constraints: Constraints | None = None,
    temperature: float = 300.0,
    seed: int = 0,
    n_replicas: int = 1,
    dtype: str = "float64",
    skin: float = 0.1,
    outputs: Outputs | None = None,
    restart: bool = False,
) -> State:
    """Run some steps of molecular dynamics.

    Args:
        potential: the energy.
        params: its parameters.
        positions: shape ``(n_atoms, 3)``, or ``(n_replicas, n_atoms, 3)``, nm; molecules are whole.
        box: shape ``(3, 3)``, or ``(n_replicas, 3, 3)``, nm; None without periodicity.
        masses: shape ``(n_atoms,)``, amu; 0 for virtual sites.
        integrator: `VelocityVerlet`, `Langevin`, `NoseHoover` or `CSVR`.
        n_steps: of the whole run, those before a restart included.
        barostat: `CellRescaling` or `MonteCarlo`; None: the box stays.
        molecules: shape ``(n_atoms,)``, number of the molecule of each atom: a barostat moves molecules as a whole, and
            the pressure in the log is theirs. None: what constraints connect.
        atoms: an OpenMM topology or the symbols of the elements, for the trajectory.
        constraints: distances that are kept.
        temperature: of the first velocities, K.
        seed: of all random numbers.
        n_replicas: how many run at once; they differ in their random numbers.
        dtype: "float64" or "float32", in which forces are computed and atoms moved.
        skin: nm, how much farther than the cutoff the neighbour lists reach.
        outputs: files to write; None: none.
        restart: go on from the checkpoint, as if the run had not been interrupted.

    Returns:
        The state after the last step; its arrays have a leading axis of replicas.

    Raises:
        InputError: something makes no sense, cannot be written, or the simulation becomes unstable; the files hold
            what was reached.
    """
    outputs = outputs or Outputs(log=None, trajectory=None, checkpoint=None)
    _check(integrator, n_steps, n_replicas, outputs, dtype, masses, positions)
    _check_barostat(barostat, integrator, box)
    free = isinstance(integrator, Langevin)
    some = cast(particles(np.asarray(masses, float), constraints, molecules=molecules, free_center=free), dtype)
    engine = Engine(cast(potential, dtype), cast_params(params, dtype), some, integrator, barostat, skin=skin)
    run = f"{integrator}, {barostat}, {n_replicas} replicas of {len(masses)} atoms, seed {seed}, {dtype}"
    run += f", skin {skin} nm, a checkpoint each {outputs.checkpoint_every} steps"
    sizes = None
    if restart:
        if outputs.checkpoint is None:
            raise InputError("restart needs a checkpoint; name its file in outputs.")
        state, sizes = checkpoint.load(outputs.checkpoint, run)
    else:
        options = {"temperature": temperature, "seed": seed, "n_replicas": n_replicas, "dtype": dtype}
        bath = integrator.bath() | ({} if barostat is None else barostat.bath())
        state = state_of(positions, box, some, bath, **options)
    files = _Files(outputs, atoms, some, integrator.time_step, n_replicas, int(state.step[0]) if restart else None)
    with files:
        return _run(engine, state, sizes, n_steps, outputs, files, run)


def _run(engine: Engine, state: State, sizes: Any, n_steps: int, outputs: Outputs, files: "_Files", run: str) -> State:
    """All steps, and what is written in between."""
    state = engine.start(state, sizes)
    first, begun = int(state.step[0]), time.monotonic()
    if sizes is None:
        files.write(state)
    while (step := int(state.step[0])) < n_steps:
        state = engine.advance(state, min(files.steps_to_next(step), n_steps - step))
        step = int(state.step[0])
        files.write(state)
        if outputs.checkpoint is not None and (step % outputs.checkpoint_every == 0 or step == n_steps):
            files.flush()
            assert engine.sizes is not None
            checkpoint.save(outputs.checkpoint, state, engine.sizes, run)
            state = engine.start(state)
    rate = (n_steps - first) / max(time.monotonic() - begun, 1e-9)
    logger.info("%d steps, %.1f steps/s, %.3g ns/day", n_steps - first, rate, 86.4 * rate * files.time_step)
    return state


class _Files:
    """Logs and trajectories of all replicas."""

    def __init__(
        self,
        outputs: Outputs,
        atoms: Any | Sequence[str],
        some: Particles,
        time_step: float,
        n_replicas: int,
        after: int | None,
    ) -> None:
        self._outputs, self.time_step, self._particles = outputs, time_step, some
        self._observe = jax.jit(jax.vmap(lambda state: observe(state, some)))
        self._logs: list[Log] = []
        self._trajectories: list[Trajectory] = []
        for replica in range(n_replicas):
            if outputs.log is not None:
                self._logs.append(Log(_of_replica(outputs.log, replica, n_replicas), append_at_step=after))
            if outputs.trajectory is not None:
                path = _of_replica(outputs.trajectory, replica, n_replicas)
                self._trajectories.append(open_trajectory(path, atoms, append_at_step=after))

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error: object) -> None:
        for trajectory in self._trajectories:
            trajectory.close()

    def steps_to_next(self, step: int) -> int:
        """Until something is to be written."""
        every = [self._outputs.log_every] if self._logs else []
        every += [self._outputs.trajectory_every] if self._trajectories else []
        every += [self._outputs.checkpoint_every] if self._outputs.checkpoint is not None else []
        return min((n - step % n for n in every), default=1000)

    def write(self, state: State) -> None:
        """What is due at this step."""
        step = int(state.step[0])
        to_log = bool(self._logs) and step % self._outputs.log_every == 0
        to_trajectory = bool(self._trajectories) and step % self._outputs.trajectory_every == 0
        if not (to_log or to_trajectory):
            return
        seen = self._observe(state)
        for replica, log in enumerate(self._logs if to_log else []):
            log.write(step, step * self.time_step, jax.tree.map(lambda x, r=replica: x[r], seen))
        for replica, trajectory in enumerate(self._trajectories if to_trajectory else []):
            trajectory.write(
                Frame(
                    step=step,
                    time=step * self.time_step,
                    positions=np.asarray(state.positions[replica]),
                    box=None if state.box is None else np.asarray(state.box[replica]),
                    velocities=np.asarray(state.velocities[replica]),
                    forces=np.asarray(state.forces[replica]),
                    potential_energy=float(seen.potential[replica]),
                    kinetic_energy=float(seen.kinetic[replica]),
                    temperature=float(seen.temperature[replica]),
                )
            )

    def flush(self) -> None:
        """Have all frames on disk."""
        for trajectory in self._trajectories:
            trajectory.flush()


def _of_replica(path: Path, replica: int, n_replicas: int) -> Path:
    return path if n_replicas == 1 else path.with_name(f"{path.stem}-{replica}{path.suffix}")


def _check(
    integrator: Integrator,
    n_steps: int,
    n_replicas: int,
    outputs: Outputs,
    dtype: str,
    masses: np.ndarray,
    positions: np.ndarray,
) -> None:
    check_dtype(dtype)
    if np.shape(positions)[-2:] != (len(masses), 3):
        raise InputError(f"positions have the shape {np.shape(positions)} for {len(masses)} masses.")
    if not np.isfinite(np.asarray(masses, float)).all() or np.any(np.asarray(masses) < 0.0):
        raise InputError("a mass is negative or not finite; give amu, and 0 for virtual sites.")
    for name in ("time_step", "temperature", "friction", "time_constant"):
        value = vars(integrator).get(name, 1.0)
        if not (math.isfinite(value) and value > 0.0):
            raise InputError(f"{type(integrator).__name__}: {name} is {value}; give a positive number.")
    counts = {"n_replicas": n_replicas}
    counts |= {name: getattr(outputs, name) for name in ("log_every", "trajectory_every", "checkpoint_every")}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} is {value}; give 1 or more.")
    if n_steps < 0:
        raise InputError(f"n_steps is {n_steps}; give 0 or more.")


def _check_barostat(barostat: Barostat | None, integrator: Integrator, box: np.ndarray | None) -> None:
    if barostat is None:
        return
    name, given, thermostat = type(barostat).__name__, vars(barostat), vars(integrator)
    if box is None:
        raise InputError(f"{name}: there is no box whose volume could change. Give box, or leave the barostat out.")
    if "temperature" not in thermostat:
        raise InputError(f"{name} needs a thermostat: take Langevin, NoseHoover or CSVR instead of {integrator}.")
    for shared in ("temperature", "time_step"):
        if given.get(shared, thermostat[shared]) != thermostat[shared]:
            raise InputError(f"{name} has the {shared} {given[shared]}, the integrator {thermostat[shared]}.")
    for key in ("temperature", "time_constant", "compressibility", "every"):
        value = given.get(key, 1.0)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}: {key} is {value}; give a positive number.")
    if not math.isfinite(barostat.pressure):
        raise InputError(f"{name}: pressure is {barostat.pressure} bar; give a finite number.")
