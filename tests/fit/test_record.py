"""What a fit leaves behind: numbers, errors, predictions and hashes that others can check."""

import json
import subprocess

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.fit.notes import notes_of, with_error
from diffff.fit.parity import FILE as PARITY
from diffff.fit.parity import read_parity
from diffff.fit.problem import predictions, residuals
from diffff.fit.provenance import provenance, sha256_of
from diffff.fit.record import read_record, write_record
from diffff.frontend.forcefield import ForceField
from tests.fit.small_fit import small_fit


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    done = small_fit(folder)
    file = folder / "water.xml"
    origin = provenance({"training": {"training_data": {"systems": [str(file)]}}}, [file])
    content = done.written(folder, origin, [{"system": "cold", "errors": {"rmse_force": 21.0}}])
    return folder, done, content


def test_what_is_written_is_read(small):
    folder, done, content = small
    assert read_record(folder) == content == json.loads((folder / "fit.json").read_text())
    assert content["objective"]["end"] == done.fit.end < content["objective"]["start"] == done.fit.start
    assert content["left_out"][0]["errors"] == {"rmse_force": 21.0}
    assert not list(folder.glob(".*"))


def test_each_number_has_its_place_and_its_error(small):
    folder, done, content = small
    by_label = {one["label"]: one for one in content["numbers"]}
    assert list(by_label) == list(done.fit.labels) == ["k(H–O–H)", "k(O–H)", "k(H–H)", "length(O–H)"]
    lines = (folder / "water.xml").read_text().splitlines()
    for k, one in enumerate(content["numbers"]):
        known = done.fit.known
        assert one["value"] == known.values[k] and one["start"] == done.fit.begun[k]
        assert (one["error"] is None) == np.isinf(known.errors[k])
        assert one["error"] is None or one["error"] == known.errors[k] > 0.0
        assert one["file"] == "water.xml" and f'{one["attribute"]}="' in lines[one["line"] - 1]
        array = done.fit.params[one["array"].split("/")[0]][one["array"].split("/")[1]]
        assert array[tuple(one["index"])] == one["value"]
    bond, angle = by_label["k(O–H)"], by_label["k(H–O–H)"]
    assert (bond["bounds"], bond["prior"], bond["unit"]) == ([0.0, None], None, "kJ/mol/nm^2")
    assert (angle["bounds"], angle["prior"]) == (None, {"mean": 620.0, "sigma": pytest.approx(200.0)})
    assert by_label["k(H–H)"]["error"] is None and by_label["k(H–H)"]["from_data"] == 0.0
    assert bond["scale"] == pytest.approx(0.1 * bond["start"])


def test_spectrum_and_combinations(small):
    content = small[2]
    assert content["spectrum"] == sorted(content["spectrum"]) and content["spectrum"][-1] == 1.0
    assert len(content["spectrum"]) == 4
    assert content["combinations"]["sloppy"][0]["words"] == "k(H–H)"
    words = {name: {one["words"] for one in some} for name, some in content["combinations"].items()}
    assert len(words["stiff"]) == len(words["sloppy"]) == 2 and not words["stiff"] & words["sloppy"]
    assert content["combinations"]["stiff"][0]["relative"] == 1.0


def test_errors_are_those_of_the_predictions(small):
    folder, done, content = small
    parities = read_parity(folder / PARITY)
    assert [(one.split, one.system, one.target) for one in parities] == [
        (split, name, target)
        for split, name in (("train", "cold"), ("train", "warm"), ("valid", "unseen"))
        for target in ("energy", "force")
    ]
    system = done.valid[0]
    end = predictions(system, done.fit.params, done.sigmas)
    force = parities[-1]
    np.testing.assert_array_equal(force.reference, system.forces)
    np.testing.assert_allclose(force.after, end["force"], rtol=1e-12)
    left = residuals(system, done.fit.params, done.sigmas)
    for one, entry in zip(parities[-2:], content["errors"][-2:], strict=True):
        rms = float(jnp.sqrt(jnp.mean(left[one.target] ** 2))) * one.sigma
        np.testing.assert_allclose([one.rmse()[1], entry["after"]], rms, rtol=1e-9)
        assert entry["before"] == one.rmse()[0] > entry["after"]
        assert (entry["unit"], entry["n_frames"], entry["n_values"]) == (one.unit, 20, one.reference.size)
    energy = parities[-2]
    for array in (energy.reference, energy.before, energy.after):
        assert abs(array.mean()) < 1e-10  # relative, as the fit compares them


