"""Model files: lossless conversion, the models of DeePMD-kit read and written, and what is said of broken files.

The models in tests/references/deepmd/models.zip are DeePMD-kit's own; tests/references/make_deepmd_models.py made them.
"""

import copy
import logging
import os
import zipfile
from itertools import pairwise
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
import yaml

from diffff.errors import InputError
from diffff.formats.deepmd import convert, load_model, read_tree, save_model, show, write_tree

ARCHIVE = Path(__file__).parents[1] / "references" / "deepmd" / "models.zip"
CASES = sorted(Path(name).stem for name in zipfile.ZipFile(ARCHIVE).namelist() if name.endswith(".dp"))


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The directory of the reference models."""
    folder = tmp_path_factory.mktemp("models")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def identical(a, b) -> bool:
    """Same values, types, order of keys, and bits of the arrays."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return type(a) is type(b) and a == b


def differences(a, b, path="$") -> list[str]:
    """Paths where two trees differ; the order of keys does not count."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            d
            for key in sorted({*a, *b})
            for d in differences(a.get(key, "absent"), b.get(key, "absent"), f"{path}.{key}")
        ]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{path}[{i}]")]
    return [] if identical(a, b) else [path]


# ------------------------------------------------------------------------------------------------------------- trees
@pytest.mark.parametrize("case", ["two_side", "float32", "compressed", "from_tensorflow", "preset_out_bias"])
def test_conversion_to_yaml_and_back_changes_nothing(models, tmp_path, case):
    source = models / f"{case}.dp"
    convert(source, tmp_path / "model.yaml")
    convert(tmp_path / "model.yaml", tmp_path / "model.dp")
    assert identical(read_tree(source), read_tree(tmp_path / "model.yaml"))
    assert identical(read_tree(source), read_tree(tmp_path / "model.dp"))
    with h5py.File(source) as before, h5py.File(tmp_path / "model.dp") as after:
        assert before.attrs["json"] == after.attrs["json"]
        assert list(before) == list(after)


def test_the_yaml_of_deepmd_kit_is_read(models):
    theirs, ours = read_tree(models / "two_side.yaml"), read_tree(models / "two_side.dp")
    assert differences(theirs, ours) == ["$.time"]


@pytest.mark.parametrize("suffix", [".dp", ".yaml", ".yml"])
def test_any_tree_survives(tmp_path, suffix):
    """Also one of a model that diffff does not know, with unusual arrays."""
    tree = {
        "model": {
            "@class": "Model",
            "type": "dpa9",
            "list": [{"@variables": {"deep": {"er": [np.float32([1e-45, 3.4e38]), None]}}}, None],
            "@variables": {
                "scalar": np.array(0.9),
                "empty": np.zeros((0, 4), np.float32),
                "bits": np.array([0.1, -0.0, -np.inf, np.inf, 5e-324, 1 / 3]),
                "integers": np.array([[-(2**62), 7]]),
                "bools": np.array([True, False]),
                "none": None,
            },
        },
        "model_def_script": {"text": "Å 'quoted' no 1e5", "null": None, "yes": True, "x": 1e-7, "[]": [], "{}": {}},
    }
    before = copy.deepcopy(tree)
    write_tree(tmp_path / f"model{suffix}", tree)
    assert identical(tree, before)
    assert identical(read_tree(tmp_path / f"model{suffix}"), tree)


def test_numbers_of_numpy_and_tuples_become_plain(tmp_path):
    write_tree(tmp_path / "model.dp", {"rcut": np.float64(6.0), "sel": (np.int64(46), 92)})
    assert identical(read_tree(tmp_path / "model.dp"), {"rcut": 6.0, "sel": [46, 92]})


def test_yaml_aliases_of_other_writers_are_followed(tmp_path):
    text = "model:\n  neuron: &id [3, 6]\n  other: *id\n"
    (tmp_path / "model.yaml").write_text(text)
    assert read_tree(tmp_path / "model.yaml")["model"] == {"neuron": [3, 6], "other": [3, 6]}


def test_a_failed_write_leaves_the_old_file(models, tmp_path):
    target = tmp_path / "model.dp"
    convert(models / "one_side.dp", target)
    before = target.read_bytes()
    with pytest.raises(InputError, match="cannot be written"):
        write_tree(target, {"@variables": {"name": np.array(["text"])}})
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.dp"]


def nested_aliases() -> str:
    letters = "abcdefghijklm"
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]" for x, y in pairwise(letters)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.dp", b"no HDF5 at all", "not a readable HDF5 file"),
        ("a.yaml", b"model: !!python/object/apply:os.getcwd []", "not a YAML file of plain values"),
        ("a.yaml", b"model: [1, 2", "not a YAML file of plain values"),
        ("a.yaml", b"\xff\xfe\x00", "not a YAML file of plain values"),
        ("a.yaml", b"- 1\n- 2\n", "holds no section of keys"),
        ("a.yaml", b"", "holds no section of keys"),
        ("a.yaml", nested_aliases().encode(), "aliases unfold"),
        ("a.yaml", b"a: &a [*a]", "aliases unfold"),
        ("a.yaml", b"[" * 100_000, "nested too deeply"),
        ("a.yaml", b"'@variables': {w: {'@is_variable': true, '@class': np.ndarray, value: [1]}}", "w: not an array"),
        (
            "a.yaml",
            b"'@variables': {w: {'@is_variable': true, '@class': np.ndarray, dtype: O, value: [1]}}",
            "no array",
        ),
        ("a.pb", b"", "not the ending of a model file"),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_tree(tmp_path / name)
    assert name in str(raised.value)


def test_missing_and_truncated_files(models, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_tree(tmp_path / "none.dp")
    convert(models / "one_side.dp", tmp_path / "new" / "model.dp")
    with pytest.raises(InputError, match=r"model\.dp is no directory"):
        convert(models / "one_side.dp", tmp_path / "new" / "model.dp" / "x.dp")
    with pytest.raises(InputError, match="not the ending"):
        convert(models / "one_side.dp", tmp_path / "model.pth")
    whole = (models / "one_side.dp").read_bytes()
    (tmp_path / "half.dp").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated"):
        read_tree(tmp_path / "half.dp")


def test_a_damaged_dataset(models, tmp_path):
    """The header of one array is overwritten, in the middle of a file that opens."""
    content = (models / "one_side.dp").read_bytes()
    with h5py.File(models / "one_side.dp") as file:
        header = h5py.h5o.get_info(file["variable_0003"].id).addr
    (tmp_path / "model.dp").write_bytes(content[:header] + b"\x00" * 16 + content[header + 16 :])
    with pytest.raises(InputError, match="damaged"):
        read_tree(tmp_path / "model.dp")


@pytest.mark.parametrize(
    ("json", "message"),
    [
        (None, 'without the attribute "json"'),
        (3, 'without the attribute "json"'),
        ("{", "is broken"),
        ("[]", "must hold a section"),
        ("[" * 100_000, "nested too deeply"),
        ('{"@variables": {"w": "/nothing"}}', r"\$\.@variables\.w: there is no dataset '/nothing'"),
        ('{"@variables": {"w": 7}}', "there is no dataset 7"),
        ('{"@variables": {"w": "/"}}', "there is no dataset '/'"),
        ('{"@variables": {"w": "/link"}}', "there is no dataset '/link'"),
        ('{"@variables": {"w": "/group"}}', "there is no dataset '/group'"),
        ('{"@variables": {"w": "/text"}}', "no array of numbers"),
        ('{"@variables": {"w": "/huge"}}', "no array of numbers"),
    ],
)
def test_broken_hdf5(tmp_path, json, message):
    path = tmp_path / "model.dp"
    with h5py.File(path, "w") as file:
        if json is not None:
            file.attrs["json"] = json
        file["link"] = h5py.ExternalLink("/etc/hosts.h5", "/x")
        file.create_group("group")
        file["text"] = "text"
        file.create_dataset("huge", shape=(10**12,), chunks=(10**6,), dtype="f8")
    with pytest.raises(InputError, match=message):
        read_tree(path)


# ------------------------------------------------------------------------------------------------------------ models
@pytest.mark.parametrize("case", CASES)
def test_every_model_of_deepmd_kit_comes_back_as_it_was(models, tmp_path, case):
    """Read and written again, only the places of the energy bias and unused numbers differ."""
    model, params = load_model(models / f"{case}.dp")
    save_model(tmp_path / "model.dp", model, params)
    again, params_again = load_model(tmp_path / "model.dp")
    assert again == model
    assert identical(params_again, params)

    theirs, ours = read_tree(models / f"{case}.dp")["model"], read_tree(tmp_path / "model.dp")["model"]
    found = {path.removeprefix("$.") for path in differences(theirs, ours)}
    moved = {"@variables.out_bias", "@variables.out_std", "fitting.@variables.bias_atom_e", "fitting.atom_ener"}
    compressed = {"descriptor.@version", "descriptor.compress"} if case == "compressed" else set()
    preset = {"preset_out_bias.energy[1]"} if case == "preset_out_bias" else set()
    assert found <= moved | compressed | preset


@pytest.mark.parametrize("case", CASES)
def test_parameters_have_the_shapes_the_model_makes(models, case):
    model, params = load_model(models / f"{case}.dp")
    made = jax.eval_shape(model.init)
    assert jax.tree.structure(params) == jax.tree.structure(made)
    for read, new in zip(jax.tree.leaves(params), jax.tree.leaves(made), strict=True):
        assert (read.shape, read.dtype) == (new.shape, new.dtype)


def test_two_sided_networks_are_named_centre_neighbour(models):
    networks = read_tree(models / "two_side.dp")["model"]["descriptor"]["embeddings"]["networks"]
    _, params = load_model(models / "two_side.dp")
    for name, index in (("O-O", 0), ("H-O", 1), ("O-H", 2), ("H-H", 3)):
        assert identical(
            params["descriptor"]["embeddings"][name][0]["w"], networks[index]["layers"][0]["@variables"]["w"]
        )


@pytest.mark.parametrize(("case", "store"), [("two_side", "bias_atom_e"), ("float32", "out_bias")])
def test_the_energy_bias_is_written_where_compression_and_rounding_spare_it(models, tmp_path, case, store):
    """`dp compress` loses out_bias; a fitting net in single precision rounds bias_atom_e."""
    model, params = load_model(models / f"{case}.dp")
    bias = np.arange(1.0, 1.0 + len(params["bias"])) * 1e3 + 1e-6
    save_model(tmp_path / "a.dp", model, {**params, "bias": bias})
    tree = read_tree(tmp_path / "a.dp")["model"]
    found = {
        "out_bias": tree["@variables"]["out_bias"].ravel(),
        "bias_atom_e": tree["fitting"]["@variables"]["bias_atom_e"].ravel(),
    }
    np.testing.assert_array_equal(found.pop(store), bias)
    assert not np.any(found.popitem()[1])


def test_both_stores_of_the_energy_bias_are_added(models):
    tree = read_tree(models / "bias_both.dp")["model"]
    expected = tree["@variables"]["out_bias"][0, :, 0] + tree["fitting"]["@variables"]["bias_atom_e"][:, 0]
    _, params = load_model(models / "bias_both.dp")
    np.testing.assert_array_equal(params["bias"], expected)


def test_what_is_written_besides_the_model(models, tmp_path):
    model, params = load_model(models / "one_side.dp")
    save_model(tmp_path / "a.dp", model, params, min_nbor_dist=0.88)
    tree = read_tree(tmp_path / "a.dp")
    assert tree["@variables"]["min_nbor_dist"] == 0.88
    assert tree["model"]["@variables"]["out_std"].tolist() == [[[1.0], [1.0]]]
    assert tree["model_def_script"]["descriptor"]["sel"] == [14, 28]
    assert not {"evaluation", "sel_overflow", "spline_tolerance"} & set(tree["model_def_script"]["descriptor"])
    save_model(tmp_path / "b.yaml", model, params, model_def_script={"type_map": ["O", "H"]})
    assert read_tree(tmp_path / "b.yaml")["model_def_script"] == {"type_map": ["O", "H"]}
    assert "@variables" not in read_tree(tmp_path / "b.yaml")
    assert identical(load_model(tmp_path / "b.yaml")[1], params)


def test_models_of_older_releases(models, tmp_path):
    """Their sections have lower versions and fewer keys, and biases of layers have two dimensions."""
    tree = read_tree(models / "two_side.dp")
    descriptor, fitting = tree["model"]["descriptor"], tree["model"]["fitting"]
    for key in ("atom_exclude_types", "pair_exclude_types", "rcond", "preset_out_bias"):
        del tree["model"][key]
    for key in ("env_mat", "type_map", "env_protection", "trainable", "spin"):
        del descriptor[key]
    for key in ("default_fparam", "dim_case_embd", "trainable", "type_map", "layer_name", "atom_ener", "numb_aparam"):
        del fitting[key]
    del tree["model"]["@variables"]["out_std"], fitting["@variables"]["case_embd"]
    descriptor["@version"], fitting["@version"] = 1, 2
    for net in descriptor["embeddings"]["networks"] + fitting["nets"]["networks"]:
        net["@version"] = 1
        for layer in net["layers"]:
            del layer["@version"], layer["trainable"]
            layer["@variables"]["b"] = layer["@variables"]["b"][None, :]
    write_tree(tmp_path / "old.dp", tree)
    old, new = load_model(tmp_path / "old.dp"), load_model(models / "two_side.dp")
    assert old[0] == new[0]
    assert identical(old[1], new[1])


def test_the_tables_of_a_compressed_model_are_left_out_and_it_is_said(models, caplog):
    with caplog.at_level(logging.INFO, logger="diffff"):
        _, params = load_model(models / "compressed.dp")
    assert "compressed.dp: a compressed model; its networks are used" in caplog.text
    assert sorted(params["descriptor"]) == ["davg", "dstd", "embeddings"]


def test_a_network_of_an_excluded_pair_may_be_missing(models, tmp_path):
    tree = read_tree(models / "two_side_exclude.dp")
    networks = tree["model"]["descriptor"]["embeddings"]["networks"]
    networks[1] = networks[2] = None
    write_tree(tmp_path / "model.dp", tree)
    assert identical(load_model(tmp_path / "model.dp")[1], load_model(models / "two_side_exclude.dp")[1])
    networks[0] = None
    write_tree(tmp_path / "model.dp", tree)
    with pytest.raises(InputError, match=r"\$\.model\.descriptor\.embeddings\.networks\[0\]: missing"):
        load_model(tmp_path / "model.dp")


LAYER = ("model", "fitting", "nets", "networks", 0, "layers", 1)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("model", "type"), "linear_ener", '"linear_ener" is not supported: diffff computes "standard"'),
        (("model", "descriptor", "type"), "dpa3", 'type: "dpa3" is not supported: diffff computes "se_e2_a"'),
        (("model", "fitting", "type"), "dipole", '"dipole" is not supported: diffff computes "ener"'),
        (("model", "@version"), 3, "model.@version: the version is 3, but diffff reads 2 to 2"),
        (("model", "descriptor", "@version"), 4, "the version is 4, but diffff reads 1 to 3"),
        (("model", "fitting", "@version"), 5, "the version is 5, but diffff reads 1 to 4"),
        ((*LAYER, "@version"), 3, r"networks\[0\].layers\[1\].@version: the version is 3, but diffff reads 1 to 2"),
        (("model", "fitting", "nets", "@version"), 2, "the version is 2, but diffff reads 1 to 1"),
        (("model", "fitting", "mixed_types"), True, "mixed_types: True is not supported by diffff; only False is"),
        (("model", "fitting", "dim_case_embd"), 3, "dim_case_embd: 3 is not supported"),
        (("model", "descriptor", "env_mat", "use_exp_switch"), True, "use_exp_switch: True is not supported"),
        (("model", "descriptor", "precision"), "bfloat16", '"bfloat16" is not supported by diffff'),
        (("model", "descriptor", "sel"), [14, 27], r"davg: shape \(2, 42, 4\), but .* ask for \(2, 41, 4\)"),
        (("model", "descriptor", "sel"), "auto", "descriptor.sel: must be a list"),
        (("model", "descriptor", "neuron"), [3, 6], "3 layers, but the settings of the model ask for 2"),
        (("model", "descriptor", "axis_neuron"), 13, "axis_neuron = 13 exceeds"),
        (("model", "descriptor", "activation_function"), "sin", 'unknown activation function "sin"'),
        (("model", "descriptor", "activation_function"), "relu", "differs from that of the net, relu"),
        (("model", "descriptor", "type_one_side"), True, "4 networks, but the model asks for 2"),
        (("model", "type_map"), ["O", "O"], "names a type twice"),
        ((*LAYER, "resnet"), False, "resnet: hidden layers must be residual"),
        ((*LAYER, "@variables", "b"), None, "b: shape None, but the settings of the model ask for"),
        (("model", "descriptor", "@variables", "davg"), np.arange(336.0).reshape(2, 42, 4), "between the slots"),
        (("model", "descriptor", "@variables", "davg"), np.ones((2, 42, 4)), "angular mean"),
        (("model", "fitting"), None, "model.fitting: must be a section, not NoneType"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_read(models, tmp_path, place, value, message):
    tree = read_tree(models / "two_side.dp")
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    write_tree(tmp_path / "model.dp", tree)
    with pytest.raises(InputError, match=message) as raised:
        load_model(tmp_path / "model.dp")
    assert "model.dp: " in str(raised.value)


@pytest.mark.parametrize(
    "place",
    [
        ("model",),
        ("model", "descriptor", "rcut"),
        ("model", "fitting", "nets"),
        ("model", "descriptor", "@variables", "dstd"),
    ],
)
def test_missing_keys_are_named(models, tmp_path, place):
    tree = read_tree(models / "two_side.dp")
    node = tree
    for key in place[:-1]:
        node = node[key]
    del node[place[-1]]
    write_tree(tmp_path / "model.dp", tree)
    with pytest.raises(InputError, match=rf"\$\.{'.'.join(place)}: missing; the file is incomplete"):
        load_model(tmp_path / "model.dp")


# -------------------------------------------------------------------------------------------------------------- show
def test_show_says_what_is_in_a_model(models):
    text = show(models / "bias_both.dp")
    assert "bias_both.dp: written by deepmd-kit 3.2.0 dpmodel" in text
    assert "type-map: O H\n" in text
    assert "descriptor: Descriptor se_e2_a, version 2\n  rcut: 4.0\n  rcut_smth: 1.0\n  sel: [14, 28]\n" in text
    assert "fitting-net: Fitting ener, version 4\n" in text
    assert 'precision: "float64"' in text
    # embedding nets 2 (2·3 + 4·6 + 7·12) and fitting nets 2 (37·7 + 2 (8·7 + 7) + 8)
    assert "size: 1,014 parameters\n  descriptor se_e2_a: 228\n  fitting ener: 786\n" in text
    bias = load_model(models / "bias_both.dp")[1]["bias"]
    assert f"bias:\n  O: {bias[0]:.10g} eV\n  H: {bias[1]:.10g} eV" in text
    assert "serialization-tree" not in text


def test_show_parts(models):
    assert show(models / "one_side.dp", ["type-map"]).splitlines()[1:] == ["type-map: O H"]
    tree = show(models / "one_side.dp", ["serialization-tree"])
    assert "  model: Model standard, version 2, 1,692 numbers\n" in tree
    assert "0…1: FittingNetwork, version 1, 393 numbers\n" in tree
    assert "dstd: float64 (2, 42, 4)\n" in tree
    with pytest.raises(InputError, match='nothing to show of "weights"; choose from type-map, descriptor'):
        show(models / "one_side.dp", ["weights"])


def test_show_works_on_models_that_diffff_cannot_compute(tmp_path):
    descriptors = [
        {"@class": "Descriptor", "type": name, "rcut": 6.0, "@variables": {"w": np.ones(3)}} for name in ("a", "b")
    ]
    hybrid = {"@class": "Descriptor", "type": "hybrid", "@version": 1, "list": descriptors}
    fitting = {"@class": "Fitting", "type": "dipole"}
    backbone = {"@class": "Model", "type_map": ["Fe"], "descriptor": hybrid, "fitting": fitting}
    write_tree(tmp_path / "spin.dp", {"model": {"type": "spin_ener", "backbone_model": backbone}})
    text = show(tmp_path / "spin.dp")
    assert "spin.dp: written by an unknown program\ntype-map: Fe\n" in text
    assert "descriptor: Descriptor hybrid, version 1\ndescriptor: Descriptor a\n  rcut: 6.0\n" in text
    assert "size: 6 parameters\n  descriptor hybrid: 6\n" in text
    assert "bias: none per type" in text
    with pytest.raises(InputError, match='no section "model"'):
        write_tree(tmp_path / "other.yaml", {"a": 1})
        show(tmp_path / "other.yaml")


def test_yaml_is_plain(models, tmp_path):
    """Any YAML reader gets the tree: no tags, no anchors."""
    convert(models / "one_side.dp", tmp_path / "model.yaml")
    text = (tmp_path / "model.yaml").read_text()
    assert "!!" not in text and "&" not in text
    assert yaml.safe_load(text)["model"]["type"] == "standard"
