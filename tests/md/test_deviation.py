"""Model deviation: the published formulas term by term, hand numbers, and the file."""

from dataclasses import replace
from statistics import fmean, pstdev

import jax
import numpy as np
import pytest

from diffff.data.systems import read_systems
from diffff.errors import InputError
from diffff.formats.deepmd import save_model
from diffff.md.calculator import Calculator, Result
from diffff.md.deviation import (
    Labels,
    check_models,
    load_models,
    model_devi,
    model_deviation,
    result_deviation,
    spread,
)
from diffff.md.deviation_file import DeviationFile
from diffff.model import Model, load
from tests.md.systems import MODEL, ROOT

WATER = ROOT / "data/water/valid/300K"
HEAD = (
    "# step      max_devi_v         min_devi_v         avg_devi_v         "
    "max_devi_f         min_devi_f         avg_devi_f         devi_e             "
)


@pytest.fixture(scope="module")
def models():
    """Water, and two models whose weights are some per cent off."""
    water, rng = load(MODEL), np.random.default_rng(0)
    made = [water]
    for _ in range(2):
        params = jax.tree.map(lambda x: np.asarray(x) * (1 + 0.03 * rng.normal(size=np.shape(x))), water.params)
        params["DeepPot"]["bias"] = np.asarray(water.params["DeepPot"]["bias"]) + 0.01 * rng.normal(size=2)
        made.append(Model(spec=water.spec, params=params))
    return made


def water(n_frames=2):
    coords, box = (np.load(WATER / f"set.000/{name}.npy")[:n_frames] for name in ("coord", "box"))
    return coords, box, np.loadtxt(WATER / "type.raw", int)


def term_by_term(results, n_atoms, relative=None, relative_v=None):
    """The seven columns for each frame, with loops and Python's own standard deviation."""
    rows = []
    for k in range(len(results[0][0])):
        devi_f = []
        for i in range(n_atoms):
            size = sum(pstdev([r[1][k, i, c] for r in results]) ** 2 for c in range(3)) ** 0.5
            mean = sum(fmean([r[1][k, i, c] for r in results]) ** 2 for c in range(3)) ** 0.5
            devi_f.append(size if relative is None else size / (mean + relative))
        devi_v = [pstdev([r[2][k, c] / n_atoms for r in results]) for c in range(9)]
        if relative_v is not None:
            mean = sum(fmean([r[2][k, c] / n_atoms for r in results]) ** 2 for c in range(9)) ** 0.5
            devi_v = [v / (mean + relative_v) for v in devi_v]
        rms = fmean([v**2 for v in devi_v]) ** 0.5
        energy = pstdev([r[0][k, 0] / n_atoms for r in results])
        rows.append([max(devi_v), min(devi_v), rms, max(devi_f), min(devi_f), fmean(devi_f), energy])
    return np.array(rows)


@pytest.mark.parametrize("levels", [{}, {"relative": 0.5, "relative_v": 0.2}])
def test_the_published_formulas(models, levels):
    coords, box, types = water()
    expected = term_by_term([model.eval(coords, box, types) for model in models], 96, **levels)
    found = model_deviation(models, coords, box, types, **levels)
    np.testing.assert_allclose(np.stack(found[:7], axis=1), expected, rtol=1e-9)
    np.testing.assert_array_equal(found.devi_f.max(axis=1), found.max_devi_f)
    assert found.devi_f.shape == (2, 96)


def test_hand_numbers():
    """Two models, two atoms: forces along x of ±1 and 4, 2; energies 8 and 4; virials of ±2 in one component."""
    force = np.zeros((2, 1, 2, 3))
    force[:, 0, :, 0] = [[1.0, 4.0], [-1.0, 2.0]]
    virial = np.zeros((2, 1, 3, 3))
    virial[:, 0, 0, 1] = [2.0, -2.0]
    energy = np.array([[8.0], [4.0]])
    found = spread(energy, force, virial)
    assert found.devi_f.tolist() == [[1.0, 1.0]] and found.devi_e == 1.0
    assert (found.max_devi_v, found.min_devi_v, found.avg_devi_v) == (1.0, 0.0, 1.0 / 3.0)
    found = spread(energy, force, virial, relative=1.0, relative_v=0.5)
    assert found.devi_f.tolist() == [[1.0, 0.25]] and (found.max_devi_v, found.avg_devi_f) == (2.0, 0.625)
    labels = Labels(np.array([8.0]), 0.0 * force[0], virial[0])
    found = spread(energy[:1], force[:1], virial[:1], labels=labels)  # one model: its error
    assert found.devi_f.tolist() == [[1.0, 4.0]] and (found.devi_e, found.max_devi_v) == (0.0, 0.0)
    found = spread(energy[1:], force[1:], virial[1:], labels=labels, relative_v=1.0)
    assert (found.devi_e, found.max_devi_v) == (2.0, 2.0 / (1.0 + 1.0))


