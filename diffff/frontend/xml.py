"""Force-field XML that can be written back byte for byte.

Expat says what the file means: well-formedness, encodings, entities, line numbers. The bytes of the file are kept, and
the places of single values in them are looked for only when they are edited, by a scan of one start tag. What is not
edited is never written anew, so comments, order, unknown attributes, quotes, line ends and the spelling of numbers stay
as they are.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from diffff.errors import InputError
from diffff.files import replacing
from diffff.frontend import scripts
from diffff.frontend.xml_tree import UTF_16, Element, read_tree

_TAG = re.compile(rb"<[^ \t\r\n/>]+")
_ATTRIBUTE = re.compile(rb"""([ \t\r\n]+)([^ \t\r\n=/>]+)[ \t\r\n]*=[ \t\r\n]*("[^"]*"|'[^']*')""")
_TAG_END = re.compile(rb"[ \t\r\n]*(/?)>")
_TO_END = re.compile(rb"(?:[^<]++|<!--.*?-->|<\?.*?\?>|<!\[CDATA\[.*?\]\]>)*+</[^>]*>", re.DOTALL)
_NOTE = re.compile(rb"[ \t]*<!-- diffff: .*?-->", re.DOTALL)
_NO_WORD = re.compile(rb"(?:[ \t\r\n]+|<!--.*?-->|<\?.*?\?>|<!\[CDATA\[|\]\]>)*", re.DOTALL)
_WORD = re.compile(rb"[^ \t\r\n<&\]]+")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NUMBER = re.compile(r"[-+.0-9A-Za-z]+")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# In the text of an element: what is spelled otherwise in the file, and how many characters it stands for.
_SPELLED = {rb"&[^;]*;": 1, rb"\r\n": 1, rb"<!--.*?-->": 0, rb"<\?.*?\?>": 0, rb"<!\[CDATA\[": 0, rb"\]\]>": 0}
_ANY_SPELLED = re.compile(b"|".join(b"(%s)" % pattern for pattern in _SPELLED), re.DOTALL)

Key = str | int  # the name of an attribute, or i for the i-th number of the text, from 0; in a script, of its tables
Changes = Mapping[tuple[Element, Key], str]  # the new values, in plain characters


@dataclass(frozen=True)
class _StartTag:
    """Where things stand in a start tag. Places count code units, as `Document._units`."""

    name_end: int
    values: dict[str, slice]  # without the quotes
    space: bytes  # before the last attribute
    end: int
    empty: bool  # <tag/>


