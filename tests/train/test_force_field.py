"""Networks on force fields: what the network learns, gradients of rows and weights, restart, the sum in use."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import openmm.app as app
import pytest

import diffff
from diffff import units
from diffff.errors import InputError
from diffff.fit.data import read_frames
from diffff.fit.information import known
from diffff.fit.number_record import read_rows
from diffff.fit.objective import Objective
from diffff.fit.parity import read_parity
from diffff.fit.problem import Sigmas, all_residuals
from diffff.frontend.forcefield import ForceField
from diffff.md.calculator import Calculator
from diffff.model import Model
from diffff.report.run import report
from diffff.train import checkpoint as ckpt
from diffff.train.columns import aligned
from diffff.train.config import read_input
from diffff.train.data_errors import errors_of_nothing
from diffff.train.evaluate import Errors, Sums, evaluate
from diffff.train.force_field import FREE
from diffff.train.groups import learning_rate_scales, merge, partition
from diffff.train.setup import prepare
from diffff.train.start import start
from diffff.train.step import batch_loss
from diffff.train.summary import summary
from tests.train.made_fit import RULES, XML, perturbed, write_data, write_input, write_molecule

NETWORK = {
    "type": "standard",
    "type_map": ["C", "H", "O"],
    "descriptor": {"type": "se_e2_a", "rcut": 4.0, "sel": [2, 4, 2], "neuron": [4, 8], "axis_neuron": 4, "seed": 1},
    "fitting_net": {"neuron": [8, 8], "seed": 1},
}


def sum_input(**changes):
    """An input of a sum; the force field stays as it is unless ``parameters`` are given."""
    given = {
        "model": {
            "type": "sum",
            "models": [{"type": "xml", "files": ["mol.xml"], "topology": "mol.pdb"}, NETWORK],
        },
        "learning_rate": {"start_lr": 1e-3},
        "loss": {"start_pref_e": 1, "limit_pref_e": 1, "start_pref_f": 1, "limit_pref_f": 1},
        "training": {
            "training_data": {"systems": ["train"], "batch_size": 4},
            "numb_steps": 6,
            "save_freq": 3,
            "disp_freq": 1,
            "seed": 1,
        },
    }
    return {**given, **changes}


MOVING = {
    "rules": [
        {"select": "HarmonicBondForce/*", "treatment": {"bounds": [0, None], "prior": {"sigma": 100.0}, "lr": 0.01}},
        *RULES[1:],
    ],
    "prior_weight": 1e-3,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_molecule(tmp_path, perturbed(0.1, seed=1))
    write_data(tmp_path / "train", 8, seed=2)
    return tmp_path


def problem_of(folder, given):
    return prepare(read_input(write_input(folder, given)), None, skip_neighbor_stat=False, folder=folder)


def test_the_network_learns_what_a_force_field_leaves(folder):
    """Labels of the data less those that OpenMM computes for the force field."""
    left = folder / "left"
    write_data(left, 8, seed=2, xml=(folder / "mol.xml").read_text())
    (system,) = problem_of(folder, sum_input()).train.systems
    for name in ("energy", "force"):
        ours, theirs = (np.load(place / f"set.000/{name}.npy") for place in (folder / "train", left))
        wanted = (ours - theirs).reshape(8, -1)
        found = system.labels[name] if name == "energy" else system.in_file_order(system.labels[name])
        np.testing.assert_allclose(found.reshape(8, -1), wanted, rtol=0, atol=1e-9)


def test_a_sum_begins_as_its_force_field(folder):
    problem = problem_of(folder, sum_input())
    network = Model(spec=problem.model, params=problem.params)
    (system,) = problem.train.systems
    assert np.abs(evaluate(network, system, np.arange(8))["force"]).max() == 0.0


@pytest.mark.parametrize("changes", [{}, {"parameters": MOVING}], ids=["as it is", "moving"])
def test_errors_are_told_beside_those_of_the_force_field_alone(folder, changes):
    """And of a model without forces, from the labels of the data, whether they are taken from these or not."""
    write_data(folder / "left", 8, seed=2, xml=(folder / "mol.xml").read_text())
    problem = problem_of(folder, sum_input(**changes))
    zero, alone = errors_of_nothing(problem.train, problem.model.type_map)
    force, energy = (np.load(f"train/set.000/{name}.npy") for name in ("force", "energy"))
    missing, off = (np.load(f"left/set.000/{name}.npy") for name in ("force", "energy"))
    assert zero.rmse("f") == pytest.approx(np.sqrt(np.mean(force**2)), rel=1e-9)
    assert alone.rmse("f") == pytest.approx(np.sqrt(np.mean((force - missing) ** 2)), rel=1e-6)
    assert alone.rmse("e") == pytest.approx(np.std(energy - off), rel=1e-6)
    head, field, both, *notes = summary(problem, {"last": problem.params}, None).splitlines()
    assert field.split("  ")[0] == "training, without the network" and both.split("  ")[0].strip() == "training"
    assert f"{1000 * alone.rmse('f'):.4g} meV/Å" in field and f"{1000 * alone.rmse('f'):.4g} meV/Å" in both
    assert f"{alone.rmse('f') / zero.rmse('f'):.1%}" in both  # the network says nothing yet
    assert len({len(head), len(field), len(both)}) == 1 and "without the network: " in notes[-1]


def test_wide_errors_stay_in_their_columns():
    rows = aligned([("", "frames", "energy/atom"), ("training", "2 of 10", "2.675e+04 eV"), ("v", "3", "1 meV")])
    assert rows == [
        "           frames   energy/atom",
        "training  2 of 10  2.675e+04 eV",
        "v               3         1 meV",
    ]


def test_weights_count(folder):
    given = sum_input()
    given["model"]["weights"] = [0.5, 1.0]
    (half,) = problem_of(folder, given).train.systems
    (whole,) = problem_of(folder, sum_input()).train.systems
    labels = half.in_file_order(half.labels["force"]).reshape(8, -1)
    label = np.load("train/set.000/force.npy")
    np.testing.assert_allclose(
        2 * (label - labels), label - whole.in_file_order(whole.labels["force"]).reshape(8, -1), rtol=0, atol=1e-9
    )


def test_rules_are_for_weights_of_the_network_too(folder):
    """They come before those of the optimiser."""
    rules = [
        {"select": "DeepPot/descriptor/*", "treatment": {"train": False}},
        RULES[0],
        {"select": "DeepPot/fitting/nets/O/*", "treatment": {"lr": 1e-4}},
        RULES[1],
    ]
    optimizer = {"type": "Adam", "rules": [{"select": "*", "lr_scale": 3.0}]}
    problem = problem_of(folder, sum_input(parameters={"rules": rules}, optimizer=optimizer))
    scales = learning_rate_scales({"DeepPot": problem.params["DeepPot"]}, problem.rules())
    assert not any(path.startswith("DeepPot/descriptor/") for path in scales)
    of_oxygen = {path: scale for path, scale in scales.items() if "/nets/O/" in path}
    np.testing.assert_allclose(list(of_oxygen.values()), 0.1)
    assert set(scales.values()) == {3.0, *of_oxygen.values()}
    assert problem.moved is not None and problem.moved.free.n_free == 8


@pytest.mark.slow
def test_rows_and_weights_have_exact_derivatives(folder):
    """Of the loss of a batch, against differences, in all free variables of the rows and in some weights."""
    problem = problem_of(folder, sum_input(parameters=MOVING))
    trained, frozen = partition(problem.params, _trained(problem))
    frames, indices = problem.train.locate(0, np.arange(4))
    batch = frames.take(jnp.asarray(indices))

    def loss(leaves):
        return batch_loss(problem.model, problem.given.loss, merge(leaves, frozen), batch, None, jnp.ones(()))[0]

    slopes, random = jax.jit(jax.grad(loss))(trained), np.random.default_rng(0)
    value, checked = jax.jit(loss), 0
    for path in (FREE, "DeepPot/fitting/nets/O/0/w", "DeepPot/descriptor/embeddings/O-H/0/b"):
        if path not in trained:
            continue
        for _ in range(3):
            direction = jnp.asarray(random.normal(size=trained[path].shape))
            step = 1e-4

            def at(s, path=path, direction=direction):
                return float(value({**trained, path: trained[path] + s * direction}))

            difference = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
            np.testing.assert_allclose(jnp.vdot(slopes[path], direction), difference, rtol=1e-6)
            checked += 1
    assert checked >= 6


@pytest.mark.slow
def test_errors_of_rows_are_those_of_a_fit_with_the_same_sigmas(folder):
    """The network says nothing at the start, so that both look at the same residuals."""
    problem = problem_of(folder, sum_input(parameters=MOVING))
    moved, sigmas = problem.moved, {"e": 0.02, "f": 0.05}
    errors = Errors({name: Sums(squared=sigma**2, weight=1.0) for name, sigma in sigmas.items()})
    found = moved.known(np.zeros(moved.free.n_free), problem.train.on_device, errors)
    field = ForceField(folder / "mol.xml")
    topology = app.PDBFile("mol.pdb").topology
    potential = field.create_potential(topology)
    frames = read_frames("train", topology, potential, field.params())
    per = {"energy": units.KJ_PER_MOL_PER_EV, "force": units.KJ_PER_MOL_PER_NM_PER_EV_PER_ANGSTROM}
    given = Sigmas(relative=False, **{name: per[name] * sigmas[name[0]] for name in per})
    objective = Objective(lambda tree: all_residuals(frames, tree, given), moved.free)
    normal = objective.normal(np.zeros(moved.free.n_free))
    wanted = known(
        normal._replace(square=normal.n), slopes_of(moved.free), np.asarray(moved.free.prior_weights), found.values
    )
    np.testing.assert_allclose(found.errors, wanted.errors, rtol=1e-8)
    assert np.all(found.errors > 0.0)
    assert "length(c–o)" in moved.table(found)


def slopes_of(free):
    return np.asarray(jax.jacfwd(free.numbers)(jnp.zeros(free.n_free)))


def _trained(problem):
    return [path for path in diffff.tree.flatten(problem.params) if "/d" not in path and "bias" not in path]


@pytest.mark.slow
def test_both_are_trained_and_the_run_goes_on_exactly(folder):
    path = write_input(folder, sum_input(parameters=MOVING))
    start(path, output=folder / "out.json")
    whole, files = ckpt.read(folder / "model.ckpt-6.h5"), (folder / "fitted/mol.xml").read_bytes()
    assert np.any(whole.parts["trained"][FREE] != 0.0)
    assert b"+-" in files
    content = read_rows(folder / "fitted")
    rows = content["numbers"]
    assert content["spectrum"][-1] == 1.0 and len(content["spectrum"]) == 4
    assert content["combinations"]["stiff"][0]["words"] and content["combinations"]["sloppy"][0]["words"]
    _check_the_parities(folder, content)
    assert [row["label"] for row in rows] == ["k(c–o)", "k(c–h)", "length(c–o)", "length(c–h)"]
    assert all(row["value"] != row["start"] and row["error"] > 0.0 for row in rows)
    page = report(folder).read_text()
    for title in ("Numbers of the force field", "Predictions and reference", "Residuals", "What the data determine"):
        assert title in page
    assert 'id="spectrum-figure_1"' in page and 'id="parity-train-force-figure_1"' in page
    assert "length(c–o)" in page
    start(path, restart=folder / "model.ckpt-3.h5", output=folder / "out.json")
    again = ckpt.read(folder / "model.ckpt-6.h5")
    for part in ("trained", "optimizer"):
        for name, array in whole.parts[part].items():
            np.testing.assert_array_equal(again.parts[part][name], array)
    assert (folder / "fitted/mol.xml").read_bytes() == files
    assert json.loads((folder / "out.json").read_text())["model"]["type"] == "sum"
    _check_the_sum_in_use(folder, path)


def _check_the_parities(folder, content):
    """Of the force field that OpenMM has for the files, and of the sum; what is told of their errors."""
    found = {one.target: one for one in read_parity(folder / "fitted/parity.h5")}
    write_data(folder / "left", 8, seed=2, xml=(folder / "mol.xml").read_text())
    for target in ("energy", "force"):
        there, alone = (np.load(folder / place / f"set.000/{target}.npy") for place in ("train", "left"))
        if target == "energy":
            there, alone = there - there.mean(), alone - alone.mean()
        one = found[target]
        order = np.argsort(one.reference.ravel()), np.argsort(there.ravel())
        np.testing.assert_allclose(one.reference.ravel()[order[0]], there.ravel()[order[1]], rtol=0, atol=1e-9)
        np.testing.assert_allclose(one.before.ravel()[order[0]], alone.ravel()[order[1]], rtol=0, atol=1e-6)
        (entry,) = [entry for entry in content["errors"] if entry["target"] == target]
        assert entry["after"] == pytest.approx(np.sqrt(np.mean((one.after - one.reference) ** 2)))
        assert entry["sigma"] == entry["after"]
        assert entry["unit"] == one.unit == {"energy": "eV", "force": "eV/Å"}[target]


def _check_the_sum_in_use(folder, path):
    """Model file and XML together give the energies and forces whose errors the training has printed."""
    ckpt.freeze(folder / "model.ckpt-6.h5", folder / "model.dp")
    model, field = diffff.load(folder / "model.dp"), ForceField(str(folder / "fitted/mol.xml"))
    topology = app.PDBFile("mol.pdb").topology
    potential = field.create_potential(topology) + model.potential(np.array([0, 2, 1, 1]))
    calculator = Calculator(potential, {**field.params(), **model.params})
    x = np.load("train/set.000/coord.npy").reshape(-1, 4, 3) / units.ANGSTROM_PER_NM
    found = [calculator(one) for one in x]
    energy = np.array([one.energy for one in found]) / units.KJ_PER_MOL_PER_EV
    error = np.sqrt(np.mean((energy - np.load("train/set.000/energy.npy")) ** 2)) / 4
    given = sum_input(parameters=MOVING, training={**sum_input()["training"], "numb_steps": 7, "disp_freq": 7})
    given["training"]["training_data"]["batch_size"] = 8
    start(write_input(folder, given), restart=folder / "model.ckpt-6.h5", output=folder / "out.json")
    last = float((folder / "lcurve.out").read_text().splitlines()[-1].split()[2])
    np.testing.assert_allclose(last, error, rtol=0.01)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parameters": {"rules": [{"select": "Harmonx"}, *RULES]}}, 'parameters.rules[0]: "Harmonx" selects nothing'),
        ({"parameters": {**MOVING, "prior_weight": None}}, "priors need prior_weight"),
        ({"parameters": {"rules": RULES, "prior_weight": 1.0}}, "no rule has a prior; remove it"),
        (
            {"parameters": {"rules": [*RULES, {"select": "DeepPot/none/*"}]}},
            'parameters.rules: "DeepPot/none/*" selects no',
        ),
        (
            {"parameters": {"rules": [*RULES, {"select": "DeepPot/*", "treatment": {"scale": 1.0}}]}},
            'rules[2]: "DeepPot/*" is for weights of a network, which have train and lr only',
        ),
        ({"model": {"weights": [1.0, 0.5]}}, "the network that is trained has the weight 1"),
        ({"model": {"weights": [1.0]}}, "has 1 weights for 2 models"),
        ({"model": {"type": "linear_ener"}}, "linear_ener without weights takes the mean"),
        ({"model": {"type_map": ["H", "C", "O"]}}, "type_map stands here and in a part, and they differ"),
        ({"optimizer": {"type": "LeastSquares"}}, "LeastSquares"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, change, sentence):
    given = sum_input()
    for section, keys in change.items():
        given[section] = {**given.get(section, {}), **keys}
    with pytest.raises(InputError) as error:
        start(write_input(folder, given), output=folder / "out.json")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("training", "file"),
    [
        ({"disp_file": "mol.xml"}, "mol.xml"),
        ({"disp_file": "mol.pdb"}, "mol.pdb"),
        ({"disp_file": "train/set.000/force.npy"}, "train/set.000/force.npy"),
        ({"xml_dir": "."}, "mol.xml"),
    ],
)
def test_nothing_that_is_read_is_overwritten(folder, training, file):
    given = sum_input(parameters=MOVING)
    given["training"] |= training
    before = (folder / file).read_bytes()
    with pytest.raises(InputError, match=f"{file}: is read by the run, and would be overwritten by its outputs"):
        start(write_input(folder, given), output=folder / "out.json")
    assert (folder / file).read_bytes() == before
    given["training"] |= {"disp_file": "model.ckpt.h5", "xml_dir": "fitted"}
    with pytest.raises(InputError, match=r"training\.disp_file and training\.save_ckpt are one file"):
        start(write_input(folder, given), output=folder / "out.json")


def test_parameters_without_a_force_field_are_refused(folder):
    given = sum_input(parameters=MOVING)
    given["model"] = NETWORK
    with pytest.raises(InputError, match="they are of a force field, and the model has none"):
        read_input(write_input(folder, given))


@pytest.mark.parametrize("moving", [False, True])
def test_data_in_another_unit_or_of_another_sign_are_refused(folder, moving):
    """Whatever the weight of the force field is, in training and in validation data."""
    given = sum_input(**({"parameters": MOVING} if moving else {}))
    given["model"]["weights"] = [0.02, 1.0]
    (folder / "mol.xml").write_text(perturbed(0.01, seed=1))
    x, force = (folder / f"train/set.000/{name}.npy" for name in ("coord", "force"))
    right, gradients = write_input(folder, given), -np.load(force)
    np.save(force, -gradients / units.EV_PER_KJ_PER_MOL)  # those of kJ/mol/Å
    with pytest.raises(
        InputError, match=r"train: the forces of the labels are \S+ times .* that of kJ/mol/Å read as eV/Å"
    ):
        start(right, output=folder / "out.json")
    np.save(force, gradients)
    with pytest.raises(InputError, match=r"train: the forces of the labels point against"):
        start(right, output=folder / "out.json")
    np.save(force, -gradients)
    write_data(folder / "valid", 4, seed=3)
    np.save(folder / "valid/set.000/coord.npy", 0.1 * np.load(x)[:4])
    given["training"]["validation_data"] = {"systems": ["valid"], "units": "kJ/mol/nm"}
    with pytest.raises(
        InputError, match=r"valid: the forces of the labels are \S+ times .* that of eV/Å read as kJ/mol/nm"
    ):
        problem_of(folder, given)
    given["training"]["validation_data"]["check_units"] = False
    problem_of(folder, given)


def test_labels_may_be_much_more_than_their_force_field(folder):
    """That of angles alone, which are softer than bonds, and bend across them; a fit of it would be refused."""
    soft = re.sub(r'(<Bond .* k=)"[^"]*"', r'\1"0"', XML).replace('k="418.4"', 'k="42"').replace('k="292.9"', 'k="29"')
    (folder / "mol.xml").write_text(soft)
    problem_of(folder, sum_input())
    topology, field = app.PDBFile("mol.pdb").topology, ForceField(folder / "mol.xml")
    with pytest.raises(InputError, match=r"forces of the labels are \S+ times"):
        read_frames("train", topology, field.create_potential(topology), field.params())


def test_units_are_checked_by_a_force_field_only(folder):
    given = sum_input(model=NETWORK)
    given["training"]["training_data"]["check_units"] = True
    with pytest.raises(
        InputError, match=r"training\.training_data\.check_units: .* the model has none; remove the key"
    ):
        start(write_input(folder, given), output=folder / "out.json")


def test_another_order_of_atoms_is_refused(folder):
    (folder / "train/type.raw").write_text("2 0 1 1\n")
    with pytest.raises(InputError, match=r"atom 0 \(from 0\) is O, but C in the topology"):
        start(write_input(folder, sum_input()), output=folder / "out.json")
    (folder / "mol.xml").write_text(XML)
