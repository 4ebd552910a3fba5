"""Deep Potentials in OpenMM-ML: ``MLPotential("diffff", model="model.dp").createSystem(topology)``.

OpenMM-ML finds `DiffffFactory` through the entry point ``openmmml.potentials`` and calls nothing else of diffff. The
classes have the methods of its ``MLPotentialImplFactory`` and ``MLPotentialImpl`` without deriving from them, since it
loads this module while it is being imported itself.
"""

from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np
import openmm
from openmm import app

from diffff.errors import InputError
from diffff.md.openmm import make_force
from diffff.model import Model, load


class DiffffFactory:
    """Makes potentials for OpenMM-ML."""

    def createImpl(  # noqa: N802
        self,
        name: str,
        model: Model | str | PathLike[str] | None = None,
        dtype: str = "float64",
        skin: float = 0.1,
        **unknown: Any,
    ) -> "DiffffPotential":
        """The potential of ``MLPotential(name, model=…)``.

        Args:
            name: what it is called in OpenMM-ML.
            model: path of a ``.dp`` or ``.yaml`` file, or what `diffff.load` returns.
            dtype: "float64" or "float32", in which energies are computed.
            skin: nm, how much farther than the cutoff the neighbour list reaches.
            unknown: anything else, which is refused.

        Raises:
            InputError: no model is given, the file cannot be read, or there are other arguments.
        """
        _refuse(unknown, f"MLPotential({name!r}, …)", "model, dtype and skin")
        if model is None:
            raise InputError(f'MLPotential({name!r}) needs a model; give the path of one, as in model="model.dp".')
        return DiffffPotential(model if isinstance(model, Model) else load(model), dtype=dtype, skin=skin)


class DiffffPotential:
    """A Deep Potential for the topologies that OpenMM-ML hands over.

    Attributes:
        model: with its parameters.
        dtype: in which energies are computed.
        skin: of the neighbour list, nm.
    """

    def __init__(self, model: Model, *, dtype: str, skin: float) -> None:
        self.model, self.dtype, self.skin = model, dtype, skin

    def addForces(  # noqa: N802
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        linkAtomDistances: Any = None,
        **unknown: Any,
    ) -> None:
        """Add the potential to a System that OpenMM-ML makes.

        It is periodic if the topology has a box or the System is periodic, as all potentials of OpenMM-ML.

        Args:
            topology: whose elements are the model's types.
            system: it is changed.
            atoms: indices of the atoms it acts on; None: all.
            forceGroup: of the force.
            linkAtomDistances: read by OpenMM-ML, which places the link atoms.
            unknown: other arguments of ``createSystem`` or ``createMixedSystem``, which are refused.

        Raises:
            InputError: the model has no type for an element, or see `make_force`.
        """
        _refuse(unknown, "createSystem(…) or createMixedSystem(…)", "none of its own")
        of_topology = list(topology.atoms())
        chosen = range(len(of_topology)) if atoms is None else list(atoms)
        if wrong := [index for index in chosen if not 0 <= index < len(of_topology)]:
            raise InputError(f"atoms has {wrong[0]}, but the topology has {len(of_topology)} atoms, numbered from 0.")
        if len(set(chosen)) < len(chosen):
            raise InputError("atoms names an atom twice; give each once.")
        types = _types(self.model.type_map, [of_topology[index] for index in chosen])
        force = make_force(  # to interpolate, OpenMM-ML hands over a System that has no particles yet
            self.model.potential(types),
            self.model.params,
            None if atoms is None else np.array(chosen),
            n_atoms=len(types),
            force_group=forceGroup,
            name="diffff",
            dtype=self.dtype,
            skin=self.skin,
            periodic=topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions(),
        )
        system.addForce(force)

    def getMLLongRange(self) -> bool:  # noqa: N802
        """False: nothing reaches beyond the cutoff."""
        return False

    def getSupportedEmbeddings(self) -> list[str]:  # noqa: N802
        """No ways of embedding beside those of OpenMM-ML."""
        return []


def _types(type_map: tuple[str, ...], atoms: list[Any]) -> np.ndarray:
    """Types of atoms of a topology by the symbols of their elements, shape ``(n_atoms,)``."""
    known = {name: index for index, name in enumerate(type_map)}
    found = []
    for atom in atoms:
        symbol = None if atom.element is None else atom.element.symbol
        if symbol not in known:
            element = "no element" if symbol is None else f"the element {symbol}"
            raise InputError(
                f"atom {atom.index} ({atom.name} of residue {atom.residue.name} {atom.residue.id}) has {element}, but "
                f"the type map of the model is {list(type_map)}. Take a model with this element, or leave the atom "
                "out with createMixedSystem."
            )
        found.append(known[symbol])
    return np.array(found, int)


def _refuse(unknown: dict[str, Any], where: str, known: str) -> None:
    if unknown:
        raise InputError(
            f"{where} has the argument {next(iter(unknown))!r}, which diffff does not know; it has {known}."
        )
