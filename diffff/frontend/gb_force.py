"""A CustomGBForce of a System of OpenMM, from its XML."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import NamedTuple, get_args

import numpy as np

from diffff.frontend.custom_force import children, read_tables
from diffff.potentials.custom_gb import Formula, GBLaw, Kind
from diffff.potentials.custom_nonbonded import Method

METHODS: tuple[Method, ...] = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic")
_KINDS: tuple[Kind, ...] = get_args(Kind)


class Reach(NamedTuple):
    """How far a force reaches.

    Attributes:
        method: OpenMM's name.
        cutoff: nm; without meaning for NoCutoff.
    """

    method: Method
    cutoff: float


def reach_of(force: ET.Element) -> Reach:
    """Of a ``<Force>`` that has a method and a cutoff."""
    return Reach(METHODS[int(force.attrib["method"])], float(force.attrib["cutoff"]))


def parameters_of(force: ET.Element) -> tuple[str, ...]:
    """Names of the per-particle parameters."""
    return tuple(child.attrib["name"] for child in children(force, "PerParticleParameters"))


def numbers_of(force: ET.Element) -> np.ndarray:
    """The parameters of all particles, shape ``(n_atoms, n_parameters)``."""
    names = [f"param{i + 1}" for i in range(len(parameters_of(force)))]
    particles = children(force, "Particles")
    found = [[float(particle.attrib[name]) for name in names] for particle in particles]
    return np.array(found, float).reshape(len(particles), len(names))


def exclusions_of(force: ET.Element) -> np.ndarray:
    """The excluded pairs, shape ``(n, 2)``."""
    pairs = [(int(pair.attrib["p1"]), int(pair.attrib["p2"])) for pair in children(force, "Exclusions")]
    return np.array(pairs, np.int32).reshape(-1, 2)


def law_of(
    force: ET.Element, *, respelled: Callable[[str], str] = str, global_parameters: tuple[str, ...] | None = None
) -> GBLaw:
    """Its expressions.

    Args:
        force: the ``<Force>``.
        respelled: changes each expression before it is read.
        global_parameters: names that the changed expressions share; None: those of the force.

    Raises:
        InputError: an expression is malformed or has names without meaning.
    """
    own = tuple(child.attrib["name"] for child in children(force, "GlobalParameters"))

    def formula(element: ET.Element) -> Formula:
        return Formula(respelled(element.attrib["expression"]), _KINDS[int(element.attrib["type"])])

    return GBLaw(
        values=tuple((value.attrib["name"], formula(value)) for value in children(force, "ComputedValues")),
        energies=tuple(formula(term) for term in children(force, "EnergyTerms")),
        parameters=parameters_of(force),
        global_parameters=own if global_parameters is None else global_parameters,
        functions=tuple((name, table) for name, (table, _) in read_tables(force).items()),
    )
