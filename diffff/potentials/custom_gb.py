"""OpenMM's CustomGBForce: expressions of values that each atom gets from its neighbours, such as Born radii.

    v0_i = sum over j of  f0(r_ij, a_i, a_j),    v1_i = f1(a_i, v0_i),    v2_i = f2(a_i, v0_i, v1_i),  ...
    E    = sum over i of  e(a_i, v_i)  +  sum over pairs of  e(r_ij, a_i, a_j, v_i, v_j)

Parameters: an array for each per-particle parameter, a scalar for each global parameter and the flat table of each
tabulated function, each by its own name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials import pairwise
from diffff.potentials.atom_sums import sums_all, sums_listed
from diffff.potentials.custom_nonbonded import Method
from diffff.potentials.expression import Expression, parse
from diffff.potentials.tabulated import Table
from diffff.pytree import pytree, static

Kind = Literal["SingleParticle", "ParticlePair", "ParticlePairNoExclusions"]
Columns = Mapping[str, jax.Array]

_COORDINATES = ("x", "y", "z")


class Formula(NamedTuple):
    """A text and what it is summed over.

    Attributes:
        text: in OpenMM's language; see `diffff.potentials.expression`. Of a pair it knows ``r``, nm, and each name
            twice, as ``name1`` and ``name2``; of a particle it knows each name, and ``x``, ``y``, ``z``, nm.
        kind: SingleParticle, ParticlePair, or ParticlePairNoExclusions for excluded pairs too.
    """

    text: str
    kind: Kind


@dataclass(frozen=True)
class GBLaw:
    """The expressions of a CustomGBForce and what their names stand for.

    Attributes:
        values: names of the computed values and how they come about, in that order: the first one from pairs, the
            others from single particles.
        energies: the terms of the energy, kJ/mol. One of pairs must be the same when 1 and 2 change places.
        parameters: names of the parameters that each particle has.
        global_parameters: names of the parameters that all share.
        functions: names and kinds of the tabulated functions.

    Raises:
        InputError: a malformed text, a name without meaning or with two meanings, values of the wrong kind.
    """

    values: tuple[tuple[str, Formula], ...]
    energies: tuple[Formula, ...]
    parameters: tuple[str, ...] = ()
    global_parameters: tuple[str, ...] = ()
    functions: tuple[tuple[str, Table], ...] = ()
    parsed: dict[Formula, Expression] = field(init=False, compare=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        names = [*self.parameters, *(name for name, _ in self.values), *self.global_parameters]
        names += [name for name, _ in self.functions]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"generalised Born energy: the name {twice[0]!r} stands for two things; rename one.")
        for i, (name, formula) in enumerate(self.values):
            if (i == 0) == (formula.kind == "SingleParticle"):
                raise InputError(
                    f"generalised Born energy: value {name!r} is of the kind {formula.kind}; as in OpenMM, the first "
                    "value must be of a pair kind and all others of the kind SingleParticle."
                )
            self._parse(formula, [*self.parameters, *(before for before, _ in self.values[:i])])
        for formula in self.energies:
            self._parse(formula, [*self.parameters, *(name for name, _ in self.values)])

    def _parse(self, formula: Formula, per_particle: list[str]) -> None:
        if formula.kind not in get_args(Kind):
            raise InputError(
                f'"{formula.text}" is of the kind {formula.kind!r}; give one of {", ".join(get_args(Kind))}.'
            )
        if formula.kind == "SingleParticle":
            known = [*per_particle, *_COORDINATES]
        else:
            known = [f"{name}{which}" for which in "12" for name in per_particle] + ["r"]
        arities = {name: table.n_arguments for name, table in self.functions}
        self.parsed[formula] = parse(formula.text, functions=arities, variables=[*known, *self.global_parameters])

    def constants(self, params: Columns) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """The global parameters, and the values of the tables."""
        shared = {name: jnp.asarray(params[name]) for name in self.global_parameters}
        return shared, {name: jnp.asarray(params[name]) for name, _ in self.functions}

    def bound(self, tables: Columns) -> dict[str, Callable[..., jax.Array]]:
        """The tabulated functions with their values."""
        return {name: table.bind(tables[name]) for name, table in self.functions}

    def used(self, formula: Formula, columns: Columns) -> tuple[str, ...]:
        """Which columns a formula of pairs needs."""
        names = self.parsed[formula].names
        return tuple(name for name in columns if f"{name}1" in names or f"{name}2" in names)

    def of_pair(
        self,
        formula: Formula,
        used: tuple[str, ...],
        squared: jax.Array,
        first: pairwise.Columns,
        second: pairwise.Columns,
        shared: Columns,
        functions: Mapping[str, Callable[..., jax.Array]],
    ) -> jax.Array:
        """A formula of pairs from r^2, the columns ``used`` of both particles, global parameters and functions."""
        values = dict(shared) | {"r": jnp.sqrt(squared)}
        for which, columns in (("1", first), ("2", second)):
            values |= {f"{name}{which}": column for name, column in zip(used, columns, strict=False)}
        return self.parsed[formula](values, functions) + jnp.zeros_like(squared)


@pytree
class CustomGB:
    """The term; `custom_gb` makes and checks one.

    Attributes:
        rows: shape ``(n_atoms,)`` for each per-particle parameter, the row of each atom in its column.
        excluded: shape ``(n, 2)``, smaller index first, sorted: pairs that formulas of the kind ParticlePair leave out.
        law: the expressions.
        method: OpenMM's name.
        cutoff: nm; 0 for NoCutoff, which needs no neighbours.
        name: key of its parameters.
    """

    rows: dict[str, jax.Array]
    excluded: jax.Array
    law: GBLaw = static()
    method: Method = static(default="NoCutoff")
    cutoff: float = static(default=0.0)
    name: str = static(default="CustomGBForce")

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol; arguments as in `Term.energy`.

        Raises:
            InputError: a parameter is missing, or box and method do not go together.
        """
        positions = jnp.asarray(positions)
        if missing := [name for name in self._columns() if name not in params]:
            raise InputError(f"{self.name}: the parameters have no {missing[0]!r}, only {', '.join(sorted(params))}.")
        if self.method != "NoCutoff":
            pairwise.require_box(box, self.method, self.name)
        columns = self.values(params, positions, box, neighbors)
        total = jnp.zeros((), positions.dtype)
        for formula in self.law.energies:
            if formula.kind == "SingleParticle":
                total += jnp.sum(self._single(formula, columns, params, positions))
            else:
                total += self._of_pairs(formula, columns, params, positions, box, neighbors)
        return total

    def values(
        self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors
    ) -> dict[str, jax.Array]:
        """The parameters and the computed values of all atoms by name, shape ``(n_atoms,)`` each."""
        columns = {name: jnp.asarray(params[name])[self.rows[name]] for name in self.law.parameters}
        constants = self.law.constants(params)
        for name, formula in self.law.values:
            if formula.kind == "SingleParticle":
                columns[name] = self._single(formula, columns, params, positions)
                continue
            used, picked = self._picked(formula, columns, positions)
            pair, excluded = self._pair(formula, used, *constants), self._excluded(formula)
            if self.method == "NoCutoff":
                columns[name] = sums_all(pair, positions, picked, excluded)
            else:
                columns[name] = sums_listed(pair, positions, box, picked, neighbors, excluded, self.cutoff)
        return columns

    def _columns(self) -> tuple[str, ...]:
        return *self.law.parameters, *self.law.global_parameters, *(name for name, _ in self.law.functions)

    def _of_pairs(
        self,
        formula: Formula,
        columns: Columns,
        params: Columns,
        positions: jax.Array,
        box: jax.Array | None,
        neighbors: Neighbors,
    ) -> jax.Array:
        """The sum of an energy over all pairs."""
        used, picked = self._picked(formula, columns, positions)
        constants, excluded = self.law.constants(params), self._excluded(formula)
        if self.method == "NoCutoff":
            return pairwise.sum_all(self._pair(formula, used, *constants), positions, picked, excluded)

        def pair(
            squared: jax.Array, first: pairwise.Columns, second: pairwise.Columns, shared: Columns, tables: Columns
        ) -> jax.Array:
            return self._pair(formula, used, shared, tables)(squared, first, second)

        return pairwise.sum_listed(pair, positions, box, picked, neighbors, excluded, self.cutoff, constants)

    def _picked(
        self, formula: Formula, columns: Columns, positions: jax.Array
    ) -> tuple[tuple[str, ...], pairwise.Columns]:
        """Names and arrays of the columns that a formula of pairs needs; an array at least."""
        used = self.law.used(formula, columns)
        return used, tuple(columns[name] for name in used) or (jnp.zeros_like(positions[:, 0]),)

    def _pair(
        self, formula: Formula, used: tuple[str, ...], shared: Columns, tables: Columns
    ) -> Callable[..., jax.Array]:
        """A formula of pairs as `diffff.potentials.pairwise` wants it."""
        functions = self.law.bound(tables)
        return lambda squared, first, second: self.law.of_pair(formula, used, squared, first, second, shared, functions)

    def _excluded(self, formula: Formula) -> jax.Array:
        return self.excluded if formula.kind == "ParticlePair" else self.excluded[:0]

    def _single(self, formula: Formula, columns: Columns, params: Columns, positions: jax.Array) -> jax.Array:
        shared, tables = self.law.constants(params)
        place = dict(zip(_COORDINATES, jnp.moveaxis(positions, -1, 0), strict=True))
        values = shared | place | dict(columns)
        return self.law.parsed[formula](values, self.law.bound(tables)) + jnp.zeros_like(positions[:, 0])


