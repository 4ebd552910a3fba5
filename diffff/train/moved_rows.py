"""The numbers of a force field that are trained with a network: their files, and how well they are known at the end.

With the network as it is, and J the derivatives of energies and forces of the training frames in the free variables,
each over the root mean square of its error, the standard errors are those of `diffff.fit.information`. What a network
could take over from a number is not in them, so they are lower bounds.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffff.fit.free import Free
from diffff.fit.information import Known, Normal, known_at
from diffff.fit.neutrality import changed_charges
from diffff.fit.notes import notes_of
from diffff.fit.number_record import directions, entries, write_rows
from diffff.fit.parameters import Parameters, table_of
from diffff.fit.parity import FILE, Parity, write_parity
from diffff.fit.record import errors_of
from diffff.fit.rules import Numbers, labels_of
from diffff.train.evaluate import Errors
from diffff.train.fit_words import combinations
from diffff.train.force_field import ForceFieldFrames, ForceFieldPart
from diffff.train.frames import Frames

_AT_ONCE = 32  # frames
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MovedRows:
    """The numbers of a force field that are trained with a network.

    Attributes:
        part: the force field.
        found: the numbers.
        free: the free variables.
    """

    part: ForceFieldPart
    found: list[Numbers]
    free: Free

    def known(self, v: np.ndarray, groups: Sequence[Frames], errors: Errors) -> Known:
        """How well the numbers are known, the network being as it is.

        Args:
            v: the free variables at the end, shape ``(n_free,)``.
            groups: training frames.
            errors: of the sum for these.
        """
        sigmas = np.array([errors.rmse("e"), errors.rmse("f")])
        weights = np.where(sigmas > 0.0, 1.0 / np.where(sigmas > 0.0, sigmas, 1.0), 0.0)  # 0 without a label (nan)
        data, n = np.zeros((self.free.n_free, self.free.n_free)), 0
        for group in groups:
            base = group.force_field
            assert base is not None  # it moves
            n_frames = len(group.positions)
            n += n_frames * (1 + 3 * len(base.atoms))
            for first in range(0, n_frames, _AT_ONCE):
                some = np.arange(first, first + _AT_ONCE)
                own, some = some < n_frames, np.minimum(some, n_frames - 1)
                given = base.take(jnp.asarray(some)), group.positions[some], group.boxes[some]
                data += np.asarray(_products(self.free, jnp.asarray(v), *given, own[:, None] * weights))
        return known_at(Normal(data, data, float(n), float(n)), self.free, v)

    def table(self, found: Known) -> str:
        """A line for each number, see `Known.table`, and what the data determine best and least."""
        labels = labels_of(self.found)
        return "\n".join([found.table(labels, np.asarray(self.free.starts)), *combinations(found, labels)])

    def changed_charges(self, v: np.ndarray) -> list[str]:
        """A sentence for each topology whose total charge these free variables change."""
        models = self.part.models
        places = models.topologies.structures.items()
        potentials = {str(path): models.bound(structure).potential for path, structure in places}
        before, after = (self.free.params(jnp.asarray(one)) for one in (np.zeros_like(v), v))
        return changed_charges(potentials, before, after)

    def write(self, folder: Path, v: np.ndarray, found: Known, parities: Sequence[Parity]) -> list[Path]:
        """Write what has become of the force field.

        Args:
            folder: where.
            v: the free variables at the end, shape ``(n_free,)``.
            found: how well the numbers are known.
            parities: what the sum says beside the data.

        Returns:
            The files of the force field, with errors in comments. Beside them are ``rows.json`` and ``parity.h5``.
        """
        field = self.part.field
        files = field.write(folder, self.free.params(jnp.asarray(v)), notes=notes_of(found, self.found))
        content = {
            "numbers": entries(found, self.found, self.free, field.units),
            **directions(found, labels_of(self.found)),
            "errors": [errors_of(one) for one in parities],
        }
        write_parity(folder / FILE, parities)
        write_rows(folder, content)
        return files


def moved_rows(part: ForceFieldPart, parameters: Parameters) -> MovedRows:
    """What moves of a force field, which is told."""
    found, free = part.moves(parameters)
    logger.info("%s", table_of(found, free, part.field.units))
    return MovedRows(part, found, free)


@jax.jit
def _products(
    free: Free, v: jax.Array, base: ForceFieldFrames, positions: jax.Array, boxes: jax.Array, weights: jax.Array
) -> jax.Array:
    """``J^T J`` of some frames; the weights ``(n_frames, 2)`` are those of energies and forces, 1 / sigma."""

    def residuals(v: jax.Array) -> jax.Array:
        found = base.predict(free.params(v), positions, boxes)
        energy, force = found["energy"] * weights[:, 0], found["force"] * weights[:, 1, None, None]
        return jnp.concatenate([energy, jnp.ravel(force)])

    columns = jax.vmap(lambda direction: jax.jvp(residuals, (v,), (direction,))[1])(jnp.eye(len(v)))
    return columns @ columns.T
