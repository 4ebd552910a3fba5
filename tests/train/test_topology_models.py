"""Models of topologies: one for all systems of a file, and of fragments one for all that are alike."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from diffff.data.folders import find_systems
from diffff.fit.problem import Sigmas, merged, predicted
from diffff.model_input import Deep
from diffff.spec import validate
from diffff.train.fit_config import FitData, FitInput
from diffff.train.fit_setup import _frames
from diffff.train.parts import FittedXml
from diffff.train.topology_models import TopologyModels
from tests.md.systems import MODEL, SPRING
from tests.train.made_fit import fit_input, write_molecule

DIMER = Path(__file__).parents[2] / "data/water_dimer"


@pytest.fixture
def dimers(tmp_path, monkeypatch):
    """Three systems of water dimers: two alike, and one whose fragments are counted the other way round."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        shutil.copytree(DIMER, tmp_path / "data" / name)
    numbers = (DIMER / "fragment.raw").read_text().split()
    (tmp_path / "data/c/fragment.raw").write_text(" ".join("10"[int(number)] for number in numbers))
    xml = FittedXml(files=("amber14/tip3p.xml",), topology=str(DIMER / "water_dimer.pdb"), rigid_water=False)
    return TopologyModels([xml], [1.0], tmp_path)


def test_systems_with_interaction_energies_share_a_program(dimers):
    """But for one whose fragments have other atoms; what is predicted is the same."""
    systems = _frames(dimers, FitData(systems="data"), find_systems("data"), Sigmas(interaction=1.0))
    first, second, turned = systems
    assert first.potential is second.potential is turned.potential
    assert len({id(part.potential) for one in systems for part in one.fragments}) == 1
    both, alone = merged(systems)
    assert both.n_groups == 2 and alone is turned
    sigmas, params = Sigmas(interaction=1.0), dimers.params
    each = [predicted(one, params, sigmas)["interaction"] for one in systems]
    np.testing.assert_array_equal(predicted(both, params, sigmas)["interaction"], np.concatenate(each[:2]))
    np.testing.assert_allclose(each[2], each[0], rtol=0, atol=1e-9)


def test_residues_and_files_are_those_that_were_asked_for(dimers):
    assert dimers.residues() == [] and str(DIMER / "water_dimer.pdb") not in map(str, dimers.files)
    dimers.structure("data/a")
    assert [one.name for one in dimers.residues()] == ["HOH"]
    assert str(DIMER / "water_dimer.pdb") in map(str, dimers.files)


def test_a_deep_potential_is_among_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_molecule(tmp_path, SPRING)
    shutil.copy(MODEL, tmp_path / "water.dp")
    given = fit_input()
    given["model"] = {
        "type": "sum",
        "models": [given["model"], {"type": "deep", "file": "water.dp"}],
        "weights": [1, 2],
    }
    parts, factors = validate(FitInput, given).parts
    assert isinstance(parts[1], Deep) and factors == (1.0, 2.0)
    assert Path("water.dp") in TopologyModels(parts, factors, tmp_path).files
