"""Names for the leaves of a parameter tree.

A tree is nested dicts and lists with arrays at the leaves. The name of a leaf is its key path,
"DeepPot/fitting/nets/O/0/w": the same string in a checkpoint, in an optimiser rule and in a log line.
Leaves are always listed in the order of `jax.tree.leaves`: dict keys sorted, list items in place.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from diffff.errors import InputError

T = TypeVar("T")


def flatten(params: Any) -> dict[str, Any]:
    """Give every leaf its name; `unflatten` is the exact inverse.

    Raises:
        ValueError: The tree has no unique flat form: a key that is not text, contains "/" or is a number
            in digits, an empty dict or list inside, or a leaf that is None.

    Example:
        >>> flatten({"b": [1.0, {"w": 2.0}], "a": 3.0})
        {'a': 3.0, 'b/0': 1.0, 'b/1/w': 2.0}
    """
    return dict(_leaves(params, ""))


def paths(params: Any) -> list[str]:
    """The names of all leaves, in the order of `jax.tree.leaves`."""
    return list(flatten(params))


def unflatten(leaves: Mapping[str, Any]) -> Any:
    """Build the tree from named leaves; siblings named 0 … n-1 become a list.

    Raises:
        ValueError: A name is a leaf and a branch at once, or list items are missing.

    Example:
        >>> unflatten({"a": 3.0, "b/0": 1.0, "b/1/w": 2.0})
        {'a': 3.0, 'b': [1.0, {'w': 2.0}]}
    """
    tree: dict[str, Any] = {}
    branches = {""}  # the names that hold other names
    for path, leaf in leaves.items():
        node, parts = tree, path.split("/")
        for depth, part in enumerate(parts[:-1], start=1):
            branch = "/".join(parts[:depth])
            if branch in leaves:
                raise ValueError(f"{branch} is a leaf, yet {path} lies below it")
            branches.add(branch)
            node = node.setdefault(part, {})
        node[parts[-1]] = leaf
    return _with_lists(tree, "", branches)


def select(rules: Sequence[tuple[str, T]], params: Any) -> Any:
    """Choose one treatment for every leaf by ordered (pattern, treatment) rules; the first match wins.

    A pattern is a shell glob over the whole name, and "*" also spans "/": "DeepPot/fitting/*" means every
    parameter of the fitting net, "*/idt" every time step factor.

    Args:
        rules: The (pattern, treatment) pairs. A treatment may be any value.
        params: The parameter tree.

    Returns:
        A tree of the same structure with a treatment at each leaf (as `optax.multi_transform` wants it).

    Raises:
        InputError: Some leaves are matched by no rule; they are listed.

    Example:
        >>> select([("*/b", "frozen"), ("*", "adam")], {"net": {"w": 1.0, "b": 2.0}})
        {'net': {'b': 'frozen', 'w': 'adam'}}
    """
    chosen: dict[str, T] = {}
    uncovered: list[str] = []
    for path in paths(params):
        for pattern, treatment in rules:
            if fnmatchcase(path, pattern):
                chosen[path] = treatment
                break
        else:
            uncovered.append(path)
    if uncovered:
        patterns = ", ".join(repr(pattern) for pattern, _ in rules) or "none given"
        raise InputError(
            f"no rule covers these parameters: {', '.join(uncovered)} (rules: {patterns}). "
            'Add a rule for them, or a last rule "*" for everything not named before.'
        )
    return unflatten(chosen)


def unused(rules: Sequence[tuple[str, Any]], params: Any) -> list[str]:
    """The patterns that match no leaf at all, probably misspelt.

    Example:
        >>> unused([("*/biass", "frozen"), ("*", "adam")], {"net": {"bias": 2.0}})
        ['*/biass']
    """
    names = paths(params)
    return [pattern for pattern, _ in rules if not any(fnmatchcase(name, pattern) for name in names)]


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        children: list[tuple[str, Any]] = [(_checked_key(key, path), node[key]) for key in sorted(node)]
    elif isinstance(node, list):
        children = [(str(index), child) for index, child in enumerate(node)]
    elif node is None:
        raise ValueError(f"{path or 'the tree'}: None is not a parameter; leave the key out")
    else:
        yield path, node
        return
    if not children and (path or isinstance(node, list)):
        raise ValueError(f"{path or 'the tree'}: an empty {type(node).__name__} has no flat form; leave the key out")
    for key, child in children:
        yield from _leaves(child, f"{path}/{key}" if path else key)


def _checked_key(key: Any, path: str) -> str:
    if not isinstance(key, str) or not key or "/" in key or key.isdecimal():
        raise ValueError(f"{path or 'the tree'}: {key!r} cannot be a key: text without '/' that is no number, please")
    return key


def _with_lists(node: dict[str, Any], path: str, branches: set[str]) -> Any:
    """Replace the dicts with keys 0 … n-1 by lists, from the bottom up."""
    made = {}
    for key, child in node.items():
        below = f"{path}/{key}" if path else key
        made[key] = _with_lists(child, below, branches) if below in branches else child
    if not made or not all(key.isdecimal() for key in made):
        return made
    try:
        return [made[str(index)] for index in range(len(made))]
    except KeyError as missing:
        raise ValueError(f"{path or 'the tree'}: list item {missing} is missing") from None
