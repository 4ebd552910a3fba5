"""Bad force fields, topologies, options and numbers, each with the key part of the sentence that it must print."""

import os
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField
from diffff.neighbors import neighbor_list
from tests.frontend.test_forcefield import write_toy

NO_XML = [
    (b"", r"line 1: the file is empty\. Give an OpenMM XML file"),
    (b" \r\n", "line 1: the file is empty"),
    (b"bonds and angles", r"line 1, column 1: not well-formed XML \(syntax error\)"),
    (b'{"HarmonicBondForce": {}}', "line 1, column 1: not well-formed XML"),
    (b"\x1f\x8b\x08\x00\x00\x00", "has NUL bytes, so it is no text"),
    (b"<System/>", r"begins with <System>; a force field is one <ForceField>"),
    (b"<ForceField>\n<AtomTypes>\n</ForceField>", r"line 3, column 3: not well-formed XML \(mismatched tag\)"),
    (b"<ForceField><AtomTypes", r"not well-formed XML \(unclosed token\)"),
    (b"<ForceField/><ForceField/>", r"column 14: not well-formed XML \(junk after document element\)"),
    (b'<ForceField><Include file="a" file="b"/></ForceField>', r"\(duplicate attribute\)"),
    (b"<ForceField>&mass;</ForceField>", r"\(undefined entity\)"),
    (b'<ForceField><Include file="\xff"/></ForceField>', r"not well-formed XML \(not well-formed \(invalid token\)\)"),
    (b'<!DOCTYPE f [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><ForceField>&b;</ForceField>', "could fill the memory"),
    (b'<!DOCTYPE f [<!ENTITY a SYSTEM "file:///etc/passwd">]><ForceField>&a;</ForceField>', "or fetch other files"),
    (
        b"<?xml version='1.0' encoding='klingon'?><ForceField/>",
        r"\(unknown encoding: klingon\)\. Save the file",
    ),
    (b"<?xml version='1.0' encoding='shift_jis'?><ForceField/>", "its encoding cannot be read"),
    (b"<ForceField>" + 100 * b"<Info>", "more than 64 elements inside each other; this is no force field"),
]


@pytest.mark.parametrize(("data", "sentence"), NO_XML, ids=[sentence for _, sentence in NO_XML])
def test_what_is_no_force_field(tmp_path, data, sentence):
    (tmp_path / "bad.xml").write_bytes(data)
    with pytest.raises(InputError, match=sentence) as refused:
        ForceField(tmp_path / "bad.xml")
    assert str(refused.value).startswith(f"{tmp_path / 'bad.xml'}, line ")


