"""Error bars in force-field files: comments behind rows that OpenMM passes over and that a later fit replaces."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import openmm as mm
import openmm.app as app
import pytest

from diffff.errors import InputError
from diffff.frontend.forcefield import ForceField
from diffff.frontend.xml import Document
from tests.frontend.test_xml import AWKWARD, ENCODINGS, encoded

NOTE = re.compile(r"[ \t]*<!-- diffff: .*?-->", re.DOTALL)
WATER = "amber14/tip3p.xml"


def read(data):
    return Document.parse(data if isinstance(data, bytes) else data.encode(), "x.xml")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_note_behind_any_element_changes_nothing_else(encoding, newline):
    data = encoded(AWKWARD, encoding, newline)
    document = read(data)
    elements = list(document.root.walk())
    codec = encoding.removesuffix("-sig")
    for some in (elements, elements[1::2]):
        noted = document.edited({}, {element: f"{element.tag} 1 +- 2" for element in some})
        assert NOTE.sub("", noted.decode(codec)) == data.decode(codec)
        for old, new in zip(elements, ET.fromstring(noted).iter(), strict=True):
            assert (new.tag, new.attrib, new.text or "") == (old.tag, old.attributes, old.text)
            assert (new.tail or "").split() == old.tail.split()
        root = ET.fromstring(noted, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
        behind = [  # the tag before each comment of ours
            (before.tag, comment.text)
            for parent in root.iter()
            for before, comment in pairwise(parent)
            if comment.tag is ET.Comment and comment.text.startswith(" diffff: ")
        ]
        assert all(text == f" diffff: {tag} 1 +- 2 " for tag, text in behind)
        assert sorted(tag for tag, _ in behind) == sorted(one.tag for one in some if one is not document.root)


def test_notes_and_changes_go_together():
    document = read('<ForceField>\n <A k="1"/><A k="2"></A>\n</ForceField>')
    first, second = document.root.children
    found = document.edited({(first, "k"): "1.5", (second, "l"): "3"}, {first: "one", second: "two"})
    rows = '<A k="1.5"/> <!-- diffff: one --><A k="2" l="3"></A> <!-- diffff: two -->'
    assert found.decode() == f"<ForceField>\n {rows}\n</ForceField>"


def test_a_later_note_replaces_the_earlier_one():
    document = read('<ForceField>\n <A k="1"/> <!-- mine --> <A k="2"><B/></A> <!-- k is mine too -->\n</ForceField>')
    again = read(document.edited({}, dict.fromkeys(document.root.children, "k 1 +- 5")))
    third = read(again.edited({}, dict.fromkeys(again.root.children, "k 2 +- 0.1")))
    assert third.data == document.edited({}, dict.fromkeys(document.root.children, "k 2 +- 0.1"))
    assert third.edited({}) == third.data


@pytest.mark.parametrize(
    ("text", "inside"),
    [("a--b", "a- -b"), ("---", "- - -"), ("-->", "- ->"), ("a\n  b\t", "a b"), ("k -1 +- 2 -", "k -1 +- 2 -")],
)
def test_a_comment_never_ends_too_early(text, inside):
    document = read("<ForceField><A/></ForceField>")
    found = document.edited({}, {document.root.children[0]: text})
    assert found.decode() == f"<ForceField><A/> <!-- diffff: {inside} --></ForceField>"
    ET.fromstring(found)


def test_notes_that_make_no_sense():
    document = read("<ForceField><A/></ForceField>")
    with pytest.raises(ValueError, match="XML cannot hold"):
        document.edited({}, {document.root.children[0]: "\0"})
    with pytest.raises(ValueError, match="is no element of"):
        document.edited({}, {read("<ForceField/>").root: "a"})


def system_of(files):
    modeller = app.Modeller(app.Topology(), [])
    field = app.ForceField(*map(str, files))
    modeller.addSolvent(field, numAdded=3)
    return mm.XmlSerializer.serialize(field.createSystem(modeller.topology))


def test_a_force_field_with_notes_is_the_same_to_openmm(tmp_path):
    field = ForceField(WATER)
    params = field.params()
    params["HarmonicBondForce"]["k"] = params["HarmonicBondForce"]["k"] * 1.25
    others = [None] * (len(params["HarmonicBondForce"]["k"]) - 1)
    notes = {
        "HarmonicBondForce/k": ["578000 +- 1200 (from data 98%)", *others],
        "HarmonicBondForce/length": ["not determined", *others],
        "NonbondedForce/charge": [f"{value:.4f} +- 0.01" for value in params["NonbondedForce"]["charge"]],
        "DeepPot/descriptor/w": ["what is no row of ours"],
    }
    plain = field.write(tmp_path / "plain", params)
    noted = field.write(tmp_path / "noted", params, notes)
    (one,), (other,) = ([path.read_text() for path in paths] for paths in (plain, noted))
    assert NOTE.sub("", other) == one
    row = next(line for line in other.splitlines() if "<Bond " in line and "k=" in line)
    assert row.endswith("<!-- diffff: k 578000 +- 1200 (from data 98%); length not determined -->")
    assert other.count("<!-- diffff: charge") == len(params["NonbondedForce"]["charge"])
    assert system_of(noted) == system_of(plain)

    again = ForceField(noted[0])
    (path,) = again.write(tmp_path / "again", again.params())
    assert path.read_bytes() == noted[0].read_bytes()
    (path,) = again.write(tmp_path / "newer", again.params(), {"HarmonicBondForce/k": ["1 +- 2"]})
    newer = path.read_text()
    assert newer.count("<!-- diffff: k 1 +- 2 -->") == 1 and "578000 +-" not in newer
    assert newer.count("<!-- diffff: charge") == other.count("<!-- diffff: charge")


def test_numbers_of_a_text_and_numbers_that_are_repeated(tmp_path):
    field = ForceField("amber19/protein.ff19SB.xml")
    scale = "NonbondedForce/coulomb14scale"
    table = next(
        path for path, places in field.rows.items() if len(places) > 500 and path.startswith("CMAP") and "/" in path
    )
    notes = {table: [None] * 3 + ["0.5 +- 0.1"] + [None] * (len(field.rows[table]) - 4), scale: ["0.8 +- 0.2"]}
    (path,) = field.write(tmp_path, field.params(), notes)
    text = path.read_text()
    assert text.count("</Map> <!-- diffff: number 3 0.5 +- 0.1 -->") == 1
    assert text.count("coulomb14scale 0.8 +- 0.2 -->") == 1
    assert NOTE.sub("", text) == field.documents[0].path.read_text()


def test_notes_for_what_is_not_there(tmp_path):
    field = ForceField(WATER)
    with pytest.raises(InputError, match=r"notes are for HarmonicBondForce/kk, which has no place in the files"):
        field.write(tmp_path, field.params(), {"HarmonicBondForce/kk": ["a"]})
    with pytest.raises(InputError, match=r"HarmonicBondForce/k got 5 notes, but has \d+ numbers"):
        field.write(tmp_path, field.params(), {"HarmonicBondForce/k": ["a"] * 5})
    assert not list(tmp_path.iterdir())
