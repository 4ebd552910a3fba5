"""The forces of a System of OpenMM as terms, each with the place of its numbers in the System's XML."""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.custom_force import children
from diffff.frontend.gb_force import reach_of
from diffff.potentials.base import Shared, Term
from diffff.potentials.bonded import HarmonicAngle, HarmonicBond
from diffff.potentials.cmap import CMAPTorsion
from diffff.potentials.gbsa import gbsa_obc
from diffff.potentials.lcpo import LCPO
from diffff.potentials.nonbonded import Method
from diffff.potentials.nonbonded_setup import nonbonded
from diffff.potentials.torsions import PeriodicTorsion, RBTorsion

WITHOUT_ENERGY = (
    "AndersenThermostat",
    "CMMotionRemover",
    "MonteCarloAnisotropicBarostat",
    "MonteCarloBarostat",
    "MonteCarloFlexibleBarostat",
    "MonteCarloMembraneBarostat",
)
_METHODS: tuple[Method, ...] = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME")


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column of parameters: one attribute of some elements of a System's XML.

    Attributes:
        elements: each holds a number.
        attribute: its name there.
        rows: shape ``(n_elements,)``, which number of the column it is; elements of one row have the same.
        atoms: shape ``(n_rows, k)``, the atoms of each row, of the first of its elements; k = 0 if it is of none.
        single: whether the column is one number, an array of shape ``()``.
    """

    elements: Sequence[ET.Element]
    attribute: str
    rows: np.ndarray
    atoms: np.ndarray
    single: bool = False

    @property
    def initial(self) -> np.ndarray:
        """The numbers, shape ``(n_rows,)`` or ``()``."""
        values = np.zeros(len(self.atoms))
        values[self.rows] = [float(element.attrib[self.attribute]) for element in self.elements]
        return values[0] if self.single else values


@dataclass(frozen=True, eq=False)
class Found:
    """A force: its columns and terms."""

    columns: dict[str, Numbers]
    terms: list[Term] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)


Owners = dict[str, tuple[str, Numbers]]  # group and place of each global parameter
Reader = Callable[[ET.Element, str, ET.Element, Owners], Found]  # force, name, System, owners


def column_of(elements: Sequence[ET.Element], attribute: str, atoms: np.ndarray | None = None) -> Numbers:
    """One row for each element."""
    atoms = np.zeros((len(elements), 0), np.int32) if atoms is None else atoms
    return Numbers(elements, attribute, np.arange(len(elements)), atoms)


def _integers(items: Sequence[ET.Element], names: Sequence[str]) -> np.ndarray:
    return np.array([[int(x.attrib[name]) for name in names] for x in items], np.int32).reshape(len(items), len(names))


def _periodic(force: ET.Element) -> bool:
    return force.get("usesPeriodic") == "1"


# ------------------------------------------------------------------ bonded forces
def _bonds(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    items = children(force, "Bonds")
    atoms, rows = _integers(items, ["p1", "p2"]), jnp.arange(len(items))
    term = HarmonicBond(atoms=jnp.asarray(atoms), rows=rows, periodic=_periodic(force), name=name)
    return Found({"length": column_of(items, "d", atoms), "k": column_of(items, "k", atoms)}, [term])


def _angles(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    items = children(force, "Angles")
    atoms, rows = _integers(items, ["p1", "p2", "p3"]), jnp.arange(len(items))
    term = HarmonicAngle(atoms=jnp.asarray(atoms), rows=rows, periodic=_periodic(force), name=name)
    return Found({"angle": column_of(items, "a", atoms), "k": column_of(items, "k", atoms)}, [term])


def _periodic_torsions(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    items = children(force, "Torsions")
    atoms = _integers(items, ["p1", "p2", "p3", "p4"])
    term = PeriodicTorsion(
        atoms=jnp.asarray(atoms),
        rows=jnp.arange(len(items)),
        periodicity=jnp.asarray(_integers(items, ["periodicity"])[:, 0]),
        periodic=_periodic(force),
        name=name,
    )
    return Found({"phase": column_of(items, "phase", atoms), "k": column_of(items, "k", atoms)}, [term.merged()])


def _rb_torsions(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    items = children(force, "Torsions")
    atoms = _integers(items, ["p1", "p2", "p3", "p4"])
    term = RBTorsion(atoms=jnp.asarray(atoms), rows=jnp.arange(len(items)), periodic=_periodic(force), name=name)
    return Found({f"c{m}": column_of(items, f"c{m}", atoms) for m in range(6)}, [term])


def _cmap(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    maps, items = children(force, "Maps"), children(force, "Torsions")
    found = _integers(items, ["map", *(f"{chain}{i}" for chain in "ab" for i in range(1, 5))])
    sizes = tuple(int(one.attrib["size"]) for one in maps)
    term = CMAPTorsion(
        atoms=jnp.asarray(found[:, 1:]),
        maps=jnp.asarray(found[:, 0]),
        sizes=sizes,
        periodic=_periodic(force),
        name=name,
    )
    return Found({"map": column_of([value for one in maps for value in one], "e")}, [term])


# ------------------------------------------------------------------ nonbonded forces
def _nonbonded(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    given = force.attrib
    if children(force, "ParticleOffsets") or children(force, "ExceptionOffsets"):
        raise InputError(f"{name} has parameter offsets, which diffff does not have. Build the System without them.")
    if given.get("includeDirectSpace", "1") != "1":
        raise InputError(f"{name} leaves out direct space, which diffff cannot. Call setIncludeDirectSpace(True).")
    particles, pairs = children(force, "Particles"), children(force, "Exceptions")
    own = [x for x in pairs if float(x.attrib["q"]) != 0.0 or float(x.attrib["eps"]) != 0.0]
    rows, atoms = np.arange(len(particles)), _integers(own, ["p1", "p2"])
    method = _METHODS[int(given["method"])]
    alpha, lj_alpha = float(given["alpha"]), float(given["ljAlpha"])
    if method == "Ewald":
        alpha = 0.0  # OpenMM takes the rule, whatever was set for PME
    x, y, z = (int(given[f"n{axis}"]) for axis in "xyz")
    lx, ly, lz = (int(given[f"ljn{axis}"]) for axis in "xyz")
    term = nonbonded(
        rows,
        rows,
        excluded=_integers(pairs, ["p1", "p2"]),
        exceptions=atoms,
        method=method,
        cutoff=float(given["cutoff"]),
        box=box_of(system),
        switch_distance=float(given["switchingDistance"]) if given["useSwitchingFunction"] == "1" else None,
        dielectric=float(given["rfDielectric"]),
        ewald_error_tolerance=float(given["ewaldTolerance"]),
        alpha=alpha or None,
        grid=(x, y, z) if alpha else None,
        dispersion_alpha=lj_alpha or None,
        dispersion_grid=(lx, ly, lz) if lj_alpha else None,
        dispersion_correction=given["dispersionCorrection"] == "1",
        periodic_exceptions=given["exceptionsUsePeriodic"] == "1",
        name=name,
    )
    columns = {
        "charge": column_of(particles, "q", rows[:, None]),
        "sigma": column_of(particles, "sig", rows[:, None]),
        "epsilon": column_of(particles, "eps", rows[:, None]),
        "chargeprod": column_of(own, "q", atoms),
        "exception_sigma": column_of(own, "sig", atoms),
        "exception_epsilon": column_of(own, "eps", atoms),
    }
    return Found(columns, [term])


def _gbsa(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    particles, reach = children(force, "Particles"), reach_of(force)
    rows = np.arange(len(particles))
    term = gbsa_obc(
        rows,
        method=reach.method,
        cutoff=reach.cutoff,
        solute_dielectric=float(force.attrib["soluteDielectric"]),
        solvent_dielectric=float(force.attrib["solventDielectric"]),
        surface_energy=float(force.attrib["surfaceAreaEnergy"]),
        name=name,
    )
    places = {"charge": "q", "radius": "r", "scale": "scale"}
    return Found({column: column_of(particles, key, rows[:, None]) for column, key in places.items()}, [term])


def _lcpo(force: ET.Element, name: str, system: ET.Element, owners: Owners) -> Found:
    particles = children(force, "Particles")
    index = np.array([i for i, x in enumerate(particles) if float(x.attrib["r"]) != 0.0], np.int32)
    own = [particles[i] for i in index.tolist()]  # the others take no part
    term = LCPO(atoms=jnp.asarray(index), rows=jnp.arange(len(index)), periodic=_periodic(force), name=name)
    places = {"radius": "r", "p1": "p1", "p2": "p2", "p3": "p3", "p4": "p4"}
    columns = {column: column_of(own, key, index[:, None]) for column, key in places.items()}
    one = Numbers([force], "surfaceTension", np.zeros(1, int), np.zeros((1, 0), np.int32), single=True)
    return Found({**columns, "surface_tension": one}, [term])


def box_of(system: ET.Element) -> np.ndarray:
    """The default box of a System, shape ``(3, 3)``, nm."""
    vectors = [system.find(f"PeriodicBoxVectors/{name}") for name in "ABC"]
    return np.array([[float(vector.attrib[axis]) for axis in "xyz"] for vector in vectors if vector is not None])


PLAIN: dict[str, Reader] = {
    "HarmonicBondForce": _bonds,
    "HarmonicAngleForce": _angles,
    "PeriodicTorsionForce": _periodic_torsions,
    "RBTorsionForce": _rb_torsions,
    "CMAPTorsionForce": _cmap,
    "NonbondedForce": _nonbonded,
    "GBSAOBCForce": _gbsa,
    "LCPOForce": _lcpo,
}
