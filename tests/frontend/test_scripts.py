"""Scripts in force-field files: which are known, what they do, and the numbers in their tables."""

import re
from pathlib import Path

import jax
import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend import scripts
from diffff.frontend.forcefield import ForceField
from diffff.frontend.xml import Document
from diffff.neighbors import neighbor_list
from diffff.potentials.base import energy_and_forces
from tests.frontend.molecules import chain

DATA = Path(app.__file__).parent / "data"
SUGAR = (["ROH", "4GB", "0GB"], [(0, "O1", 1, "C1"), (1, "O4", 2, "C1")])

CHARMM = """<ForceField>
 <AtomTypes>
  <Type name="T-C" class="C" element="C" mass="12.0"/> <Type name="T-N" class="N" element="N" mass="14.0"/>
  <Type name="T-O" class="O" element="O" mass="16.0"/> <Type name="T-X" class="X" element="F" mass="19.0"/>
 </AtomTypes>
 <Residues><Residue name="T">
  <Atom name="C" type="T-C" charge="0.2"/> <Atom name="N" type="T-N" charge="-0.3"/>
  <Atom name="O" type="T-O" charge="0.1"/> <Atom name="X" type="T-X" charge="0.0"/>
  <Bond atomName1="C" atomName2="N"/> <Bond atomName1="C" atomName2="O"/> <Bond atomName1="C" atomName2="X"/>
 </Residue></Residues>
 <NonbondedForce coulomb14scale="1" lj14scale="1"><UseAttributeFromResidue name="charge"/>
  <Atom class="C" sigma="0.3" epsilon="0"/> <Atom class="N" sigma="0.3" epsilon="0"/>
  <Atom class="O" sigma="0.3" epsilon="0"/> <Atom class="X" sigma="0.3" epsilon="0"/>
 </NonbondedForce>
 <Script>SCRIPT</Script>
</ForceField>"""
TABLES = {
    "residue_impropers": "{'T': (((0, 'C'), (0, 'N'), (0, 'O'), (0, 'X')), ((0, 'C'), (0, 'O'), (0, 'N'), (0, 'X')))}",
    "patch_impropers": "{}",
    "delete_impropers": "{}",
    "residue_order": "{'T': 0}",
    "patch_order": "{}",
    "periodic_improper_types": "{('C', 'O', 'N', 'X'): (1, 3.0, 7.5)}",
    "harmonic_improper_types": "{('C', 'A', None, 'X'): ((2.0, 0.5),),\r\n  ('C', 'N', None, 'X'): ((80.5, -2.5),)}",
}


def script_of(file: str) -> str:
    """Code of the script as it is spelled in a file that comes with OpenMM."""
    found = re.search(r"<Script>(.*?)</Script>", (DATA / file).read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def impropers(tmp_path) -> Path:
    """CHARMM's code with small tables and Windows line ends."""
    text = script_of("charmm36_2024.xml")
    for name, table in TABLES.items():
        text, n = re.subn(rf"^{name} = {{.*?^}}", f"{name} = {table}", text, flags=re.DOTALL | re.MULTILINE)
        assert n == 1
    path = tmp_path / "charmm.xml"
    path.write_bytes(CHARMM.replace("SCRIPT", text).replace("\r\n", "\n").replace("\n", "\r\n").encode())
    return path


def check(ff: ForceField, system: mm.System, topology: app.Topology, x: np.ndarray, params=None) -> dict:
    """Assert that energy and forces are those of OpenMM; the energy by term."""
    potential, params = ff.create_potential(topology, missing="skip"), params or ff.params()
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatform("Reference"))
    context.setPositions(x)
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    system_here = (potential, params, x, None, neighbor_list(x, None, potential.cutoff))
    found = jax.jit(energy_and_forces)(*system_here)
    np.testing.assert_allclose(found[0], state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole), rtol=1e-10)
    np.testing.assert_allclose(found[1], forces, rtol=0, atol=1e-10 * np.abs(forces).max())
    return {name: float(e) for name, e in jax.jit(potential.energies)(*system_here[1:]).items()}


@pytest.mark.parametrize(
    ("file", "purposes"),
    [
        ("amber14/GLYCAM_06j-1.xml", {scripts.GLYCAM_TEMPLATES, scripts.GLYCAM_PAIRS}),
        ("amber19/lipid21.xml", {scripts.LIPID_PAIRS}),
        ("charmm36.xml", {scripts.VERSION_CHECK}),
        ("charmm36/water.xml", {scripts.VERSION_CHECK}),
        ("charmm36_2024.xml", {scripts.VERSION_CHECK, scripts.CHARMM_IMPROPERS}),
        *((f"implicit/{name}.xml", {scripts.IMPLICIT_SOLVENT}) for name in ("hct", "obc1", "obc2", "gbn", "gbn2")),
    ],
)
def test_scripts_of_openmm_are_known(file, purposes):
    sections = Document.read(DATA / file).root.children
    assert {scripts.purpose(section) for section in sections if section.tag in scripts.TAGS} == purposes


@pytest.mark.parametrize("extra", ["import os", "numbers = [1, print()]", "x = 'ü'", "def"])
def test_another_script_is_refused(tmp_path, extra):
    path = tmp_path / "a.xml"
    code = script_of("amber19/lipid21.xml")
    path.write_text(f"<ForceField><Script>{code}\n{extra}\n</Script></ForceField>", encoding="utf-8")
    with pytest.raises(InputError, match="Python code in a force field is not run"):
        ForceField(path)


