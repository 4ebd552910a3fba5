"""Deep Potentials in OpenMM-ML: ``MLPotential("diffff", model="model.dp").createSystem(topology)``.

OpenMM-ML finds `DiffffFactory` through the entry point ``openmmml.potentials`` and calls nothing else of diffff. The
classes have the methods of its ``MLPotentialImplFactory`` and ``MLPotentialImpl`` without deriving from them, since it
loads this module while it is being imported itself.
"""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import openmm
from openmm import app

from diffff.errors import InputError
from diffff.md.elements import model_of, types_of
from diffff.md.openmm import make_force
from diffff.model import Model


class DiffffFactory:
    """Makes potentials for OpenMM-ML."""

    def createImpl(  # noqa: N802
        self,
        name: str,
        model: Model | str | PathLike[str] | None = None,
        dtype: str = "float64",
        skin: float = 0.1,
        fparam: Sequence[float] | None = None,
        aparam: np.ndarray | None = None,
        **unknown: Any,
    ) -> "DiffffPotential":
        """The potential of ``MLPotential(name, model=…)``.

        Args:
            name: what it is called in OpenMM-ML.
            model: path of a ``.dp`` or ``.yaml`` file, or what `diffff.load` returns.
            dtype: "float64" or "float32", in which energies are computed.
            skin: nm, how much farther than the cutoff the neighbour list reaches.
            fparam: frame parameters of the model, shape ``(numb_fparam,)``.
            aparam: atomic parameters, shape ``(n_atoms, numb_aparam)``, of the atoms the model is used for.
            unknown: anything else, which is refused.

        Raises:
            InputError: no model is given, the file cannot be read, or there are other arguments.
        """
        _refuse(unknown, f"MLPotential({name!r}, …)", "model, dtype, skin, fparam and aparam")
        if (read := model_of(model)) is None:
            raise InputError(f'MLPotential({name!r}) needs a model; give the path of one, as in model="model.dp".')
        return DiffffPotential(read, dtype=dtype, skin=skin, fparam=fparam, aparam=aparam)


class DiffffPotential:
    """A Deep Potential for the topologies that OpenMM-ML hands over.

    Attributes:
        model: with its parameters.
        dtype: in which energies are computed.
        skin: of the neighbour list, nm.
        fparam: frame parameters.
        aparam: atomic parameters.
    """

    def __init__(
        self, model: Model, *, dtype: str, skin: float, fparam: Sequence[float] | None, aparam: np.ndarray | None
    ) -> None:
        self.model, self.dtype, self.skin, self.fparam, self.aparam = model, dtype, skin, fparam, aparam

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
        there = [of_topology[index] for index in chosen]
        names = [f"atom {a.index} ({a.name} of residue {a.residue.name} {a.residue.id})" for a in there]
        types = types_of(self.model, [None if a.element is None else a.element.symbol for a in there], names)
        force = make_force(  # to interpolate, OpenMM-ML hands over a System that has no particles yet
            self.model.potential(types, fparam=self.fparam, aparam=self.aparam),
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


def _refuse(unknown: dict[str, Any], where: str, known: str) -> None:
    if unknown:
        raise InputError(
            f"{where} has the argument {next(iter(unknown))!r}, which diffff does not know; it has {known}."
        )
