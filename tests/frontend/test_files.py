"""Where the files of a force field are written, so that OpenMM reads all of them again, and what changes in them."""

import os
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import openmm as mm
import openmm.app as app
import pytest
from openmm import unit

from diffff.errors import InputError
from diffff.frontend import trace_cache
from diffff.frontend.arguments import box_of
from diffff.frontend.forcefield import ForceField
from tests.frontend.test_forcefield import write_toy

DATA = Path(app.__file__).parent / "data"
PARTS = """<ForceField>
 <HarmonicBondForce><Bond class1="A" class2="{}" length="0.1" k="{}"/></HarmonicBondForce>{}
</ForceField>"""
NM = unit.nanometer  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def parts(tmp_path) -> Path:
    """A file that includes one of a folder, which includes one of a folder in that."""
    (tmp_path / "old/sub/deep").mkdir(parents=True)
    types = '<AtomTypes><Type name="a" class="A" mass="1"/><Type name="b" class="B" mass="1"/></AtomTypes>'
    (tmp_path / "old/top.xml").write_text(PARTS.format("A", 1, types + '<Include file="sub/one.xml"/>'))
    (tmp_path / "old/sub/one.xml").write_text(PARTS.format("B", 2, '<Include  file="deep/two.xml" />'))
    (tmp_path / "old/sub/deep/two.xml").write_text(PARTS.format("", 3, ""))
    return tmp_path / "old/top.xml"


def constants(file: Path) -> list[float]:
    """What OpenMM reads as force constants of bonds."""
    (bonds,) = [
        force for force in app.ForceField(str(file))._forces if isinstance(force, app.forcefield.HarmonicBondGenerator)
    ]
    return [float(k) for k in bonds.k]


def test_included_files_stand_where_openmm_finds_them(parts, tmp_path):
    ff = ForceField(parts)
    params = ff.params()
    params["HarmonicBondForce"]["k"] = jnp.array([10.0, 20.0, 30.0])
    written = ff.write(tmp_path / "new", params)
    assert written == [tmp_path / "new" / name for name in ("top.xml", "sub/one.xml", "sub/deep/two.xml")]
    for old, new in zip(ff.documents, written, strict=True):
        assert new.read_text() == re.sub(r'k="(\d)"', r'k="\g<1>0.0"', old.data.decode())
    assert constants(written[0]) == [10.0, 20.0, 30.0]
    np.testing.assert_array_equal(ForceField(written[0]).params()["HarmonicBondForce"]["k"], [10.0, 20.0, 30.0])


def test_a_file_of_openmm_that_includes_others(tmp_path):
    ff = ForceField("amber14-all.xml")
    params = ff.params()
    params["HarmonicBondForce"]["k"] = params["HarmonicBondForce"]["k"] * 2.0
    top, *others = ff.write(tmp_path, params)
    assert top.read_bytes() == (DATA / "amber14-all.xml").read_bytes()
    assert [str(path.relative_to(tmp_path / "amber14")) for path in others] == [
        "protein.ff14SB.xml",
        "DNA.OL15.xml",
        "RNA.OL3.xml",
        "lipid17.xml",
    ]
    assert constants(top) == [2.0 * k for k in constants(DATA / "amber14-all.xml")]


def test_files_may_be_written_over_if_they_are_the_users_own(parts):
    ff = ForceField(parts)
    params = ff.params()
    params["HarmonicBondForce"]["k"] = params["HarmonicBondForce"]["k"] + 0.5
    assert ff.write(parts.parent, params)[0] == parts
    assert constants(parts) == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("folder", [DATA, DATA / "amber14", DATA / "new/one"], ids=lambda path: path.name)
def test_files_of_openmm_stay_as_they_are(folder):
    ff = ForceField("amber14/tip3p.xml")
    with pytest.raises(InputError, match="is a folder of an installed package, which stays as it is"):
        ff.write(folder, ff.params())


def test_what_is_no_folder(parts):
    ff = ForceField(parts)
    with pytest.raises(InputError, match="None is no path of a folder"):
        ff.write(None, ff.params())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("absolute", [True, False])
def test_inclusions_that_lead_elsewhere(parts, tmp_path, absolute):
    name = str(parts) if absolute else "../old/top.xml"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.xml").write_text(f'<ForceField><Include file="{name}"/></ForceField>')
    ff = ForceField(tmp_path / "mine/a.xml")
    with pytest.raises(InputError, match=f'a.xml: <Include file="{name}"/> leads out of the folder of this file'):
        ff.write(tmp_path / "new", ff.params())
    assert not (tmp_path / "new").exists()


def test_a_circle_of_inclusions(tmp_path):
    (tmp_path / "a.xml").write_text('<ForceField><Include file="a.xml"/></ForceField>')
    with pytest.raises(InputError, match=r"a\.xml is included in a circle"):
        ForceField(tmp_path / "a.xml").write(tmp_path / "new", {})


