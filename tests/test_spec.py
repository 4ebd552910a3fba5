from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from diffff.errors import InputError
from diffff.spec import Spec, Variants, completed, json_schema, validate


class Round(Spec):
    type_aliases = ("ball",)

    type: Literal["round"] = "round"
    radius: PositiveFloat = 1.0
    "How far it reaches."


class Square(Spec):
    aliases: ClassVar = {"width": "side", "edge": "side"}
    refused_unless: ClassVar = {"rounded": (False, "corners are sharp; remove the key")}

    type: Literal["square"] = "square"
    side: PositiveFloat
    colors: tuple[Literal["red", "green"], ...] = ()

    @model_validator(mode="after")
    def _fits(self):
        if self.side > 100:
            raise ValueError(f"side = {self.side:g} does not fit on the page")
        return self


Shape = Annotated[Round | Square, Variants(default="round", refused={"star": 'not yet; use "round"'})]


class Options(Spec):
    refused_unless: ClassVar = {"fast": (False, "there is one speed"), "level": (0, "there is one level")}
    moot = frozenset({"fast_file"})
    refused: ClassVar = {"magic": "there is no magic; do it by hand"}
    aliases: ClassVar = {"n_steps": "steps"}

    steps: NonNegativeInt = 10
    seed: int | None = None
    sizes: int | tuple[PositiveInt, ...] | Annotated[str, Field(pattern="^auto")] = "auto"
    train: bool | tuple[bool, ...] = True
    table: dict[str, tuple[float | None, ...]] | None = None
    corner: tuple[int, int] = (0, 0)
    name: str = "x"


class Page(Spec):
    shape: Annotated[Round | Square, Variants(refused={"star": "not yet"})]
    more: tuple[Shape, ...] = ()
    options: Options = Options()


GOOD: dict[str, Any] = {"shape": {"type": "round"}}


def problems(data, cls=Page) -> list[str]:
    with pytest.raises(InputError) as caught:
        validate(cls, data, where="a.json")
    return [line.removeprefix("a.json: ") for line in str(caught.value).splitlines()]


def with_options(**options) -> dict[str, Any]:
    return {**GOOD, "options": options}


def test_completed_has_todays_names_and_all_defaults_and_reads_back():
    page = validate(Page, {"shape": {"type": "square", "edge": 2}, "more": [{}, {"type": "ball", "radius": 3}]})
    assert completed(page) == {
        "shape": {"type": "square", "side": 2.0, "colors": []},
        "more": [{"type": "round", "radius": 1.0}, {"type": "round", "radius": 3.0}],
        "options": {"steps": 10, "sizes": "auto", "train": True, "corner": [0, 0], "name": "x"},
    }
    assert validate(Page, completed(page)) == page


def test_comments_are_dropped_at_any_depth():
    data = {
        "_": 1,
        "shape": {"type": "round", "_why": []},
        "more": [{"_c": 1}],
        "options": {"table": {"_n": 1, "a": [1]}},
    }
    page = validate(Page, data)
    assert page.options.table == {"a": (1.0,)}
    assert page == validate(Page, {"shape": {"type": "round"}, "more": [{}], "options": {"table": {"a": [1]}}})


