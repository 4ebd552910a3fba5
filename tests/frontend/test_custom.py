"""The custom force tags against OpenMM: energies by section, forces, numbers of the edited file, and the way back."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField
from diffff.neighbors import neighbor_list
from diffff.potentials.base import Potential, energy_and_forces

TOY = """<ForceField>
 <AtomTypes>
  <Type name="a" class="A" element="C" mass="12.0"/> <Type name="b" class="B" element="N" mass="14.0"/>
  <Type name="c" class="C" element="O" mass="16.0"/>
 </AtomTypes>
 <Residues><Residue name="TOY">
  <Atom name="P1" type="a" charge="0.2" hard="0.03"/> <Atom name="P2" type="b" charge="-0.3" hard="0.02"/>
  <Atom name="P3" type="a" charge="0.1" hard="0.01"/> <Atom name="P4" type="c" charge="-0.1" hard="0.04"/>
  <Atom name="P5" type="a" charge="0.05" hard="0.05"/> <Atom name="P6" type="c" charge="0.05" hard="0.02"/>
  <Bond atomName1="P1" atomName2="P2"/> <Bond atomName1="P2" atomName2="P3"/> <Bond atomName1="P3" atomName2="P4"/>
  <Bond atomName1="P4" atomName2="P5"/> <Bond atomName1="P3" atomName2="P6"/>
 </Residue></Residues>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">
  <UseAttributeFromResidue name="charge"/>
  <Atom class="A" sigma="0.34" epsilon="0.4"/> <Atom type="b" sigma="0.32" epsilon="0.7"/> <Atom class="C" sigma="0.3" epsilon="0.1"/>
 </NonbondedForce>
 <CustomBondForce energy="scale*D*(1-exp(-a*(r-r0)))^2">
  <GlobalParameter name="scale" defaultValue="1.25"/>
  <PerBondParameter name="D"/> <PerBondParameter name="a"/> <PerBondParameter name="r0"/>
  <Bond class1="A" class2="B" D="400.0" a="20" r0="0.14"/> <Bond class1="A" class2="Nowhere" D="1" a="1" r0="1"/>
  <Bond class1="A" class2="C" D="300.0" a="22.5" r0="1.3e-1"/>
 </CustomBondForce>
 <CustomBondForce energy="q*r^3">
  <PerBondParameter name="q"/> <Bond class1="A" class2="B" q="10.0"/>
 </CustomBondForce>
 <CustomBondForce energy="q*r^3">
  <PerBondParameter name="q"/> <Bond class1="C" class2="A" q="12.0"/>
 </CustomBondForce>
 <CustomAngleForce energy="k*(cos(theta)-c)^2">
  <PerAngleParameter name="k"/> <PerAngleParameter name="c"/>
  <Angle class1="A" class2="B" class3="A" k="40.0" c="-0.3"/> <Angle class1="" class2="A" class3="" k="30.0" c="-0.4"/>
 </CustomAngleForce>
 <CustomTorsionForce energy="scale*v*(1+cos(2*theta-t0))+w*theta^2"{ordering}>
  <PerTorsionParameter name="v"/> <PerTorsionParameter name="t0"/> <GlobalParameter name="scale" defaultValue="1.25"/>
  <GlobalParameter name="w" defaultValue="0.5"/>
  <Proper class1="" class2="A" class3="B" class4="" v="2.5" t0="0.3"/>
  <Improper class1="A" class2="C" class3="" class4="" v="1.5" t0="2.9"/>
  <Improper class1="A" class2="B" class3="C" class4="C" v="4.0" t0="3.0"/>
 </CustomTorsionForce>
 <CustomNonbondedForce energy="hard1*hard2*table(r)/r^3+kinds(kind1*kind2,kind1+kind2)*exp(-both1*both2*r)" bondCutoff="2">
  <PerParticleParameter name="kind"/> <PerParticleParameter name="hard"/>
  <ComputedValue name="both" expression="x*scale; x=1+kind"/> <GlobalParameter name="scale" defaultValue="1.25"/>
  <UseAttributeFromResidue name="hard"/>
  <Atom class="A" kind="0"/> <Atom class="B" kind="1"/> <Atom class="C" kind="0"/>
  <Function name="table" min="0" max="1.2">0.1 0.5 0.9 0.2 -0.4 0.1</Function>
  <Function name="kinds" type="Discrete2D" xsize="2" ysize="3">0.5 9 -0.25 9 9 1.5</Function>
 </CustomNonbondedForce>
 <CustomNonbondedForce energy="138.9*charge1*charge2*(1/r-1)*c1*c2" bondCutoff="3">
  <PerParticleParameter name="charge"/> <PerParticleParameter name="c"/>
  <UseAttributeFromResidue name="charge"/>
  <Atom class="A" c="0.9"/> <Atom class="B" c="1.1"/> <Atom class="C" c="1.0"/>
 </CustomNonbondedForce>
