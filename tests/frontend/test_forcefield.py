"""Force fields against OpenMM: energies by force, forces, row gradients through edited files, and the way back."""

import inspect
import io
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
from diffff.potentials.base import energy_and_forces

DATA = Path(app.__file__).parent / "data"
AMBER = ("amber14/protein.ff14SB.xml", "amber14/tip3p.xml")
PEPTIDE = {"ignoreExternalBonds": True}

TOY = """<ForceField>
 <!-- a branched chain with every bonded tag -->
 <AtomTypes>
  <Type name="a" class="A" element="C" mass="12.0"/> <Type name="b" class="B" element="N" mass="14.0"/>
  <Type name="c" class="C" element="O" mass="16.0"/>
 </AtomTypes>
 <Residues><Residue name="TOY">
  <Atom name="P1" type="a" charge="0.2"/> <Atom name="P2" type="b" charge="-0.3"/> <Atom name="P3" type="a" charge="0.1"/>
  <Atom name="P4" type="c" charge="-0.1"/> <Atom name="P5" type="a" charge="0.05"/> <Atom name="P6" type="c" charge="0.05"/>
  <Bond atomName1="P1" atomName2="P2"/> <Bond atomName1="P2" atomName2="P3"/> <Bond atomName1="P3" atomName2="P4"/>
  <Bond atomName1="P4" atomName2="P5"/> <Bond atomName1="P3" atomName2="P6"/>
 </Residue></Residues>
 <HarmonicBondForce>
  <Bond class1="A" class2="B" length="0.14" k="200000.0"/> <Bond class1="A" class2="C" length="1.3e-1" k="180000"/>
 </HarmonicBondForce>
 <HarmonicAngleForce>
  <Angle class1="A" class2="B" class3="A" angle="2.0" k="400.0"/> <Angle class1="" class2="" class3="" angle="1.9" k="300.0"/>
 </HarmonicAngleForce>
 <AmoebaUreyBradleyForce><UreyBradley class1="A" class2="B" class3="A" d="0.24" k="5000.0"/></AmoebaUreyBradleyForce>
 <PeriodicTorsionForce ordering="{ordering}">
  <Proper class1="" class2="A" class3="B" class4="" periodicity1="2" phase1="3.1" k1="4.0" periodicity2="3" phase2="0.2" k2="1"/>
  <Proper class1="" class2="" class3="" class4="" periodicity1="3" phase1="0.0" k1="0.6"/>
  <Improper class1="A" class2="C" class3="" class4="" periodicity1="2" phase1="3.0" k1="7.0"/>
  <Improper class1="A" class2="B" class3="C" class4="C" periodicity1="2" phase1="2.5" k1="6.0"/>
 </PeriodicTorsionForce>
 <RBTorsionForce><Proper class1="A" class2="C" class3="A" class4="B" c0="1.5" c1="2.0" c2="-1" c3="0.5" c4="0.2" c5="0.1"/></RBTorsionForce>
 <CMAPTorsionForce><Map>{map}</Map> <Torsion class1="A" class2="C" class3="A" class4="B" class5="A" map="0"/></CMAPTorsionForce>
 <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">
  <UseAttributeFromResidue name="charge"/>
  <Atom class="A" sigma="0.34" epsilon="0.4"/> <Atom type="b" sigma="0.32" epsilon="0.7"/> <Atom class="C" sigma="0.3" epsilon="0.0"/>
 </NonbondedForce>
</ForceField>
"""  # noqa: E501


@pytest.fixture(scope="module")
def solvated() -> tuple[app.Topology, np.ndarray]:
    """Five residues of the protein and the waters near them in the file that comes with OpenMM."""
    pdb = app.PDBFile(str(DATA / "test.pdb"))
    x = np.array(pdb.positions.value_in_unit(unit.nanometer))
    residues = list(pdb.topology.residues())
    near = {r.index for r in residues[:5]}
    center = x[[a.index for r in residues[:5] for a in r.atoms()]].mean(axis=0)
    waters = [r for r in residues if r.name == "HOH"]
    waters.sort(key=lambda r: float(np.linalg.norm(x[next(r.atoms()).index] - center)))
    near |= {r.index for r in waters[:60]}
    model = app.Modeller(pdb.topology, pdb.positions)
    model.delete([r for r in model.topology.residues() if r.index not in near])
    model.topology.setPeriodicBoxVectors(np.array([[2.6, 0, 0], [0.3, 2.7, 0], [-0.2, 0.4, 2.5]]) * unit.nanometer)
    return model.topology, np.array(model.positions.value_in_unit(unit.nanometer))


