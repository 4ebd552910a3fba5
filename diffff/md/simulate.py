"""`simulate`: a run with its log, trajectory and checkpoints, which can be killed and continued without a trace."""

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import jax
import numpy as np

from diffff.errors import InputError
from diffff.md import checkpoint
from diffff.md.barostats import Barostat
from diffff.md.calculator import Calculator
from diffff.md.constraints import Constraints
from diffff.md.engine import Engine
from diffff.md.integrators import Integrator, Langevin
from diffff.md.outputs import Files, Outputs, Pace
from diffff.md.positions import check_skin, positions_and_box
from diffff.md.precision import cast, cast_params, cast_potential, check_dtype
from diffff.md.state import State, particles, state_of
from diffff.md.whole import bonded_pairs, require_whole
from diffff.potentials.base import Params, Potential, require_potential


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
    temperature: float | None = None,
    seed: int = 0,
    n_replicas: int = 1,
    dtype: str = "float64",
    skin: float = 0.1,
    committee: Sequence[tuple[Potential, Params]] = (),
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
        temperature: of the first velocities, K; None: that of the integrator, or 300 K.
        seed: of all random numbers.
        n_replicas: how many run at once; they differ in their random numbers.
        dtype: "float64" or "float32", in which forces are computed and atoms moved.
        skin: nm, how much farther than the cutoff the neighbour lists reach.
        committee: other potentials of these atoms, with their parameters: how far all of them are apart goes into the
            file ``outputs.deviation``. They do not move the atoms.
        outputs: files to write; None: none.
        restart: go on from the checkpoint, as if the run had not been interrupted.

    Returns:
        The state after the last step; its arrays have a leading axis of replicas.

    Raises:
        InputError: something makes no sense, cannot be written, or the simulation becomes unstable; the files hold
            what was reached.
    """
    outputs = outputs or Outputs(log=None, trajectory=None, checkpoint=None)
    outputs.check(len(committee))
    if temperature is None:
        temperature = integrator.temperature or 300.0
    require_potential(potential, params)
    _check(n_steps, n_replicas, seed, temperature, dtype, skin)
    masses = _masses(masses)
    positions, box = _places(potential, positions, box, len(masses), n_replicas, dtype)
    _check_barostat(barostat, integrator, box)
    free = isinstance(integrator, Langevin)
    some = cast(particles(masses, constraints, molecules=molecules, free_center=free), dtype)
    if integrator.temperature is not None and some.n_free < 1:
        raise InputError("no degree of freedom is left: a thermostat has nothing to act on. Take verlet, or langevin.")
    engine = Engine(cast_potential(potential, dtype), cast_params(params, dtype), some, integrator, barostat, skin=skin)
    run = f"{integrator}, {barostat}, {n_replicas} replicas of {len(masses)} atoms, seed {seed}, {dtype}"
    run += f", skin {skin} nm, a checkpoint each {outputs.checkpoint_every} steps"
    run += f", potential and particles {_digest(potential, params, some)}"
    sizes = None
    if restart:
        if outputs.checkpoint is None:
            raise InputError("restart needs a checkpoint; name its file in outputs.")
        state, sizes = checkpoint.load(outputs.checkpoint, run)
    else:
        options = {"temperature": temperature, "seed": seed, "n_replicas": n_replicas, "dtype": dtype}
        bath = integrator.bath() | ({} if barostat is None else barostat.bath())
        state = state_of(positions, box, some, bath, **options)
    others = [Calculator(*other, skin=skin, dtype=dtype) for other in committee]
    after, dt = int(state.step[0]) if restart else None, integrator.time_step
    pace = Pace(n_steps, dt, n_replicas)
    with Files(outputs, atoms, some, others, time_step=dt, n_replicas=n_replicas, after=after) as files:
        state = engine.start(state, sizes)
        if not restart:
            files.write(state)
        while (step := int(state.step[0])) < n_steps:
            state = engine.advance(state, min(outputs.steps_to_next(step), n_steps - step))
            step = int(state.step[0])
            files.write(state)
            pace.passed(step)
            if outputs.checkpoint is not None and (step % outputs.checkpoint_every == 0 or step == n_steps):
                files.flush()
                assert engine.sizes is not None
                checkpoint.save(outputs.checkpoint, state, engine.sizes, run)
                state = engine.start(state)
    return state


def _digest(*trees: Any) -> str:
    """A short name of some trees of arrays, down to the last bit, with what in them is no array."""
    found = sha256(str(jax.tree.structure(trees)).encode())
    for leaf in jax.tree.leaves(trees):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def _check(n_steps: int, n_replicas: int, seed: int, temperature: float, dtype: str, skin: float) -> None:
    check_dtype(dtype)
    check_skin(skin)
    for name, value, least in (("n_steps", n_steps, 0), ("n_replicas", n_replicas, 1), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value}; give a whole number, {least} or more.")
    if not (math.isfinite(temperature) and temperature >= 0.0):
        raise InputError(f"temperature is {temperature} K; give 0 or more.")


def _masses(masses: Any) -> np.ndarray:
    try:
        found = np.asarray(masses, float)
    except (TypeError, ValueError):
        raise InputError("masses are no numbers; give amu, shape (n_atoms,).") from None
    if found.ndim != 1 or not np.isfinite(found).all() or np.any(found < 0.0):
        raise InputError("a mass is negative or not finite; give amu, shape (n_atoms,), and 0 for virtual sites.")
    return found


def _places(
    potential: Potential, positions: Any, box: Any, n_atoms: int, n_replicas: int, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and boxes, those of all replicas if there are several: finite, in nm, and molecules whole."""
    if np.ndim(positions) == 3 and len(positions) != n_replicas:
        raise InputError(f"positions are of {len(positions)} replicas, but n_replicas is {n_replicas}.")
    each_x = list(positions) if np.ndim(positions) == 3 else [positions]
    each_box = list(box) if np.ndim(box) == 3 else [box]
    if len(each_box) not in (1, n_replicas):
        raise InputError(f"boxes are of {len(each_box)} replicas, but n_replicas is {n_replicas}.")
    n, pairs = max(len(each_x), len(each_box)), bonded_pairs(potential)
    found = [positions_and_box(each_x[k % len(each_x)], each_box[k % len(each_box)], dtype) for k in range(n)]
    for x, cell in found:
        if len(x) != n_atoms:
            raise InputError(f"positions have the shape {np.shape(positions)} for {n_atoms} masses.")
        require_whole(pairs, x, cell)
    if n == 1:
        return found[0]
    return np.stack([x for x, _ in found]), None if box is None else np.stack([cell for _, cell in found])  # pyright: ignore[reportCallIssue, reportArgumentType]


def _check_barostat(barostat: Barostat | None, integrator: Integrator, box: np.ndarray | None) -> None:
    if barostat is None:
        return
    name = type(barostat).__name__
    if box is None:
        raise InputError(f"{name}: there is no box whose volume could change. Give box, or leave the barostat out.")
    if integrator.temperature is None:
        raise InputError(f"{name} needs a thermostat: take Langevin, NoseHoover or CSVR.")
    cells = np.asarray(box, float).reshape(-1, 3, 3)
    triangular = not np.triu(cells, 1).any() and np.all(np.diagonal(cells, axis1=1, axis2=2) > 0.0)
    if barostat.coupling == "full" and not triangular:
        raise InputError(
            f"{name}: coupling 'full' needs a box (a_x, 0, 0), (b_x, b_y, 0), (c_x, c_y, c_z) with a positive "
            "diagonal; turn box and positions together until it is one."
        )