def test_virtual_atoms_count_nowhere(models):
    coords, box, types = water(1)
    padded = np.insert(coords.reshape(1, 96, 3), 50, 0.1, axis=1)
    found = model_deviation(models, padded, box, np.insert(types, 50, -1))
    plain = model_deviation(models, coords, box, types)
    np.testing.assert_allclose(np.stack(found[:7]), np.stack(plain[:7]), rtol=1e-9)
    np.testing.assert_allclose(np.delete(found.devi_f, 50, axis=1), plain.devi_f, rtol=1e-9)
    assert found.devi_f[0, 50] == 0.0


def test_equal_models_do_not_deviate(models):
    found = model_deviation([models[1], models[1]], *water(1))
    assert all((column == 0.0).all() for column in found)


@pytest.mark.slow
def test_in_a_run_the_deviation_is_that_of_the_frames(models):
    """Calculators in kJ/mol and nm, and DeePMD-kit's units: the same numbers, also of the virial's sign."""
    coords, box, types = water(1)
    calculators = [Calculator(model.potential(types), model.params) for model in models]
    x, cell = coords[0].reshape(-1, 3) / 10.0, box[0].reshape(3, 3) / 10.0
    for levels in ({}, {"relative": 0.5, "relative_v": 0.2}):
        found = result_deviation([calculator(x, cell) for calculator in calculators], **levels)
        expected = model_deviation(models, coords, box, types, **levels)
        for name, a, b in zip(found._fields, found, expected, strict=True):
            # the splines follow the nets to some 1e-8, and here they cover shorter distances
            np.testing.assert_allclose(
                a, b, rtol=2e-6 if "min_devi" in name or name == "devi_f" else 2e-7, err_msg=name
            )


# ---------------------------------------------------------------------- data sets and the file
def test_the_file_of_data_sets(models, tmp_path):
    """Two systems of one directory, the second shuffled and not periodic."""
    coords, box, types = water(3)
    rng = np.random.default_rng(1)
    mixed = rng.permutation(96)
    for name, order, sizes in (("a", np.arange(96), (2, 1)), ("b", mixed, (2,))):
        folder, first = tmp_path / name, 0
        for k, size in enumerate(sizes):
            (folder / f"set.00{k}").mkdir(parents=True)
            some = slice(first, first + size)
            np.save(folder / f"set.00{k}/coord.npy", coords[some].reshape(size, 96, 3)[:, order].reshape(size, -1))
            np.save(folder / f"set.00{k}/box.npy", box[some])
            first += size
        (folder / "type.raw").write_text("\n".join(str(t) for t in types[order]))
        (folder / "type_map.raw").write_text("O H")
    (tmp_path / "b/nopbc").touch()
    systems = read_systems(str(tmp_path), models[0].type_map, labels=())
    found = model_devi(models, systems, tmp_path / "model_devi.out", frequency=5, atomic=True)

    lines = (tmp_path / "model_devi.out").read_text().splitlines()
    assert [lines[0], lines[5]] == [f"# {tmp_path / 'a'}", f"# {tmp_path / 'b'}"]
    assert lines[1] == lines[6] == HEAD + "atm_devi_f(N)      "
    assert {len(line) for line in lines if line[0] != "#"} == {12 + 19 * (7 + 96)}
    table = np.loadtxt(tmp_path / "model_devi.out")
    np.testing.assert_array_equal(table[:, 0], [0, 5, 10, 0, 5])
    for rows, cell, order in ((table[:3], box, np.arange(96)), (table[3:], None, mixed)):
        expected = model_deviation(models, coords[: len(rows)], cell, types)
        np.testing.assert_allclose(rows[:, 1:8], np.stack(expected[:7], axis=1), rtol=1e-6)
        np.testing.assert_allclose(rows[:, 8:], expected.devi_f[:, order], rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([d.devi_f for d in found]), table[:, 8:], rtol=6e-7)