@pytest.fixture
def toy(tmp_path) -> tuple[Path, app.Topology, np.ndarray]:
    """The file above with the default order of impropers, two of its molecules, and their positions."""
    return write_toy(tmp_path, "default")


def write_toy(folder: Path, ordering: str) -> tuple[Path, app.Topology, np.ndarray]:
    rng = np.random.default_rng(5)
    path = folder / "toy.xml"
    path.write_text(TOY.format(ordering=ordering, map=" ".join(f"{v:.3f}" for v in rng.normal(size=36))))
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("TOY", chain)
        elements = [app.element.carbon, app.element.nitrogen, app.element.carbon, app.element.oxygen]
        elements += [app.element.carbon, app.element.oxygen]
        atoms = [topology.addAtom(f"P{i + 1}", e, residue) for i, e in enumerate(elements)]
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (2, 5)):
            topology.addBond(atoms[i], atoms[j])
    one = (
        np.array([[0, 0, 0], [1.3, 0.4, 0.1], [1.8, 1.7, 0.3], [3.1, 1.9, -0.2], [3.7, 3.0, 0.6], [0.9, 2.7, 0.8]]) / 10
    )
    x = np.concatenate([one, one + np.array([0.05, 0.1, 0.5])]) + 0.005 * rng.normal(size=(12, 3))
    return path, topology, x


def of_openmm(system: mm.System, x: np.ndarray) -> tuple[float, np.ndarray, dict[str, float]]:
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    state = context.getState(getEnergy=True, getForces=True)
    forces = np.array(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))
    parts = {
        force.getName(): context.getState(getEnergy=True, groups={group}).getPotentialEnergy()._value
        for group, force in enumerate(system.getForces())
    }
    return state.getPotentialEnergy()._value, forces, parts


