"""`ForceField`: OpenMM's XML files as energy functions of their numbers."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from diffff.errors import InputError
from diffff.frontend.arguments import (
    CONSTRAINTS,
    METHODS,
    box_of,
    flag,
    flag_or_none,
    in_nm,
    name_of,
    nanometer,
    number_of,
    openmm_object,
    openmm_options,
    templates_of,
    topology_of,
)
from diffff.frontend.bonded import (
    CMAPTorsions,
    HarmonicAngles,
    HarmonicBonds,
    PeriodicTorsions,
    RBTorsions,
    UreyBradleys,
)
from diffff.frontend.coverage import require_rows
from diffff.frontend.custom import custom_sections
from diffff.frontend.files import check_target, inclusions, read_files, written_as
from diffff.frontend.gbsa import GBSAOBCRows
from diffff.frontend.group import Group, Options
from diffff.frontend.implicit import implicit_solvent
from diffff.frontend.impropers import charmm_impropers
from diffff.frontend.lennard_jones import LennardJonesRows
from diffff.frontend.names import check_names, unused_rows
from diffff.frontend.nonbonded import NonbondedRows
from diffff.frontend.rows import Place, changes, comments
from diffff.frontend.schema import check
from diffff.frontend.sites import VirtualSiteRows
from diffff.frontend.trace import Tracer, openmm_force_field
from diffff.frontend.xml import Document
from diffff.potentials.base import Potential, Shared

Params = dict[str, dict[str, Any]]
_GROUPS = (
    HarmonicBonds,
    HarmonicAngles,
    UreyBradleys,
    PeriodicTorsions,
    RBTorsions,
    CMAPTorsions,
    NonbondedRows,
    LennardJonesRows,
    GBSAOBCRows,
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

    def __init__(
        self,
        *files: str | PathLike[str],
        allow_scripts: bool = False,
        missing: Literal["error", "skip"] = "error",
    ) -> None:
        """Read the files and what they include.

        Args:
            files: paths, or names of files in OpenMM's data directory or in an installed package of force fields.
            allow_scripts: accept files with Python code. It runs in `create_system` only.
            missing: what to do about tags, attributes and texts without a meaning: "error", or "skip" as OpenMM does.

        Raises:
            InputError: a file is missing, malformed, or holds what diffff does not know.
        """
        self.documents: Sequence[Document] = read_files(files)
        self._inclusions = inclusions(self.documents)
        self._scripts = allow_scripts
        strict = name_of(missing, "missing", ("error", "skip")) == "error"
        check(self.documents, allow_scripts=allow_scripts, strict=strict)
        if strict:
            check_names(self.documents)
        tags = {child.tag for document in self.documents for child in document.root.children}
        self._groups: list[Group] = [kind.read(self.documents) for kind in _GROUPS if kind.name in tags]
        self._groups += custom_sections(self.documents)
        self._groups += charmm_impropers(self.documents)
        self._sites = VirtualSiteRows.read(self.documents)
        self._groups += self._sites
        self._solvents = implicit_solvent(self.documents)
        self._groups += self._solvents

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
    def unused_rows(self) -> tuple[Place, ...]:
        """The classes and types in rows that no ``<Type>`` of the files has; OpenMM leaves these rows out."""
        return unused_rows(self.documents)

    @property
    def units(self) -> dict[str, str]:
        """The unit of each column, by ``"tag/column"``."""
        return {
            f"{group.name}/{name}": group.parameters.units[name]
            for group in self._groups
            for name in group.parameters.initial()
        }

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
        solute_dielectric: float | None = None,
        solvent_dielectric: float | None = None,
        implicit_solvent_kappa: Any = None,
        sasa_method: Literal["ACE", "LCPO", "none"] | None = None,
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
            solute_dielectric: of an implicit solvent; None: 1.
            solvent_dielectric: of an implicit solvent; None: 78.5.
            implicit_solvent_kappa: inverse screening length of its salt, 1/nm; None: no salt.
            sasa_method: surface energy of an implicit solvent; None: ACE.
            missing: what to do about a bond, angle or torsion without a row: "error", or "skip" as OpenMM does.

        Raises:
            InputError: no template fits a residue, a term has no row, an option makes no sense.
        """
        method = name_of(nonbonded_method, "nonbonded_method", METHODS)
        complete = name_of(missing, "missing", ("error", "skip")) == "error"
        options = Options(
            nonbonded_method=method,
            nonbonded_cutoff=in_nm(nonbonded_cutoff, "nonbonded_cutoff"),
            switch_distance=None if switch_distance is None else in_nm(switch_distance, "switch_distance"),
            ewald_error_tolerance=number_of(ewald_error_tolerance, "ewald_error_tolerance"),
            dispersion_correction=flag_or_none(use_dispersion_correction, "use_dispersion_correction"),
            flexible_constraints=flag(flexible_constraints, "flexible_constraints"),
            box=box_of(topology),
        )
        if method in _PERIODIC and options.box is None:
            raise InputError(
                f"nonbonded_method {method} needs a periodic box, which the topology does not have. Set it with "
                "topology.setPeriodicBoxVectors(…), or choose NoCutoff or CutoffNonPeriodic."
            )
        trace = self._tracer.trace(
            topology,
            nonbondedMethod=openmm_object(method, "nonbonded_method", (method,)),
            nonbondedCutoff=options.nonbonded_cutoff * nanometer(),
            constraints=openmm_object(constraints, "constraints", CONSTRAINTS),
            rigidWater=flag_or_none(rigid_water, "rigid_water"),
            residueTemplates=templates_of(residue_templates),
            ignoreExternalBonds=flag(ignore_external_bonds, "ignore_external_bonds"),
            **self._solvent_options(solute_dielectric, solvent_dielectric, implicit_solvent_kappa, sasa_method),
        )
        if complete:
            require_rows(trace, {child.tag for document in self.documents for child in document.root.children})
        sites = [group.sites(trace) for group in self._sites]
        return Potential(
            terms=tuple(term for group in self._groups for term in group.terms(trace, options)),
            sites=tuple(one for one in sites if one is not None),
            shared=tuple(
                Shared(group.name, column, other)
                for group in self._groups
                for column, other in group.parameters.shared.items()
            ),
            shapes=tuple(
                (group.name, column, values.shape)
                for group in self._groups
                for column, values in group.parameters.initial().items()
            ),
            n_atoms=topology.getNumAtoms(),
        )

    def createPotential(  # noqa: N802
        self,
        topology: Any,
        nonbondedMethod: Any = "NoCutoff",
        nonbondedCutoff: Any = 1.0,
        constraints: Any = None,
        rigidWater: bool | None = None,
        removeCMMotion: bool = True,
        hydrogenMass: Any = None,
        residueTemplates: Mapping[Any, str] | None = None,
        ignoreExternalBonds: bool = False,
        switchDistance: Any = None,
        flexibleConstraints: bool = False,
        *,
        ewaldErrorTolerance: float = 5e-4,
        useDispersionCorrection: bool | None = None,
        soluteDielectric: float | None = None,
        solventDielectric: float | None = None,
        implicitSolventKappa: Any = None,
        sasaMethod: str | None = "ACE",
    ) -> Potential:
        """`create_potential` in OpenMM's spelling and order, with its rule that terms without a row are left out.

        An energy knows no masses: `removeCMMotion` and `hydrogenMass` are for `create_system`, and do nothing here.
        """
        return self.create_potential(
            topology,
            nonbonded_method=nonbondedMethod,
            nonbonded_cutoff=nonbondedCutoff,
            switch_distance=switchDistance,
            ewald_error_tolerance=ewaldErrorTolerance,
            use_dispersion_correction=useDispersionCorrection,
            solute_dielectric=soluteDielectric,
            solvent_dielectric=solventDielectric,
            implicit_solvent_kappa=implicitSolventKappa,
            sasa_method={"ACE": None, "LCPO": "LCPO"}.get(str(sasaMethod), "none"),
            constraints=constraints,
            rigid_water=rigidWater,
            flexible_constraints=flexibleConstraints,
            residue_templates=residueTemplates,
            ignore_external_bonds=ignoreExternalBonds,
            missing="skip",
        )

    # ------------------------------------------------------------------ back to OpenMM
    def write(
        self,
        folder: str | PathLike[str],
        params: Mapping[str, Mapping[str, Any]],
        notes: Mapping[str, Sequence[str | None]] | None = None,
    ) -> list[Path]:
        """Write all files with these numbers to a directory; what did not change stays byte for byte.

        Args:
            folder: where the files go: those that were named under their own names, those that they include where the
                ``<Include>`` says. It may be the folder they come from, if that is your own.
            params: as `params` gives them; groups of other potentials are passed over.
            notes: a text for each number, or None, by ``"tag/column"``: it becomes a comment behind the row,
                ``<!-- diffff: k 259408 +- 1200; length not determined -->``, in place of that of an earlier call.

        Returns:
            The files, in the order in which they were read: first those that were named, which are what OpenMM needs to
            be given, then those that they include.

        Raises:
            InputError: a file cannot be written, a number is not finite, no place in the folder would be right, or
                notes are for numbers that the files do not have.
        """
        changed, written = self._changes(params, self._groups), self.places_in(check_target(folder))
        groups = {group.name for group in self._groups}
        ours = {path: texts for path, texts in (notes or {}).items() if path.rpartition("/")[0] in groups}
        noted = comments(self.rows, ours)
        for document, path in zip(self.documents, written, strict=True):
            document.write(path, changed.get(document, {}), noted.get(document))
        return written

    def places_in(self, folder: str | PathLike[str]) -> list[Path]:
        """Where `write` puts the files."""
        places = written_as(self.documents, self._inclusions)
        return [Path(folder) / places[document] for document in self.documents]

    def create_system(self, topology: Any, params: Mapping[str, Mapping[str, Any]], **options: Any) -> Any:
        """An ``openmm.System`` with these numbers.

        Args:
            topology: ``openmm.app.Topology``.
            params: as `params` gives them.
            options: of OpenMM's ``createSystem``, by its names or by those of `create_potential`.

        Raises:
            InputError: a number is not finite, or OpenMM refuses the force field or an option.
        """
        topology, options = topology_of(topology), openmm_options(options)
        written = [group for group in self._groups if group not in self._solvents]
        edits = {key: text for of_file in self._changes(params, written).values() for key, text in of_file.items()}
        solvents = [(one, one.parameters.checked(one.name, params[one.name])) for one in self._solvents]
        field = openmm_force_field(self.documents, edits, foreign_scripts=self._scripts)
        try:
            system = field.createSystem(topology, **options)
        except Exception as error:  # OpenMM raises all kinds
            raise InputError(f"OpenMM cannot apply the force field: {error}") from error
        for solvent, values in solvents:
            solvent.apply(system, values)
        return system

    def _changes(self, params: Mapping[str, Mapping[str, Any]], groups: Iterable[Group]) -> dict[Document, dict]:
        if not isinstance(params, Mapping):
            raise InputError(f"params is of the type {type(params).__name__}; take the tree that params() gives.")
        if missing := [group.name for group in self._groups if group.name not in params]:
            raise InputError(f"params lacks {', '.join(missing)}; take the tree that params() gives.")
        return changes(pair for group in groups for pair in group.parameters.placed(group.name, params[group.name]))

    def _solvent_options(self, solute: Any, solvent: Any, kappa: Any, surface: Any) -> dict[str, Any]:
        """Keywords of OpenMM for an implicit solvent, without those that were not given.

        Raises:
            InputError: the force field has no implicit solvent that would heed them.
        """
        known = {"soluteDielectric": solute, "solventDielectric": solvent}
        script = {"implicitSolventKappa": kappa, "sasaMethod": surface}
        given = {name: value for name, value in (known | script).items() if value is not None}
        heeded = bool(self._solvents) or any(isinstance(group, GBSAOBCRows) for group in self._groups)
        if ignored := [name for name in given if not (self._solvents or (heeded and name in known))]:
            raise InputError(f"{ignored[0]} was given, but this force field has no implicit solvent that heeds it.")
        return given | ({"sasaMethod": None} if surface == "none" else {})

    @cached_property
    def _tracer(self) -> Tracer:
        return Tracer(self.documents, {key: mark for group in self._groups for key, mark in group.marks().items()})
