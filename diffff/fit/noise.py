"""How the noise of labels enters a fit: weights beside the sigmas, and constants that are fitted along."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffff.fit.problem import FitSystem, Sigmas, energy_weights


class Noise(NamedTuple):
    """What the residuals ``sqrt(w) (predicted - reference) / sigma`` are, beside differences in units of sigma.

    Attributes:
        weights: w, shape ``(n,)``, with the mean 1 over the energies of a system, 1 for other targets.
        constants: what the constants of relative energies take of tr W, ``sum w^2 / sum w`` of each system; without
            weights their number.
    """

    weights: np.ndarray
    constants: float = 0.0


def noise_of(systems: Sequence[FitSystem], sigmas: Sigmas) -> Noise:
    """That of `all_residuals` of these systems."""
    weights, constants = [np.zeros(0)], 0.0
    for system in systems:
        for target in (name for name in sigmas.targets if name in system.labels):
            each = np.ones(system.labels[target].size)
            if target == "energy":
                each = np.asarray(energy_weights(system, sigmas))
                if sigmas.relative:
                    group = np.zeros(len(each), int) if system.group is None else np.asarray(system.group)
                    constants += float(np.sum(np.bincount(group, each**2) / np.bincount(group, each)))
            weights.append(each)
    return Noise(np.concatenate(weights), constants)