@dataclass(frozen=True, eq=False)
class Document:
    r"""A force-field file: its bytes, and the tree they mean.

    Attributes:
        path: where it came from, for messages.
        data: the bytes of the file.
        root: the ``<ForceField>`` element.

    Example:
        >>> document = Document.parse(b"<ForceField> <Bond k=\"1.50\"  b='2'/> </ForceField>", "x.xml")
        >>> bond = document.root.children[0]
        >>> document.edited({(bond, "k"): format_number(bond.attributes["k"], 1.25)})
        b'<ForceField> <Bond k="1.25"  b=\'2\'/> </ForceField>'
    """

    path: Path
    data: bytes = field(repr=False)
    root: Element = field(repr=False)

    @classmethod
    def read(cls, path: str | Path) -> "Document":
        """Read a force-field file.

        Raises:
            InputError: The file cannot be read, or see `parse`.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error}). Give an OpenMM XML file.") from error
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: str | Path) -> "Document":
        """Read a force field from the bytes of a file.

        Raises:
            InputError: It is no well-formed XML, has a document type or entities of its own, is nested absurdly, or its
                root is not ``<ForceField>``. The message names file and line.
        """
        return cls(path=Path(path), data=data, root=read_tree(data, str(path)))

    def where(self, element: Element) -> str:
        """File, line and tag of an element, to begin a message with."""
        return f"{self.path}, line {element.line}: <{element.tag}>"

    def span(self, element: Element, key: Key) -> slice:
        """The bytes of the file that spell an attribute's value (without quotes) or a number of the text.

        Raises:
            InputError: The numbers of the text cannot be told apart in the file, see `edited`.
            KeyError: The element has no such attribute.
            IndexError: Its text has no such number.
        """
        tag = self._start_tag(element)
        place = tag.values[key] if isinstance(key, str) else self._words(element, tag)[key]
        return slice(place.start * self._width, place.stop * self._width)

    def edited(self, changes: Changes, notes: Mapping[Element, str] | None = None) -> bytes:
        """The file with some values changed; all other bytes are the same.

        A value equal to that of the file keeps its spelling there. An attribute that the element lacks is added behind
        its last one, in the style of that one.

        Args:
            changes: new values by ``(element, name of the attribute)``, or by ``(element, i)`` for the i-th number of
                its text.
            notes: texts for comments ``<!-- diffff: … -->`` right behind elements, where they replace those of before.

        Raises:
            InputError: The numbers of a text are mixed with entities or markup, and have no place of their own.
            ValueError: A name, a number or a character that XML cannot hold; an element of another document.
            IndexError: A text has no such number.
        """
        grouped: dict[Element, dict[Key, str]] = defaultdict(dict)
        for (element, key), value in changes.items():
            grouped[element][key] = value
        for element in (*grouped, *(notes or {})):
            if element not in self._elements:
                raise ValueError(f"<{element.tag}> of line {element.line} is no element of {self.path}.")
        edits = [edit for element, values in grouped.items() for edit in self._edits(element, values)]
        edits += [self._comment(element, text) for element, text in (notes or {}).items()]
        pieces, done = [], 0
        for place, new in sorted(edits, key=lambda edit: edit[0].start):
            pieces += [self.data[done : place.start * self._width], new.encode(self._codec, "xmlcharrefreplace")]
            done = place.stop * self._width
        return b"".join([*pieces, self.data[done:]])

    def write(self, path: str | Path, changes: Changes, notes: Mapping[Element, str] | None = None) -> None:
        """Write `edited`; the file appears when it is whole. It may be the file that was read.

        Raises:
            InputError: The file cannot be written, or see `edited`.
        """
        data = self.edited(changes, notes)
        with replacing(Path(path)) as file:
            file.write_bytes(data)

    def _edits(self, element: Element, values: dict[Key, str]) -> list[tuple[slice, str]]:
        tag = self._start_tag(element)
        words = self._words(element, tag) if any(isinstance(key, int) for key in values) else []
        behind, quote = tag.name_end, '"'
        for place in tag.values.values():  # the last one counts
            behind, quote = place.stop + 1, chr(self._units[place.stop])
        edits = []
        for key, value in values.items():
            if isinstance(key, int):
                if key < 0 or not _NUMBER.fullmatch(value):
                    raise ValueError(f"{self.where(element)}: {value!r} cannot be number {key} of its text.")
                edits.append((words[key], value))
            elif key not in element.attributes:
                if not _NAME.fullmatch(key):
                    raise ValueError(f"{self.where(element)}: {key!r} cannot be the name of an attribute.")
                text = f"{tag.space.decode('ascii')}{key}={quote}{_escaped(value, quote)}{quote}"
                edits.append((slice(behind, behind), text))
            elif value != element.attributes[key]:
                place = tag.values[key]
                edits.append((place, _escaped(value, chr(self._units[place.stop]))))
        return edits

    def _comment(self, element: Element, text: str) -> tuple[slice, str]:
        """A comment behind an element, on its line; in place of the one that `edited` wrote there before."""
        end = self._end(element)
        before = _NOTE.match(self._units, end)
        words = " ".join(text.split())
        if bad := _NOT_XML.search(words):
            raise ValueError(f"{words!r}: XML cannot hold the character {bad[0]!r}.")
        words = re.sub("-(?=-)", "- ", words)  # two hyphens may not stand in a comment
        return slice(end, before.end() if before else end), f" <!-- diffff: {words} -->"

    def _end(self, element: Element) -> int:
        """Behind ``/>`` or the end tag, in code units."""
        tag = self._start_tag(element)
        if tag.empty:
            return tag.end
        last = _TO_END.match(self._units, self._end(element.children[-1]) if element.children else tag.end)
        assert last is not None  # expat has read it
        return last.end()

    def _start_tag(self, element: Element) -> _StartTag:
        opened = _TAG.match(self._units, element.byte // self._width)
        name_end = end = opened.end() if opened else 0
        places, space = [], b" "
        while attribute := _ATTRIBUTE.match(self._units, end):
            end, space = attribute.end(), attribute[1]
            places.append((attribute[2], slice(attribute.start(3) + 1, end - 1)))
        closed = _TAG_END.match(self._units, end)
        # Expat gives the attributes in the order of the file. Names beyond ASCII are taken from it without a look.
        same = len(places) == len(element.attributes) and all(
            raw == name.encode() or not name.isascii()
            for (raw, _), name in zip(places, element.attributes, strict=True)
        )
        if not (opened and closed and same):
            raise ValueError(f"{self.where(element)} is not where it should be in this file.")
        values = {name: place for name, (_, place) in zip(element.attributes, places, strict=True)}
        return _StartTag(name_end=name_end, values=values, space=space, end=closed.end(), empty=bool(closed[1]))

    def _words(self, element: Element, tag: _StartTag) -> list[slice]:
        if element.tag in scripts.TAGS:
            return self._script_numbers(element, tag)
        places, end = [], tag.end
        while not tag.empty:
            between = _NO_WORD.match(self._units, end)
            word = between and _WORD.match(self._units, between.end())
            if not word:
                break
            places.append(slice(word.start(), word.end()))
            end = word.end()
        if [self._units[place].decode("latin-1") for place in places] != element.text.split():
            raise InputError(
                f"{self.where(element)}: its numbers are broken up by entities, comments or unusual spaces, so they "
                "cannot be changed in place. Write them as plain numbers with spaces between them."
            )
        return places

    def _script_numbers(self, element: Element, tag: _StartTag) -> list[slice]:
        """Where the numbers of a script's tables stand; ``<`` and line ends may be spelled longer than they are."""
        end = tag.end
        where, shifts = [0], [end]  # from which character of the text on, how far it stands behind in the file
        for spelled in _ANY_SPELLED.finditer(self._units, end, self._units.find(b"</", end)):
            means = list(_SPELLED.values())[(spelled.lastindex or 1) - 1]
            where.append(spelled.start() - shifts[-1] + means)
            shifts.append(shifts[-1] + len(spelled[0]) - means)
        places = []
        for _, place in scripts.numbers(element):
            shift = shifts[bisect_right(where, place.start) - 1]
            places.append(slice(place.start + shift, place.stop + shift))
            if self._units[places[-1]].decode("latin-1") != element.text[place]:
                raise InputError(f"{self.where(element)}: the numbers of its tables cannot be told apart in the file.")
        return places

    @cached_property
    def residues(self) -> Mapping[Element, str]:
        """The name of the ``<Residue>`` in which an element stands, for all that stand in one."""
        found = (one for one in self.root.walk() if one.tag == "Residue")
        return {part: one.attributes.get("name", "") for one in found for part in one.walk()}

    @cached_property
    def _elements(self) -> frozenset[Element]:
        return frozenset(self.root.walk())

    @property
    def _codec(self) -> str:
        """For new values; every encoding of one byte per unit that expat reads begins with ASCII."""
        return UTF_16.get(self.data[:2], "ascii")

    @cached_property
    def _width(self) -> int:
        return 1 if self._codec == "ascii" else 2

    @cached_property
    def _units(self) -> bytes:
        """One byte for each code unit of the file: markup is ASCII in any encoding, the rest does not matter here."""
        if self._width == 1:
            return self.data
        units = np.frombuffer(self.data, "<u2" if self._codec == "utf-16-le" else ">u2")
        return np.where(units < 0x80, units, 0x80).astype(np.uint8).tobytes()


