"""``<LennardJonesForce>`` against OpenMM: energies, forces, row gradients by edited files, and who gets which."""

from pathlib import Path

import jax
import numpy as np
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField
from tests.frontend.test_forcefield import of_openmm, ours

MAIN = """<ForceField>
 <AtomTypes>
  <Type name="a" class="A" element="C" mass="12.0"/> <Type name="b" class="B" element="N" mass="14.0"/>
  <Type name="c" class="C" element="O" mass="16.0"/> <Type name="d" class="C" element="O" mass="16.0"/>
 </AtomTypes>
 <Residues><Residue name="TOY">
  <Atom name="P1" type="b" charge="0.2"/> <Atom name="P2" type="c" charge="-0.3"/>
  <Atom name="P3" type="a" charge="0.1"/> <Atom name="P4" type="c" charge="-0.1"/>
  <Atom name="P5" type="a" charge="0.05"/> <Atom name="P6" type="d" charge="0.05"/>
  <Bond atomName1="P1" atomName2="P2"/> <Bond atomName1="P2" atomName2="P3"/> <Bond atomName1="P3" atomName2="P4"/>
  <Bond atomName1="P4" atomName2="P5"/> <Bond atomName1="P3" atomName2="P6"/>
 </Residue></Residues>
 <NonbondedForce coulomb14scale="1.0" lj14scale="1.0">
  <UseAttributeFromResidue name="charge"/> <Atom class="" sigma="1.0" epsilon="0.0"/>
 </NonbondedForce>
 <LennardJonesForce lj14scale="0.75"{correction}>
  <Atom class="C" sigma="0.29" epsilon="0.6" sigma14="0.25" epsilon14="0.3"/>
  <Atom type="a" sigma="0.33" epsilon="0.4" sigma14="0.3"/> <Atom class="B" sigma="0.31" epsilon="0.7"/>
  <Atom class="UNHEARD" sigma="0.31" epsilon="0.7"/>
  <NBFixPair class1="A" class2="B" sigma="0.35" epsilon="0.2"/>
 </LennardJonesForce>
</ForceField>
"""
MORE = """<ForceField>
 <LennardJonesForce lj14scale="0.75">
  <Atom type="c" sigma="0.28" epsilon="0.5" epsilon14="0.15"/>
  <NBFixPair type1="d" type2="a" sigma="0.30" epsilon="0.9"/>
  <NBFixPair class1="A" class2="" sigma="0.4" epsilon="0.1"/>
  <NBFixPair type1="d" class2="C" sigma="0.27" epsilon="0.45"/>
  <NBFixPair class1="A" class2="ABSENT" sigma="3" epsilon="3"/>
 </LennardJonesForce>
</ForceField>
"""
GREEDY = '\n  <NBFixPair class1="A" class2="" sigma="0.4" epsilon="0.1"/>'  # fits what others fit too
METHODS = [
    {},
    {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.9},
    {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.9, "switchDistance": 0.7},
    {"nonbondedMethod": app.CutoffPeriodic, "nonbondedCutoff": 0.9, "useDispersionCorrection": False},
]
CHAIN = np.array([[0, 0, 0], [1.3, 0.4, 0.1], [1.8, 1.7, 0.3], [3.1, 1.9, -0.2], [3.7, 3.0, 0.6], [0.9, 2.7, 0.8]]) / 10


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """The two files; d has the first row of its class, c the later one of its type."""
    paths = [tmp_path / "main.xml", tmp_path / "more.xml"]
    for path, text in zip(paths, (MAIN.format(correction=""), MORE.replace(GREEDY, "")), strict=True):
        path.write_text(text)
    return paths


