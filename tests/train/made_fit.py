"""A molecule of five atoms with a force field, its data from OpenMM, and inputs of fits to them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import openmm as mm
import openmm.app as app

from diffff import units

XML = """<ForceField>
 <AtomTypes>
  <Type name="C" class="c" element="C" mass="12.011"/>
  <Type name="O" class="o" element="O" mass="15.999"/>
  <Type name="H" class="h" element="H" mass="1.008"/>
 </AtomTypes>
 <Residues>
  <Residue name="MOL">
   <Atom name="C" type="C"/><Atom name="O" type="O"/><Atom name="H1" type="H"/><Atom name="H2" type="H"/>
   <Bond atomName1="C" atomName2="O"/><Bond atomName1="C" atomName2="H1"/><Bond atomName1="C" atomName2="H2"/>
  </Residue>
 </Residues>
 <HarmonicBondForce>
  <Bond class1="c" class2="o" length="0.1229" k="476976"/>
  <Bond class1="c" class2="h" length="0.1100" k="284512"/>
 </HarmonicBondForce>
 <HarmonicAngleForce>
  <Angle class1="h" class2="c" class3="o" angle="2.094" k="418.4"/>
  <Angle class1="h" class2="c" class3="h" angle="2.010" k="292.9"/>
 </HarmonicAngleForce>
 <NonbondedForce coulomb14scale="0.8333" lj14scale="0.5">
  <Atom type="C" charge="0.4" sigma="0.34" epsilon="0.36"/>
  <Atom type="O" charge="-0.5" sigma="0.30" epsilon="0.88"/>
  <Atom type="H" charge="0.05" sigma="0.25" epsilon="0.06"/>
 </NonbondedForce>
</ForceField>
"""

PDB = """\
HETATM    1  C   MOL A   1       0.000   0.000   0.000  1.00  0.00           C
HETATM    2  O   MOL A   1       1.229   0.000   0.000  1.00  0.00           O
HETATM    3  H1  MOL A   1      -0.550   0.953   0.000  1.00  0.00           H
HETATM    4  H2  MOL A   1      -0.550  -0.953   0.000  1.00  0.00           H
CONECT    1    2    3    4
END
"""

RULES: list[dict[str, Any]] = [
    {"select": "Harmonic*Force/*", "treatment": {"bounds": [0, None]}},
    {"select": "*", "treatment": {"train": False}},
]


def write_molecule(folder: Path, xml: str = XML) -> Path:
    """mol.xml and mol.pdb in a folder."""
    (folder / "mol.xml").write_text(xml)
    (folder / "mol.pdb").write_text(PDB)
    return folder


def write_data(folder: Path, n_frames: int, seed: int, xml: str = XML, noise: float = 0.0, scale: float = 1.0) -> Path:
    """A data set of frames around the structure, with OpenMM's energies and forces for a force field.

    Args:
        folder: of the data set; beside it stand mol.xml and mol.pdb.
        n_frames: number of frames.
        seed: of displacements and noise.
        xml: the force field.
        noise: standard deviation that is added to the forces, kJ/mol/nm, and to the energies, a hundredth, kJ/mol.
        scale: all labels are multiplied with it.
    """
    random = np.random.default_rng(seed)
    pdb = app.PDBFile(str(folder.parent / "mol.pdb"))
    source = folder.parent / f"{folder.name}.source.xml"
    source.write_text(xml)
    system = app.ForceField(str(source)).createSystem(pdb.topology)
    source.unlink()
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    rest = np.array(pdb.positions.value_in_unit(mm.unit.nanometer))
    x = rest + 0.005 * random.normal(size=(n_frames, 4, 3))
    energies, forces = [], []
    for frame in x:
        context.setPositions(frame)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value)
    energy = np.array(energies) + 0.01 * noise * random.normal(size=n_frames)
    force = np.array(forces) + noise * random.normal(size=(n_frames, 4, 3))
    (folder / "set.000").mkdir(parents=True)
    (folder / "type_map.raw").write_text("C\nH\nO\n")
    (folder / "type.raw").write_text("0 2 1 1\n")
    (folder / "nopbc").touch()
    np.save(folder / "set.000/coord.npy", x.reshape(n_frames, -1) * units.ANGSTROM_PER_NM)
    np.save(folder / "set.000/energy.npy", scale * energy / units.KJ_PER_MOL_PER_EV)
    per_angstrom = units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM
    np.save(folder / "set.000/force.npy", scale * force.reshape(n_frames, -1) / per_angstrom)
    return folder


def fit_input(**changes: Any) -> dict[str, Any]:
    """An input of a fit; ``section={…}`` changes keys of a section, None takes a key away."""
    given: dict[str, Any] = {
        "model": {"type": "xml", "files": ["mol.xml"], "topology": "mol.pdb"},
        "parameters": {"rules": RULES},
        "loss": {"energy": 0.1, "force": 10.0},
        "training": {"training_data": {"systems": ["train"]}, "numb_steps": 50},
    }
    for section, keys in changes.items():
        given[section] = {**given.get(section, {}), **keys}
        given[section] = {key: value for key, value in given[section].items() if value is not None}
    return given


def write_input(folder: Path, given: dict[str, Any]) -> Path:
    """input.json in a folder."""
    path = folder / "input.json"
    path.write_text(json.dumps(given))
    return path


def perturbed(by: float, seed: int, xml: str = XML) -> str:
    """The force field with the numbers of bonds and angles changed by up to this part."""
    import re

    random = np.random.default_rng(seed)

    def changed(found: re.Match[str]) -> str:
        return f'{found[1]}="{float(found[2]) * (1.0 + by * random.uniform(-1.0, 1.0)):.6g}"'

    head, bonded, tail = re.split(r"(<HarmonicBondForce>.*</HarmonicAngleForce>)", xml, flags=re.DOTALL)
    return head + re.sub(r'\b(length|k|angle)="([^"]*)"', changed, bonded) + tail
