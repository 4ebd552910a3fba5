"""Force-field files are read as ElementTree reads them, and come back byte for byte."""

import codecs
import random
import xml.etree.ElementTree as ET
from itertools import zip_longest
from pathlib import Path

import numpy as np
import openmm.app
import pytest

from diffff.errors import InputError
from diffff.frontend.xml import Document, format_number

DATA = Path(openmm.app.__file__).parent / "data"
SHIPPED = sorted(path for path in DATA.rglob("*.xml") if b"<ForceField" in path.read_bytes()[:200])
SMALL = [
    path for path in SHIPPED if path.stat().st_size < 600_000 and path.parent.name != "implicit"
]  # one script each

AWKWARD = """<?xml version="1.0"{encoding}?>
<!-- <Bond k="1"/> is no bond -->
<?note k="1" ?>
<ForceField>
  <HarmonicBondForce note='it says "k"' empty=''>
    <Bond class1 = "C&amp;A" class2="&lt;&#x4e;&#78;&gt;'" k="0284512.0"
          length='0.1090' /><!-- k="2" --><Bond k="3"
    k2="a>b/>"></Bond><Plain/><Spaced  />
  </HarmonicBondForce>
  <Info Ångström="ø">é € 𝄞 <![CDATA[ <Bond k="4"/> &amp; ]]></Info>
  <Map>
    1.0  2.50e0	-3
    <!-- 4.0 -->  .5 <?x 6?> <![CDATA[ 7.0 8]]>
    <Row/> 9
  </Map>
</ForceField>
<!-- end -->
"""
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "iso-8859-1", "windows-1252"]


def encoded(text, encoding="utf-8", newline="\n"):
    declared = {"utf-8": "", "utf-8-sig": ' encoding="UTF-8"'}.get(encoding, f' encoding="{encoding}"')
    if encoding.startswith("utf-16"):
        declared = ' encoding="UTF-16"'
    if encoding in ("iso-8859-1", "windows-1252"):
        text = text.replace("𝄞", "&#x1D11E;").replace("€", "&#x20ac;")
    data = text.replace("{encoding}", declared).replace("\n", newline).encode(encoding)
    return (codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b"") + data


def read(text, name="x.xml"):
    return Document.parse(text if isinstance(text, bytes) else text.encode(), name)


def assert_same_tree(root, reference):
    for ours, theirs in zip_longest(root.walk(), reference.iter()):
        assert ours.tag == theirs.tag and ours.attributes == theirs.attrib, ours
        assert ours.text == (theirs.text or "") and ours.tail == (theirs.tail or ""), ours
        assert len(ours.children) == len(theirs), ours


def without(data, spans):
    """The bytes between some spans."""
    edges = [0, *(edge for span in sorted(spans, key=lambda s: s.start) for edge in (span.start, span.stop)), len(data)]
    return [data[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def test_all_shipped_files_are_there():
    assert len(SHIPPED) >= 70


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(DATA)))
def test_a_shipped_file(path, tmp_path):
    document, data = Document.read(path), path.read_bytes()
    assert document.edited({}) == data
    document.write(tmp_path / "new" / path.name, {})
    assert (tmp_path / "new" / path.name).read_bytes() == data
    assert_same_tree(document.root, ET.fromstring(data))


@pytest.mark.parametrize("path", SMALL, ids=lambda path: str(path.relative_to(DATA)))
def test_one_changed_attribute_of_a_shipped_file(path):
    document, rng = Document.read(path), random.Random(path.name)
    elements = list(document.root.walk())
    at, element = rng.choice([(i, e) for i, e in enumerate(elements) if e.attributes])
    name = rng.choice(list(element.attributes))
    span = document.span(element, name)
    new = document.edited({(element, name): "0.125"})
    assert new == document.data[: span.start] + b"0.125" + document.data[span.stop :]
    assert (
        ET.fromstring(b"<a b=" + document.data[span.start - 1 : span.stop + 1] + b"/>").attrib["b"]
        == (element.attributes[name])
    )
    reference = ET.fromstring(new)
    changed = list(reference.iter())[at]
    assert changed.attrib == element.attributes | {name: "0.125"}
    changed.attrib[name] = element.attributes[name]
    assert_same_tree(document.root, reference)


