import contextlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffff import spec
from diffff.errors import InputError
from diffff.input_file import resolve, write_completed
from diffff.spec import Spec, specs_in, tag_of
from diffff.train.config import Input, json_schema, read_input
from diffff.train.legacy import upgrade

INPUTS = Path(__file__).parents[1] / "references" / "inputs"
NAMES = sorted(path.name for path in INPUTS.glob("*.json") if path.name != "keys.json")
KNOWN = json.loads((INPUTS / "keys.json").read_text())
LEFT_OUT = object()


def data(name: str = "water.json") -> dict[str, Any]:
    return json.loads((INPUTS / name).read_text())


def checked(given: dict[str, Any]) -> Input:
    return spec.validate(Input, upgrade(given)[0])


def problems(given: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        checked(given)
    return [line.removeprefix("input.json: ") for line in str(caught.value).splitlines()]


def changed(path: str, value: Any, name: str = "water.json") -> dict[str, Any]:
    """An input with one key set, or left out."""
    given = data(name)
    *sections, key = path.split(".")
    section = given
    for step in sections:
        section = section.setdefault(step, {})
    if value is LEFT_OUT:
        section.pop(key)
    else:
        section[key] = value
    return given


def leaves(value: Any, path: str = "$") -> dict[str, Any]:
    if isinstance(value, dict):
        return {p: v for key, inner in value.items() for p, v in leaves(inner, f"{path}.{key}").items()}
    if isinstance(value, list) and value:
        return {p: v for i, inner in enumerate(value) for p, v in leaves(inner, f"{path}[{i}]").items()}
    return {path: value}


def section_class(path: str) -> type[Spec]:
    """The Spec of a section by its path as in keys.json: "$.learning_rate[cosine]"; the first without a type."""
    cls: type[Spec] = Input
    for step in path.split(".")[1:]:
        name, _, tag = step.rstrip("]").partition("[")
        members = specs_in(cls.model_fields[name].annotation)
        cls = next(member for member in members if tag in ("", tag_of(member)))
    return cls


# ---------------------------------------------------------------- parity with DeePMD-kit


@pytest.mark.parametrize("name", NAMES)
def test_defaults_aliases_and_upgrades_are_those_of_deepmd_kit(name):
    ours, theirs = leaves(spec.completed(checked(data(name)))), leaves(data(f"completed/{name}"))
    for path in set(theirs) & set(ours):
        value = theirs[path]
        assert ours[path] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), path
    for path in set(theirs) - set(ours):
        section, _, key = path.rpartition(".")
        cls = section_class(section)
        assert key not in cls.model_fields or theirs[path] is None, path


@pytest.mark.parametrize("name", NAMES)
def test_what_deepmd_kit_completed_is_an_input_with_the_same_meaning(name):
    ours, theirs = checked(data(name)), checked(data(f"completed/{name}"))
    rate = ours.learning_rate.model_copy(update={"stop_lr": theirs.learning_rate.stop_lr})
    assert ours.model_copy(update={"learning_rate": rate}) == theirs
    assert ours.learning_rate.stop == pytest.approx(theirs.learning_rate.stop, rel=1e-12)


@pytest.mark.parametrize("section", KNOWN["keys"])
def test_every_key_of_deepmd_kit_is_honoured_or_refused(section):
    cls = section_class(section)
    for key, about in KNOWN["keys"][section].items():
        assert key in {*cls.model_fields, *cls.aliases, *cls.refused, *cls.refused_unless, *cls.moot}, key
        name = cls.aliases.get(key, key)
        for alias in about["aliases"]:
            assert cls.aliases[alias] == name
        if "default" in about and name in cls.model_fields and about["default"] != {}:
            assert json.loads(json.dumps(cls.model_fields[name].default)) == about["default"], key
        if key in cls.refused_unless and "default" in about:
            assert about["default"] is None or about["default"] == cls.refused_unless[key][0], key


