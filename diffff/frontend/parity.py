"""A force field here beside the same files in OpenMM: energy and forces by force, and the slopes of some rows.

The slope of a row in OpenMM is a difference quotient over force fields in which that one number was edited:

    dE/dp = (E(p - 2h) - 8 E(p - h) + 8 E(p + h) - E(p + 2h)) / 12 h
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField, Params
from diffff.frontend.reference import Forces, OpenMM, in_nm, openmm_options, periodic_box, safe_platform
from diffff.neighbors import Neighbors, checked, neighbor_list
from diffff.potentials.base import Potential, energy_and_forces

# OpenMM's forces that hold the terms of a group, where they have not the same name.
_IN_OPENMM = {
    "AmoebaUreyBradleyForce": ("HarmonicBondForce",),
    "LennardJonesForce": ("LennardJones", "LennardJones14"),
    "CHARMMHarmonicImpropers": ("CustomTorsionForce",),
    "CHARMMPeriodicImpropers": ("PeriodicTorsionForce",),
}
_WITHOUT_BOX = ("NoCutoff", "CutoffNonPeriodic")
# OpenMM's own accuracy: rounding; its Ewald grids and the integrals of its long-range corrections; single precision.
TOLERANCE, TOLERANCE_PERIODIC, TOLERANCE_SINGLE = 1e-9, 1e-6, 5e-5
_FIXED = re.compile(r"VirtualSites/w[oxy]\d+")  # OpenMM wants sums of 1 and 0, so that none of them moves alone
STENCIL = {-2: 1.0, -1: -8.0, 1: 8.0, 2: -1.0}


@dataclass(frozen=True)
class ForceLine:
    """One force, or several that only make sense together.

    Attributes:
        name: of the force.
        ours: energy, kJ/mol.
        openmm: energy, kJ/mol.
        energy_error: relative, of at least 1 kJ/mol.
        force_error: largest deviation of a component, relative to the largest component of at least 1 kJ/mol/nm.
    """

    name: str
    ours: float
    openmm: float
    energy_error: float
    force_error: float


@dataclass(frozen=True)
class RowLine:
    """One number of the files.

    Attributes:
        name: its column, "tag/column".
        place: where it stands.
        ours: slope of the energy.
        openmm: the same from differences.
        error: of the slope beyond the rounding of the energies, relative to the largest in the column.
    """

    name: str
    place: str
    ours: float
    openmm: float
    error: float


@dataclass(frozen=True)
class Parity:
    """What a comparison found.

    Attributes:
        forces: by force, and "all".
        rows: those that were looked at.
        tolerance: accepted errors of energies and forces.
        row_tolerance: accepted error of slopes.
        platform: of OpenMM.
        remarks: what one should know of the comparison.
    """

    forces: tuple[ForceLine, ...]
    rows: tuple[RowLine, ...]
    tolerance: float
    row_tolerance: float
    platform: str
    remarks: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether no error is above its tolerance; what is not a number never agrees."""
        return not self.misses

    @property
    def misses(self) -> tuple[ForceLine | RowLine, ...]:
        """The lines with an error above tolerance."""
        forces = [x for x in self.forces if not max(x.energy_error, x.force_error, key=_worst) <= self.tolerance]
        return (*forces, *(x for x in self.rows if not x.error <= self.row_tolerance))

    def __str__(self) -> str:
        """Tables of both."""
        head = ("force", "energy, kJ/mol", f"OpenMM {self.platform}", "relative error", "error of forces")
        lines = [
            (f.name, f"{f.ours:.8f}", f"{f.openmm:.8f}", f"{f.energy_error:.1e}", f"{f.force_error:.1e}")
            for f in self.forces
        ]
        parts = [_table([head, *lines])]
        if self.rows:
            head = ("number", "slope", "OpenMM", "relative error", "where")
            lines = [(r.name, f"{r.ours:.8g}", f"{r.openmm:.8g}", f"{r.error:.1e}", r.place) for r in self.rows]
            parts.append(_table([head, *lines], left=(0, 4)))
        parts.extend(self.remarks)
        limits = f"{self.tolerance:.0e} (energies, forces)" + f", {self.row_tolerance:.0e} (slopes)" * bool(self.rows)
        if self.agrees:
            parts.append(f"All within {limits}.")
        else:
            parts.append(f"Not within {limits}: {', '.join(dict.fromkeys(x.name for x in self.misses))}.")
        return "\n\n".join(parts)


