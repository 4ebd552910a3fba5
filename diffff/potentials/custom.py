"""Bonded forces whose energy is an expression: OpenMM's CustomBondForce, CustomAngleForce, CustomTorsionForce.

    E = sum over the listed atoms of  expression(coordinate, parameters of the row, global parameters)

Parameters: an array ``(n_rows,)`` for each per-row parameter, a scalar for each global parameter and the flat table of
each tabulated function, each by its own name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from diffff.errors import InputError
from diffff.neighbors import Neighbors
from diffff.potentials.expression import Expression, parse
from diffff.potentials.geometry import angle, dihedral, distance
from diffff.potentials.tabulated import Table
from diffff.pytree import pytree, static

Columns = Mapping[str, jax.Array]


@dataclass(frozen=True)
class CustomEnergy:
    """An energy expression and what its names stand for.

    Attributes:
        text: the expression, in OpenMM's language; see `diffff.potentials.expression`.
        coordinate: the name of the coordinate in it: "r" or "theta".
        parameters: names of the parameters that each row has.
        global_parameters: names of the parameters that all rows share.
        functions: names and kinds of the tabulated functions.
        pairwise: whether the text knows each per-row parameter twice, as ``name1`` and ``name2``.
        expression: the parsed text; made here.

    Raises:
        InputError: a malformed text, a name without meaning, or a name with two meanings.
    """

    text: str
    coordinate: str
    parameters: tuple[str, ...] = ()
    global_parameters: tuple[str, ...] = ()
    functions: tuple[tuple[str, Table], ...] = ()
    pairwise: bool = False
    expression: Expression = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        columns = (*self.parameters, *self.global_parameters, *(name for name, _ in self.functions))
        known = [self.coordinate, *self.row_names, *self.global_parameters]
        for names in (columns, known):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            if twice:
                raise InputError(
                    f'energy "{self.text}": the name {twice[0]!r} stands for two things among the coordinate, the '
                    "parameters, the global parameters and the functions; rename one."
                )
        arities = {name: table.n_arguments for name, table in self.functions}
        object.__setattr__(self, "expression", parse(self.text, functions=arities, variables=known))

    @property
    def row_names(self) -> tuple[str, ...]:
        """The names by which the text knows the per-row parameters."""
        return tuple(f"{name}{which}" for which in self._suffixes for name in self.parameters)

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return ("1", "2") if self.pairwise else ("",)

    def rows_of(self, params: Columns, rows: jax.Array) -> tuple[jax.Array, ...]:
        """The per-row parameters of the given rows, one array of the shape of ``rows`` each."""
        return tuple(self._column(params, name)[rows] for name in self.parameters)

    def bind(self, params: Columns) -> Callable[..., jax.Array]:
        """The expression with its global parameters and tables.

        Raises:
            InputError: ``params`` has not all of them.
        """
        constants = {name: self._column(params, name) for name in self.global_parameters}
        tables = {name: table.bind(self._column(params, name)) for name, table in self.functions}

        def energy(coordinate: jax.Array, *rows: tuple[jax.Array, ...]) -> jax.Array:
            flat = [column for columns in rows for column in columns]
            values = constants | dict(zip(self.row_names, flat, strict=True)) | {self.coordinate: coordinate}
            return self.expression(values, tables) + jnp.zeros_like(coordinate)

        return energy

    def _column(self, params: Columns, name: str) -> jax.Array:
        if name not in params:
            raise InputError(
                f'energy "{self.text}": the parameters have no {name!r}, only {", ".join(sorted(params)) or "nothing"}.'
            )
        return jnp.asarray(params[name])


def check_coordinate(name: str, law: CustomEnergy, coordinate: str, of_pairs: bool) -> None:
    """Refuse a law that is not one of the coordinate of the term ``name``.

    Raises:
        InputError: another coordinate, or per-row parameters of one atom instead of two, or of two instead of one.
    """
    if law.coordinate != coordinate or law.pairwise != of_pairs:
        raise InputError(
            f'{name}: its energy "{law.text}" is of {law.coordinate!r} with pairwise={law.pairwise}; '
            f"make it with coordinate={coordinate!r} and pairwise={of_pairs}."
        )


@pytree
class CustomBond:
    """An expression of the distance ``r``, nm, of two atoms.

    Attributes:
        atoms: shape ``(n, 2)``, integers.
        rows: shape ``(n,)``, index of the row behind each bond.
        law: the expression, with coordinate "r".
        periodic: whether distances are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    law: CustomEnergy = static()
    periodic: bool = static(default=False)
    name: str = static(default="CustomBondForce")

    def __post_init__(self) -> None:
        check_coordinate(self.name, self.law, "r", False)

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol."""
        r = distance(positions, box, self.atoms, self.periodic)
        return jnp.sum(self.law.bind(params)(r, self.law.rows_of(params, self.rows)))


@pytree
class CustomAngle:
    """An expression of the angle ``theta``, rad, of three atoms, the vertex being the second; fields as `CustomBond`.

    Attributes:
        atoms: shape ``(n, 3)``, integers.
        rows: shape ``(n,)``, index of the row behind each angle.
        law: the expression, with coordinate "theta".
        periodic: whether bonds are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    law: CustomEnergy = static()
    periodic: bool = static(default=False)
    name: str = static(default="CustomAngleForce")

    def __post_init__(self) -> None:
        check_coordinate(self.name, self.law, "theta", False)

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol."""
        theta = angle(positions, box, self.atoms, self.periodic)
        return jnp.sum(self.law.bind(params)(theta, self.law.rows_of(params, self.rows)))


@pytree
class CustomTorsion:
    """An expression of the dihedral ``theta`` of four atoms, rad, in (-pi, pi].

    Attributes:
        atoms: shape ``(n, 4)``, integers.
        rows: shape ``(n,)``, index of the row behind each dihedral.
        law: the expression, with coordinate "theta".
        periodic: whether bonds are to nearest images.
        name: key of its parameters.
    """

    atoms: jax.Array
    rows: jax.Array
    law: CustomEnergy = static()
    periodic: bool = static(default=False)
    name: str = static(default="CustomTorsionForce")

    def __post_init__(self) -> None:
        check_coordinate(self.name, self.law, "theta", False)

    @property
    def cutoff(self) -> float:
        """It needs no neighbours."""
        return 0.0

    def energy(self, params: Columns, positions: jax.Array, box: jax.Array | None, neighbors: Neighbors) -> jax.Array:
        """Energy, kJ/mol."""
        theta = dihedral(positions, box, self.atoms, self.periodic)
        return jnp.sum(self.law.bind(params)(theta, self.law.rows_of(params, self.rows)))