def custom_gb(
    *,
    law: GBLaw,
    rows: np.ndarray | Mapping[str, np.ndarray],
    excluded: np.ndarray | None = None,
    method: Method = "NoCutoff",
    cutoff: float = 0.0,
    name: str = "CustomGBForce",
) -> CustomGB:
    """A checked `CustomGB` term.

    Args:
        law: the expressions.
        rows: shape ``(n_atoms,)``, row of each atom; or one such array for each parameter, where they differ.
        excluded: shape ``(n, 2)``, pairs that formulas of the kind ParticlePair leave out, in any order.
        method: OpenMM's name.
        cutoff: nm; for NoCutoff it has no meaning.
        name: key of its parameters.

    Raises:
        InputError: an impossible cutoff, row or excluded pair.
    """
    by_name = dict(rows) if isinstance(rows, Mapping) else dict.fromkeys(law.parameters, rows)
    if set(by_name) != set(law.parameters):
        raise InputError(f"{name}: rows for {sorted(by_name)}, but the parameters are {sorted(law.parameters)}.")
    lengths = {len(one) for one in by_name.values()}
    if len(lengths) > 1:
        raise InputError(f"{name}: rows for {sorted(lengths)} atoms; give each parameter a row for each atom.")
    n_atoms = max(lengths, default=0)
    pairs = np.sort(np.asarray([] if excluded is None else excluded, np.int32).reshape(-1, 2), axis=1)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n_atoms or (pairs[:, 0] == pairs[:, 1]).any()):
        raise InputError(f"{name}: an excluded pair is not of two of the atoms 0 ... {n_atoms - 1}; correct it.")
    if method == "NoCutoff":
        cutoff = 0.0
    elif not 0.0 < cutoff < float("inf"):
        raise InputError(f"{name}: {method} with a cutoff of {cutoff} nm; give a positive one.")
    return CustomGB(
        rows={parameter: jnp.asarray(one, jnp.int32) for parameter, one in by_name.items()},
        excluded=jnp.asarray(np.unique(pairs, axis=0)),
        law=law,
        method=method,
        cutoff=cutoff,
        name=name,
    )
