"""What users give in OpenMM's objects, in names or in numbers."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from diffff.errors import InputError

METHODS = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME")
CONSTRAINTS = ("HBonds", "AllBonds", "HAngles")
_OPENMM = {  # our names of the options of a System, and OpenMM's
    "nonbonded_method": "nonbondedMethod",
    "nonbonded_cutoff": "nonbondedCutoff",
    "switch_distance": "switchDistance",
    "ewald_error_tolerance": "ewaldErrorTolerance",
    "use_dispersion_correction": "useDispersionCorrection",
    "constraints": "constraints",
    "rigid_water": "rigidWater",
    "flexible_constraints": "flexibleConstraints",
    "residue_templates": "residueTemplates",
    "ignore_external_bonds": "ignoreExternalBonds",
    "solute_dielectric": "soluteDielectric",
    "solvent_dielectric": "solventDielectric",
    "implicit_solvent_kappa": "implicitSolventKappa",
    "sasa_method": "sasaMethod",
}


def name_of(choice: Any, what: str, known: Sequence[str]) -> str:
    """The name of an object of OpenMM, or a name, if it is one of those known."""
    name = str(choice).rpartition(".")[2]
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise InputError(f"{what} {choice!r} is unknown; give one of {', '.join(known)}. {hint}".rstrip())
    return name


def flag(choice: Any, what: str) -> bool:
    """True or False, and nothing that only looks like it, such as "no".

    Raises:
        InputError: it is neither.
    """
    if not isinstance(choice, bool | np.bool_):
        raise InputError(f"{what} is {choice!r}; give True or False.")
    return bool(choice)


def flag_or_none(choice: Any, what: str) -> bool | None:
    """`flag`, or None.

    Raises:
        InputError: it is none of the three.
    """
    return None if choice is None else flag(choice, what)


def number_of(choice: Any, what: str) -> float:
    """A finite number without a unit.

    Raises:
        InputError: it is none.
    """
    try:
        number = float(choice)
    except (TypeError, ValueError):
        raise InputError(f"{what} is {choice!r}; give a number.") from None
    if not np.isfinite(number):
        raise InputError(f"{what} is {number}; give a finite number.")
    return number


def openmm_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of OpenMM's ``createSystem``, given in its names or in those of `ForceField.create_potential`.

    Methods and constraints may be OpenMM's objects or their names, lengths quantities or numbers in nm.

    Raises:
        InputError: one is given in both names, or its value makes no sense.
    """
    found: dict[str, Any] = {}
    for given, value in options.items():
        if given == "missing":  # OpenMM always skips
            continue
        name = _OPENMM.get(given, given)
        if name in found:
            raise InputError(f"{given} is given twice, under OpenMM's name too. Keep one of them.")
        if name == "nonbondedMethod":
            value = openmm_object(name_of(value, given, METHODS), given, METHODS)
        elif name == "constraints":
            value = openmm_object(value, given, CONSTRAINTS)
        elif name in ("nonbondedCutoff", "switchDistance") and value is not None:
            value = in_nm(value, given) * nanometer()
        elif name == "sasaMethod" and value == "none":
            value = None
        found[name] = value
    return found


def openmm_object(choice: Any, what: str, known: Sequence[str]) -> Any:
    """OpenMM's object of that name, or None."""
    if choice is None or str(choice) == "None":
        return None
    import openmm.app

    return getattr(openmm.app, name_of(choice, what, known))


def in_nm(length: Any, what: str) -> float:
    """A length as a number in nm."""
    from openmm import unit

    if unit.is_quantity(length):
        if not length.unit.is_compatible(nanometer()):
            raise InputError(f"{what} is {length}, which is no length.")
        length = length.value_in_unit(nanometer())
    try:
        number = float(length)
    except (TypeError, ValueError):
        raise InputError(f"{what} is {length!r}; give a number in nm or a quantity, e.g. 1.0 * nanometer.") from None
    if not number > 0.0:
        raise InputError(f"{what} is {number} nm; give a positive length.")
    return number


def templates_of(choice: Any) -> dict[Any, str]:
    """Names of templates by residue; None: none is chosen.

    Raises:
        InputError: it is something else.
    """
    import openmm.app

    if choice is None:
        return {}
    residue = openmm.app.topology.Residue
    if not isinstance(choice, Mapping) or not all(isinstance(key, residue) for key in choice):
        raise InputError("residue_templates must be a dictionary from residues of the topology to names of templates.")
    return dict(choice)


def topology_of(topology: Any) -> Any:
    """An ``openmm.app.Topology``.

    Raises:
        InputError: it is something else, such as a PDBFile.
    """
    import openmm.app

    if not isinstance(topology, openmm.app.Topology):
        raise InputError(
            f"topology is of the type {type(topology).__name__}; give an openmm.app.Topology, such as pdb.topology of "
            'pdb = openmm.app.PDBFile("….pdb").'
        )
    return topology


def box_of(topology: Any) -> np.ndarray | None:
    """The box vectors of a topology, nm, shape ``(3, 3)``.

    Raises:
        InputError: it is no topology, or its box has no volume.
    """
    from openmm import unit

    vectors = topology_of(topology).getPeriodicBoxVectors()
    if vectors is None:
        return None
    try:
        numbers = [[x.value_in_unit(nanometer()) if unit.is_quantity(x) else x for x in row] for row in vectors]
        box = np.array(numbers, float).reshape(3, 3)
    except (TypeError, ValueError):
        raise InputError(f"the topology's box {vectors} is no three vectors of lengths.") from None
    if not (np.isfinite(box).all() and (np.diag(box) > 0.0).all()):
        raise InputError(f"the topology's box is {box.tolist()} nm, which has no volume. Correct or remove it.")
    return box


def nanometer() -> Any:
    """OpenMM's unit."""
    from openmm import unit

    return unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
