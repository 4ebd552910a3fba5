"""Sections of an input file: frozen, checked sets of hyper-parameters.

A `Spec` IS the thing it configures (a descriptor, a loss, a schedule): it is validated once, never changes and is
passed around as it stands. Reading a file is `validate(Input, data)`, which walks the sections itself, so that it can
tell the user all problems of a file at once, each with its JSON path, and leaves only single values to pydantic.

    class SeE2A(Spec):
        aliases = {"n_axis_neuron": "axis_neuron"}           # accepted spelling -> field
        type_aliases = ("se_a",)                             # accepted spellings of `type`
        type: Literal["se_e2_a"] = "se_e2_a"
        axis_neuron: PositiveInt = 4
        "Columns of the embedding matrix that span the second axis."

Lists are tuples in a Spec (so that it can be hashed); a file's lists are turned into tuples on the way in.
"""

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator

from diffff.errors import InputErrors
from diffff.spec_wording import Problem, shown, value_problems

_COMMENT = r"^(_|\$schema$)"  # an editor finds the schema of a file by its key "$schema"


class Spec(BaseModel):
    """One section of an input file.

    Attributes:
        aliases: Old or alternative spelling of a key -> the field it means.
        type_aliases: Other names the section's `type` may be given by.
        refused: Key that is known but never honoured -> the sentence that says what to do instead.
        refused_unless: Key that is accepted only with the value that changes nothing -> (that value, sentence).
        moot: Keys that only qualify a key of `refused_unless`; with that one off they mean nothing, whatever they say.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    aliases: ClassVar[Mapping[str, str]] = {}
    type_aliases: ClassVar[tuple[str, ...]] = ()
    refused: ClassVar[Mapping[str, str]] = {}
    refused_unless: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    moot: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _lists_become_tuples(cls, data: Any) -> Any:
        return {key: _frozen(value) for key, value in data.items()} if isinstance(data, dict) else data

    @model_serializer(mode="wrap")
    def _type_first_and_no_null(self, handler: Any) -> dict[str, Any]:
        values, fields = handler(self), type(self).model_fields
        names = sorted(values, key=lambda name: name != "type")
        return {name: values[name] for name in names if values[name] is not None or fields[name].default is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        properties = schema.setdefault("properties", {})
        for alias, name in cls.aliases.items():
            properties[alias] = {**properties[name], "deprecated": True, "description": f"Other spelling of {name}."}
        for key, (value, sentence) in cls.refused_unless.items():
            properties[key] = {"const": value, "deprecated": True, "description": sentence}
        for key in sorted(cls.moot):
            properties[key] = {"deprecated": True, "description": "Without effect."}
        if cls.type_aliases:
            properties["type"] = {**properties["type"], "enum": [tag_of(cls), *cls.type_aliases]}
            properties["type"].pop("const", None)
        schema["patternProperties"] = {_COMMENT: {"description": "A comment."}}
        by_alias = {name: [a for a, n in cls.aliases.items() if n == name] for name in schema.get("required", [])}
        if any(by_alias.values()):
            spellings = [[name, *aliases] for name, aliases in by_alias.items()]
            schema["allOf"] = [{"anyOf": [{"required": [name]} for name in names]} for names in spellings]
            del schema["required"]
        return schema


SpecT = TypeVar("SpecT", bound=Spec)


@dataclass(frozen=True)
class Variants:
    """Annotation of a field whose section is one of several Specs, chosen by its key `type`.

        Descriptor = Annotated[SeE2A | SeAtten, Variants(refused={"se_e3": "…"})]

    Attributes:
        default: The type meant when the section has none; None: it must be given.
        refused: Types known in the field but not here -> the sentence that says what to do.
    """

    default: str | None = None
    refused: Mapping[str, str] | None = None


def validate(cls: type[SpecT], data: Any, where: str = "input.json") -> SpecT:
    """Checks `data`, as read from a file, against a Spec and returns it.

    Args:
        cls: The Spec of the whole file.
        data: Nested dicts and lists; keys that begin with "_" are comments, at any depth, as is "$schema".
        where: What the messages call the source.

    Raises:
        InputErrors: All problems of the data, a line each: "input.json: $.model.descriptor.neurons: unknown key; …".
    """
    reading = _Reading(root=cls, problems=[])
    spec = reading.section(cls, _without_comments(data), "$")
    if reading.problems or spec is None:
        raise InputErrors([f"{where}: {problem.path}: {problem.sentence}" for problem in reading.problems])
    return spec


def completed(spec: Spec) -> dict[str, Any]:
    """The section with today's spellings and all defaults written out; `validate` reads it back to an equal Spec.

    A key whose value would be null is left out: absent and null mean the same.
    """
    return spec.model_dump(mode="json")


def json_schema(cls: type[Spec]) -> dict[str, Any]:
    """The JSON Schema of a file, for editors: aliases are deprecated, keys "_…" are free, refused keys are absent."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema()}


