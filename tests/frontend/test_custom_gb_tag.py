"""The tag CustomGBForce against OpenMM: energies by section, forces, numbers of the edited files, and the way back."""

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
from diffff.potentials.base import Potential

RESIDUE = '<UseAttributeFromResidue name="charge"/>'
SOLVENT = """<ForceField>
 <AtomTypes>
  <Type name="a" class="A" element="C" mass="12.0"/> <Type name="b" class="B" element="N" mass="14.0"/>
  <Type name="c" class="C" element="O" mass="16.0"/>
 </AtomTypes>
 <Residues><Residue name="TOY">
  <Atom name="P1" type="a" charge="0.4"/> <Atom name="P2" type="b" charge="-0.5"/> <Atom name="P3" type="a" charge="0.3"/>
  <Atom name="P4" type="c" charge="-0.2"/>
  <Bond atomName1="P1" atomName2="P2"/> <Bond atomName1="P2" atomName2="P3"/> <Bond atomName1="P3" atomName2="P4"/>
 </Residue></Residues>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">
  <UseAttributeFromResidue name="charge"/>
  <Atom class="A" sigma="0.34" epsilon="0.4"/> <Atom type="b" sigma="0.32" epsilon="0.7"/> <Atom class="C" sigma="0.3" epsilon="0.1"/>
 </NonbondedForce>
 <CustomBondForce energy="k*water*(r-0.14)^2">
  <GlobalParameter name="water" defaultValue="78.5"/> <PerBondParameter name="k"/>
  <Bond class1="A" class2="B" k="5.0"/> <Bond class1="A" class2="C" k="4.0"/>
 </CustomBondForce>
 <CustomGBForce>
  <GlobalParameter name="solute" defaultValue="2.0"/> <GlobalParameter name="water" defaultValue="78.5"/>
  <GlobalParameter name="offset" defaultValue="0.009"/>
  <PerParticleParameter name="charge"/> <PerParticleParameter name="radius"/> <PerParticleParameter name="scale"/>
  <UseAttributeFromResidue name="charge"/>
  <ComputedValue name="I" type="ParticlePairNoExclusions"><!-- descreening by Hawkins, Cramer and Truhlar -->
   select(step(r+s2-o1), 0.5*(1/L-1/U+0.25*(r-s2^2/r)*(1/U^2-1/L^2)+0.5*log(L/U)/r), 0);
   U=r+s2; L=max(o1, abs(r-s2)); o1=radius1-offset; s2=scale2*(radius2-offset)
  </ComputedValue>
  <ComputedValue name="B" type="SingleParticle">1/(1/o-tanh(psi-0.8*psi^2+4.85*psi^3)/radius); psi=I*o; o=radius-offset</ComputedValue>
  <EnergyTerm type="SingleParticle">28.3919551*(radius+0.14)^2*(radius/B)^6-69.4677*(1/solute-1/water)*charge^2/B</EnergyTerm>
  <EnergyTerm type="ParticlePair">-138.9355*(1/solute-1/water)*charge1*charge2/sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))</EnergyTerm>
  <Atom class="A" radius="0.17" scale="0.72"/> <Atom type="b" radius="1.55e-1" scale="0.79"/>
  <Atom class="C" radius="0.15" scale="0.85"/>
 </CustomGBForce>
</ForceField>
"""  # noqa: E501
MORE = """<ForceField><CustomGBForce>
  <GlobalParameter name="solute" defaultValue="2.0"/> <PerParticleParameter name="w"/> <PerParticleParameter name="charge"/>
  <ComputedValue name="n" type="ParticlePair">w1*w2*exp(-r/0.2)</ComputedValue>
  <EnergyTerm type="SingleParticle">solute*table(n)*charge</EnergyTerm> <EnergyTerm type="ParticlePairNoExclusions">n1*n2/r</EnergyTerm>
  <Atom class="A" w="0.9" charge="1"/> <Atom class="B" w="1.1" charge="2.5"/> <Atom class="C" w="0.7" charge="-1"/>
  <Function name="table" min="0" max="4">0.1 0.5 0.9 0.2 -0.4 0.1</Function>
</CustomGBForce></ForceField>
"""  # noqa: E501
SECTIONS = ["CustomBondForce", "CustomGBForce", "CustomGBForce-2"]
Toy = tuple[list[Path], app.Topology, np.ndarray]


@pytest.fixture
def toy(tmp_path) -> Toy:
    """The two files, two of the molecules in a box, and their positions."""
    for name, text in (("solvent.xml", SOLVENT), ("more.xml", MORE)):
        (tmp_path / name).write_text(text)
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("TOY", chain)
        elements = [app.Element.getBySymbol(symbol) for symbol in "CNCO"]
        atoms = [topology.addAtom(f"P{i + 1}", element, residue) for i, element in enumerate(elements)]
        for i in range(3):
            topology.addBond(atoms[i], atoms[i + 1])
    topology.setPeriodicBoxVectors(np.diag([1.7, 1.8, 1.9]) * unit.nanometer)
    one = np.array([[0, 0, 0], [1.3, 0.4, 0.1], [1.8, 1.7, 0.3], [3.1, 1.9, -0.2]]) / 10
    x = np.concatenate([one, one[:, [1, 0, 2]] + np.array([0.05, 0.1, 0.35])])
    return [tmp_path / "solvent.xml", tmp_path / "more.xml"], topology, x


