"""What the marked copy must not change: which template OpenMM takes, and what is constrained."""

import jax
import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField
from diffff.neighbors import neighbor_list
from tests.frontend.molecules import chain

WATER = """<ForceField>
 <AtomTypes>
  <Type name="o" class="O" element="O" mass="16.0"/> <Type name="h" class="H" element="H" mass="1.0"/>
 </AtomTypes>
 <Residues>
  <Residue name="HOH">
   <Atom name="O" type="o" charge="-0.8"/>
   <Atom name="H1" type="h" charge="0.4"/> <Atom name="H2" type="h" charge="0.4"/>
   <Bond atomName1="O" atomName2="H1"/> <Bond atomName1="O" atomName2="H2"/>
  </Residue>{twin}
 </Residues>
 <HarmonicBondForce>
  <Bond class1="O" class2="H" length="0.1" k="400000.0"/>
 </HarmonicBondForce>
 <HarmonicAngleForce>
  <Angle class1="H" class2="O" class3="H" angle="1.91061" k="400.0"/>
 </HarmonicAngleForce>
 <AmoebaUreyBradleyForce><UreyBradley class1="H" class2="O" class3="H" d="0.15" k="5000.0"/></AmoebaUreyBradleyForce>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5"><UseAttributeFromResidue name="charge"/>
  <Atom class="O" sigma="0.3" epsilon="0.6"/> <Atom class="H" sigma="0.1" epsilon="0.1"/>
 </NonbondedForce>
</ForceField>"""
TWIN = """<Residue name="WAT">
   <Atom name="X1" type="h" charge="0.4"/> <Atom name="X2" type="h" charge="0.4"/>
   <Atom name="Y" type="o" charge="-0.8"/>
   <Bond atomName1="Y" atomName2="X1"/> <Bond atomName1="Y" atomName2="X2"/>
  </Residue>"""


@pytest.fixture
def water(tmp_path):
    """Writes the file above, and gives its path with two molecules and their positions."""

    def write(twin=""):
        path = tmp_path / "water.xml"
        path.write_text(WATER.format(twin=twin))
        topology, x = chain([path], ["HOH", "HOH"], [])
        return path, topology, x

    return write


def energies(path, topology, x, **options) -> tuple[float, float, ForceField, dict]:
    """Of OpenMM and of diffff; the force field, and the gradient by the parameters."""
    system = app.ForceField(str(path)).createSystem(topology, **options)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatform("Reference"))
    context.setPositions(x)
    expected = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    ff = ForceField(path)
    potential = ff.createPotential(topology, **options)
    found, slopes = jax.value_and_grad(potential.energy)(ff.params(), x, None, neighbor_list(x, None, 0.0))
    return expected, float(found), ff, slopes


@pytest.mark.parametrize(
    "options", [{}, {"rigidWater": False}, {"constraints": app.HAngles}, {"flexibleConstraints": True}], ids=str
)
def test_constraints_take_the_same_terms_away(water, options):
    expected, found, _, _ = energies(*water(), **options)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_a_template_that_is_there_twice(water):
    path, topology, x = water(twin=TWIN)
    expected, found, ff, slopes = energies(path, topology, x)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    names = [place.element.attributes["name"] for place in ff.rows["NonbondedForce/charge"]]
    of_first = [name in ("O", "H1", "H2") for name in names]
    np.testing.assert_array_equal(slopes["NonbondedForce"]["charge"] != 0.0, of_first)


def test_a_map_that_does_not_exist(tmp_path, water):
    path, topology, _ = water()
    cmap = '<CMAPTorsionForce><Map>0 0 0 0</Map><Torsion class1="" class2="" class3="" class4="" class5="" map="5"/>'
    path.write_text(path.read_text().replace("<NonbondedForce", f"{cmap}</CMAPTorsionForce><NonbondedForce"))
    ForceField(path).create_potential(topology)  # no five atoms in a row
    text = path.read_text()
    for name, end in (("H1", "M"), ("H2", "N")):
        text = text.replace(
            '<Bond atomName1="O" atomName2="H1"/>',
            f'<Atom name="{end}" type="h" charge="0"/><Bond atomName1="{name}" atomName2="{end}"/>'
            '<Bond atomName1="O" atomName2="H1"/>',
        )
    path.write_text(text.replace('"HOH"', '"FIVE"'))
    topology, _ = chain([path], ["FIVE"], [])
    with pytest.raises(InputError, match="map 5 does not exist; there are 1"):
        ForceField(path).create_potential(topology, missing="skip")
