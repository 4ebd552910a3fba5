"""What a force-field XML file says: a tree of elements that know where they stand in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from diffff.errors import InputError

MAX_DEPTH = 64  # elements inside each other; OpenMM's own files have 4

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
# By the first two bytes of a file: a byte order mark, or "<".
UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}


@dataclass(slots=True, eq=False)
class Element:
    """One element of a document, as it was read. It is never changed; see `Document.edited`.

    Attributes:
        tag: name of the element.
        attributes: values by name, entities resolved, in the order of the file.
        byte: where its ``<`` stands in the file.
        line: line of the file, from 1.
        text: characters before its first child or its end, without comments.
        tail: characters between its end and the next tag, blank in a force field without slips.
        children: the elements in it.
    """

    tag: str
    attributes: dict[str, str]
    byte: int
    line: int
    text: str = ""
    tail: str = field(default="", repr=False)
    children: "list[Element]" = field(default_factory=list, repr=False)

    def find_all(self, tag: str) -> "list[Element]":
        """Its children of one name."""
        return [child for child in self.children if child.tag == tag]

    def walk(self) -> "Iterator[Element]":
        """Itself and everything in it, in the order of the file."""
        yield self
        for child in self.children:
            yield from child.walk()


def read_tree(data: bytes, path: str) -> Element:
    """The root element of a file, read by expat.

    Args:
        data: the bytes of the file, in any encoding that expat knows.
        path: where they came from, for messages.

    Raises:
        InputError: See `diffff.frontend.xml.Document.parse`.
    """
    return _Builder(path).build(data)


class _Builder:
    """Makes the tree from what expat reports."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.open: list[Element] = []
        self.root: Element | None = None
        self.closed: Element | None = None  # the element that ended last, if no other has begun since
        self.blanks: dict[str, str] = {}  # the same few pieces of white space, again and again
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.buffer_size = 2**20  # bytes of text that come in one piece
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.doctype

    def build(self, data: bytes) -> Element:
        try:
            self.parser.Parse(data, True)
        except expat.ExpatError as error:
            raise self.refusal(data, error) from None
        except (LookupError, ValueError) as error:  # from Python's codecs
            raise self.bad_encoding(error) from None
        assert self.root is not None  # expat wants an element
        return self.root

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, self.parser.CurrentByteIndex, self.parser.CurrentLineNumber)
        if self.open:
            self.open[-1].children.append(element)
        elif tag == "ForceField":
            self.root = element
        else:
            raise InputError(
                f"{self.path}, line {element.line}: the file begins with <{tag}>; "
                "a force field is one <ForceField> … </ForceField>."
            )
        self.open.append(element)
        self.closed = None
        if len(self.open) > MAX_DEPTH:
            raise InputError(
                f"{self.path}, line {element.line}: more than {MAX_DEPTH} elements inside each other; "
                "this is no force field."
            )

    def end(self, tag: str) -> None:
        self.closed = self.open.pop()

    def characters(self, text: str) -> None:
        if text.isspace():
            text = self.blanks.setdefault(text, text)
        if self.closed is None:
            self.open[-1].text += text
        else:
            self.closed.tail += text

    def doctype(self, name: str, system: str | None, public: str | None, subset: bool) -> None:
        raise InputError(
            f"{self.path}, line {self.parser.CurrentLineNumber}: <!DOCTYPE …> and its entities are not read, "
            "since they could fill the memory or fetch other files. Remove it, and write what the entities stand for."
        )

    def refusal(self, data: bytes, error: expat.ExpatError) -> InputError:
        what = expat.ErrorString(error.code)
        if what == expat.errors.XML_ERROR_UNKNOWN_ENCODING:
            return self.bad_encoding(what)
        zero = -1 if data[:2] in UTF_16 else data.find(b"\0")
        if not data.strip():
            return InputError(f"{self.path}, line 1: the file is empty. Give an OpenMM XML file.")
        if zero >= 0:
            line = data.count(b"\n", 0, zero) + 1
            return InputError(f"{self.path}, line {line}: has NUL bytes, so it is no text. Is the file damaged?")
        marked = error.lineno == 1 and data.startswith(_BYTE_ORDER_MARKS)  # expat counts the mark as a character
        column = error.offset + (0 if marked else 1)
        return InputError(
            f"{self.path}, line {error.lineno}, column {column}: not well-formed XML ({what}). Correct it there."
        )

    def bad_encoding(self, why: object) -> InputError:
        return InputError(f"{self.path}, line 1: its encoding cannot be read ({why}). Save the file as UTF-8.")
