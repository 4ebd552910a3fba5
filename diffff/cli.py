"""The `dff` command. Each command imports what it needs when it runs, so that `dff --help` answers at once."""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from diffff import __version__
from diffff.errors import InputError

FILE = click.Path(path_type=Path)
LEVELS = {"0": "ERROR", "1": "WARNING", "2": "INFO", "3": "DEBUG"}  # DeePMD-kit's numbers

logger = logging.getLogger("diffff")


class Dff(click.Group):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print an InputError as a message instead of a traceback."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(str(error)) from error


class StandardError(logging.Handler):
    """Writes to what is standard error at that moment: a progress bar puts itself in its place while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message; a warning or an error says that it is one."""
        prefix = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        print(f"{prefix}{self.format(record)}", file=sys.stderr, flush=True)


def logged(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --log-level and --log-path, which take effect before it runs."""

    def set_level(ctx: click.Context, option: click.Parameter, level: str) -> None:
        logger.setLevel(LEVELS.get(level, level))

    def add_file(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                handler = logging.FileHandler(path, encoding="utf-8")
            except OSError as error:
                raise click.BadParameter(f"{path}: cannot be written ({error.strerror}).") from None
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)

    levels = click.Choice([*LEVELS.values(), *LEVELS], case_sensitive=False)
    command = click.option(
        "-l", "--log-path", type=FILE, expose_value=False, callback=add_file, help="Write the log to this file as well."
    )(command)
    return click.option(
        "-v",
        "--log-level",
        type=levels,
        metavar="LEVEL",
        default="INFO",
        show_default=True,
        expose_value=False,
        callback=set_level,
        help="ERROR, WARNING, INFO or DEBUG, or a number from 0 to 3.",
    )(command)


def start_jax() -> None:
    """Ready JAX for a command that computes: a sound release, true products, memory and programs kept, no chatter.

    Raises:
        InputError: The installed JAX is one of those known to compute wrong numbers.
    """
    from diffff.allocator import keep_freed_memory
    from diffff.jax_version import require_sound_jax

    require_sound_jax()
    keep_freed_memory()
    # XLA reads it when it is loaded. At 2 it calls each kept program an error, for flags with which LLVM only tunes.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    from diffff.program_cache import keep_programs

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "float32")  # GPUs would round factors to TF32, distances too
    keep_programs()


def at_most_one(options: dict[str, object]) -> None:
    """Refuse options that exclude each other."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other; give one of them.")


@click.group(cls=Dff, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "--version", prog_name="diffff")
def main() -> None:
    """Differentiable force fields: train, test, run and convert Deep Potentials."""
    for handler in [*logger.handlers]:  # of an earlier call in this process
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(StandardError())


@main.command()
@click.argument("input", type=FILE)
@click.option("-i", "--init-model", type=FILE, help="Begin with the weights of this checkpoint or model, at step 0.")
@click.option("-r", "--restart", type=FILE, help="Continue the run of this checkpoint, bit for bit.")
@click.option("-t", "--finetune", type=FILE, help="As --init-model, with the energy bias of the new data.")
@click.option(
    "-o", "--output", type=FILE, default="out.json", show_default=True, help="Where the completed input goes."
)
@click.option("--skip-neighbor-stat", is_flag=True, help="Do not count the neighbours in the data first.")
@logged
def train(
    input: Path,
    init_model: Path | None,
    restart: Path | None,
    finetune: Path | None,
    output: Path,
    skip_neighbor_stat: bool,
) -> None:
    """Train a network, fit a force field, or both.

    INPUT is an input.json (or .yaml) of DeePMD-kit's form.
    """
    at_most_one({"--init-model": init_model, "--restart": restart, "--finetune": finetune})
    start_jax()
    from diffff.train.start import start

    start(
        input,
        init_model=init_model,
        restart=restart,
        finetune=finetune,
        output=output,
        skip_neighbor_stat=skip_neighbor_stat,
    )