SLIPPED_IN = [  # what to replace in CHARMM's script, and by what
    ("periodic_impropers = []", "periodic_impropers = [(0, 1, 2, 3, 2, 0.1, 50.0)]"),  # no table of the files
    ("harmonic_impropers = []", "harmonic_impropers = [(0, 1, 2, 3, 50.0, 0.1)]"),
    ("\n        if not is_valid_improper(atom_indices):", " if not is_valid_improper(atom_indices):"),  # now a comment?
    ("\n    ", "\n     "),  # indentation
    ("periodic_impropers = []", "periodic_impropers = []\nresidue_impropers = {}"),  # a table twice
    ("periodic_impropers = []", "periodic_impropers = [ ]"),
]


@pytest.mark.parametrize(("old", "new"), SLIPPED_IN, ids=range(len(SLIPPED_IN)))
def test_code_that_has_been_changed_is_foreign(impropers, old, new):
    text = impropers.read_bytes().replace(b"\r\n", b"\n").decode()
    assert old in text
    impropers.write_text(text)
    ForceField(impropers)
    impropers.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match="Python code in a force field is not run"):
        ForceField(impropers)


def test_spaces_at_the_ends_of_lines_do_not_count(impropers):
    impropers.write_bytes(impropers.read_bytes().replace(b"\r\n    for", b"  \r\n    for"))
    assert scripts.purpose(Document.read(impropers).root.children[-1]) == scripts.CHARMM_IMPROPERS


def test_the_options_of_an_implicit_solvent_are_no_tables(tmp_path):
    code = script_of("implicit/obc2.xml")
    assert "'SA':'ACE'" in code
    (tmp_path / "a.xml").write_text(
        f"<ForceField><Script>{code.replace(chr(39) + 'ACE', chr(39) + 'LCPO')}</Script></ForceField>"
    )
    with pytest.raises(InputError, match="Python code in a force field is not run"):
        ForceField(tmp_path / "a.xml")


def test_tables_may_change(impropers):
    script = Document.read(impropers).root.children[-1]
    assert scripts.purpose(script) == scripts.CHARMM_IMPROPERS
    assert scripts.tables(script)["harmonic_improper_types"]["C", "N", None, "X"] == ((80.5, -2.5),)
    found = [(n.table, script.text[n.place]) for n in scripts.numbers(script)]
    assert found[-4:] == [("harmonic_improper_types", text) for text in ("2.0", "0.5", "80.5", "-2.5")]


def test_impropers_of_charmm(impropers, tmp_path):
    topology, x = chain([impropers], ["T", "T"], [])
    ff = ForceField(impropers)
    params = ff.params()
    np.testing.assert_array_equal(params["CHARMMHarmonicImpropers"]["k"], [2.0, 80.5])
    np.testing.assert_array_equal(params["CHARMMHarmonicImpropers"]["theta0"], [0.5, -2.5])
    np.testing.assert_array_equal(params["CHARMMPeriodicImpropers"]["phase"], [3.0])
    parts = check(ff, app.ForceField(str(impropers)).createSystem(topology), topology, x)
    assert parts["CHARMMHarmonicImpropers"] > 0 and parts["CHARMMPeriodicImpropers"] > 0
    params["CHARMMHarmonicImpropers"]["theta0"] = params["CHARMMHarmonicImpropers"]["theta0"].at[1].set(-2.25)
    params["CHARMMPeriodicImpropers"]["k"] = params["CHARMMPeriodicImpropers"]["k"] + 1.0
    changed = check(ff, ff.create_system(topology, params), topology, x, params)
    assert changed != parts
    [written] = ff.write(tmp_path / "out", params)
    assert written.read_bytes() == impropers.read_bytes().replace(b"-2.5)", b"-2.25)").replace(b"7.5)", b"8.5)")
    check(ForceField(written), app.ForceField(str(written)).createSystem(topology), topology, x)


@pytest.mark.slow
def test_pairs_of_lipids():
    file = DATA / "amber19/lipid21.xml"
    topology, x = chain([file], ["DLPE"], [])
    ff = ForceField(file)
    np.testing.assert_allclose(ff.params()["NonbondedForce"]["special_lj14scale"], [1 / 6])
    check(ff, app.ForceField(str(file)).createSystem(topology), topology, x)


@pytest.mark.slow
def test_pairs_of_sugars(tmp_path):
    files = [DATA / "amber14/protein.ff14SB.xml", DATA / "amber14/GLYCAM_06j-1.xml"]
    topology, x = chain(files, *SUGAR)
    ff = ForceField(*files)
    params = ff.params()
    check(ff, app.ForceField(*map(str, files)).createSystem(topology), topology, x)
    params["NonbondedForce"]["special_lj14scale"] = params["NonbondedForce"]["special_lj14scale"] * 0.5
    with pytest.raises(InputError, match=r"special_lj14scale has changed, but .* in the code of a script"):
        ff.write(tmp_path, params)


def test_files_of_different_versions(tmp_path):
    found = re.search(
        r"<InitializationScript>.*</InitializationScript>", (DATA / "charmm36/water.xml").read_text(), re.DOTALL
    )
    assert found
    for name in ("charmm36", "mine"):
        text = found[0].replace('"charmm36"', f'"{name}"')
        (tmp_path / f"{name}.xml").write_text(f"<ForceField>{text}</ForceField>")
    with pytest.raises(InputError, match=r"\(charmm36 and mine\) incompatible"):
        ForceField(tmp_path / "charmm36.xml", tmp_path / "mine.xml").create_potential(app.Topology())
