"""Points of an electrostatic potential lie around molecules, or else they are in another unit than the atoms.

Charges are fitted to points at 1.4 to 2 van der Waals radii from the nearest atom, some as near as 1. Points that are
all farther may be meant so; they are in another unit where that brings them to the usual place, and brings what the
charges of the force field say nearer to the labels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffff.errors import InputError
from diffff.fit.bonds import RADII
from diffff.fit.known_units import LENGTHS
from diffff.fit.problem import FitSystem, Sigmas, predicted
from diffff.potentials.base import Params

_NEAR, _FAR = 0.8, 1.8  # van der Waals radii from the nearest atom, of the nearest point of a usual grid
_BETTER = 0.8  # factor between deviations from the labels
_VDW = 0.08  # nm, about what van der Waals radii are larger than covalent ones


def require_points(system: FitSystem, params: Params, symbols: Sequence[str | None], assumed: str) -> None:
    """Refuse points that another unit of lengths explains better.

    Args:
        system: some frames with potentials and points, nm.
        params: with charges that sum up to zero.
        symbols: of the atoms of the topology.
        assumed: the unit of lengths in the files, "Å" or "nm".

    Raises:
        InputError: there is such a unit.
    """
    if system.esp_points is None or system.esp is None or (now := _nearest(system, symbols, 1.0)) <= _FAR:
        return
    points, esp = system.esp_points, np.asarray(system.esp)

    def deviation(factor: float) -> float:
        said = predicted(replace(system, esp_points=factor * points), params, Sigmas(esp=1.0))["esp"]
        return float(np.linalg.norm(said - esp))

    for name, size in LENGTHS.items():
        factor = size / LENGTHS[assumed]
        there = _nearest(system, symbols, factor)
        if _NEAR < there < _FAR and deviation(factor) < _BETTER * deviation(1.0):
            raise InputError(
                f"{system.name}: the nearest point of esp_grid.npy is {now:.2g} van der Waals radii from an atom. In "
                f"{name} it were {there:.2g}, as usual, and the charges of the force field nearer to the labels: are "
                f"the points in {name}, and not in {assumed} as the atoms? Convert them, or, if they are right, switch "
                "this check off by check_units."
            )


def _nearest(system: FitSystem, symbols: Sequence[str | None], factor: float) -> float:
    """How far the nearest point is from an atom in van der Waals radii, were all points ``factor`` times as far out."""
    own = [k for k, symbol in enumerate(symbols) if symbol in RADII]
    radii = np.array([RADII[symbols[k] or ""] + _VDW for k in own])
    points, x = factor * np.asarray(system.esp_points), np.asarray(system.positions)[:, own]
    return min(
        float((np.linalg.norm(some[:, None] - atoms[None], axis=2) / radii).min(initial=np.inf))
        for some, atoms in zip(points, x, strict=True)
    )
