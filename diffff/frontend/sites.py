"""Virtual sites: those of a System of OpenMM, and the ``<VirtualSite>`` rows of a force field behind them."""

import re
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.group import Options, Parameters, Rows
from diffff.frontend.rows import Column
from diffff.frontend.system_forces import Numbers, column_of
from diffff.frontend.trace import Trace
from diffff.frontend.xml import Document, Key
from diffff.frontend.xml_tree import Element
from diffff.potentials.base import Term
from diffff.potentials.virtual_sites import GROUP, VirtualSites

_KINDS = {  # in the XML of a System
    "TwoParticleAverageSite": "average",
    "ThreeParticleAverageSite": "average",
    "OutOfPlaneSite": "plane",
    "LocalCoordinatesSite": "local",
}
_NAMES = {  # of an attribute there, beside what it is called in a force field
    **{f"w{i}": f"weight{i}" for i in (1, 2, 3)},
    "w12": "weight12",
    "w13": "weight13",
    "wc": "weightCross",
    **{f"pos{i}": f"p{i}" for i in (1, 2, 3)},
}
_COUNTED = re.compile(r"weight(12|1|2|3)|wo\d+")  # whose rows tell those of all numbers of a site
_UNITS = {"weightCross": "1/nm", "p1": "nm", "p2": "nm", "p3": "nm"}


# ------------------------------------------------------------------ rows of a force field
@dataclass(frozen=True, eq=False)
class VirtualSiteRows:
    """All ``<VirtualSite>`` of a force field, a group without a term.

    Attributes:
        parameters: a column for each attribute that is a number.
        elements: the rows.
        rows: of each, its rows in its columns; see `VirtualSites`.
    """

    parameters: Parameters
    elements: Sequence[Element]
    rows: Sequence[Sequence[int]]
    name: str = GROUP

    @classmethod
    def read(cls, documents: Iterable[Document]) -> "list[VirtualSiteRows]":
        """Those of all files; none if there are none.

        Raises:
            InputError: a number is missing, or is none.
        """
        found = [
            (document, site)
            for document in documents
            for section in ("Residues", "Patches")
            for group in document.root.find_all(section)
            for template in group.children
            for site in template.find_all("VirtualSite")
        ]
        if not found:
            return []
        columns: dict[str, Rows] = defaultdict(list)
        for document, site in found:
            for name in _columns_of_row(site):
                columns[name].append((document, site))
        parameters = Parameters(
            {name: Column.of_attribute(rows, name) for name, rows in columns.items()},
            {name: _UNITS.get(name, "1") for name in columns},
        )
        elements = [site for _, site in found]
        return [cls(parameters, elements, _rows(map(_columns_of_row, elements)))]

    def marks(self) -> dict[tuple[Element, Key], str]:
        """See `Group`. One number of each site is enough."""
        return {(site, _columns_of_row(site)[0]): str(i + 1) for i, site in enumerate(self.elements)}

    def terms(self, trace: Trace, options: Options) -> list[Term]:
        """None: sites are placed before any term sees the positions."""
        return []

    def sites(self, trace: Trace) -> VirtualSites | None:
        """The sites of a topology; None if it has none."""
        return virtual_sites(trace.system, {particle: self.rows[row] for particle, row in trace.sites.tolist()})


def _columns_of_row(site: Element) -> list[str]:
    """The attributes that OpenMM reads as numbers, a number that may be anything first."""
    kind = site.attributes["type"]
    if kind == "outOfPlane":
        return ["weight12", "weight13", "weightCross"]
    if kind in ("average2", "average3"):
        return [f"weight{i + 1}" for i in range(int(kind[-1]))]
    n_atoms = next(i for i in range(len(site.attributes) + 1) if f"wo{i + 1}" not in site.attributes)
    return ["p1", "p2", "p3", *(f"{name}{i + 1}" for name in ("wo", "wx", "wy") for i in range(n_atoms))]


def _rows(columns: Iterable[Iterable[str]]) -> list[list[int]]:
    """The rows of sites that have numbers in some columns; see `VirtualSites`."""
    taken: Counter[str] = Counter()
    found = []
    for of_site in columns:
        counted = [column for column in of_site if _COUNTED.fullmatch(column)]
        found.append([taken[column] for column in counted])
        taken.update(counted)
    return found


# ------------------------------------------------------------------ sites of a System
def virtual_sites(system: ET.Element, rows: Mapping[int, Sequence[int]] | None = None) -> VirtualSites | None:
    """The sites of a System's XML; None if it has none.

    Args:
        system: its XML.
        rows: of each site, its rows in the parameters; None: each has rows of its own, as in `site_columns`.

    Raises:
        InputError: a kind of site that diffff does not have, or a site that is defined by another site.
    """
    found = _sites_of(system)
    if not found:
        return None
    atoms = {i: [int(text) for name, text in site.attrib.items() if re.fullmatch(r"p\d+", name)] for i, site in found}
    if nested := [index for index in atoms if set(atoms) & set(atoms[index])]:
        raise InputError(f"particle {nested[0]} is a virtual site defined by another virtual site; diffff has no such.")
    if rows is None:
        rows = dict(zip(atoms, _rows(_columns_of_site(site) for _, site in found), strict=True))
    of_kind = {kind: [i for i, site in found if _KINDS[site.tag] == kind] for kind in ("average", "plane", "local")}
    return VirtualSites(
        **{kind: jnp.array(members, jnp.int32) for kind, members in of_kind.items()},
        **{f"{kind}_atoms": _table([atoms[i] for i in members], 0) for kind, members in of_kind.items()},
        average_rows=_table([rows[i] for i in of_kind["average"]], -1),
        plane_rows=jnp.array([rows[i][0] for i in of_kind["plane"]], jnp.int32),
        local_rows=_table([rows[i] for i in of_kind["local"]], -1),
    )


def site_columns(system: ET.Element) -> dict[str, Numbers]:
    """The numbers of all sites of a System, one row for each site that has such a number."""
    columns: dict[str, list[tuple[int, ET.Element, str]]] = defaultdict(list)
    for index, site in _sites_of(system):
        for column, attribute in _columns_of_site(site).items():
            columns[column].append((index, site, attribute))
    return {
        column: column_of([site for _, site, _ in found], found[0][2], np.array([[index] for index, _, _ in found]))
        for column, found in columns.items()
    }


def _sites_of(system: ET.Element) -> list[tuple[int, ET.Element]]:
    found = [(i, site) for i, particle in enumerate(system.iterfind("Particles/Particle")) for site in particle]
    for index, site in found:
        if site.tag not in _KINDS:
            raise InputError(f"particle {index} is a virtual site of the kind {site.tag}, which diffff does not have.")
    return found


def _columns_of_site(site: ET.Element) -> dict[str, str]:
    """The columns of a site, and the attributes that hold their numbers."""
    numbers = [name for name in site.attrib if re.fullmatch(r"w.*|pos\d", name)]
    return {_NAMES.get(name, name): name for name in numbers}


def _table(rows: Sequence[Sequence[int]], filler: int) -> jnp.ndarray:
    table = np.full((len(rows), max([1, *map(len, rows)])), filler, np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return jnp.asarray(table)