def of_openmm(system: mm.System, x: np.ndarray) -> tuple[float, np.ndarray, list[tuple[str, float]]]:
    """Energy, forces, and energies of the forces in their order."""
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    parts = [
        (force.getName(), context.getState(energy=True, groups={group}).getPotentialEnergy()._value)
        for group, force in enumerate(system.getForces())
    ]
    return state.getPotentialEnergy()._value, forces, parts


def prepared(ff: ForceField, topology: app.Topology, x: np.ndarray, **options):
    """The potential, and the positions, box and neighbours that it wants."""
    potential = ff.createPotential(topology, **options)
    periodic = options.get("nonbondedMethod", app.NoCutoff) not in (app.NoCutoff, app.CutoffNonPeriodic)
    box = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)) if periodic else None
    return potential, jnp.asarray(x), box, neighbor_list(x, box, potential.cutoff)


@jax.jit
def evaluated(potential: Potential, params, x, box, listed):
    """Energy, energies by term, gradient by parameters, forces."""

    def energy(params, x):
        parts = potential.energies(params, x, box, listed)
        return sum(parts.values()), parts

    (total, parts), (gradient, slopes) = jax.value_and_grad(energy, (0, 1), has_aux=True)(params, x)
    return total, parts, gradient, -slopes


def compare(files: list[Path], topology: app.Topology, x: np.ndarray, **options) -> None:
    names = [str(path) for path in files]
    energy, forces, parts = of_openmm(app.ForceField(*names).createSystem(topology, **options), x)
    ff = ForceField(*names)
    potential, *rest = prepared(ff, topology, x, **options)
    found, found_parts, _, found_forces = evaluated(potential, ff.params(), *rest)
    for tag in ("CustomBondForce", "CustomGBForce", "NonbondedForce"):
        expected = [value for name, value in parts if name == tag]
        values = [found_parts[name] for name in (tag, f"{tag}-2") if name in found_parts]
        np.testing.assert_allclose(values, expected, rtol=1e-11, err_msg=tag)
    np.testing.assert_allclose(found, energy, rtol=1e-11)
    np.testing.assert_allclose(found_forces, forces, rtol=0, atol=1e-11 * np.abs(forces).max())


@pytest.mark.parametrize(("method", "order"), [(app.NoCutoff, 1), (app.CutoffNonPeriodic, -1), (app.CutoffPeriodic, 1)])
def test_each_section_has_the_energy_of_openmm(toy, method, order):
    """In whatever order the files come; with periodic images, the second molecule is near an image of the first."""
    files, topology, x = toy
    if method is app.CutoffPeriodic:
        x[4:] += [1.7, 0.0, -1.9]
    compare(files[::order], topology, x, nonbondedMethod=method, nonbondedCutoff=0.45)


@pytest.mark.slow
def test_each_number_has_the_derivative_of_the_edited_files(toy, tmp_path):
    """Charges belong to NonbondedForce; ``water`` and ``solute`` to the first section that has them."""
    files, topology, x = toy
    ff = ForceField(*files)
    params = ff.params()
    assert set(params["CustomGBForce"]) == {"radius", "scale", "solute", "offset"}
    assert set(params["CustomGBForce-2"]) == {"w", "charge", "table"}
    potential, *rest = prepared(ff, topology, x)
    _, _, gradient, _ = evaluated(potential, params, *rest)
    for tag in [*SECTIONS, "NonbondedForce"]:
        for column, leaf in gradient[tag].items():
            for i in np.ndindex(leaf.shape):
                step = 1e-4 * max(abs(float(params[tag][column][i])), 0.1)
                values = []
                for h in (-2, -1, 1, 2):
                    moved = {**params, tag: {**params[tag], column: params[tag][column].at[i].add(h * step)}}
                    edited = app.ForceField(*map(str, ff.write(tmp_path / "edited", moved)))
                    values.append(of_openmm(edited.createSystem(topology), x)[0])
                numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
                np.testing.assert_allclose(leaf[i], numeric, rtol=1e-6, atol=1e-6, err_msg=f"{tag}/{column} {i}")


