"""`dff md input.json`: from the input to a run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from diffff.errors import InputError
from diffff.files import in_place_of
from diffff.input_file import resolve, write_completed
from diffff.md.calculator import Calculator
from diffff.md.constraints import Constraints, constraints_of
from diffff.md.input import Input, Minimize, SystemInput, read_input
from diffff.md.minimize import minimize
from diffff.md.simulate import simulate
from diffff.md.state import State
from diffff.model_input import Bound, model_of
from diffff.structure import Structure, read

logger = logging.getLogger(__name__)


def md(path: Path, *, restart: bool = False, overwrite: bool = False, output: Path | None = None) -> State:
    """Run the molecular dynamics that an input file describes.

    Args:
        path: of the file, .json or .yaml; what it names is looked for in the current directory, then beside it.
        restart: go on from the checkpoint, as if the run had not been interrupted.
        overwrite: begin anew where an earlier run has left its checkpoint.
        output: where the completed input goes; None: nowhere.

    Returns:
        The state after the last step.

    Raises:
        InputError: something in the input, in the files that it names or in the run is wrong.
    """
    given = read_input(path)
    _check_files(given, path, restart, overwrite)
    if output is not None:
        write_completed(given, output)
    model = model_of(given.model)
    sites = [_found(file, path) for file in model.extra_particles]
    structure = _structure(given.system, path, sites)
    bound = model.bound(structure, path.parent)
    others = [model_of(other).bound(structure, path.parent) for other in given.committee]
    masses = _masses(structure, bound, given.system.masses or {})
    constraints = None if bound.system is None else constraints_of(bound.system)
    positions = structure.positions
    if given.minimize is not None and not restart:
        calculator = Calculator(bound.potential, bound.params, skin=given.run.skin, dtype=given.run.dtype)
        positions = _minimized(given.minimize, calculator, structure, constraints)
    _introduce(given, structure, masses, constraints)
    return simulate(
        bound.potential,
        bound.params,
        positions,
        structure.box,
        masses,
        given.integrator,
        given.run.n_steps,
        barostat=given.barostat,
        molecules=structure.molecules() if bound.system is not None else None,
        atoms=structure.topology or structure.symbols,
        constraints=constraints,
        temperature=given.run.temperature,
        seed=given.run.seed,
        n_replicas=given.run.n_replicas,
        dtype=given.run.dtype,
        skin=given.run.skin,
        committee=[(other.potential, other.params) for other in others],
        outputs=given.output.made(deviates=bool(others)),
        restart=restart,
    )


def _check_files(given: Input, path: Path, restart: bool, overwrite: bool) -> None:
    """Neither an earlier run nor an input is lost by a slip, and outputs can be written."""
    checkpoint, outputs = Path(given.output.checkpoint), given.output.made(deviates=bool(given.committee))
    outputs.check(len(given.committee))
    if taken := in_place_of(outputs.schedule, [path, Path(_found(given.system.structure, path))]):
        raise InputError(f"{taken}: is read as an input, and would be overwritten as an output. Name another file.")
    if restart and not checkpoint.exists():
        raise InputError(f"{checkpoint}: there is no such checkpoint to go on from. Begin the run without --restart.")
    if checkpoint.exists() and not (restart or overwrite):
        raise InputError(
            f"{checkpoint}: an earlier run has left this checkpoint. Go on from it with --restart, begin anew with "
            f"--overwrite, or name other files in the section output of {path}."
        )


def _found(name: str, path: Path) -> str:
    return resolve(name, path.parent) or name


def _structure(given: SystemInput, path: Path, sites: Sequence[str]) -> Structure:
    """The atoms in their box, molecules in one piece."""
    structure = read(_found(given.structure, path), frame=given.frame, extra_particles=sites)
    if not len(structure.positions):
        raise InputError(f"{given.structure}: there are no atoms in it.")
    if not given.periodic:
        structure = structure.with_box(None)
    elif given.box is not None:
        box = np.array(given.box, float)
        structure = structure.with_box(np.diag(box) if box.ndim == 1 else box)
    return structure.whole()


def _masses(structure: Structure, bound: Bound, given: Mapping[str, float]) -> np.ndarray:
    """Masses of all atoms, amu: as given, else of the force field, else of the elements."""
    if unknown := sorted(set(given) - {str(symbol) for symbol in structure.symbols}):
        raise InputError(f"$.system.masses: there is no {unknown[0]} in the structure.")
    masses = []
    for atom, symbol in enumerate(structure.symbols):
        if symbol is not None and symbol in given:
            masses.append(given[symbol])
        elif bound.system is not None:
            masses.append(bound.system.getParticleMass(atom)._value)
        else:
            masses.append(_mass_of(str(symbol)))
    return np.array(masses, float)


def _mass_of(symbol: str) -> float:
    try:
        return app.Element.getBySymbol(symbol).mass._value
    except KeyError:
        raise InputError(f'{symbol} is no element; give its mass in $.system.masses, {{"{symbol}": …}}.') from None


def _minimized(
    given: Minimize, calculator: Calculator, structure: Structure, constraints: Constraints | None
) -> np.ndarray:
    found = minimize(
        calculator,
        structure.positions,
        box=structure.box,
        method=given.method,
        tolerance=given.tolerance,
        max_steps=given.max_steps,
        constraints=constraints,
    )
    logger.info(
        "minimised in %d steps: energy %.6g kJ/mol, largest force %.4g kJ/mol/nm%s",
        *(found.n_steps, found.energy, found.largest_force),
        "" if found.converged else f", not below {given.tolerance:g}",
    )
    return found.positions


def _introduce(given: Input, structure: Structure, masses: np.ndarray, constraints: Constraints | None) -> None:
    """Say what is run."""
    kinds: dict[Any, int] = {}
    for symbol in structure.symbols:
        kinds[symbol or "site"] = kinds.get(symbol or "site", 0) + 1
    formula = " ".join(f"{symbol}{number}" for symbol, number in sorted(kinds.items()))
    box = "no box" if structure.box is None else f"a box of {abs(np.linalg.det(structure.box)):.4g} nm^3"
    kept = "" if constraints is None else f", {constraints.n_constraints} constraints"
    logger.info(
        "%d atoms (%s), %.6g amu, in %s%s; %d steps of %g ps, %s, %s",
        *(len(masses), formula, masses.sum(), box, kept, given.run.n_steps, given.integrator.time_step),
        *(given.integrator.type, given.run.dtype),
    )