@main.command()
@click.option(
    "-m",
    "--model",
    type=FILE,
    default="frozen_model.dp",
    show_default=True,
    help="The model file, a checkpoint, or an input.json whose model is a force field or a sum.",
)
@click.option(
    "-s", "--system", type=str, help="The data: directories below this one, or FILE.hdf5#/group.  [default: .]"
)
@click.option("-f", "--datafile", type=FILE, help="A file that names one system on each line.")
@click.option("--train-data", type=FILE, metavar="INPUT", help="Test on the training data of this input.json.")
@click.option("--valid-data", type=FILE, metavar="INPUT", help="Test on the validation data of this input.json.")
@click.option("-n", "--numb-test", type=click.IntRange(min=0), default=0, help="Frames of each system; 0 means all.")
@click.option("-r", "--rand-seed", type=int, help="The seed of --shuffle-test.")
@click.option("--shuffle-test", is_flag=True, help="Take random frames of each system rather than the first ones.")
@click.option("-d", "--detail-file", type=FILE, metavar="PREFIX", help="Write PREFIX.e.out, .f.out, .v.out, … .")
@click.option("-a", "--atomic", is_flag=True, help="Test the atomic energies too.")
@logged
def test(
    model: Path,
    system: str | None,
    datafile: Path | None,
    train_data: Path | None,
    valid_data: Path | None,
    numb_test: int,
    rand_seed: int | None,
    shuffle_test: bool,
    detail_file: Path | None,
    atomic: bool,
) -> None:
    """Compare a model with labelled data.

    Reports the mean absolute and root mean square errors of energy, force and virial, for each system and over all.
    """
    sources = {"--system": system, "--datafile": datafile, "--train-data": train_data, "--valid-data": valid_data}
    at_most_one(sources)
    if not any(sources.values()):
        system = "."
    start_jax()
    from diffff.train.testing import test

    test(
        model,
        system=system,
        datafile=datafile,
        train_data=train_data,
        valid_data=valid_data,
        numb_test=numb_test,
        rand_seed=rand_seed,
        shuffle_test=shuffle_test,
        detail_file=detail_file,
        atomic=atomic,
    )


@main.command()
@click.option(
    "-c",
    "--checkpoint",
    "--checkpoint-folder",
    type=FILE,
    default=".",
    show_default=True,
    help="A checkpoint, or the directory of a run.",
)
@click.option(
    "-o", "--output", type=FILE, default="frozen_model.dp", show_default=True, help="The model file to write."
)
@click.option(
    "--weights",
    type=click.Choice(["trained", "ema", "swa"]),
    default="trained",
    show_default=True,
    help="The weights of the last step, their moving average, or their plain mean.",
)
@logged
def freeze(checkpoint: Path, output: Path, weights: str) -> None:
    """Write a checkpoint as a model file.

    The file is in DeePMD-kit's .dp format, which LAMMPS and other programs load through DeePMD-kit.
    """
    start_jax()
    from diffff.train.checkpoint import freeze

    freeze(checkpoint, output, weights=weights)


@main.command()
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@logged
def convert(source: Path, target: Path) -> None:
    """Convert a model file between .dp and .yaml."""
    from diffff.formats.deepmd import convert

    convert(source, target)


@main.command()
@click.argument("model", type=FILE)
@click.argument("attributes", metavar="[ATTRIBUTE]...", nargs=-1)
@logged
def show(model: Path, attributes: tuple[str, ...]) -> None:
    """Print what a model file holds.

    Attributes choose the parts: type-map, descriptor, fitting-net, size, observed-type, serialization-tree.
    """
    from diffff.formats.deepmd import show

    click.echo(show(model, attributes))


@main.command()
@click.option("-s", "--system", type=str, default=".", show_default=True, help="Directory that holds the data.")
@click.option("-r", "--rcut", type=float, required=True, help="Cutoff radius in Å.")
@click.option("-t", "--type-map", help="Names of the types, in order: -t O H. By default those of the data.")
@click.argument("more_types", metavar="", nargs=-1)
@click.option("--mixed-type", is_flag=True, help="Count all types as one (for descriptors of the se_atten family).")
@logged
def neighbor_stat(
    system: str, rcut: float, type_map: str | None, more_types: tuple[str, ...], mixed_type: bool
) -> None:
    """Count the neighbours in the data.

    Prints the smallest distance and the largest number of neighbours of each type: what `sel` has to hold.
    """
    if more_types and type_map is None:
        raise click.UsageError(f"Got unexpected extra arguments ({' '.join(more_types)}); type names follow -t.")
    start_jax()
    from diffff.train.neighbor_stat import neighbor_stat

    types = None if type_map is None else (type_map, *more_types)
    click.echo(neighbor_stat([system], rcut, types, mixed_type))