def test_every_attribute_has_a_place():
    document = Document.read(DATA / "amber14" / "protein.ff14SB.xml")
    changes = {(e, name): f"{value}!" for e in document.root.walk() for name, value in e.attributes.items()}
    again = Document.parse(document.edited(changes), "again")
    for old, new in zip(document.root.walk(), again.root.walk(), strict=True):
        assert new.attributes == {name: f"{value}!" for name, value in old.attributes.items()}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_and_awkward_markup(encoding, newline):
    data = encoded(AWKWARD, encoding, newline)
    document = read(data)
    assert document.edited({}) == data
    assert_same_tree(document.root, ET.fromstring(data))
    force, info, table = document.root.children
    bonds = force.find_all("Bond")
    codec = encoding.removesuffix("-sig")
    spell = {key: data[document.span(*key)].decode(codec) for key in [(bonds[0], "class2"), (bonds[1], "k2")]}
    assert list(spell.values()) == ["&lt;&#x4e;&#78;&gt;'", "a>b/>"]
    assert data[document.span(info, "Ångström")].decode(codec) == "ø"
    changes = {
        (force, "note"): "'\"<&>\t\n\r é€𝄞",
        (bonds[0], "k"): "1.5",
        (bonds[1], "k"): '"',
        (info, "Ångström"): "",
        (table, 0): "-1e-3",
        (table, 3): "0.75",
        (table, 5): "8.25",
    }
    new = document.edited(changes)
    again = read(new)
    assert_same_tree(again.root, ET.fromstring(new))
    for old, now in zip(document.root.walk(), again.root.walk(), strict=True):
        wanted = old.attributes | {key: text for (e, key), text in changes.items() if e is old and isinstance(key, str)}
        assert now.tag == old.tag and now.attributes == wanted
    assert again.root.children[2].text.split() == ["-1e-3", "2.50e0", "-3", "0.75", "7.0", "8.25"]
    paired = dict(zip(document.root.walk(), again.root.walk(), strict=True))
    kept = without(data, [document.span(*key) for key in changes])
    assert kept == without(new, [again.span(paired[element], key) for element, key in changes])


def test_lines():
    for newline in ("\n", "\r\n"):
        document = read(encoded(AWKWARD, newline=newline))
        assert [element.line for element in document.root.walk()] == [4, 5, 6, 7, 8, 8, 10, 11, 14]
    assert document.where(document.root.children[2]) == "x.xml, line 11: <Map>"


@pytest.mark.parametrize("seed", range(30))
def test_random_files_and_edits(seed):
    """Any mixture of quotes, blanks, entities and comments; any values, also for attributes that were not there."""
    rng = random.Random(seed)
    newline = rng.choice(["\n", "\r\n"])

    def text(letters="ab1.-&<>'\"é€\t\n =/"):
        return "".join(rng.choices(letters, k=rng.randrange(6)))

    def blank(least=1):
        return "".join(rng.choices([" ", "\t", newline], k=least + rng.randrange(2)))

    def value(string, quote):
        escapes = {"&": "&amp;", "<": "&#60;", quote: f"&#{ord(quote)};"}
        return "".join(escapes.get(c) or (f"&#x{ord(c):x};" if rng.random() < 0.2 else c) for c in string)

    def element(depth):
        quotes = rng.choices("'\"", k=rng.randrange(4))
        attributes = "".join(
            f"{blank()}{'abc'[i]}{blank(0)}={blank(0)}{quote}{value(text(), quote)}{quote}"
            for i, quote in enumerate(quotes)
        )
        inside = "".join(
            rng.choice([lambda: element(depth + 1), lambda: '<!-- <x a="1"> -->', lambda: "<?p a='1'?>", blank])()
            for _ in range(rng.randrange(4) if depth < 4 else 0)
        )
        return f"<e{attributes}{blank(0)}" + ("/>" if not inside and rng.random() < 0.5 else f">{inside}</e{blank(0)}>")

    body = "".join(element(0) for _ in range(4))
    data = f"<?xml version='1.0'{{encoding}}?>{newline}<ForceField>{body}</ForceField>".replace(
        "{encoding}", ' encoding="utf-16"' if seed % 2 else ""
    ).encode("utf-16" if seed % 2 else "utf-8")
    document = read(data)
    assert_same_tree(document.root, ET.fromstring(data))
    elements = list(document.root.walk())
    changes = {(rng.choice(elements), rng.choice("abcd")): text() for _ in range(8)}
    new = document.edited(changes)
    for old, now in zip(elements, ET.fromstring(new).iter(), strict=True):
        assert now.attrib == old.attributes | {name: value for (e, name), value in changes.items() if e is old}
        assert list(now.attrib)[: len(old.attributes)] == list(old.attributes)
    again = read(new)
    kept = {(e, name) for e, name in changes if name in e.attributes}
    if len(kept) == len(changes):
        pairs = dict(zip(elements, again.root.walk(), strict=True))
        assert without(data, [document.span(*key) for key in kept]) == without(
            new, [again.span(pairs[e], name) for e, name in kept]
        )


