"""The numbers of virtual sites are parameters: their derivatives beside those of edited files, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import openmm.app as app
import pytest

from diffff import ForceField, from_openmm
from diffff.neighbors import neighbor_list

XML = """<ForceField>
 <AtomTypes>
  <Type name="c" class="C" element="C" mass="12"/> <Type name="n" class="N" element="N" mass="14"/>
  <Type name="m" class="M" mass="0"/>
 </AtomTypes>
 <Residues>
  <Residue name="TOY">
   <Atom name="P1" type="c" charge="0.2"/> <Atom name="P2" type="n" charge="-0.3"/>
   <Atom name="P3" type="c" charge="0.1"/> <Atom name="P4" type="n" charge="-0.1"/>
   <Atom name="M1" type="m" charge="0.3"/> <Atom name="M2" type="m" charge="0.15"/>
   <Atom name="M3" type="m" charge="-0.2"/> <Atom name="M4" type="m" charge="-0.25"/>
   <Bond atomName1="P1" atomName2="P2"/> <Bond atomName1="P2" atomName2="P3"/> <Bond atomName1="P3" atomName2="P4"/>
   <VirtualSite type="outOfPlane" siteName="M3" atomName1="P1" atomName2="P2" atomName3="P3" weight12="0.2"
    weight13="-0.3" weightCross="3.0"/>
   <VirtualSite type="average2" siteName="M1" atomName1="P1" atomName2="P3" weight1="0.4" weight2="6e-1"/>
   <VirtualSite type="average3" siteName="M2" atomName1="P1" atomName2="P2" atomName3="P4" weight1="0.5" weight2="0.3"
    weight3="0.2"/>
   <VirtualSite type="localCoords" siteName="M4" atomName1="P4" atomName2="P3" atomName3="P2" wo1="0.8" wo2="0.1"
    wo3="0.1" wx1="-1" wx2="0.5" wx3="0.5" wy1="0.2" wy2="-1" wy3="0.8" p1="0.05" p2="-0.02" p3="0.03"/>
  </Residue>
 </Residues>
 <Patches>
  <Patch name="ONE">
   <AddAtom name="M5" type="m" charge="0.1"/> <ChangeAtom name="P1" type="c" charge="0.1"/>
   <ChangeAtom name="P2" type="n" charge="-0.3"/>
   <VirtualSite type="localCoords" siteName="M5" atomName1="P1" atomName2="P2" wo1="1" wo2="0" wx1="-1" wx2="1"
    wy1="0.5" wy2="-0.5" p1="0.07" p2="0" p3="0"/>
   <ApplyToResidue name="TOY"/>
  </Patch>
 </Patches>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">
  <UseAttributeFromResidue name="charge"/>
  <Atom class="C" sigma="0.34" epsilon="0.4"/> <Atom type="n" sigma="0.32" epsilon="0.7"/>
  <Atom class="M" sigma="0.1" epsilon="0.1"/>
 </NonbondedForce>
</ForceField>
"""
ATOMS = ["P1", "P2", "P3", "P4", "M1", "M2", "M3", "M4"]
MOVED_TOGETHER = ("wo", "wx", "wy")  # OpenMM refuses other sums than 1, 0, 0


def topology() -> app.Topology:
    """A patched molecule and two plain ones."""
    found = app.Topology()
    chain = found.addChain()
    for names in ([*ATOMS, "M5"], ATOMS, ATOMS):
        residue = found.addResidue("TOY", chain)
        elements = {"P1": "C", "P2": "N", "P3": "C", "P4": "N"}
        symbols = [app.Element.getBySymbol(elements[name]) if name in elements else None for name in names]
        atoms = [found.addAtom(name, symbol, residue) for name, symbol in zip(names, symbols, strict=True)]
        for i in range(3):
            found.addBond(atoms[i], atoms[i + 1])
    return found


TOPOLOGY = topology()
X = 0.25 * np.random.default_rng(4).permutation(np.stack(np.meshgrid(*3 * [np.arange(3)]), -1).reshape(-1, 3))[:25]
X = X + 0.05 * np.random.default_rng(5).normal(size=X.shape)


def of_openmm(system: mm.System) -> float:
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(X)
    context.computeVirtualSites()
    return context.getState(getEnergy=True).getPotentialEnergy()._value


@pytest.fixture
def field(tmp_path) -> ForceField:
    (tmp_path / "sites.xml").write_text(XML)
    return ForceField(tmp_path / "sites.xml")


@pytest.mark.slow
def test_each_number_of_a_site_has_the_derivative_of_the_edited_file(field):
    potential, params = field.create_potential(TOPOLOGY), field.params()
    listed = neighbor_list(np.asarray(potential.placed(params, jnp.asarray(X))), None, potential.cutoff)
    energy, gradient = jax.value_and_grad(potential.energy)(params, jnp.asarray(X), None, listed)
    np.testing.assert_allclose(energy, of_openmm(field.create_system(TOPOLOGY, params)), rtol=1e-12)
    group = params["VirtualSites"]
    lengths = {"weight1": 2, "weight3": 1, "weight12": 1, "wo1": 2, "wo3": 1, "p3": 2}
    assert {column: len(group[column]) for column in lengths} == lengths

    def moved(columns: dict[str, float], row: int, by: float) -> float:
        changed = {**group, **{c: group[c].at[row].add(sign * by) for c, sign in columns.items()}}
        return of_openmm(field.create_system(TOPOLOGY, {**params, "VirtualSites": changed}))

    def check(columns: dict[str, float], row: int) -> None:
        e = [moved(columns, row, h * 1e-4) for h in (-2, -1, 1, 2)]
        expected = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / 12e-4
        found = sum(sign * gradient["VirtualSites"][c][row] for c, sign in columns.items())
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7, err_msg=f"{columns} {row}")

    for column, values in group.items():
        for row in range(len(values)):
            if column[:2] not in MOVED_TOGETHER:
                check({column: 1.0}, row)
            elif column[2:] == "2":
                check({column[:2] + "1": -1.0, column: 1.0}, row)
    check({"wx1": -1.0, "wx3": 1.0}, 0)


def test_sites_go_back_unchanged_but_for_what_changed(field, tmp_path):
    params = field.params()
    (same,) = field.write(tmp_path / "same", params)
    assert same.read_text() == XML
    sites = params["VirtualSites"]
    moved = {**sites, "weight2": sites["weight2"].at[0].set(0.65), "p1": sites["p1"].at[1].set(0.08)}
    (new,) = field.write(tmp_path / "new", {**params, "VirtualSites": moved})
    assert new.read_text() == XML.replace('"6e-1"', '"0.65"').replace('"0.07"', '"0.08"')
    assert str(field.rows["VirtualSites/p1"][1]).endswith("sites.xml, line 26: <VirtualSite>: p1")
    assert field.units["VirtualSites/p1"] == "nm"


def test_the_sites_of_a_system_are_those_of_its_files(field):
    params = field.params()
    model = from_openmm(field.create_system(TOPOLOGY, params))
    np.testing.assert_array_equal(model.atoms["VirtualSites/weight1"][:, 0], [4, 5, 13, 14, 21, 22])
    np.testing.assert_allclose(
        model.potential.placed(model.params, jnp.asarray(X)),
        field.create_potential(TOPOLOGY).placed(params, jnp.asarray(X)),
        rtol=0,
        atol=1e-15,
    )
