"""Systems to run: water by a Deep Potential, a peptide in water by XML with PME, and water by both together."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import openmm.app as app
from openmm import Vec3, unit

from diffff import ForceField, load
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential, energy_and_forces, virial

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/references/md/water.dp"  # trained on data/water by make_water_model.py beside it
AMBER = ("amber14/protein.ff14SB.xml", "amber14/tip3p.xml")
SPRING = """<ForceField>
 <AtomTypes>
  <Type name="o" class="O" element="O" mass="15.9994"/> <Type name="h" class="H" element="H" mass="1.008"/>
 </AtomTypes>
 <Residues><Residue name="HOH">
  <Atom name="O" type="o"/> <Atom name="H1" type="h"/> <Atom name="H2" type="h"/>
  <Bond atomName1="O" atomName2="H1"/> <Bond atomName1="O" atomName2="H2"/>
 </Residue></Residues>
 <HarmonicBondForce><Bond class1="O" class2="H" length="0.097" k="5000"/></HarmonicBondForce>
</ForceField>
"""


_energy_and_forces, _virial = jax.jit(energy_and_forces), jax.jit(virial)


class System(NamedTuple):
    """A potential with all that an engine asks for.

    Attributes:
        potential: for these atoms.
        params: parameter tree.
        positions: shape ``(n_atoms, 3)``, nm.
        box: shape ``(3, 3)``, nm.
        symbols: of the elements.
        masses: shape ``(n_atoms,)``, amu.
        topology: of openmm.app.
    """

    potential: Potential
    params: Any
    positions: np.ndarray
    box: np.ndarray
    symbols: list[str]
    masses: np.ndarray
    topology: app.Topology

    def expected(self, positions=None, box=None) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, forces and virial from the potential itself, kJ/mol and nm."""
        x = jnp.asarray(self.positions if positions is None else positions)
        box = jnp.asarray(self.box if box is None else box)
        listed = neighbor_list(
            np.asarray(self.potential.placed(self.params, x)), np.asarray(box), self.potential.cutoff
        )
        where = (self.potential, self.params, x, box, listed)
        energy, forces = _energy_and_forces(*where)
        return float(energy), np.asarray(forces), np.asarray(_virial(*where))


@cache
def deep_water() -> System:
    """The first frame of data/water at 300 K: 32 molecules, O H H each, all whole."""
    folder = ROOT / "data/water/valid/300K"
    box = np.load(folder / "set.000/box.npy")[0].reshape(3, 3) / 10.0
    x = np.load(folder / "set.000/coord.npy")[0].reshape(-1, 3) / 10.0
    n = len(x) // 3
    oxygens, hydrogens = x[:n], x[n:]
    apart = hydrogens - oxygens[:, None]
    apart -= np.round(apart @ np.linalg.inv(box)) @ box
    own = np.argsort(np.linalg.norm(apart, axis=2), axis=1)[:, :2]
    bonds = np.take_along_axis(apart, own[:, :, None], axis=1)
    x = np.concatenate([oxygens[:, None], oxygens[:, None] + bonds], axis=1).reshape(-1, 3)
    topology = app.Topology()
    topology.setPeriodicBoxVectors([Vec3(*row) for row in box] * unit.nanometer)
    chain = topology.addChain()
    for _ in range(n):
        residue = topology.addResidue("HOH", chain)
        o, h1, h2 = (topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2"))
        topology.addBond(o, h1)
        topology.addBond(o, h2)
    types, symbols = np.array(n * [0, 1, 1]), n * ["O", "H", "H"]
    model = load(MODEL)
    masses = np.where(types == 0, 15.9994, 1.008)
    return System(model.potential(types), model.params, x, box, symbols, masses, topology)


@cache
def peptide() -> System:
    """A dipeptide in water, about 800 atoms, flexible, PME."""
    pdb = app.PDBFile(str(ROOT / "tests/references/molecules/dipeptide.pdb"))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(app.ForceField(*AMBER), boxSize=Vec3(2.0, 2.0, 2.0) * unit.nanometer)
    topology = modeller.topology
    field = ForceField(*AMBER)
    potential = field.create_potential(topology, nonbonded_method="PME", nonbonded_cutoff=0.8, rigid_water=False)
    x = np.array(modeller.positions.value_in_unit(unit.nanometer))
    box = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    symbols = [atom.element.symbol for atom in topology.atoms()]
    masses = np.array([atom.element.mass._value for atom in topology.atoms()])
    return System(potential, field.params(), x, box, symbols, masses, topology)


def hybrid(folder: Path) -> System:
    """The Deep Potential of water with a weak spring on each O-H bond, from an XML file that goes to a folder."""
    deep, file = deep_water(), folder / "springs.xml"
    file.write_text(SPRING)
    field = ForceField(file)
    springs = field.create_potential(deep.topology, rigid_water=False)
    return deep._replace(potential=deep.potential + springs, params={**deep.params, **field.params()})
