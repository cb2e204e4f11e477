"""A file is complete or not there, whatever happens while it is written."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from worker.whole import beside, unfinished, written


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


KILLED = """
import os, signal, sys
from pathlib import Path
from worker.whole import written
with written(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_that_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -9
    assert [one.read_text() for one in tmp_path.iterdir()] == ["half"]
    others = [tmp_path / ".file.json.swp", tmp_path / ".file.json.0badc0de.kept", tmp_path / ".other.json.0badc0de"]
    for other in others:
        other.touch()
    write(path, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_what_somebody_is_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with written(path) as first:
        first.write_text("first")
        write(path, "second")
        assert first.exists()
    assert path.read_text() == "first"


def test_a_file_that_is_swept_before_it_is_locked_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    lock = fcntl.flock
    swept: list[Path] = []

    def later(descriptor: int, how: int) -> None:
        if not swept:
            swept.extend(tmp_path.iterdir())
            swept[0].unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", later)
    with beside(path) as place:
        assert place.exists()
    assert swept
    assert swept[0] != place


def test_where_nothing_can_be_locked_all_is_written_and_nothing_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(fcntl, "flock", refused)
    path = tmp_path / "file.json"
    left = path.with_name(unfinished(path.name))
    left.touch()
    write(path, "whole")
    assert path.read_text() == "whole"
    assert left.exists()