SITE = '<VirtualSite type="average2" siteName="P{}" atomName1="P{}" atomName2="P{}" weight1="0.5" weight2="0.5" {}/>'
# What to replace in the toy, by what, and the sentence.
BAD_ROWS = [
    ('k="180000"', 'k=""', "line 14: <Bond>: k is '', which is no number"),
    ('k="180000"', 'k="1,5"', "k is '1,5', which is no number. Write a decimal number"),
    ('k="180000"', 'k="1d5"', "k is '1d5', which is no number"),
    ('k="180000"', 'k="180000 kJ/mol/nm^2"', "k is '180000 kJ/mol/nm^2', which is no number"),
    ('k="180000"', 'k="nan"', "k is 'nan', which is not finite"),
    ('k="180000"', 'k="-1e999"', "k is '-1e999', which is not finite"),
    (' k="180000"', "", 'line 14: <Bond> has no attribute "k". Add k="…"'),
    (' phase2="0.2" k2="1"', ' phase2="0.2"', 'has no attribute "k2"'),
    (' c5="0.1"', "", '<Proper> has no attribute "c5"'),
    (' d="0.24"', "", '<UreyBradley> has no attribute "d"'),
    (' sigma="0.34"', "", 'line 30: <Atom> has no attribute "sigma"'),
    ('coulomb14scale="0.8" ', "", '<NonbondedForce> has no attribute "coulomb14scale"'),
    ('coulomb14scale="0.8"', 'coulomb14scale="1/1.2"', "coulomb14scale is '1/1.2', which is no number"),
    ('class2="B" length', 'class_2="B" length', 'an attribute "class_2" that no <Bond> has, so it would be without'),
    ("<CMAPTorsionForce>", '<CMAPTorsionForce energy="0">', 'attribute "energy" that no <CMAPTorsionForce> has'),
    ("<Map>", "<Map>1.0 ", "<Map> has 37 numbers, which are no square"),
    ("<Map>", "<Map>high ", "<Map>: number 0 is 'high', which is no number"),
    (
        "<UreyBradley ",
        "<UreyBradly ",
        "is unknown in <AmoebaUreyBradleyForce>. Did you mean <UreyBradley>",
    ),
    ("</Residue>", "<Link/></Residue>", "<Link> is unknown in <Residue>. Correct or remove it"),
    ("<ForceField>", "<ForceField><harmonicBondForce/>", "Did you mean <HarmonicBondForce>"),
    ("<ForceField>", "<ForceField><AmoebaVdwForce/>", "<AmoebaVdwForce>: diffff does not have this force yet"),
    ("<ForceField>", '<ForceField xmlns:x="y"><x:Info/>', "<x:Info> is unknown in <ForceField>"),
    ("<ForceField>", "<ForceField><Include/>", "<Include> names no file. Write <Include file="),
    ("<ForceField>", '<ForceField><Include file="gone.xml"/>', "gone.xml (included by "),
    ("<ForceField>", '<ForceField><Include file="."/>', "toy.xml) is a directory. Name the XML files in it"),
    (
        "<ForceField>",
        "<ForceField><InitializationScript>1</InitializationScript>",
        "not run unless asked to",
    ),
    (' name="charge"', ' name="sigma"', "only charges may stand in the residues"),
    (
        "</ForceField>",
        '<NonbondedForce coulomb14scale="0.7" lj14scale="0.5"/></ForceField>',
        "is 0.7, but",
    ),
    (
        'lj14scale="0.5">',
        'lj14scale="0.5" useDispersionCorrection="True"><!-- --></NonbondedForce>'
        '<NonbondedForce coulomb14scale="0.8" lj14scale="0.5" useDispersionCorrection="False">',
        "useDispersionCorrection is True in",
    ),
    ('name="P2" type="b"', 'name="P1" type="b"', '<Residue> has more than one atom of the name "P1"'),
    ('atomName1="P1" ', 'atomName1="PX" ', 'has a <Bond> with atomName1="PX" in line 10, but no such atom'),
    ("</AtomTypes>", '<Type name="b" class="B" mass="1"/></AtomTypes>', "multiple definitions for atom type: b"),
    ('<Atom class="C" sigma="0.3" epsilon="0.0"/>', "", "No parameters defined for atom type c"),
    (' charge="-0.3"', ' Charge="-0.3"', 'No value specified for "charge"'),
    (
        "<UseAttributeFromResidue ",
        '<Atom class="B" charge="1" sigma="1" epsilon="1"/><UseAttributeFromResidue ',
        "both",
    ),
    (
        "</Residue>",
        '<VirtualSite type="average9" siteName="P1"/></Residue>',
        'is of the type "average9"; give one of average2',
    ),
    ("</Residues>", '<Residue name="TOY"/></Residues>', "Residue template TOY with the same override level"),
    ('sigma="0.34"', 'sigma="-0.34"', "sigma is -0.34, but OpenMM accepts no number below 0"),
    ('epsilon="0.4"', 'epsilon="-1e-3"', "epsilon is -1e-3, but OpenMM accepts no number below 0"),
    ('periodicity2="3"', 'periodicity2="0"', '<Proper> has periodicity2="0"; give a whole number from 1'),
    ('periodicity2="3"', 'periodicity2="-2"', 'has periodicity2="-2"; give a whole number'),
    ('periodicity2="3"', 'periodicity2="2.5"', 'has periodicity2="2.5"; give a whole number'),
    ('mass="12.0"', 'mass="-12.0"', '<Type> has mass="-12.0"; give a number that is not negative'),
    ('mass="12.0"', 'mass="nan"', '<Type> has mass="nan"'),
    ('mass="12.0"', 'mass="heavy"', '<Type> has mass="heavy"'),
    (' mass="12.0"', "", '<Type> has no attribute "mass". Add mass="…"'),
    (' class="A" element', " element", '<Type> has no attribute "class"'),
    (' class2="C" length', " length", "<Bond> has neither class2 nor type2; give one of them"),
    (' class2="C" length', ' class2="C" type2="c" length', "<Bond> has both class2 and type2"),
    (' class2="C" length', ' class2="C" class3="A" length', 'has an attribute "class3", but a <Bond> is of 2 atoms'),
    ('class="A" sigma', 'class1="A" sigma', "<Atom> has neither class nor type; give one of them"),
    (' class5="A" map', " map", "<Torsion> has neither class5 nor type5"),
    (' map="0"', ' map="-1"', '<Torsion> has map="-1"; give the number of a <Map>, from 0'),
    (' map="0"', "", '<Torsion> has no attribute "map"'),
    ("<CMAPTorsionForce>", "<CMAPTorsionForce><Map> </Map>", "line 27: <Map> is empty. Fill or remove it"),
    ('<UreyBradley class1="A"', '<UreyBradley type1="a"', "<UreyBradley> has both classes and types"),
    (
        'ordering="default"',
        'ordering="defualt"',
        'has ordering="defualt"; give one of default, amber, charmm, smirnoff',
    ),
    ('c5="0.1"', 'c5="0.1" c6="7"', 'an attribute "c6" that no <Proper> has'),
    (' phase2="0.2" k2="1"', ' phase2="0.2" k2="1" phase4="1" periodicity4="1" k4="1"', 'has no attribute "phase3"'),
    (' phase2="0.2"', ' phase0="0.2"', 'an attribute "phase0" that no <Proper> has'),
    ('periodicity2="3" phase2', "phase2", 'has no attribute "periodicity2"'),
    ('sigma="0.34"', 'sigma="0.34" sigma41="0.3"', 'an attribute "sigma41" that no <Atom> has'),
    ('<Residue name="TOY">', '<Residue name="TOY" rigidWatr="no">', 'an attribute "rigidWatr" that no <Residue> has'),
    ('<Residue name="TOY">', '<Residue name="TOY" rigidWater="no">', 'has rigidWater="no"; give one of true, false'),
    ('<Residue name="TOY">', '<Residue name="TOY" override="x">', 'has override="x"; give a whole number'),
    ('<Residue name="TOY">', "<Residue>", '<Residue> has no attribute "name"'),
    ('lj14scale="0.5"', 'lj14scale="0.5" epsilon14scale="2"', 'an attribute "epsilon14scale" that no <NonbondedForce>'),
    ("<AmoebaUreyBradleyForce>", '<AmoebaUreyBradleyForce cubic="1">', 'an attribute "cubic" that no'),
    ("<ForceField>", '<ForceField xmlns="http://x">', '<ForceField> has an attribute "xmlns"'),
    ("<ForceField>", '<ForceField version="1">', '<ForceField> has an attribute "version"'),
    ('<Atom name="P1"', '<Atom xmlns="http://x" name="P1"', 'an attribute "xmlns" that no <Atom> has'),
    ("<HarmonicAngleForce>", "k=3 <HarmonicAngleForce>", '<HarmonicBondForce> has the text "k=3" behind it'),
    ("<HarmonicAngleForce>", "<HarmonicAngleForce> oops", '<HarmonicAngleForce> has the text "oops" in it'),
    ("<ForceField>", "<ForceField>!", 'line 1: <ForceField> has the text "!" in it'),
    ("</ForceField>", "<AtomTypes/></ForceField>", "<AtomTypes> is the second one in this file"),
    ("</ForceField>", "<Residues/></ForceField>", "<Residues> is the second one in this file"),
    ('name="P1" type="a"', 'name="P1"', '<Atom> has no attribute "type". Add type="…"'),
    (
        'name="P1" type="a"',
        'name="P1" type="zz"',
        '<Atom> has type="zz", but no <Type> of the files has this name. Add',
    ),
    ('name="P1" type="a"', 'name="P1" type="A"', 'has this name. Did you mean "a"?'),
    (' atomName2="P2"/>', "/>", "<Bond> has atomName1; give atomName1 and atomName2, or from and to"),
    (
        '<Bond atomName1="P1" atomName2="P2"/>',
        '<Bond from="0" to="99"/>',
        '<Bond> with to="99" in line 10, but no such',
    ),
    ('class="A" element="C"', 'class="A" element="Qq"', 'has element="Qq"; give the symbol of a chemical element'),
    ("</Residue>", '<VirtualSite type="average2" siteName="P1"/></Residue>', 'has no attribute "weight1"'),
    (
        "</Residue>",
        SITE.format(1, 2, 3, "") + SITE.format(2, 1, 3, "") + "</Residue>",
        "has virtual sites that are defined by each other (P1, P2)",
    ),
    ("</Residue>", SITE.format(1, 1, 3, "") + "</Residue>", "defined by each other (P1)"),
    (
        "</Residue>",
        SITE.format(1, 2, 3, 'weight3="1"') + "</Residue>",
        'an attribute "weight3", which is without effect',
    ),
    ("</Residue>", SITE.format(1, 2, 3, "").replace('"0.5"', '"x"') + "</Residue>", 'has weight1="x"; give a number'),
    ('class1="A" class2="C" length', 'class1="A" class2="CX" length', 'has class2="CX", but no <Type> of the files'),
    ('class1="A" class2="C" length', 'class1="A" class2="c" length', 'Did you mean "C"?'),
    (
        "</Residues>",
        '</Residues><Patches><Patch name="P"><ApplyToResidue name="TOYS"/></Patch></Patches>',
        'has name="TOYS", but no <Residue> of the files has this name, so it would be without effect. Did you mean',
    ),
    (
        "</Residues>",
        '<Residue name="T"><AllowPatch name="NTR:2"/></Residue></Residues><Patches><Patch name="NTER"/></Patches>',
        'has name="NTR:2", but no <Patch> of the files has this name, so it would be without effect. Did you mean',
    ),
]


