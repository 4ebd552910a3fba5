from pathlib import Path

import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train import best
from diffff.train.best import BestModels


@pytest.fixture
def models(tmp_path: Path, monkeypatch) -> BestModels:
    """Best models whose checkpoints are empty files."""
    monkeypatch.setattr(best, "save", lambda path, checkpoint: path.touch())
    return BestModels(tmp_path / "best.ckpt", keep=2)


def names(models: BestModels) -> list[str]:
    return sorted(path.name for path in models.prefix.parent.iterdir())


def test_files_are_named_by_step_and_rank(models: BestModels) -> None:
    for error, step in ((3.0, 10), (2.0, 20), (2.5, 30), (9.0, 40)):
        if models.enter(error, step):
            models.save(step, lambda: None)
    assert names(models) == ["best.ckpt-20.t-1.h5", "best.ckpt-30.t-2.h5"]


def test_a_repeated_step_replaces_its_file(models: BestModels) -> None:
    for error, step in ((1.0, 10), (2.0, 20), (0.5, 20)):
        assert models.enter(error, step)
        models.save(step, lambda: None)
    assert names(models) == ["best.ckpt-10.t-2.h5", "best.ckpt-20.t-1.h5"]


def test_files_of_others_stay(models: BestModels) -> None:
    others = ["best.ckpt-7.h5", "best_ema.ckpt-7.t-1.h5", "model.ckpt-7.h5"]
    for name in [*others, "best.ckpt-7.t-1.h5"]:
        (models.prefix.parent / name).touch()
    models.enter(1.0, 10)
    models.save(10, lambda: None)
    assert names(models) == sorted([*others, "best.ckpt-10.t-1.h5"])


def test_errors_that_are_not_finite_are_never_best(models: BestModels) -> None:
    assert not models.enter(float("nan"), 10)
    assert not models.enter(float("inf"), 20)
    assert models.record == []


def test_record_survives_a_checkpoint(models: BestModels) -> None:
    for error, step in ((0.1 + 0.2, 10), (1.0, 20)):
        models.enter(error, step)
    again = BestModels(models.prefix, keep=2)
    again.from_arrays({name: np.asarray(array) for name, array in models.to_arrays().items()})
    assert again.record == models.record
    fewer = BestModels(models.prefix, keep=1)
    fewer.from_arrays(models.to_arrays())
    assert fewer.record == models.record[:1]


def test_a_file_that_cannot_be_removed_is_told(models: BestModels) -> None:
    (models.prefix.parent / "best.ckpt-7.t-1.h5").mkdir()
    models.enter(1.0, 10)
    with pytest.raises(InputError, match=r"best\.ckpt-7\.t-1\.h5: cannot be written"):
        models.save(10, lambda: None)