def ours(ff: ForceField, topology: app.Topology, x: np.ndarray, params=None, **options):
    """Energy, forces, energies by term, and the function that gives the energy of other parameters."""
    potential = ff.createPotential(topology, **options)
    periodic = options.get("nonbondedMethod") is not app.CutoffNonPeriodic
    vectors = topology.getPeriodicBoxVectors() if periodic else None
    box = None if vectors is None else jnp.array(vectors.value_in_unit(unit.nanometer))
    params = ff.params() if params is None else params
    x = potential.placed(params, jnp.asarray(x))
    listed = neighbor_list(np.asarray(x), None if box is None else np.asarray(box), potential.cutoff)
    energy, forces = jax.jit(energy_and_forces)(potential, params, x, box, listed)
    parts = potential.energies(params, x, box, listed)
    return float(energy), np.asarray(forces), parts, lambda p: potential.energy(p, x, box, listed)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.9}, marks=pytest.mark.slow),
        pytest.param(
            {"nonbondedMethod": app.PME, "nonbondedCutoff": 9 * unit.angstrom, "constraints": app.HBonds},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.8, "switchDistance": 0.7, "rigidWater": False},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no cutoff", "reaction field", "PME", "PME, flexible, switched"],
)
def test_a_peptide_in_water_has_the_energy_of_openmm(solvated, options):
    topology, x = solvated
    system = app.ForceField(*AMBER).createSystem(topology, **options, **PEPTIDE)
    energy, forces, parts = of_openmm(system, x)
    found, found_forces, found_parts, _ = ours(ForceField(*AMBER), topology, x, **options, **PEPTIDE)
    assert set(found_parts) <= set(parts)
    for name, value in found_parts.items():
        np.testing.assert_allclose(value, parts[name], rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(found, energy, rtol=1e-10)
    np.testing.assert_allclose(found_forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())


def test_the_charge_beside_the_atoms_of_water_finds_its_place(solvated):
    topology, x = solvated
    file = "amber14/tip4pew.xml"
    model = app.Modeller(topology, x * unit.nanometer)
    model.delete([residue for residue in topology.residues() if residue.name != "HOH"])
    model.addExtraParticles(app.ForceField(file))
    system = app.ForceField(file).createSystem(model.topology)
    x = np.array(model.positions.value_in_unit(unit.nanometer))
    atoms = [i for i in range(len(x)) if not system.isVirtualSite(i)]
    energy, forces, _ = of_openmm(system, x)
    found, found_forces, *_ = ours(ForceField(file), model.topology, x)
    np.testing.assert_allclose(found, energy, rtol=1e-10)
    np.testing.assert_allclose(found_forces[atoms], forces[atoms], rtol=0, atol=1e-10 * np.abs(forces).max())


@pytest.mark.slow
@pytest.mark.parametrize("ordering", ["default", "charmm", "amber", "smirnoff"])
def test_all_bonded_tags_have_the_energy_of_openmm(tmp_path, ordering):
    path, topology, x = write_toy(tmp_path, ordering)
    energy, forces, parts = of_openmm(app.ForceField(str(path)).createSystem(topology), x)
    found, found_forces, found_parts, _ = ours(ForceField(path), topology, x)
    bonds = found_parts.pop("HarmonicBondForce") + found_parts.pop("AmoebaUreyBradleyForce")
    np.testing.assert_allclose(bonds, parts.pop("HarmonicBondForce"), rtol=1e-12)
    for name, value in found_parts.items():
        np.testing.assert_allclose(value, parts[name], rtol=1e-11, err_msg=name)
    np.testing.assert_allclose(found_forces, forces, rtol=0, atol=1e-11 * np.abs(forces).max())
    np.testing.assert_allclose(found, energy, rtol=1e-11)


@pytest.mark.slow
def test_each_row_has_the_derivative_of_the_edited_file(toy):
    path, topology, x = toy
    ff = ForceField(path)
    *_, energy = ours(ff, topology, x)
    params = ff.params()
    gradient = jax.grad(energy)(params)
    for name, leaf in (
        (f"{tag}/{column}", array) for tag, group in gradient.items() for column, array in group.items()
    ):
        tag, column = name.split("/")
        for i in np.ndindex(leaf.shape):
            start = float(params[tag][column][i])
            if column == "epsilon" and start == 0.0:
                assert leaf[i] == 0.0  # the root of epsilon has no derivative there
                continue
            step = 1e-4 * max(abs(start), 0.1)
            values = []
            for h in (-2, -1, 1, 2):
                moved = {**params, tag: {**params[tag], column: params[tag][column].at[i].add(h * step)}}
                values.append(of_openmm(ff.create_system(topology, moved), x)[0])
            numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
            np.testing.assert_allclose(leaf[i], numeric, rtol=1e-6, atol=2e-7, err_msg=f"{name} {i}")


def test_files_go_back_unchanged_but_for_what_changed(toy, tmp_path):
    path, topology, x = toy
    ff = ForceField(*AMBER)
    assert [p.read_bytes() for p in ff.write(tmp_path / "amber", ff.params())] == [d.data for d in ff.documents]
    ff = ForceField(path)
    written = ff.write(tmp_path / "same", ff.params())
    assert [p.read_bytes() for p in written] == [d.data for d in ff.documents]
    params = ff.params()
    params["HarmonicBondForce"]["k"] = params["HarmonicBondForce"]["k"].at[0].set(123456.75)
    params["NonbondedForce"]["charge"] = params["NonbondedForce"]["charge"].at[1].set(-0.325)
    params["NonbondedForce"]["coulomb14scale"] = jnp.asarray(0.75)
    params["CMAPTorsionForce"]["map"] = params["CMAPTorsionForce"]["map"].at[7].set(1.25)
    with pytest.raises(InputError, match="coulomb14scale"):
        ForceField(path, *AMBER)  # other scales than the toy's
    written = ff.write(tmp_path / "changed", params)
    before, after = path.read_text().splitlines(), written[0].read_text().splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 4
    energy = of_openmm(app.ForceField(str(written[0])).createSystem(topology), x)[0]
    np.testing.assert_allclose(ours(ForceField(written[0]), topology, x)[0], energy, rtol=1e-11)
    np.testing.assert_allclose(ours(ForceField(path), topology, x, params)[0], energy, rtol=1e-11)


def test_rows_tell_where_they_stand():
    ff = ForceField(*AMBER)
    assert set(ff.params()) == {"HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "NonbondedForce"}
    for path, places in ff.rows.items():
        tag, _, column = path.partition("/")
        if column and ff.params()[tag][column].ndim:
            assert len(places) == len(ff.params()[tag][column]) and path in ff.units
    place = ff.rows["NonbondedForce/charge"][0]
    assert place.element.tag == "Atom" and float(place.old) == ff.params()["NonbondedForce"]["charge"][0]
    assert "protein.ff14SB.xml, line" in str(place)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "<HarmonicAngleForce>",
            "<HarmonicAngelForce>",
            "is unknown in <ForceField>. Did you mean <HarmonicAngleForce>?",
        ),
        ('k="200000.0"', 'kk="200000.0"', 'has an attribute "kk" that no <Bond> has'),
        ('k="200000.0"', 'k="stiff"', "k is 'stiff', which is no number"),
        ('length="0.14" ', "", 'has no attribute "length"'),
        ("<NonbondedForce ", '<Script>print("x")</Script><NonbondedForce ', "Python code in a force field is not run"),
        ("<RBTorsionForce>", "<DrudeForce/><RBTorsionForce>", "does not have this force yet"),
        ('lj14scale="0.5"', 'lj14scale="0.5" useDispersionCorrection="exit()"', "write True or False"),
        ('class="A" element="C"', 'class="A" element="Qq"', "give the symbol of a chemical element"),
    ],
)
def test_bad_files_are_refused_with_a_sentence(toy, old, new, message):
    path, topology, _ = toy
    assert old in path.read_text()
    changed = path.read_text().replace(old, new)
    if "Angel" in new:
        changed = changed.replace("</HarmonicAngleForce>", "</HarmonicAngelForce>")
    path.write_text(changed)
    with pytest.raises(InputError) as refused:
        ForceField(path).create_potential(topology)
    assert message in str(refused.value)