@pytest.mark.parametrize(("old", "new", "sentence"), BAD_ROWS, ids=[sentence for *_, sentence in BAD_ROWS])
def test_bad_rows(tmp_path, old, new, sentence):
    path, topology, _ = write_toy(tmp_path, "default")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=re.escape(sentence)) as refused:
        ForceField(path).create_potential(topology, missing="skip")
    assert "toy.xml" in str(refused.value) or "OpenMM cannot" in str(refused.value)


@pytest.mark.parametrize(
    "file", ["", "no/such.xml", "a\0b", "<ForceField/>", 5000 * "x"], ids=["empty", "missing", "NUL", "XML", "long"]
)
def test_what_is_no_file(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file here, in OpenMM's data or in an installed package"):
        ForceField(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "mine.xml").write_text("<ForceField/>")
    (tmp_path / "mine.xml").chmod(0)
    with pytest.raises(InputError, match=r"mine\.xml: cannot be read \(Permission denied\)"):
        ForceField(tmp_path / "mine.xml")


NM = unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]
BAD_OPTIONS = [
    ({"nonbonded_method": None}, r"nonbonded_method None is unknown; give one of NoCutoff, .*LJPME"),
    ({"nonbonded_method": app.HBonds}, "nonbonded_method HBonds is unknown"),
    ({"nonbonded_cutoff": 0.0}, r"nonbonded_cutoff is 0\.0 nm; give a positive length"),
    ({"nonbonded_cutoff": float("nan")}, "nonbonded_cutoff is nan nm"),
    ({"nonbonded_method": "PME", "nonbonded_cutoff": float("inf")}, "the cutoff is inf nm"),
    ({"nonbonded_cutoff": unit.Quantity(1.0, NM**2)}, r"nonbonded_cutoff is 1\.0 nm\*\*2, which is no length"),
    ({"nonbonded_cutoff": unit.Quantity(1.0, unit.dalton)}, "which is no length"),
    ({"nonbonded_method": "PME", "switch_distance": 1.5 * NM}, "must lie between 0 and the cutoff"),
    ({"nonbonded_method": "LJPME", "switch_distance": 0.5}, "LJPME allows no switching function"),
    ({"nonbonded_method": "PME", "ewald_error_tolerance": -1.0}, r"ewald_error_tolerance -1\.0 must lie between"),
    (
        {"nonbonded_method": "PME", "ewald_error_tolerance": float("nan")},
        "ewald_error_tolerance is nan; give a finite number",
    ),
    ({"constraints": "hbonds"}, "constraints 'hbonds' is unknown; give one of HBonds, AllBonds, HAngles"),
    ({"nonbonded_cutoff": "10 angstrom"}, "nonbonded_cutoff is '10 angstrom'; give a number in nm or a quantity"),
    ({"nonbonded_cutoff": None}, "nonbonded_cutoff is None; give a number in nm"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD_OPTIONS, ids=[sentence for _, sentence in BAD_OPTIONS])
def test_bad_options(tmp_path, options, sentence):
    path, topology, _ = write_toy(tmp_path, "default")
    topology.setPeriodicBoxVectors(3.0 * np.eye(3) * NM)
    with pytest.raises(InputError, match=sentence):
        ForceField(path).create_potential(topology, missing="skip", **options)


def test_a_topology_without_templates(tmp_path):
    pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "test.pdb"))
    with pytest.raises(InputError, match=r"No template found for residue 0 \(LEU\)"):
        ForceField(write_toy(tmp_path, "default")[0]).create_potential(pdb.topology)


