"""Steps per second of molecular dynamics with a Deep Potential of water: here, and in DeePMD-kit.

    python benchmarks/md_deepmd.py --deepmd-python ENVIRONMENT/bin/python

ENVIRONMENT holds DeePMD-kit with TensorFlow, its fastest backend on CPU, ASE and the plugin for LAMMPS:
pip install "deepmd-kit[cpu,lmp]" ase. Contenders of which a part is not installed are left out, with a line that says
so; without --deepmd-python, all of DeePMD-kit are.

Each contender is a process of its own with the same atoms, box, velocities and time step, the same number of cores, and
a neighbour list with the same skin, renewed when an atom has moved by half of it; DeePMD-kit's calculator for ASE makes
its list anew in each call. First their energy and forces of the first frame are compared with those of `Model.eval`.
Then they take turns of some steps, so that other load on the machine meets all alike. Whoever is not in turn is stopped
(SIGSTOP): some libraries, MPI above all, spin while they wait. The first turn, which compiles, does not count.

The steps are of velocity Verlet (NVE), or of a Langevin thermostat where the name says so. `start-up` is the time from
the start of the process to the end of its first step. WRONG is said of energies or forces that differ from `Model.eval`
by more than rounding.

Nets with random weights do not keep atoms apart. So, without --model, the usual ones of water (25-50-100 and
240-240-240) are trained first with `dff train`, for a minute or two; --save keeps them for the next time.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "water" / "train"
MASSES = {"O": 15.999, "H": 1.008}
MARK = "answer: "  # begins the lines of a process that are meant for this one
SIZES = {1: 192, 2: 1536, 3: 5184}
STEP_FS, TEMPERATURE = 0.5, 300.0
DP = {"plain": "model.pb", "compressed": "compressed.pb"}
CONTENDERS = {  # name: the kind of process and its argument; the first is what the ratios refer to
    "diffff, simulate, float64": ("engine", "float64 nve"),
    "diffff, simulate, float64, Langevin": ("engine", "float64 langevin"),
    "diffff, simulate, float32": ("engine", "float32 nve"),
    "diffff, simulate, float32, Langevin": ("engine", "float32 langevin"),
    "diffff, ASE": ("ase", "diffff"),
    "diffff, LAMMPS fix external": ("lammps", ""),
    "diffff, OpenMM PythonForce": ("openmm", ""),
    "DeePMD-kit, ASE": ("ase", DP["plain"]),
    "DeePMD-kit, ASE, compressed": ("ase", DP["compressed"]),
    "DeePMD-kit, LAMMPS": ("lmp", f"{DP['plain']} 1"),
    "DeePMD-kit, LAMMPS, compressed": ("lmp", f"{DP['compressed']} 1"),
    "DeePMD-kit, LAMMPS, MPI": ("lmp", f"{DP['plain']} mpi"),
    "DeePMD-kit, LAMMPS, MPI, compressed": ("lmp", f"{DP['compressed']} mpi"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deepmd-python", type=Path, help="The python of an environment with DeePMD-kit.")
    parser.add_argument("--data", type=Path, default=DATA, help="Periodic systems of water; its middle frame is taken.")
    parser.add_argument("--model", type=Path, help="A trained model (.dp) of O and H; default: one is trained.")
    parser.add_argument("--train-steps", type=int, default=2000, help="Of that model.")
    parser.add_argument("--save", type=Path, help="Where to keep that model.")
    parser.add_argument("--repeat", type=int, nargs="+", default=list(SIZES), choices=list(SIZES), help=str(SIZES))
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 40, 20], help="Of a turn, for each size.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skin", type=float, default=1.0, help="Å, the same for all that have one.")
    parser.add_argument("--only", help="Contenders whose name has this in it; the first one is always there.")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, argument, folder = options.worker
        os.chdir(folder)
        serve(kind, argument, options.skin)
        return
    if len(options.steps) == 1:
        options.steps *= len(options.repeat)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that no stopped process is left behind
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import jax

    jax.config.update("jax_enable_x64", True)
    from evaluate_deepmd import make_models, tiled
    from train_deepmd import systems

    import diffff
    from diffff.data.systems import read_systems

    source = Path(systems([options.data])[0])
    file = options.model or trained(options, folder)
    model = make_models(argparse.Namespace(model=file, data=source), folder)
    data = read_systems(str(source), model.type_map)[0]
    if data.boxes is None:
        sys.exit(f"{source}: a periodic system is needed")
    middle = len(data.positions) // 2
    frame = SimpleNamespace(types=data.types, positions=data.positions[middle:], boxes=data.boxes[middle:])
    print(f"diffff {diffff.__version__}, JAX {jax.__version__}; {versions(options.deepmd_python)}")
    print(f"{cores()} cores, {STEP_FS} fs, {TEMPERATURE:.0f} K, skin {options.skin} Å, {options.rounds} rounds")
    chosen = installed(options, folder)
    for k, n_steps in zip(options.repeat, options.steps, strict=True):
        coords, box, types = tiled(frame, k)
        ask_all(options, folder, model, (coords, box, types), chosen, n_steps)


def ask_all(
    options: argparse.Namespace,
    folder: Path,
    model: Any,
    frame: tuple[np.ndarray, ...],
    chosen: list[str],
    n_steps: int,
) -> None:
    """The table of one size."""
    coords, box, types = frame
    write_frame(folder, coords, box, types, model.type_map)
    reference = model.eval(coords, box, types)
    print(f"\n{len(types)} atoms, turns of {n_steps} steps, load {os.getloadavg()[0]:.1f}")
    with contextlib.ExitStack() as stack:
        running: dict[str, Contender] = {}
        for name in chosen:
            one = stack.enter_context(Contender(name, options, folder))
            if one.start(n_steps):
                running[name] = one
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(options.rounds):
            for name, one in running.items():
                seconds[name].append(one.turn(n_steps))
    first = np.array(seconds[next(iter(seconds))])
    print(f"| {'contender':36} | steps/s | ms/step | time / first's | start-up, s | ΔE/atom, eV | largest ΔF, eV/Å |")
    print("|---|---|---|---|---|---|---|")
    for name, one in running.items():
        ms = 1e3 * np.median(seconds[name]) / n_steps
        ratio = np.median(np.array(seconds[name]) / first)
        energy, forces = one.first_frame()
        errors = abs(energy - reference[0].item()) / len(types), np.abs(forces - reference[1].reshape(-1, 3)).max()
        shown = " | ".join(f"{error:.0e}{' WRONG' * (not error < limit(name))}" for error in errors)
        print(f"| {name:36} | {1e3 / ms:.1f} | {ms:.2f} | {ratio:.2f} | {one.start_up:.1f} | {shown} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)


def limit(name: str) -> float:
    """Largest difference from `Model.eval` that is no mistake, eV/Å and eV: rounding, and DeePMD-kit's tables."""
    return 1e-2 if "float32" in name else 1e-4 if "compressed" in name else 1e-6


