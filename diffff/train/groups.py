"""Groups of parameters: which leaves train, and with which share of the learning rate.

Ordered rules over the names of the leaves decide; what trains is taken out of the tree as a flat dict, so that
frozen leaves have neither gradient nor optimiser state.
"""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Self

import jax
from pydantic import Field, PositiveFloat, model_validator

from diffff import tree
from diffff.errors import InputError
from diffff.spec import Spec

Leaves = dict[str, jax.Array]

CONSTANTS = (
    "DeepPot/descriptor/davg",
    "DeepPot/descriptor/dstd",
    "DeepPot/fitting/?param_*",
    "DeepPot/bias",
)
"""Leaves that come from the statistics of the data and never train."""


class Rule(Spec):
    """How the parameters that a pattern selects are trained; of several rules the first that matches a leaf holds."""

    select: Annotated[str, Field(min_length=1)]
    'Pattern over the names of the parameters: "DeepPot/fitting/*" or "*/b"; "*" also spans "/".'
    lr_scale: PositiveFloat = 1.0
    "Multiplies the learning rate."
    train: bool = True
    "False: the parameters keep their values."

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if not self.train and self.lr_scale != 1.0:
            raise ValueError('lr_scale means nothing with "train": false; remove one of them')
        return self


def learning_rate_scales(params: Any, rules: Sequence[Rule]) -> dict[str, float]:
    """Which leaves train, and with which factor on the learning rate.

    Args:
        params: The parameter tree.
        rules: Ordered; the first that matches a leaf holds. A leaf that none matches trains with factor 1; the leaves
            of `CONSTANTS` never train.

    Returns:
        The factor of each trained leaf by its path. A leaf that is not in it is frozen.

    Raises:
        InputError: A rule selects nothing, or nothing that earlier rules and `CONSTANTS` leave to it; or no leaf is
            left to train.
    """
    constants = [Rule(select=pattern, train=False) for pattern in CONSTANTS]
    ordered = [(rule.select, rule) for rule in (*constants, *rules, Rule(select="*"))]
    chosen = tree.flatten(tree.select(ordered, params))
    for pattern in tree.unused([(rule.select, rule) for rule in rules], params):
        names = ", ".join(chosen)
        raise InputError(
            f'optimizer.rules or parameters.rules: "{pattern}" selects no parameter. The parameters are {names}.'
        )
    for rule in rules:
        if rule.train and not any(holds is rule for holds in chosen.values()):
            raise InputError(
                f'optimizer.rules or parameters.rules: "{rule.select}" has no effect: all it selects is taken by an '
                "earlier rule or comes from the statistics of the data and never trains. Move the rule up or remove it."
            )
    scales = {path: rule.lr_scale for path, rule in chosen.items() if rule.train}
    if not scales:
        raise InputError("no parameter is left to train: the rules and `trainable` keys freeze all. Release some.")
    return scales


def partition(params: Any, trained: Collection[str]) -> tuple[Leaves, Leaves]:
    """Splits a parameter tree into flat dicts (trained, frozen); `merge` puts it together again."""
    leaves = tree.flatten(params)
    return (
        {path: leaf for path, leaf in leaves.items() if path in trained},
        {path: leaf for path, leaf in leaves.items() if path not in trained},
    )


def merge(trained: Leaves, frozen: Leaves) -> Any:
    """The parameter tree of the two parts."""
    return tree.unflatten({**trained, **frozen})
