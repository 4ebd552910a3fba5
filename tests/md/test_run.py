"""`dff md`: an input file becomes the run that the Python API would make of the same parts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from openmm import app, unit

from diffff import ForceField
from diffff.cli import main
from diffff.data.systems import read_systems
from diffff.md.calculator import Calculator
from diffff.md.input import json_schema, read_input
from diffff.md.run import md
from diffff.model import load
from tests.md.systems import MODEL, ROOT, SPRING, deep_water, hybrid

DATA = ROOT / "data/water/valid/300K"
PDB = ROOT / "tests/references/molecules/dipeptide.pdb"
SPRINGS = {"type": "xml", "files": ["springs.xml"], "rigid_water": False, "missing": "skip"}
RUN = {
    "model": SPRINGS,
    "system": {"structure": "water.pdb"},
    "integrator": {"type": "langevin", "time_step": 0.0005, "temperature": 300},
    "run": {"n_steps": 60, "n_replicas": 2},
    "output": {"log_every": 10, "trajectory": "md.xyz", "trajectory_every": 15, "checkpoint_every": 30},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """A folder with springs.xml and water.pdb, a box of 32 molecules."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "springs.xml").write_text(SPRING)
    deep = deep_water()
    with open("water.pdb", "w") as file:
        app.PDBFile.writeFile(deep.topology, deep.positions * unit.nanometer, file)
    return tmp_path


def written(changes: dict, name="in.json") -> Path:
    """The input with some sections changed; a section that is None is left out."""
    data = {**RUN, **changes}
    path = Path(name)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return path


def table(path="md.log"):
    return np.loadtxt(path)


def test_a_run_goes_on_to_the_same_files(tmp_path):
    other = {"type": "xml", "files": ["stiff.xml"], "rigid_water": False}
    (tmp_path / "stiff.xml").write_text(SPRING.replace('k="5000"', 'k="6000"'))
    md(written({"committee": [other]}))
    names = [f"{stem}-{k}{kind}" for stem, kind in (("md", ".log"), ("md", ".xyz")) for k in (0, 1)]
    whole = {name: Path(name).read_bytes() for name in names}
    Path("md.npz").unlink()
    part = {**RUN["run"], "n_steps": 30}
    where = {**RUN["output"], "deviation_every": 20}
    md(written({"committee": [other], "run": part, "output": where}))
    end = md(written({"committee": [other], "output": where}), restart=True)
    assert {name: Path(name).read_bytes() for name in names} == whole
    assert end.step.tolist() == [60, 60]
    devi = table("model_devi-1.out")
    np.testing.assert_array_equal(devi[:, 0], [0, 20, 40, 60])
    assert np.all(devi[:, 4] > 1e-3)  # the largest force deviation, eV/Å
    assert not np.array_equal(devi, table("model_devi-0.out"))


@pytest.mark.slow
def test_a_sum_has_the_energy_of_its_parts(here):
    model = {"type": "sum", "models": [SPRINGS, {"type": "deep", "file": str(MODEL)}]}
    integrator = {"type": "verlet", "time_step": 0.0002}
    md(written({"model": model, "integrator": integrator, "run": {"n_steps": 10, "temperature": 50}}))
    system = hybrid(here)
    pdb = app.PDBFile("water.pdb")  # rounded to 1e-4 nm
    box = np.array(pdb.topology.getPeriodicBoxVectors()._value)
    energy, *_ = Calculator(system.potential, system.params)(pdb.getPositions(asNumpy=True)._value, box)
    log = table()
    np.testing.assert_allclose(log[0, 2], energy, rtol=1e-12)
    np.testing.assert_allclose(log[1, 4], log[0, 4], atol=0.2)  # constant energy


@pytest.mark.slow
def test_a_committee_of_deep_potentials_is_as_far_apart_as_model_devi_says(here):
    run = {"n_steps": 0}
    integrator = {"type": "csvr", "time_step": 0.0005, "temperature": 300}
    given = {"model": str(MODEL), "committee": [str(MODEL)], "system": {"structure": str(DATA), "frame": 2}}
    md(written({**given, "integrator": integrator, "run": run, "output": {}}))
    assert table("model_devi.out")[1:].max() == 0.0
    model = load(MODEL)
    (frames,) = read_systems(str(DATA), model.type_map)
    assert frames.boxes is not None
    energy = model.eval(frames.positions[2], frames.boxes[2], frames.types)[0]
    np.testing.assert_allclose(table()[2], energy.item() * 96.48533212331, rtol=1e-9)


@pytest.mark.slow
def test_a_peptide_keeps_its_bonds_and_has_the_masses_of_the_force_field():
    files = ["amber14/protein.ff14SB.xml"]
    model = {"type": "xml", "files": files, "constraints": "HBonds", "hydrogen_mass": 3.0}
    integrator = {"type": "nose_hoover", "time_step": 0.004, "temperature": 300}
    system = {"structure": str(PDB), "periodic": False}
    minimize = {"tolerance": 500, "max_steps": 30}
    done = written({"model": model, "system": system, "integrator": integrator, "minimize": minimize})
    end = md(done, output=Path("out.json"))
    pdb = app.PDBFile(str(PDB))
    omm = ForceField(*files).create_system(
        pdb.topology, ForceField(*files).params(), constraints="HBonds", hydrogenMass=3.0
    )
    x = np.asarray(end.positions[0])
    for k in range(omm.getNumConstraints()):
        i, j, r = omm.getConstraintParameters(k)
        np.testing.assert_allclose(np.linalg.norm(x[i] - x[j]), r._value, rtol=1e-6)
    masses = np.array([omm.getParticleMass(i)._value for i in range(len(x))])
    kinetic = 0.5 * np.sum(masses[:, None] * np.asarray(end.velocities[0]) ** 2)
    np.testing.assert_allclose(table("md-0.log")[-1, 3], kinetic, rtol=1e-8)
    assert read_input("out.json") == read_input(done)