def test_an_attribute_is_added_in_the_style_of_its_tag():
    document = read("<ForceField><A/><B  ></B><C\n  x='1'\n  y='2' /></ForceField>")
    a, b, c = document.root.children
    new = document.edited({(a, "k"): "1", (a, "l"): '"', (b, "k"): "2", (c, "k"): "'", (c, "y"): "3"})
    wanted = """<A k="1" l="&quot;"/><B k="2"  ></B><C\n  x='1'\n  y='3'\n  k='&apos;' />"""
    assert new.decode() == f"<ForceField>{wanted}</ForceField>"


def test_an_equal_value_keeps_its_spelling():
    document = read("<ForceField><A name='C&#65;&gt;'/></ForceField>")
    assert document.edited({(document.root.children[0], "name"): "CA>"}) == document.data


def test_writing_over_the_file_that_was_read(tmp_path):
    path = tmp_path / "ff.xml"
    path.write_text('<ForceField><A k="1"/></ForceField>')
    document = Document.read(path)
    document.write(path, {(document.root.children[0], "k"): "2"})
    assert path.read_text() == '<ForceField><A k="2"/></ForceField>'
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_of_a_map():
    path = DATA / "amber19" / "protein.ff19SB.xml"
    document = Document.read(path)
    table = next(element for element in document.root.walk() if element.tag == "Map")
    words = table.text.split()
    assert len(words) == 576
    spans = [document.span(table, i) for i in (0, 100, 575)]
    assert [document.data[span].decode() for span in spans] == [words[0], words[100], words[575]]
    new = document.edited({(table, 575): "9.5", (table, 0): "-7", (table, 100): words[100]})
    changed = next(element for element in ET.fromstring(new).iter() if element.tag == "Map")
    assert changed.text.split() == ["-7", *words[1:575], "9.5"]
    first, last = spans[0], spans[2]
    assert (
        new
        == document.data[: first.start]
        + b"-7"
        + document.data[first.stop : last.start]
        + b"9.5"
        + (document.data[last.stop :])
    )


@pytest.mark.parametrize(
    "text", ["1<!-- -->2 3", "&#49; 2", "<![CDATA[1]]>2", "1&#32;2", "1\xa02", "<![CDATA[<!-- 1 -->]]>"]
)
def test_numbers_without_a_place_of_their_own(text):
    document = read(f"<ForceField>\n<Map>{text}</Map></ForceField>")
    with pytest.raises(InputError, match=r"x\.xml, line 2: <Map>: its numbers are broken up .* plain numbers"):
        document.edited({(document.root.children[0], 0): "1"})


def test_changes_that_make_no_sense():
    document = read('<ForceField><A k="1">1 2</A><B/></ForceField>')
    a, b = document.root.children
    for key in [(a, 2), (b, 0)]:
        with pytest.raises(IndexError):
            document.edited({key: "3"})
    for key, value in [
        ((a, 0), "1 2"),
        ((a, 0), ""),
        ((a, 0), "<"),
        ((a, -1), "1"),
        ((a, "k"), "\0"),
        ((a, "k"), "\ud800"),
    ]:
        with pytest.raises(ValueError, match=r"x\.xml|XML cannot hold"):
            document.edited({key: value})
    for name in ["", "1k", "k l", "k=", "é"]:
        with pytest.raises(ValueError, match="cannot be the name of an attribute"):
            document.edited({(a, name): "1"})
    with pytest.raises(ValueError, match=r"<A> of line 1 is no element of y\.xml"):
        read(document.data, "y.xml").edited({(a, "k"): "2"})
    with pytest.raises(KeyError):
        document.span(a, "l")


