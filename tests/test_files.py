"""Files of earlier runs."""

import pytest

from diffff.errors import InputError
from diffff.files import discard


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