@pytest.mark.parametrize(
    "path", ["model", "model.descriptor", "model.fitting_net", "learning_rate", "optimizer", "loss"]
)
def test_every_type_of_deepmd_kit_is_known_or_refused_with_a_sentence(path):
    types = KNOWN["types"][f"$.{path}".replace("model.", "model[standard].")]
    for tag in (tag for name, aliases in types.items() for tag in (name, *aliases)):
        given = changed(f"{path}.type", tag, "minimal.json")
        with contextlib.suppress(InputError):
            checked(given)
            continue
        if not (lines := [line for line in problems(given) if "type:" in line]):
            continue  # another kind of section, of which this one lacks keys
        assert "unknown" not in lines[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.model_dict", {}),
        ("loss_dict", {}),
        ("learning_rate_dict", {}),
        ("training.data_dict", {}),
        ("training.model_prob", {}),
        ("training.num_epoch_dict", {}),
        ("nvnmd", {"enable": True}),
        ("model.use_srtab", "table.txt"),
        ("model.spin", {"use_spin": [True, False]}),
        ("model.modifier", {"type": "dipole_charge"}),
        ("model.type", "frozen"),
        ("model.descriptor.type", "dpa2"),
        ("model.fitting_net.type", "dipole"),
        ("loss.type", "tensor"),
        ("optimizer.type", "LKF"),
        ("training.tensorboard", True),
        ("training.profiling", True),
        ("training.enable_profiler", True),
        ("training.mixed_precision.compute_prec", "float16"),
        ("training.mixed_precision.output_prec", "float64"),
        ("training.neighbor_graph_method", "nv"),
        ("training.ema_ckpt_keep", 3),
        ("training.training_data.set_prefix", "part"),
        ("training.training_data.min_pair_dist", 0.5),
        ("validating.amp_infer", True),
        ("validating.tf32_infer", True),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_a_sentence(path, value):
    (line,) = [line for line in problems(changed(path, value)) if line.startswith(f"$.{path}:")]
    assert "unknown" not in line
    assert len(line.split()) > 6


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "value", [1, [1, 2], "auto", "auto:64", "max:512", "filter:1000"], ids=lambda value: str(value)
)
def test_forms_of_batch_size(value):
    batch_size = checked(changed("training.training_data.batch_size", value)).training.training_data.batch_size
    assert batch_size == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("batch_size", 0, "must be greater than 0, not 0"),
        ("batch_size", "4", '"4" is text; remove the quotes'),
        ("batch_size", "autos", '"autos" is no batch size; give a number of frames, a list'),
        ("batch_size", "auto:", '"auto:" is no batch size; give a number of frames, a list'),
        ("batch_size", "max:0", '"max:0" is no batch size'),
        ("batch_size", "mixed:4", '"mixed:N" puts frames of different systems in one batch, which diffff does not do'),
        ("batch_size", "mix:4", '"mix:N" puts frames'),
        ("batch_size", 1.5, "must be a whole number or a list […] or text, not 1.5"),
        ("batch_size", [], "needs at least 1 entries, has 0"),
        ("auto_prob", "uniform", '"uniform" is no rule for probabilities; give "prob_uniform", "prob_sys_size" or'),
        ("auto_prob", "prob_uniform;0:1:1", '"prob_uniform;0:1:1" is no rule'),
        ("auto_prob", "prob_sys_size;0:2", 'the block "0:2" is not of the form first:end:weight, as in 0:2:0.3'),
        ("auto_prob", "prob_sys_size;2:2:1", "block 2:2:1: it needs 0 <= first < end and a weight of at least 0"),
        ("auto_prob", "prob_sys_size;0:2:0", "all blocks have weight 0"),
        ("systems", [], "needs at least 1 entries, has 0"),
        ("systems", "", "must not be empty"),
        ("systems", LEFT_OUT, "this key is required"),
        ("numb_btch", 1, "unknown key here; it belongs in $.training.validation_data"),
    ],
)
def test_wrong_data_sections(key, value, sentence):
    (line,) = problems(changed(f"training.training_data.{key}", value))
    assert line.startswith(f"$.training.training_data.{key}: {sentence}")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"sys_probs": [0.5, 0.6]}, "the probabilities in sys_probs add up to 1.1; the most is 1"),
        ({"sys_probs": [0.5, 0.4]}, "sys_probs add up to 0.9 instead of 1; a negative entry takes the rest"),
        ({"sys_probs": [0.5, 0.5], "auto_prob": "prob_uniform"}, "sys_probs and auto_prob both say how often"),
    ],
)
def test_wrong_probabilities(more, sentence):
    given = data()
    given["training"]["training_data"] |= more
    (line,) = problems(given)
    assert line.startswith(f"$.training.training_data: {sentence}")


