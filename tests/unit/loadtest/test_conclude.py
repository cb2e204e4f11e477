"""Where a measurement's numbers go."""

import json
from pathlib import Path

import pytest

from loadtest.conclude import conclude

DOCUMENT = {"rate": 5}


def test_tables_are_printed_and_what_is_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "load"
    conclude(DOCUMENT, folder, "load", lambda: ["five"], as_json=False, plot=lambda path: path.write_bytes(b"drawn"))
    assert json.loads((folder / "load.json").read_text()) == DOCUMENT
    assert (folder / "load.png").read_bytes() == b"drawn"
    assert capsys.readouterr().out == f"five\nwritten: {folder / 'load.json'}, {folder / 'load.png'}\n"


def test_for_programs_there_is_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conclude(DOCUMENT, tmp_path, "load", lambda: ["five"], as_json=True)
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_numbers_are_safe_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        conclude(DOCUMENT, tmp_path, "load", lambda: [str(1 / 0)], as_json=False)
    assert (tmp_path / "load.json").exists()
