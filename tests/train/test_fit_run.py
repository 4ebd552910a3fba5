"""`dff train` for force fields: recovery of known numbers, restart, what it writes, and what it refuses."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import openmm as mm
import openmm.app as app
import pytest

from diffff.errors import InputError
from diffff.fit.provenance import sha256_of
from diffff.fit.record import pooled, read_record
from diffff.frontend.forcefield import ForceField
from diffff.train import fit_run
from diffff.train.fit_checkpoint import FitCheckpoint
from diffff.train.fit_config import json_schema, read_fit_input
from diffff.train.fit_run import fit
from diffff.train.fit_setup import prepare_fit
from diffff.train.lcurve import read_lcurve
from diffff.train.start import start
from tests.md.systems import MODEL, SPRING
from tests.train.made_fit import RULES, XML, fit_input, perturbed, write_data, write_input, write_molecule

WATER_PDB = """\
HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00  0.00           O
HETATM    2  H1  HOH A   1       0.970   0.000   0.000  1.00  0.00           H
HETATM    3  H2  HOH A   1      -0.240   0.940   0.000  1.00  0.00           H
END
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_molecule(tmp_path)


def numbers(record):
    return {one["label"]: one for one in record["numbers"]}


@pytest.mark.slow
def test_a_known_force_field_is_found_again(folder, caplog):
    """From a start that is off by 20 %, without noise: the numbers themselves; the XML is OpenMM's and says so."""
    write_data(folder / "train", 12, seed=1)
    write_data(folder / "valid", 6, seed=2)
    (folder / "mol.xml").write_text(perturbed(0.2, seed=3))
    training = {"validation_data": {"systems": ["valid"]}}
    with caplog.at_level("INFO"):
        (file,) = fit(write_input(folder, fit_input(training=training)), output=folder / "out.json")
    truth, found = ForceField(str(_written(folder, XML))), ForceField(str(file))
    for group in ("HarmonicBondForce", "HarmonicAngleForce"):
        for column, values in truth.params()[group].items():
            np.testing.assert_allclose(found.params()[group][column], values, rtol=1e-6)
    assert "<!-- diffff:" in file.read_text()
    curve = read_lcurve("lcurve.out")
    assert curve["rmse_force_val"][-1] < 1e-4 * curve["rmse_force_val"][0]
    assert "lr" not in curve
    record = read_record(folder)
    assert record["objective"]["converged"]
    np.testing.assert_allclose(record["curve"]["rmse_force_val"][0], _pooled(record, "valid", "force"), rtol=1e-7)
    told = caplog.text
    assert f"minimum after {record['objective']['steps']} steps" in told and "`dff report .`" in told
    assert re.search(
        r"step 0: trn: rmse = \S+ sigma, rmse_energy = \S+ kJ/mol, rmse_force = \S+ kJ/mol/nm, val: ", told
    )
    assert re.search(r"objective \S+ -> \S+; the residuals scatter by \S+ times their sigmas", told)
    for title, split in (("training", "train"), ("validation", "valid")):
        before = f"{_pooled(record, split, 'force'):.4g}"
        assert re.search(rf"{title}, force +kJ/mol/nm +{re.escape(before)} +\S+", told)
    assert {one["split"] for one in record["errors"]} == {"train", "valid"}
    np.testing.assert_allclose(_energy(file), _energy(_written(folder, XML)), rtol=0, atol=1e-6)


def _pooled(record, split, target):
    """The error before the fit."""
    return pooled([one for one in record["errors"] if (one["split"], one["target"]) == (split, target)])[0]


def as_xyz(system, path):
    """The frames of a system as extended XYZ."""
    energy, x, f = (np.load(system / f"set.000/{name}.npy") for name in ("energy", "coord", "force"))
    lines = []
    for e, positions, forces in zip(energy, x.reshape(-1, 4, 3), f.reshape(-1, 4, 3), strict=True):
        lines += ["4", f'Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy={e} pbc="F F F"']
        for symbol, row in zip("COHH", np.concatenate([positions, forces], axis=1), strict=True):
            lines.append(" ".join([symbol, *map(str, row)]))
    path.write_text("\n".join(lines) + "\n")


