"""What users give in OpenMM's objects, in names or in numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffff.errors import InputError


def name_of(choice: Any, what: str, known: Sequence[str]) -> str:
    """The name of an object of OpenMM, or a name, if it is one of those known."""
    name = str(choice).rpartition(".")[2]
    if name not in known:
        raise InputError(f"{what} {choice!r} is unknown; give one of {', '.join(known)}.")
    return name


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
    number = float(length)
    if not number > 0.0:
        raise InputError(f"{what} is {number} nm; give a positive length.")
    return number


def box_of(topology: Any) -> np.ndarray | None:
    """The box vectors of a topology, nm, shape ``(3, 3)``."""
    vectors = topology.getPeriodicBoxVectors()
    return None if vectors is None else np.array(vectors.value_in_unit(nanometer()), float)


def nanometer() -> Any:
    """OpenMM's unit."""
    from openmm import unit

    return unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
