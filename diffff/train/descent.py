"""The optimisers of networks for the rows of a force field: gradient steps, each with all data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from diffff.fit.objective import Objective
from diffff.fit.optimizers import Callback, Outcome, Start
from diffff.train.optim import Optimizer, build, state_from_arrays, state_to_arrays
from diffff.train.schedule import LearningRate

_LEAF = "free"


@dataclass(frozen=True, eq=False)
class Descent:
    """A `fit.optimizers.Minimizer`.

    Attributes:
        optimizer: the section `optimizer`.
        learning_rate: the section `learning_rate`.
        rates: of each free variable, as multiples of the learning rate, shape ``(n_free,)``.
    """

    optimizer: Optimizer
    learning_rate: LearningRate
    rates: np.ndarray

    def minimize(self, objective: Objective, start: Start, max_steps: int, callback: Callback) -> Outcome:
        """Make ``max_steps`` steps, those before the start included.

        Raises:
            InputError: the objective or its gradient is no longer finite.
        """
        scales: Mapping[str, Any] = {_LEAF: self.rates}
        step_of, rate = build(self.optimizer, scales), self.learning_rate.bind(max_steps)
        leaves: Any = {_LEAF: jnp.asarray(start.free)}
        state = step_of.init(leaves)
        if start.state:
            state = state_from_arrays(state, start.state)
        for step in range(start.n_steps, max_steps):
            _, gradient = objective.value_and_gradient(np.asarray(leaves[_LEAF]))
            updates, state = step_of.update({_LEAF: jnp.asarray(gradient)}, state, leaves, learning_rate=rate(step))
            leaves = optax.apply_updates(leaves, updates)
            arrays = {name: np.asarray(array) for name, array in state_to_arrays(state).items()}
            callback(step + 1, np.asarray(leaves[_LEAF]), arrays)
        return Outcome(np.asarray(leaves[_LEAF]), max_steps, None)
