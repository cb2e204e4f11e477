"""A file is complete or not there, whatever happens while it is written."""

from pathlib import Path

import pytest

from worker.whole import written


def write(path: Path, content: str, *, fails: bool = False) -> None:
    with written(path) as beside:
        beside.write_text(content)
        if fails:
            raise KeyboardInterrupt


def test_a_file_that_is_not_written_to_the_end_leaves_the_former(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", fails=True)
    assert not list(tmp_path.iterdir())
    write(path, "first")
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", fails=True)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file.json", "first")]
    write(path, "second")
    assert path.read_text() == "second"
