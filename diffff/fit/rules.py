"""Which numbers of a model move in a fit, and how: ordered rules over the names of arrays and the rows of files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import compress
from math import inf
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from diffff import tree
from diffff.errors import InputError
from diffff.fit.hints import hint
from diffff.fit.row_names import fits, label_of_row
from diffff.fit.sizes import Size
from diffff.frontend.rows import Place
from diffff.spec import Spec

Pattern = Annotated[str, Field(min_length=1)]


class Prior(Spec):
    """What is known of a number before the fit: a normal distribution."""

    sigma: Size
    "Its standard deviation, in the unit of the number."
    mean: float | None = None
    "Its mean; by default the number in the file."


class Treatment(Spec):
    """What becomes of numbers in a fit."""

    train: bool = True
    "False: they keep their values."
    bounds: tuple[float | None, float | None] | None = None
    "Smallest and largest value; null where there is none."
    scale: Size | None = None
    "How much a number may be expected to change, for the length of steps; by default a tenth of its size."
    prior: Prior | None = None
    "Pulls the numbers towards a mean."
    lr: Size | None = None
    "Learning rate at the start, in units of the scale; by default start_lr. For optimisers that have a learning rate."

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if not self.train and (self.bounds or self.scale or self.prior or self.lr):
            raise ValueError('"train" is false, so that bounds, scale, prior and lr mean nothing; remove them')
        lower, upper = self.bounds or (None, None)
        if lower is not None and upper is not None and lower >= upper:
            raise ValueError(f"bounds are [{lower}, {upper}]; the first must be the smaller one")
        mean = None if self.prior is None else self.prior.mean
        if mean is not None and not (-inf if lower is None else lower) <= mean <= (inf if upper is None else upper):
            raise ValueError(f"the mean of the prior, {mean:g}, is not within the bounds; change one of them")
        return self


class Selection(Spec):
    """Some numbers of a model."""

    select: Pattern
    'Pattern over the names of arrays, such as "NonbondedForce/epsilon"; "*" also spans "/".'
    where: dict[str, str | tuple[str, ...]] | None = None
    """Patterns that attributes of the row must match, one of them each, such as {"type": "protein-C*"}. The key "atoms"
    is for the types or classes of a row in their order, from either end: {"atoms": ["c3", "oh"]}; the key "residue" is
    for the name of the residue in which a row stands."""

    def in_words(self) -> str:
        """As it stands in the input."""
        return f'"{self.select}"' + (f" with {json.dumps(self.where, ensure_ascii=False)}" if self.where else "")

    def rows(self, path: str, places: Sequence[Place] | None, n_rows: int) -> np.ndarray:
        """Which rows of an array are selected, bool ``(n_rows,)``.

        Raises:
            InputError: there are conditions on rows, but the array has none, since it is no column of a file.
        """
        if not fnmatchcase(path, self.select):
            return np.zeros(n_rows, bool)
        if not self.where:
            return np.ones(n_rows, bool)
        if places is None:
            raise InputError(f'"{self.select}" with "where" selects {path}, which stands in no file and has no rows.')
        return np.array([fits(place, self.where) for place in places], bool)


class Rule(Selection):
    """Numbers, and what becomes of them; of several rules the first that selects a number holds."""

    treatment: Treatment = Treatment()
    "What becomes of them."


@dataclass(frozen=True, eq=False)
class Numbers:
    """Some numbers of one array that move.

    Attributes:
        path: of the array, "NonbondedForce/epsilon".
        index: which of its elements, counted in the flat array, shape ``(n,)``.
        treatment: theirs.
        places: where they stand in files; None if nowhere.
        shape: of the array.
    """

    path: str
    index: np.ndarray
    treatment: Treatment
    places: tuple[Place, ...] | None
    shape: tuple[int, ...]

    def take(self, kept: np.ndarray) -> "Numbers":
        """Some of them, bool ``(n,)``."""
        places = None if self.places is None else tuple(compress(self.places, kept))
        return replace(self, index=self.index[kept], places=places)

    def label(self, k: int) -> str:
        """The k-th number in words: ``epsilon(OW)``, ``charge(NME–CH3)`` in a residue, or its place in a network."""
        column = self.path.rpartition("/")[2]
        if self.places is None:
            return f"{self.path}[{', '.join(map(str, np.unravel_index(self.index[k], self.shape)))}]"
        place = self.places[k]
        name = place.key if isinstance(place.key, str) else f"{column}, number {place.key}"
        return f"{name}({label_of_row(place)})"

    def full_label(self, k: int) -> str:
        """The same with the name of the array, which tells alike numbers of two arrays apart."""
        return f"{self.path}: {self.label(k)}"


def labels_of(found: Sequence[Numbers]) -> tuple[str, ...]:
    """Of all numbers, one after the other; see `Numbers.label`."""
    return tuple(some.label(k) for some in found for k in range(len(some.index)))


def moving(
    params: Any,
    places: Mapping[str, Sequence[Place]],
    rules: Sequence[Rule],
    where: str = "parameters",
    numbers: Sequence[int] | None = None,
) -> list[Numbers]:
    """Which numbers move.

    Args:
        params: the parameter tree.
        places: where the numbers of an array stand, by path, for arrays that come from files.
        rules: ordered; every number must be selected by one of them.
        where: what messages call the rules.
        numbers: and how they number them; None: from 0.

    Returns:
        The numbers in the order of the tree, and of the rules within an array.

    Raises:
        InputError: a rule selects nothing, or nothing that earlier ones leave to it; a number is selected by none; or
            nothing moves.
    """
    used, chosen = [0] * len(rules), [0] * len(rules)
    found, uncovered = [], []
    for path, leaf in tree.flatten(params).items():
        n_rows = int(np.size(leaf))
        stand = places.get(path)
        stand = None if stand is None or len(stand) != n_rows else tuple(stand)
        left = np.ones(n_rows, bool)
        for number, rule in enumerate(rules):
            selected = rule.rows(path, stand, n_rows)
            used[number] += int(selected.sum())
            index = np.flatnonzero(selected & left)
            left &= ~selected
            chosen[number] += len(index)
            if rule.treatment.train and len(index):
                some = None if stand is None else tuple(stand[i] for i in index)
                found.append(Numbers(path, index, rule.treatment, some, np.shape(leaf)))
        if left.any():
            uncovered.append(f"{path} ({int(left.sum())} of {n_rows})")
    names = [f"{where}[{number}]" for number in numbers or range(len(rules))]
    _check_rules(rules, names, used, chosen, params, places)
    if uncovered:
        raise InputError(
            f"{where}: no rule is for {', '.join(uncovered)}. Add rules, or as the last one "
            '{"select": "*", "treatment": {"train": false}}, which keeps all the rest.'
        )
    if not found:
        raise InputError(f'{where}: all numbers are kept as they are. Add a rule without "train": false.')
    return found


def _check_rules(
    rules: Sequence[Rule],
    names: Sequence[str],
    used: Sequence[int],
    chosen: Sequence[int],
    params: Any,
    places: Mapping[str, Sequence[Place]],
) -> None:
    for number, rule in enumerate(rules):
        what = f"{names[number]}: {rule.in_words()}"
        if not used[number]:
            of_arrays = {path: places.get(path, ()) for path in tree.paths(params)}
            raise InputError(f"{what} selects nothing. {hint(rule.select, rule.where, of_arrays)}")
        if not chosen[number] and rule.treatment.train:
            raise InputError(f"{what} has no effect: earlier rules take all it selects. Move it up or remove it.")