def tag_of(cls: type[Spec]) -> str | None:
    """The `type` that chooses this Spec, or None for a Spec without variants."""
    field = cls.model_fields.get("type")
    return get_args(field.annotation)[0] if field and get_origin(field.annotation) is Literal else None


_BROKEN: Any = object()  # stands for a value whose problems are already noted


@dataclass(frozen=True)
class _Reading:
    """One walk over a file: it builds the sections from the leaves up and notes every problem it meets."""

    root: type[Spec]
    problems: list[Problem]

    def section(self, cls: type[SpecT], data: Any, path: str) -> SpecT | None:
        """Builds one section, or notes why it cannot be built."""
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            self.problems.append(Problem(path, f"must be a section {{…}}, not {shown(data)}"))
            return None
        given = self._known_keys(cls, data, path)
        values, broken = {}, set()
        for name, (spelling, value) in given.items():
            field = cls.model_fields[name]
            variants = next((m for m in field.metadata if isinstance(m, Variants)), None)
            values[name] = self._value(field.annotation, variants, value, _below(path, spelling))
            if values[name] is _BROKEN:
                broken.add(name)
        try:
            return cls.model_validate({name: value for name, value in values.items() if name not in broken})
        except ValidationError as error:
            spellings = {name: spelling for name, (spelling, _) in given.items()}
            for loc, sentence in value_problems(error, values):
                follows_from_another = loc[0] in broken if loc else bool(broken)
                if not follows_from_another:
                    self.problems.append(
                        Problem(_below(path, *[spellings.get(str(step), step) for step in loc]), sentence)
                    )
            return None

    def _known_keys(self, cls: type[Spec], data: Mapping[Any, Any], path: str) -> dict[str, tuple[str, Any]]:
        """Field -> (the user's spelling, value); notes unknown, refused and doubled keys."""
        given: dict[str, tuple[str, Any]] = {}
        for key, value in data.items():
            name = cls.aliases.get(key, key)
            if name in cls.model_fields and name not in given:
                given[name] = (key, value)
                continue
            if name in given:
                sentence = f'"{given[name][0]}" and "{key}" are two spellings of one key; keep one of them'
            elif key in cls.refused:
                sentence = cls.refused[key]
            elif key in cls.refused_unless:
                harmless, sentence = cls.refused_unless[key]
                if value is None or _same(value, harmless):
                    continue
            elif key in cls.moot:
                continue
            else:
                sentence = self._unknown(cls, str(key), path)
            self.problems.append(Problem(_below(path, key), sentence))
        return given

    def _unknown(self, cls: type[Spec], key: str, path: str) -> str:
        """The sentence for a key that no one knows: a likely spelling, the section it belongs to, or what there is."""
        spellings = {name.lower(): cls.aliases.get(name, name) for name in (*cls.aliases, *cls.model_fields)}
        close = difflib.get_close_matches(key.lower(), spellings, n=1, cutoff=0.6)
        homes = [home for home in dict.fromkeys(_homes(self.root, key)) if home != path]
        if homes and (not close or key.lower() != close[0]):
            return f"unknown key here; it belongs in {' or '.join(homes)}"
        if close:
            return f'unknown key; did you mean "{spellings[close[0]]}"?'
        return f"unknown key; the keys of this section are {', '.join(cls.model_fields)}"

    def _value(self, annotation: Any, variants: Variants | None, value: Any, path: str) -> Any:
        """Builds the sections inside a field's value; any other value is returned as it is, for pydantic to check."""
        members = specs_in(annotation)
        if members and isinstance(value, dict):
            return self._variant(members, variants, value, path)
        if members and not isinstance(value, Spec) and not _allows_plain(annotation):
            self.problems.append(Problem(path, f"must be a section {{…}}, not {shown(value)}"))
            return _BROKEN
        items = _item_annotation(annotation)
        if items and isinstance(value, list | tuple):
            inner, inner_variants = items
            built = [self._value(inner, inner_variants, v, f"{path}[{i}]") for i, v in enumerate(value)]
            return _BROKEN if any(item is _BROKEN for item in built) else tuple(built)
        return value

    def _variant(
        self, members: Sequence[type[Spec]], variants: Variants | None, value: dict[Any, Any], path: str
    ) -> Any:
        """Builds the section that `type` chooses among the members."""
        choice = {tag: cls for cls in members if (tag := tag_of(cls))}
        if not choice:
            spec = self.section(members[0], value, path)
            return _BROKEN if spec is None else spec
        names = {name: cls for tag, cls in choice.items() for name in (tag, *cls.type_aliases)}
        default, refused = (variants.default, variants.refused or {}) if variants else (next(iter(choice)), {})
        wanted = value.get("type", default)
        known = f"choose one of {', '.join(choice)}" if len(choice) > 1 else f'only "{next(iter(choice))}" is supported'
        if wanted is None:
            problem = Problem(path, f'the key "type" is missing; {known}')
        elif not isinstance(wanted, str):
            problem = Problem(_below(path, "type"), f"must be text, not {shown(wanted)}; {known}")
        elif wanted in names:
            spec = self.section(names[wanted], {**value, "type": tag_of(names[wanted])}, path)
            return _BROKEN if spec is None else spec
        elif wanted in refused:
            sentence = refused[wanted]
            problem = Problem(_below(path, "type"), sentence if wanted in sentence else f'"{wanted}": {sentence}')
        else:
            close = difflib.get_close_matches(wanted, names, n=1)
            hint = f'did you mean "{close[0]}"?' if close else known
            problem = Problem(_below(path, "type"), f'unknown type "{wanted}"; {hint}')
        self.problems.append(problem)
        return _BROKEN