def test_the_error_against_labels(models, tmp_path):
    """One model: the columns are its absolute errors; without the label of the virial these are NaN."""
    (system,) = read_systems(str(WATER), models[0].type_map, labels=("energy", "force"))
    labels = {name: values[:2] for name, values in system.labels.items()}
    system = replace(system, positions=system.positions[:2], boxes=system.boxes[:2], labels=labels)
    model_devi(models[:1], [system], tmp_path / "out", real_error=True)
    table = np.loadtxt(tmp_path / "out")
    coords, box, types = water()
    energy, force, _ = models[0].eval(coords, box, types)
    expected = np.load(WATER / "set.000/force.npy")[:2].reshape(2, 96, 3)
    error = np.linalg.norm(force - expected, axis=-1)
    np.testing.assert_allclose(table[:, 4:7], np.stack([error.max(1), error.min(1), error.mean(1)], 1), rtol=1e-6)
    label = np.load(WATER / "set.000/energy.npy")[:2].reshape(2)
    np.testing.assert_allclose(table[:, 7], np.abs(energy[:, 0] - label) / 96, rtol=1e-6)
    assert np.isnan(table[:, 1:4]).all()
    (bare,) = read_systems(str(WATER), models[0].type_map, labels=())
    with pytest.raises(InputError, match=r"no energy\.npy, force\.npy or virial\.npy to compare with"):
        model_devi(models, [bare], tmp_path / "none", real_error=True)
    assert not (tmp_path / "none").exists()


def test_the_file_of_a_run_is_continued_without_a_gap(tmp_path):
    rng = np.random.default_rng(2)
    made = [
        (10 * k + 10, spread(rng.normal(size=(3, 1)), rng.normal(size=(3, 1, 4, 3)), rng.normal(size=(3, 1, 3, 3))))
        for k in range(6)
    ]

    def write(path, some, **options):
        with DeviationFile(path, **options) as file:
            for step, deviation in some:
                file.write(step, deviation)
        return path.read_bytes()

    for atomic in (False, True):
        whole = write(tmp_path / "whole.out", made, atomic=atomic)
        columns = np.loadtxt(tmp_path / "whole.out")
        np.testing.assert_allclose(columns[3, 1:8], [float(x[0]) for x in made[3][1][:7]], rtol=1e-6)
        np.testing.assert_array_equal(columns[:, 0], [10 * k + 10 for k in range(6)])
        assert whole.decode().splitlines()[:2] == ["# ", HEAD + ("atm_devi_f(N)      " if atomic else "")]
        for kept in range(len(whole) // 60):  # killed anywhere
            step = 10 * max(0, whole[: 60 * kept].count(b"\n") - 2)
            (tmp_path / "a.out").write_bytes(whole[: 60 * kept])
            later = [(at, deviation) for at, deviation in made if at > step]
            assert write(tmp_path / "a.out", later, atomic=atomic, append_at_step=step) == whole
        with pytest.raises(InputError, match="not the columns of this run"):
            DeviationFile(tmp_path / "a.out", atomic=not atomic, append_at_step=10)
        with pytest.raises(InputError, match="breaks off within the line of step 30"):
            (tmp_path / "a.out").write_bytes(whole[: whole.index(b"\n          40") - 5])
            DeviationFile(tmp_path / "a.out", atomic=atomic, append_at_step=30)
    with pytest.raises(InputError, match="step 20: the file is at step 20 already"):
        write(tmp_path / "a.out", [made[1], made[1]])
    with pytest.raises(InputError, match="no such file"):
        DeviationFile(tmp_path / "missing.out", append_at_step=10)


# ---------------------------------------------------------------------- what makes no sense
def test_what_makes_no_sense_is_refused(models, tmp_path):
    coords, box, types = water(1)
    with pytest.raises(InputError, match="that of two or more models, but 1 is given"):
        model_deviation(models[:1], coords, box, types)
    other = Model(spec=models[0].spec.model_copy(update={"type_map": ("H", "O")}), params=models[0].params)
    with pytest.raises(InputError, match=r"model 1: its type map is \['H', 'O'\], that of model 0 is \['O', 'H'\]"):
        check_models([models[0], other])
    save_model(tmp_path / "other.dp", other.spec, other.params["DeepPot"])
    with pytest.raises(InputError, match=r"other\.dp: its type map"):
        load_models([MODEL, tmp_path / "other.dp"])
    with pytest.raises(InputError, match=r"missing\.dp"):
        load_models([MODEL, tmp_path / "missing.dp"])
    with pytest.raises(InputError, match=r"coords have the shape \(1, 95, 3\), but there are types of 96 atoms"):
        model_deviation(models, coords.reshape(1, 96, 3)[:, 1:], box, types)
    with pytest.raises(InputError, match="coords have the shape"):
        model_deviation(models, coords.reshape(-1), box, types)
    with pytest.raises(InputError, match="relative is -1; give a level above 0"):
        model_deviation(models, coords, box, types, relative=-1)
    with pytest.raises(InputError, match="frequency is 0"):
        model_devi(models, [], tmp_path / "out", frequency=0)
    result = Result(0.0, np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(InputError, match="two or more potentials, but 1"):
        result_deviation([result])
    with pytest.raises(InputError, match=r"different numbers of atoms: \[2, 3\]"):
        result_deviation([result, result._replace(forces=np.zeros((2, 3)))])