def parity(
    files: Sequence[str | PathLike[str]],
    topology: Any,
    positions: np.ndarray,
    *,
    options: Mapping[str, Any] | None = None,
    rows: int = 1,
    tolerance: float | None = None,
    row_tolerance: float = 1e-6,
    platform: str | None = None,
    allow_scripts: bool = False,
) -> Parity:
    """Compare with OpenMM.

    Args:
        files: paths, or names in OpenMM's library.
        topology: ``openmm.app.Topology``.
        positions: shape ``(n_atoms, 3)``, nm; virtual sites may stand anywhere.
        options: keywords of `ForceField.create_potential`.
        rows: how many rows of each column to look at, of those that have an effect; 0 for none.
        tolerance: of energies and forces; by default 1e-9, in periodic boxes 1e-6.
        row_tolerance: of slopes.
        platform: Reference or CPU (single precision); None: Reference where it can be trusted.
        allow_scripts: as for `ForceField`.

    Raises:
        InputError: the files, the topology, the positions or the options are of no use, here or in OpenMM.
    """
    options = dict(options or {})
    positions = _checked(positions, topology)
    periodic = str(options.get("nonbonded_method", "NoCutoff")) not in _WITHOUT_BOX
    box = periodic_box(topology) if periodic else None
    chosen, remarks = (platform, ()) if platform else safe_platform(box, in_nm(options.get("nonbonded_cutoff", 1.0)))
    field = ForceField(*files, allow_scripts=allow_scripts)
    here = _Here.of(field, field.create_potential(topology, **options), positions, box)
    there = OpenMM(topology, positions, openmm_options(options), chosen)
    theirs, real = there.forces(there.of_files(files))
    forces = tuple(_compared(here, theirs, real))
    if tolerance is None:
        tolerance = TOLERANCE_PERIODIC if periodic else TOLERANCE
        tolerance = TOLERANCE_SINGLE if chosen == "CPU" else tolerance
    if rows and chosen == "CPU":
        remarks = (*remarks, "No slopes: differences of single precision energies say nothing.")
    slopes = tuple(_slopes(field, here, there, rows)) if rows and chosen != "CPU" else ()
    return Parity(forces, slopes, tolerance, row_tolerance, chosen, remarks)


@dataclass(frozen=True, eq=False)
class _Here:
    potential: Potential
    params: Params
    positions: jax.Array
    box: jax.Array | None
    neighbors: Neighbors

    @classmethod
    def of(cls, field: ForceField, potential: Potential, positions: np.ndarray, box: np.ndarray | None) -> "_Here":
        params = field.params()
        placed = potential.placed(params, jnp.asarray(positions))
        listed = neighbor_list(np.asarray(placed), box, potential.cutoff)
        return cls(potential, params, placed, None if box is None else jnp.asarray(box), listed)

    def names(self) -> list[str]:
        return list(dict.fromkeys(term.name for term in self.potential.terms))

    def forces(self, groups: Mapping[str, Iterable[str]]) -> Forces:
        """Energy and forces of several sets of terms."""
        parts = {
            label: replace(self.potential, terms=tuple(term for term in self.potential.terms if term.name in names))
            for label, names in groups.items()
        }

        def all_parts(parts: dict[str, Potential], *where: Any) -> dict[str, Any]:
            return {label: energy_and_forces(part, *where) for label, part in parts.items()}

        found = jax.jit(all_parts)(parts, self.params, self.positions, self.box, self.neighbors)
        return {label: (float(found[label][0]), np.asarray(found[label][1])) for label in groups}

    def slopes(self) -> Params:
        found = jax.jit(jax.grad(self.potential.energy))(self.params, self.positions, self.box, self.neighbors)
        return jax.tree.map(np.asarray, found)


