"""The command line: quick to answer, DeePMD-kit's options, errors a user can read."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import click
import jax
import numpy as np
import pytest
from click.testing import CliRunner

from diffff import __version__, cli, jax_version
from diffff.errors import InputError, InputErrors

ROOT = Path(__file__).resolve().parents[1]


def run(*words):
    return CliRunner().invoke(cli.main, list(words))


@pytest.fixture(autouse=True)
def quiet_afterwards():
    """Take off what a command puts on the logger."""
    logger = logging.getLogger("diffff")
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def broken(monkeypatch):
    """A command `broken` that raises what it is told to."""

    def add(error):
        @click.command("broken")
        def broken():
            raise error

        monkeypatch.setitem(cli.main.commands, "broken", broken)

    return add


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"]])
def test_help_answers_at_once_and_without_jax(words):
    code = (
        "import sys, diffff.cli\n"
        "try:\n    diffff.cli.main(sys.argv[1:])\n"
        "finally:\n    print([m for m in ('jax', 'numpy', 'pydantic', 'rich', 'openmm') if m in sys.modules])"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - begun < 5.0  # a tenth of a second on an idle machine


def test_version():
    assert run("--version").output == f"diffff, version {__version__}\n"


def test_commands_are_those_of_deepmd_kit_and_each_has_help():
    of_deepmd = ["train", "test", "freeze", "convert", "show", "neighbor-stat", "model-devi", "plot"]
    assert list(cli.main.commands) == [*of_deepmd, "report", "md", "parity", "schema"]
    for name in cli.main.commands:
        result = run(name, "-h")
        assert result.exit_code == 0
        assert "--log-level" in result.output


def test_a_misspelt_command_or_option_is_recognised():
    result = run("trian", "input.json")
    assert result.exit_code == 2
    assert "No such command 'trian'. Did you mean 'train'?" in result.output
    assert "--restart" in run("train", "input.json", "--restrat", "x").output


def test_an_input_error_is_a_message(broken):
    broken(InputErrors(["input.json: $.model: missing", "input.json: $.los: unknown key"]))
    result = run("broken")
    assert result.exit_code == 1
    assert result.stderr == "Error: input.json: $.model: missing\ninput.json: $.los: unknown key\n"


def test_any_other_error_keeps_its_traceback(broken):
    broken(ZeroDivisionError("a defect"))
    result = run("broken")
    assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_ends_without_a_traceback(broken):
    broken(KeyboardInterrupt())
    result = run("broken")
    assert result.exit_code == 1
    assert "Aborted!" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["train", "input.json", "-i", "a", "-r", "b"],
        ["train", "input.json", "--restart", "a", "--finetune", "b"],
        ["test", "-s", ".", "--train-data", "input.json"],
    ],
)
def test_options_that_exclude_each_other(words):
    result = run(*words)
    assert result.exit_code == 2
    assert "exclude each other" in result.output


def test_model_devi_writes_the_columns_of_deepmd_kit(tmp_path):
    model, data = ROOT / "tests/references/md/water.dp", ROOT / "data/water/valid/triclinic"
    output = tmp_path / "model_devi.out"
    result = run("model-devi", "-m", str(model), str(model), "-s", str(data), "-o", str(output), "-f", "10")
    assert result.exit_code == 0, result.output
    table = np.loadtxt(output)
    assert table.shape[1] == 8
    np.testing.assert_array_equal(table[:, 0], 10 * np.arange(len(table)))
    np.testing.assert_array_equal(table[:, 1:], 0.0)
    refused = run("model-devi", "-m", str(model), "-s", str(data), "-o", str(output))
    assert refused.exit_code == 1
    assert "that of two or more models, but 1 is given" in refused.output
    np.testing.assert_array_equal(np.loadtxt(output), table)


def test_neighbor_stat_names_types_as_deepmd_kit_does():
    result = run("neighbor-stat", "-r", "6.0", "O", "H")
    assert result.exit_code == 2
    assert "O H" in result.output


def test_plot_needs_no_jax(tmp_path):
    lcurve = tmp_path / "lcurve.out"
    lcurve.write_text("# step   rmse_trn   lr\n  1  0.5  1e-3\n  2  0.4  1e-3\n")
    result = run("plot", str(lcurve), "-o", str(tmp_path / "curve.svg"))
    assert result.exit_code == 0
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")


def test_the_log_goes_to_standard_error_and_to_a_file(tmp_path, monkeypatch):
    @click.command("speak")
    @cli.logged
    def speak():
        logger = logging.getLogger("diffff.train.loop")
        logger.debug("details")
        logger.info("batch 1")
        logger.warning("few neighbours")

    monkeypatch.setitem(cli.main.commands, "speak", speak)
    log = tmp_path / "logs" / "train.log"
    result = run("speak", "-l", str(log))
    assert result.stdout == ""
    assert result.stderr == "batch 1\nWARNING: few neighbours\n"
    assert [line.split(" ", 2)[2] for line in log.read_text().splitlines()] == [
        "INFO batch 1",
        "WARNING few neighbours",
    ]
    assert run("speak", "-v", "3").stderr == "details\nbatch 1\nWARNING: few neighbours\n"
    assert run("speak", "-v", "warning").stderr == "WARNING: few neighbours\n"


def test_start_jax_switches_double_precision_on():
    code = "import diffff.cli, sys; diffff.cli.start_jax(); import jax.numpy as jnp; print(jnp.ones(1).dtype)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "float64\n"
    assert done.stderr == ""


@pytest.mark.parametrize("release", jax_version.BROKEN_RELEASES)
def test_broken_releases_of_jax_are_refused(release, monkeypatch):
    monkeypatch.setattr(jax_version, "version", lambda package: release if package == "jaxlib" else "0.10.1")
    with pytest.raises(InputError, match=f"jaxlib {release} is installed.* pip install"):
        cli.start_jax()


def test_the_installed_jax_is_accepted():
    assert jax.__version__ not in jax_version.BROKEN_RELEASES
    jax_version.require_sound_jax()


def test_schema_is_json():
    pytest.importorskip("diffff.train.config")
    schema = json.loads(run("schema").output)
    assert {"model", "training"} <= schema["properties"].keys()
    schema = json.loads(run("schema", "md").output)
    assert {"model", "integrator"} <= schema["properties"].keys()
