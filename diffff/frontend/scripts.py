"""Python code in force-field files, which is never trusted.

The scripts that ship with OpenMM's own force fields are known here by the hash of their code. Literal tables at the top
of a script (names, numbers) are data: they do not count for the hash, and their numbers are parameters with a place in
the text. What is not known is code of a stranger.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from diffff.frontend.xml_tree import Element

TAGS = ("Script", "InitializationScript")

VERSION_CHECK = "refuses CHARMM files of different versions"
GLYCAM_TEMPLATES = "takes residues of sugars by their names"
GLYCAM_PAIRS = "leaves 1-4 pairs of sugars unscaled"
LIPID_PAIRS = "gives 1-4 pairs of lipids their own scales"
CHARMM_IMPROPERS = "adds impropers by residue and atom names"
IMPLICIT_SOLVENT = "adds a Generalised Born model"

_KNOWN = {
    "2bca9d329c4a5188": VERSION_CHECK,
    "60bbb5a5a8a17334": GLYCAM_TEMPLATES,
    "d15166e3c77eda2f": GLYCAM_PAIRS,
    "9bc35d75130813e6": LIPID_PAIRS,
    "f6a03e25a0e2c92a": CHARMM_IMPROPERS,  # of OpenMM
    "e51febb57362ffd0": CHARMM_IMPROPERS,  # of openmmforcefields
    **dict.fromkeys(
        ("9fbbcfe6b1956689", "3c9d9671aedb7a7a", "dd509eefa97a6f9e", "f8f15af0071825df", "ad4263378d7a0250"),
        IMPLICIT_SOLVENT,
    ),
}


class Number(NamedTuple):
    """A number in a table of a script.

    Attributes:
        table: name of the table.
        place: where it stands in the text of the element, with its sign.
    """

    table: str
    place: slice


def purpose(element: Element) -> str | None:
    """What a ``<Script>`` or ``<InitializationScript>`` does, if it is one that diffff knows."""
    return _KNOWN.get(_read(element.text)[0])


def tables(element: Element) -> Mapping[str, Any]:
    """The literal tables of a script by name."""
    return _read(element.text)[1]


def numbers(element: Element) -> Sequence[Number]:
    """The numbers of its tables in the order of the text."""
    return _read(element.text)[2]


def respelled(element: Element, values: Mapping[int, str]) -> str:
    """The text of a script with some of its `numbers` replaced."""
    pieces, done = [], 0
    for i, (_, place) in enumerate(numbers(element)):
        if i in values:
            pieces += [element.text[done : place.start], values[i]]
            done = place.stop
    return "".join([*pieces, element.text[done:]])


@lru_cache(maxsize=32)
def _read(text: str) -> tuple[str, Mapping[str, Any], Sequence[Number]]:
    """Hash of the code without its tables, the tables, and their numbers."""
    try:
        body = ast.parse(text).body if text.isascii() else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        body = []
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)

    def place(node: ast.expr) -> slice:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return slice(starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset)

    code, found, places, done = [], {}, [], 0
    for statement in body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            value = _literal(statement.value)
            if value is not None and len(statement.targets) == 1:
                found[statement.targets[0].id] = ast.literal_eval(value)
                span = place(value)
                code += [text[done : span.start], "…"]
                done = span.stop
                name = statement.targets[0].id
                places += sorted((Number(name, place(n)) for n in _numbers(value)), key=lambda n: n.place.start)
    code.append(text[done:])
    digest = hashlib.sha256(" ".join("".join(code).split()).encode()).hexdigest()
    return digest[:16], found, tuple(places)


def _literal(node: ast.expr) -> ast.expr | None:
    """The literal in ``x = literal`` or ``x = set(literal)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "set" and len(node.args) == 1:
        node = node.args[0]
    inside = (ast.Dict, ast.List, ast.Tuple, ast.Set, ast.Constant, ast.UnaryOp, ast.USub, ast.Load)
    return node if all(isinstance(part, inside) for part in ast.walk(node)) else None


def _numbers(node: ast.expr) -> Iterator[ast.expr]:
    signed = {part.operand: part for part in ast.walk(node) if isinstance(part, ast.UnaryOp)}
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and type(part.value) in (int, float):
            yield signed.get(part, part)
