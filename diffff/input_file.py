"""Input files: read from JSON or YAML, with a word on where they are malformed, and written back completed."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from diffff.errors import InputError, InputErrors
from diffff.files import file_and_group, replacing
from diffff.spec import Spec, completed


def load(path: Path) -> Any:
    """Reads a file; `.yaml` and `.yml` are YAML, anything else is JSON.

    Raises:
        InputError: There is no such file, it is malformed (line and column are given), or a section has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (looked for {path.absolute()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    if path.suffix.lower() in (".yaml", ".yml"):
        return _load_yaml(text, path)
    return _load_json(text, path)


def resolve(name: str, folder: Path) -> str | None:
    """Finds a file or data system by the name it has in an input file.

    Args:
        name: A directory, or file.hdf5#/group; relative to the current directory, as in DeePMD-kit, or, where there
            is no such thing, to the folder of the input file. Where both exist the current directory wins.
        folder: The folder of the input file.

    Returns:
        The name, as it is found from the current directory; None if it is in neither place.
    """
    for candidate in (name, str(folder / name)):
        if file_and_group(candidate)[0].exists():
            return candidate
    return None


def write_completed(given: Spec, path: str | Path) -> None:
    """Writes the input with all defaults to a JSON file, whole or not at all.

    Raises:
        InputError: The file cannot be written.
    """
    text = json.dumps(completed(given), indent=2, ensure_ascii=False)
    with replacing(Path(path)) as part:
        part.write_text(text + "\n", encoding="utf-8")


class _Doubled(dict[str, Any]):
    """A JSON section in which some keys stand more than once."""

    keys_twice: tuple[str, ...]


def _load_json(text: str, path: Path) -> Any:
    def section(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs if not key.startswith("_")]
        if len(set(keys)) == len(keys):
            return dict(pairs)
        doubled = _Doubled(pairs)
        doubled.keys_twice = tuple(dict.fromkeys(key for key in keys if keys.count(key) > 1))
        return doubled

    try:
        data = json.loads(text, object_pairs_hook=section)
    except json.JSONDecodeError as error:
        error = _at_the_comma(error, text)
        line = text.splitlines()[error.lineno - 1].strip() if text.strip() else ""
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {_json_reason(text, error)}"
            + (f"\n    {line}" if line else "")
        ) from None
    problems = [f'{path}: {where}: the key "{key}" stands here twice; keep one' for where, key in _doubled(data, "$")]
    if problems:
        raise InputErrors(problems)
    return data


def _doubled(value: Any, where: str) -> list[tuple[str, str]]:
    """The (section, key) of all keys that stand twice."""
    found = [(where, key) for key in value.keys_twice] if isinstance(value, _Doubled) else []
    if isinstance(value, dict):
        return found + [pair for key, inner in value.items() for pair in _doubled(inner, f"{where}.{key}")]
    if isinstance(value, list):
        return found + [pair for i, inner in enumerate(value) for pair in _doubled(inner, f"{where}[{i}]")]
    return found


_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def _at_the_comma(error: json.JSONDecodeError, text: str) -> json.JSONDecodeError:
    """The same error; a comma before a closing bracket is located itself, as in Python 3.13, not what follows it."""
    comma = len(text[: error.pos].rstrip()) - 1
    if text[comma : comma + 1] == "," and text[error.pos :].lstrip()[:1] in ("}", "]"):
        return json.JSONDecodeError(error.msg, text, comma)
    return error


def _json_reason(text: str, error: json.JSONDecodeError) -> str:
    """What is probably wrong; the usual slips have the same bare message from the parser."""
    after = text[error.pos :].lstrip()
    word = re.match(r"\w*", after)
    if not text.strip():
        return "the file is empty"
    if after[:1] == "," and after[1:].lstrip()[:1] in ("}", "]"):
        return "a comma stands before a closing bracket; remove it"
    if after.startswith(("//", "/*", "#")):
        return 'JSON has no comments; put the remark in a key that begins with "_", as in "_comment": "…"'
    if after[:1] == "'":
        return 'text is written in double quotes: "…"'
    if word and word[0] in _PYTHON_WORDS:
        return f"{word[0]} is written {_PYTHON_WORDS[word[0]]}"
    if not after:
        return "the file ends too early; a closing bracket or quote is missing"
    if error.msg.startswith("Expecting ',' delimiter"):
        return "a comma or a closing bracket is missing before this place"
    return f"{error.msg[0].lower()}{error.msg[1:]}"


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number, and no key stands twice in a section."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"),
    list("-+.0123456789"),
)


def _yaml_section(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for i, key in enumerate(keys):
        if key in keys[:i] and not str(key).startswith("_"):
            problem = f'the key "{key}" stands twice in this section; keep one'
            raise yaml.constructor.ConstructorError(None, None, problem, node.value[i][0].start_mark)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _yaml_section)


def _load_yaml(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{path}: {place}{error.problem or error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