@main.command()
@click.option("-m", "--models", type=FILE, required=True, help="The model files: -m a.dp b.dp c.dp.")
@click.argument("more_models", metavar="", nargs=-1, type=FILE)
@click.option("-s", "--system", type=str, default=".", show_default=True, help="Directory that holds the frames.")
@click.option("-S", "--set-prefix", type=str, hidden=True, help="Has no effect, as in DeePMD-kit.")
@click.option("-o", "--output", type=FILE, default="model_devi.out", show_default=True, help="The file to write.")
@click.option(
    "-f", "--frequency", type=click.IntRange(min=1), default=1, show_default=True, help="Steps from frame to frame."
)
@click.option("--real_error", is_flag=True, help="The deviation from the labels of the data instead.")
@click.option("--atomic", is_flag=True, help="Write the deviation of the force on each atom too.")
@click.option("--relative", type=float, metavar="LEVEL", help="Of forces, relative to their size + LEVEL (eV/Å).")
@click.option("--relative_v", type=float, metavar="LEVEL", help="Of virials, relative to their size + LEVEL (eV).")
@logged
def model_devi(
    models: Path,
    more_models: tuple[Path, ...],
    system: str,
    set_prefix: str | None,
    output: Path,
    frequency: int,
    real_error: bool,
    atomic: bool,
    relative: float | None,
    relative_v: float | None,
) -> None:
    """Write how far several models differ on the frames of data.

    The columns are DeePMD-kit's: largest, smallest and mean deviation of virials and of forces, and that of energies.
    """
    start_jax()
    from diffff.data.systems import read_systems
    from diffff.md.deviation import load_models, model_devi

    loaded = load_models((models, *more_models))
    fitting = loaded[0].spec.fitting_net
    systems = read_systems(
        system,
        loaded[0].type_map,
        labels=("energy", "force", "virial") if real_error else (),
        numb_fparam=fitting.numb_fparam,
        default_fparam=fitting.default_fparam,
        numb_aparam=fitting.numb_aparam,
    )
    options = {"frequency": frequency, "real_error": real_error, "atomic": atomic}
    model_devi(loaded, systems, output, relative=relative, relative_v=relative_v, **options)
    click.echo(f"wrote {output}")