def _without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_comments(inner) for key, inner in value.items() if not re.match(_COMMENT, str(key))}
    if isinstance(value, list | tuple):
        return [_without_comments(item) for item in value]
    return value


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _same(value: Any, other: Any) -> bool:
    """Equal and of one type, but 0 and 0.0 are the same; False and 0 are not."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _below(path: str, *steps: Any) -> str:
    """The JSON path of a step down: "$.a" with "b", 1 is "$.a.b[1]"."""
    for step in steps:
        if isinstance(step, str):
            path += f".{step}" if step.isidentifier() else f'["{step}"]'
        else:
            path += f"[{step}]"
    return path


def _branches(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, Annotated opened; a plain annotation is its own only branch."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(branch for part in get_args(annotation) for branch in _branches(part))
    return (annotation,)


def specs_in(annotation: Any) -> tuple[type[Spec], ...]:
    """The Specs among the alternatives of a field's annotation."""
    return tuple(b for b in _branches(annotation) if isinstance(b, type) and issubclass(b, Spec))


def _allows_plain(annotation: Any) -> bool:
    return any(not (isinstance(b, type) and issubclass(b, Spec)) for b in _branches(annotation))


def _item_annotation(annotation: Any) -> tuple[Any, Variants | None] | None:
    """For a tuple of sections: the annotation of its items and their Variants."""
    for branch in _branches(annotation):
        if get_origin(branch) is tuple and specs_in(get_args(branch)[0]):
            inner = get_args(branch)[0]
            metadata = get_args(inner)[1:] if get_origin(inner) is Annotated else ()
            return inner, next((m for m in metadata if isinstance(m, Variants)), None)
    return None


def _homes(cls: type[Spec], key: str, path: str = "$") -> Iterator[str]:
    """The paths of the sections, from `cls` down, that have a field of this name."""
    for name, field in cls.model_fields.items():
        if name == key and name != "type":
            yield path
        for inner in specs_in(field.annotation):
            yield from _homes(inner, key, f"{path}.{name}")
