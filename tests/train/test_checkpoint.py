"""Checkpoints on disk: what comes back, which stay, and what happens when writing them goes wrong."""

import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from diffff import tree
from diffff.descriptors.radial import SplineBasis
from diffff.errors import InputError
from diffff.files import replacing
from diffff.model import load
from diffff.potentials.deep import DeepModel
from diffff.spec import validate
from diffff.train import checkpoint as ckpt
from tests.train import small

MODEL = validate(DeepModel, small.INPUT["model"])
LEAVES = tree.flatten(jax.tree.map(np.asarray, {"DeepPot": MODEL.init(3)}))


def made(step):
    frozen = {name: leaf for name, leaf in LEAVES.items() if "descriptor" in name}
    return ckpt.Checkpoint(
        step=step,
        model=MODEL,
        input={"model": {"type_map": ["O", "H"]}},
        basis=SplineBasis(24, 1.5, 0.1),
        parts={
            "trained": {name: leaf for name, leaf in LEAVES.items() if name not in frozen},
            "frozen": frozen,
            "optimizer": {"Adam/0/count": np.int32(7), "Adam/0/mu/DeepPot/bias": np.array([1e-300, -0.0])},
            "sampler": {"seed": np.int64(3), "taken": np.arange(3)},
        },
    )


def steps(folder):
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("model.ckpt-*.h5"))


def test_everything_comes_back_bit_for_bit(tmp_path):
    ckpt.save(tmp_path / "a.h5", made(12))
    found = ckpt.read(tmp_path / "a.h5")
    assert (found.step, found.model, found.basis, found.input) == (12, MODEL, SplineBasis(24, 1.5, 0.1), made(12).input)
    wanted, back = small.flat(made(12).parts), small.flat(found.parts)
    assert back.keys() == wanted.keys()
    for name, array in wanted.items():
        assert back[name].dtype == array.dtype
        assert back[name].tobytes() == array.tobytes()
    jax.tree.map(np.testing.assert_array_equal, found.params(), tree.unflatten(LEAVES))


def test_an_optimiser_without_state(tmp_path):
    parts = {name: part for name, part in made(1).parts.items() if name != "optimizer"}
    ckpt.save(tmp_path / "a.h5", replace(made(1), parts={**parts, "optimizer": {}}))
    assert ckpt.read(tmp_path / "a.h5").parts["optimizer"] == {}


def test_a_missing_part_is_said(tmp_path):
    ckpt.save(tmp_path / "a.h5", replace(made(1), parts={"trained": made(1).parts["trained"]}))
    with pytest.raises(InputError, match=r"damaged, it lacks frozen, sampler\. Use an earlier checkpoint"):
        ckpt.read(tmp_path / "a.h5")


def test_without_splines(tmp_path):
    ckpt.save(tmp_path / "a.h5", replace(made(1), basis=None))
    assert ckpt.read(tmp_path / "a.h5").basis is None


def test_a_run_is_found_by_its_file_its_name_or_its_directory(tmp_path):
    keeper = ckpt.Keeper(tmp_path / "run" / "model.ckpt", 2)
    written = keeper.save(made(5))
    for path in ("run/model.ckpt-5.h5", "run/model.ckpt-5", "run/model.ckpt", "run/model.ckpt.h5", "run"):
        assert ckpt.find(tmp_path / path).resolve() == written
        assert ckpt.is_checkpoint(tmp_path / path)
    assert not ckpt.is_checkpoint(tmp_path / "model.dp")


# ---------------------------------------------------------------------- which stay
def test_the_newest_stay_and_those_of_an_earlier_run_are_left_alone(tmp_path):
    keeper = ckpt.Keeper(tmp_path / "model.ckpt", 2)
    for path in (keeper.path(1000), keeper.path(30), tmp_path / "model.ckpt-best.h5", tmp_path / "model.ckpt2-1.h5"):
        path.touch()
    for step in (5, 10, 15, 20):
        keeper.save(made(step))
        assert (tmp_path / "checkpoint").read_text() == f"model.ckpt-{step}.h5\n"
        assert os.readlink(tmp_path / "model.ckpt.h5") == f"model.ckpt-{step}.h5"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("checkpoint", "model.ckpt-1000.h5", "model.ckpt-15.h5", "model.ckpt-20.h5", "model.ckpt-30.h5"),
        *("model.ckpt-best.h5", "model.ckpt.h5", "model.ckpt2-1.h5"),
    ]


def test_names_may_hold_any_character(tmp_path):
    keeper = ckpt.Keeper(tmp_path / "a[b]*", 1)
    for step in (1, 2):
        keeper.save(made(step))
    assert [path.name for path in tmp_path.iterdir() if "-" in path.name] == ["a[b]*-2.h5"]