BAD_NUMBERS = [
    ("k", float("nan"), r"line 14: <Bond>: k would become nan, which no force field can hold\. Did the fit diverge\?"),
    ("k", float("-inf"), "would become -inf"),
    (None, None, r"params lacks HarmonicBondForce/length; take the tree that params\(\) gives"),
]
ODD = [
    (None, "params is of the type NoneType; take the tree"),
    ("toy", "params is of the type str"),
    ({"k": None}, "params has object for HarmonicBondForce/k; give real numbers"),
    ({"k": "abc"}, "for HarmonicBondForce/k; give real numbers"),
    ({"k": 1j * np.ones(2)}, "params has complex128 for HarmonicBondForce/k; give real numbers"),
    ({"k": np.ones(5)}, r"params has the shape \(5,\) for HarmonicBondForce/k, but the files have \(2,\)"),
    ({"k": 1.0}, r"params has the shape \(\) for HarmonicBondForce/k"),
    ({"K": np.ones(2)}, "params has HarmonicBondForce/K, which the files do not have. Did you mean k?"),
    ({"stiffness": np.ones(2)}, "HarmonicBondForce/stiffness, .* Its columns are length, k"),
]


@pytest.mark.parametrize(("odd", "sentence"), ODD, ids=[sentence for _, sentence in ODD])
def test_what_are_no_parameters(tmp_path, odd, sentence):
    path, topology, _ = write_toy(tmp_path, "default")
    ff = ForceField(path)
    if isinstance(odd, dict):
        odd = {**ff.params(), "HarmonicBondForce": {**ff.params()["HarmonicBondForce"], **odd}}
    with pytest.raises(InputError, match=sentence):
        ff.write(tmp_path / "new", odd)
    with pytest.raises(InputError, match=sentence):
        ff.create_system(topology, odd)


