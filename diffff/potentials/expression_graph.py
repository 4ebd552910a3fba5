"""The operations of an energy expression: what each computes, and the graph of them in which none occurs twice.

`Graph` collects operations, `Graph.reachable_from` gives the list of those that a result needs, in the order of
evaluation, and `evaluate` runs it in JAX. What is done for finite derivatives stands in `diffff.potentials.expression`.
"""

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np
import scipy.special

MAX_GUARDED = 4_000  # operations
MAX_INTEGER_POWER = 2**31 - 1


def _special(m: ModuleType) -> Any:
    return scipy.special if m is np else jax.scipy.special


def _sqrt(m: ModuleType, x: Any) -> Any:
    zero = x == 0.0
    return m.where(zero, 0.0, m.sqrt(m.where(zero, 1.0, x)))


def _power(m: ModuleType, x: Any, y: Any) -> Any:
    if isinstance(y, float) and 0.0 < y < 1.0:
        zero = x == 0.0
        return m.where(zero, 0.0, m.where(zero, 1.0, x) ** y)
    return m.power(x, y)


# Each takes numpy, to fold constants, or jax.numpy as its first argument. Ties and NaN follow std::min and std::max.
FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "sqrt": (1, _sqrt),
    "exp": (1, lambda m, x: m.exp(x)),
    "log": (1, lambda m, x: m.log(x)),
    "sin": (1, lambda m, x: m.sin(x)),
    "cos": (1, lambda m, x: m.cos(x)),
    "sec": (1, lambda m, x: 1.0 / m.cos(x)),
    "csc": (1, lambda m, x: 1.0 / m.sin(x)),
    "tan": (1, lambda m, x: m.tan(x)),
    "cot": (1, lambda m, x: 1.0 / m.tan(x)),
    "asin": (1, lambda m, x: m.arcsin(x)),
    "acos": (1, lambda m, x: m.arccos(x)),
    "atan": (1, lambda m, x: m.arctan(x)),
    "atan2": (2, lambda m, y, x: m.arctan2(y, x)),
    "sinh": (1, lambda m, x: m.sinh(x)),
    "cosh": (1, lambda m, x: m.cosh(x)),
    "tanh": (1, lambda m, x: m.tanh(x)),
    "erf": (1, lambda m, x: _special(m).erf(x)),
    "erfc": (1, lambda m, x: _special(m).erfc(x)),
    "step": (1, lambda m, x: m.where(x >= 0.0, 1.0, m.zeros_like(x))),
    "delta": (1, lambda m, x: m.where(x == 0.0, 1.0, m.zeros_like(x))),
    "square": (1, lambda m, x: m.square(x)),
    "cube": (1, lambda m, x: x * m.square(x)),
    "recip": (1, lambda m, x: 1.0 / x),
    "min": (2, lambda m, x, y: m.where(y <= x, y, x)),
    "max": (2, lambda m, x, y: m.where(x < y, y, x)),
    "abs": (1, lambda m, x: m.where(x < 0.0, -x, x)),
    "floor": (1, lambda m, x: m.floor(x)),
    "ceil": (1, lambda m, x: m.ceil(x)),
    "select": (3, lambda m, x, y, z: m.where(x != 0.0, y, z)),
}
_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": lambda m, x, y: x + y,
    "-": lambda m, x, y: x - y,
    "*": lambda m, x, y: x * y,
    "/": lambda m, x, y: x / y,
    "^": _power,
    "negate": lambda m, x: -x,
    # A variable of a branch of select: constant where the branch is not taken.
    "if": lambda m, c, x: jnp.where(c != 0.0, x, jax.lax.stop_gradient(x)),
    "unless": lambda m, c, x: jnp.where(c != 0.0, jax.lax.stop_gradient(x), x),
}
_COMPUTE = _OPERATORS | {name: compute for name, (_, compute) in FUNCTIONS.items()}
# Functions whose derivative is finite for all finite arguments; a branch of select with others needs its guard.
_SMOOTH = {"number", "name", "+", "-", "negate", "if", "unless", "select", "step", "delta", "min", "max", "abs"} | {
    *("floor", "ceil", "sin", "cos", "atan", "tanh", "erf", "erfc")
}


class Node(NamedTuple):
    """One operation on earlier nodes; ``value`` is a number, or the name of a variable or function."""

    op: str
    args: tuple[int, ...] = ()
    value: float | str | None = None


def evaluate(
    nodes: Iterable[Node], values: Mapping[str, Any], functions: Mapping[str, Callable[..., jax.Array]]
) -> jax.Array:
    """The result of the last node.

    Args:
        nodes: as of `Graph.reachable_from`.
        values: an array for each variable.
        functions: each of the user's functions.
    """
    done: list[Any] = []
    for node in nodes:
        args = [done[arg] for arg in node.args]
        if node.op == "number":
            done.append(node.value)
        elif node.op == "name":
            done.append(_as_float(values[str(node.value)]))
        elif node.op == "call":
            done.append(functions[str(node.value)](*map(jnp.asarray, args)))
        else:
            done.append(_COMPUTE[node.op](jnp, *args))
    return jnp.asarray(done[-1])


