"""Python code in force-field files, which is never trusted.

The scripts that ship with OpenMM's own force fields are known here by the hash of their code. Each has some literal
tables (names, numbers) that differ from file to file: these alone do not count for the hash, and their numbers are
parameters with a place in the text. What is not known is code of a stranger.
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

_TABLES: dict[str, tuple[str, ...]] = {  # what may vary in a script of each purpose
    VERSION_CHECK: ("EXPECTED_VERSION",),
    GLYCAM_TEMPLATES: (),
    GLYCAM_PAIRS: ("unscaled_types",),
    LIPID_PAIRS: ("scee_table", "scnb_table"),
    CHARMM_IMPROPERS: (
        *("residue_impropers", "patch_impropers", "delete_impropers", "residue_order", "patch_order"),
        *("periodic_improper_types", "harmonic_improper_types"),
    ),
    IMPLICIT_SOLVENT: (),
}
_KNOWN = {
    "f2a2393e843d30eb": VERSION_CHECK,
    "5041f145336c28df": GLYCAM_TEMPLATES,
    "e57412021b2c9a36": GLYCAM_PAIRS,
    "20c0c1e165839d37": LIPID_PAIRS,
    "0b117e7324757450": CHARMM_IMPROPERS,  # of OpenMM
    "393480b290435119": CHARMM_IMPROPERS,  # of openmmforcefields
    **dict.fromkeys(
        ("2887d9b53c838977", "a315fe32cda3b500", "bce0902c3c696382", "01b3da1b383dd4a4", "c830fc1079cd1230"),
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


class _Script(NamedTuple):
    """What is known of a script: its purpose if any, its tables, and the numbers in them."""

    purpose: str | None
    tables: Mapping[str, Any]
    numbers: Sequence[Number]


def purpose(element: Element) -> str | None:
    """What a ``<Script>`` or ``<InitializationScript>`` does, if it is one that diffff knows."""
    return _read(element.text).purpose


def tables(element: Element) -> Mapping[str, Any]:
    """The literal tables of a known script by name; none of a foreign one."""
    return _read(element.text).tables


def numbers(element: Element) -> Sequence[Number]:
    """The numbers of its tables in the order of the text."""
    return _read(element.text).numbers


def respelled(element: Element, values: Mapping[int, str]) -> str:
    """The text of a script with some of its `numbers` replaced."""
    pieces, done = [], 0
    for i, (_, place) in enumerate(numbers(element)):
        if i in values:
            pieces += [element.text[done : place.start], values[i]]
            done = place.stop
    return "".join([*pieces, element.text[done:]])


@lru_cache(maxsize=32)
def _read(text: str) -> _Script:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)

    def place(node: ast.expr) -> slice:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return slice(starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset)

    literals = _literals(text)
    for purpose, names in _TABLES.items():
        varying = {name: node for name, node in literals.items() if name in names}
        if _KNOWN.get(_digest(text, [place(node) for node in varying.values()])) == purpose:
            found = [Number(name, place(n)) for name, node in varying.items() for n in _numbers(node)]
            values = {name: ast.literal_eval(node) for name, node in varying.items()}
            return _Script(purpose, values, tuple(sorted(found, key=lambda number: number.place.start)))
    return _Script(None, {}, ())


def _digest(text: str, tables: Sequence[slice]) -> str:
    """Hash of the code without its tables. Indentation and line breaks count, spaces at the ends of lines do not."""
    code, done = [], 0
    for table in tables:
        code += [text[done : table.start], "…"]
        done = table.stop
    lines = "".join([*code, text[done:]]).replace("\r\n", "\n").split("\n")
    return hashlib.sha256("\n".join(line.rstrip() for line in lines).strip("\n").encode()).hexdigest()[:16]


def _literals(text: str) -> dict[str, ast.expr]:
    """What stands in ``x = literal`` or ``x = set(literal)`` at the top of a script; the first one of each name."""
    try:
        body = ast.parse(text).body if text.isascii() else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, ast.expr] = {}
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], _literal(statement.value)
            if isinstance(target, ast.Name) and value is not None:
                found.setdefault(target.id, value)
    return found


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