# ---------------------------------------------------------------------- when writing goes wrong
def test_a_full_disk(tmp_path):
    """What was there stays. A limit on the size of files stands for the end of the disk."""
    keeper = ckpt.Keeper(tmp_path / "model.ckpt", 1)
    keeper.save(made(5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in (5, 10):  # the same file once more, and another one
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        try:
            with pytest.raises(InputError, match=rf"model.ckpt-{step}.h5: cannot be written \(File too large\)\."):
                keeper.save(made(step))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_process_killed_while_it_writes_leaves_the_old_checkpoint_and_the_next_one_can_write(tmp_path):
    keeper = ckpt.Keeper(tmp_path / "model.ckpt", 1)
    keeper.save(made(5))
    with (tmp_path / ".model.ckpt-10.h5.part").open("wb") as half:
        half.write((tmp_path / "model.ckpt-5.h5").read_bytes()[:1000])
    (tmp_path / ".model.ckpt.h5.part").symlink_to("model.ckpt-10.h5")
    (tmp_path / ".checkpoint.part").write_text("model.ckpt-1")
    assert ckpt.read(tmp_path).step == 5
    keeper.save(made(10))
    assert ckpt.read(tmp_path).step == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "model.ckpt-10.h5", "model.ckpt.h5"]


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as beside:
        beside.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [*path.parent.iterdir()] == [path]


def test_a_directory_that_cannot_be_written_is_found_out_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run: checkpoints cannot be written here \(Not a directory\)\. Choose"):
        ckpt.Keeper(tmp_path / "file" / "run" / "model.ckpt", 1).check_directory()
    ckpt.Keeper(tmp_path / "run" / "model.ckpt", 1).check_directory()
    assert not [*(tmp_path / "run").iterdir()]


# ---------------------------------------------------------------------- what is no checkpoint
def damaged(path: Path, kind: str) -> Path:
    ckpt.save(path, made(5))
    content = path.read_bytes()
    match kind:
        case "cut off":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("model")
        case "other HDF5":
            with h5py.File(path, "w") as file:
                file["coord"] = np.zeros(3)
        case "other header":
            with h5py.File(path, "w") as file:
                file["header"] = json.dumps([1, 2])
        case "header of bytes":
            with h5py.File(path, "a") as file:
                del file["header"]
                file["header"] = np.arange(3)
    return path


@pytest.mark.parametrize("kind", ["cut off", "empty", "text", "other HDF5", "other header", "header of bytes"])
def test_damaged_files_are_refused(tmp_path, kind):
    with pytest.raises(InputError, match=r"a.h5: no checkpoint of diffff"):
        ckpt.read(damaged(tmp_path / "a.h5", kind))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(
        InputError, match=r"model.ckpt-7: no such checkpoint; give model.ckpt-STEP.h5, or the directory"
    ):
        ckpt.read(tmp_path / "model.ckpt-7")
    with pytest.raises(InputError, match=r"no file named `checkpoint` here; give a checkpoint, model.ckpt-STEP.h5"):
        ckpt.read(tmp_path)
    (tmp_path / "checkpoint").write_text("model.ckpt-9.h5\n")
    with pytest.raises(InputError, match=r"model.ckpt-9.h5: no such checkpoint"):
        ckpt.read(tmp_path)


def test_a_model_file_is_no_checkpoint(tmp_path):
    ckpt.save(tmp_path / "a.h5", made(5))
    ckpt.freeze(tmp_path / "a.h5", tmp_path / "model.dp")
    with pytest.raises(InputError, match=r"model.dp: a model file, which has the weights only\. Begin a new run with"):
        ckpt.read(tmp_path / "model.dp")


def test_a_frozen_checkpoint_is_the_same_model(tmp_path):
    ckpt.save(tmp_path / "a.h5", made(5))
    for name in ("model.dp", "model.yaml"):
        ckpt.freeze(tmp_path / "a.h5", tmp_path / name)
        model = load(tmp_path / name)
        jax.tree.map(np.testing.assert_array_equal, model.params, ckpt.load_model_of(tmp_path / "a").params)


def test_splines_of_an_earlier_version_are_refused(tmp_path):
    ckpt.save(tmp_path / "a.h5", made(1))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        header = json.loads(file["header"][()])
        del header["basis"]["scale"], file["header"]
        file["header"] = json.dumps(header)
    with pytest.raises(InputError, match="its splines are those of an earlier version"):
        ckpt.read(tmp_path / "a.h5")
