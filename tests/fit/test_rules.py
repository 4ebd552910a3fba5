"""Rules: which numbers move, and what is said when a rule makes no sense."""

import re

import numpy as np
import pytest

from diffff import ForceField
from diffff.errors import InputError
from diffff.fit.rules import Rule, moving
from diffff.spec import validate

XML = """<ForceField>
 <HarmonicBondForce>
  <Bond class1="c3" class2="c3" length="0.15" k="1000"/>
  <Bond class1="c3" class2="oh" length="0.14" k="2000"/>
  <Bond class1="ho" class2="oh" length="0.10" k="3000"/>
 </HarmonicBondForce>
 <PeriodicTorsionForce>
  <Proper class1="" class2="c3" class3="oh" class4="" periodicity1="1" phase1="0" k1="1.5"/>
 </PeriodicTorsionForce>
</ForceField>
"""
KEEP = {"select": "*", "treatment": {"train": False}}


@pytest.fixture
def field(tmp_path) -> ForceField:
    (tmp_path / "a.xml").write_text(XML)
    return ForceField(tmp_path / "a.xml")


def found(field, *rules):
    return moving(field.params(), field.rows, [validate(Rule, rule) for rule in rules])


def test_the_first_rule_that_selects_a_number_holds(field):
    one, other = found(
        field,
        {"select": "HarmonicBondForce/k", "where": {"atoms": ["oh", "*3"]}, "treatment": {"scale": 5.0}},
        {"select": "HarmonicBondForce/k", "where": {"class2": ["oh", "none"]}, "treatment": {"bounds": [0, None]}},
        KEEP,
    )
    assert one.path == other.path == "HarmonicBondForce/k"
    np.testing.assert_array_equal(one.index, [1])  # c3-oh: the pattern is for either order
    np.testing.assert_array_equal(other.index, [2])
    assert one.treatment.scale == 5.0
    assert other.treatment.bounds == (0.0, None)
    assert one.label(0) == "k(c3–oh)"
    assert other.label(0) == "k(ho–oh)"


def test_types_that_stand_for_all_are_seen_in_labels(field):
    torsion, *_ = found(field, {"select": "PeriodicTorsionForce/k"}, KEEP)
    assert torsion.label(0) == "k1(*–c3–oh–*)"


def test_of_many_values_the_nearest_are_told():
    field = ForceField("amber14/protein.ff14SB.xml")
    with pytest.raises(InputError) as error:
        found(field, {"select": "HarmonicBondForce/k", "where": {"type1": "protein-CTT"}}, KEEP)
    assert re.search(r"of \d+ the nearest are protein-CT, ", str(error.value))


def test_leaves_without_rows_move_as_a_whole(field):
    params = {**field.params(), "DeepPot": {"w": np.zeros((2, 3))}}
    (some,) = moving(params, field.rows, [validate(Rule, r) for r in ({"select": "DeepPot/*"}, KEEP)])
    assert (some.path, len(some.index), some.places) == ("DeepPot/w", 6, None)
    assert some.label(4) == "DeepPot/w[1, 1]"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"select": "HarmonicBondForce/k"}], r"no rule is for HarmonicBondForce/length \(3 of 3\), Periodic"),
        ([{"select": "HarmonicBondForce/q"}, KEEP], r'parameters\[0\]: "HarmonicBondForce/q" selects nothing'),
        (
            [{"select": "*Bond*/k", "where": {"class1": "zz"}}, KEEP],
            r'with \{"class1": "zz"\} selects nothing\. No class1 in the rows of HarmonicBondForce/k is "zz"; there',
        ),
        (
            [{"select": "*Bond*/k", "where": {"klass": "c3"}}, KEEP],
            r'The rows of HarmonicBondForce/k have class1, class2, length, k; their types or classes go by "atoms" too',
        ),
        (
            [{"select": "*Torsion*/k", "where": {"atoms": "c3"}}, KEEP],
            r'"atoms" names 1 type, the rows of PeriodicTorsionForce/k have 4\.',
        ),
        (
            [{"select": "*Torsion*/k", "where": {"atoms": ["c3", "oh"]}}, KEEP],
            r'"atoms" names 2 types, the rows of PeriodicTorsionForce/k have 4\.',
        ),
        (
            [{"select": "*Bond*/k", "where": {"atoms": ["c3", "ho"]}}, KEEP],
            "No row of HarmonicBondForce/k is for c3–ho; there are c3–c3, c3–oh, ho–oh",
        ),
        (
            [{"select": "*Bond*/k", "where": {"class1": "ho", "class2": "c3"}}, KEEP],
            "There are rows of HarmonicBondForce/k for each of the conditions, but none for all of them",
        ),
        ([KEEP, {"select": "*/k"}], r'parameters\[1\]: "\*/k" has no effect: earlier rules take all'),
        ([KEEP], "all numbers are kept as they are"),
    ],
)
def test_rules_that_make_no_sense(field, rules, message):
    with pytest.raises(InputError, match=message):
        found(field, *rules)


