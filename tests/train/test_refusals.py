"""Bad inputs given to `dff train`: each is one clear message, exit code 1, no traceback."""

import contextlib
import pickle
import re
import shutil

import h5py
import jax
import numpy as np
import pytest
from click.testing import CliRunner

from diffff import cli, tree
from diffff.potentials.deep import DeepModel
from diffff.spec import validate
from diffff.train import checkpoint as ckpt
from tests.train import small


def edit(file, change):
    """Change the array in a file of the first set."""

    def spoil(folder):
        path = folder / "water" / "set.000" / file
        np.save(path, change(np.load(path)))

    return spoil


def put(value, *index):
    def change(array):
        array = array.copy()
        array[index] = value(array) if callable(value) else value
        return array

    return change


def write(file, content):
    def spoil(folder):
        (folder / "water" / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def remove(pattern):
    """Remove the files that match from all sets."""

    def spoil(folder):
        for path in (folder / "water").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def empty_sets(folder):
    for path in folder.glob("water/set.*/*.npy"):
        np.save(path, np.load(path)[:0])


def pickled(folder):
    path = folder / "water" / "set.000" / "energy.npy"
    np.save(path, np.array([{1: 2}, 2, 3], dtype=object), allow_pickle=True)


def cut_off(folder):
    path = folder / "water" / "set.000" / "coord.npy"
    path.write_bytes(path.read_bytes()[:200])


def checkpoints(folder):
    """model.h5, model.dp, and damaged or unrelated files of these names."""
    model = validate(DeepModel, small.INPUT["model"])
    leaves = tree.flatten(jax.tree.map(np.asarray, {"DeepPot": model.init(1)}))
    frozen = {name: leaf for name, leaf in leaves.items() if name.endswith(("davg", "dstd", "bias"))}
    parts = {"trained": {n: x for n, x in leaves.items() if n not in frozen}, "frozen": frozen, "sampler": {"step": 1}}
    ckpt.save(folder / "model.h5", ckpt.Checkpoint(step=1, model=model, input={}, basis=None, parts=parts))
    ckpt.freeze(folder / "model.h5", folder / "model.dp")
    (folder / "cut.h5").write_bytes((folder / "model.h5").read_bytes()[:3000])
    with h5py.File(folder / "data.hdf5", "w") as file:
        file["x/type.raw"] = [0]


NO_EF = {f"loss.{end}_pref_{term}": 0 for end in ("start", "limit") for term in "ef"}

# what is tried: (changes of the input, what is done to the data, more words on the command line) -> the message
INPUTS = {
    "unknown keys and wrong values, all at once": (
        {
            "model.descriptor.neurons": [2],
            "model.descriptor.rcut": -1.0,
            "training.numb_stepz": 3,
            "loss.relative_f": "a",
        },
        '{input}: $.model.descriptor.neurons: unknown key; did you mean "neuron"?\n'
        "{input}: $.model.descriptor.rcut: must be greater than 0, not -1.0\n"
        '{input}: $.loss.relative_f: must be a number, not the text "a"\n'
        '{input}: $.training.numb_stepz: unknown key; did you mean "numb_steps"?',
    ),
    "no systems": (
        {"training.training_data.systems": []},
        "{input}: $.training.training_data.systems: needs at least 1",
    ),
    "no such system": (
        {"training.training_data.systems": ["watr"]},
        "{input}: $.training.training_data.systems[0]: no file",
    ),
    "sel of a wrong length": (
        {"model.descriptor.sel": [4]},
        "{input}: $.model: descriptor.sel has 1 entries, type_map 2",
    ),
    "sel too small": (
        {"model.descriptor.sel": [1, 2], "model.descriptor.sel_overflow": "error"},
        "an atom has up to [2, 4] neighbours of each type within 3.0 Å, but descriptor.sel is [1, 2].",
    ),
    "a cutoff without neighbours": (
        {"model.descriptor.rcut": 0.6},
        "no two atoms of the training data are within descriptor.rcut = 0.6 Å of each other: there",
    ),
    "no fparam": ({"model.fitting_net.numb_fparam": 2}, "water/set.000/fparam.npy: the file is missing, but the model"),
    "a warm-up longer than the run": ({"learning_rate.warmup_steps": 5}, "learning_rate: the warm-up takes 5 steps"),
    "a rule without effect": (
        {"optimizer": {"rules": [{"select": "*/nosuch", "train": False}]}},
        'optimizer.rules or parameters.rules: "*/nosuch" selects no parameter.',
    ),
    "everything frozen": ({"optimizer": {"rules": [{"select": "*", "train": False}]}}, "no parameter is left to train"),
    "two batch sizes for one system": (
        {"training.training_data.batch_size": [1, 2]},
        "batch_size: 2 numbers, but there",
    ),
    "checkpoints below a file": (
        {"training.save_dir": "input.json/x"},
        "input.json/x/model.ckpt.h5: cannot be written (input.json is no directory).",
    ),
    "a directory as learning curve": ({"training.disp_file": "water"}, "water: cannot be written (Is a directory)."),
    "a full disk": ({"training.disp_file": "/dev/full"}, "/dev/full: cannot be written (No space left on device)."),
    "no statistics": (
        {"training.stat_file": "st", "training.stat_file_mode": "read"},
        "st: lacks 77a993118fd1c1c92c07ae84e547f40a8c5a9bf8/r_0 for the types O H",
    ),
    "validation without data": ({"validating": {"full_validation": True}}, "{input}: $: validating needs data: give"),
}
TEXTS = {
    "": "line 1, column 1: not valid JSON: the file is empty",
    '{"model": {},}': "line 1, column 13: not valid JSON: a comma stands before a closing bracket; remove it",
    '{"model": {': "line 1, column 12: not valid JSON: the file ends too early; a closing bracket or quote is missing",
    '{"a": True}': "line 1, column 7: not valid JSON: True is written true",
    "[1]": "$: must be a section {…}, not [1]",
}
DATA = {
    "no type.raw": (remove("type.raw"), "water: no system here: no directory at or below it holds a type.raw."),
    "more atoms in type.raw": (
        write("type.raw", "0 1 1 0 1 1 1"),
        "set.000/coord.npy: has shape (3, 18), expected (n_fra",
    ),
    "elements in type.raw": (write("type.raw", "O H H O H H"), "type.raw: atom 0: 'O' is not an integer."),
    "an unknown element": (
        write("type_map.raw", "O D"),
        "type.raw: atom 1: the model has no element D; its type_map is",
    ),
    "a type without name": (
        write("type.raw", "0 1 2 0 1 1"),
        "type.raw: atom 2: there is no type 2; the elements are O, H",
    ),
    "shape of the forces": (
        edit("force.npy", lambda a: a[:, 1:]),
        "force.npy: has shape (3, 17), expected (3, 18): coord",
    ),
    "number of energies": (
        edit("energy.npy", lambda a: a[1:]),
        "energy.npy: has shape (2,), expected (3, 1): coord.npy",
    ),
    "shape of the boxes": (
        edit("box.npy", lambda a: a[:, :6]),
        "box.npy: has shape (3, 6), expected (3, 9): coord.npy has",
    ),
    "NaN in the positions": (
        edit("coord.npy", put(np.nan, 1, 4)),
        "coord.npy: frame 1, atom 1: the value is nan. Correct",
    ),
    "infinite force": (
        edit("force.npy", put(np.inf, 2, 0)),
        "force.npy: frame 2, atom 0: the value is inf. Correct or",
    ),
    "NaN in the energies": (
        edit("energy.npy", put(np.nan, 1)),
        "energy.npy: frame 1: the value is nan. Correct or remove",
    ),
    "atoms too close": (
        edit("coord.npy", put(lambda a: a[1, :3] + 0.1, 1, slice(3, 6))),
        "coord.npy: frame 1: atoms 0 and 1 are 0.173 Å apart, less than 0.3 Å. Are coordinates and box in Å?",
    ),
    "a flat box": (
        edit("box.npy", put(lambda a: a[1, 3:6], 1, slice(6, 9))),
        "box.npy: frame 1: the box has no volume",
    ),
    "no box": (remove("set.000/box.npy"), "box.npy: the file is missing. Add it, or, if the system is not periodic"),
    "no positions": (remove("set.000/coord.npy"), "coord.npy: the file is missing."),
    "a label in one set only": (remove("set.000/virial.npy"), "virial.npy: missing, but another set has it. All sets"),
    "no sets": (remove("set.*"), "water: has no set.* directory, such as set.000, that holds coord.npy and labels."),
    "pickled objects": (
        pickled,
        "energy.npy: holds pickled Python objects, which can run code when they are loaded, so",
    ),
    "a pickle": (
        write("set.000/coord.npy", pickle.dumps([1])),
        "coord.npy: holds pickled Python objects, which can run",
    ),
    "a file that was cut off": (cut_off, "coord.npy: cannot be read (Failed to read all data for array."),
    "text instead of npy": (
        write("set.000/coord.npy", "1 2 3"),
        "coord.npy: not a .npy file. Write it with numpy.save.",
    ),
    "words": (edit("energy.npy", lambda a: a.astype(str)), "energy.npy: holds <U32 values; real numbers are needed."),
    "no frames": (empty_sets, "coord.npy: holds no frames. Remove the empty set."),
    "no labels": (
        remove("set.*/[efv]*.npy"),
        "there is nothing to learn: no training system has the labels that the loss",
    ),
}
OPTIONS = {
    "-r model.ckpt-5": "model.ckpt-5: no such checkpoint; give model.ckpt-STEP.h5, or the directory of the run.",
    "-r water": "water: no file named `checkpoint` here; give a checkpoint, model.ckpt-STEP.h5.",
    "-r model.dp": "model.dp: a model file, which has the weights only. Begin a new run with --init-model model.dp.",
    "-r cut.h5": "cut.h5: no checkpoint of diffff, or damaged (Unable to synchronously open file (truncated file",
    "-r data.hdf5": "data.hdf5: no checkpoint of diffff, or damaged (",
    "-r water/set.000/coord.npy": "water/set.000/coord.npy: no checkpoint of diffff, or damaged (",
    "-i no.dp": "no.dp: no such file. Give the path of a model file (.dp, .yaml).",
    "-i graph.pb": "graph.pb: not the ending of a model file. Use .dp, .yaml or .yml.",
    "-i data.hdf5": "data.hdf5: not the ending of a model file. Use .dp, .yaml or .yml.",
    "-o water": "water: cannot be written (Is a directory).",
    "-o input.json/out.json": "input.json/out.json: cannot be written (input.json is no directory).",
}


def run(folder, *words):
    with contextlib.chdir(folder):
        result = CliRunner().invoke(cli.main, list(words))
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.stderr[result.stderr.index("Error: ") + len("Error: ") :]


@pytest.fixture
def folder(tmp_path):
    small.write_system(tmp_path / "water", (3, 2), 2)
    small.write_input(tmp_path, {"training.numb_steps": 1})
    return tmp_path


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(folder, name):
    changes, message = INPUTS[name]
    small.write_input(folder, {"training.numb_steps": 1, **changes})
    code, said = run(folder, "train", "input.json")
    assert code == 1
    assert said.startswith(message.replace("{input}", "input.json"))


@pytest.mark.parametrize("text", TEXTS)
def test_malformed_files(folder, text):
    (folder / "input.json").write_text(text)
    code, said = run(folder, "train", "input.json")
    assert code == 1
    assert said.startswith(f"input.json: {TEXTS[text]}")


@pytest.mark.parametrize("name", DATA)
def test_data(folder, name):
    spoil, message = DATA[name]
    spoil(folder)
    code, said = run(folder, "train", "input.json")
    assert code == 1
    assert re.match(rf"(water/(set\.000/)?)?{re.escape(message)}", said.removeprefix("water/")) or message in said
    assert said.startswith(("water", "there is"))


@pytest.mark.parametrize("words", OPTIONS)
def test_options(folder, words):
    checkpoints(folder)
    code, said = run(folder, "train", "input.json", *words.split())
    assert code == 1
    assert said.startswith(OPTIONS[words])


def test_finetuning_needs_energies(folder):
    checkpoints(folder)
    remove("set.*/energy.npy")(folder)
    code, said = run(folder, "train", "input.json", "-t", "model.dp")
    assert (code, said) == (1, "the energy bias cannot be changed: no system has an energy.npy.\n")


def test_labels_for_none_of_the_terms(folder):
    small.write_input(folder, {**NO_EF, "loss.start_pref_v": 1.0})
    remove("set.*/virial.npy")(folder)
    code, said = run(folder, "train", "input.json")
    assert code == 1
    assert said.startswith(
        "there is nothing to learn: no training system has the labels that the loss needs (virial.npy)"
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "no.json"], 1, "no.json: no such file (looked for "),
        (["train", "water"], 1, "water: cannot be read as text: [Errno 21] Is a directory"),
        (
            ["train", "input.json", "-l", "water"],
            2,
            "Invalid value for '-l' / '--log-path': water: cannot be written (Is",
        ),
        (
            ["train", "input.json", "-r", "a", "-i", "b"],
            2,
            "--init-model and --restart exclude each other; give one of",
        ),
        (["train", "input.json", "--restrat", "b"], 2, "No such option '--restrat'. Did you mean '--restart'?"),
        (["freeze"], 1, ".: no file named `checkpoint` here; give a checkpoint, model.ckpt-STEP.h5."),
        (
            ["freeze", "-c", "model.h5", "-o", "x.pb"],
            1,
            "x.pb: not the ending of a model file. Use .dp, .yaml or .yml.",
        ),
        (
            ["freeze", "-c", "model.h5", "-o", "input.json/x.dp"],
            1,
            "input.json/x.dp: cannot be written (input.json is no directory).",
        ),
        (["test", "-m", "no.dp", "-s", "water"], 1, "no.dp: no such file. Give the path of a model file (.dp, .yaml)."),
    ],
)
def test_commands(folder, words, code, message):
    checkpoints(folder)
    exit_code, said = run(folder, *words)
    assert exit_code == code
    assert said.startswith(message)
