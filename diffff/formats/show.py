"""What a model file holds, as text; works on every model of DeePMD-kit, also on those that diffff cannot compute."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.formats.model_file import Tree, read_tree

# arrays that come from the data, not from training
_STATISTICS = frozenset(
    ["davg", "dstd", "mean", "stddev", "out_bias", "out_std", "bias_atom_e", "constant_matrix", "scale", "case_embd"]
)
_STATISTICS |= {"fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std", "compress_data", "compress_info"}
_TITLES = frozenset(["@class", "@version", "type"])  # keys that are in the first line of a section


def show(path: str | Path, attributes: Sequence[str] = ()) -> str:
    """Describes a model file.

    Args:
        path: A `.dp` or `.yaml` file.
        attributes: What to show: type-map, descriptor, fitting-net, size, bias, observed-type, serialization-tree; none
            means all but the last.

    Raises:
        InputError: The file cannot be read, or there is no such attribute.
    """
    unknown = [name for name in attributes if name not in _PARTS]
    if unknown:
        raise InputError(f'nothing to show of "{unknown[0]}"; choose from {", ".join(_PARTS)}.')
    tree = read_tree(path)
    if not isinstance(tree.get("model"), dict):
        raise InputError(f'{path}: there is no section "model", so it is no model file of DeePMD-kit.')
    writer = " ".join(str(tree[key]) for key in ("software", "version", "backend", "time") if key in tree)
    names = attributes or [name for name in _PARTS if name != "serialization-tree"]
    return "\n".join([f"{path}: written by {writer or 'an unknown program'}", *(_PARTS[name](tree) for name in names)])


def _type_map(tree: Tree) -> str:
    return f"type-map: {' '.join(_types(tree))}"


def _types(tree: Tree) -> list[str]:
    maps = (section.get("type_map") for _, section in _sections(tree["model"]))
    return next(([str(name) for name in names] for names in maps if isinstance(names, list) and names), [])


def _descriptor(tree: Tree) -> str:
    return _settings_of(tree, "descriptor", "Descriptor")


def _fitting(tree: Tree) -> str:
    return _settings_of(tree, "fitting-net", "Fitting")


def _settings_of(tree: Tree, title: str, kind: str) -> str:
    lines = []
    for _, section in _sections(tree["model"]):
        if section.get("@class") == kind:
            lines += [f"{title}: {_title(section)}", *(f"  {line}" for line in _settings(section))]
    return "\n".join(lines) or f"{title}: none"


def _settings(section: dict[str, Any]) -> Iterator[str]:
    """The plain values of a section, and those of the sections inside it that hold no arrays."""
    for key, value in section.items():
        if key in _TITLES or isinstance(value, np.ndarray) or _numbers(value):
            continue
        if isinstance(value, dict) and key != "@variables":
            yield from [f"{key}:", *(f"  {line}" for line in _settings(value))]
        elif key != "@variables":
            yield f"{key}: {json.dumps(value, ensure_ascii=False)}"


def _size(tree: Tree) -> str:
    lines = [f"size: {_numbers(tree['model'], _STATISTICS):,} parameters"]
    for kind in ("Descriptor", "Fitting"):
        for section in _outermost(tree["model"], kind):
            lines.append(f"  {kind.lower()} {section.get('type')}: {_numbers(section, _STATISTICS):,}")
    return "\n".join(lines)


def _bias(tree: Tree) -> str:
    values = _energy_bias(tree)
    if values is None:
        return "bias: none per type"
    lines = [f"  {name}: {value:.10g} eV" for name, value in zip(_types(tree), values, strict=True)]
    return "\n".join(["bias:", *lines])


def _energy_bias(tree: Tree) -> np.ndarray | None:
    """Energy per type in eV: the sum of the two places where models keep it; None for models that are no energies."""
    fittings = list(_outermost(tree["model"], "Fitting"))
    n_types = len(_types(tree))
    if len(fittings) != 1 or fittings[0].get("type") != "ener":
        return None
    stores = (("out_bias", tree["model"]), ("bias_atom_e", fittings[0]))
    arrays = [_variables(section).get(name) for name, section in stores]
    parts = [np.reshape(array, -1) for array in arrays if isinstance(array, np.ndarray) and array.size == n_types]
    return np.sum(parts, axis=0) if parts else None


def _observed(tree: Tree) -> str:
    script = tree.get("model_def_script")
    info = script.get("info") if isinstance(script, dict) else None
    types = info.get("observed_type") if isinstance(info, dict) else None
    if types:
        return f"observed-type: {' '.join(types)}"
    values = _energy_bias(tree)
    if values is None:
        return "observed-type: not recorded"
    seen = [name for name, value in zip(_types(tree), values, strict=True) if abs(value) > 1e-6]
    return f"observed-type: not recorded; a bias is there for {' '.join(seen) or 'no type'}"


def _tree(tree: Tree) -> str:
    return "\n".join(["serialization-tree:", *(f"  {line}" for line in _branch("model", tree["model"]))])


def _branch(name: str, node: Any) -> Iterator[str]:
    """One line for an array or a section with arrays, then its contents; equal list items share their lines."""
    if isinstance(node, np.ndarray):
        yield f"{name}: {node.dtype} {node.shape}"
    if not isinstance(node, dict | list) or not _numbers(node):
        return
    title = _title(node) if isinstance(node, dict) else ""
    yield f"{name}: {title + ', ' if title else ''}{_numbers(node):,} numbers"
    if isinstance(node, dict):
        sections = [(key, child) for key, child in node.items() if key != "@variables"]
        for key, child in [*sections, *_variables(node).items()]:
            yield from (f"  {line}" for line in _branch(key, child))
        return
    bodies = [(index, list(_branch("", child))) for index, child in enumerate(node)]
    for lines, group in groupby(bodies, key=lambda body: body[1]):
        indices = [index for index, _ in group]
        if lines:
            span = f"{indices[0]}…{indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
            yield from [f"  {span}{lines[0]}", *(f"  {line}" for line in lines[1:])]


def _title(section: dict[str, Any]) -> str:
    words = [str(section[key]) for key in ("@class", "type") if key in section]
    return " ".join(words) + (f", version {section['@version']}" if "@version" in section else "")


def _variables(section: dict[str, Any]) -> dict[str, Any]:
    variables = section.get("@variables")
    return variables if isinstance(variables, dict) else {}


def _numbers(node: Any, without: frozenset[str] = frozenset()) -> int:
    """How many numbers the arrays below a node hold, arrays of certain names left out."""
    if isinstance(node, np.ndarray):
        return node.size
    if isinstance(node, dict):
        return sum(_numbers(child, without) for key, child in node.items() if key not in without)
    return sum(_numbers(child, without) for child in node) if isinstance(node, list) else 0


def _sections(node: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """All sections with their paths, from the outside in."""
    if isinstance(node, dict):
        yield path, node
        for key, child in node.items():
            yield from _sections(child, f"{path}.{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _sections(child, f"{path}.{index}")


def _outermost(model: Tree, kind: str) -> Iterator[dict[str, Any]]:
    """The sections of a class that are in no other section of that class."""
    inside = None
    for path, section in _sections(model):
        if section.get("@class") == kind and not (inside and path.startswith(inside)):
            inside = f"{path}."
            yield section


_PARTS: dict[str, Callable[[Tree], str]] = {
    "type-map": _type_map,
    "descriptor": _descriptor,
    "fitting-net": _fitting,
    "size": _size,
    "bias": _bias,
    "observed-type": _observed,
    "serialization-tree": _tree,
}
