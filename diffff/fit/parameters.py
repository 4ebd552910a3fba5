"""The section `parameters` of an input file: which numbers move, how, and what ties them to each other."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from diffff.fit.free import Free
from diffff.fit.rules import Numbers, Rule, moving
from diffff.fit.sizes import Size
from diffff.fit.ties import Equal, FixedSum, ResidueCharge
from diffff.frontend.rows import Place
from diffff.spec import Spec, Variants

Tie = Annotated[Equal | FixedSum | ResidueCharge, Variants()]


class Parameters(Spec):
    """Rules and ties of the numbers of a model."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    """Ordered; the first that selects a number holds, and every number of the files must be selected. Patterns that
    begin with "DeepPot/" are for the weights of a network that is trained."""
    ties: tuple[Tie, ...] = ()
    "What holds between numbers that move."
    prior_weight: Size | None = None
    "Factor of the sum of ((x - mean) / sigma)^2 beside the loss of a network; in a fit alone the loss has its sigmas."

    @model_validator(mode="after")
    def _treats_networks_as_a_whole(self) -> Self:
        for number, rule in enumerate(self.rules):
            told = rule.treatment
            if _is_of_network(rule) and (rule.where or told.bounds or told.scale or told.prior):
                raise ValueError(
                    f"rules[{number}]: {rule.in_words()} is for weights of a network, which have train and lr only; "
                    "remove where, bounds, scale and prior"
                )
        return self

    @property
    def of_network(self) -> tuple[Rule, ...]:
        """The rules for weights of a network."""
        return tuple(rule for rule in self.rules if _is_of_network(rule))

    @property
    def has_priors(self) -> bool:
        """Whether any rule has a prior."""
        return any(rule.treatment.prior is not None for rule in self.rules)

    def moving(self, params: Any, places: Mapping[str, Sequence[Place]]) -> list[Numbers]:
        """The numbers of files that move; see `rules.moving`."""
        numbers = [n for n, rule in enumerate(self.rules) if not _is_of_network(rule)]
        return moving(params, places, [self.rules[n] for n in numbers], "parameters.rules", numbers)


def _is_of_network(rule: Rule) -> bool:
    return rule.select.startswith("DeepPot/")


def rates(free: Free, found: Sequence[Numbers], start_lr: float) -> np.ndarray:
    """The learning rate of each free variable as a multiple of ``start_lr``, shape ``(n_free,)``.

    That of variables that move several numbers is the mean over these, weighted by the squares of their shares.
    """
    lr = [some.treatment.lr for some in found for _ in some.index]
    each = np.array([1.0 if one is None else one / start_lr for one in lr])
    if free.ties is None:
        return each
    shares = np.asarray(free.ties) ** 2
    return each @ shares / shares.sum(axis=0)


def table_of(found: Sequence[Numbers], free: Free, units: Mapping[str, str], most: int = 40) -> str:
    """What moves: a line for each number, or for each array where there are many."""
    starts, lower, upper = (np.asarray(values) for values in (free.starts, free.lower, free.upper))
    sigmas = np.where(np.asarray(free.prior_weights) > 0.0, 1.0 / np.maximum(np.asarray(free.prior_weights), 1e-300), 0)
    lines, first = [], 0
    for some in found:
        last, unit = first + len(some.index), units.get(some.path, "")
        lines.append(f"{some.path}: {len(some.index)} of {int(np.prod(some.shape))}" + (f", {unit}" if unit else ""))
        for k in range(first, last) if len(starts) <= most else ():
            bounds = "" if np.isinf(lower[k]) and np.isinf(upper[k]) else f"  in [{lower[k]:g}, {upper[k]:g}]"
            prior = f"  prior +- {sigmas[k]:g}" if sigmas[k] else ""
            lines.append(f"  {some.label(k - first):<40} {starts[k]:12.6g}{bounds}{prior}")
        first = last
    tied = "" if free.ties is None else f" by {free.n_free} variables"
    return "\n".join([f"{len(starts)} numbers move{tied}:", *lines])