def test_all_problems_of_a_file_are_told_at_once():
    data = {
        "shape": {"type": "square", "edge": -1, "colours": [], "colors": ["red", "gren"]},
        "more": [{"radius": "2.5"}, 7, {"type": "square"}, {"type": "star"}],
        "options": {"n_steps": 1.5, "magic": 1, "steeps": 3},
        "opts": {},
    }
    assert problems(data) == [
        '$.opts: unknown key; did you mean "options"?',
        '$.shape.colours: unknown key; did you mean "colors"?',
        "$.shape.edge: must be greater than 0, not -1",
        '$.shape.colors[1]: must be "red" or "green", not the text "gren"; did you mean "green"?',
        '$.more[0].radius: must be a number, not the text "2.5"; remove the quotes',
        "$.more[1]: must be a section {…}, not 7",
        "$.more[2].side: this key is required",
        '$.more[3].type: "star": not yet; use "round"',
        "$.options.magic: there is no magic; do it by hand",
        '$.options.steeps: unknown key; did you mean "steps"?',
        "$.options.n_steps: must be a whole number, not 1.5",
    ]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("steps", True, "must be a whole number, not true"),
        ("steps", "5", 'must be a whole number, not the text "5"; remove the quotes'),
        ("steps", "many", 'must be a whole number, not the text "many"'),
        ("steps", 1e5, "must be a whole number, not 100000.0; write 100000"),
        ("steps", -1, "must be at least 0, not -1"),
        ("steps", None, "must be a whole number, not null"),
        ("steps", [1], "must be a whole number, not [1]"),
        ("seed", "a", 'must be a whole number, not the text "a"'),
        ("train", 1, "must be true or false or a list […], not 1"),
        ("sizes", 1.5, "must be a whole number or a list […] or text, not 1.5"),
        ("sizes", {"a": 1}, 'must be a whole number or a list […] or text, not {"a": 1}'),
        ("name", 3, "must be text, not 3"),
        ("name", ["x" * 100], 'must be text, not ["' + "x" * 55 + "…"),
        ("corner", [1], "needs at least 2 entries"),
        ("corner", [1, 2, 3], "takes at most 2 entries, has 3"),
        ("table", [1], "must be a section {…}, not [1]"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(key, value, sentence):
    assert problems(with_options(**{key: value})) == [f"$.options.{key}: {sentence}"]


def test_numbers_that_are_not_finite_are_refused():
    assert problems({"shape": {"type": "round", "radius": float("nan")}}) == [
        "$.shape.radius: must be a finite number, not NaN"
    ]


def test_a_wrong_entry_of_a_list_is_named():
    assert problems(with_options(train=[True, 0], sizes=[1, 0], table={"a": [1, "b", None]})) == [
        "$.options.sizes[1]: must be greater than 0, not 0",
        "$.options.train[1]: must be true or false, not 0",
        '$.options.table.a[1]: must be a number, not the text "b"',
    ]


def test_whole_numbers_are_numbers():
    assert validate(Page, {"shape": {"type": "round", "radius": 2}}).shape.radius == 2.0


def test_a_key_and_its_other_spelling_together_are_refused():
    data = {"shape": {"type": "square", "side": 1, "width": 2, "edge": 3}}
    assert problems(data) == [
        '$.shape.width: "side" and "width" are two spellings of one key; keep one of them',
        '$.shape.edge: "side" and "edge" are two spellings of one key; keep one of them',
    ]


def test_a_refused_key_may_say_what_changes_nothing():
    assert validate(Page, with_options(fast=False, level=0.0, fast_file="anything")) == validate(Page, GOOD)
    assert validate(Page, with_options(fast=None)) == validate(Page, GOOD)
    assert problems(with_options(fast=True, level=False)) == [
        "$.options.fast: there is one speed",
        "$.options.level: there is one level",
    ]


def test_an_unknown_key_is_told_where_it_belongs_or_what_there_is():
    assert problems({**GOOD, "seed": 1, "radius": 3}) == [
        "$.seed: unknown key here; it belongs in $.options",
        "$.radius: unknown key here; it belongs in $.shape",
    ]
    assert problems({"shape": {"type": "round", "qqq": 3}}) == [
        "$.shape.qqq: unknown key; the keys of this section are type, radius"
    ]
    assert problems({"shape": {"type": "round", "RADIUS": 3, "a b": 1}}) == [
        '$.shape.RADIUS: unknown key; did you mean "radius"?',
        '$.shape["a b"]: unknown key; the keys of this section are type, radius',
    ]


def test_the_type_chooses_the_section():
    assert validate(Page, {"shape": {"type": "ball"}}).shape == Round()
    assert problems({"shape": {}}) == ['$.shape: the key "type" is missing; choose one of round, square']
    assert problems({"shape": {"type": "squara"}}) == ['$.shape.type: unknown type "squara"; did you mean "square"?']
    assert problems({"shape": {"type": "9"}}) == ['$.shape.type: unknown type "9"; choose one of round, square']
    assert problems({"shape": {"type": 3}}) == ["$.shape.type: must be text, not 3; choose one of round, square"]
    assert problems({"shape": {"type": "star", "arms": 5}}) == ['$.shape.type: "star": not yet']
    assert problems({"shape": None}) == ["$.shape: must be a section {…}, not null"]
    assert problems({}) == ["$.shape: this key is required"]


def test_a_section_whose_parts_are_wrong_is_not_judged_as_a_whole():
    assert problems({"shape": {"type": "square", "side": 200}}) == ["$.shape: side = 200 does not fit on the page"]
    assert problems({"shape": {"type": "square", "side": 200, "colors": [1]}}) == [
        '$.shape.colors[0]: must be "red" or "green", not 1'
    ]


def test_the_file_itself_must_be_a_section():
    assert problems([1, 2]) == ["$: must be a section {…}, not [1, 2]"]
    assert problems(None) == ["$: must be a section {…}, not null"]


def test_specs_are_frozen_hashable_and_take_lists_in_python_too():
    square = Square(side=1, colors=["red"])  # pyright: ignore[reportArgumentType]
    assert square.colors == ("red",)
    assert hash(square) == hash(Square(side=1.0, colors=("red",)))
    with pytest.raises(ValidationError):
        square.side = 2.0
    assert validate(Page, {"shape": square}).shape is square


LEAVES = st.sampled_from([None, True, 0, -3, 7, 1.5, 1e300, float("inf"), "", "auto", "round", "red"])
KEYS = st.sampled_from(["type", "radius", "side", "steps", "train", "sizes", "table", "corner", "fast", "_", ""])
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=8)


@given(st.dictionaries(st.sampled_from(["shape", "more", "options", "extra"]), ANYTHING))
def test_any_data_is_accepted_or_refused_in_words(data):
    try:
        validate(Page, data, where="a.json")
    except InputError as error:
        for line in str(error).splitlines():
            assert line.startswith("a.json: $")
            assert "nput should" not in line
            assert "pydantic" not in line


def test_the_json_schema_knows_aliases_comments_and_what_is_harmless():
    schema = json_schema(Page)
    square, options = schema["$defs"]["Square"], schema["$defs"]["Options"]
    assert square["properties"]["width"]["deprecated"] is True
    assert square["properties"]["width"]["exclusiveMinimum"] == 0
    assert square["properties"]["rounded"] == {
        "const": False,
        "deprecated": True,
        "description": "corners are sharp; remove the key",
    }
    assert square["allOf"] == [{"anyOf": [{"required": ["side"]}, {"required": ["width"]}, {"required": ["edge"]}]}]
    assert "magic" not in options["properties"]
    assert options["additionalProperties"] is False
    assert list(options["patternProperties"]) == [r"^(_|\$schema$)"]
    assert schema["required"] == ["shape"]
    assert schema["$defs"]["Round"]["properties"]["type"]["enum"] == ["round", "ball"]
    assert schema["$defs"]["Round"]["properties"]["radius"]["description"] == "How far it reaches."