@pytest.fixture(scope="module")
def molecules() -> tuple[app.Topology, np.ndarray]:
    """Eight molecules in a triclinic box."""
    rng = np.random.default_rng(5)
    topology, x = app.Topology(), []
    chain = topology.addChain()
    elements = [app.Element.getBySymbol(symbol) for symbol in "NOCOCO"]
    for corner in np.ndindex(2, 2, 2):
        residue = topology.addResidue("TOY", chain)
        atoms = [topology.addAtom(f"P{i + 1}", e, residue) for i, e in enumerate(elements)]
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (2, 5)):
            topology.addBond(atoms[i], atoms[j])
        x.append(CHAIN + 0.6 * np.array(corner) + 0.005 * rng.normal(size=(6, 3)))
    topology.setPeriodicBoxVectors(np.array([[2.0, 0, 0], [0.2, 2.1, 0], [-0.3, 0.4, 1.9]]) * unit.nanometer)
    return topology, np.concatenate(x)


def of_force(parts: dict[str, float]) -> float:
    """What the tag adds to OpenMM's energy."""
    return parts["LennardJones"] + parts["LennardJones14"]


@pytest.mark.slow
@pytest.mark.parametrize("options", METHODS, ids=["no cutoff", "cutoff", "PME, switched", "periodic"])
def test_energy_and_forces_of_openmm(files, molecules, options):
    topology, x = molecules
    energy, forces, parts = of_openmm(app.ForceField(*map(str, files)).createSystem(topology, **options), x)
    found, found_forces, found_parts, _ = ours(ForceField(*files), topology, x, **options)
    # OpenMM's quadrature of what is beyond the cutoff is not that good
    tolerance = 1e-6 if options.get("switchDistance") else 1e-12
    np.testing.assert_allclose(found_parts["LennardJonesForce"], of_force(parts), rtol=tolerance)
    np.testing.assert_allclose(found, energy, rtol=tolerance)
    np.testing.assert_allclose(found_forces, forces, rtol=0, atol=1e-12 * np.abs(forces).max())


@pytest.mark.slow
def test_each_row_has_the_derivative_of_the_edited_file(files, molecules):
    topology, x = molecules
    ff, name = ForceField(*files), "LennardJonesForce"
    *_, energy = ours(ff, topology, x)
    params = ff.params()
    gradient = jax.grad(energy)(params)[name]
    sizes = {"sigma": 5, "epsilon": 5, "sigma14": 2, "epsilon14": 2, "nbfix_sigma": 4, "nbfix_epsilon": 4}
    assert {column: leaf.size for column, leaf in gradient.items()} == {**sizes, "lj14scale": 1}
    for column, leaf in gradient.items():
        for i in np.ndindex(leaf.shape):
            start = float(params[name][column][i])
            step = 0.125 if column == "lj14scale" else 1e-3 * start  # OpenMM keeps six digits of the scale
            values = []
            for h in (-2, -1, 1, 2):
                moved = {**params, name: {**params[name], column: params[name][column].at[i].add(h * step)}}
                values.append(of_force(of_openmm(ff.create_system(topology, moved), x)[2]))
            numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
            np.testing.assert_allclose(leaf[i], numeric, rtol=1e-8, atol=1e-8, err_msg=f"{column} {i}")
    used = {column: np.flatnonzero(leaf).tolist() for column, leaf in gradient.items()}
    for column in ("sigma", "epsilon", "nbfix_sigma", "nbfix_epsilon"):
        assert 3 not in used.pop(column)  # its class is in no file
    assert used == {"sigma14": [0, 1], "epsilon14": [0, 1], "lj14scale": [0]}


def test_files_go_back(files, molecules, tmp_path):
    topology, x = molecules
    ff = ForceField(*files)
    assert [p.read_bytes() for p in ff.write(tmp_path / "same", ff.params())] == [d.data for d in ff.documents]
    params = ff.params()
    group = params["LennardJonesForce"]
    group["lj14scale"] = group["lj14scale"] * 0 + 0.5
    for column, i in (("epsilon14", 1), ("nbfix_sigma", 1)):
        group[column] = group[column].at[i].set(0.2625)
    written = ff.write(tmp_path / "changed", params)
    before, after = ("\n".join(p.read_text() for p in paths).splitlines() for paths in (files, written))
    assert [b for a, b in zip(before, after, strict=True) if a != b] == [
        ' <LennardJonesForce lj14scale="0.5">',
        ' <LennardJonesForce lj14scale="0.5">',
        '  <Atom type="c" sigma="0.28" epsilon="0.5" epsilon14="0.2625"/>',
        '  <NBFixPair type1="d" type2="a" sigma="0.2625" epsilon="0.9"/>',
    ]
    energy = of_openmm(app.ForceField(*map(str, written)).createSystem(topology), x)[0]
    np.testing.assert_allclose(ours(ForceField(*written), topology, x)[0], energy, rtol=1e-11)
    np.testing.assert_allclose(ours(ff, topology, x, params)[0], energy, rtol=1e-11)


