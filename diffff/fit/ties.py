"""Ties between the numbers that move: linear equations ``A x = b``, and the directions that they leave free.

A fit keeps to them as ``x = x0 + s N v``: x0 fulfils the equations, s are the scales of the numbers, and the columns
of N span the null space of ``A s``. Where the numbers of the files do not fulfil them, the start is moved by the
smallest change in units of the scales,

    x0 = x + s (A s)^+ (b - A x)
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator
from scipy.linalg import null_space
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from diffff.errors import InputError
from diffff.fit.hints import hint
from diffff.fit.rules import Numbers, Pattern, Selection
from diffff.fit.targets import OFF_INTEGER
from diffff.frontend.rows import Place
from diffff.potentials.base import Potential
from diffff.potentials.nonbonded import Nonbonded

_ROUNDING = 1e-5  # e, what charges in a file may miss an integer by where none of them moves


class Equal(Selection):
    """Numbers that stay equal to each other; they start at their mean."""

    type: Literal["equal"] = "equal"


class FixedSum(Selection):
    """Numbers whose sum stays as it is at the start."""

    type: Literal["sum"] = "sum"


class ResidueCharge(Selection):
    """The charges of each residue sum up to the nearest integer; they start there, if they almost do."""

    type: Literal["residue_charge"] = "residue_charge"
    select: Pattern = "*charge"
    'Pattern over the names of arrays that hold the charges, such as "NonbondedForce/charge".'
    residue: Pattern = "*"
    "Pattern over the names of residues of the topologies."

    @model_validator(mode="after")
    def _is_of_whole_residues(self) -> Self:
        if self.where is not None:
            raise ValueError(
                'is about whole residues: "where", which selects single rows, means nothing; use "residue"'
            )
        return self


Tie = Equal | FixedSum | ResidueCharge


class Residue(NamedTuple):
    """Where the charges of a residue stand.

    Attributes:
        name: of the residue.
        charge_path: name of the array of charges.
        rows: row of the charge of each atom.
    """

    name: str
    charge_path: str
    rows: tuple[int, ...]


class Tied(NamedTuple):
    """What ties make of the numbers that move.

    Attributes:
        starts: shape ``(n_numbers,)``, values that fulfil the ties.
        scales: shape ``(n_numbers,)``, alike where the numbers are.
        matrix: N, shape ``(n_numbers, n_free)``, in units of the scales; None without ties.
    """

    starts: np.ndarray
    scales: np.ndarray
    matrix: np.ndarray | None


class _Equation(NamedTuple):
    """One row of A, what it lacks at the start, b - A x, and what messages call it."""

    coefficients: np.ndarray
    gap: float
    where: str


def residues_of(potential: Potential, topology: Any) -> list[Residue]:
    """The residues of ``openmm.app.Topology``, each kind once; none if the potential has no charges."""
    found = []
    for term in potential.terms:
        if isinstance(term, Nonbonded):
            links = (link.group for link in potential.shared if (link.term, link.column) == (term.name, "charge"))
            path, rows = f"{next(links, term.name)}/charge", np.asarray(term.charge_rows)
            found += [
                Residue(residue.name, path, tuple(sorted(int(rows[atom.index]) for atom in residue.atoms())))
                for residue in topology.residues()
            ]
    return list(dict.fromkeys(found))


def tied(
    found: Sequence[Numbers],
    ties: Sequence[Tie],
    residues: Sequence[Residue],
    leaves: dict[str, np.ndarray],
    starts: np.ndarray,
    scales: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    units: Mapping[str, str] | None = None,
) -> Tied:
    """Fulfil the ties at the start, and find what they leave free.

    Args:
        found: what moves.
        ties: between these numbers.
        residues: of all topologies, for their charges.
        leaves: the parameters by path.
        starts: shape ``(n_numbers,)``.
        scales: shape ``(n_numbers,)``.
        bounds: lowest and highest values, each of shape ``(n_numbers,)``.
        units: of the arrays, by path, as far as they are known.

    Raises:
        InputError: a tie makes no sense, or contradicts others.
    """
    if not ties:
        return Tied(starts, scales, None)
    starts, scales = starts.copy(), scales.copy()
    for number, tie in enumerate(ties):
        if not isinstance(tie, ResidueCharge):
            where = f'parameters.ties[{number}]: "{tie.select}"'
            _check_units(found, _held(found, tie, where), units or {}, where)
    equations = _equal(found, ties, starts, scales, bounds)
    sums: list[_Equation] = []
    for number, tie in enumerate(ties):
        where = f"parameters.ties[{number}]: {tie.in_words()}"
        if isinstance(tie, FixedSum):
            sums.append(_Equation(_held(found, tie, where).astype(float), 0.0, where))
        elif isinstance(tie, ResidueCharge):
            sums += _residue_sums(found, tie, residues, leaves, starts, where)
    limited = np.isfinite(bounds[0]) | np.isfinite(bounds[1])
    for equation in sums:
        if np.any(both := limited & (equation.coefficients != 0.0)):
            raise InputError(
                f"{equation.where}: {_first(found, both)} has bounds and is part of a fixed sum; diffff keeps one of "
                "both. Remove one."
            )
    equations += sums
    matrix = np.array([equation.coefficients for equation in equations]).reshape(-1, len(starts)) * scales
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    starts = starts + scales * _smallest_change(matrix / norms, equations, norms[:, 0])
    return Tied(starts, scales, _kernel(matrix / norms))


def _held(found: Sequence[Numbers], tie: Selection, where: str) -> np.ndarray:
    """Which of the numbers that move a tie holds together, bool ``(n_numbers,)``."""
    parts = []
    for some in found:
        size = int(np.prod(some.shape))
        if some.places is None:
            parts.append(tie.rows(some.path, None, size)[some.index])
        else:
            parts.append(tie.rows(some.path, some.places, len(some.places)))
    held = np.concatenate(parts)
    if held.sum() < 2:
        rows: dict[str, list[Place]] = {}
        for some in found:
            rows.setdefault(some.path, []).extend(some.places or ())
        why = "" if held.any() else " " + hint(tie.select, tie.where, rows, "arrays that move")
        raise InputError(f"{where} holds {int(held.sum())} numbers that move; a tie is between two or more.{why}")
    return held


def _check_units(found: Sequence[Numbers], held: np.ndarray, units: Mapping[str, str], where: str) -> None:
    """Refuse to hold together numbers, bool ``(n_numbers,)``, of different units."""
    paths = np.repeat([some.path for some in found], [len(some.index) for some in found])[held]
    known = {path: units[path] for path in map(str, paths) if path in units}
    if len(set(known.values())) > 1:
        each = ", ".join(f"{path} in {unit or 'no unit'}" for path, unit in known.items())
        raise InputError(f"{where} holds numbers of different units: {each}. Make a tie for each array.")


def _equal(
    found: Sequence[Numbers],
    ties: Sequence[Tie],
    starts: np.ndarray,
    scales: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
) -> list[_Equation]:
    """The equations of equal numbers, ``x_first - x_other = 0``; start and scale become their means."""
    equations, equal = [], np.zeros(len(starts), bool)
    for number, tie in enumerate(ties):
        if not isinstance(tie, Equal):
            continue
        where = f"parameters.ties[{number}]: {tie.in_words()}"
        some = _held(found, tie, where)
        if any(len(np.unique(bound[some])) > 1 for bound in bounds):
            raise InputError(f"{where} keeps numbers equal that have different bounds. Give them the same.")
        if np.any(equal & some):
            raise InputError(
                f"{where} holds {_first(found, equal & some)}, which an earlier tie keeps equal to "
                "others. Make one tie of both."
            )
        equal |= some
        starts[some], scales[some] = starts[some].mean(), scales[some].mean()
        first, *others = np.flatnonzero(some)
        for other in others:
            coefficients = np.zeros(len(starts))
            coefficients[[first, other]] = 1.0, -1.0
            equations.append(_Equation(coefficients, 0.0, where))
    return equations


def _residue_sums(
    found: Sequence[Numbers],
    tie: ResidueCharge,
    residues: Sequence[Residue],
    leaves: dict[str, np.ndarray],
    starts: np.ndarray,
    where: str,
) -> list[_Equation]:
    """The equation of each kind of residue, ``sum n_k q_k`` over charges that move; n_k is how many atoms have one."""
    if not residues:
        raise InputError(f"{where} ties charges, but the potential has none, or no residues were given.")
    chosen = [one for one in dict.fromkeys(residues) if fnmatchcase(one.name, tie.residue)]
    if not chosen:
        names = ", ".join(sorted({one.name for one in residues}))
        raise InputError(f'{where}: no residue is "{tie.residue}"; the topologies have {names}.')
    if not any(fnmatchcase(one.charge_path, tie.select) for one in chosen):
        raise InputError(f"{where} selects no charges; those of the residues are {chosen[0].charge_path}.")
    equations = []
    for residue in chosen:
        if not fnmatchcase(residue.charge_path, tie.select):
            continue
        coefficients, total = _residue_sum(found, residue, leaves, starts)
        gap = round(total) - total
        moves, what = bool(coefficients.any()), f"{where}: residue {residue.name}"
        if abs(gap) > (OFF_INTEGER if moves else _ROUNDING):
            why = f"further than {OFF_INTEGER} e from an integer" if moves else "no integer, and none of them moves"
            raise InputError(
                f"{what} has charges that cannot sum up to an integer: their sum is {total:.6g} e, {why}. Correct them "
                'in the file, or select other residues by "residue".'
            )
        if moves:
            equations.append(_Equation(coefficients, gap, what))
    if not equations:
        raise InputError(f"{where} holds 0 numbers that move; add a rule that lets charges of its residues move.")
    return equations


def _residue_sum(
    found: Sequence[Numbers], residue: Residue, leaves: dict[str, np.ndarray], starts: np.ndarray
) -> tuple[np.ndarray, float]:
    """How often each number that moves is a charge of the residue ``(n_numbers,)``, and all its charge at the start."""
    values = np.ravel(leaves[residue.charge_path]).astype(float)
    atoms = np.bincount(residue.rows, minlength=len(values))
    coefficients, first = np.zeros(len(starts)), 0
    for some in found:
        last = first + len(some.index)
        if some.path == residue.charge_path:
            coefficients[first:last] = atoms[some.index]
            values[some.index] = starts[first:last]
        first = last
    return coefficients, float(atoms @ values)


def _smallest_change(matrix: np.ndarray, equations: Sequence[_Equation], norms: np.ndarray) -> np.ndarray:
    """The change of the start in units of the scales, by which all equations hold."""
    gaps = np.array([equation.gap for equation in equations])
    if not gaps.any():
        return np.zeros(matrix.shape[1])
    change = np.linalg.lstsq(matrix, gaps / norms)[0]
    left = np.abs(matrix @ change * norms - gaps)
    if left.max() > 1e-9:
        worst = equations[int(np.argmax(np.where(gaps != 0.0, left, -1.0)))]
        raise InputError(
            f"{worst.where} has charges that cannot sum up to an integer: the other ties keep them "
            f"{abs(worst.gap):.3g} e from it. Remove one of the ties, or correct the charges in the file."
        )
    return change


def _kernel(matrix: np.ndarray) -> np.ndarray:
    """The directions that change no row, each of numbers that rows connect; numbers in no row keep their own."""
    some = csr_array(matrix != 0.0, dtype=int)
    n_groups, group = connected_components(some.T @ some, directed=False)
    columns = []
    for number in range(n_groups):
        members = group == number
        rows = np.any(matrix[:, members] != 0.0, axis=1)
        directions = null_space(matrix[np.ix_(rows, members)]) if rows.any() else np.eye(1)
        columns.append(np.zeros((matrix.shape[1], directions.shape[1])))
        columns[-1][members] = directions
    free = np.concatenate(columns, axis=1)
    if not free.shape[1]:
        raise InputError("parameters.ties: they leave no number free to move. Remove some.")
    return free


def _first(found: Sequence[Numbers], some: np.ndarray) -> str:
    """The first of some numbers, bool ``(n_numbers,)``, in words."""
    return label_of(found, int(np.argmax(some)))


def label_of(found: Sequence[Numbers], k: int) -> str:
    """The k-th of all numbers that move, in words."""
    for numbers in found:
        if k < len(numbers.index):
            return numbers.label(k)
        k -= len(numbers.index)
    raise IndexError(k)
