"""`solve`: the minimum of a fit, and what is known of each number there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffff.fit.free import Free
from diffff.fit.information import Known, known_at
from diffff.fit.noise import Noise
from diffff.fit.objective import Objective
from diffff.fit.optimizers import Callback, LeastSquares, Minimizer, Start
from diffff.fit.rules import Numbers, labels_of


class Fit(NamedTuple):
    """The end of a fit.

    Attributes:
        params: parameter tree.
        free: free variables ``(n_free,)``.
        start: objective at the start, half the sum of squares, priors included.
        end: that at the end.
        n_steps: steps made.
        converged: whether it is a minimum by the tolerances; None: the optimiser follows a schedule and does not ask.
        known: how well each number is known.
        labels: of the numbers, in the order of ``known``.
        begun: values of the numbers at the start.
    """

    params: Any
    free: np.ndarray
    start: float
    end: float
    n_steps: int
    converged: bool | None
    known: Known
    labels: tuple[str, ...]
    begun: np.ndarray

    def table(self) -> str:
        """A line for each number: start, value, standard error, and how much of it is from the data."""
        return self.known.table(self.labels, self.begun)

    def sloppy(self, number: int = 3) -> list[str]:
        """The directions that the data determine least, in words, the loosest first."""
        return [found.words for found in self.known.sloppy(list(self.labels), number)]

    def stiff(self, number: int = 3) -> list[str]:
        """The directions that the data determine best, in words, the stiffest first."""
        return [found.words for found in self.known.stiff(list(self.labels), number)]


def solve(
    residuals: Callable[[Any], jax.Array],
    free: Free,
    found: Sequence[Numbers],
    *,
    optimizer: Minimizer | None = None,
    max_steps: int = 200,
    start: Start | None = None,
    noise: Noise | None = None,
    callback: Callback = lambda step, v, state: None,
) -> Fit:
    """Minimise ``1/2 sum r^2`` and the priors.

    Args:
        residuals: of a parameter tree, shape ``(n,)``, each in units of its standard deviation.
        free: the variables.
        found: the numbers they stand for, as `moving` gave them.
        optimizer: how; None: least squares by Levenberg and Marquardt.
        max_steps: steps at most.
        start: where to begin; None: with the numbers as they are.
        noise: of the residuals, as `noise_of` tells it; None: each by itself in units of its standard deviation.
        callback: is told each step, see `Callback`.

    Raises:
        InputError: the residuals are not finite at the start or their slopes at the end, there are none, or more
            numbers move than can be dealt with.
    """
    objective = Objective(residuals, free)
    objective.require_memory()
    begin = Start(np.zeros(free.n_free)) if start is None else start
    end = (optimizer or LeastSquares()).minimize(objective, begin, max_steps, callback)
    return Fit(
        params=free.params(jnp.asarray(end.free)),
        free=end.free,
        start=objective.start.half_square,
        end=objective.residuals(end.free).half_square,
        n_steps=end.n_steps,
        converged=end.converged,
        known=known_at(objective.normal(end.free, noise), free, end.free),
        labels=labels_of(found),
        begun=np.asarray(free.starts),
    )