@pytest.mark.parametrize(("written", "chosen"), [("False", None), ("True", False), ("False", True)])
def test_files_and_users_choose_the_dispersion_correction(files, molecules, written, chosen):
    files[0].write_text(MAIN.format(correction=f' useDispersionCorrection="{written}"'))
    potential = ForceField(*files).create_potential(
        molecules[0], nonbonded_method="PME", nonbonded_cutoff=0.9, use_dispersion_correction=chosen
    )
    term = {term.name: term for term in potential.terms}["LennardJonesForce"]
    assert term.dispersion_correction is (written == "True" if chosen is None else chosen)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '<NBFixPair class1="A" class2="B"',
            '<NBFixPair class1="" class2="A" sigma="1" epsilon="1"/> <NBFixPair class1="A" class2="B"',
            "<NBFixPair> are both for the types",
        ),
        ('<Atom class="B"', '<Atom class="Z"', "no row for the type b of atom TOY 1 P1. Add an <Atom"),
        ('<Atom class="B"', '<Atom class="B" type="b"', "has both class and type; give one of them"),
        ('<NBFixPair class1="A" ', "<NBFixPair ", "has neither class1 nor type1; give one of them"),
        ('class2="B" sigma="0.35"', 'class2="B"', 'has no attribute "sigma"'),
        ('class2="B" sigma="0.35"', 'class2="B" sigma="0.35" sigma14="0.3"', 'has an attribute "sigma14" that no'),
        ('lj14scale="0.75"', 'lj14scale="0.5"', "Files with different scales cannot be used together"),
        ('lj14scale="0.75"', 'lj14scale="0.75" useDispersionCorrection="1"', "write True or False"),
        ("NonbondedForce ", "LennardJonesForce ", "is unknown in <LennardJonesForce>"),
    ],
)
def test_bad_files_are_refused_with_a_sentence(files, molecules, old, new, message):
    text = MAIN.format(correction="")
    assert old in text
    text = text.replace(old, new, 1)
    files[0].write_text(text.replace("</NonbondedForce>", "</LennardJonesForce>") if "Nonbonded" in old else text)
    with pytest.raises(InputError) as refused:
        ForceField(*files).create_potential(molecules[0], missing="skip")
    assert message in str(refused.value)


def test_what_openmm_does_not_do_is_refused(files, molecules):
    with pytest.raises(InputError, match="LennardJonesForce has no LJPME, neither here nor in OpenMM; choose PME"):
        ForceField(*files).create_potential(molecules[0], nonbonded_method="LJPME", nonbonded_cutoff=0.9)
    text = MAIN.format(correction="")
    start, end = text.index("<NonbondedForce"), text.index("<LennardJonesForce")
    files[0].write_text(text[:start] + text[end:])
    with pytest.raises(InputError, match="has no <NonbondedForce>, whose excluded pairs it shares"):
        ForceField(*files).create_potential(molecules[0])


def test_two_rows_for_a_pair_are_refused_as_by_openmm(files, molecules):
    files[1].write_text(MORE)
    with pytest.raises(ValueError, match="Multiple NBFixPair entries match"):
        app.ForceField(*map(str, files)).createSystem(molecules[0])
    with pytest.raises(
        InputError, match=r"more\.xml, line 5: <NBFix.* and .*main\.xml, line .* are both for the types b – a"
    ):
        ForceField(*files).create_potential(molecules[0])