def test_numbers_that_openmm_would_not_accept(tmp_path):
    path, *_ = write_toy(tmp_path, "default")
    ff = ForceField(path)
    params = ff.params()
    params["NonbondedForce"]["sigma"] = -params["NonbondedForce"]["sigma"]
    with pytest.raises(
        InputError, match=r"line 30: <Atom>: sigma would become -0\.34, but OpenMM accepts no number below"
    ):
        ff.write(tmp_path / "new", params)


@pytest.mark.parametrize("topology", [None, "x.pdb", app.PDBFile], ids=["None", "str", "class"])
def test_what_is_no_topology(tmp_path, topology):
    ff = ForceField(write_toy(tmp_path, "default")[0])
    with pytest.raises(
        InputError, match=r"topology is of the type \w+; give an openmm.app.Topology, such as pdb.topology"
    ):
        ff.create_potential(topology)
    with pytest.raises(InputError, match="topology is of the type"):
        ff.create_system(topology, ff.params())


@pytest.mark.parametrize("file", [3, None, ["amber14-all.xml"], b"amber14-all.xml"], ids=str)
def test_what_is_no_name_of_a_file(file):
    with pytest.raises(InputError, match=r"is no name of a file\. Give paths or names, each as an argument of its own"):
        ForceField(file)