def test_negative_probabilities_share_the_rest():
    section = checked(changed("training.training_data.sys_weights", [0.25, -1])).training.training_data
    assert section.sys_probs == (0.25, -1.0)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("training.numb_steps", LEFT_OUT, "$.training: say how long to train: give numb_steps (or numb_epoch)"),
        (
            "training.numb_epoch",
            3,
            "$.training: numb_steps and numb_epoch both say how long to train; keep one of them",
        ),
        ("training.stat_file_mode", "read", '$.training: stat_file_mode "read" needs stat_file, the file to read'),
        ("training.ema_decay", 1, "$.training.ema_decay: must be less than 1, not 1"),
        ("training.disp_freq", 0, "$.training.disp_freq: must be greater than 0, not 0"),
        ("learning_rate", LEFT_OUT, "$.learning_rate: this key is required"),
        ("learning_rate.start_lr", "1e-3", '$.learning_rate.start_lr: must be a number, not the text "1e-3"; remove'),
        ("model.descriptor.neurons", [1], '$.model.descriptor.neurons: unknown key; did you mean "neuron"?'),
        ("model.descriptor.type", "se_e2", '$.model.descriptor.type: unknown type "se_e2"; did you mean "se_e2_a"?'),
        ("start_lr", 1, "$.start_lr: unknown key here; it belongs in $.learning_rate"),
        ("systems", ["a"], "$.systems: unknown key here; it belongs in $.training.training_data or $.training.valida"),
        (
            "validating.validation_metric",
            "E:MEA",
            '$.validating.validation_metric: must be "E:MAE", "E:RMSE", "F:MAE", "F:RMSE", "S:MAE", "S:RMSE", "V:MAE" '
            'or "V:RMSE", not the text "E:MEA"; did you mean "E:MAE"?',
        ),
    ],
)
def test_wrong_values(path, value, sentence):
    (line,) = problems(changed(path, value))
    assert line.startswith(sentence)


@pytest.mark.parametrize(
    ("validating", "sentence"),
    [
        (
            {"full_validation": True, "validation_metric": "v:mae"},
            "validating.validation_metric V:MAE ranks models by an",
        ),
        (
            {"full_validation": True, "validation_metric": "S:MAE"},
            "validating.validation_metric S:MAE ranks models by an",
        ),
        ({"ema_full_validation": True}, "validating.ema_full_validation needs training.enable_ema"),
    ],
)
def test_full_validation_needs_what_it_compares(validating, sentence):
    (line,) = problems(changed("validating", validating))
    assert line.startswith(f"$: {sentence}")
    assert checked(changed("validating", {**validating, "full_val_start": 1})).validating.first_step(100) is None


def test_full_validation_needs_data():
    given = changed("validating", {"full_validation": True})
    del given["training"]["validation_data"]
    assert problems(given) == [
        "$: validating needs data: give training.validation_data, or set full_validation to false"
    ]


def test_steps_given_as_a_part_of_the_run():
    given = checked(data("everything.json"))
    assert given.validating.first_step(4000) == 100
    assert given.training.checkpoints_kept(4000) == 4
    assert given.training.first_swa_step(4000) == 3000
    half = checked(changed("validating", {"full_validation": True}))
    assert half.validating.first_step(4001) == 2000
    assert half.validating.validation_metric == "E:MAE"
    assert half.training.checkpoints_kept(4000) == 5


ANYTHING = st.sampled_from(
    [None, True, 0, -2, 1.5, float("nan"), 10**30, "", "auto", "x", [], [1], [[]], {}, {"type": 1}]
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(leaves(data("everything.json")))), ANYTHING)
def test_any_value_is_accepted_or_refused_in_words(path, value):
    given = changed(path.removeprefix("$."), value, "everything.json")
    try:
        again = spec.completed(checked(given))
    except InputError as error:
        assert all(line.startswith("input.json: $") for line in str(error).splitlines())
        assert not re.search(r"Input should|pydantic|Value error|https:", str(error))
    else:
        assert spec.completed(checked(again)) == again


# ---------------------------------------------------------------- old inputs