def _as_float(value: Any) -> Any:
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(float)


class Graph:
    """The operations; equal ones are one node, constants are folded, and trivial ones are left out as OpenMM does.

    A node is known by its number, its place in ``nodes``.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._index: dict[tuple[str, tuple[int, ...], str], int] = {}
        self._risky: list[bool] = []

    def _intern(self, node: Node) -> int:
        key = (node.op, node.args, repr(node.value))
        if key not in self._index:
            self._index[key] = len(self.nodes)
            self.nodes.append(node)
            self._risky.append(node.op not in _SMOOTH or any(self._risky[arg] for arg in node.args))
        return self._index[key]

    def number(self, value: float) -> int:
        """A constant."""
        return self._intern(Node("number", (), float(value)))

    def name(self, name: str) -> int:
        """A variable."""
        return self._intern(Node("name", (), name))

    def call(self, name: str, *args: int) -> int:
        """A function of the user."""
        return self._intern(Node("call", args, name))

    def _constant(self, node: int) -> float | None:
        value = self.nodes[node].value
        return value if isinstance(value, float) else None

    def add(self, op: str, *args: int) -> int:
        """An operator or one of `FUNCTIONS`, on earlier nodes, as a number or a shorter form where there is one."""
        constants = [c for c in map(self._constant, args) if c is not None]
        if len(constants) == len(args):
            with np.errstate(all="ignore"):
                return self.number(_COMPUTE[op](np, *map(np.float64, constants)))
        simpler = self._simplified(op, args)
        if simpler is not None:
            return simpler
        return self._intern(Node(op, tuple(sorted(args)) if op in "+*" else args))

    def _simplified(self, op: str, args: tuple[int, ...]) -> int | None:
        a, b = args[0], args[-1]
        first, second = self._constant(a), self._constant(b)
        if op == "^" and first in (0.0, 1.0):
            return a
        if op == "^" and second is not None:
            return self._power(a, second)
        if op == "select":
            return self._select(*args)
        if (op == "*" and 0.0 in (first, second)) or (op == "/" and first == 0.0) or (op == "-" and a == b):
            return self.number(0.0)
        if op == "/" and a == b:
            return self.number(1.0)
        if (op == "+" and first == 0.0) or (op == "*" and first == 1.0):
            return b
        if (op in "+-" and second == 0.0) or (op in "*/" and second == 1.0):
            return a
        return None

    def _power(self, base: int, exponent: float) -> int | None:
        """Integer powers by products, such that x^12 and x^6 share theirs; ``x^-n = (1/x)^n``."""
        if exponent == 0.5:
            return self.add("sqrt", base)
        if not exponent.is_integer() or abs(exponent) > MAX_INTEGER_POWER:
            return None
        n = int(exponent)
        if n == 0:
            return self.number(1.0)
        if n < 0:
            base, n = self.add("recip", base), -n
        result = base
        for bit in bin(n)[3:]:
            result = self.add("square", result)
            result = self.add("*", base, result) if bit == "1" else result
        return result

    def _select(self, condition: int, taken: int, other: int) -> int:
        value = self._constant(condition)
        if value is not None:
            return taken if value != 0.0 else other
        if taken == other:
            return taken
        branches = self._guarded(taken, condition, "if"), self._guarded(other, condition, "unless")
        return self._intern(Node("select", (condition, *branches)))

    def _guarded(self, branch: int, condition: int, guard: str) -> int:
        """The branch with its variables held constant where it is not taken."""
        inside = sorted(self._descendants(branch))
        if not self._risky[branch] or len(self.nodes) + len(inside) > MAX_GUARDED:
            return branch
        new: dict[int, int] = {}
        for old in inside:
            node = self.nodes[old]
            if node.op == "name":
                new[old] = self._intern(Node(guard, (condition, old)))
            else:
                new[old] = self._intern(node._replace(args=tuple(new[arg] for arg in node.args)))
        return new[branch]

    def _descendants(self, root: int) -> set[int]:
        found, waiting = {root}, [root]
        while waiting:
            new = set(self.nodes[waiting.pop()].args) - found
            found |= new
            waiting.extend(new)
        return found

    def reachable_from(self, root: int) -> tuple[Node, ...]:
        """The nodes that the root needs, numbered anew."""
        needed = sorted(self._descendants(root))
        position = {old: new for new, old in enumerate(needed)}
        return tuple(self.nodes[old]._replace(args=tuple(position[a] for a in self.nodes[old].args)) for old in needed)
