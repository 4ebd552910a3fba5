"""Optimisers for few numbers and all data at once, from SciPy: least squares, and L-BFGS-B.

Both work in the variables of `Free`, in which nothing is bounded.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from scipy.optimize import OptimizeResult, least_squares, minimize

from diffff.fit.objective import Objective
from diffff.spec import Spec

_MOST_TRIALS = 100  # of each step on the average
State = Mapping[str, np.ndarray]
Callback = Callable[[int, np.ndarray, State], None]
"""Is told the number of a step, the free variables after it, and the state of an optimiser that has one; may raise."""


class Start(NamedTuple):
    """Where a minimisation begins.

    Attributes:
        free: free variables ``(n_free,)``.
        n_steps: steps that led there.
        state: of the optimiser, as its `Callback` was told; empty at the first start.
    """

    free: np.ndarray
    n_steps: int = 0
    state: State = MappingProxyType({})


class Outcome(NamedTuple):
    """The end of a minimisation.

    Attributes:
        free: free variables ``(n_free,)``.
        n_steps: steps made.
        converged: whether it is a minimum by the tolerances; None: the optimiser does not ask.
    """

    free: np.ndarray
    n_steps: int
    converged: bool | None


class Minimizer(Protocol):
    """What `solve` needs of an optimiser."""

    def minimize(self, objective: Objective, start: Start, max_steps: int, callback: Callback) -> Outcome:
        """Go to a minimum, in ``max_steps`` steps at most, those before the start included."""
        ...


class _Steps:
    """Counts the steps of an optimiser of SciPy, and tells of them."""

    def __init__(self, start: Start, callback: Callback) -> None:
        self.n, self.free, self._callback = start.n_steps, start.free, callback

    def __call__(self, intermediate_result: OptimizeResult) -> None:
        self.n, self.free = self.n + 1, np.array(intermediate_result.x)
        self._callback(self.n, self.free, {})


class _LastStep(Exception):
    """The last step has been made, and the optimiser wants another."""


class LeastSquares(Spec):
    """Levenberg-Marquardt in a trust region, with exact Jacobians (doi:10.1137/S1052623493248720, as SciPy has it)."""

    type_aliases = ("LevenbergMarquardt", "GaussNewton")

    type: Literal["LeastSquares"] = "LeastSquares"
    tolerance: PositiveFloat = 1e-8
    "Relative change of objective, variables or gradient at which it ends."

    def minimize(self, objective: Objective, start: Start, max_steps: int, callback: Callback) -> Outcome:
        """See `Minimizer`; a step is a Jacobian, whatever number of residuals it takes to find one that goes down."""
        steps = _Steps(start, callback)

        def residuals(v: np.ndarray) -> np.ndarray:
            if steps.n >= max_steps:
                raise _LastStep
            return objective.residuals(v).all

        try:
            end = least_squares(
                residuals,
                start.free,
                lambda v: objective.jacobian(v).all,  # pyright: ignore[reportArgumentType]
                method="trf",
                xtol=self.tolerance,
                ftol=self.tolerance,
                gtol=self.tolerance,
                max_nfev=_MOST_TRIALS * max_steps,
                callback=steps,
            )
        except _LastStep:
            return Outcome(steps.free, steps.n, False)
        return Outcome(end.x, steps.n, bool(end.success))


class LBFGSB(Spec):
    """L-BFGS-B (doi:10.1137/0916069), which needs the gradient only."""

    type: Literal["LBFGSB"] = "LBFGSB"
    tolerance: PositiveFloat = 1e-10
    "Relative change of the objective, or largest component of the gradient, at which it ends."
    history_size: PositiveInt = 20
    "Number of past steps it remembers."

    def minimize(self, objective: Objective, start: Start, max_steps: int, callback: Callback) -> Outcome:
        """See `Minimizer`."""
        steps = _Steps(start, callback)
        end = minimize(
            objective.value_and_gradient,
            start.free,
            jac=True,
            method="L-BFGS-B",
            callback=steps,
            options={
                "maxiter": max_steps - start.n_steps,
                "maxfun": _MOST_TRIALS * max_steps,
                "ftol": self.tolerance,
                "gtol": self.tolerance,
                "maxcor": self.history_size,
            },
        )
        return Outcome(end.x, steps.n, bool(end.success))
