"""`from_openmm`: a System of OpenMM as an energy function, with one row of parameters for each interaction.

Systems come from any builder (prmtop, psf, gro, SMIRNOFF, a script), or from their XML. Constraints have no energy,
virtual sites are placed inside of the energy.
"""

import copy
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any
from xml.parsers import expat

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.sites import site_columns, virtual_sites
from diffff.frontend.system_custom import CUSTOM
from diffff.frontend.system_forces import PLAIN, WITHOUT_ENERGY, Numbers, Owners, box_of
from diffff.frontend.xml import format_number
from diffff.potentials.base import Potential, Shared, Term
from diffff.potentials.virtual_sites import GROUP

Params = dict[str, dict[str, Any]]
_READERS = {**PLAIN, **CUSTOM}
_MAX_DEPTH = 32  # elements inside each other; OpenMM's Systems have 7


@dataclass(frozen=True, eq=False)
class SystemModel:
    """What `from_openmm` makes of a System.

    Attributes:
        potential: its energy.
        params: its numbers, ``{force: {column: (n_rows,)}}``, in OpenMM's units (nm, kJ/mol, rad, e).
        atoms: by ``"force/column"``, the atoms of each row, ``(n_rows, k)``; for columns whose numbers belong to atoms.
        box: its default box, shape ``(3, 3)``, nm; None if nothing in it is periodic.
    """

    potential: Potential
    params: Params
    atoms: dict[str, np.ndarray]
    box: np.ndarray | None
    _columns: dict[str, dict[str, Numbers]] = field(repr=False)
    _system: ET.Element = field(repr=False)

    def create_system(self, params: Mapping[str, Mapping[str, Any]]) -> Any:
        """The ``openmm.System`` with other numbers; numbers that nobody touched stay as they were to the last bit.

        Args:
            params: a tree like `params`; groups of other potentials are passed over.

        Raises:
            InputError: a column is missing, has another shape, or a number that is not finite.
        """
        import openmm

        copied = copy.deepcopy(self._system)
        twins = dict(zip(map(id, self._system.iter()), copied.iter(), strict=True))
        for name, group in self._columns.items():
            for column, place in group.items():
                values, changed = _values(f"{name}/{column}", place, params.get(name, {}).get(column))
                for i in np.flatnonzero(changed[place.rows]).tolist():
                    value = format_number(None, values[place.rows[i]])
                    twins[id(place.elements[i])].set(place.attribute, value)
        return openmm.XmlSerializer.deserialize(ET.tostring(copied, encoding="unicode"))


def from_openmm(system: Any) -> SystemModel:
    """An OpenMM System as a potential.

    Several forces of one type are several groups: ``HarmonicBondForce``, ``HarmonicBondForce-2``, …. What the rows of a
    force are stands in docs/forcefield.md.

    Args:
        system: ``openmm.System``, its XML, or the path of a file with it.

    Example:
        >>> import openmm
        >>> system = openmm.System()
        >>> [system.addParticle(1.0), system.addParticle(1.0)]
        [0, 1]
        >>> spring = openmm.HarmonicBondForce()
        >>> spring.addBond(0, 1, 0.1, 1000.0), system.addForce(spring)
        (0, 0)
        >>> model = from_openmm(system)
        >>> print(model.params["HarmonicBondForce"]["k"], model.atoms["HarmonicBondForce/k"])
        [1000.] [[0 1]]

    Raises:
        InputError: the System has a force, or an option of one, that diffff does not have; or a file is none of a
            System.
    """
    root = _read(system)
    numbers: Counter[str] = Counter()
    columns: dict[str, dict[str, Numbers]] = {}
    terms: list[Term] = []
    shared: list[Shared] = []
    owners: Owners = {}
    for force in root.iterfind("Forces/Force"):
        kind = force.attrib["type"]
        if kind in WITHOUT_ENERGY:
            continue
        numbers[kind] += 1
        name = kind if numbers[kind] == 1 else f"{kind}-{numbers[kind]}"
        found = _READERS[kind](force, name, root, owners)
        columns[name] = found.columns
        terms += found.terms
        shared += found.shared
    for parameter, (owner, place) in owners.items():
        columns[owner][parameter] = place  # with all its elements
    sites = virtual_sites(root)
    if sites is not None:
        columns[GROUP] = site_columns(root)
    return SystemModel(
        potential=Potential(
            terms=tuple(terms),
            sites=() if sites is None else (sites,),
            shared=tuple(shared),
            shapes=tuple(
                (name, column, place.initial.shape)
                for name, group in columns.items()
                for column, place in group.items()
            ),
            n_atoms=len(root.findall("Particles/Particle")),
        ),
        params={
            name: {column: jnp.asarray(place.initial) for column, place in group.items()}
            for name, group in columns.items()
        },
        atoms={
            f"{name}/{column}": place.atoms
            for name, group in columns.items()
            for column, place in group.items()
            if place.atoms.shape[1]
        },
        box=box_of(root) if _is_periodic(root) else None,
        _columns=columns,
        _system=root,
    )


