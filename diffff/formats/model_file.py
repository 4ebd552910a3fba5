"""Model files of DeePMD-kit as plain trees: `.dp` (HDF5) and `.yaml`, read and written without loss.

A tree is nested dicts and lists as JSON has them, with numpy arrays as leaves below every key "@variables". The two
files hold the same tree; they differ in where the arrays are:

    .dp     HDF5; the root attribute "json" is the tree, each array replaced by the name of its dataset,
            "/variable_0000", "/variable_0001", … in the order of the tree
    .yaml   an array is {"@class": "np.ndarray", "@is_variable": true, "@version": 1, "dtype": …, "value": nested lists}

Nothing here knows what a model is made of, so every model of DeePMD-kit can be converted, also one that diffff cannot
compute.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from diffff.errors import InputError
from diffff.files import replacing

try:  # in C; safe: they know numbers, text, lists and dicts, nothing else
    from yaml import CSafeDumper as Dumper
    from yaml import CSafeLoader as Loader
except ImportError:
    from yaml import SafeDumper as Dumper
    from yaml import SafeLoader as Loader

Tree = dict[str, Any]

_VARIABLES = "@variables"
_YAML = (".yaml", ".yml")
_KINDS = "biuf"  # bool, integers, floats: what both files can hold


def read_tree(path: str | Path) -> Tree:
    """Reads a model file.

    Args:
        path: A `.dp`, `.yaml` or `.yml` file.

    Returns:
        The tree; leaves below "@variables" are arrays (or None).

    Raises:
        InputError: There is no such file, or it is broken or not a model file.
    """
    path = Path(path)
    read = _read_yaml if _suffix(path) in _YAML else _read_dp
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give the path of a model file (.dp, .yaml).")
    try:
        return read(path)
    except RecursionError:
        raise InputError(f"{path}: nested too deeply, this is no model file.") from None


def write_tree(path: str | Path, tree: Tree) -> None:
    """Writes a model file, as a whole or not at all: a reader never sees half of it.

    Args:
        path: A `.dp`, `.yaml` or `.yml` file; missing directories are made.
        tree: As `read_tree` returns it; not changed.

    Raises:
        InputError: The ending is unknown, or the file cannot be written.
    """
    path = Path(path)
    write = _write_yaml if _suffix(path) in _YAML else _write_dp
    with replacing(path) as part:
        write(part, tree)


def convert(source: str | Path, target: str | Path) -> None:
    """Copies a model from one kind of file to another; no number changes.

    Args:
        source: A `.dp`, `.yaml` or `.yml` file.
        target: The file to write; its ending chooses the kind.

    Raises:
        InputError: See `read_tree` and `write_tree`.
    """
    _suffix(Path(target))
    write_tree(target, read_tree(source))


def _suffix(path: Path) -> str:
    if path.suffix not in (".dp", *_YAML):
        raise InputError(f"{path}: not the ending of a model file. Use .dp, .yaml or .yml.")
    return path.suffix


def _map_leaves(node: Any, change: Callable[[Any, str], Any], path: str = "$", *, below: bool = False) -> Any:
    """The same tree with `change(leaf, JSON path)` in place of each leaf below "@variables" that is not None."""
    if isinstance(node, dict) and not (below and node.get("@is_variable", False)):
        return {
            key: _map_leaves(child, change, f"{path}.{key}", below=below or key == _VARIABLES)
            for key, child in node.items()
        }
    if isinstance(node, list | tuple):
        return [_map_leaves(child, change, f"{path}[{i}]", below=below) for i, child in enumerate(node)]
    return change(node, path) if below and node is not None else node


def _plain(value: Any) -> Any:
    """What JSON and YAML cannot write by themselves: the numbers of numpy."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} outside of {_VARIABLES} cannot be written to a model file")


# ---------------------------------------------------------------------------------------------------------------- .dp
def _read_dp(path: Path) -> Tree:
    with _opened(path) as file:
        text = file.attrs.get("json")
        if not isinstance(text, str | bytes):
            raise InputError(f'{path}: an HDF5 file without the attribute "json", so no model file of DeePMD-kit.')
        try:
            tree = json.loads(text)
        except ValueError as error:
            raise InputError(f'{path}: the attribute "json" is broken ({error}).') from None
        if not isinstance(tree, dict):
            raise InputError(f'{path}: the attribute "json" must hold a section {{…}}.')
        limit = 1000 * path.stat().st_size
        return _map_leaves(tree, lambda name, where: _dataset(file, name, limit, f"{path}: {where}"))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read. h5py raises any of these errors for damaged files; here they become an InputError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except RecursionError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable HDF5 file: damaged, truncated or of another kind ({error})."
        ) from None


