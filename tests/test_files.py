"""Files of earlier runs."""

import pytest

from diffff.errors import InputError
from diffff.files import discard, file_and_group


def test_groups_in_files_and_signs_in_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run#1").mkdir()
    for name in ("a.hdf5", "run#1/b.hdf5"):
        (tmp_path / name).touch()
    named = {name: file_and_group(name) for name in ("a.hdf5", "a.hdf5#/x", "run#1", "run#1/b.hdf5#/x", "no#/x")}
    assert {name: (str(file), group) for name, (file, group) in named.items()} == {
        "a.hdf5": ("a.hdf5", ""),
        "a.hdf5#/x": ("a.hdf5", "/x"),
        "run#1": ("run#1", ""),
        "run#1/b.hdf5#/x": ("run#1/b.hdf5", "/x"),
        "no#/x": ("no", "/x"),
    }


def test_what_an_earlier_run_has_left_goes_if_it_is_there(tmp_path):
    (tmp_path / "old").write_text("old")
    for path in (tmp_path / "old", tmp_path / "none", tmp_path / "none/at/all"):
        discard(path)
        assert not path.exists()
    (tmp_path / "file").write_text("kept")
    discard(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="of an earlier run, and cannot be removed"):
        discard(tmp_path / "folder")
