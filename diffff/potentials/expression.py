"""OpenMM's language of custom energies, compiled to JAX.

    "4*epsilon*(x^12-x^6); x=sigma/r; sigma=0.5*(sigma1+sigma2); epsilon=sqrt(epsilon1*epsilon2)"

`parse` turns a text into an `Expression`, a list of operations in which nothing is computed twice; calling it with the
values of its names gives an array. The grammar is that of OpenMM ("Lepton"): ``^`` binds to the right and stronger than
a minus before it (``-2^2 = -4``, ``2^-1 = 0.5``), there is no plus before a value, a function is followed by its
parenthesis at once, and a definition sees only the definitions to its right.

Values and derivatives agree with OpenMM; where OpenMM gives no finite derivative, we do as follows.

- ``select(x, a, b)``: the branch that is not taken cannot spoil a derivative, even where it is infinite or NaN: its
  variables are constants there. (Beyond 4000 operations of nested selects branches are no longer separated.)
- ``sqrt(x)`` and ``x^p`` with a constant ``0 < p < 1`` have derivative 0 at x = 0 instead of infinity, so that
  ``sqrt(epsilon1*epsilon2)`` has a finite gradient for ``epsilon = 0``.
- ``step(x)*a``, ``min(a, b)`` and ``max(a, b)`` do not separate their arguments: an infinite one gives NaN, as there.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import jax

from diffff.errors import InputError
from diffff.potentials.expression_graph import FUNCTIONS, Graph, Node, evaluate

MAX_DEPTH = 120  # nested parentheses; three Python frames each

_PRECEDENCE = {"+": 0, "-": 0, "*": 1, "/": 1, "^": 3}
_OF_MINUS = 2
_HINTS = {"pow": "write a^b", "ln": "write log(x)", "fabs": "write abs(x)", "if": "write select(condition, a, b)"}
_TOKEN = re.compile(r"(?P<number>(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)|(?P<name>[^\W\d][\w.']*)|(?P<symbol>[-+*/^(),])")


@dataclass(frozen=True)
class Expression:
    """A parsed text; equal texts with equal functions are equal, so it can be a static field of a term.

    Attributes:
        text: as given.
        functions: names and numbers of arguments of the user's functions, sorted.
        nodes: operations in the order of evaluation, the last one is the result.
    """

    text: str
    functions: tuple[tuple[str, int], ...] = ()
    nodes: tuple[Node, ...] = field(default=(), compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names whose values are needed, in the order of the alphabet."""
        return tuple(sorted(str(node.value) for node in self.nodes if node.op == "name"))

    def __call__(
        self,
        values: Mapping[str, jax.Array | float],
        functions: Mapping[str, Callable[..., jax.Array]] | None = None,
    ) -> jax.Array:
        """Value of the expression; shapes are broadcast, and the dtype is that of the values.

        Args:
            values: a value for each of `names`; others are ignored.
            functions: the user's functions.

        Raises:
            InputError: a name or a function has no value.

        Example:
            >>> parse("k*(r-r0)^2; k=0.5*stiffness")({"stiffness": 8.0, "r": 3.0, "r0": 1.0}).item()
            16.0
        """
        functions = functions or {}
        for node in self.nodes:
            if node.op == "name":
                self._require(node.value, values, "value")
            elif node.op == "call":
                self._require(node.value, functions, "function")
        return evaluate(self.nodes, values, functions)

    def _require(self, name: float | str | None, given: Mapping[str, Any], what: str) -> None:
        if name not in given:
            known = ", ".join(sorted(given)) or "nothing"
            raise InputError(
                f'expression "{_shortened(self.text)}": no {what} is given for {name!r}, only for {known}. '
                f"Give one, or define it in the expression ({name}=...)."
            )


def parse(
    text: str, functions: Mapping[str, int] | None = None, variables: Collection[str] | None = None
) -> Expression:
    """Read an expression of OpenMM's custom forces.

    Args:
        text: for example ``"a*b; a=x+1; b=y"``.
        functions: number of arguments of each of the user's functions; they go before ours of the same name.
        variables: names that will have a value; None: any name may.

    Raises:
        InputError: with the text and a caret at the place that is wrong: a malformed text, an unknown function, a wrong
            number of arguments, a name that is not among ``variables``, more than 120 nested parentheses.

    Example:
        >>> parse("k*(r-r0)^2; k=0.5*stiffness").names
        ('r', 'r0', 'stiffness')
    """
    user = dict(functions or {})
    parser = _Parser(text, user)
    graph, root = parser.run()
    nodes = graph.reachable_from(root)
    expression = Expression(text=text, functions=tuple(sorted(user.items())), nodes=nodes)
    if variables is not None:
        for name in expression.names:
            if name not in variables:
                parser.refuse_name(name, variables)
    return expression


class _Token(NamedTuple):
    kind: str  # number, name, symbol, end
    text: str
    start: int