# ------------------------------------------------------------------ what all need
def cores() -> int:
    return len(os.sched_getaffinity(0))


def trained(options: argparse.Namespace, folder: Path) -> Path:
    """The usual nets of water, trained on the data for some steps."""
    import json

    from train_deepmd import DFF, systems, water_input

    n_steps = options.train_steps
    given = water_input(
        systems([options.data]), 1, "float64", numb_steps=n_steps, disp_freq=100, decay_steps=max(1, n_steps // 40)
    )
    given["learning_rate"]["stop_lr"] = 1e-5
    (folder / "train.json").write_text(json.dumps(given))
    for words in (["train", "--skip-neighbor-stat", "train.json"], ["freeze", "-o", "trained.dp"]):
        done = subprocess.run([sys.executable, "-c", DFF, *words], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"dff {words[0]} failed:\n{done.stderr[-3000:]}")
    if options.save:
        shutil.copy(folder / "trained.dp", options.save)
    return folder / "trained.dp"


def versions(python: Path | None) -> str:
    """What DeePMD-kit there consists of."""
    if python is None:
        return "no DeePMD-kit"
    line = "import deepmd, tensorflow as t; print('DeePMD-kit', deepmd.__version__, 'on TensorFlow', t.__version__)"
    line += "; import lammps; print(', LAMMPS', lammps.__version__)"
    done = subprocess.run([python, "-c", line], capture_output=True, text=True)
    return "".join(part for part in done.stdout.splitlines() if part.startswith(("DeePMD-kit", ", LAMMPS")))


def installed(options: argparse.Namespace, folder: Path) -> list[str]:
    """Contenders that can run here; DeePMD-kit's model files are made on the way."""
    python, chosen = options.deepmd_python, []
    if python:
        for words in (
            ("convert-backend", "model.dp", DP["plain"]),
            ("compress", "-i", DP["plain"], "-o", DP["compressed"], "-t", "input.json"),
        ):
            done = subprocess.run([python, "-m", "deepmd", *words], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                print(f"dp {words[0]} failed: {done.stderr[-1000:]}")
    for number, (name, (kind, _)) in enumerate(CONTENDERS.items()):
        if number and options.only and options.only not in name:
            continue
        theirs = name.startswith("DeePMD")
        needed = {"ase": "ase", "lammps": "lammps", "openmm": "openmm", "lmp": "lammps"}.get(kind, "numpy")
        interpreter = python if theirs else sys.executable
        there = (
            interpreter and not subprocess.run([interpreter, "-c", f"import {needed}"], capture_output=True).returncode
        )
        if not there or (theirs and not (folder / CONTENDERS[name][1].split()[0]).exists()):
            print(f"left out, not installed: {name}")
        else:
            chosen.append(name)
    return chosen


def write_frame(
    folder: Path, coords: np.ndarray, box: np.ndarray, types: np.ndarray, type_map: tuple[str, ...]
) -> None:
    """What each process reads: positions Å, velocities Å/ps of the temperature, masses amu; and LAMMPS's data file."""
    masses = np.array([MASSES[type_map[t]] for t in types])
    spread = np.sqrt(0.8314462618 * TEMPERATURE / masses)[:, None]  # k in amu Å^2/ps^2/K
    velocities = spread * np.random.default_rng(1).normal(size=coords.shape)
    velocities -= masses @ velocities / masses.sum()
    symbols = np.array([type_map[t] for t in types])
    np.savez(
        folder / "frame.npz", coords=coords, box=box, masses=masses, velocities=velocities, symbols=symbols, types=types
    )
    if np.any(box - np.diag(np.diag(box))):
        sys.exit("--data: a frame in a rectangular box is needed")
    lines = ["water", f"{len(types)} atoms", f"{len(type_map)} atom types"]
    lines += [f"0.0 {box[k, k]:.17g} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
    lines += ["Masses\n", *(f"{t + 1} {MASSES[name]}" for t, name in enumerate(type_map)), "Atoms # atomic\n"]
    lines += [
        f"{n + 1} {t + 1} {x:.17g} {y:.17g} {z:.17g}"
        for n, (t, (x, y, z)) in enumerate(zip(types, coords, strict=True))
    ]
    lines += ["Velocities\n", *(f"{n + 1} {x:.17g} {y:.17g} {z:.17g}" for n, (x, y, z) in enumerate(velocities))]
    (folder / "frame.data").write_text("\n\n".join(lines[:2]) + "\n" + "\n".join(spaced(lines[2:])) + "\n")


def spaced(lines: list[str]) -> list[str]:
    """Sections with an empty line before their title, as LAMMPS wants them."""
    return [f"\n{line}" if line[:1].isupper() else line for line in lines]


# ------------------------------------------------------------------ the other side of a process
class Contender:
    """A process that runs some steps for each line of its input; it is stopped while others are in turn."""

    def __init__(self, name: str, options: argparse.Namespace, folder: Path) -> None:
        self.name, self._folder, self._skin = name, folder, options.skin
        self._kind, self._argument = CONTENDERS[name]
        self._own = folder / name.replace(" ", "").replace(",", "-")
        self._own.mkdir(exist_ok=True)
        self._python = options.deepmd_python if name.startswith("DeePMD") else Path(sys.executable)
        self._log: IO[str] = (self._own / "log").open("w+")
        self._process: subprocess.Popen[str] | None = None
        self.start_up = 0.0

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            for pid in reversed(self._family()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.communicate()
        self._log.close()

    def start(self, n_steps: int) -> bool:
        """Start and warm up; whether it works."""
        begin = time.perf_counter()
        ranks = cores() if self._argument.endswith("mpi") else 1
        threads = str(cores() // ranks)
        parallel = {
            "OMP_NUM_THREADS": threads, "OPENMM_CPU_THREADS": threads, "DP_INTRA_OP_PARALLELISM_THREADS": threads,
            "DP_INTER_OP_PARALLELISM_THREADS": "1",
        }  # fmt: skip
        if self._kind == "lmp":
            bin_folder = self._python.parent
            command = [str(bin_folder / "lmp"), "-nonbuf", "-log", "none"]
            command = [str(bin_folder / "mpiexec"), "-n", str(ranks), *command] if ranks > 1 else command
        else:
            own = [str(Path(__file__).resolve()), "--skin", str(self._skin), "--worker", self._kind, self._argument]
            command = [str(self._python), *own, str(self._own)]
        for file in ("frame.npz", "frame.data", "model.dp", *DP.values()):
            if (self._folder / file).exists():
                (self._own / file).unlink(missing_ok=True)
                (self._own / file).symlink_to(self._folder / file)
        self._process = subprocess.Popen(
            command, cwd=self._own, env={**os.environ, **parallel}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            if self._kind == "lmp":
                self._tell(lammps_input(self._argument.split()[0], self._skin))
                self._tell(f"run 1 post no\nprint '{MARK}'")
            else:
                self._tell("1")
            self._answer()
            self.start_up = time.perf_counter() - begin
            self.turn(n_steps)
        except (ChildProcessError, BrokenPipeError):
            self._log.seek(0)
            print(f"left out, it failed: {self.name}\n{self._log.read()[-1500:]}", flush=True)
            return False
        return True

    def turn(self, n_steps: int) -> float:
        """Seconds of some steps."""
        self._signal(signal.SIGCONT)
        time.sleep(0.1)
        begin = time.perf_counter()
        self._tell(f"run {n_steps} pre no post no\nprint '{MARK}'" if self._kind == "lmp" else str(n_steps))
        self._answer()
        elapsed = time.perf_counter() - begin
        self._signal(signal.SIGSTOP)
        return elapsed

    def first_frame(self) -> tuple[float, np.ndarray]:
        """Energy eV, forces eV/Å."""
        if self._kind != "lmp":
            found = np.load(self._own / "first.npz")
            return float(found["energy"]), found["forces"]
        return float((self._own / "energy").read_text()), np.loadtxt(self._own / "forces", skiprows=9)[:, 1:]

    def _tell(self, words: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        print(words, file=self._process.stdin, flush=True)

    def _answer(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK.strip()):
                return
            self._log.write(line)
        raise ChildProcessError(self.name)

    def _signal(self, number: int) -> None:
        for pid in self._family():
            os.kill(pid, number)

    def _family(self) -> list[int]:
        """The process and all that it has started."""
        assert self._process is not None
        found = [self._process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(word) for word in task.read_text().split()]
        return found


def lammps_input(model: str, skin: float) -> str:
    return f"""
units metal
atom_style atomic
boundary p p p
read_data frame.data
pair_style deepmd {model}
pair_coeff * * O H
neighbor {skin} bin
neigh_modify every 1 delay 0 check yes
timestep {STEP_FS / 1000}
fix nve all nve
thermo 1000000
run 0 post no
variable energy equal pe
print "$(v_energy:%.17g)" file energy
write_dump all custom forces id fx fy fz modify sort id format float %.17g
"""


# ------------------------------------------------------------------ in the process
def serve(kind: str, argument: str, skin: float) -> None:
    """Compute the first frame, then run as many steps as each line says."""
    frame = np.load("frame.npz")
    run = {"engine": of_engine, "ase": of_ase, "lammps": of_lammps, "openmm": of_openmm}[kind](frame, argument, skin)
    for line in sys.stdin:
        run(int(line))
        print(MARK, flush=True)


def load() -> Any:
    import jax

    jax.config.update("jax_enable_x64", True)
    import diffff

    return diffff.load("model.dp")


def of_engine(frame: Any, argument: str, skin: float) -> Callable[[int], None]:
    """What `diffff.md.simulate` runs between two lines of its log."""
    model = load()
    from dataclasses import replace

    import jax
    import jax.numpy as jnp

    from diffff import units
    from diffff.md.engine import Engine
    from diffff.md.integrators import Langevin, VelocityVerlet
    from diffff.md.precision import cast, cast_params, cast_potential
    from diffff.md.state import particles, state_of

    dtype, ensemble = argument.split()
    dt = STEP_FS / 1000
    nve = ensemble == "nve"
    integrator = VelocityVerlet(time_step=dt) if nve else Langevin(time_step=dt, temperature=TEMPERATURE, friction=1.0)
    some = cast(particles(frame["masses"], free_center=not nve), dtype)
    potential = cast_potential(model.potential(frame["types"]), dtype)
    engine = Engine(potential, cast_params(model.params, dtype), some, integrator, skin=skin * units.NM_PER_ANGSTROM)
    x, box, v = (frame[name] * units.NM_PER_ANGSTROM for name in ("coords", "box", "velocities"))
    state = state_of(x, box, some, integrator.bath(), temperature=TEMPERATURE, seed=1, dtype=dtype)
    state = engine.start(replace(state, velocities=jnp.asarray(v[None], dtype)))
    per_angstrom = units.EV_PER_ANGSTROM_PER_KJ_PER_MOL_PER_NM
    energy, forces = float(state.energy[0]) * units.EV_PER_KJ_PER_MOL, np.asarray(state.forces[0]) * per_angstrom
    np.savez("first.npz", energy=energy, forces=forces)

    def run(n_steps: int) -> None:
        nonlocal state
        state = jax.block_until_ready(engine.advance(state, n_steps))

    return run


def of_ase(frame: Any, argument: str, skin: float) -> Callable[[int], None]:
    """ASE's velocity Verlet with the calculator of either."""
    from ase import Atoms
    from ase import units as ase_units
    from ase.md.verlet import VelocityVerlet

    if argument == "diffff":
        model = load()
        from diffff.md.ase import DiffffCalculator

        calculator: Any = DiffffCalculator(model, skin=skin / 10.0)
    else:
        from deepmd import calculator as deepmd_calculator  # pyright: ignore[reportMissingImports]

        calculator = deepmd_calculator.DP(model=argument)
    atoms = Atoms(list(frame["symbols"]), frame["coords"], cell=frame["box"], pbc=True, masses=frame["masses"])
    atoms.set_velocities(frame["velocities"] / (1000.0 * ase_units.fs))
    atoms.calc = calculator
    np.savez("first.npz", energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    dynamics = VelocityVerlet(atoms, timestep=STEP_FS * ase_units.fs)

    def run(n_steps: int) -> None:
        dynamics.run(n_steps)

    return run


def of_lammps(frame: Any, argument: str, skin: float) -> Callable[[int], None]:
    """LAMMPS with `fix external`; its own neighbour list is that of a pair style without energy."""
    del argument
    model = load()
    from diffff.md.lammps import attach, start

    lmp = start("-log", "none", "-screen", "none")
    lmp.commands_string(f"""
units metal
atom_style atomic
boundary p p p
read_data frame.data
pair_style zero 1.0 nocoeff
pair_coeff * *
timestep {STEP_FS / 1000}
fix nve all nve
thermo 1000000
""")
    attach(lmp, model, types=list(model.type_map), skin=skin / 10.0)
    lmp.command("run 0 post no")
    forces = np.array(lmp.numpy.extract_atom("f"))[: len(frame["types"])]
    order = np.argsort(lmp.numpy.extract_atom("id")[: len(forces)])
    np.savez("first.npz", energy=lmp.get_thermo("pe"), forces=forces[order])
    return lambda n_steps: lmp.command(f"run {n_steps} pre no post no")


def of_openmm(frame: Any, argument: str, skin: float) -> Callable[[int], None]:
    """OpenMM's Verlet integrator on the CPU platform, whose velocities are half a step off."""
    del argument
    model = load()
    import openmm
    from openmm import unit

    from diffff import units
    from diffff.md.openmm import add_force

    system = openmm.System()
    for mass in frame["masses"].tolist():
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*(frame["box"] * units.NM_PER_ANGSTROM))
    add_force(system, model.potential(frame["types"]), model.params, periodic=True, skin=skin * units.NM_PER_ANGSTROM)
    integrator = openmm.VerletIntegrator(STEP_FS / 1000)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("CPU"))
    context.setPositions(frame["coords"] * units.NM_PER_ANGSTROM)
    context.setVelocities(frame["velocities"] * units.NM_PER_ANGSTROM)
    state = context.getState(energy=True, forces=True)
    per_nm = unit.kilojoule_per_mole / unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
    energy = state.getPotentialEnergy()._value * units.EV_PER_KJ_PER_MOL
    forces = state.getForces(asNumpy=True).value_in_unit(per_nm) * units.EV_PER_ANGSTROM_PER_KJ_PER_MOL_PER_NM
    np.savez("first.npz", energy=energy, forces=forces)

    def run(n_steps: int) -> None:
        integrator.step(n_steps)
        context.getState(energy=False)

    return run


if __name__ == "__main__":
    main()
