import dataclasses

import jax
import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train import stat_file
from diffff.train.neighbor_stat import pair_tables
from diffff.train.pair_table import PairStore
from diffff.train.stat_sample import sample_frames, samples
from diffff.train.statistics import environment_statistics, fill, parameter_sums
from tests.train.reference_systems import BATCHES, CASES, REFERENCES, STORED, SYSTEMS, TYPE_MAP, make_model


@pytest.mark.parametrize("case", CASES["environment"])
def test_environment_is_that_of_deepmd_kit(case):
    keys = dict(CASES["environment"][case])
    outside = {"pair_exclude_types": keys.pop("pair_exclude_types")} if "pair_exclude_types" in keys else {}
    model = make_model(keys, **outside)
    davg, dstd = environment_statistics(model, samples(model, SYSTEMS, BATCHES))
    np.testing.assert_allclose(davg, STORED[f"{case}/davg"], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(dstd, STORED[f"{case}/dstd"], rtol=1e-12)


def test_the_deviation_has_a_floor():
    model = make_model({"sel": [2000, 280000, 4]})
    assert environment_statistics(model, samples(model, SYSTEMS, BATCHES))[1][:2].tolist() == [[0.01] * 4] * 2


def test_the_sample_is_evenly_spaced_and_limited():
    assert sample_frames(80, 10).tolist() == list(range(0, 80, 8))
    assert sample_frames(0, 4).tolist() == []
    model = make_model(data_stat_nbatch=1)
    assert [sample.frames.tolist() for sample in samples(model, SYSTEMS, [1, 2, 1, 2])] == [[0], [0, 1], [0], [0, 1]]


def test_pairs_that_are_there_are_used_and_truncated():
    model = make_model({"sel": [3, 5, 1]})
    tables, _ = pair_tables(SYSTEMS, 3.5, 3, PairStore(np.inf))
    given = environment_statistics(model, samples(model, SYSTEMS, BATCHES, tables))
    np.testing.assert_allclose(given[0], STORED["truncated/davg"], rtol=1e-12, atol=1e-15)


@pytest.fixture
def model():
    return make_model(fitting={"numb_fparam": 2, "numb_aparam": 1})


def test_parameters_are_scaled_as_in_deepmd_kit(model):
    params = fill(model, model.init(), SYSTEMS[:3], BATCHES[:3])
    for name in ("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std"):
        np.testing.assert_allclose(params["fitting"][name], STORED[name], rtol=1e-12)


def test_the_protection_of_the_parameters_is_the_given_one():
    model = make_model(fitting={"numb_fparam": 2}, data_stat_protect=10.0)
    assert fill(model, model.init(), SYSTEMS, BATCHES)["fitting"]["fparam_inv_std"].tolist() == [0.1, 0.1]


def test_empty_slots_have_no_parameters(model):
    sums = parameter_sums(samples(model, SYSTEMS[3:], BATCHES[3:]), "aparam")
    assert sums[0, 0] == 8
    assert sums[0, 1] == pytest.approx(STORED["system_3/aparam"][:, :4].sum(), rel=1e-12)


def test_fill_returns_a_new_tree_with_all_statistics(model):
    before = model.init()
    after = fill(model, before, SYSTEMS, BATCHES)
    assert not before["descriptor"]["davg"].any()
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for kind in ("davg", "dstd"):
        np.testing.assert_allclose(after["descriptor"][kind], STORED[f"plain/{kind}"], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(after["bias"], STORED["plain/bias"], rtol=1e-12, atol=1e-12)
    assert after["fitting"]["nets"] is before["fitting"]["nets"]


# ---------------------------------------------------------------------- stat_file
def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", ["stat.h5", "stat.hdf5", "deep/stat", "stat.npz"])
def test_a_second_run_reads_what_the_first_wrote(model, tmp_path, name):
    file = tmp_path / name
    first = fill(model, model.init(), SYSTEMS, BATCHES, stat_file=file)
    assert file.is_dir() == (name in ("deep/stat", "stat.npz"))
    assert_same(fill(model, model.init(), [], [], stat_file=file, stat_file_mode="read"), first)
    assert not list(tmp_path.rglob(".*"))


def test_a_file_of_deepmd_kit_is_read():
    model = make_model()
    file = REFERENCES / "statistics.h5"
    params = fill(model, model.init(), [], [], stat_file=file, stat_file_mode="read")
    np.testing.assert_allclose(params["descriptor"]["dstd"], STORED["plain/dstd"], rtol=1e-12)
    np.testing.assert_allclose(params["bias"], STORED["plain/bias"], rtol=1e-12)


def test_the_file_is_laid_out_as_deepmd_kit_does(tmp_path):
    model = make_model()
    fill(model, model.init(), SYSTEMS, BATCHES, stat_file=tmp_path / "stat.h5")
    ours, theirs = (stat_file.read(f, "O H X") for f in (tmp_path / "stat.h5", REFERENCES / "statistics.h5"))
    assert ours.keys() == theirs.keys()
    assert f"{STORED['plain/hash']}/a_2" in ours
    assert sorted(ours.pop("observed_type")) == sorted(theirs.pop("observed_type")) == [b"H", b"O"]
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keys", [{"sel": [21, 28, 4]}, {"exclude_types": [[0, 1]]}, {"env_protection": 0.1}])
def test_another_descriptor_has_its_own_statistics(tmp_path, keys):
    file, plain, other = tmp_path / "stat", make_model(), make_model(keys)
    fill(plain, plain.init(), SYSTEMS, BATCHES, stat_file=file)
    with pytest.raises(InputError, match=r"lacks .*/r_0 for the types O H X .* \"update\""):
        fill(other, other.init(), SYSTEMS, BATCHES, stat_file=file, stat_file_mode="read")
    params = fill(other, other.init(), SYSTEMS, BATCHES, stat_file=file)
    assert_same(params, fill(other, other.init(), SYSTEMS, BATCHES))
    assert len(stat_file.read(file, "O H X")) == 2 * 6 + 3


def test_other_types_have_their_own_statistics(tmp_path):
    file, model = tmp_path / "stat.h5", make_model()
    fill(model, model.init(), SYSTEMS, BATCHES, stat_file=file)
    other = make_model(type_map=["O", "H", "Y"])
    with pytest.raises(InputError, match="for the types O H Y"):
        fill(other, other.init(), SYSTEMS, BATCHES, stat_file=file, stat_file_mode="read")
    fill(other, other.init(), SYSTEMS, BATCHES, stat_file=file)
    assert stat_file.read(file, "O H X").keys() == stat_file.read(file, "O H Y").keys()


@pytest.mark.parametrize("name", ["stat", "stat.h5"])
def test_an_interrupted_bias_is_computed_again(tmp_path, name):
    file, model = tmp_path / name, make_model()
    first = fill(model, model.init(), SYSTEMS, BATCHES, stat_file=file)
    marker = {"bias_atom_energy": np.zeros((3, 1)), "__deepmd_output_stat_transaction__": np.ones(1)}
    folder = file / "O H X"
    if name == "stat":
        for key, array in marker.items():
            with open(folder / key, "wb") as out:
                np.save(out, array)
    else:
        import h5py

        with h5py.File(file, "a") as out:
            del out["O H X/bias_atom_energy"]
            for key, array in marker.items():
                out[f"O H X/{key}"] = array
    assert_same(fill(model, model.init(), SYSTEMS, BATCHES, stat_file=file), first)
    assert "__deepmd_output_stat_transaction__" not in stat_file.read(file, "O H X")


def test_a_missing_file_cannot_be_read(tmp_path):
    model = make_model()
    with pytest.raises(InputError, match=r"none\.h5: lacks"):
        fill(model, model.init(), SYSTEMS, BATCHES, stat_file=tmp_path / "none.h5", stat_file_mode="read")
    assert not (tmp_path / "none.h5").exists()


def test_something_else_is_not_read(tmp_path):
    model, file = make_model(), tmp_path / "stat.h5"
    file.write_text("not HDF5")
    with pytest.raises(InputError, match="cannot be read as statistics"):
        fill(model, model.init(), SYSTEMS, BATCHES, stat_file=file)
    folder = tmp_path / "stat" / " ".join(TYPE_MAP)
    folder.mkdir(parents=True)
    (folder / "bias_atom_energy").write_text("not numpy")
    with pytest.raises(InputError, match="cannot be read as statistics"):
        fill(model, model.init(), SYSTEMS, BATCHES, stat_file=tmp_path / "stat")


def test_statistics_of_the_wrong_shape_are_refused(tmp_path):
    model = make_model()
    stat_file.write(tmp_path / "stat", "O H X", {n: np.zeros((2, 1)) for n in ("bias_atom_energy", "std_atom_energy")})
    with pytest.raises(InputError, match=r"bias_atom_energy should be \(3, 1\) finite numbers"):
        fill(model, model.init(), SYSTEMS, BATCHES, stat_file=tmp_path / "stat")


def test_a_bias_from_other_presets_is_refused(tmp_path):
    plain = make_model()
    fill(plain, plain.init(), SYSTEMS, BATCHES, stat_file=tmp_path / "stat")
    preset = make_model(preset_out_bias={"energy": [None, -3.25, None]})
    with pytest.raises(InputError, match="other values of preset_out_bias"):
        fill(preset, preset.init(), SYSTEMS, BATCHES, stat_file=tmp_path / "stat")


def test_a_system_without_energies_leaves_the_bias_zero():
    model = make_model()
    forces_only = [dataclasses.replace(SYSTEMS[0], labels={})]
    assert fill(model, model.init(), forces_only, [1])["bias"].tolist() == [0.0, 0.0, 0.0]