def test_conditions_on_rows_need_rows():
    rule = validate(Rule, {"select": "DeepPot/*", "where": {"class1": "c3"}})
    with pytest.raises(InputError, match="stands in no file and has no rows"):
        moving({"DeepPot": {"w": np.zeros(3)}}, {}, [rule])


@pytest.mark.parametrize(
    ("treatment", "message"),
    [
        ({"bounds": [2, 1]}, r"bounds are \[2.0, 1.0\]; the first must be the smaller one"),
        ({"train": False, "scale": 1.0}, "mean nothing; remove them"),
        ({"prior": {"sigma": 0}}, "sigma: must be at least 1e-12"),
        ({"prior": {"sigma": 1, "mean": -3}, "bounds": [0, 5]}, "the mean of the prior, -3, is not within the bounds"),
        ({"prior": {"sigma": 1, "mean": 3}, "bounds": [None, 2]}, "the mean of the prior, 3, is not within the bounds"),
    ],
)
def test_treatments_that_make_no_sense(treatment, message):
    with pytest.raises(InputError, match=message):
        validate(Rule, {"select": "*", "treatment": treatment})


def test_a_prior_may_have_its_mean_on_a_bound():
    validate(Rule, {"select": "*", "treatment": {"prior": {"sigma": 1, "mean": 0}, "bounds": [0, None]}})


def test_charges_in_residues_go_by_residue_and_atom(tmp_path):
    (tmp_path / "a.xml").write_text(RESIDUES)
    field = ForceField(tmp_path / "a.xml")
    (some,) = moving(field.params(), field.rows, [validate(Rule, r) for r in ({"select": "*/charge"}, KEEP)])
    assert [some.label(k) for k in range(3)] == ["charge(ACE–CH3)", "charge(NME–N)", "charge(NME–CH3)"]
    for where, index in (({"residue": "NME"}, [1, 2]), ({"residue": "*", "name": "CH3"}, [0, 2]), ({"type": "n"}, [1])):
        rules = [validate(Rule, r) for r in ({"select": "*/charge", "where": where}, KEEP)]
        (some,) = moving(field.params(), field.rows, rules)
        np.testing.assert_array_equal(some.index, index)
    rules = [validate(Rule, r) for r in ({"select": "*/charge", "where": {"residue": "ALA"}}, KEEP)]
    with pytest.raises(InputError, match=r'No residue in the rows of Nonbonded.* is "ALA"; there are ACE, NME\.'):
        moving(field.params(), field.rows, rules)


RESIDUES = """<ForceField>
 <AtomTypes>
  <Type name="ct" class="CT" element="C" mass="12.01"/> <Type name="n" class="N" element="N" mass="14.01"/>
 </AtomTypes>
 <Residues>
  <Residue name="ACE"><Atom name="CH3" type="ct" charge="0.1"/></Residue>
  <Residue name="NME">
   <Atom name="N" type="n" charge="-0.4"/> <Atom name="CH3" type="ct" charge="0.4"/>
   <Bond atomName1="N" atomName2="CH3"/>
  </Residue>
 </Residues>
 <NonbondedForce coulomb14scale="0.8333" lj14scale="0.5">
  <UseAttributeFromResidue name="charge"/>
  <Atom type="ct" sigma="0.34" epsilon="0.36"/> <Atom type="n" sigma="0.30" epsilon="0.88"/>
 </NonbondedForce>
</ForceField>
"""
