"""What is wrong with a value, in words for the person who wrote the file."""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing to put right.

    Attributes:
        path: Where, as a JSON path: "$.model.descriptor.neuron[1]".
        sentence: What is wrong there and how to fix it.
    """

    path: str
    sentence: str


def shown(value: Any) -> str:
    """A value as it stands in the file, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= 60 else text[:57] + "…"
    return f"the text {text}" if isinstance(value, str) else text


def value_problems(error: ValidationError, values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Turns pydantic's findings about one section into (location, sentence) pairs.

    A value that may be of several kinds fails once for each kind; that is one problem, worded once.

    Args:
        error: What pydantic raised for the section.
        values: The section's values, field -> value.
    """
    found: dict[Location, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_location(detail, values), []).append(detail)
    for loc, details in found.items():
        of_right_kind = [detail for detail in details if detail["type"] not in _KINDS]
        if of_right_kind:
            yield loc, " ".join(dict.fromkeys(_sentence(detail) for detail in of_right_kind))
        elif not any(len(other) > len(loc) and other[: len(loc)] == loc for other in found):
            yield loc, _wrong_kind(details)


_KINDS = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a section {…}",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list […]",
    "literal_error": "",  # named by the error itself
    "model_type": "a section {…}",
    "none_required": "null",
    "string_type": "text",
    "tuple_type": "a list […]",
}


def _location(detail: ErrorDetails, values: Mapping[str, Any]) -> Location:
    """Where in the data: pydantic's location without the names of the alternatives it tried on the way."""
    here: Any = values
    loc: list[str | int] = []
    for step in detail["loc"]:
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            if loc:
                continue
        loc.append(step)
    return tuple(loc)


def _wrong_kind(details: list[ErrorDetails]) -> str:
    value = details[0]["input"]
    kinds = [_expected(detail) if detail["type"] == "literal_error" else _KINDS[detail["type"]] for detail in details]
    return f"must be {' or '.join(dict.fromkeys(kinds))}, not {shown(value)}{_hint(details, value)}"


def _hint(details: list[ErrorDetails], value: Any) -> str:
    kinds = {detail["type"] for detail in details}
    if isinstance(value, float) and value.is_integer() and kinds & {"int_type", "int_from_float"}:
        return f"; write {int(value)}"
    if isinstance(value, str) and kinds & {"int_type", "float_type", "bool_type"} and _reads_as_value(value):
        return "; remove the quotes"
    literals = [detail for detail in details if detail["type"] == "literal_error"]
    if isinstance(value, str) and literals:
        allowed = [text.strip("'") for text in _options(literals[0])]
        close = difflib.get_close_matches(value.lower(), {text.lower(): text for text in allowed}, n=1)
        if close:
            return f'; did you mean "{next(text for text in allowed if text.lower() == close[0])}"?'
    return ""


def _reads_as_value(text: str) -> bool:
    try:
        return isinstance(json.loads(text), bool | int | float)
    except ValueError:
        return False


def _options(detail: ErrorDetails) -> list[str]:
    return detail.get("ctx", {})["expected"].replace(" or ", ", ").split(", ")


def _expected(detail: ErrorDetails) -> str:
    return detail.get("ctx", {})["expected"].replace("'", '"')


def _sentence(detail: ErrorDetails) -> str:
    """A value of the right kind with a wrong content."""
    ctx, value = detail.get("ctx", {}), shown(detail["input"])
    match detail["type"]:
        case "missing":
            step = detail["loc"][-1]
            return f"needs at least {step + 1} entries" if isinstance(step, int) else "this key is required"
        case "greater_than":
            return f"must be greater than {ctx['gt']:g}, not {value}"
        case "greater_than_equal":
            return f"must be at least {ctx['ge']:g}, not {value}"
        case "less_than":
            return f"must be less than {ctx['lt']:g}, not {value}"
        case "less_than_equal":
            return f"must be at most {ctx['le']:g}, not {value}"
        case "finite_number":
            return f"must be a finite number, not {value}"
        case "too_short":
            return f"needs at least {ctx['min_length']} entries, has {ctx['actual_length']}"
        case "too_long":
            return f"takes at most {ctx['max_length']} entries, has {ctx['actual_length']}"
        case "string_too_short":
            return "must not be empty"
        case "value_error" | "assertion_error":
            return str(ctx["error"])
        case _:
            return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, not {value}"