def test_a_directory(tmp_path):
    with pytest.raises(InputError, match=r"is a directory\. Name the XML files in it"):
        ForceField(tmp_path)


def test_a_file_that_is_named_twice(tmp_path):
    path, *_ = write_toy(tmp_path, "default")
    with pytest.raises(InputError, match=r"toy\.xml is named twice"):
        ForceField(path, str(path))


def test_an_option_of_a_system_that_makes_no_sense(tmp_path):
    path, topology, _ = write_toy(tmp_path, "default")
    ff = ForceField(path)
    for options, sentence in (
        ({"nonbonded_method": "pme"}, "nonbonded_method 'pme' is unknown"),
        ({"constraints": "hbonds"}, "constraints 'hbonds' is unknown"),
        ({"nonbonded_cutoff": 1.0, "nonbondedCutoff": 1.0}, "nonbondedCutoff is given twice"),
        ({"nonbonded_cutof": 1.0}, "OpenMM cannot apply the force field: .*nonbonded_cutof"),
    ):
        with pytest.raises(InputError, match=sentence):
            ff.create_system(topology, ff.params(), **options)


@pytest.mark.parametrize(("column", "value", "sentence"), BAD_NUMBERS, ids=[sentence for *_, sentence in BAD_NUMBERS])
def test_bad_numbers(tmp_path, column, value, sentence):
    path, topology, _ = write_toy(tmp_path, "default")
    ff = ForceField(path)
    params = ff.params()
    bonds = params["HarmonicBondForce"]
    params["HarmonicBondForce"] = {**bonds, column: bonds[column].at[1].set(value)} if column else {"k": bonds["k"]}
    with pytest.raises(InputError, match=sentence):
        ff.write(tmp_path / "new", params)
    with pytest.raises(InputError, match=sentence):
        ff.create_system(topology, params)
    assert not (tmp_path / "new").exists()


def test_a_tree_of_other_force_fields(tmp_path):
    with pytest.raises(InputError, match="params lacks HarmonicBondForce, HarmonicAngleForce, Amoeba"):
        ForceField(write_toy(tmp_path, "default")[0]).write(tmp_path, {"DeepPot": {}})


def test_a_place_where_nothing_can_be_written(tmp_path):
    path, *_ = write_toy(tmp_path, "default")
    ff = ForceField(path)
    with pytest.raises(InputError, match=r"toy\.xml: cannot be written \(.*toy\.xml is no directory\)"):
        ff.write(path, ff.params())


def test_a_potential_with_too_little(tmp_path):
    path, topology, x = write_toy(tmp_path, "default")
    topology.setPeriodicBoxVectors(3.0 * np.eye(3) * NM)
    ff = ForceField(path)
    potential = ff.create_potential(topology, nonbonded_method="PME", nonbonded_cutoff=0.9, missing="skip")
    box = 3.0 * np.eye(3)
    with pytest.raises(InputError, match=r"the neighbour list reaches 0\.5 nm, the cutoff is 0\.9 nm; build the list"):
        potential.energy(ff.params(), jnp.asarray(x), jnp.asarray(box), neighbor_list(x, box, 0.5))
    with pytest.raises(InputError, match="PME needs a periodic box, but box is None"):
        potential.energy(ff.params(), jnp.asarray(x), None, neighbor_list(x, box, 0.9))
