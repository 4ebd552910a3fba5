"""What is tried with one force-field file: its residue templates, whole molecules, boxes of water, slopes of rows."""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from openmm import Platform, Vec3, app, unit

from benchmarks.residues import batches, molecules, templates_in
from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField
from diffff.frontend.parity import parity
from diffff.frontend.reference import read_structure

ROOT = Path(__file__).resolve().parents[1]
MOLECULES = ROOT / "tests/references/molecules"
GAFF_RESIDUE = ROOT / "tests/references/gaff_residue.xml"
VERSION = Platform.getOpenMMVersion()
LOT = 1500  # atoms compared at a time
SLOW = 3.0  # seconds of createSystem beyond which rows are not looked at

# What a file cannot do without.
COMPANIONS = (
    (r"amber99_obc\.xml", ("amber99sb.xml",)),
    (r"(amber\d+)_obc\.xml", (r"\1.xml",)),
    (r"(amoeba\d+)_gk\.xml", (r"\1.xml",)),
    (r"implicit/.*", ("amber14-all.xml",)),
    (r"(amber14|amber)/GLYCAM.*", (r"\1/protein.ff14SB.xml",)),
    (r"amber/phosaa10.xml", ("amber/ff99SBildn.xml",)),
    (r"amber/phosaa14SB.xml", ("amber/ff14SB.xml",)),
    (r"amber/phosaa19SB.xml", ("amber/protein.ff19SB.xml",)),
    (r"amber/phosfb18.xml", ("amber/protein.fb15.xml",)),
    (r"amber/gaff/.*", (str(GAFF_RESIDUE),)),
    (r"charmm/charmm36_(carb_imlab|cgenff|d_modified)\.xml", ("charmm/charmm36_nowaters.xml",)),
    (r"charmm/(charmm36_protein|charmm_polar_2023)_d\.xml", (r"charmm/\1.xml",)),
)
QUICK = ("dipeptide", "disulfide")  # where OpenMM's search for patches is slow
SLOW_TO_MATCH = r"charmm36[^/]*|charmm/charmm36.*"
WITHOUT_EWALD = r".*_obc\.xml|implicit/.*"


def companions(file: str) -> list[str]:
    """The other files that go with one."""
    for pattern, names in COMPANIONS:
        if found := re.fullmatch(pattern, file):
            return [found.expand(name) if name.endswith(".xml") and "\\" in name else name for name in names]
    return []


