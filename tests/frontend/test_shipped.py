"""Force fields that ship with OpenMM, beside OpenMM: proteins, nucleic acids, lipids, sugars, ions, water.

The whole list, with every residue template, is in docs/parity.md, which benchmarks/parity_page.py makes.
"""

from pathlib import Path

import numpy as np
import openmm.app as app
import pytest
from openmm import Vec3, unit

from benchmarks.residues import molecules, templates_in
from diffff.frontend.parity import parity
from diffff.frontend.reference import read_structure

MOLECULES = Path(__file__).parents[1] / "references/molecules"
NO_CUTOFF = {"nonbonded_method": "NoCutoff", "rigid_water": False}
REACTION_FIELD = {"nonbonded_method": "CutoffNonPeriodic", "nonbonded_cutoff": 0.8, "constraints": "HBonds"}
PME = {"nonbonded_method": "PME", "nonbonded_cutoff": 0.7, "switch_distance": 0.6, "constraints": "AllBonds"}
EWALD = {"nonbonded_method": "Ewald", "nonbonded_cutoff": 0.7, "flexible_constraints": True, "constraints": "HAngles"}
LJPME = {"nonbonded_method": "LJPME", "nonbonded_cutoff": 0.7, "use_dispersion_correction": False}
PERIODIC = {"nonbonded_method": "CutoffPeriodic", "switch_distance": 0.4, "rigid_water": False}
SUGAR = ("amber14/protein.ff14SB.xml", "amber14/GLYCAM_06j-1.xml")
TRICLINIC = np.array([[1.9, 0, 0], [0.4, 1.9, 0], [-0.3, 0.5, 1.9]])


@pytest.mark.parametrize(
    ("files", "molecule", "options"),
    [
        (("amber14/protein.ff14SB.xml",), "dipeptide", LJPME),
        (("amber14/protein.ff14SB.xml",), "disulfide", PME),
        (("amber14/protein.ff15ipq.xml",), "disulfide", NO_CUTOFF),
        (("amber19/protein.ff19SB.xml",), "disulfide", REACTION_FIELD),
        (("amber99sbildn.xml",), "dipeptide", EWALD),
        (("amber96.xml",), "rna", NO_CUTOFF),
        (("amber14/DNA.OL15.xml",), "dna", NO_CUTOFF),
        (("amber14/lipid17.xml", "amber14/tip3p.xml"), "lipids", NO_CUTOFF),
        (SUGAR, "glycan", NO_CUTOFF),
        (("charmm36/water.xml",), "water", {**PERIODIC, "nonbonded_cutoff": 0.75}),
    ],
    ids=lambda value: Path(value[-1]).stem if isinstance(value, tuple) else value if isinstance(value, str) else "",
)
def test_a_molecule_has_the_energy_and_forces_of_openmm(files, molecule, options):
    topology, x = read_structure(MOLECULES / f"{molecule}.pdb")
    found = parity(files, topology, x, options=options, rows=0)
    assert found.agrees, str(found)


@pytest.mark.parametrize(
    ("file", "sites", "box", "options"),
    [
        ("tip3p.xml", "tip3p", 1.9 * np.eye(3), PME),
        ("amber14/opc3.xml", "tip3p", TRICLINIC, {**PME, "nonbonded_cutoff": 0.63, "constraints": None}),
        ("amber14/tip4pew.xml", "tip4pew", TRICLINIC, {**PERIODIC, "nonbonded_cutoff": 0.63}),
        ("tip5p.xml", "tip5p", 1.9 * np.eye(3), {**PME, "constraints": None, "rigid_water": False}),
    ],
    ids=["tip3p cubic", "opc3 triclinic", "tip4pew triclinic", "tip5p cubic"],
)
def test_a_box_of_water_has_the_energy_and_forces_of_openmm(file, sites, box, options):
    model = app.Modeller(app.Topology(), [])
    vectors = [Vec3(*row) for row in box] * unit.nanometer
    model.addSolvent(app.ForceField(f"{sites}.xml"), model=sites, boxVectors=vectors)
    x = np.array(model.positions.value_in_unit(unit.nanometer))
    found = parity([file], model.topology, x, options=options, rows=0)
    assert found.agrees and found.platform == "Reference", str(found)


@pytest.mark.parametrize(
    ("file", "n"), [("amber14/tip3p.xml", 1), ("amber14/RNA.OL3.xml", 6)], ids=["ions", "nucleotides"]
)
def test_residue_templates_have_the_energy_and_forces_of_openmm(file, n):
    parts = molecules(app.ForceField(file), templates_in([file])[::n])
    options = {"residue_templates": parts.templates, "ignore_external_bonds": True, "rigid_water": False}
    found = parity([file], parts.topology, parts.positions, options=options, rows=0)
    assert found.agrees, str(found)