BOMB = '<!DOCTYPE ForceField [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n<ForceField>&b;</ForceField>'
REFUSED = {
    "open": ("<ForceField>\n <A>\n</ForceField>", r"x\.xml, line 3, column 3: not well-formed XML \(mismatched tag\)"),
    "cut off": ("<ForceField>\n <A k='1", r"line 2, column 2: not well-formed XML \(unclosed token\)"),
    "ends early": ("<ForceField>\n", r"line 2, column 1: .*\(no element found\)"),
    "twice": ("<ForceField>\n<A k='1' k='2'/></ForceField>", r"line 2, column \d+: .*\(duplicate attribute\)"),
    "bare &": ("<ForceField>\n<A k='1 & 2'/></ForceField>", r"line 2, column 10: .*invalid token"),
    "no quotes": ("<ForceField>\n<A k=1/></ForceField>", r"line 2, column 6: .*invalid token"),
    "two roots": ("<ForceField/>\n<ForceField/>", r"line 2, column 1: .*junk after document element"),
    "entity": ("<ForceField>\n&nbsp;</ForceField>", r"line 2, column 1: .*undefined entity"),
    "bomb": (BOMB, r"x\.xml, line 1: <!DOCTYPE …> .* Remove it"),
    "external": ('\n<!DOCTYPE a SYSTEM "file:///etc/passwd"><ForceField/>', r"line 2: <!DOCTYPE …>"),
    "plain DTD": ("<!DOCTYPE ForceField><ForceField/>", "line 1: <!DOCTYPE …>"),
    "root": (
        "<!-- a -->\n<System/>",
        r"x\.xml, line 2: the file begins with <System>; a force field is one <ForceField>",
    ),
    "prefix": ("<a:ForceField xmlns:a='b'/>", "the file begins with <a:ForceField>"),
    "deep": ("<ForceField>" + "\n<A>" * 10**5, r"x\.xml, line 65: more than 64 elements inside each other"),
    "NUL": ("<ForceField>\n<A/>\0</ForceField>", r"x\.xml, line 2: has NUL bytes"),
    "NUL in a value": ("<ForceField>\n<A k='1\0'/></ForceField>", r"x\.xml, line 2: has NUL bytes"),
    "BOM": (b"\xef\xbb\xbf<ForceField>]]></ForceField>", r"line 1, column 15: .*invalid token"),
    "no BOM": (b"<ForceField>]]></ForceField>", r"line 1, column 15: .*invalid token"),
    "NUL in UTF-16": ("<ForceField>\0</ForceField>".encode("utf-16"), r"x\.xml, line 1, column 13: not well-formed"),
    "only NUL": (b"\0" * 100, "line 1: has NUL bytes"),
    "half UTF-16": ("<ForceField/>".encode("utf-16") + b" ", r"line 1, column 14: .*\(unclosed token\)"),
    "empty": ("", r"x\.xml, line 1: the file is empty"),
    "blank": (" \n", "line 1: the file is empty"),
    "text": ("hello", "line 1, column 1: .*syntax error"),
    "UTF-8": (b"<ForceField>\n\xe9</ForceField>", r"line 2, column 1: .*invalid token"),
    "encoding": (
        "<?xml version='1.0' encoding='klingon'?><ForceField/>",
        r"line 1: its encoding cannot be read .*UTF-8",
    ),
    "big5": ("<?xml version='1.0' encoding='big5'?><ForceField/>", r"line 1: its encoding cannot be read \(multi-byte"),
    "EBCDIC": ("<?xml version='1.0' encoding='cp037'?><ForceField/>", "line 1: its encoding cannot be read"),
    "another encoding": ("<?xml version='1.0' encoding='utf-16'?><ForceField/>", "encoding specified in XML decl"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    text, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        read(text)


def test_files_that_cannot_be_read(tmp_path):
    for path, why in [(tmp_path / "none.xml", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(InputError, match=rf"{path.name}: cannot be read \({why}"):
            Document.read(path)


def test_spelling_of_numbers():
    for old in ["1", "1.50", "+2", "1e-3", " 3.0 ", "0.33996695084235345", "-0.0"]:
        assert format_number(old, float(old)) == old
    assert format_number("1", 1.05) == "1.05" and format_number("0.0", -0.0) == "0.0"
    assert format_number(None, 2) == "2.0" and format_number(None, 5e-324) == "5e-324"
    assert format_number("-0.10000000000000002", -0.1) == "-0.1"
    values = np.random.default_rng(1).normal(size=200) * 10.0 ** np.random.default_rng(2).integers(-300, 300, size=200)
    with np.printoptions(precision=3):
        for value in [*values, 0.1 + 0.2, 1e16, 1e22, 2.0**-1074]:
            text = format_number("0.7", value)
            assert float(text) == value and text == repr(float(value))


def test_spelling_of_single_precision():
    assert format_number("0.33996695084235345", np.float32("0.33996695084235345")) == "0.33996695084235345"
    assert format_number("0.3", np.float32(0.1)) == "0.1"
    assert format_number("1e300", np.float32(1)) == "1.0"
    for value in np.random.default_rng(3).normal(size=200).astype(np.float32):
        assert np.float32(format_number("7", value)) == value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value):
    with pytest.raises(InputError, match=r"cannot be written as a parameter .* diverge"):
        format_number("1", value)