def _written(folder, xml):
    path = folder / "truth.xml"
    path.write_text(xml)
    return path


def _energy(file):
    pdb = app.PDBFile("mol.pdb")
    context = mm.Context(
        app.ForceField(str(file)).createSystem(pdb.topology),
        mm.VerletIntegrator(0.001),
        mm.Platform.getPlatformByName("Reference"),
    )
    context.setPositions(pdb.positions)
    return context.getState(getEnergy=True).getPotentialEnergy()._value


@pytest.mark.sampling
@pytest.mark.slow
def test_error_bars_are_those_of_repeated_noise(folder):
    """Deviations over reported errors of repeated data have the variance 1, and none is beyond four."""
    deviations = []
    truth = {"length": [0.1229, 0.11], "k": [476976.0, 284512.0]}
    for seed in range(6):
        write_data(folder / f"train{seed}", 10, seed=10 + seed, noise=30.0)
        training = {"training_data": {"systems": [f"train{seed}"]}}
        given = fit_input(training=training, loss={"energy": 0.3, "force": 30.0})
        fit(write_input(folder, given), output=folder / "out.json")
        for column, values in truth.items():
            rows = [one for one in read_record(folder)["numbers"] if one["array"] == f"HarmonicBondForce/{column}"]
            deviations += [(row["value"] - value) / row["error"] for row, value in zip(rows, values, strict=True)]
    assert 0.5 < np.mean(np.square(deviations)) < 1.8
    assert np.max(np.abs(deviations)) < 4.0


@pytest.mark.slow
def test_numbers_that_only_their_sum_is_known_of_are_named(folder):
    """Two terms of one bond: the data know what they make together, not each."""
    twice = XML.replace(
        "<HarmonicAngleForce>",
        '<CustomBondForce energy="0.5*k2*(r-r2)^2"><PerBondParameter name="k2"/><PerBondParameter name="r2"/>'
        '<Bond class1="c" class2="o" k2="200000" r2="0.1229"/></CustomBondForce>\n <HarmonicAngleForce>',
    )
    write_data(folder / "train", 12, seed=1)
    (folder / "mol.xml").write_text(twice)
    rules = [
        {"select": "HarmonicBondForce/*"},
        {"select": "CustomBondForce/k2"},
        {"select": "*", "treatment": {"train": False}},
    ]
    fit(write_input(folder, fit_input(parameters={"rules": rules})), output=folder / "out.json")
    record = read_record(folder)
    found = numbers(record)
    assert found["k2(c–o)"]["error"] is None
    assert found["k(c–o)"]["error"] is None
    assert found["k(c–h)"]["error"] is not None
    assert record["combinations"]["sloppy"][0]["words"] in ("k(c–o) against k2(c–o)", "k2(c–o) against k(c–o)")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["LBFGSB", "Adam", "LeastSquares"])
