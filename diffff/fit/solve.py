"""`solve`: the least squares of a fit with exact Jacobians, and what is known of each number at the end."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from diffff.errors import InputError
from diffff.fit.free import Free
from diffff.fit.information import Known, in_words, known
from diffff.fit.rules import Numbers


class Fit(NamedTuple):
    """The end of a fit.

    Attributes:
        params: parameter tree.
        free: free variables ``(n_free,)``.
        start: objective at the start, half the sum of squares, priors included.
        end: that at the end.
        n_steps: Jacobians computed.
        converged: whether it is a minimum by the tolerances.
        known: how well each number is known.
        labels: of the numbers, in the order of ``known``.
        begun: values of the numbers at the start.
    """

    params: Any
    free: np.ndarray
    start: float
    end: float
    n_steps: int
    converged: bool
    known: Known
    labels: tuple[str, ...]
    begun: np.ndarray

    def table(self) -> str:
        """A line for each number: start, value, standard error, and how much of it is from the data."""
        width = max(map(len, self.labels), default=0)
        lines = [f"{'':{width}s} {'start':>12s} {'value':>12s} {'error':>10s} {'from data':>9s}"]
        columns = zip(self.labels, self.begun, self.known.values, self.known.errors, self.known.informed, strict=True)
        for label, begun, value, error, informed in columns:
            how = f"{error:10.2g} {informed:9.0%}" if np.isfinite(error) else f"{'not determined':>20s}"
            lines.append(f"{label:{width}s} {begun:12.6g} {value:12.6g} {how}")
        return "\n".join(lines)

    def sloppy(self, number: int = 3) -> list[str]:
        """The directions that the data determine least, in words, the loosest first."""
        return [in_words(direction, list(self.labels)) for direction in self.known.directions[:number]]


def solve(
    residuals: Callable[[Any], jax.Array],
    free: Free,
    found: Sequence[Numbers],
    *,
    max_steps: int = 200,
    tolerance: float = 1e-10,
) -> Fit:
    """Minimise ``1/2 sum r^2`` and the priors, from the numbers as they are.

    A Levenberg-Marquardt method in a trust region (doi:10.1137/S1052623493248720, as SciPy has it), in the variables of
    `Free`, in which nothing is bounded.

    Args:
        residuals: of a parameter tree, shape ``(n,)``, each in units of its standard deviation.
        free: the variables.
        found: the numbers they stand for, as `moving` gave them.
        max_steps: Jacobians at most.
        tolerance: relative change of objective, variables or gradient at which it ends.

    Raises:
        InputError: the residuals are not finite at the start, or there are none.
    """

    def all_of(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return residuals(free.params(v)), free.prior_residuals(v)

    evaluate, slopes = jax.jit(all_of), jax.jit(jax.jacfwd(all_of))
    zeros = jnp.zeros(free.n_free)
    first, pull = (np.asarray(part) for part in evaluate(zeros))
    n_data = len(first)
    if not n_data:
        raise InputError("the fit has no data: no target has both labels and a sigma.")
    if not np.isfinite(first).all():
        raise InputError(
            f"{int(np.sum(~np.isfinite(first)))} of {n_data} residuals are not finite at the start. Do "
            "atoms lie on top of each other in a frame, or are labels missing?"
        )
    end = least_squares(
        lambda v: np.concatenate([np.asarray(part) for part in evaluate(v)]),
        np.asarray(zeros),
        lambda v: np.concatenate([np.asarray(part) for part in slopes(v)]),  # pyright: ignore[reportArgumentType]
        method="trf",
        x_scale="jac",
        xtol=tolerance,
        ftol=tolerance,
        gtol=tolerance,
        max_nfev=max_steps,
    )
    v = jnp.asarray(end.x)
    values = np.asarray(free.numbers(v))
    by_number = np.asarray(jax.jacfwd(free.numbers)(v))
    return Fit(
        params=free.params(v),
        free=end.x,
        start=0.5 * float(first @ first + pull @ pull),
        end=float(end.cost),
        n_steps=int(end.njev),
        converged=bool(end.success),
        known=known(end.fun[:n_data], end.jac[:n_data], end.jac[n_data:], by_number, values, np.asarray(free.scales)),
        labels=tuple(some.label(k) for some in found for k in range(len(some.index))),
        begun=np.asarray(free.starts),
    )
