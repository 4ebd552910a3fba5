"""`add_force`: a potential in an ``openmm.System``, so that OpenMM's integrators, barostats and platforms run it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openmm
from openmm import unit
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from diffff.errors import InputError
from diffff.md.calculator import Calculator
from diffff.neighbors import Neighbors
from diffff.potentials.base import Params, Potential, require_potential
from diffff.potentials.bonded import HarmonicAngle, HarmonicBond, UreyBradley
from diffff.potentials.cmap import CMAPTorsion
from diffff.potentials.custom import CustomAngle, CustomBond, CustomTorsion
from diffff.potentials.custom_nonbonded import CustomNonbonded
from diffff.potentials.lennard_jones import LennardJones
from diffff.potentials.nonbonded import Nonbonded
from diffff.potentials.torsions import PeriodicTorsion, RBTorsion

_BONDED = (
    *(HarmonicBond, HarmonicAngle, UreyBradley, PeriodicTorsion, RBTorsion, CMAPTorsion),
    *(CustomBond, CustomAngle, CustomTorsion),
)
_EXCLUDING = (Nonbonded, LennardJones, CustomNonbonded)
_TELLING = (  # forces that are periodic if the System is
    *(openmm.NonbondedForce, openmm.CustomNonbondedForce, openmm.CustomGBForce, openmm.GBSAOBCForce),
    *(openmm.AmoebaMultipoleForce, openmm.AmoebaVdwForce, openmm.GayBerneForce, openmm.HippoNonbondedForce),
)
_VERSION = (8, 6)  # of OpenMM, from which PythonForce takes subsets of particles
_GROUPS = 32  # of forces in a System
_NM = unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]


class Computation:
    """What OpenMM calls at each step: energy and forces of a State.

    OpenMM writes it into the XML of a System with `pickle`; what is compiled and the neighbour list are made anew.

    An energy that is not finite stops a run. A minimiser and a barostat only try positions, at the same step at which
    all was well before: they get an infinite energy, upon which they try others. Should a run go on from there, it
    stops at its next step.

    Attributes:
        potential: with arrays of numpy.
        params: its parameter tree, with arrays of numpy.
        atoms: shape ``(n_atoms,)``, which positions of the State it is for, in its order; None: all, as they are.
        periodic: whether the box of the State is looked at.
        name: what error messages start with.
        dtype: in which energies are computed.
        skin: of the neighbour list, nm.
    """

    def __init__(
        self,
        potential: Potential,
        params: Params,
        *,
        atoms: np.ndarray | None,
        periodic: bool,
        name: str,
        dtype: str,
        skin: float,
    ) -> None:
        self.potential: Potential = jax.tree.map(np.asarray, potential)
        self.params: Params = jax.tree.map(np.asarray, params)
        self.atoms, self.periodic, self.name, self.dtype, self.skin = atoms, periodic, name, dtype, skin
        self._calculator: Calculator | None = None
        self._well: int | None = None  # the last step with a finite energy
        self._trouble: InputError | None = None  # of what was only tried

    def calculator(self) -> Calculator:
        """The calculator, made at the first call.

        Raises:
            InputError: see `Calculator`.
        """
        if self._calculator is None:
            self._calculator = Calculator(self.potential, self.params, dtype=self.dtype, skin=self.skin)
        return self._calculator

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy, kJ/mol, and forces ``(n, 3)``, kJ/mol/nm, on all n atoms of the State.

        Raises:
            InputError: see `Calculator`; OpenMM passes the message on in an ``OpenMMException``.
        """
        positions = _in_nm(state.getPositions(asNumpy=True))
        box = _in_nm(state.getPeriodicBoxVectors(asNumpy=True)) if self.periodic else None
        chosen = positions if self.atoms is None else positions[self.atoms]
        try:
            energy, forces, _ = self.calculator()(chosen, box)
            self._well, self._trouble = state.getStepCount(), None
        except InputError as error:
            trouble = InputError(f"{self.name}: {error}")
            if not np.isfinite(positions).all():
                raise self._trouble or trouble from error
            if self._well != state.getStepCount():
                raise trouble from error
            self._trouble = trouble
            energy, forces = np.inf, np.full_like(chosen, np.nan)
        except KeyboardInterrupt as error:  # OpenMM passes on nothing but its text
            raise KeyboardInterrupt(f"{self.name}: interrupted") from error
        if self.atoms is None:
            return energy, forces
        of_all = np.zeros_like(positions)
        of_all[self.atoms] = forces
        return energy, of_all

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_calculator": None, "_well": None, "_trouble": None}


