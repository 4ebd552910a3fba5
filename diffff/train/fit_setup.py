"""From the input of a fit to its objective: potentials of all topologies, their frames, and the numbers that move."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffff.data.folders import Folder, find_systems
from diffff.errors import InputError
from diffff.fit.data import read_frames
from diffff.fit.free import Free, free_of
from diffff.fit.neutrality import require_fixed_charges
from diffff.fit.parameters import table_of
from diffff.fit.problem import FitSystem, Sigmas, check_targets, merged
from diffff.fit.rules import Numbers
from diffff.fit.used import without_unused
from diffff.frontend.forcefield import ForceField
from diffff.train.fit_config import FitData, FitInput
from diffff.train.fit_once import require_once
from diffff.train.outputs import Inputs, check_outputs, outputs_of_fit
from diffff.train.topology_models import TopologyModels

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FitProblem:
    """What is fitted to what.

    Attributes:
        given: the input.
        field: the force field.
        params: the parameter tree at the start.
        found: the numbers that move.
        free: the free variables.
        train: frames that the numbers are fitted to.
        valid: frames that they are compared with, if any.
        files: all that was read, but for the data.
    """

    given: FitInput
    field: ForceField
    params: dict[str, Any]
    found: list[Numbers]
    free: Free
    train: list[FitSystem]
    valid: list[FitSystem]
    files: list[Path]

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the numbers that move, with the names of their arrays."""
        return tuple(some.full_label(k) for some in self.found for k in range(len(some.index)))


def prepare_fit(given: FitInput, path: Path, output: Path | None = None) -> FitProblem:
    """Read the files of the force field, the topologies and the data.

    Args:
        given: the input.
        path: of its file, beside which other files are looked for.
        output: where the completed input is going to be; None: nothing is going to be written.

    Raises:
        InputError: anything wrong with them; or what is going to be written cannot be, or stands in their place.
    """
    training = given.training
    models = TopologyModels(*given.parts, path.parent)
    if output is not None:
        read = [path, *models.files, *models.topologies.candidates]
        inputs = Inputs(read, given.data, models.topologies.names)
        check_outputs(outputs_of_fit(given, models.field, output), inputs)
    sections = {"training_data": training.training_data, "validation_data": training.validation_data}
    folders = {
        name: [] if data is None else find_systems(data.systems, data.rglob_patterns) for name, data in sections.items()
    }
    require_once(folders)
    train, valid = (
        [] if data is None else _frames(models, data, folders[name], given.loss) for name, data in sections.items()
    )
    if training.validation_fraction is not None:
        train, valid = _split(train, training.validation_fraction, training.seed or 0)
    if training.leave_one_out:
        _check_each_left_out(train, given.loss)
    params = models.params
    found = given.parameters.moving(models.field.params(), models.field.rows)
    free = free_of(params, found, given.parameters.ties, models.residues(), models.field.units)
    check_targets(train, free.params(jnp.zeros(free.n_free)), given.loss)
    found, free, unused = without_unused(found, free, merged([*train, *valid]))
    if "dipole" in given.loss.targets:
        require_fixed_charges([one for one in (*train, *valid) if one.dipole is not None], free, found)
    logger.info("%s", table_of(found, free, models.field.units))
    if unused:
        logger.info(
            "%d more numbers stay as they are, for no frame of the data depends on them: %s",
            sum(unused.values()),
            ", ".join(f"{n} of {path}" for path, n in unused.items()),
        )
    for title, systems in (("training", train), ("validation", valid)):
        lines = [f"  {one.name}: {len(one.positions)} frames, {', '.join(one.labels)}" for one in systems]
        if lines:
            logger.info("%s", "\n".join([f"{title} data", *lines]))
    return FitProblem(given, models.field, params, found, free, train, valid, [path, *models.files])


def _frames(models: TopologyModels, data: FitData, folders: Sequence[Folder], loss: Sigmas) -> list[FitSystem]:
    """The frames of all systems of a section."""
    found = []
    for one in folders:
        structure = models.structure(one.name)
        bound = models.bound(structure)
        found += read_frames(
            [one],
            structure.topology,
            bound.potential,
            bound.params,
            part=models.fragment,
            units=data.units,
            check_units=data.check_units,
            targets=loss.targets,
            relative=loss.relative,
        )
    return found


def _check_each_left_out(systems: list[FitSystem], sigmas: Sigmas) -> None:
    """Refuse systems of which the others could not be fitted to."""
    if len(systems) < 2:
        raise InputError("training.leave_one_out needs two systems or more; there is one.")
    for target in sigmas.targets:
        having = [one.name for one in systems if target in one.labels]
        if len(having) == 1:
            raise InputError(
                f"training.leave_one_out: without {having[0]} no system has {target}.npy, so it is no fit to the same "
                f'targets. Add such labels to others, or leave "{target}" or leave_one_out out.'
            )


def _split(systems: list[FitSystem], fraction: float, seed: int) -> tuple[list[FitSystem], list[FitSystem]]:
    """Some frames of each system for validation, the rest for training."""
    random, train, valid = np.random.default_rng(seed), [], []
    for system in systems:
        n_frames = len(system.positions)
        n_valid = round(fraction * n_frames)
        order = random.permutation(n_frames)
        if n_valid < 1 or n_valid >= n_frames:
            raise InputError(
                f"training.validation_fraction: {fraction:g} of the {n_frames} frames of {system.name} leaves nothing "
                "to fit to or nothing to compare with. Choose another fraction, or name validation_data."
            )
        valid.append(replace(system.take(np.sort(order[:n_valid])), name=f"{system.name} (left out)"))
        train.append(system.take(np.sort(order[n_valid:])))
    return train, valid
