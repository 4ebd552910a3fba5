"""Makes the small molecules in molecules/, which force fields are compared on.

    pip install rdkit
    python -m tests.references.make_molecules

RDKit builds peptides and nucleic acids from their sequences, OpenMM adds hydrogens and relaxes them.
"""

from pathlib import Path

import numpy as np
from openmm import LangevinIntegrator, Platform, Vec3, app, unit
from rdkit import Chem
from rdkit.Chem import AllChem

from benchmarks.residues import layout

FOLDER = Path(__file__).parent / "molecules"
DATA = Path(app.__file__).parent / "data"
AMBER = ("amber14-all.xml", "amber14/tip3p.xml")
SUGAR = ("amber14/protein.ff14SB.xml", "amber14/GLYCAM_06j-1.xml")
PROTEIN, DNA, RNA = 1, 6, 2  # flavours of RDKit's sequences: L amino acids; nucleic acids without caps


def built(sequence: str, flavor: int, bonds: list[tuple[str, str]] = []) -> app.Modeller:  # noqa: B006
    """Heavy atoms of a sequence, with bonds between atoms given as "residue atom"."""
    mol = Chem.RWMol(Chem.MolFromSequence(sequence, flavor=flavor))
    names = {}
    for atom in mol.GetAtoms():
        info = atom.GetPDBResidueInfo()
        names[f"{info.GetResidueNumber()} {info.GetName().strip()}"] = atom.GetIdx()
    for a, b in bonds:
        mol.AddBond(names[a], names[b], Chem.BondType.SINGLE)
    Chem.SanitizeMol(mol)
    full = Chem.AddHs(mol)
    if AllChem.EmbedMolecule(full, randomSeed=7, useRandomCoords=True) != 0:
        raise SystemExit(f"RDKit cannot embed {sequence}")
    AllChem.MMFFOptimizeMolecule(full, maxIters=2000)
    block = Chem.MolToPDBBlock(Chem.RemoveHs(full), flavor=4)
    path = FOLDER / "heavy.pdb"
    path.write_text("\n".join(line for line in block.splitlines() if not line.startswith("CONECT")) + "\n")
    pdb = app.PDBFile(str(path))
    path.unlink()
    return app.Modeller(pdb.topology, pdb.positions)


def capped(model: app.Modeller) -> app.Modeller:
    """The first and last residue of three become an acetyl and a methylamide group."""
    first, _, last = model.topology.residues()
    caps = {first.index: ("ACE", {"CA": "CH3", "C": "C", "O": "O"}), last.index: ("NME", {"N": "N", "CA": "C"})}
    model.delete([a for r in (first, last) for a in r.atoms() if a.name not in caps[r.index][1]])
    for residue in model.topology.residues():
        if residue.index in caps:
            residue.name, names = caps[residue.index]
            for atom in residue.atoms():
                atom.name = names[atom.name]
    return model


def relaxed(model: app.Modeller, *files: str, hydrogens: bool = True) -> app.Modeller:
    """With hydrogens, at a minimum of the energy and then a little off it."""
    field = app.ForceField(*files)
    if hydrogens:
        model.addHydrogens(field)
    system = field.createSystem(model.topology)
    simulation = app.Simulation(
        model.topology, system, LangevinIntegrator(300, 1, 0.001), Platform.getPlatformByName("Reference")
    )
    simulation.context.setPositions(model.positions)
    simulation.minimizeEnergy(maxIterations=500)
    simulation.context.setVelocitiesToTemperature(300, 1)
    simulation.integrator.setRandomNumberSeed(1)
    simulation.step(200)
    return app.Modeller(model.topology, simulation.context.getState(getPositions=True).getPositions())


def written(name: str, model: app.Modeller) -> None:
    """A PDB file in the middle of a cube that leaves 0.4 nm around the molecule."""
    x = np.array(model.positions.value_in_unit(unit.nanometer))
    edge = np.ceil(10 * (np.ptp(x, axis=0).max() + 0.8)) / 10
    x += edge / 2 - (x.min(0) + x.max(0)) / 2
    model.topology.setPeriodicBoxVectors((Vec3(edge, 0, 0), Vec3(0, edge, 0), Vec3(0, 0, edge)) * unit.nanometer)
    with (FOLDER / f"{name}.pdb").open("w") as file:
        app.PDBFile.writeFile(model.topology, x * unit.nanometer, file, keepIds=True)
    text = (FOLDER / f"{name}.pdb").read_text().splitlines()
    (FOLDER / f"{name}.pdb").write_text("\n".join(text[1:]) + "\n")  # without the date
    print(f"{name}: {len(x)} atoms, {edge:.1f} nm")


def lipids() -> app.Modeller:
    """Two lipids and the waters near their heads, from the membrane that comes with OpenMM."""
    pdb = app.PDBFile(str(DATA / "POPC.pdb"))
    x = np.array(pdb.positions.value_in_unit(unit.nanometer))
    where = {r: x[[a.index for a in r.atoms()]].mean(axis=0) for r in pdb.topology.residues()}
    fats = [r for r in where if r.name != "HOH"]
    one = fats[0]
    fats.sort(key=lambda r: float(np.linalg.norm(where[r] - where[one])))
    waters = [r for r in where if r.name == "HOH"]
    head = x[next(a.index for a in fats[0].atoms() if a.name == "P")]
    waters.sort(key=lambda r: float(np.linalg.norm(where[r] - head)))
    kept = {*fats[:2], *waters[:10]}
    model = app.Modeller(pdb.topology, pdb.positions)
    model.delete([r for r in where if r not in kept])
    return model


def glycan() -> app.Modeller:
    """Three residues of GLYCAM, linked 1 -> 4: a free end, N-acetylglucosamine and mannose."""
    field = app.ForceField(*SUGAR)
    topology = app.Topology()
    chain = topology.addChain()
    atoms = []
    for name in ("ROH", "4YB", "0MA"):
        residue, template = topology.addResidue(name, chain), field._templates[name]
        atoms.append([topology.addAtom(a.name, field._atomTypes[a.type].element, residue) for a in template.atoms])
        for i, j in template.bonds:
            topology.addBond(atoms[-1][i], atoms[-1][j])
    by_name = [{atom.name: atom for atom in members} for members in atoms]
    topology.addBond(by_name[0]["O1"], by_name[1]["C1"])
    topology.addBond(by_name[1]["O4"], by_name[2]["C1"])
    x = layout([a.element.symbol for a in topology.atoms()], [(a.index, b.index) for a, b in topology.bonds()], seed=3)
    return app.Modeller(topology, x * unit.nanometer)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    written("dipeptide", relaxed(capped(built("AAA", PROTEIN)), *AMBER))
    written("disulfide", relaxed(built("GCAPCG", PROTEIN, [("2 SG", "5 SG")]), *AMBER))
    written("peptide", relaxed(built("MACKDEFGHICLNPQRSTVWY", PROTEIN, [("3 SG", "11 SG")]), *AMBER))
    written("dna", relaxed(built("ACGT", DNA), *AMBER))
    written("rna", relaxed(built("ACGU", RNA), *AMBER))
    written("lipids", lipids())
    written("glycan", relaxed(glycan(), *SUGAR, hydrogens=False))


if __name__ == "__main__":
    main()