@main.command()
@click.argument("inputs", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option(
    "-o", "--output", type=FILE, help="The picture to write, .png or .svg.  [default: the first FILE with .png]"
)
@logged
def plot(inputs: tuple[Path, ...], output: Path | None) -> None:
    """Draw learning curves and parity plots.

    FILE is an lcurve.out, a detail file of `dff test -d PREFIX`, or the PREFIX itself; several are overlaid.
    """
    from diffff.train.plot import plot

    click.echo(f"wrote {plot(inputs, output)}")


@main.command()
@click.argument("folder", metavar="RUN", type=FILE)
@click.option("-o", "--output", type=FILE, help="The page to write.  [default: report.html in RUN]")
@logged
def report(folder: Path, output: Path | None) -> None:
    """Make one HTML page of a run.

    RUN is the directory in which `dff train` ran. The page needs no network and prints well. It shows learning curves,
    and of a fit errors before and after, how far each number moved, and how well it is known.
    """
    from diffff.report.run import report

    click.echo(f"wrote {report(folder, output)}")


@main.command()
@click.argument("input", type=FILE)
@click.option("-r", "--restart", is_flag=True, help="Continue the run from its checkpoint, bit for bit.")
@click.option("--overwrite", is_flag=True, help="Begin anew, although an earlier run has left its checkpoint.")
@click.option("-o", "--output", type=FILE, help="Where the completed input goes.  [default: nowhere]")
@logged
def md(input: Path, restart: bool, overwrite: bool, output: Path | None) -> None:
    """Run molecular dynamics.

    INPUT is a .json or .yaml file that names a model, a structure and an integrator.
    """
    at_most_one({"--restart": restart or None, "--overwrite": overwrite or None})
    start_jax()
    from diffff.md.run import md

    md(input, restart=restart, overwrite=overwrite, output=output)


@main.command()
@click.argument("files", metavar="XML...", nargs=-1, required=True)
@click.option("--pdb", type=FILE, required=True, help="The system: a PDB or mmCIF file with all hydrogens.")
@click.option(
    "--method",
    type=click.Choice(["NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME"]),
    default="NoCutoff",
    show_default=True,
    help="How nonbonded interactions are computed.",
)
@click.option("--cutoff", type=float, default=1.0, show_default=True, help="In nm.")
@click.option("--switch", type=float, help="Where Lennard-Jones begins to be switched off, in nm.")
@click.option("--ewald-tolerance", type=float, default=5e-4, show_default=True, help="OpenMM's ewaldErrorTolerance.")
@click.option("--constraints", type=click.Choice(["HBonds", "AllBonds", "HAngles"]), help="What has no energy.")
@click.option("--rigid-water/--flexible-water", default=None, help="By default as the files say.")
@click.option("--ignore-external-bonds", is_flag=True, help="Match residues whatever they are bonded to.")
@click.option(
    "--skip-missing", is_flag=True, help="Leave out bonds, angles and torsions without a row, as OpenMM does."
)
@click.option("--extra-particles", is_flag=True, help="Add the sites of four- and five-point water and the like.")
@click.option("--rows", type=click.IntRange(min=0), default=1, show_default=True, help="Slopes of each column.")
@click.option(
    "--tolerance", type=float, help="Of energies and forces, relative.  [default: 1e-9, in periodic boxes 1e-6]"
)
@click.option("--row-tolerance", type=float, default=1e-6, show_default=True, help="Of slopes, relative.")
@click.option("--platform", type=click.Choice(["Reference", "CPU"]), help="OpenMM's.  [default: Reference]")
@click.option("--allow-scripts", is_flag=True, help="Let OpenMM run the Python code in the files.")
@logged
def parity(
    files: tuple[str, ...],
    pdb: Path,
    method: str,
    cutoff: float,
    switch: float | None,
    ewald_tolerance: float,
    constraints: str | None,
    rigid_water: bool | None,
    ignore_external_bonds: bool,
    skip_missing: bool,
    extra_particles: bool,
    rows: int,
    tolerance: float | None,
    row_tolerance: float,
    platform: str | None,
    allow_scripts: bool,
) -> None:
    """Compare a force field with OpenMM.

    XML are force-field files, by path or by name in OpenMM's library. Prints energy and errors of each force, and the
    slope of the energy in some numbers of the files beside differences between edited files in OpenMM. Exits with 1
    where an error is above its tolerance.
    """
    start_jax()
    from diffff.frontend.parity import parity
    from diffff.frontend.reference import read_structure

    topology, positions = read_structure(pdb, files if extra_particles else ())
    options = {
        "nonbonded_method": method,
        "nonbonded_cutoff": cutoff,
        "switch_distance": switch,
        "ewald_error_tolerance": ewald_tolerance,
        "constraints": constraints,
        "rigid_water": rigid_water,
        "ignore_external_bonds": ignore_external_bonds,
        "missing": "skip" if skip_missing else "error",
    }
    found = parity(
        files,
        topology,
        positions,
        options=options,
        rows=rows,
        tolerance=tolerance,
        row_tolerance=row_tolerance,
        platform=platform,
        allow_scripts=allow_scripts,
    )
    click.echo(str(found))
    if not found.agrees:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("command", type=click.Choice(["train", "fit", "md"]), default="train")
@logged
def schema(command: str) -> None:
    """Print the JSON Schema of an input file.

    COMMAND says whose input it is: train, the default, for networks; fit, of `dff train` for a force field alone; or
    md. An editor that is given the schema completes keys and marks mistakes.
    """
    if command == "md":
        from diffff.md.input import json_schema
    elif command == "fit":
        from diffff.train.fit_config import json_schema
    else:
        from diffff.train.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