def test_every_optimizer_goes_down_and_goes_on(folder, optimizer):
    """A run in two parts; that of Adam ends at the bits of the whole."""
    write_data(folder / "train", 8, seed=1)
    (folder / "mol.xml").write_text(perturbed(0.1, seed=3))
    changes = {} if optimizer == "LeastSquares" else {"optimizer": {"type": optimizer}}
    if optimizer == "Adam":
        changes["learning_rate"] = {"type": "cosine", "start_lr": 0.3, "stop_lr": 0.01}
    last = 6 if optimizer == "LeastSquares" else 40
    whole = write_input(folder, fit_input(training={"numb_steps": last}, **changes))
    fit(whole, output=folder / "out.json")
    curve, numbers = read_lcurve("lcurve.out"), [one["value"] for one in read_record(folder)["numbers"]]
    assert curve["rmse_trn"][-1] < 0.2 * curve["rmse_trn"][0]
    lines = (folder / "lcurve.out").read_text().splitlines()
    if optimizer == "Adam":
        given = json.loads(whole.read_text())
        _stopped_at(folder, given, last // 2)
        fit(whole, restart=folder / "fit.ckpt.h5", output=folder / "out.json")
        assert [one["value"] for one in read_record(folder)["numbers"]] == numbers
        assert (folder / "lcurve.out").read_text().splitlines() == lines
        with pytest.raises(InputError, match="Raise numb_steps"):
            fit(whole, restart=folder / "fit.ckpt.h5", output=folder / "out.json")


def _stopped_at(folder, given, step):
    """A run that was told to stop after some steps."""
    noted = fit_run._Steps._show

    def show(self, done, v):
        noted(self, done, v)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    fit_run._Steps._show = show
    try:
        with pytest.raises(SystemExit) as end:
            fit(write_input(folder, given), output=folder / "out.json")
    finally:
        fit_run._Steps._show = noted
    assert end.value.code == 128 + signal.SIGTERM


@pytest.mark.slow
def test_some_frames_are_left_for_validation_and_each_system_in_turn(folder, caplog):
    (folder / "data").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        write_molecule(folder / "data")
        write_data(folder / "data" / name, 10, seed=seed)
    training = {"training_data": {"systems": ["data"]}, "validation_fraction": 0.3, "leave_one_out": True}
    with caplog.at_level("INFO"):
        fit(write_input(folder, fit_input(training=training)), output=folder / "out.json")
    assert re.search(
        r"without data/a: its rmse = \S+ sigma \(\S+ in the fit to all\), rmse_energy = \S+ kJ", caplog.text
    )
    record = read_record(folder)
    frames = {(one["split"], one["system"]): one["n_frames"] for one in record["errors"] if one["target"] == "force"}
    assert sorted(frames.values()) == [3, 3, 7, 7]
    assert [one["system"] for one in record["left_out"]] == ["data/a", "data/b"]
    assert all(one["errors"]["rmse_force"] < 1e-2 for one in record["left_out"])


PRIOR_BEYOND = {"bounds": [0, 5], "prior": {"sigma": 1, "mean": -3}}
TWO = {"systems": ["train", "other"]}


def broken(folder, name):
    """Inputs that make no sense, by what is wrong with them."""
    rule = {"select": "Harmonic*Force/*"}
    rest = RULES[-1]
    changes = {
        "rule without effect": {"parameters": {"rules": [{"select": "Harmonc*"}, *RULES]}},
        "network": {"parameters": {"rules": [{"select": "DeepPot/*"}, *RULES]}},
        "uncovered": {"parameters": {"rules": RULES[:1]}},
        "nothing moves": {"parameters": {"rules": RULES[1:]}},
        "bounds": {"parameters": {"rules": [rule | {"treatment": {"bounds": [2, 1]}}, rest]}},
        "start beyond bounds": {"parameters": {"rules": [rule | {"treatment": {"bounds": [None, 1000]}}, rest]}},
        "lr": {"parameters": {"rules": [rule | {"treatment": {"lr": 0.1}}, rest]}},
        "prior weight": {"parameters": {"prior_weight": 1.0}},
        "tie": {"parameters": {"ties": [{"type": "sum", "select": "NonbondedForce/charge"}]}},
        "tie of units": {"parameters": {"ties": [{"type": "equal", "select": "HarmonicBondForce/*"}]}},
        "tie type": {"parameters": {"ties": [{"type": "summ", "select": "*"}]}},
        "no loss": {"loss": {"energy": None, "force": None}},
        "no label": {"loss": {"dipole": 0.01}},
        "no rate": {"optimizer": {"type": "Adam"}},
        "rate": {"learning_rate": {"start_lr": 1e-3}},
        "no data": {"training": {"training_data": {"systems": ["trian"]}}},
        "no topology": {"model": {"topology": "mol.cif"}},
        "no topologies": {"model": {"topology": {}}},
        "xml for a topology": {"model": {"topology": "mol.xml"}},
        "one type": {"parameters": {"rules": [{"select": "*Angle*/k", "where": {"atoms": "c"}}, *RULES]}},
        "topology pattern": {"model": {"topology": {"water*": "mol.pdb"}}},
        "no file": {"model": {"files": ["moll.xml"]}},
        "batch size": {"training": {"training_data": {"systems": ["train"], "batch_size": 4}}},
        "units": {"training": {"training_data": {"systems": ["wrong"]}}},
        "one system": {"training": {"leave_one_out": True}},
        "fraction": {"training": {"validation_fraction": 0.01}},
        "cutoff": {"model": {"nonbonded_method": "PME"}},
        "unknown key": {"model": {"topologie": "mol.pdb"}},
        "in place": {"training": {"xml_dir": "."}},
        "over the data": {"training": {"disp_file": "train/set.000/energy.npy"}},
        "over a file of data": {"training": {"save_ckpt": "data.xyz", "training_data": {"systems": ["data.xyz"]}}},
        "one name": {"training": {"save_ckpt": "lcurve.out"}},
        "a file for a directory": {"training": {"record_dir": "mol.pdb/record"}},
        "a directory for a file": {"training": {"disp_file": "."}},
        "weights": {"loss": {"energy": None, "weights": {"type": "boltzmann", "temperature": 300}}},
        "prior mean": {"parameters": {"rules": [rule | {"treatment": PRIOR_BEYOND}, rest]}},
        "where": {"parameters": {"rules": [{"select": "*/k", "where": {"klass": "c"}}, *RULES]}},
        "left out": {"loss": {"dipole": 0.01}, "training": {"training_data": TWO, "leave_one_out": True}},
        "twice": {"training": {"training_data": {"systems": ["train", "./linked"]}}},
        "below": {"training": {"training_data": {"systems": ["data", "data/train"]}, "leave_one_out": True}},
        "compared with itself": {"training": {"validation_data": {"systems": ["./linked"]}}},
        "seed": {"training": {"validation_fraction": 0.5, "seed": -1}},
        "seed of nothing": {"training": {"seed": 3}},
        "scale": {"parameters": {"rules": [rule | {"treatment": {"scale": 1e-300}}, rest]}},
        "sigma": {"loss": {"force": 1e300}},
        "gradients": {"training": {"training_data": {"systems": ["gradients"]}}},
        "two models": {"model": {"type": "sum", "files": None, "topology": None, "models": []}},
    }
    return fit_input(**changes[name])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rule without effect", 'parameters.rules[0]: "Harmonc*" selects nothing. The arrays are HarmonicAngle'),
        ("network", '"DeepPot/*" is for the weights of a network, but the model has none to train'),
        ("uncovered", "no rule is for NonbondedForce/"),
        ("nothing moves", "all numbers are kept as they are"),
        ("bounds", "$.parameters.rules[0].treatment: bounds are [2.0, 1.0]; the first must be the smaller one"),
        ("start beyond bounds", "k(c–o) is 476976, not within its bounds"),
        ("lr", 'the optimizer LeastSquares has no learning rate; remove "lr" from the rules'),
        ("prior weight", "parameters.prior_weight is for sums with a network"),
        (
            "tie",
            "holds 0 numbers that move; a tie is between two or more. The arrays that move are Harm",
        ),
        ("no topologies", "$.model.topology: needs at least 1 entries, has 0"),
        ("xml for a topology", "mol.xml: is XML, but residues and bonds are read from a PDB or mmCIF file"),
        ("one type", '"atoms" names 1 type, the rows of HarmonicAngleForce/k have 3.'),
        (
            "tie of units",
            'parameters.ties[0]: "HarmonicBondForce/*" holds numbers of different units: HarmonicBondForce/k in '
            "kJ/mol/nm^2, HarmonicBondForce/length in nm",
        ),
        ("tie type", 'unknown type "summ"; did you mean "sum"?'),
        ("no loss", "names no target"),
        ("no label", "dipole: it has a sigma, but no system has dipole.npy"),
        ("no rate", "the optimizer Adam needs the section learning_rate"),
        ("rate", "the optimizer LeastSquares has no learning rate"),
        ("no data", '$.training.training_data.systems[0]: no file or directory "trian"'),
        ("no topology", 'topology: there is no file "mol.cif" for the system train'),
        ("topology pattern", "topology: no pattern fits the system train; there are water*"),
        ("no file", "moll.xml"),
        ("batch size", "each step of a fit sees all frames; remove the key"),
        ("units", "times those of the force field at the start"),
        ("one system", "training.leave_one_out needs two systems or more"),
        ("fraction", "leaves nothing to fit to or nothing to compare with"),
        ("cutoff", "nonbonded_method PME needs a periodic box"),
        ("unknown key", 'unknown key; did you mean "topology"?'),
        ("in place", "mol.xml: is read by the run, and would be overwritten by its outputs"),
        ("over the data", "train/set.000/energy.npy: is read by the run, and would be overwritten"),
        ("over a file of data", "data.xyz: is read by the run, and would be overwritten"),
        ("one name", "lcurve.out: training.disp_file and training.save_ckpt are one file"),
        ("a file for a directory", "mol.pdb is no directory). Choose another place by training.record_dir"),
        ("a directory for a file", ".: cannot be written (Is a directory). Choose another place by training.disp"),
        ("weights", '"weights" are those of energies, which have no sigma'),
        ("prior mean", "the mean of the prior, -3, is not within the bounds"),
        (
            "where",
            "The rows of HarmonicAngleForce/k, HarmonicBondForce/k have class1, class2, class3, angle, k, length;",
        ),
        ("left out", "training.leave_one_out: without train no system has dipole.npy"),
        ("twice", "training.training_data: linked is found twice, there as train. It would count twice"),
        ("below", "training.training_data: data/train is found twice. It would count twice"),
        ("compared with itself", "training.validation_data: linked is in training_data too, there as train"),
        ("seed", "$.training.seed: must be at least 0, not -1"),
        ("seed of nothing", "seed is that of the draw of validation_fraction, without which it means nothing"),
        ("scale", "$.parameters.rules[0].treatment.scale: must be at least 1e-12, not 1e-300"),
        ("sigma", "$.loss.force: must be at most 1e+12, not 1e+300"),
        ("gradients", "gradients: the forces of the labels point against those of the force field"),
        ("two models", "$.model.models"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, name, sentence):
    write_data(folder / "train", 6, seed=1)
    write_data(folder / "wrong", 6, seed=1, scale=96.485)
    write_data(folder / "other", 6, seed=2)
    write_data(folder / "gradients", 6, seed=1, scale=-1.0)
    (folder / "linked").symlink_to(folder / "train")
    (folder / "data").mkdir()
    shutil.copytree(folder / "train", folder / "data/train")
    if name == "left out":
        np.save(folder / "train/set.000/dipole.npy", np.full((6, 3), -0.2))
    as_xyz(folder / "train", folder / "data.xyz")
    path = write_input(folder, broken(folder, name))
    with pytest.raises(InputError) as error:
        start(path, output=folder / "out.json")
    assert sentence in re.sub(r"\s+", " ", str(error.value))
    assert not (folder / "fitted").exists()


@pytest.mark.parametrize(
    ("training", "options", "sentence"),
    [
        ({}, {"restart": Path("no.h5")}, "no.h5: there is no such checkpoint"),
        ({"disp_file": "mol.pdb"}, {}, "mol.pdb: is read by the run, and would be overwritten"),
        ({"xml_dir": "/proc/x"}, {}, "/proc/x/mol.xml: cannot be written ("),
        ({"record_dir": "/proc/x"}, {}, "/proc/x/fit.json: cannot be written ("),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_data_are_read(folder, training, options, sentence):
    write_data(folder / "train", 2, seed=1)
    (folder / "train/set.000/energy.npy").write_text("no numbers")
    with pytest.raises(InputError) as error:
        start(write_input(folder, fit_input(training=training)), output=folder / "out.json", **options)
    assert sentence in str(error.value)
    assert not {"fitted", "out.json", "lcurve.out"} & {file.name for file in folder.iterdir()}


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_or_begins_with_its_numbers(folder, caplog):
    """With another input it says so; with other scales, bounds and rules the numbers are the same."""
    write_data(folder / "train", 6, seed=1)
    (folder / "mol.xml").write_text(perturbed(0.2, seed=3))
    rate = {"start_lr": 0.3, "stop_lr": 0.01}
    adam = {"optimizer": {"type": "Adam"}, "learning_rate": rate}
    path = write_input(folder, fit_input(training={"numb_steps": 3}, **adam))
    with caplog.at_level("INFO"):
        fit(path, output=folder / "out.json")
    assert (
        "3 steps of descent, to the end of its learning rate" in caplog.text and "raise numb_steps" not in caplog.text
    )
    assert read_record(folder)["objective"]["converged"] is None
    assert "determined best by the data: " in caplog.text and "determined least by the data: " in caplog.text
    assert "training data" in caplog.text and "validation data" not in caplog.text
    assert FitCheckpoint.read(folder / "fit.ckpt.h5").start.state
    changed = write_input(folder, fit_input(training={"numb_steps": 4}, loss={"force": 20.0}, **adam))
    fit(changed, restart=folder / "fit.ckpt.h5", output=folder / "out.json")
    assert "not the input of the checkpoint, so the run continues as another: loss.force was 10.0" in caplog.text
    assert read_lcurve("lcurve.out")["step"].tolist() == [0, 1, 2, 3, 4]
    before = {one["label"]: one["value"] for one in read_record(folder)["numbers"]}
    rules = [{"select": "HarmonicBondForce/*", "treatment": {"scale": 3.0}}, RULES[-1]]
    other = write_input(folder, fit_input(parameters={"rules": rules}, training={"numb_steps": 1}))
    (folder / "fit.ckpt.h5").rename(folder / "old.h5")
    problem = prepare_fit(read_fit_input(other), other)
    v = fit_run._start(problem, FitCheckpoint.read(folder / "old.h5"), folder / "old.h5", False).free
    for label, value in zip(problem.labels, np.asarray(problem.free.numbers(v)), strict=True):
        np.testing.assert_allclose(value, before[label.partition(": ")[2]], rtol=1e-12)


@pytest.mark.slow
def test_the_record_is_that_of_this_fit(folder):
    """That of an earlier one goes when a fit begins; the hashes are those of the files that were read."""
    write_data(folder / "train", 6, seed=1)
    write_data(folder / "other", 6, seed=2)
    (folder / "mol.xml").write_text(perturbed(0.2, seed=3))
    for name in ("fit.json", "parity.h5"):
        (folder / name).write_text("of an earlier fit")
    training = {"numb_steps": 2, "training_data": TWO, "leave_one_out": True}
    path = write_input(folder, fit_input(training=training))
    left_out, seen = fit_run._left_out, {}

    def stopped(problem, done, interruption):
        seen.update(read_record(folder))
        (folder / "mol.xml").write_text("something else")
        os.kill(os.getpid(), signal.SIGTERM)
        return left_out(problem, done, interruption)

    fit_run._left_out = stopped
    hashes = {name: sha256_of(folder / name) for name in ("mol.xml", "train")}
    try:
        with pytest.raises(SystemExit) as end:
            fit(path, output=folder / "out.json")
    finally:
        fit_run._left_out = left_out
    assert end.value.code == 128 + signal.SIGTERM
    record = read_record(folder)
    assert record == seen and record["left_out"] == []
    told = {one["path"]: one["sha256"] for kind in ("files", "data") for one in record["provenance"][kind]}
    assert told["train"] == hashes["train"] and told["mol.xml"] == hashes["mol.xml"]
    assert record["curve"]["step"] == [0, 1, 2]
    (folder / "mol.xml").write_text(perturbed(0.2, seed=3))
    _stopped_at(folder, fit_input(training=training), 1)
    assert not (folder / "fit.json").exists() and not (folder / "parity.h5").exists()


@pytest.mark.slow
def test_a_network_in_a_sum_stays_as_it_is_and_is_hashed(tmp_path, monkeypatch):
    """Rules are about the force field; its file is in the provenance."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "water.xml").write_text(SPRING.replace('"5000"', '"450000"'))
    (tmp_path / "water.pdb").write_text(WATER_PDB)
    shutil.copy(MODEL, tmp_path / "water.dp")
    (tmp_path / "data/set.000").mkdir(parents=True)
    for name, text in (("type.raw", "0 1 1"), ("type_map.raw", "O H"), ("nopbc", "")):
        (tmp_path / "data" / name).write_text(text)
    x = np.array([[0, 0, 0, 0.97, 0, 0, -0.24, 0.94, 0]]) + np.random.default_rng(1).normal(scale=0.02, size=(4, 9))
    for name, values in (("coord", x), ("energy", np.zeros(4)), ("force", np.zeros((4, 9)))):
        np.save(tmp_path / f"data/set.000/{name}.npy", values)
    given = fit_input(parameters={"rules": [{"select": "*"}]}, training={"numb_steps": 1})
    xml = {"type": "xml", "files": ["water.xml"], "topology": "water.pdb", "rigid_water": False}
    given["model"] = {"type": "sum", "models": [xml, {"type": "deep", "file": "water.dp"}]}
    given["training"]["training_data"] = {"systems": ["data"], "check_units": False}
    fit(write_input(tmp_path, given), output=tmp_path / "out.json")
    record = read_record(tmp_path)
    assert {one["array"] for one in record["numbers"]} == {"HarmonicBondForce/k", "HarmonicBondForce/length"}
    assert "water.dp" in {one["path"] for one in record["provenance"]["files"]}
    given["parameters"]["rules"].insert(0, {"select": "DeepPot/*"})
    with pytest.raises(InputError, match='"DeepPot/\\*" is for the weights of a network'):
        fit(write_input(tmp_path, given), output=tmp_path / "out.json")


@pytest.mark.slow
def test_checkpoints_of_other_fits_are_refused(folder):
    write_data(folder / "train", 6, seed=1)
    path = write_input(folder, fit_input(training={"numb_steps": 2}))
    fit(path, output=folder / "out.json")
    rules = [{"select": "HarmonicBondForce/*"}, RULES[-1]]
    other = write_input(folder, fit_input(parameters={"rules": rules}))
    with pytest.raises(InputError, match="is of a fit of other numbers"):
        fit(other, restart=folder / "fit.ckpt.h5", output=folder / "out.json")
    path = write_input(folder, fit_input())
    (folder / "mol.xml").write_text(perturbed(0.1, seed=1))
    with pytest.raises(InputError, match="the numbers there are not those"):
        fit(path, restart=folder / "fit.ckpt.h5", output=folder / "out.json")
    for file, sentence in (("mol.xml", "no checkpoint of a fit"), ("nowhere.h5", "there is no such checkpoint")):
        with pytest.raises(InputError, match=sentence):
            fit(path, restart=folder / file, output=folder / "out.json")
    for options in ({"finetune": folder / "x"}, {"skip_neighbor_stat": True}):
        with pytest.raises(InputError, match="is for networks, but the model"):
            start(path, **options)


def test_every_key_is_on_its_page():
    page = (Path(__file__).parents[2] / "docs/fit.md").read_text(encoding="utf-8")
    page += (Path(__file__).parents[2] / "docs/md.md").read_text(encoding="utf-8")  # options of force fields
    optimizers = {"Adam", "AdamW", "SGD", "Adagrad", "RMSprop", "Adamax", "Muon", "LBFGS"}  # on docs/input.md
    for name, section in json_schema()["$defs"].items():
        properties = section.get("properties", {})
        if name in optimizers or {"start_lr", "lr_scale"} & properties.keys():
            continue
        for key, what in properties.items():
            shown = any(form in page for form in (f"`{key}`", f".{key}`", f"`{key}."))
            assert shown or key == "type" or what.get("deprecated"), f"{name}.{key}"