class _Parser:
    """Precedence climbing over the parts of a text, from the last definition to the expression itself."""

    def __init__(self, text: str, functions: Mapping[str, int]) -> None:
        self.text = text
        self.arities = {name: n for name, (n, _) in FUNCTIONS.items()} | dict(functions)
        self.user = functions
        self.graph = Graph()
        self.defined: dict[str, int] = {}
        self.first_seen: dict[str, int] = {}
        self.tokens: list[_Token] = []
        self.at = 0

    def run(self) -> tuple[Graph, int]:
        parts, start = [], 0
        for part in self.text.split(";"):
            parts.append((start, start + len(part)))
            start += len(part) + 1
        for start, end in reversed(parts[1:]):
            if self.text[start:end].strip():
                self._definition(start, end)
        return self.graph, self._whole(*parts[0])

    def _definition(self, start: int, end: int) -> None:
        name, equals, _ = self.text[start:end].partition("=")
        indent = start + len(name) - len(name.lstrip())
        if not equals:
            self.fail(indent, "expected a definition, name=expression, after the semicolon")
        match = _TOKEN.fullmatch(name.strip())
        if match is None or match.lastgroup != "name":
            self.fail(indent, f"expected a name before '=', found {name.strip()!r}")
        self.defined[name.strip()] = self._whole(start + len(name) + 1, end)

    def _whole(self, start: int, end: int) -> int:
        self.tokens, self.at = list(self._tokens(start, end)), 0
        node = self._expression(0, 0)
        token = self.tokens[self.at]
        if token.kind != "end":
            found = f"expected an operator or the end, found {token.text!r}"
            before = self.tokens[self.at - 1]
            if token.text == "(" and before.text in self.arities:
                found = f"expected no space between {before.text!r} and its parenthesis"
            self.fail(token.start, "there is no '(' for this ')'" if token.text == ")" else found)
        return node

    def _tokens(self, start: int, end: int) -> Iterable[_Token]:
        at = start
        while at < end:
            if self.text[at].isspace():
                at += 1
                continue
            match = _TOKEN.match(self.text, at, end)
            if match is None:
                self.fail(at, f"{self.text[at]!r} has no meaning in an expression")
            kind = "number" if match["number"] else "name" if match["name"] else "symbol"
            yield _Token(kind, match[0], at)
            at = match.end()
        yield _Token("end", "", end)

    def _next(self) -> _Token:
        token = self.tokens[self.at]
        self.at += token.kind != "end"
        return token

    def _expression(self, least: int, depth: int) -> int:
        if depth > MAX_DEPTH:
            self.fail(self.tokens[self.at].start, f"nested more than {MAX_DEPTH} deep; use definitions")
        left = self._operand(depth)
        while True:
            operator = self.tokens[self.at]
            precedence = _PRECEDENCE.get(operator.text, -1)
            if precedence < least:
                return left
            self.at += 1
            if self.tokens[self.at].text == operator.text == "*":
                self.fail(self.tokens[self.at].start, "expected a value; a power is written a^b")
            right = self._expression(precedence + (operator.text != "^"), depth + 1)
            left = self.graph.add(operator.text, left, right)

    def _operand(self, depth: int) -> int:
        token = self._next()
        if token.kind == "number":
            return self.graph.number(float(token.text))
        if token.kind == "name":
            after = self.tokens[self.at]
            if after.text == "(" and after.start == token.start + len(token.text):
                return self._call(token, depth)
            if token.text in self.defined:
                return self.defined[token.text]
            self.first_seen[token.text] = token.start
            return self.graph.name(token.text)
        if token.text == "(":
            inner = self._expression(0, depth + 1)
            self._close(token)
            return inner
        if token.text != "-":
            found = repr(token.text) if token.text else "the end"
            self.fail(token.start, f"expected a number, a name, '-' or '(', found {found}")
        return self.graph.add("negate", self._expression(_OF_MINUS, depth + 1))

    def _call(self, token: _Token, depth: int) -> int:
        name, opening = token.text, self._next()
        args = [self._expression(0, depth + 1)]
        while self.tokens[self.at].text == ",":
            self.at += 1
            args.append(self._expression(0, depth + 1))
        self._close(opening)
        if name not in self.arities:
            close = difflib.get_close_matches(name, self.arities, 1)
            hint = _HINTS.get(name, f"did you mean {close[0]!r}?" if close else f"known are {_listed(self.arities)}")
            self.fail(token.start, f"unknown function {name!r}; {hint}")
        if len(args) != self.arities[name]:
            self.fail(token.start, f"{name!r} takes {self.arities[name]} argument(s), found {len(args)}")
        return self.graph.call(name, *args) if name in self.user else self.graph.add(name, *args)

    def _close(self, opening: _Token) -> None:
        token = self._next()
        if token.text != ")":
            found = repr(token.text) if token.text else "the end"
            self.fail(token.start, f"expected ')' for the '(' at {opening.start + 1}, found {found}")

    def refuse_name(self, name: str, known: Collection[str]) -> None:
        if name in self.defined:
            why = "it is defined further left, or by itself; a definition sees only those to its right"
        else:
            close = difflib.get_close_matches(name, known, 1)
            why = f"did you mean {close[0]!r}?" if close else f"known are {_listed(known)}"
        self.fail(self.first_seen[name], f"the name {name!r} has no value here; {why}")

    def fail(self, at: int, why: str) -> NoReturn:
        """Refuse the text, with a caret below the place."""
        start, end = max(0, at - 60), at + 40
        line = re.sub(r"\s", " ", self.text[start:end])
        caret = " " * (at - start) + "^"
        raise InputError(f'expression "{_shortened(self.text)}": at position {at + 1}: {why}\n    {line}\n    {caret}')


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-30:]}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