def _in_nm(lengths: Any) -> np.ndarray:
    return lengths.value_in_unit(_NM)


def add_force(
    system: openmm.System,
    potential: Potential,
    params: Params,
    *,
    atoms: Sequence[int] | np.ndarray | None = None,
    force_group: int = 0,
    name: str = "diffff",
    dtype: str = "float64",
    skin: float = 0.1,
    periodic: bool | None = None,
) -> "openmm.PythonForce":
    """Add a potential to a System.

    In a periodic System, a ``CustomBondForce`` without energy is added too if the potential has bonded terms or
    excluded pairs: from it OpenMM knows which atoms are a molecule, which a barostat scales and wrapping keeps whole.

    Virtual sites of the potential must be sites of the System. The potential places them itself and its forces are on
    their atoms already: those on the sites are zero, so that there is nothing for OpenMM to pass on. Sites that the
    potential takes for atoms have forces, which OpenMM passes on.

    Args:
        system: it is changed.
        potential: of any kind.
        params: its parameter tree; a copy is kept.
        atoms: indices of the particles it acts on, in the order of its own atoms; None: all.
        force_group: from 0 to 31.
        name: of the force; error messages start with it.
        dtype: "float64" or "float32", in which energies are computed, whatever the precision of OpenMM's platform.
        skin: nm, how much farther than the cutoff the neighbour list reaches.
        periodic: whether the potential sees the periodic box; None: if other forces of the System do.

    Returns:
        The force, which the System owns.

    Raises:
        InputError: atoms, particles and box do not go together; see `Calculator` too.
    """
    require_potential(potential, params)
    if not isinstance(name, str):
        raise InputError(f"name is {name!r}; give a text.")
    chosen = _chosen(system, potential, atoms)
    whole = _is_periodic(system, periodic)
    _check_sites(system, potential, chosen)
    force = make_force(
        potential,
        params,
        chosen if atoms is not None else None,
        n_atoms=len(chosen),
        force_group=force_group,
        name=name,
        dtype=dtype,
        skin=skin,
        periodic=whole,
    )
    if whole and len(links := _links(potential, len(chosen))):
        _add_molecules(system, chosen[links], f"{name} molecules", force.getForceGroup())
    system.addForce(force)
    return force


def make_force(
    potential: Potential,
    params: Params,
    particles: np.ndarray | None,
    *,
    n_atoms: int,
    force_group: int,
    name: str,
    dtype: str,
    skin: float,
    periodic: bool,
) -> "openmm.PythonForce":
    """The force of `add_force`, for a System that is not there yet; arguments as there.

    Raises:
        InputError: parameters and box do not fit the potential; see `Calculator` too.
    """
    _check_version()
    # OpenMM 8.6 gives wrong positions on a GPU (its issue 5421) to a force without a box on a subset of a periodic
    # System. So such a force sees all particles, and chooses itself.
    inside = None if periodic else particles
    computation = Computation(potential, params, atoms=inside, periodic=periodic, name=name, dtype=dtype, skin=skin)
    computation.calculator()
    _check_energy(computation, n_atoms)
    force = openmm.PythonForce(computation)
    force.setName(name)
    force.setForceGroup(_force_group(force_group))
    force.setUsesPeriodicBoundaryConditions(periodic)
    if periodic and particles is not None:
        force.setParticles(particles.tolist())
    return force


# ------------------------------------------------------------------ checks
def _check_version() -> None:
    found = openmm.Platform.getOpenMMVersion()
    if tuple(int(part) for part in found.split(".")[:2]) < _VERSION:
        raise InputError(f"OpenMM {found} cannot run forces in Python as diffff needs it; install OpenMM 8.6 or later.")


def _force_group(group: int) -> int:
    if not isinstance(group, int | np.integer) or not 0 <= group < _GROUPS:
        raise InputError(f"force_group is {group!r}; give a whole number from 0 to {_GROUPS - 1}.")
    return int(group)