def test_systems_of_one_name_stay_apart(small, tmp_path):
    _, done, _ = small
    twice = [done.train[0], done.train[0]]
    origin = {"fit": done.fit, "found": done.found, "free": done.free, "sigmas": done.sigmas, "provenance": {}}
    write_record(tmp_path, train=twice, valid=[], **origin)
    assert len(read_parity(tmp_path / PARITY)) == 4
    with h5py.File(tmp_path / "parity.h5") as file:
        assert list(file) == ["train"] and list(file["train"]) == ["0", "1"]


def test_notes_of_numbers_at_bounds_and_in_ties(small):
    _, done, _ = small
    some = done.fit.known._replace(standing=("at its bound", "held by a tie", "", "not determined"))
    notes = notes_of(some, done.found)
    assert notes["HarmonicAngleForce/k"][0] == f"{some.values[0]:.8g} (at its bound)"
    assert notes["HarmonicBondForce/k"][0] == f"{some.values[1]:.8g} (held by a tie)"
    assert notes["HarmonicBondForce/length"][0] == "not determined"


def test_notes_stand_behind_the_rows(small, tmp_path):
    _, done, content = small
    notes = notes_of(done.fit.known, done.found)
    assert notes["HarmonicBondForce/length"][1] is None
    (path,) = done.field.write(tmp_path, done.fit.params, notes)
    rows = [line for line in path.read_text().splitlines() if "diffff:" in line]
    k, length = (next(n for n in content["numbers"] if n["label"] == name) for name in ("k(O–H)", "length(O–H)"))
    words = [f"{name} {' +- '.join(with_error(n['value'], n['error']))}" for name, n in (("k", k), ("length", length))]
    assert all(f"{text} (from data 100%)" in rows[0] for text in words)
    assert "k not determined" in rows[-2] or "k not determined" in rows[1]
    again = ForceField(path).params()
    assert float(again["HarmonicBondForce"]["k"][0]) == k["value"]


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (1.0, 0.0996, ("1.00", "0.10")),
        (1.0, 9.96, ("1.0", "10")),
        (-0.6012345, 0.0123, ("-0.601", "0.012")),
        (123456.0, 98765.0, ("123456", "99000")),
        (0.0, 0.5, ("0.00", "0.50")),
        (1e-15, 1e-17, ("1e-15", "1e-17")),
        (2.0, 0.0, ("2", "0")),
        (2.0, 1e12, ("2", "1e+12")),
    ],
)
def test_a_number_is_given_to_the_digits_that_its_error_leaves(value, error, shown):
    assert with_error(value, error) == shown


def test_hashes_are_those_of_the_tools(tmp_path):
    (tmp_path / "set.000").mkdir()
    (tmp_path / "set.000" / "a.npy").write_bytes(b"1")
    (tmp_path / "set-1").write_bytes(b"2")
    (tmp_path / "B").write_bytes(b"3")
    command = "find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    told = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert sha256_of(tmp_path) == told.split()[0]
    one = subprocess.run(["sha256sum", "B"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert sha256_of(tmp_path / "B") == sha256_of(f"{tmp_path / 'B'}#/group") == one.split()[0]
    with pytest.raises(InputError, match="cannot be read"):
        sha256_of(tmp_path / "C")
    completed = {"training": {"training_data": {"systems": str(tmp_path / "B")}, "validation_data": None}}
    origin = provenance(completed, [])
    assert [one["path"] for one in origin["data"]] == [str(tmp_path / "B")]
    assert {"diffff", "jax", "openmm", "python"} <= set(origin["versions"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"fit\.json: no JSON .* Is the file damaged"),
        ("[]", r"no record of a fit; .format. should be"),
        ('{"format": "other"}', "no record of a fit"),
        ('{"format": "diffff fit", "version": 1, "objective": {}}', r'lacks "numbers", which a record of a fit has'),
        ('{"format": "diffff fit", "version": 99}', r"is of version 99, and this diffff reads version 1"),
    ],
)
def test_what_is_no_record(tmp_path, content, message):
    (tmp_path / "fit.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_record(tmp_path)


def test_files_that_are_missing(tmp_path):
    with pytest.raises(InputError, match=r"fit\.json: cannot be read"):
        read_record(tmp_path)
    with pytest.raises(InputError, match=r"parity\.h5: cannot be read"):
        read_parity(tmp_path / PARITY)
    (tmp_path / "parity.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"parity\.h5: cannot be read"):
        read_parity(tmp_path / PARITY)