def test_only_changed_numbers_change_in_the_files(toy, tmp_path):
    files, topology, x = toy
    ff = ForceField(*files)
    params = ff.params()
    for path, written in zip(files, ff.write(tmp_path / "same", params), strict=True):
        assert written.read_bytes() == path.read_bytes()
    params["CustomGBForce"]["solute"] *= 0.75  # which stands in both files
    params["CustomGBForce"]["radius"] = params["CustomGBForce"]["radius"].at[1].set(0.16)
    params["CustomGBForce-2"]["table"] = params["CustomGBForce-2"]["table"].at[2].set(0.75)
    changed = ff.write(tmp_path / "changed", params)
    lines = [
        (old, new)
        for path, written in zip(files, changed, strict=True)
        for old, new in zip(path.read_text().splitlines(), written.read_text().splitlines(), strict=True)
        if old != new
    ]
    assert [new for _, new in lines] == [
        lines[0][0].replace("2.0", "1.5"),
        lines[1][0].replace("1.55e-1", "0.16"),
        lines[2][0].replace("2.0", "1.5"),
        lines[3][0].replace("0.9", "0.75"),
    ]
    compare(changed, topology, x)
    potential, *rest = prepared(ff, topology, x)
    energy = of_openmm(ff.create_system(topology, params), x)[0]
    np.testing.assert_allclose(evaluated(potential, params, *rest)[0], energy, rtol=1e-11)


def test_single_precision_stays_single(toy):
    files, topology, x = toy
    ff = ForceField(*files)
    potential, _, box, listed = prepared(ff, topology, x, nonbondedMethod=app.CutoffNonPeriodic, nonbondedCutoff=0.5)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), ff.params())
    found = jax.eval_shape(evaluated, potential, params, jnp.asarray(x, jnp.float32), box, listed)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_charges_of_residues_stand_in_one_group(toy):
    """With NonbondedForce's own charges they belong to GBSAOBCForce if that uses them, else to the first section."""
    files, topology, x = toy
    text = SOLVENT.replace(RESIDUE, "", 1).replace(' sigma="', ' charge="0.1" sigma="')
    files[0].write_text(text)
    assert ForceField(files[0]).params()["CustomGBForce"]["charge"].shape == (4,)
    native = '<Atom class="A" radius="0.17" scale="0.8"/> <Atom class="B" radius="0.15" scale="0.8"/>'
    native += '<Atom class="C" radius="0.15" scale="0.8"/>'
    native = f"<GBSAOBCForce>{RESIDUE}{native}</GBSAOBCForce>"
    files[0].write_text(text.replace("<CustomGBForce>", f"{native}<CustomGBForce>"))
    params = ForceField(files[0]).params()
    assert params["GBSAOBCForce"]["charge"].shape == (4,) and "charge" not in params["CustomGBForce"]
    potential, *rest = prepared(ForceField(files[0]), topology, x)
    found = jax.jit(potential.energies)(params, *rest)
    parts = dict(of_openmm(app.ForceField(str(files[0])).createSystem(topology), x)[2])
    np.testing.assert_allclose(found["CustomGBForce"], parts["CustomGBForce"], rtol=1e-11)
    np.testing.assert_allclose(found["GBSAOBCForce"], parts["GBSAOBCForce"], rtol=1e-11)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<CustomGBForce>", '<CustomGBForce bondCutoff="3">', 'an attribute "bondCutoff" that no <CustomGBForce> has'),
        ('<EnergyTerm type="ParticlePair">', "<EnergyTerm>", "<EnergyTerm> has no type"),
        ('type="ParticlePair">', 'type="Pair">', "it must be one of SingleParticle, ParticlePair, Particle"),
        ('<ComputedValue name="B"', "<ComputedValue", "<ComputedValue> has no name"),
        ("</CustomGBForce>", '<EnergyTerm type="SingleParticle"> </EnergyTerm></CustomGBForce>', "is empty"),
        ("sqrt(r^2+B1", "sqrt(r^2+born1", "<CustomGBForce>: expression"),
        ("28.3919551*(radius", "28.3919551*((radius", "<CustomGBForce>: expression"),
        ('name="B" type="SingleParticle"', 'name="B" type="ParticlePair"', "the first value must be of a pair kind"),
        ('<ComputedValue name="B"', '<ComputedValue name="I"', "stands for two things"),
        (' scale="0.79"', "", 'has no attribute "scale"'),
        (' scale="0.79"', ' scale="0.79" size="1"', 'an attribute "size" that is no <PerParticleParameter>'),
        (' scale="0.79"', ' scale="large"', "scale is 'large', which is no number"),
        ('<Atom type="b" radius', '<Atom type="a" radius', "No parameters defined for atom type b"),
        ('name="offset" default', 'name="scale" default', 'has the name "scale" again'),
        ('name="water" defaultValue="78.5"/> <Per', 'name="water" defaultValue="80"/> <Per', "knows one value of a"),
    ],
)
def test_bad_sections_are_refused_with_a_sentence(toy, old, new, message):
    files, topology, _ = toy
    assert old in SOLVENT
    files[0].write_text(SOLVENT.replace(old, new))
    with pytest.raises(InputError) as refused:
        ForceField(files[0]).create_potential(topology)
    assert message in str(refused.value)


def test_two_implicit_solvents_are_refused(toy):
    with pytest.raises(InputError, match=r"solvent.xml, line 19: <CustomGBForce> and the script of .*obc2.xml are two"):
        ForceField(toy[0][0], "implicit/obc2.xml")
