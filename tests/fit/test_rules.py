"""Rules: which numbers move, and what is said when a rule makes no sense."""

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
    assert one.label(0) == "k(c3-oh)"
    assert other.label(0) == "k(ho-oh)"


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
        ([{"select": "*/k", "where": {"class1": "zz"}}, KEEP], r"with \{'class1': 'zz'\} selects nothing"),
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
        ({"prior": {"sigma": 0}}, "sigma: must be greater than 0"),
    ],
)
def test_treatments_that_make_no_sense(treatment, message):
    with pytest.raises(InputError, match=message):
        validate(Rule, {"select": "*", "treatment": treatment})