def _dataset(file: h5py.File, name: Any, limit: int, where: str) -> np.ndarray:
    """One array. Only datasets of the file itself count: a link or external data could lead anywhere."""
    link: Any = file.get(name, getlink=True) if isinstance(name, str) and re.fullmatch(r"/?\w+", name) else None
    dataset: Any = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise InputError(f"{where}: there is no dataset {name!r} in the file; it is incomplete or was changed.")
    if dataset.dtype.kind not in _KINDS or dataset.nbytes > limit:
        raise InputError(f"{where}: {name} is no array of numbers ({dataset.dtype}, shape {dataset.shape}).")
    return np.asarray(dataset[()])


def _write_dp(path: Path, tree: Tree) -> None:
    content = io.BytesIO()  # HDF5 does not get over a full disk in good order, a plain file does
    with h5py.File(content, "w") as file:
        count = 0

        def store(leaf: Any, where: str) -> str:
            nonlocal count
            file.create_dataset(f"variable_{count:04d}", data=_array(leaf, where))
            count += 1
            return f"/variable_{count - 1:04d}"

        file.attrs["json"] = json.dumps(_map_leaves(tree, store), separators=(",", ":"), default=_plain)
    path.write_bytes(content.getvalue())


def _array(leaf: Any, where: str) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.kind not in _KINDS:
        raise InputError(f"{where}: {array.dtype} cannot be written to a model file; only numbers can.")
    return array


# -------------------------------------------------------------------------------------------------------------- .yaml
def _read_yaml(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
        if not _is_shallow(text):
            raise RecursionError
        tree = yaml.load(text, Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file of plain values ({' '.join(str(error).split())}).") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds no section of keys, so it is no model file of DeePMD-kit.")
    if not _is_small(tree, len(text)):
        raise InputError(f"{path}: its aliases unfold to far more than the file holds; this is no model file.")
    return _map_leaves(tree, lambda leaf, where: _from_yaml(leaf, f"{path}: {where}"))


def _is_shallow(text: str, limit: int = 100) -> bool:
    """Whether lists and sections are nested less than `limit` deep; older libyaml would run out of stack."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > limit:
                return False
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in (error.problem or ""):  # newer ones look ahead, and stop at a thousand
            return False
        raise
    return True


def _is_small(node: Any, size: int) -> bool:
    """Whether the tree, with all aliases followed, has not many times more lists than `size` characters can hold."""
    left = 10 * size + 1000
    stack = [node]
    while stack and left > 0:
        top = stack.pop()
        children = top.values() if isinstance(top, dict) else top
        stack.extend(child for child in children if isinstance(child, dict | list))
        left -= 1
    return left > 0


def _from_yaml(leaf: Any, where: str) -> Any:
    """An array from its section; a bare value stays what it is."""
    if not isinstance(leaf, dict):
        return leaf
    try:
        array = np.asarray(leaf["value"], dtype=np.dtype(leaf["dtype"]))
        array = array.reshape(leaf.get("shape", array.shape))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not an array with dtype and value ({error}).") from None
    if leaf.get("@class") != "np.ndarray" or array.dtype.kind not in _KINDS:
        raise InputError(f"{where}: {leaf.get('@class')} of {array.dtype} is no array of numbers.")
    return array


def _to_yaml(leaf: Any, where: str) -> Any:
    if not isinstance(leaf, np.ndarray | np.generic):
        return leaf
    array = _array(leaf, where)
    section = {"@class": "np.ndarray", "@is_variable": True, "@version": 1, "dtype": array.dtype.name}
    shape = {} if array.size else {"shape": list(array.shape)}  # nested lists cannot tell (0, 4) from (0,)
    return section | shape | {"value": array.tolist()}


def _write_yaml(path: Path, tree: Tree) -> None:
    # by way of JSON: no tuples, no numbers of numpy, and no list twice, which YAML would write as an alias
    plain = json.loads(json.dumps(_map_leaves(tree, _to_yaml), default=_plain))
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(plain, file, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
