"""`resume`: go on with a run of OpenMM that was killed, in the same files, without a gap and without a frame twice."""

import re
import struct
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from diffff import units
from diffff.errors import InputError
from diffff.files import replacing
from diffff.md.trajectory.dcd import HEADER, PS_PER_AKMA
from diffff.md.trajectory.frame import not_ours, writing

_NM, _PS = unit.nanometer, unit.picosecond  # pyright: ignore[reportAttributeAccessIssue]
_SAME = 1e-4  # nm; positions in a DCD file are rounded to seven digits


def resume(
    simulation: app.Simulation,
    checkpoint: str | Path,
    *,
    trajectory: str | Path | None = None,
    log: str | Path | None = None,
    begun: int = 0,
) -> int:
    """Load a checkpoint, and take out of the files what was written after it.

    A run that is killed has written frames and lines since its last checkpoint, and perhaps half a one. OpenMM's
    reporters with ``append=True`` leave them there, and those of the run that goes on come after them, a second time.
    To be called before such reporters are made.

    Args:
        simulation: as it was, with the same System, integrator and platform.
        checkpoint: of OpenMM's ``CheckpointReporter``.
        trajectory: .dcd, of OpenMM's ``DCDReporter``; None: there is none.
        log: of OpenMM's ``StateDataReporter``, with ``step=True``; None: there is none.
        begun: the step at which the reporters were added; 0 unless the same Simulation had made steps before.

    Returns:
        The step from which the run goes on.

    Raises:
        InputError: the checkpoint does not fit the simulation, a file is another one's, or a frame or line is missing
            before the checkpoint.
    """
    files = [Path(file) for file in (checkpoint, trajectory, log) if file is not None]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: there is no such file. To begin a run, leave resume out.")
    try:
        simulation.loadCheckpoint(str(checkpoint))
    except openmm.OpenMMException as error:
        raise InputError(f"{checkpoint}: the checkpoint does not fit this simulation ({error}).") from error
    step = simulation.currentStep
    if not 0 <= begun <= step:
        raise InputError(f"begun is {begun}; give a step from 0 to {step}, that of the checkpoint.")
    if trajectory is not None:
        _cut_dcd(Path(trajectory), simulation, begun)
    if log is not None:
        _cut_log(Path(log), step, begun)
    return step


def _cut_dcd(path: Path, simulation: app.Simulation, begun: int) -> None:
    """Keep the frames up to the step of the simulation."""
    if path.suffix.lower() != ".dcd":
        raise InputError(f"{path}: only DCD files can be continued; write the trajectory with OpenMM's DCDReporter.")
    step, time_step = simulation.currentStep, simulation.integrator.getStepSize().value_in_unit(_PS)
    with writing(path), path.open("r+b") as file:
        start = file.read(HEADER.size)
        if len(start) < HEADER.size or start[4:8] != b"CORD" or not start[100:180].startswith(b"Created by OpenMM"):
            raise not_ours(path, "it has not the header of a DCD file of OpenMM")
        fields = HEADER.unpack(start)
        first, interval, written, cells, n_atoms = fields[3], fields[4], fields[11], bool(fields[12]), fields[-2]
        scale = round(written * PS_PER_AKMA / time_step)  # of steps, where they are too many for the header
        if scale < 1 or first != interval or abs(written * PS_PER_AKMA / time_step - scale) > 1e-4 * scale:
            raise not_ours(path, f"its steps are not of {time_step:g} ps, or not OpenMM's DCDReporter wrote it")
        every = interval * scale
        per_frame = 56 * cells + 3 * (8 + 4 * n_atoms)
        complete, wanted = (file.seek(0, 2) - HEADER.size) // per_frame, step // every - begun // every
        if complete < wanted:
            raise not_ours(path, f"it has {complete} of the {wanted} frames from step {begun} to {step}")
        if wanted and step % every == 0 and n_atoms == simulation.topology.getNumAtoms():
            file.seek(HEADER.size + (wanted - 1) * per_frame)
            _check_same(path, simulation, _positions_in(file.read(per_frame), cells, n_atoms), wanted)
        file.seek(8)
        file.write(struct.pack("<i", wanted))
        file.seek(20)
        file.write(struct.pack("<i", first + (wanted - 1) * interval if wanted else 0))
        file.truncate(HEADER.size + wanted * per_frame)


def _positions_in(frame: bytes, cell: bool, n_atoms: int) -> np.ndarray:
    """Positions of a frame, nm."""
    rows = np.frombuffer(frame[56 * cell :], "<f4").reshape(3, n_atoms + 2)
    return rows[:, 1:-1].T.astype(float) / units.ANGSTROM_PER_NM


def _check_same(path: Path, simulation: app.Simulation, x: np.ndarray, number: int) -> None:
    """The frame of the checkpoint's step must show its positions, but for translations by the box."""
    state = simulation.context.getState(positions=True)
    apart = state.getPositions(asNumpy=True).value_in_unit(_NM) - x
    if simulation.system.usesPeriodicBoundaryConditions():
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(_NM)
        apart -= np.round(apart @ np.linalg.inv(box)) @ box
    if np.abs(apart).max() > _SAME + 1e-6 * np.abs(x).max():
        raise not_ours(
            path,
            f"frame {number}, which should be that of step {simulation.currentStep}, has other positions than the "
            "checkpoint (had the run made steps before its reporters were added, give their number as begun)",
        )


def _cut_log(path: Path, step: int, begun: int) -> None:
    """Keep the lines up to a step."""
    lines = path.read_text().splitlines(keepends=True)
    names = re.findall(r'"([^"]*)"', lines[0]) if lines else []
    between = re.match(r'#"[^"]*"([^"]+)"', lines[0]) if lines else None
    if "Step" not in names or (len(names) > 1 and between is None):
        raise not_ours(path, "its first line does not name a column Step; give StateDataReporter step=True")
    separator = between.group(1) if between else None
    kept, steps = [lines[0]], [begun]
    for line in lines[1:]:
        columns = line.split(separator)
        if not line.endswith("\n") or len(columns) != len(names) or int(columns[names.index("Step")]) > step:
            break
        kept.append(line)
        steps.append(int(columns[names.index("Step")]))
    apart = np.diff(steps)
    if len(steps) > 1 and (apart[0] > apart[-1] or np.any(apart[1:] != apart[-1]) or step - steps[-1] >= apart[-1]):
        raise not_ours(path, f"between the steps {begun} and {step} lines are missing, or there twice")
    with replacing(path) as beside:
        beside.write_text("".join(kept))