</ForceField>
"""  # noqa: E501
SECTIONS = ["CustomBondForce", "CustomBondForce-2", "CustomBondForce-3", "CustomAngleForce", "CustomTorsionForce"]
SECTIONS += ["CustomNonbondedForce", "CustomNonbondedForce-2"]


def write_toy(folder: Path, ordering: str = "") -> tuple[Path, app.Topology, np.ndarray]:
    """The file, two of its molecules in a box, and their positions."""
    rng = np.random.default_rng(5)
    path = folder / "toy.xml"
    path.write_text(TOY.replace("{ordering}", ordering and f' ordering="{ordering}"'))
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("TOY", chain)
        elements = [app.element.carbon, app.element.nitrogen, app.element.carbon, app.element.oxygen]
        elements += [app.element.carbon, app.element.oxygen]
        atoms = [topology.addAtom(f"P{i + 1}", e, residue) for i, e in enumerate(elements)]
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (2, 5)):
            topology.addBond(atoms[i], atoms[j])
    topology.setPeriodicBoxVectors(np.diag([1.7, 1.8, 1.9]) * unit.nanometer)
    one = [[0, 0, 0], [1.3, 0.4, 0.1], [1.8, 1.7, 0.3], [3.1, 1.9, -0.2], [3.7, 3.0, 0.6], [0.9, 2.7, 0.8]]
    x = np.array(one) / 10
    return path, topology, np.concatenate([x, x + np.array([0.05, 0.1, 0.5])]) + 0.005 * rng.normal(size=(12, 3))


@pytest.fixture
def toy(tmp_path) -> tuple[Path, app.Topology, np.ndarray]:
    return write_toy(tmp_path)


def of_openmm(system: mm.System, x: np.ndarray) -> tuple[float, np.ndarray, list[tuple[str, float]]]:
    """Energy, forces, and energies of the forces in their order."""
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    state = context.getState(getEnergy=True, getForces=True)
    forces = np.array(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))
    parts = [
        (force.getName(), context.getState(getEnergy=True, groups={group}).getPotentialEnergy()._value)
        for group, force in enumerate(system.getForces())
    ]
    return state.getPotentialEnergy()._value, forces, parts


def ours(ff: ForceField, topology: app.Topology, x: np.ndarray, params=None, **options):
    """Energy, forces, energies by term, and the function that gives the energy of other parameters."""
    potential = ff.createPotential(topology, **options)
    periodic = options.get("nonbondedMethod", app.NoCutoff) not in (app.NoCutoff, app.CutoffNonPeriodic)
    box = jnp.array(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)) if periodic else None
    params = ff.params() if params is None else params
    listed = neighbor_list(x, None if box is None else np.asarray(box), potential.cutoff)
    energy, forces, parts = _evaluated(potential, params, jnp.asarray(x), box, listed)
    return float(energy), np.asarray(forces), parts, jax.jit(lambda p: potential.energy(p, x, box, listed))


@jax.jit
def _evaluated(potential: Potential, params, x, box, listed):
    return *energy_and_forces(potential, params, x, box, listed), potential.energies(params, x, box, listed)


def compare(path: Path, topology: app.Topology, x: np.ndarray, **options) -> None:
    energy, forces, parts = of_openmm(app.ForceField(str(path)).createSystem(topology, **options), x)
    found, found_forces, found_parts, _ = ours(ForceField(path), topology, x, **options)
    for tag in sorted({name.split("-")[0] for name in SECTIONS}):
        expected = [value for name, value in parts if name == tag]
        values = [found_parts[name] for name in SECTIONS if name.split("-")[0] == tag]
        np.testing.assert_allclose(values, expected, rtol=1e-11, err_msg=tag)
    np.testing.assert_allclose(found, energy, rtol=1e-10)
    np.testing.assert_allclose(found_forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())


@pytest.mark.parametrize("ordering", ["", "default", "amber"])
def test_each_section_has_the_energy_of_openmm(tmp_path, ordering):
    compare(*write_toy(tmp_path, ordering))


def test_pairs_end_at_the_cutoff(toy):
    compare(*toy, nonbondedMethod=app.PME, nonbondedCutoff=0.8)


@pytest.mark.slow
def test_each_number_has_the_derivative_of_the_edited_file(toy):
    path, topology, x = toy
    ff = ForceField(path)
    params = ff.params()
    assert [name for name in params if name.startswith("Custom")] == SECTIONS
    assert "scale" not in params["CustomTorsionForce"] and params["CustomBondForce"]["scale"].shape == ()
    *_, energy = ours(ff, topology, x)
    gradient = jax.grad(energy)(params)
    for tag in [*SECTIONS, "NonbondedForce"]:
        for column, leaf in gradient[tag].items():
            if column == "kind":
                continue  # an index: OpenMM rounds it
            for i in np.ndindex(leaf.shape):
                step = 1e-4 * max(abs(float(params[tag][column][i])), 0.1)
                values = []
                for h in (-2, -1, 1, 2):
                    moved = {**params, tag: {**params[tag], column: params[tag][column].at[i].add(h * step)}}
                    values.append(of_openmm(ff.create_system(topology, moved), x)[0])
                numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
                np.testing.assert_allclose(leaf[i], numeric, rtol=1e-6, atol=1e-6, err_msg=f"{tag}/{column} {i}")


def test_only_changed_numbers_change_in_the_file(toy, tmp_path):
    path, topology, x = toy
    ff = ForceField(path)
    params = ff.params()
    assert ff.write(tmp_path / "same", params)[0].read_bytes() == path.read_bytes()
    params["CustomBondForce"]["scale"] = jnp.asarray(1.5)  # which stands in three sections
    params["CustomBondForce-3"]["q"] = params["CustomBondForce-3"]["q"].at[0].set(11.0)
    params["CustomNonbondedForce"]["table"] = params["CustomNonbondedForce"]["table"].at[2].set(0.75)
    params["CustomNonbondedForce"]["hard"] = params["CustomNonbondedForce"]["hard"].at[1].set(0.07)
    written = ff.write(tmp_path / "changed", params)[0]
    before, after = path.read_text().splitlines(), written.read_text().splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 6
    compare(written, topology, x)
    energy = of_openmm(app.ForceField(str(written)).createSystem(topology), x)[0]
    np.testing.assert_allclose(ours(ff, topology, x, params)[0], energy, rtol=1e-11)
    assert ff.rows["CustomNonbondedForce/table"][2].old == "0.9"


def test_what_no_row_fits_is_left_out(toy):
    path, topology, _ = toy
    text = path.read_text().replace('class1="A" class2="B" q=', 'class1="B" class2="B" q=')
    path.write_text(text)
    terms = [term.name for term in ForceField(path).create_potential(topology, missing="skip").terms]
    assert "CustomBondForce-2" not in terms and "CustomBondForce-3" in terms


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('energy="k*(cos(theta)-c)^2"', "", 'has no energy. Add energy="…"'),
        ("k*(cos(theta)-c)^2", "k*(cos(theta)-d)^2", "<CustomAngleForce>: expression"),
        ("k*(cos(theta)-c)^2", "k*(cos(theta)-c", "line 29: <CustomAngleForce>: expression"),
        (' c="-0.3"', ' d="-0.3"', 'has no attribute "c"'),
        (' c="-0.3"', ' c="-0.3" cc="1"', 'has an attribute "cc" that is no <PerAngleParameter>'),
        (
            'defaultValue="1.25"/>\n  <GlobalParameter name="w"',
            'defaultValue="1.2"/>\n  <GlobalParameter name="w"',
            "OpenMM knows one value of a global parameter",
        ),
        ('<PerAngleParameter name="c"/>', '<PerAngleParameter name="k"/>', 'has the name "k" again'),
        ('name="table" min="0" max="1.2"', 'name="table" min="0" max="-1"', "OpenMM cannot apply the force field"),
        ('bondCutoff="3"', "", "has no bondCutoff"),
        ("<CustomAngleForce ", '<CustomHbondForce energy="1"/> <CustomAngleForce ', "does not have this force yet"),
        ('w*theta^2"', 'w*theta^2" ordering="smirnoff"', "OpenMM cannot read the force field"),
        ('D="400.0"', 'D="strong"', "D is 'strong', which is no number"),
    ],
)
def test_bad_sections_are_refused_with_a_sentence(toy, old, new, message):
    path, topology, _ = toy
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as refused:
        ForceField(path).create_potential(topology, missing="skip")
    assert message in str(refused.value)
