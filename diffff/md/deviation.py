"""How far several models are apart: the model deviation of DeePMD-kit, and its file.

With the standard deviation over the models, `std(x) = sqrt(mean (x - mean x)^2)`, N atoms and i over the atoms:

    devi_f_i = |std(F_i)| = sqrt( sum_c std(F_ic)^2 )        relative: devi_f_i / (|mean F_i| + level)
    devi_v_ab = std(virial_ab) / N                           relative: devi_v_ab / (|mean virial / N| + level)
    devi_e = std(E) / N

The maximum, minimum and average are over the atoms, or over the nine components of the virial, where the average is the
root of the mean of the squares. With labels ("real error") their distance takes the place of the standard deviation,
`sqrt(mean (x - label)^2)`, and their size that of the mean. Energies are in eV, forces in eV/Å.

Sources: Y. Zhang et al., Comput. Phys. Commun. 253 (2020) 107206, doi:10.1016/j.cpc.2020.107206; J. Zeng et al.,
J. Chem. Phys. 159 (2023) 054801, doi:10.1063/5.0155600, eqs. 71 and 72.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffff import units
from diffff.data.systems import System
from diffff.errors import InputError
from diffff.files import replacing
from diffff.md.calculator import Result
from diffff.md.deviation_file import Deviation, header, lines
from diffff.model import Model, load

Array = NDArray[np.float64]

CHUNK_ATOMS = 16384  # atoms whose neighbour lists are in memory at once


class Labels(NamedTuple):
    """What the models are compared with; NaN where it is not known.

    Attributes:
        energy: shape ``(n_frames,)``, eV.
        force: shape ``(n_frames, n_atoms, 3)``, eV/Å.
        virial: shape ``(n_frames, 3, 3)``, eV.
    """

    energy: Array
    force: Array
    virial: Array


def spread(
    energy: Array,
    force: Array,
    virial: Array,
    *,
    real: NDArray[np.bool_] | None = None,
    labels: Labels | None = None,
    relative: float | None = None,
    relative_v: float | None = None,
) -> Deviation:
    """The equations above.

    Args:
        energy: shape ``(n_models, n_frames)``, eV.
        force: shape ``(n_models, n_frames, n_atoms, 3)``, eV/Å.
        virial: shape ``(n_models, n_frames, 3, 3)``, eV.
        real: shape ``(n_frames, n_atoms)``, False for virtual atoms; None: all atoms are real.
        labels: to compare with, rather than the models with each other.
        relative: level of the relative deviation of forces, eV/Å; None: not relative.
        relative_v: the same of virials, eV per atom.

    Raises:
        InputError: a level is not positive.
    """
    for name, level in (("relative", relative), ("relative_v", relative_v)):
        if level is not None and not 0.0 < level < np.inf:
            raise InputError(f"{name} is {level}; give a level above 0, or leave it out.")
    real = np.ones(force.shape[1:3], bool) if real is None else real
    n_atoms = np.sum(real, axis=1)
    per_frame = n_atoms[:, None, None]
    label = Labels(*(np.mean(x, axis=0) for x in (energy, force, virial))) if labels is None else labels
    devi_e = _rms(energy - label.energy) / n_atoms
    devi_f = np.linalg.norm(_rms(force - label.force), axis=-1)
    devi_v = (_rms(virial - label.virial) / per_frame).reshape(-1, 9)
    if relative is not None:
        devi_f = devi_f / np.where(real, np.linalg.norm(label.force, axis=-1) + relative, 1.0)
    if relative_v is not None:
        devi_v = devi_v / (np.linalg.norm(label.virial / per_frame, axis=(1, 2)) + relative_v)[:, None]
    devi_f = np.where(real, devi_f, 0.0)
    return Deviation(
        max_devi_v=devi_v.max(axis=1),
        min_devi_v=devi_v.min(axis=1),
        avg_devi_v=np.sqrt(np.mean(devi_v**2, axis=1)),
        max_devi_f=devi_f.max(axis=1),
        min_devi_f=np.where(real, devi_f, np.inf).min(axis=1),
        avg_devi_f=devi_f.sum(axis=1) / n_atoms,
        devi_e=devi_e,
        devi_f=devi_f,
    )


def _rms(differences: Array) -> Array:
    """Root of the mean of the squares over the models, the first axis."""
    return np.sqrt(np.mean(differences**2, axis=0))


# ---------------------------------------------------------------------- models and frames
def load_models(paths: Sequence[str | Path]) -> list[Model]:
    """Read the models of a deviation.

    Raises:
        InputError: see `check_models` and `diffff.load`.
    """
    models = [load(path) for path in paths]
    check_models(models, [str(path) for path in paths])
    return models


def check_models(models: Sequence[Model], names: Sequence[str] | None = None, *, at_least: int = 1) -> None:
    """Whether models can be compared.

    Args:
        models: two or more, one with labels.
        names: for messages.
        at_least: so many are needed.

    Raises:
        InputError: there are too few, or they differ in the type map, or in frame or atomic parameters.
    """
    names = [f"model {k}" for k in range(len(models))] if names is None else names
    if len(models) < at_least:
        raise InputError(
            f"the deviation is that of two or more models, but {len(models)} is given. "
            "Train another with a different seed, or compare one with labels (--real_error)."
        )
    for name, model in zip(names[1:], models[1:], strict=True):
        for what, ours, theirs in (
            ("type map", list(models[0].type_map), list(model.type_map)),
            ("numb_fparam", models[0].spec.fitting_net.numb_fparam, model.spec.fitting_net.numb_fparam),
            ("numb_aparam", models[0].spec.fitting_net.numb_aparam, model.spec.fitting_net.numb_aparam),
        ):
            if ours != theirs:
                raise InputError(
                    f"{name}: its {what} is {theirs}, that of {names[0]} is {ours}. "
                    "The deviation is that of models of the same atoms; train them with the same model section."
                )


def model_deviation(
    models: Sequence[Model],
    coords: np.ndarray,
    box: np.ndarray | None,
    types: np.ndarray,
    *,
    fparam: np.ndarray | None = None,
    aparam: np.ndarray | None = None,
    labels: Labels | None = None,
    relative: float | None = None,
    relative_v: float | None = None,
) -> Deviation:
    """Deviation of models for frames, called as `Model.eval`.

    Args:
        models: two or more; one is enough with ``labels``.
        coords: shape ``(n_frames, n_atoms, 3)`` or ``(n_frames, 3 n_atoms)``, Å.
        box: shape ``(n_frames, 3, 3)`` or flattened, Å; None without periodicity.
        types: shape ``(n_atoms,)`` or ``(n_frames, n_atoms)``; -1 for a virtual atom.
        fparam: see `Model.eval`.
        aparam: see `Model.eval`.
        labels: see `spread`.
        relative: see `spread`.
        relative_v: see `spread`.

    Raises:
        InputError: models that cannot be compared, frames of another number of atoms, or see `Model.eval`.
    """
    check_models(models, at_least=2 if labels is None else 1)
    types, coords = np.asarray(types, int), np.asarray(coords, float)
    n_atoms = types.shape[-1] if types.ndim else 0
    if coords.ndim not in (2, 3) or coords.size != len(coords) * n_atoms * 3 or not coords.size:
        raise InputError(
            f"coords have the shape {coords.shape}, but there are types of {n_atoms} atoms: "
            f"give (n_frames, {n_atoms}, 3), in Å."
        )
    results = [model.eval(coords, box, types, fparam=fparam, aparam=aparam) for model in models]
    energy, force, virial = (np.stack(column) for column in zip(*results, strict=True))
    real = None if (types >= 0).all() else np.broadcast_to(types >= 0, force.shape[1:3])
    energy, virial = energy[..., 0], virial.reshape(*virial.shape[:2], 3, 3)
    return spread(energy, force, virial, real=real, labels=labels, relative=relative, relative_v=relative_v)


def result_deviation(
    results: Sequence[Result],
    *,
    real: NDArray[np.bool_] | None = None,
    relative: float | None = None,
    relative_v: float | None = None,
) -> Deviation:
    """Deviation in a run: of what the calculators of several potentials say about the same positions.

    Example:
        ``result_deviation([calculator(x, box) for calculator in calculators])``

    Args:
        results: of two or more calculators, kJ/mol and nm.
        real: shape ``(n_atoms,)``, False for virtual sites; None: all atoms are real.
        relative: see `spread`.
        relative_v: see `spread`.

    Returns:
        A deviation of one frame, eV and Å.

    Raises:
        InputError: fewer than two results, or of different numbers of atoms.
    """
    if len(results) < 2:
        raise InputError(f"the deviation is that of two or more potentials, but {len(results)} is given.")
    if len(counts := {len(result.forces) for result in results}) > 1:
        raise InputError(f"the potentials are of different numbers of atoms: {sorted(counts)}. Give the same system.")
    return spread(
        np.array([[result.energy] for result in results]) * units.EV_PER_KJ_PER_MOL,
        np.array([[result.forces] for result in results]) * units.EV_PER_ANGSTROM_PER_KJ_PER_MOL_PER_NM,
        np.array([[result.virial] for result in results]) * units.EV_PER_KJ_PER_MOL,
        real=None if real is None else real[None],
        relative=relative,
        relative_v=relative_v,
    )


# ---------------------------------------------------------------------- data sets: dff model-devi
def model_devi(
    models: Sequence[Model],
    systems: Iterable[System],
    output: Path,
    *,
    frequency: int = 1,
    real_error: bool = False,
    atomic: bool = False,
    relative: float | None = None,
    relative_v: float | None = None,
) -> list[Deviation]:
    """Write the deviation of models for all frames of data sets to one file: what ``dff model-devi`` does.

    Args:
        models: two or more; one is enough with ``real_error``.
        systems: of the models' type map, each with its frames.
        output: the file, such as model_devi.out.
        frequency: steps from frame to frame of the trajectory that the frames are from.
        real_error: compare with the labels; where a system has no label, its columns are NaN.
        atomic: write the deviation of each atom's force too, in the order of the files.
        relative: see `spread`.
        relative_v: see `spread`.

    Returns:
        The deviation of each system.

    Raises:
        InputError: models that cannot be compared, a system without any label for ``real_error``, or a file that
            cannot be written.
    """
    if frequency < 1:
        raise InputError(f"frequency is {frequency}; give the number of steps from frame to frame, 1 or more.")
    check_models(models, at_least=1 if real_error else 2)
    found = []
    with replacing(output) as part, part.open("w", encoding="utf-8") as file:
        for system in systems:
            deviation = _of_system(models, system, real_error, relative, relative_v)
            deviation = deviation._replace(devi_f=system.in_file_order(deviation.devi_f))
            steps = range(0, frequency * len(deviation.devi_e), frequency)
            file.write(header(system.name, atomic=atomic) + lines(steps, deviation, atomic=atomic))
            found.append(deviation)
    return found


def _of_system(
    models: Sequence[Model], system: System, real_error: bool, relative: float | None, relative_v: float | None
) -> Deviation:
    n_frames, n_atoms = system.positions.shape[:2]
    labels, given = None, system.labels
    if real_error:
        if not {"energy", "force", "virial"} & set(given):
            raise InputError(
                f"{system.name}: there is no energy.npy, force.npy or virial.npy to compare with. "
                "Add one, or compare the models with each other (without --real_error)."
            )
        shapes = {"energy": (n_frames,), "force": (n_frames, n_atoms, 3), "virial": (n_frames, 3, 3)}
        labels = Labels(*(given.get(name, np.full(shape, np.nan)) for name, shape in shapes.items()))
    types = np.broadcast_to(system.types, (n_frames, n_atoms))
    types = types if system.real is None else np.where(system.real, types, -1)
    size, parts = max(1, CHUNK_ATOMS // n_atoms), []
    for first in range(0, n_frames, size):
        some = slice(first, first + size)
        parts.append(
            model_deviation(
                models,
                system.positions[some],
                None if system.boxes is None else system.boxes[some],
                types[some],
                fparam=given["fparam"][some] if "fparam" in given else None,
                aparam=given["aparam"][some] if "aparam" in given else None,
                labels=None if labels is None else Labels(*(values[some] for values in labels)),
                relative=relative,
                relative_v=relative_v,
            )
        )
    return Deviation(*(np.concatenate(column) for column in zip(*parts, strict=True)))