def _groups(ours: Iterable[str], theirs: Iterable[str]) -> list[tuple[list[str], list[str]]]:
    """Terms here and forces there that correspond; what has no counterpart by name is compared as one lot."""
    theirs = list(theirs)
    groups: list[tuple[list[str], list[str]]] = []
    rest: tuple[list[str], list[str]] = ([], [])
    for name in ours:
        counterpart = [force for force in _IN_OPENMM.get(name, (name.split("-")[0],)) if force in theirs]
        shared = next((group for group in groups if set(group[1]) & set(counterpart)), None)
        if not counterpart:
            rest[0].append(name)
        elif shared is None:
            groups.append(([name], counterpart))
        else:
            shared[0].append(name)
            shared[1].extend(force for force in counterpart if force not in shared[1])
    taken = {force for group in groups for force in group[1]}
    rest[1].extend(force for force in theirs if force not in taken)
    return [*groups, rest]


def _compared(here: _Here, theirs: Forces, real: np.ndarray) -> Iterable[ForceLine]:
    silent = {name for name, (energy, forces) in theirs.items() if energy == 0.0 and not np.any(forces)}
    groups = _groups(here.names(), theirs)
    pairs = {}
    for ours, there in groups:
        label = " + ".join(dict.fromkeys(ours)) or " + ".join(there)
        if ours or not set(there) <= silent:
            pairs[label] = (ours, there)
    found = here.forces({label: ours for label, (ours, _) in pairs.items()})
    lines = [(label, found[label], [theirs[name] for name in names]) for label, (_, names) in pairs.items()]
    nothing = (0.0, np.zeros((len(real), 3)))
    for label, ours, there in [*lines, ("all", _sum(found.values(), nothing), list(theirs.values()))]:
        energy, forces = ours
        expected, expected_forces = _sum(there, nothing)
        yield ForceLine(
            label,
            energy,
            expected,
            abs(energy - expected) / max(abs(expected), 1.0),
            _largest(forces[real] - expected_forces[real]) / max(_largest(expected_forces[real]), 1.0),
        )


def _sum(parts: Iterable[tuple[float, np.ndarray]], total: tuple[float, np.ndarray]) -> tuple[float, np.ndarray]:
    for energy, forces in parts:
        total = (total[0] + energy, total[1] + forces)
    return total


def _slopes(field: ForceField, here: _Here, there: OpenMM, n_rows: int) -> Iterable[RowLine]:
    places = field.rows
    for tag, group in here.slopes().items():
        for column, slopes in group.items():
            flat = np.atleast_1d(slopes)
            largest = _largest(flat)
            used = np.flatnonzero(np.abs(flat) > 1e-6 * largest)
            name = f"{tag}/{column}"
            if name not in places or _FIXED.fullmatch(name):
                continue
            for i in used[np.linspace(0, len(used) - 1, min(n_rows, len(used))).round().astype(int)]:
                numeric, rounding = _difference(field, there, here.params, tag, column, i)
                error = np.maximum(abs(flat[i] - numeric) - rounding, 0.0) / largest
                yield RowLine(name, str(places[name][i]), float(flat[i]), numeric, float(error))


def _difference(field: ForceField, there: OpenMM, params: Params, tag: str, column: str, i: int) -> tuple[float, float]:
    """Slope from energies of edited files, and how uncertain the rounding of these energies makes it."""
    values = np.asarray(params[tag][column])
    value = float(values.flat[i])
    step = 1e-3 * abs(value) or 1e-4  # what is positive stays so
    energies = {}
    for n in STENCIL:
        moved = values.copy()
        moved.flat[i] = value + n * step
        energies[n] = there.energies(there.of_params(field, {**params, tag: {**params[tag], column: moved}}))
    slope = sum((weight * energies[n] for n, weight in STENCIL.items()), np.zeros(())) / (12.0 * step)
    changed = np.abs(energies[1][slope != 0.0])
    return float(np.sum(slope)), 4.0 * np.finfo(float).eps * float(np.sum(changed)) / step


def _checked(positions: np.ndarray, topology: Any) -> np.ndarray:
    positions = np.asarray(positions, float)
    if positions.shape != (topology.getNumAtoms(), 3):
        raise InputError(f"positions have the shape {positions.shape} for {topology.getNumAtoms()} atoms.")
    checked(positions, None)
    return positions


def _largest(values: np.ndarray) -> float:
    return float(np.max(np.abs(values), initial=0.0))


def _worst(value: float) -> float:
    return float("inf") if np.isnan(value) else value


def _table(lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Lines of words in columns, aligned at the right but for some."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            word.ljust(width) if i in left else word.rjust(width)
            for i, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
