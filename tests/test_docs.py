"""What README.md and the pages in docs/ show works: Python blocks run, commands have the options given there."""

import json
import re
import shlex
from pathlib import Path

import click
import jax
import pytest

from diffff.cli import main
from diffff.formats.deepmd import save_model
from diffff.potentials.deep import DeepModel
from diffff.spec import validate
from diffff.train.config import Input
from diffff.train.fit_config import FitInput
from diffff.train.start import has_network

ROOT = Path(__file__).resolve().parents[1]
SLOW = ("README.md", "fit.md", "fit-examples.md", "forcefield.md", "simulate.md", "openmm.md", "engines.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

WATER = {
    "type_map": ["O", "H"],
    "descriptor": {"type": "se_e2_a", "rcut": 4.0, "sel": [30, 60], "neuron": [4, 8], "type_one_side": True},
    "fitting_net": {"neuron": [8]},
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def beside_a_model(tmp_path: Path, monkeypatch) -> None:
    """A directory with the data of the project and a random model, water.dp."""
    model = validate(DeepModel, WATER, "model")
    save_model(tmp_path / "water.dp", model, model.init(0))
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_a_model")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=pytest.mark.slow if page.name in SLOW else ())
        for page in PAGES
        if blocks(page, "python")
    ],
)
def test_python_runs(page: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    assert jax.config.read("jax_enable_x64")


def test_inputs_of_fits_validate() -> None:
    """Blocks that are sections only are completed by what every training needs."""
    others = {"learning_rate": {"start_lr": 1e-3}, "training": {"training_data": {"systems": "x"}, "numb_steps": 1}}
    found = []
    for block in blocks(ROOT / "docs/fit.md", "json"):
        given = json.loads(block if block.startswith("{") else f"{{{block}}}")
        found.append(has_network(given))
        if found[-1]:
            validate(Input, {**others, **given}, block)
        else:
            validate(FitInput, given, block)
    assert found == [False, True]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for line in "\n".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["dff"]:
            continue
        command = main.commands[words[1]]
        parent = main.make_context("dff", [words[1]], resilient_parsing=True)
        command.make_parser(click.Context(command, parent=parent)).parse_args(words[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
