"""The comparison with OpenMM: it agrees where the files are the same, and sees each kind of difference."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from diffff import cli
from diffff.errors import InputError
from diffff.frontend import parity as module
from diffff.frontend.forcefield import ForceField
from diffff.frontend.parity import ForceLine, Parity, RowLine, parity
from diffff.frontend.reference import openmm_options, read_structure, safe_platform
from tests.frontend.test_forcefield import write_toy

MOLECULES = Path(__file__).parents[1] / "references/molecules"
DIPEPTIDE = MOLECULES / "dipeptide.pdb"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"), "default")


@pytest.fixture(scope="module")
def of_toy(toy):
    path, topology, x = toy
    return parity([path], topology, x, options={"missing": "skip"})


def test_every_force_and_column_of_a_file_is_compared(of_toy):
    assert of_toy.agrees and of_toy.platform == "Reference"
    names = [line.name for line in of_toy.forces]
    assert names == [
        "HarmonicBondForce + AmoebaUreyBradleyForce",
        "HarmonicAngleForce",
        "PeriodicTorsionForce",
        "RBTorsionForce",
        "CMAPTorsionForce",
        "NonbondedForce",
        "all",
    ]
    np.testing.assert_allclose(of_toy.forces[-1].openmm, sum(line.openmm for line in of_toy.forces[:-1]))
    columns = {line.name for line in of_toy.rows}
    assert len(columns) == 20 and {"CMAPTorsionForce/map", "NonbondedForce/lj14scale"} <= columns
    assert max(line.error for line in of_toy.rows) < 1e-6
    text = str(of_toy)
    assert "All within 1e-09 (energies, forces), 1e-06 (slopes)." in text and "toy.xml, line 14: <Bond>: k" in text


def test_a_wrong_energy_force_or_slope_is_seen(toy, monkeypatch):
    path, topology, x = toy

    class Wrong(ForceField):
        """Takes one number to be another."""

        def params(self):
            params = super().params()
            params["PeriodicTorsionForce"]["k"] = params["PeriodicTorsionForce"]["k"].at[0].add(1e-6)
            return params

    monkeypatch.setattr(module, "ForceField", Wrong)
    found = parity([path], topology, x, options={"missing": "skip"}, rows=0)
    assert not found.agrees
    assert {line.name for line in found.misses} == {"PeriodicTorsionForce", "all"}
    assert "Not within 1e-09 (energies, forces): PeriodicTorsionForce, all." in str(found)
    assert dataclasses.replace(found, tolerance=1e-5).agrees


@pytest.mark.parametrize("wrong", ["energy_error", "force_error"])
def test_what_is_no_number_never_agrees(wrong):
    line = dataclasses.replace(ForceLine("Bond", 1.0, 1.0, 0.0, 0.0), **{wrong: np.nan})
    assert not Parity((line,), (), 1e-9, 1e-6, "Reference").agrees
    row = RowLine("Bond/k", "line 1", 1.0, np.nan, np.nan)
    assert not Parity((), (row,), 1e-9, 1e-6, "Reference").agrees


def test_forces_without_a_counterpart_are_compared_as_one_lot():
    groups = module._groups(
        ["HarmonicBondForce", "LennardJonesForce", "AmoebaUreyBradleyForce", "ImplicitSolvent"],
        ["LennardJones", "HarmonicBondForce", "CustomGBForce", "LennardJones14"],
    )
    assert groups == [
        (["HarmonicBondForce", "AmoebaUreyBradleyForce"], ["HarmonicBondForce"]),
        (["LennardJonesForce"], ["LennardJones", "LennardJones14"]),
        (["ImplicitSolvent"], ["CustomGBForce"]),
    ]


def test_options_are_spelt_as_openmm_wants_them():
    import openmm.app as app

    options = {"nonbonded_method": "PME", "ewald_error_tolerance": 1e-4, "constraints": None, "missing": "skip"}
    found = openmm_options(options | {"use_dispersion_correction": False})
    assert found == {
        "removeCMMotion": False,
        "nonbondedMethod": app.PME,
        "ewaldErrorTolerance": 1e-4,
        "useDispersionCorrection": False,
    }


def test_the_reference_platform_is_left_where_it_misses_pairs():
    skewed = np.array([[2.2, 0, 0], [0.4, 2.3, 0], [-0.3, 0.5, 2.2]])
    assert safe_platform(None, 1.0)[0] == safe_platform(2.2 * np.eye(3), 1.0)[0] == "Reference"
    assert safe_platform(skewed, 0.7)[0] == "Reference"
    name, remarks = safe_platform(skewed, 1.0)
    assert name == "CPU" and "misses pairs" in remarks[0]


def run(*words):
    return CliRunner().invoke(cli.main, ["parity", *map(str, words)])


def test_the_command_prints_a_table_and_says_by_its_exit_code_whether_it_agrees():
    options = ("--pdb", MOLECULES / "water.pdb", "--method", "CutoffPeriodic", "--cutoff", "0.55", "--flexible-water")
    done = run("tip3p.xml", *options)
    assert done.exit_code == 0, done.output
    assert "All within 1e-06 (energies, forces), 1e-06 (slopes)." in done.stdout
    done = run("tip3p.xml", *options, "--rows", "0", "--tolerance", "0")
    assert done.exit_code == 1 and "Not within 0e+00 (energies, forces): " in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tip3p.xml", "--pdb", "nowhere.pdb"], "nowhere.pdb: no such file. Give a PDB or mmCIF file"),
        (["tip3p.xml", "--pdb", __file__], "OpenMM cannot read it"),
        (["tip3p.xml", "--pdb", DIPEPTIDE], "No template found for residue"),
        (["nowhere.xml", "--pdb", DIPEPTIDE], "nowhere.xml: no such file here"),
        (
            ["tip3p.xml", "--pdb", DIPEPTIDE.with_name("water.pdb"), "--method", "PME", "--cutoff", "0.9"],
            "OpenMM refuses",
        ),
        (["tip3p.xml", "--pdb", DIPEPTIDE, "--cutoff", "-1"], "nonbonded_cutoff is -1.0 nm"),
    ],
)
def test_bad_input_gets_one_sentence(words, message):
    done = run(*words)
    assert done.exit_code == 1 and done.stderr.startswith("Error: ") and message in done.stderr


def test_positions_must_be_finite_and_complete():
    topology, x = read_structure(DIPEPTIDE)
    with pytest.raises(InputError, match="have the shape"):
        parity(["tip3p.xml"], topology, x[1:])
    x[3, 1] = np.nan
    with pytest.raises(InputError, match=r"position of atom 3 \(from 0\)"):
        parity(["tip3p.xml"], topology, x)


def test_extra_particles_are_added_on_request():
    topology, x = read_structure(MOLECULES / "water.pdb", ["tip4pew.xml"])
    assert x.shape == (8, 3)
    assert parity(["tip4pew.xml"], topology, x, options={"rigid_water": False}).agrees