def _is_periodic(root: ET.Element) -> bool:
    return any(
        force.get("usesPeriodic") == "1" or int(force.get("method", "0")) >= 2
        for force in root.iterfind("Forces/Force")
    )


def _values(path: str, place: Numbers, given: Any) -> tuple[np.ndarray, np.ndarray]:
    """The new numbers of a column, shape ``(n_rows,)``, and which of them differ from those of the System.

    As in `diffff.frontend.rows.changes`, the old ones are rounded to the precision of the new ones before.

    Raises:
        InputError: see `SystemModel.create_system`.
    """
    if given is None:
        raise InputError(f"params lacks {path}; change a copy of the tree of the model.")
    values, initial = np.asarray(given), place.initial
    if values.shape != initial.shape:
        raise InputError(f"{path} has the shape {values.shape}, but the System's is {initial.shape}.")
    values = np.atleast_1d(values if values.dtype.kind == "f" else values.astype(np.float64))
    with np.errstate(over="ignore"):
        changed = np.atleast_1d(initial).astype(values.dtype) != values
    if not (finite := np.isfinite(values)).all():
        row = int(np.flatnonzero(~finite)[0])
        raise InputError(f"{path} has {values[row]} in row {row}, which no System can hold. Did the fit diverge?")
    return values, changed


# ------------------------------------------------------------------ reading
def _read(system: Any) -> ET.Element:
    """The XML of a System, as this version of OpenMM spells it."""
    import openmm

    if not isinstance(system, openmm.System):
        text, where = _text(system)
        tree = _safe_tree(text, where)
        _require_known((force.get("type", "") for force in tree.iterfind("Forces/Force")), where)
        try:  # with what was looked at, and nothing else
            system = openmm.XmlSerializer.deserialize(ET.tostring(tree, encoding="unicode"))
        except Exception as error:  # OpenMM raises all kinds
            raise InputError(f"{where}: OpenMM cannot read it as a System: {error}") from error
    else:
        _require_known((type(force).__name__ for force in system.getForces()), "the System")
    return ET.fromstring(openmm.XmlSerializer.serialize(system))


def _text(source: Any) -> tuple[str, str]:
    """The text of an XML string or file, and what to call it."""
    if isinstance(source, str) and source.lstrip().startswith("<"):
        return source.lstrip(), "the XML of the System"
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"from_openmm takes an openmm.System, its XML or the path of a file, not {type(source).__name__}."
        )
    try:
        return Path(source).read_text(encoding="utf-8"), str(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error}). Give a System's XML file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: is no text in UTF-8. Give a System's XML file.") from error


def _safe_tree(text: str, where: str) -> ET.Element:
    """A tree without entities of its own and without absurd depth.

    Raises:
        InputError: it has them, or is no well-formed ``<System>``.
    """
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise InputError(f"{where}: more than {_MAX_DEPTH} elements inside each other; this is no System.")
        if depth == 1 and tag != "System":
            raise InputError(f"{where}: begins with <{tag}>; a System is one <System> … </System>.")

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: Any) -> None:
        raise InputError(f"{where}: <!DOCTYPE …> and its entities are not read. Remove it.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise InputError(f"{where}: not well-formed XML ({error}). Correct it there.") from None
    return ET.fromstring(text)


def _require_known(kinds: Iterable[str], where: str) -> None:
    """Refuse other forces before OpenMM reads them: a PythonForce in a file would run code.

    Raises:
        InputError: names the first of them.
    """
    for i, kind in enumerate(kinds):
        if kind not in _READERS and kind not in WITHOUT_ENERGY:
            raise InputError(
                f"{where}: force {i} is a {kind}, which diffff does not have. Remove it, or add its energy otherwise."
            )
