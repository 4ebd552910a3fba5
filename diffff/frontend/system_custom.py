"""The custom forces of a System of OpenMM as terms: energies that are expressions."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.custom_force import CustomForce, Picked, children, read_tables
from diffff.frontend.gb_force import exclusions_of, law_of, parameters_of, reach_of
from diffff.frontend.system_forces import Found, Numbers, Owners, Reader, column_of
from diffff.potentials.base import Shared, Term
from diffff.potentials.custom_gb import custom_gb
from diffff.potentials.tabulated import Discrete


def _custom(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    custom = CustomForce.read(force)
    rows = np.arange(len(custom.items))
    if _corrected(custom):  # which runs over pairs of rows
        _, rows = np.unique(custom.numbers(), axis=0, return_inverse=True)
        rows = rows.ravel()
    first = np.unique(rows, return_index=True)[1]
    columns = {
        parameter: Numbers(custom.items, f"param{i + 1}", rows, custom.atoms[first])
        for i, parameter in enumerate(custom.parameters)
    }
    shared = _constants(custom.global_parameters, name, columns, owners)
    columns |= {function: column_of(values, "v") for function, (_, values) in custom.tables.items()}
    groups = children(force, "InteractionGroups")
    if groups:
        return Found(columns, [_in_groups(custom, name, groups)], shared)
    return Found(columns, [custom.term(name, custom.law(), rows)], shared)


def _constants(
    elements: Mapping[str, ET.Element], name: str, columns: dict[str, Numbers], owners: Owners
) -> list[Shared]:
    """Enters the global parameters of a force into its columns; those that another force has are shared with it."""
    owner = {parameter: _owner(parameter, element, name, owners) for parameter, element in elements.items()}
    columns |= {parameter: owners[parameter][1] for parameter in elements if owner[parameter] == name}
    return [Shared(name, parameter, owner[parameter]) for parameter in elements if owner[parameter] != name]


def _owner(parameter: str, element: ET.Element, name: str, owners: Owners) -> str:
    """The group of a global parameter, which takes the element into its place."""
    if parameter not in owners:
        owners[parameter] = name, Numbers([], "default", np.zeros(0, int), np.zeros((1, 0), np.int32), single=True)
    owner, place = owners[parameter]
    if place.elements and float(place.elements[0].attrib["default"]) != float(element.attrib["default"]):
        raise InputError(
            f"{name}: its global parameter {parameter!r} is {element.attrib['default']}, but {owner} says "
            f"{place.elements[0].attrib['default']}. OpenMM knows one value of it; make them equal."
        )
    elements = [*place.elements, element]
    owners[parameter] = owner, replace(place, elements=elements, rows=np.zeros(len(elements), int))
    return owner


def _corrected(custom: CustomForce) -> bool:
    """Whether there is a correction for what is beyond the cutoff."""
    return custom.of_pairs and custom.range.long_range_correction and custom.range.method == "CutoffPeriodic"


def _in_groups(custom: CustomForce, name: str, groups: Sequence[ET.Element]) -> Term:
    """A force between groups of particles: the energy of all pairs, times the number of groups in which a pair is.

    Each particle has the number of its kind, particles of the same groups being of one; the numbers of groups are a
    table over the kinds.
    """
    if _corrected(custom):
        raise InputError(f"{name}: diffff has no long-range correction of interaction groups. Switch it off.")
    member = np.zeros((len(custom.items), 2, len(groups)), bool)
    for g, group in enumerate(groups):
        for side in (0, 1):
            member[[int(x.attrib["index"]) for x in children(group, f"Set{side + 1}")], side, g] = True
    kinds, kind = np.unique(member.reshape(len(member), -1), axis=0, return_inverse=True)
    kinds = kinds.reshape(-1, 2, len(groups))
    meet = (kinds[:, None, 0] & kinds[None, :, 1]) | (kinds[:, None, 1] & kinds[None, :, 0])
    energy, _, definitions = custom.element.attrib["energy"].partition(";")
    times = "_groups(_kind1,_kind2)"
    grouped = replace(
        custom,
        parameters=(*custom.parameters, "_kind"),
        tables={**custom.tables, "_groups": (Discrete(sizes=(len(kinds), len(kinds))), [])},
    )
    law = grouped.law(f"select({times},{times}*({energy}),0);{definitions}")
    constants = {"_kind": jnp.asarray(kind.ravel()), "_groups": jnp.asarray(meet.sum(axis=-1).ravel())}
    return Picked(term=grouped.term(name, law, np.arange(len(kind.ravel()))), rows={}, constants=constants)


def _gb(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    particles, reach = children(force, "Particles"), reach_of(force)
    rows = np.arange(len(particles))
    columns = {
        parameter: column_of(particles, f"param{i + 1}", rows[:, None])
        for i, parameter in enumerate(parameters_of(force))
    }
    constants = {child.attrib["name"]: child for child in children(force, "GlobalParameters")}
    shared = _constants(constants, name, columns, owners)
    columns |= {function: column_of(values, "v") for function, (_, values) in read_tables(force).items()}
    term = custom_gb(
        law=law_of(force),
        rows=rows,
        excluded=exclusions_of(force),
        method=reach.method,
        cutoff=reach.cutoff,
        name=name,
    )
    return Found(columns, [term], shared)


CUSTOM: dict[str, Reader] = {
    "CustomBondForce": _custom,
    "CustomAngleForce": _custom,
    "CustomTorsionForce": _custom,
    "CustomNonbondedForce": _custom,
    "CustomGBForce": _gb,
}
