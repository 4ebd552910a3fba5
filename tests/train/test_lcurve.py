"""lcurve.out: DeePMD-kit's form, and the same file whether or not the run was interrupted."""

import os

import numpy as np
import pytest

from diffff.errors import InputError
from diffff.train.lcurve import LearningCurve, read_lcurve

NAMES = ("rmse", "rmse_e", "rmse_f")

# The first lines of a file that DeePMD-kit 3.2.0 wrote.
DEEPMD = """\
# step       rmse_val    rmse_trn    rmse_e_val  rmse_e_trn    rmse_f_val  rmse_f_trn   lr      
# If there is no available reference data, rmse_*_{val,trn} will print nan
      0      2.59e+01    2.55e+01      6.66e-01    6.63e-01      8.17e-01    8.05e-01    1.0e-03
    100      1.11e+01    1.10e+01      3.75e-02    3.57e-02      3.97e-01    3.94e-01    7.7e-04
"""  # noqa: W291


def write(path, steps, *, validation=True, continue_from=None):
    with LearningCurve(path, NAMES, validation=validation, continue_from=continue_from) as curve:
        for step in steps:
            train = {name: (1 + k) / (1 + step) for k, name in enumerate(NAMES)}
            curve.write(step, train=train, valid=train if validation else None, lr=1e-3 * 0.9**step)


def test_same_bytes_as_deepmd_kit(tmp_path):
    path = tmp_path / "lcurve.out"
    with LearningCurve(path, NAMES, validation=True) as curve:
        curve.write(
            0,
            train={"rmse": 25.5, "rmse_e": 0.663, "rmse_f": 0.805},
            valid={"rmse": 25.9, "rmse_e": 0.666, "rmse_f": 0.817},
            lr=1e-3,
        )
        curve.write(
            100,
            train={"rmse": 11.0, "rmse_e": 0.0357, "rmse_f": 0.394},
            valid={"rmse": 11.1, "rmse_e": 0.0375, "rmse_f": 0.397},
            lr=7.7e-4,
        )
    assert path.read_text() == DEEPMD


def test_more_digits_and_no_rate(tmp_path):
    """Fits have no batches that differ by more than three digits, and mostly no learning rate."""
    path = tmp_path / "lcurve.out"
    for first in (0, 1):
        with LearningCurve(
            path, ("rmse",), validation=False, continue_from=first or None, has_rate=False, decimals=8
        ) as curve:
            curve.write(first, train={"rmse": 1.0 / 3.0}, lr=None)
    found = read_lcurve(path)
    assert list(found) == ["step", "rmse_trn"]
    np.testing.assert_allclose(found["rmse_trn"], [1.0 / 3.0] * 2, rtol=1e-8)
    assert len({len(line) for line in path.read_text().splitlines() if "note" not in line and "nan" not in line}) == 1


def test_read_gives_the_columns_of_deepmd_kit(tmp_path):
    path = tmp_path / "lcurve.out"
    path.write_text(DEEPMD)
    curve = read_lcurve(path)
    assert list(curve) == ["step", "rmse_val", "rmse_trn", "rmse_e_val", "rmse_e_trn", "rmse_f_val", "rmse_f_trn", "lr"]
    assert curve["step"].tolist() == [0, 100]
    assert curve["rmse_f_val"].tolist() == [0.817, 0.397]


def test_without_validation_there_are_only_training_columns(tmp_path):
    path = tmp_path / "deep" / "lcurve.out"
    write(path, [1], validation=False)
    assert list(read_lcurve(path)) == ["step", "rmse_trn", "rmse_e_trn", "rmse_f_trn", "lr"]
    assert path.read_text().splitlines()[-1] == "      1      5.00e-01      1.00e+00      1.50e+00    9.0e-04"


def test_a_quantity_without_labels_is_nan(tmp_path):
    path = tmp_path / "lcurve.out"
    with LearningCurve(path, NAMES, validation=True) as curve:
        curve.write(1, train={"rmse": 1.0}, lr=1e-3)
    table = read_lcurve(path)
    assert table["rmse_trn"].tolist() == [1.0]
    assert np.isnan([table["rmse_val"], table["rmse_f_trn"]]).all()


def test_each_row_is_on_disk_at_once(tmp_path):
    path = tmp_path / "lcurve.out"
    with LearningCurve(path, NAMES, validation=False) as curve:
        curve.write(1, train={}, lr=1e-3)
        assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("checkpoint", [0, 7, 20, 99])
def test_a_continued_file_equals_that_of_an_uninterrupted_run(tmp_path, checkpoint, validation):
    whole, broken = tmp_path / "whole.out", tmp_path / "broken.out"
    write(whole, range(100), validation=validation)
    write(broken, range(100), validation=validation)
    before = os.stat(broken).st_mode
    write(broken, range(checkpoint + 1, 100), validation=validation, continue_from=checkpoint)
    assert broken.read_bytes() == whole.read_bytes()
    assert os.stat(broken).st_mode == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.out", "whole.out"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_row_cut_off_by_a_kill_is_dropped(tmp_path, cut):
    whole, broken = tmp_path / "whole.out", tmp_path / "broken.out"
    write(whole, range(10))
    write(broken, range(6))
    text = broken.read_text()
    broken.write_text(text[:-cut])
    write(broken, range(5, 10), continue_from=4)
    assert broken.read_text() == whole.read_text()


@pytest.mark.parametrize("text", [None, "", "# step   rms"])
def test_a_file_lost_or_cut_in_its_header_is_begun_anew(tmp_path, text):
    path, fresh = tmp_path / "lcurve.out", tmp_path / "fresh.out"
    if text is not None:
        path.write_text(text)
    write(path, [5, 6], continue_from=4)
    write(fresh, [5, 6])
    assert path.read_text() == fresh.read_text()


def test_a_new_run_replaces_the_file(tmp_path):
    path = tmp_path / "lcurve.out"
    write(path, range(10))
    write(path, [1])
    assert read_lcurve(path)["step"].tolist() == [1]


def test_other_columns_cannot_be_continued(tmp_path):
    path = tmp_path / "lcurve.out"
    write(path, range(3), validation=False)
    with pytest.raises(InputError, match=r"lcurve.out: has the columns step rmse_trn.*Move the file away"):
        write(path, [3], continue_from=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no learning curve"),
        ("1 2 3\n", "no learning curve"),
        ("# step rmse lr\n1 0.5\n", "line 2: 2 numbers under 3 column names"),
        ("# step rmse lr\n1 0.5 x\n", "line 2: could not convert"),
    ],
)
def test_what_is_no_learning_curve_is_refused(tmp_path, text, words):
    path = tmp_path / "lcurve.out"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_lcurve(path)
    with pytest.raises(InputError, match="there is no such file"):
        read_lcurve(tmp_path / "none.out")