def _chosen(system: openmm.System, potential: Potential, atoms: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """The particles the potential acts on, shape ``(n_atoms,)``."""
    if not isinstance(system, openmm.System):
        raise InputError(f"system is of the type {type(system).__name__}; give an openmm.System.")
    n_particles = system.getNumParticles()
    chosen = np.arange(n_particles) if atoms is None else np.asarray(atoms)
    if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
        raise InputError("atoms must be a list of indices of particles, such as [0, 1, 2].")
    if len(wrong := chosen[(chosen < 0) | (chosen >= n_particles)]):
        raise InputError(f"atoms has {wrong[0]}, but the System has {n_particles} particles, numbered from 0.")
    values, counts = np.unique(chosen, return_counts=True)
    if len(twice := values[counts > 1]):
        raise InputError(f"atoms has {twice[0]} twice; give each particle once.")
    if potential.n_atoms not in (None, len(chosen)):
        given = f"the System has {n_particles} particles" if atoms is None else f"atoms has {len(chosen)}"
        raise InputError(
            f"the potential is for {potential.n_atoms} atoms, but {given}. Give the indices of its atoms as atoms=[…], "
            "or make a potential for this topology."
        )
    if not len(chosen):
        raise InputError("there are no atoms: the System has no particles, or atoms is empty.")
    return chosen


def _is_periodic(system: openmm.System, periodic: bool | None) -> bool:
    if periodic is not None:
        if not isinstance(periodic, bool | np.bool_):
            raise InputError(f"periodic is {periodic!r}; give True, False or None.")
        return bool(periodic)
    if system.usesPeriodicBoundaryConditions():
        return True
    if any(isinstance(force, _TELLING) for force in system.getForces()):
        return False
    raise InputError(
        "the System has no force that tells whether it is periodic, and each System has a box. Give periodic=True, and "
        "set its box with system.setDefaultPeriodicBoxVectors(…); or give periodic=False."
    )


def _check_sites(system: openmm.System, potential: Potential, chosen: np.ndarray) -> None:
    """All virtual sites of the potential must be moved by OpenMM, not as particles on their own."""
    for sites in potential.sites:
        for site in np.concatenate([np.asarray(one, int) for one in (sites.average, sites.plane, sites.local)]):
            if site >= len(chosen):
                raise InputError(f"the potential has a virtual site {site}, but there are only {len(chosen)} atoms.")
            if not system.isVirtualSite(particle := int(chosen[site])):
                raise InputError(
                    f"particle {particle} is a virtual site in the potential, but not in the System, where nothing "
                    "would keep it in its place. Make the System from the same topology with createSystem, which "
                    "adds the sites, or add it with system.setVirtualSite(…)."
                )


def _check_energy(computation: Computation, n_atoms: int) -> None:
    """Trace the energy, without computing it: parameters are complete, and the terms want a box if there is one."""
    potential, periodic = computation.potential, computation.periodic
    one = jnp.full(1, n_atoms, jnp.int32)
    empty = Neighbors(
        i=one,
        j=one,
        shift=jnp.zeros((1, 3), jnp.int32),
        overflow=jnp.zeros((), bool),
        cutoff=potential.cutoff,
    )
    x = jax.ShapeDtypeStruct((n_atoms, 3), jnp.result_type(float))
    box = jax.ShapeDtypeStruct((3, 3), x.dtype) if periodic else None
    try:
        jax.eval_shape(potential.energy, computation.params, x, box, empty)
    except InputError as error:
        kind = "periodic" if periodic else "not periodic"
        raise InputError(f"the potential does not fit a System that is {kind}: {error}") from error


# ------------------------------------------------------------------ molecules
def _links(potential: Potential, n_atoms: int) -> np.ndarray:
    """Pairs of atoms that connect those between which there are bonded terms or excluded pairs, shape ``(n, 2)``."""
    tables = [np.asarray(term.atoms) for term in potential.terms if isinstance(term, _BONDED)]
    tables += [np.asarray(term.excluded) for term in potential.terms if isinstance(term, _EXCLUDING)]
    pairs = [table[:, [k, k + 1]] for table in tables for k in range(table.shape[1] - 1)]
    i, j = np.concatenate([np.zeros((0, 2), int), *pairs]).T
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(n_atoms, n_atoms))
    molecule = connected_components(graph, directed=False)[1]
    order = np.argsort(molecule, kind="stable")
    same = molecule[order[1:]] == molecule[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def _add_molecules(system: openmm.System, links: np.ndarray, name: str, force_group: int) -> None:
    bonds = openmm.CustomBondForce("0")
    for i, j in links.tolist():
        bonds.addBond(i, j)
    bonds.setName(name)
    bonds.setForceGroup(force_group)
    system.addForce(bonds)