def test_what_was_upgraded_is_told():
    assert upgrade(data("water.json"))[1] == []
    assert upgrade(data("v0.json"))[1] == [
        "the keys of a DeePMD-kit 0.x input were sorted into the sections of today",
        "systems, set_prefix, batch_size: moved from training to training.training_data",
        "learning_rate.decay_rate: replaced by stop_lr = 3.50527e-08, the rate it leads to",
        "training.numb_test: dropped, it has had no effect since DeePMD-kit 2.0",
    ]
    assert upgrade(data("v31.json"))[1] == [
        "warmup_steps, warmup_start_factor: moved from training to learning_rate",
        "opt_type, adam_beta1, weight_decay: moved from training to optimizer",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_upgrading_changes_nothing_in_its_argument_and_is_done_once(name):
    given = data(name)
    upgraded, _ = upgrade(given)
    assert given == data(name)
    assert upgrade(upgraded) == (upgraded, [])


def test_an_old_key_whose_new_place_is_taken_is_an_error():
    given = data("v31.json")
    given["learning_rate"]["warmup_steps"] = 10
    assert problems(given) == ["$.training.warmup_steps: unknown key here; it belongs in $.learning_rate"]
    given = changed("training.systems", ["a"])
    assert problems(given)[0].startswith("$.training.systems: unknown key here; it belongs in $.training.training_data")


def test_an_unknown_old_key_is_an_error():
    assert problems(changed("coord_normal", True, "v0.json"))[0].startswith("$.coord_normal: unknown key")


# ---------------------------------------------------------------- files


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with an input and its data, seen from its parent."""
    folder = tmp_path / "water"
    for name in ("a", "b", "c"):
        (folder / "data" / name).mkdir(parents=True)
    (folder / "input.json").write_text(json.dumps(data()))
    monkeypatch.chdir(tmp_path)
    return folder


def test_systems_are_found_from_the_input_files_folder(project):
    given = read_input("water/input.json")
    assert given.training.training_data.systems == ("water/data/a", "water/data/b")
    assert given.training.validation_data is not None
    assert given.training.validation_data.systems == ("water/data/c",)


def test_the_current_directory_wins(project, monkeypatch):
    (project.parent / "data" / "b").mkdir(parents=True)
    assert read_input("water/input.json").training.training_data.systems == ("water/data/a", "data/b")
    monkeypatch.chdir(project)
    assert read_input("input.json").training.training_data.systems == ("data/a", "data/b")


def test_groups_of_hdf5_files_are_found_too(project):
    (project / "frames.hdf5").touch()
    assert resolve("frames.hdf5#/water/1", project) == f"{project}/frames.hdf5#/water/1"
    assert resolve("no.hdf5#/water/1", project) is None


def test_all_missing_systems_are_told(project):
    (project / "data" / "b").rmdir()
    (project / "data" / "c").rmdir()
    with pytest.raises(InputError) as caught:
        read_input(project / "input.json")
    here = project.parent
    assert str(caught.value).splitlines() == [
        f'{project}/input.json: $.training.training_data.systems[1]: no file or directory "data/b"; '
        f"looked in {here} and {project}",
        f'{project}/input.json: $.training.validation_data.systems[0]: no file or directory "data/c"; '
        f"looked in {here} and {project}",
    ]


def test_an_upgrade_is_logged(project, caplog):
    (project / "old.json").write_text(json.dumps(data("v1.json")))
    with caplog.at_level(logging.INFO, logger="diffff"):
        read_input(project / "old.json")
    assert "old.json: old input: systems, set_prefix, batch_size, auto_prob_style: moved from training" in caplog.text


def test_the_completed_input_is_written_and_read_back(project):
    given = read_input("water/input.json")
    write_completed(given, "out.json")
    assert read_input("out.json") == given
    assert sorted(path.name for path in Path().iterdir()) == ["out.json", "water"]
    with pytest.raises(InputError, match=r"out.json/x: cannot be written \(out.json is no directory\)\."):
        write_completed(given, "out.json/x")


def test_yaml_is_read_like_json(project):
    text = """
    # the numbers of people: 1e-3 is one
    model: {type_map: [O, H], descriptor: {type: se_e2_a, sel: [46, 92]}, fitting_net: {neuron: [8]}}
    learning_rate: {start_lr: 1e-3, stop_lr: 3.51e-8}
    training:
      _note: a comment
      training_data: {systems: [data/a]}
      numb_steps: 10
    """
    (project / "input.yaml").write_text(text)
    given = read_input(project / "input.yaml")
    assert given.learning_rate.start_lr == 1e-3
    assert given.model.descriptor.sel == (46, 92)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', "line 1, column 8: not valid JSON: a comma stands before a closing bracket; remove it"),
        ('{"a": [1, 2,]}', "line 1, column 12: not valid JSON: a comma stands before a closing bracket; remove it"),
        ('{"a": 1 "b": 2}', "line 1, column 9: not valid JSON: a comma or a closing bracket is missing before this"),
        ('{\n  // note\n  "a": 1}', "line 2, column 3: not valid JSON: JSON has no comments; put the remark in a key"),
        ("{'a': 1}", 'line 1, column 2: not valid JSON: text is written in double quotes: "…"'),
        ('{"a": True}', "line 1, column 7: not valid JSON: True is written true"),
        ('{"a": 1', "line 1, column 8: not valid JSON: the file ends too early; a closing bracket or quote is missing"),
        ("", "line 1, column 1: not valid JSON: the file is empty"),
        ('{"a" 1}', "line 1, column 6: not valid JSON: expecting ':' delimiter"),
    ],
)
def test_malformed_json_is_located(tmp_path, text, message):
    path = tmp_path / "input.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_input(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert text == "" or str(caught.value).splitlines()[-1].strip() in text


def test_a_key_that_stands_twice_is_an_error(tmp_path):
    path = tmp_path / "input.json"
    path.write_text('{"a": {"seed": 1, "_c": 1, "_c": 2, "seed": 2}, "b": [{"x": 1, "x": 1}], "a": {"y": 1, "y": 2}}')
    with pytest.raises(InputError) as caught:
        read_input(path)
    assert str(caught.value).splitlines() == [
        f'{path}: $: the key "a" stands here twice; keep one',
        f'{path}: $.a: the key "y" stands here twice; keep one',
        f'{path}: $.b[0]: the key "x" stands here twice; keep one',
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2: expected ',' or ']', but got ':'"),
        ("a: 1\nb: 2\na: 3\n", 'line 3, column 1: the key "a" stands twice in this section; keep one'),
        ("a:\n\t- 1\n", "line 2, column 1: found character '\\t' that cannot start any token"),
    ],
)
def test_malformed_yaml_is_located(tmp_path, text, message):
    path = tmp_path / "input.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_input(path)
    assert str(caught.value) == f"{path}: {message}"


def test_files_that_are_no_input(tmp_path):
    with pytest.raises(InputError, match=r"missing.json: no such file \(looked for /.*missing.json\)"):
        read_input(tmp_path / "missing.json")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_input(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_input(tmp_path / "binary.json")
    (tmp_path / "list.json").write_text("\ufeff[1]", encoding="utf-8")
    with pytest.raises(InputError, match=r"list.json: \$: must be a section {…}, not \[1\]"):
        read_input(tmp_path / "list.json")


# ---------------------------------------------------------------- schema


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value satisfies a JSON Schema, as far as the vocabulary of ours goes."""
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
    kind = schema.get("type")
    if kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        return False
    if kind in kinds and (not isinstance(value, kinds[kind]) or (kind == "integer" and isinstance(value, bool))):
        return False
    good = "anyOf" not in schema or any(fits(value, option, root) for option in schema["anyOf"])
    good = good and all(fits(value, part, root) for part in schema.get("allOf", []))
    good = good and ("const" not in schema or value == schema["const"])
    good = good and ("enum" not in schema or value in schema["enum"])
    if isinstance(value, list):
        good = good and all(fits(item, schema.get("items", {}), root) for item in value)
    if isinstance(value, dict):
        good = good and all(key in value for key in schema.get("required", []))
        free = schema.get("additionalProperties", True)
        for key, inner in value.items():
            if key in schema.get("properties", {}):
                good = good and fits(inner, schema["properties"][key], root)
            elif not key.startswith("_"):
                good = good and (free if isinstance(free, bool) else fits(inner, free, root))
    return good


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("v")])
def test_the_schema_accepts_what_is_an_input(name):
    schema = json_schema()
    assert fits(data(name), schema, schema)
    assert fits(spec.completed(checked(data(name))), schema, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [("model.descriptor.neurons", [1]), ("training.tensorboard", True), ("nvnmd", {}), ("training.seed", "1")],
)
def test_the_schema_refuses_what_is_none(path, value):
    schema = json_schema()
    assert not fits(changed(path, value), schema, schema)
    assert not fits(changed("model", LEFT_OUT), schema, schema)
    assert json.loads(json.dumps(schema)) == schema