def _escaped(value: str, quote: str) -> str:
    """A value as it stands between these quotes. Line ends and tabs would otherwise be read back as spaces."""
    if bad := _NOT_XML.search(value):
        raise ValueError(f"{value!r}: XML cannot hold the character {bad[0]!r}.")
    escapes = {"&": "&amp;", "<": "&lt;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
    escapes[quote] = "&quot;" if quote == '"' else "&apos;"
    return value.translate(str.maketrans(escapes))


def format_number(old: str | None, value: ArrayLike) -> str:
    """How to spell a number that stood in the file as ``old``, or did not (None).

    The old spelling stays when it means the same number in the precision of ``value``. Otherwise it is the shortest
    decimal that gives exactly this number back: all of a float64, all of a float32.

    Example:
        >>> format_number("1.50", 1.5), format_number("1.50", 0.1 + 0.2), format_number("1", np.float32(1.05))
        ('1.50', '0.30000000000000004', '1.05')

    Raises:
        InputError: The number is infinite or not a number.
        ValueError: The old spelling is none of a number.
    """
    array = np.asarray(value)
    number = array.astype(array.dtype if array.dtype.kind == "f" else np.float64)[()]
    if not np.isfinite(number):
        raise InputError(f"{number} cannot be written as a parameter of a force field. Did the fit diverge?")
    if old is not None:
        with np.errstate(over="ignore"):
            if np.asarray(float(old)).astype(number.dtype) == number:
                return old
    return str(number)