def test_what_no_row_or_template_fits_is_named(toy):
    path, topology, _ = toy
    whole = path.read_text()
    path.write_text(whole.replace('<Bond class1="A" class2="C" length="1.3e-1" k="180000"/>', ""))
    with pytest.raises(
        InputError, match=r"no row for bond TOY 1 P3 – TOY 1 P4 \(types a – c\), and for 5 others\. Add"
    ):
        ForceField(path).create_potential(topology)
    ForceField(path).create_potential(topology, missing="skip")
    everything = 'class1="" class2="" class3="" class4="" periodicity1="3"'
    path.write_text(whole.replace(everything, everything.replace('""', '"A"')))
    with pytest.raises(InputError, match=r"no row for torsion TOY 1 P\d – TOY 1 P\d – TOY 1 P\d – TOY 1 P\d \(types"):
        ForceField(path).create_potential(topology)
    other = app.PDBFile(
        io.StringIO("ATOM      1  XX  XXX A   1       0.000   0.000   0.000  1.00  0.00          NE  \nEND\n")
    )
    with pytest.raises(InputError, match="No template found for residue"):
        ForceField(path).create_potential(other.topology)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nonbonded_method": "PNE"}, "nonbonded_method 'PNE' is unknown; give one of NoCutoff"),
        ({"nonbonded_method": "PME"}, "needs a periodic box, which the topology does not have"),
        ({"nonbonded_method": "CutoffNonPeriodic", "nonbonded_cutoff": -1.0}, "nonbonded_cutoff is -1.0 nm"),
        ({"nonbonded_cutoff": 1.0 * unit.kelvin}, "which is no length"),
        ({"constraints": "Bonds"}, "constraints 'Bonds' is unknown"),
    ],
)
def test_options_without_sense_are_refused(toy, options, message):
    with pytest.raises(InputError) as refused:
        ForceField(toy[0]).create_potential(toy[1], **options)
    assert message in str(refused.value)


def test_the_arguments_of_openmm_are_taken_in_its_order(solvated):
    """All that createSystem takes by position, with the names and the order it has them in."""
    topology, _ = solvated
    known, here = (
        list(inspect.signature(method).parameters.values())
        for method in (app.ForceField.createSystem, ForceField.createPotential)
    )
    by_position = [p.name for p in here if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_position == [p.name for p in known][: len(by_position)]
    ff = ForceField(*AMBER)
    given = (app.PME, 0.8 * unit.nanometer, app.HBonds, True, False, 4 * unit.amu)
    names = [term.name for term in ff.createPotential(topology, *given, **PEPTIDE).terms]
    assert names == [term.name for term in ff.createPotential(topology, *given[:4], **PEPTIDE).terms]


def test_files_are_found_or_named():
    with pytest.raises(InputError, match=r"amber14-al\.xml: no such file here, in OpenMM's data"):
        ForceField("amber14-al.xml")
    with pytest.raises(InputError, match="no file is given"):
        ForceField()
    assert ForceField("amber14-all.xml").documents[0].path.name == "amber14-all.xml"
