"""A driver for i-PI: its numbers are the potential's in atomic units, in i-PI's process and behind its socket."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy import constants

from diffff import units
from diffff.errors import InputError
from diffff.md.ipi import PES_FILE, ModelDriver, PotentialDriver
from tests.md.systems import MODEL, ROOT, SPRING, deep_water, hybrid, peptide

pytest.importorskip("ipi")

from ipi.pes import load_pes

pytestmark = pytest.mark.slow  # as many seconds as programs to compile

BOHR = 5.29177210903e-11 * 1e9  # nm; CODATA 2018, doi:10.1103/RevModPhys.93.025010, as diffff.units
HARTREE = 4.3597447222071e-18 * constants.N_A / 1000.0  # kJ/mol
BIN = Path(sys.executable).parent
PAGE = (ROOT / "docs/engines.md").read_text(encoding="utf-8")


def section(language: str, holds: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if holds in block]
    return found


def write_xyz(path: Path, system) -> Path:
    """Elements and places in i-PI's own format, in atomic units."""
    cell = " ".join(f"{x:.17g}" for x in (system.box.T / BOHR).ravel())
    lines = [f"{len(system.symbols)}", f"# CELL(H): {cell} cell{{atomic_unit}} positions{{atomic_unit}}"]
    for symbol, row in zip(system.symbols, system.positions / BOHR, strict=True):
        lines.append(" ".join([symbol, *(f"{x:.17g}" for x in row)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def check(answer, expected):
    energy, forces, virial, extras = answer
    assert extras == ""
    assert energy * HARTREE == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(forces * HARTREE / BOHR, expected[1], rtol=0, atol=1e-9 * np.abs(expected[1]).max())
    np.testing.assert_allclose(virial * HARTREE, expected[2], rtol=0, atol=1e-9 * np.abs(expected[2]).max())


def test_atomic_units_are_those_of_codata():
    """SciPy has later values, which differ in the tenth digit."""
    assert constants.physical_constants["Bohr radius"][0] * 1e9 == pytest.approx(units.NM_PER_BOHR, rel=1e-9)
    hartree = constants.physical_constants["Hartree energy"][0] * constants.N_A / 1000.0
    assert hartree == pytest.approx(units.KJ_PER_MOL_PER_HARTREE, rel=1e-9)


def test_the_file_on_the_command_line_is_what_ipi_loads():
    done = subprocess.run([sys.executable, "-m", "diffff.md.ipi"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == PES_FILE
    found = load_pes("custom", str(PES_FILE))
    assert found is ModelDriver


@pytest.mark.parametrize("make", [peptide, hybrid])
def test_energy_forces_and_virial_of_a_potential(make, tmp_path):
    system = make(tmp_path) if make is hybrid else make()
    driver = PotentialDriver(system.potential, system.params)
    check(driver(system.box.T / BOHR, system.positions / BOHR), system.expected())


def test_beads_of_a_batch_in_a_sheared_cell(tmp_path):
    """Lattice vectors are columns for i-PI. The beads are far apart; each keeps its own neighbours over the steps."""
    system, rng = deep_water(), np.random.default_rng(4)
    driver = load_pes("custom", str(PES_FILE))(model=str(MODEL), template=str(write_xyz(tmp_path / "w.xyz", system)))
    shear = np.array([[1.0, 0.0, 0.0], [0.1, 1.0, 0.0], [-0.1, 0.2, 1.0]])
    box = system.box @ shear
    beads = [system.positions @ shear + rng.integers(-2, 3, (96, 3)) @ box for _ in range(3)]
    for n_beads in (2, 3):
        beads = [x + rng.normal(scale=0.001, size=x.shape) for x in beads]
        answers = driver(n_beads * [box.T / BOHR], [x / BOHR for x in beads[:n_beads]])
        assert len(answers) == n_beads
        for answer, x in zip(answers, beads, strict=False):
            check(answer, system.expected(x, box))
    check(driver.compute_structure(box.T / BOHR, beads[2] / BOHR), system.expected(beads[2], box))


def shell(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Run commands, and leave no process behind."""
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            ["bash", "-ec", command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, (folder / "log").read_text()


def test_in_the_process_of_ipi_and_behind_its_socket(tmp_path):
    """The inputs and commands of docs/engines.md: five steps of four beads, in which the two ways agree."""
    system = deep_water()
    write_xyz(tmp_path / "start.xyz", system)
    (tmp_path / "water.dp").symlink_to(MODEL)
    direct = section("xml", "<ffdirect").replace("PES_FILE", str(PES_FILE))
    assert "PES_FILE" in section("xml", "<ffdirect")
    address = f"diffff-{os.getpid()}"
    socket = section("xml", "<ffsocket").replace("<address>water<", f"<address>{address}<")
    behind = re.sub(r" *<ffdirect.*</ffdirect>\n", socket, direct, flags=re.DOTALL)
    (tmp_path / "direct.xml").write_text(direct.replace("prefix='water'", "prefix='direct'"))
    (tmp_path / "input.xml").write_text(behind)
    commands = section("sh", "i-pi-driver-py").replace("-a water", f"-a {address}")
    commands = commands.replace("sleep 5", f"until [ -S /tmp/ipi_{address} ]; do sleep 0.1; done")
    assert "until" in commands
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for command in ("i-pi direct.xml", f"{commands}wait\n"):
        shell(command, tmp_path, environment)
    found = np.loadtxt(tmp_path / "direct.out")
    np.testing.assert_allclose(np.loadtxt(tmp_path / "water.out"), found, rtol=1e-7)
    energy = system.expected()[0]
    conserved, potential, pressure = found[:, 2], found[:, 3], found[:, 4]
    np.testing.assert_allclose(potential[0], energy / HARTREE, rtol=1e-8)  # all digits that i-PI prints
    assert np.ptp(conserved) < 0.02 * np.ptp(potential)
    assert np.isfinite(pressure).all()


def test_what_makes_no_sense_is_refused(tmp_path):
    system = deep_water()
    start = write_xyz(tmp_path / "start.xyz", system)
    model = str(MODEL)
    for options, message in (
        ({"model": "nowhere.dp", "template": start}, r"nowhere\.dp: no such file"),
        ({"model": model, "template": tmp_path / "no.xyz"}, r"no\.xyz: cannot be read \(No such file"),
        ({"model": model}, r"Give model=FILE, template=FILE, and if you like periodic, skin, dtype, fparam\."),
        ({"model": model, "template": start, "cutoff": 3}, "unknown: cutoff"),
        ({"model": model, "template": start, "periodic": "perhaps"}, "periodic is 'perhaps'; give true or false"),
        ({"model": model, "template": start, "skin": "wide"}, "skin is 'wide'; give a number"),
        ({"model": model, "template": start, "fparam": "0.1 x"}, "fparam is 'x'; give a number"),
        ({"model": model, "template": start, "fparam": 0.1}, r"start\.xyz: fparam is given, but this model has none"),
        ({"model": 3, "template": start}, "3: not the ending of a model file"),
        ({"model": model, "template": start, "skin": 0}, "skin is 0.0 nm; give a positive number"),
        ({"model": model, "template": start, "dtype": "float16"}, 'dtype is .float16.; give "float32" or "float64"'),
        ({"model": model, "template": MODEL.with_name("nothing")}, "nothing: cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            ModelDriver(**options)
    for text, message in (
        ("O 0 0 0\n", r"bad\.xyz: not an xyz file: the number of atoms, a comment, a line for each atom"),
        ("3\n\nO 0 0 0\nH 0 0 1\n", r"bad\.xyz: 3 atoms are announced, but there are 2"),
        ("2\n\nO 0 0 0\nS 0 0 1\n", r"bad\.xyz: atom 1 \(from 0\) is 'S', but the model has the types O, H only"),
    ):
        (tmp_path / "bad.xyz").write_text(text)
        with pytest.raises(InputError, match=message):
            ModelDriver(model=model, template=tmp_path / "bad.xyz")
    driver = ModelDriver(model, str(start), verbosity="low")
    with pytest.raises(InputError, match="the potential is for 96 atoms, but there are positions of 95"):
        driver(system.box.T / BOHR, system.positions[1:] / BOHR)
    with pytest.raises(InputError, match="span a volume"):
        driver(0.0 * system.box, system.positions / BOHR)
    vacuum = PotentialDriver(peptide().potential, peptide().params, periodic=False)
    with pytest.raises(InputError, match="PME needs a periodic box"):
        vacuum(peptide().box.T / BOHR, peptide().positions / BOHR)


def test_the_driver_of_the_page_for_any_potential(tmp_path):
    """The springs of water as in docs/engines.md; cut molecules are refused."""
    import jax
    import openmm.app as app
    from openmm import unit

    system = deep_water()
    (tmp_path / "water.xml").write_text(SPRING)
    with (tmp_path / "water.pdb").open("w") as file:
        app.PDBFile.writeFile(system.topology, system.positions * unit.nanometer, file)
    path = tmp_path / "springs_pes.py"
    path.write_text("import jax\n" + section("python", "PotentialDriver"))
    driver = load_pes("custom", str(path))(
        pdb=str(tmp_path / "water.pdb"), xml=str(tmp_path / "water.xml"), verbosity=1
    )
    bonds = system.positions[[[k, k + n] for k in range(0, 96, 3) for n in (1, 2)]]
    r = np.linalg.norm(bonds[:, 0] - bonds[:, 1], axis=1)
    energy = driver(system.box.T / BOHR, system.positions / BOHR)[0]
    assert energy * HARTREE == pytest.approx(np.sum(2500.0 * (r - 0.097) ** 2), rel=1e-9)
    wrapped = system.positions - np.floor(system.positions @ np.linalg.inv(system.box)) @ system.box
    with pytest.raises(
        InputError, match=r"atoms \d+ and \d+ \(from 0\) are bonded, but \d+\.\d Å apart, more than half"
    ):
        driver(system.box.T / BOHR, wrapped / BOHR)
    assert jax.config.read("jax_enable_x64")
