"""More neighbours than the model of a Deep Potential was made for: said once, before anything is computed."""

import logging
from typing import Any

import jax
import numpy as np

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials.base import Potential
from diffff.potentials.deep import DeepPot

logger = logging.getLogger(__name__)


def tell_of_crowding(potential: Potential, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> None:
    """Compare the neighbours of the first positions with ``sel`` of each Deep Potential.

    All neighbours within the cutoff count in a run, so that energy is conserved. DeePMD-kit, and `Model.eval` with it,
    leave out the farthest where there are more than ``sel``: then the energies differ.

    Args:
        potential: with any terms.
        positions: shape ``(n_atoms, 3)``, nm, virtual sites in place.
        box: shape ``(3, 3)`` or None, nm.
        neighbors: of these positions.

    Raises:
        InputError: there are more, and ``sel_overflow`` of the model is "error".
    """
    for term in potential.terms:
        if not isinstance(term, DeepPot):
            continue
        descriptor, type_map = term.model.descriptor, term.model.type_map
        found: Any = np.asarray(jax.jit(DeepPot.most_neighbors)(term, positions, box, neighbors))
        for name, number, sel in zip(type_map, found, descriptor.slots, strict=True):
            if number <= sel:
                continue
            what = f"an atom has {number} neighbours of type {name}, more than the {sel} of descriptor.sel"
            if descriptor.sel_overflow == "error":
                raise InputError(f'{what}, and sel_overflow is "error". Train with a larger sel.')
            logger.warning("%s: all of them count here, where DeePMD-kit leaves out the farthest.", what)
