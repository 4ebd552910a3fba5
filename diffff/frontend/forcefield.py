"""`ForceField`: OpenMM's XML files as energy functions of their numbers."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.frontend.bonded import (
    CMAPTorsions,
    HarmonicAngles,
    HarmonicBonds,
    PeriodicTorsions,
    RBTorsions,
    UreyBradleys,
)
from diffff.frontend.files import read_files
from diffff.frontend.group import Group, Options
from diffff.frontend.nonbonded import NonbondedRows
from diffff.frontend.rows import Place, changes
from diffff.frontend.schema import check
from diffff.frontend.sites import virtual_sites
from diffff.frontend.trace import Tracer, openmm_force_field
from diffff.frontend.xml import Document
from diffff.potentials.base import Potential

Params = dict[str, dict[str, Any]]
_GROUPS = (
    HarmonicBonds,
    HarmonicAngles,
    UreyBradleys,
    PeriodicTorsions,
    RBTorsions,
    CMAPTorsions,
    NonbondedRows,
)
_PERIODIC = ("CutoffPeriodic", "Ewald", "PME", "LJPME")


class ForceField:
    """A force field in OpenMM's XML files.

    Example:
        >>> ff = ForceField("amber14/protein.ff14SB.xml", "amber14/tip3p.xml")
        >>> params = ff.params()
        >>> params["HarmonicBondForce"]["k"].shape
        (91,)
        >>> print(ff.rows["HarmonicBondForce"][0].element.attributes["type1"])
        protein-C
    """

    def __init__(self, *files: str | PathLike[str], allow_scripts: bool = False) -> None:
        """Read the files and what they include.

        Args:
            files: paths, or names of files in OpenMM's data directory or in an installed package of force fields.
            allow_scripts: accept files with Python code. It runs in `create_system` only.

        Raises:
            InputError: a file is missing, malformed, or holds what diffff does not know.
        """
        self.documents: Sequence[Document] = read_files(files)
        self._scripts = allow_scripts
        check(self.documents, allow_scripts=allow_scripts)
        tags = {child.tag for document in self.documents for child in document.root.children}
        self._groups: list[Group] = [kind.read(self.documents) for kind in _GROUPS if kind.name in tags]

    # ------------------------------------------------------------------ parameters
    def params(self) -> Params:
        """The parameter tree ``{tag: {column: (n_rows,)}}``, in OpenMM's units (nm, kJ/mol, rad, e)."""
        return {
            group.name: {name: jnp.asarray(values) for name, values in group.parameters.initial().items()}
            for group in self._groups
        }

    @property
    def rows(self) -> dict[str, tuple[Place, ...]]:
        """Where each number stands: by ``"tag/column"``, and by tag for its first column."""
        found = {}
        for group in self._groups:
            for name, column in group.parameters.columns.items():
                found.setdefault(group.name, column.places)
                found[f"{group.name}/{name}"] = column.places
        return found

    @property
    def units(self) -> dict[str, str]:
        """The unit of each column, by ``"tag/column"``."""
        return {f"{g.name}/{name}": unit for g in self._groups for name, unit in g.parameters.units.items()}

    # ------------------------------------------------------------------ energy
    def create_potential(
        self,
        topology: Any,
        *,
        nonbonded_method: Any = "NoCutoff",
        nonbonded_cutoff: Any = 1.0,
        switch_distance: Any = None,
        ewald_error_tolerance: float = 5e-4,
        use_dispersion_correction: bool | None = None,
        constraints: Any = None,
        rigid_water: bool | None = None,
        flexible_constraints: bool = False,
        residue_templates: Mapping[Any, str] | None = None,
        ignore_external_bonds: bool = False,
        missing: Literal["error", "skip"] = "error",
    ) -> Potential:
        """The energy of a topology as a function of the parameters.

        The arguments mean what they mean in OpenMM's ``ForceField.createSystem``; methods and constraints may be its
        objects or their names, distances may be numbers in nm or quantities.

        Args:
            topology: ``openmm.app.Topology``.
            nonbonded_method: NoCutoff, CutoffNonPeriodic, CutoffPeriodic, Ewald, PME or LJPME.
            nonbonded_cutoff: nm.
            switch_distance: nm; None: Lennard-Jones is cut, not switched.
            ewald_error_tolerance: from which the splitting and the grid of PME are chosen for the topology's box.
            use_dispersion_correction: None: as the files say, else True.
            constraints: HBonds, AllBonds, HAngles or None; a constrained bond or angle has no energy.
            rigid_water: None: as the files say.
            flexible_constraints: keep the energy of what is constrained.
            residue_templates: names of the templates of residues that several fit.
            ignore_external_bonds: match residues whatever they are bonded to.
            missing: what to do about a bond, angle or torsion without a row: "error", or "skip" as OpenMM does.

        Raises:
            InputError: no template fits a residue, a term has no row, an option makes no sense.
        """
        method = _name_of(nonbonded_method, "nonbonded_method", ("NoCutoff", "CutoffNonPeriodic", *_PERIODIC))
        options = Options(
            nonbonded_method=method,
            nonbonded_cutoff=_in_nm(nonbonded_cutoff, "nonbonded_cutoff"),
            switch_distance=None if switch_distance is None else _in_nm(switch_distance, "switch_distance"),
            ewald_error_tolerance=ewald_error_tolerance,
            dispersion_correction=use_dispersion_correction,
            flexible_constraints=flexible_constraints,
            missing=missing,
            box=_box(topology),
        )
        if method in _PERIODIC and options.box is None:
            raise InputError(
                f"nonbonded_method {method} needs a periodic box, which the topology does not have. Set it with "
                "topology.setPeriodicBoxVectors(…), or choose NoCutoff or CutoffNonPeriodic."
            )
        trace = self._tracer.trace(
            topology,
            constraints=_openmm(constraints, "constraints", ("HBonds", "AllBonds", "HAngles")),
            rigidWater=rigid_water,
            residueTemplates=dict(residue_templates or {}),
            ignoreExternalBonds=ignore_external_bonds,
        )
        sites = virtual_sites(trace.system)
        return Potential(
            terms=tuple(term for group in self._groups for term in group.terms(trace, options)),
            sites=() if sites is None else (sites,),
        )

    def createPotential(  # noqa: N802
        self,
        topology: Any,
        nonbondedMethod: Any = "NoCutoff",
        nonbondedCutoff: Any = 1.0,
        constraints: Any = None,
        rigidWater: bool | None = None,
        residueTemplates: Mapping[Any, str] | None = None,
        ignoreExternalBonds: bool = False,
        switchDistance: Any = None,
        flexibleConstraints: bool = False,
        ewaldErrorTolerance: float = 5e-4,
        useDispersionCorrection: bool | None = None,
    ) -> Potential:
        """`create_potential` in OpenMM's spelling, with its rule that terms without a row are left out."""
        return self.create_potential(
            topology,
            nonbonded_method=nonbondedMethod,
            nonbonded_cutoff=nonbondedCutoff,
            switch_distance=switchDistance,
            ewald_error_tolerance=ewaldErrorTolerance,
            use_dispersion_correction=useDispersionCorrection,
            constraints=constraints,
            rigid_water=rigidWater,
            flexible_constraints=flexibleConstraints,
            residue_templates=residueTemplates,
            ignore_external_bonds=ignoreExternalBonds,
            missing="skip",
        )

    # ------------------------------------------------------------------ back to OpenMM
    def write(self, folder: str | PathLike[str], params: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """Write all files with these numbers to a directory; what did not change stays byte for byte.

        Args:
            folder: where the files go, under the names they have.
            params: as `params` gives them; groups of other potentials are passed over.

        Returns:
            The files, in the order in which they were read.

        Raises:
            InputError: a file cannot be written, or a number is not finite.
        """
        changed = self._changes(params)
        names = [document.path.name for document in self.documents]
        if len(set(names)) < len(names):
            raise InputError(f"{folder}: two of the files have the same name, {names}. Write them one by one.")
        written = []
        for document, name in zip(self.documents, names, strict=True):
            written.append(Path(folder) / name)
            document.write(written[-1], changed.get(document, {}))
        return written

    def create_system(self, topology: Any, params: Mapping[str, Mapping[str, Any]], **options: Any) -> Any:
        """An ``openmm.System`` with these numbers; ``options`` as in OpenMM's ``createSystem``.

        Raises:
            InputError: a number is not finite, or OpenMM refuses the force field.
        """
        edits = {key: text for of_file in self._changes(params).values() for key, text in of_file.items()}
        field = openmm_force_field(self.documents, edits, scripts=self._scripts)
        return field.createSystem(topology, **options)

    def _changes(self, params: Mapping[str, Mapping[str, Any]]) -> dict[Document, dict]:
        if missing := [group.name for group in self._groups if group.name not in params]:
            raise InputError(f"params lacks {', '.join(missing)}; take the tree that params() gives.")
        return changes(pair for group in self._groups for pair in group.parameters.placed(params[group.name]))

    @cached_property
    def _tracer(self) -> Tracer:
        return Tracer(self.documents, {key: mark for group in self._groups for key, mark in group.marks().items()})


def _name_of(choice: Any, what: str, known: Sequence[str]) -> str:
    name = str(choice).rpartition(".")[2]
    if name not in known:
        raise InputError(f"{what} {choice!r} is unknown; give one of {', '.join(known)}.")
    return name


def _openmm(choice: Any, what: str, known: Sequence[str]) -> Any:
    """OpenMM's object of that name, or None."""
    if choice is None or str(choice) == "None":
        return None
    import openmm.app

    return getattr(openmm.app, _name_of(choice, what, known))


def _in_nm(length: Any, what: str) -> float:
    """A length as a number in nm."""
    from openmm import unit

    if unit.is_quantity(length):
        if not length.unit.is_compatible(_nm()):
            raise InputError(f"{what} is {length}, which is no length.")
        length = length.value_in_unit(_nm())
    number = float(length)
    if not number > 0.0:
        raise InputError(f"{what} is {number} nm; give a positive length.")
    return number


def _box(topology: Any) -> np.ndarray | None:
    vectors = topology.getPeriodicBoxVectors()
    return None if vectors is None else np.array(vectors.value_in_unit(_nm()), float)


def _nm() -> Any:
    from openmm import unit

    return unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