def test_two_files_of_one_name(tmp_path):
    ff = ForceField("amber14/tip3p.xml", "implicit/obc2.xml", "amber99_obc.xml")
    assert len(ff.documents) == 3
    (tmp_path / "tip3p.xml").write_text("<ForceField/>")
    ff = ForceField("amber14/tip3p.xml", tmp_path / "tip3p.xml")
    with pytest.raises(
        InputError, match=r"would both be written to tip3p.xml. Copy one to another name, and read that"
    ):
        ff.write(tmp_path / "new", ff.params())


def test_scales_that_differ_a_little_keep_their_spelling(tmp_path):
    for name, scale in (("a", "0.833333"), ("b", "0.8333333333")):
        (tmp_path / f"{name}.xml").write_text(
            f'<ForceField><NonbondedForce coulomb14scale="{scale}" lj14scale="0.5"/></ForceField>'
        )
    ff = ForceField(tmp_path / "a.xml", tmp_path / "b.xml")
    params = ff.params()
    for written, document in zip(ff.write(tmp_path / "new", params), ff.documents, strict=True):
        assert written.read_bytes() == document.data
    params["NonbondedForce"]["coulomb14scale"] = jnp.asarray(0.75)
    assert all(
        'coulomb14scale="0.75" lj14scale="0.5"' in path.read_text() for path in ff.write(tmp_path / "new", params)
    )


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_keeps_the_spelling_of_what_has_not_changed(tmp_path, kind):
    path, *_ = write_toy(tmp_path, "default")
    ff = ForceField(path)
    params = {name: {key: jnp.asarray(x, kind) for key, x in group.items()} for name, group in ff.params().items()}
    [written] = ff.write(tmp_path / "new", params)
    assert written.read_bytes() == path.read_bytes()
    params["HarmonicBondForce"]["length"] = params["HarmonicBondForce"]["length"].at[0].set(0.25)
    [written] = ff.write(tmp_path / "new", params)
    assert written.read_text() == path.read_text().replace('length="0.14"', 'length="0.25"')


def test_rows_and_what_is_left_out(tmp_path):
    path, *_ = write_toy(tmp_path, "default")
    path.write_text(path.read_text().replace('class1="A" class2="C" length', 'class1="Zn" class2="C" length'))
    ff = ForceField(path)
    assert [place.element.tag for place in ff.rows["NonbondedForce"]] == ["Atom"] * 3
    assert "sigma" in ff.rows["NonbondedForce"][0].element.attributes
    [place] = ff.unused_rows
    assert (str(place), place.old) == (f"{path}, line 14: <Bond>: class1", "Zn")
    assert len(ForceField("amber99sb.xml").unused_rows) > 100


def test_a_system_by_our_names_of_the_options(tmp_path):
    path, topology, _ = write_toy(tmp_path, "default")
    topology.setPeriodicBoxVectors([mm.Vec3(3, 0, 0) * NM, mm.Vec3(0, 3, 0) * NM, mm.Vec3(0, 0, 3) * NM])
    np.testing.assert_array_equal(box_of(topology), 3.0 * np.eye(3))
    ff = ForceField(path)
    ours = ff.create_system(
        topology, ff.params(), nonbonded_method="PME", nonbonded_cutoff=0.9, constraints="HBonds", rigid_water=False
    )
    options = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.9 * NM, "constraints": app.HBonds, "rigidWater": False}
    theirs = app.ForceField(str(path)).createSystem(topology, **options)
    assert mm.XmlSerializer.serialize(ours) == mm.XmlSerializer.serialize(theirs)


def test_damaged_traces_are_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arrays = {"a": np.arange(300.0), "b": np.array(["x", "y"])}
    assert trace_cache.load("t") is None
    trace_cache.save("t", arrays)
    found = trace_cache.load("t", ("a", "b"))
    assert found is not None and found["b"].tolist() == ["x", "y"]
    assert trace_cache.load("t", ("a", "b", "c")) is None
    [file] = tmp_path.glob("diffff/*.npz")
    data = file.read_bytes()
    for place in range(0, len(data), 5):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        loaded = trace_cache.load("t", arrays)
        assert loaded is None or all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    file.write_bytes(os.urandom(500))
    assert trace_cache.load("t") is None
    old = trace_cache.key(["x"])
    monkeypatch.setattr(trace_cache, "FORMAT", trace_cache.FORMAT + 1)
    assert trace_cache.key(["x"]) != old


def test_what_openmm_ignores_may_be_skipped(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        '<ForceField author="me"><Remarks/><AtomTypes>loose<Type name="a" class="A" element="C" mass="12" color="red"/>'
        '</AtomTypes><HarmonicBondForce><Bond class1="A" class2="A" length="0.1" k="2"/></HarmonicBondForce>'
        "</ForceField>"
    )
    with pytest.raises(InputError) as refusal:
        ForceField(path)
    assert all(word in str(refusal.value) for word in ("author", "Remarks", "loose", "color"))
    ff = ForceField(path, missing="skip")
    assert ff.params()["HarmonicBondForce"]["k"].tolist() == [2.0]
    [written] = ff.write(tmp_path / "out", ff.params())
    assert written.read_bytes() == path.read_bytes()
    path.write_text("<ForceField><AmoebaVdwForce/></ForceField>")
    with pytest.raises(InputError, match="does not have this force yet"):
        ForceField(path, missing="skip")