def test_every_key_is_on_its_page():
    page = (ROOT / "docs/md.md").read_text()
    for name, section in json_schema()["$defs"].items():
        for key, what in section["properties"].items():
            assert key == "type" or what.get("deprecated") or f"`{key}`" in page, f"{name}.{key}"


def test_the_examples_are_inputs(tmp_path):
    blocks = re.findall(r"^```json\n(.*?)^```$", (ROOT / "docs/md.md").read_text(), re.MULTILINE | re.DOTALL)
    for number, block in enumerate([*blocks, (ROOT / "data/water/md.json").read_text()]):
        (tmp_path / f"{number}.json").write_text(block)
        read_input(tmp_path / f"{number}.json")


PME = {**SPRINGS, "nonbonded_method": "PME"}
DEEP = {"model": str(MODEL), "system": {"structure": str(DATA)}}
BAD = {
    "unknown key": ({"run": {"nstep": 3}}, r'\$\.run\.nstep: unknown key; did you mean "n_steps"\?'),
    "no length": ({"run": {}}, r"\$\.run.*n_steps"),
    "time step": ({"integrator": {"type": "verlet", "time_step": -1}}, r"time_step: must be greater than 0, not -1"),
    "integrator": ({"integrator": {"type": "langevn"}}, r'unknown type "langevn"; did you mean "langevin"\?'),
    "no temperature": ({"integrator": {"type": "csvr", "time_step": 0.001}}, r"temperature"),
    "two parts": ({"model": {"type": "sum", "models": [SPRINGS, SPRINGS]}}, r'two parts of the type "xml"'),
    "no model": ({"model": "none.dp"}, r"none\.dp"),
    "no xml": ({"model": {"type": "xml", "files": ["none.xml"]}}, r"none\.xml"),
    "no structure": ({"system": {"structure": "none.pdb"}}, r"none\.pdb: no such file"),
    "no topology": ({"system": {"structure": str(DATA)}}, r"needs residues and bonds"),
    "element": ({"model": str(MODEL), "system": {"structure": str(PDB)}}, r"is C; the model is for \['O', 'H'\]"),
    "mass": ({**DEEP, "system": {"structure": str(DATA), "masses": {"D": 2.0}}}, r"there is no D in the structure"),
    "two boxes": ({"system": {"structure": "water.pdb", "box": [2, 2, 2], "periodic": False}}, r"keep one of them"),
    "flat box of a topology": (
        {"system": {"structure": "water.pdb", "box": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}},
        r"volume",
    ),
    "unreduced box": (
        {"system": {"structure": "water.pdb", "box": [[1, 0, 0], [0.9, 1, 0], [0, 0, 1]]}},
        r"the box is .* reduced form",
    ),
    "input as output": ({"output": {"log": "water.pdb"}}, r"water\.pdb: is read as an input"),
    "flat box": ({**DEEP, "system": {"structure": str(DATA), "box": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}}, r"volume"),
    "trajectory": ({"output": {"trajectory": "md.trr"}}, r"md\.trr"),
    "two files": ({"output": {"log": "md.npz"}}, r"two outputs go to one file"),
    "periodic": ({"model": PME, "system": {"structure": "water.pdb", "periodic": False}}, r"needs a periodic box"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_refused(case):
    changes, message = BAD[case]
    done = CliRunner().invoke(main, ["md", str(written(changes))])
    assert done.exit_code == 1, done.output
    assert re.search(f"(?m)^Error: .*{message}", done.output), done.output
    assert not Path("md.npz").exists()


def test_scripts_in_files_do_not_run(here):
    """Nor when sites are to be added to the structure, which OpenMM does."""
    script = "<Script>open('ran.txt', 'w').close()</Script>"
    text = SPRING.replace("</ForceField>", f"{script}</ForceField>")
    (here / "script.xml").write_text(text)
    (here / "first.xml").write_text(text.replace("Script>", "InitializationScript>"))
    for file in ("script.xml", "first.xml"):
        model = {**SPRINGS, "files": [file], "add_extra_particles": True}
        done = CliRunner().invoke(main, ["md", str(written({"model": model}))])
        assert done.exit_code == 1, done.output
        assert not (here / "ran.txt").exists()


def test_an_earlier_run_is_not_lost_by_a_slip():
    written({"run": {"n_steps": 5}})
    assert CliRunner().invoke(main, ["md", "in.json", "--restart"]).exit_code == 1
    assert CliRunner().invoke(main, ["md", "in.json"]).exit_code == 0
    again = CliRunner().invoke(main, ["md", "in.json"])
    assert again.exit_code == 1
    assert "--overwrite" in again.output
    assert CliRunner().invoke(main, ["md", "in.json", "--overwrite"]).exit_code == 0