# ---------------------------------------------------------------------- one file
class Comparison:
    """Everything that is tried with one file."""

    def __init__(self, file: str, save: Path, most_atoms: int) -> None:
        self.most_atoms = most_atoms  # of its templates; beyond, a sample of them
        self.file, self.save, self.layouts = file, save, save.parent / "layouts"
        self.files = [*companions(file), file]
        self.found: dict[str, Any] = {"file": file, "with": companions(file), "openmm": VERSION}
        self.found |= {"cases": [], "remarks": [], "errors": []}
        self.refusal = ""  # what OpenMM said last

    def run(self) -> None:
        """All cases, kept on disk after each."""
        start = time.monotonic()
        try:
            self.field = app.ForceField(*self.files)
        except Exception as error:  # OpenMM raises all kinds
            self.found["remarks"].append(f"OpenMM itself fails ({type(error).__name__}: {error})")
            self.found["done"] = True
            self._keep()
            return
        names = templates_in([self.file]) or templates_in(self.files)
        if "gaff" in self.file:
            self.found["remarks"].append("has no residues; compared with N-methylacetamide in its atom types")
        self.found["n_templates"] = len(templates_in([self.file]))
        if not self._loads():
            return
        self._templates(names)
        self._slopes(names)
        self._molecules()
        self._water(names)
        self.found["seconds"] = round(time.monotonic() - start)
        self.found["done"] = True
        self._keep()

    def _loads(self) -> bool:
        try:
            field = ForceField(*self.files)
            with TemporaryDirectory() as folder:
                written = [path.read_bytes() for path in field.write(folder, field.params())]
        except InputError as error:
            self.found |= {"unsupported": str(error), "done": True}
            self._keep()
            return False
        if written != [document.data for document in field.documents]:
            self.found["errors"].append("unchanged parameters do not give the same file")
        return True

    def _keep(self) -> None:
        self.save.write_text(json.dumps(self.found, indent=1))

    # ------------------------------------------------------------------ templates
    def _templates(self, names: Sequence[str]) -> None:
        sizes = {name: len(self.field._templates[name].atoms) for name in names}
        total = sum(sizes.values())
        if total > self.most_atoms:
            step = -(-total // self.most_atoms)
            names = names[::step]
            self.found["remarks"].append(f"one residue template in {step}")
        probes = [names[len(names) * k // 4] for k in (1, 2, 3)]
        if not any(self._accepted([name]) for name in probes):
            self.found["remarks"].append(f"OpenMM itself fails ({self.refusal})")
            return
        refused: list[str] = []
        for lot in batches(self.field, names, LOT):
            accepted = self._accepted(lot)
            refused += [name for name in lot if name not in accepted]
            if accepted:
                self._lot(accepted)
            self._keep()
        if refused:
            self.found["remarks"].append(
                f"OpenMM itself refuses {len(refused)} residue templates, such as {refused[0]} ({self.refusal})"
            )

    def _accepted(self, lot: Sequence[str]) -> list[str]:
        """The templates that OpenMM can make a System of: some files lack parameters for their own residues."""
        parts = molecules(self.field, lot, self.layouts)
        try:
            self.field.createSystem(parts.topology, residueTemplates=parts.templates, ignoreExternalBonds=True)
        except Exception as error:  # OpenMM raises all kinds
            self.refusal = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            middle = len(lot) // 2
            return [] if len(lot) == 1 else self._accepted(lot[:middle]) + self._accepted(lot[middle:])
        return list(lot)

    def _lot(self, lot: Sequence[str], rows: int = 0) -> None:
        """Compare these templates; where something is wrong, find out with which of them."""
        parts = molecules(self.field, lot, self.layouts)
        options = {"residue_templates": parts.templates, "ignore_external_bonds": True, "rigid_water": False}
        case = self._compare("slopes" if rows else "residues", parts.topology, parts.positions, options, rows)
        case["templates"] = len(lot)
        if ("error" in case or not case["agrees"]) and len(lot) > 1 and not rows:
            for half in (lot[: len(lot) // 2], lot[len(lot) // 2 :]):
                self._lot(half)
            return
        case["template"] = lot[0] if len(lot) == 1 else f"{lot[0]} … {lot[-1]}"
        self.found["cases"].append(case)

    def _slopes(self, names: Sequence[str]) -> None:
        """Of some of the smaller templates together."""
        names = [name for name in names if len(self.field._templates[name].atoms) > 2] or list(names)
        lot = self._accepted(next(iter(batches(self.field, names, 150))))
        start = time.monotonic()
        if not lot or not self._accepted(lot):
            return
        if time.monotonic() - start < SLOW:
            self._lot(lot, rows=2)
        else:
            self.found["remarks"].append("no slopes, OpenMM needs too long for each System")
        self._keep()

    # ------------------------------------------------------------------ molecules
    def _molecules(self) -> None:
        """Those for which OpenMM has templates."""
        box = {"nonbonded_method": "PME", "nonbonded_cutoff": 0.7, "switch_distance": 0.5, "rigid_water": False}
        if re.fullmatch(WITHOUT_EWALD, self.file):
            box = {"nonbonded_method": "CutoffNonPeriodic", "nonbonded_cutoff": 0.9}
        for path in sorted(MOLECULES.glob("*.pdb")):
            if re.fullmatch(SLOW_TO_MATCH, self.file) and path.stem not in QUICK:
                continue
            topology, positions = read_structure(path)
            if not self._matches(topology):
                continue
            for options in ({"nonbonded_method": "NoCutoff", "constraints": "HBonds"}, box):
                case = self._compare(path.stem, topology, positions, options)
                self.found["cases"].append(case)
                self._keep()

    def _matches(self, topology: Any) -> bool:
        try:
            self.field.createSystem(topology)
        except Exception:  # OpenMM raises all kinds; what it cannot do is no disagreement
            return False
        return True

    # ------------------------------------------------------------------ water
    def _water(self, names: Sequence[str]) -> None:
        """Boxes of each water model of the file, cubic and triclinic."""
        for name in names:
            template = self.field._templates[name]
            symbols = [e.symbol if e else "" for e in (self.field._atomTypes[a.type].element for a in template.atoms)]
            if sorted(s for s in symbols if s) != ["H", "H", "O"]:
                continue
            skewed = np.array([[2.4, 0, 0], [0.5, 2.5, 0], [-0.4, 0.7, 2.4]])
            for box, kind, cutoff in ((2.0 * np.eye(3), "cubic", 0.9), (skewed, "triclinic", 0.75)):
                try:
                    topology, positions, templates = _box_of_water(self.field, template, box)
                except Exception as error:  # OpenMM's Modeller knows some models only
                    self.found["remarks"].append(f"no box of {name}: {error}"[:200])
                    continue
                for options in (
                    {"nonbonded_method": "PME", "nonbonded_cutoff": cutoff},
                    {"nonbonded_method": "CutoffPeriodic", "nonbonded_cutoff": cutoff, "rigid_water": False},
                ):
                    case = self._compare(
                        f"{kind} box of {name}", topology, positions, {**options, "residue_templates": templates}
                    )
                    self.found["cases"].append(case)
                    self._keep()

    # ------------------------------------------------------------------ all
    def _compare(
        self, name: str, topology: Any, positions: Any, options: dict[str, Any], rows: int = 0
    ) -> dict[str, Any]:
        case: dict[str, Any] = {
            "name": name,
            "method": options.get("nonbonded_method", "NoCutoff"),
            "atoms": len(positions),
        }
        for missing in ("error", "skip"):
            try:
                found = parity(self.files, topology, positions, options={**options, "missing": missing}, rows=rows)
            except InputError as error:
                if "no row for" in str(error) and missing == "error":
                    case["missing"] = str(error)
                    continue
                return {**case, "error": str(error)}
            except Exception as error:  # a defect: the page shows it
                return {**case, "error": f"{type(error).__name__}: {error}", "crash": True}
            break
        case["agrees"] = found.agrees
        case["remarks"] = list(found.remarks)
        case["forces"] = {f.name: [f.energy_error, f.force_error] for f in found.forces}
        case["rows"] = {f"{r.name} ({r.place})": r.error for r in found.rows}
        if not found.agrees:
            case["report"] = str(found)
        return case


def _box_of_water(field: Any, template: Any, box: Any) -> tuple[Any, Any, dict[Any, str]]:
    model = app.Modeller(app.Topology(), [])
    vectors = [Vec3(*row) for row in box] * unit.nanometer
    model.addSolvent(app.ForceField("tip3p.xml"), boxVectors=vectors)
    if len(template.atoms) > 3:
        model = _with_sites(model, template)
    positions = np.array(model.positions.value_in_unit(unit.nanometer))
    return model.topology, positions, dict.fromkeys(model.topology.residues(), template.name)


def _with_sites(model: Any, template: Any) -> Any:
    """Water with the further sites of a template, which stand on the oxygen until the energy moves them."""
    topology, positions = app.Topology(), []
    topology.setPeriodicBoxVectors(model.topology.getPeriodicBoxVectors())
    chain = topology.addChain()
    old = model.positions.value_in_unit(unit.nanometer)
    sites = {site.index for site in template.virtualSites}
    for residue in model.topology.residues():
        new = topology.addResidue("HOH", chain)
        o, *hydrogens = residue.atoms()
        atoms = []
        for i, atom in enumerate(template.atoms):
            if i in sites:
                source, element = o, None
            elif atom.name.startswith("H"):
                source, element = hydrogens.pop(0), app.element.hydrogen
            else:
                source, element = o, app.element.oxygen
            atoms.append(topology.addAtom(atom.name, element, new))
            positions.append(old[source.index])
        for i, j in template.bonds:
            topology.addBond(atoms[i], atoms[j])
    return app.Modeller(topology, positions * unit.nanometer)
