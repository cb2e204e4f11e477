"""What is compiled once and kept must not depend on what may change without its knowing."""

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.unit.scoring import making
from worker.scoring import aggregates as module
from worker.scoring import compiled, encode
from worker.scoring.aggregates import aggregates
from worker.scoring.batch import Batch

SOURCES = sorted(Path(compiled.__file__).parent.glob("*.py"))
LIBRARIES = {"np", "math"}
SHAPES = {"Heads", "Rows", "Any"}
"""Types: their fields are part of what is kept, or nothing of them is."""


def names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def loops(tree: ast.Module) -> list[ast.FunctionDef]:
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("compiled" in names(mark) for mark in node.decorator_list)
    ]


def test_there_is_something_to_look_at() -> None:
    assert sum(len(loops(ast.parse(path.read_text()))) for path in SOURCES) > 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_loop_reads_its_arguments_and_its_own_module(path: Path) -> None:
    """A changed constant of another module would not reach what is kept on disk, nor would one made from such."""
    tree = ast.parse(path.read_text())
    foreign: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            foreign |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value and names(node.value) & (foreign | LIBRARIES):
            foreign |= names(node.targets[0] if isinstance(node, ast.Assign) else node.target)
    for loop in loops(tree):
        inside = {name for statement in loop.body for name in names(statement)}
        assert not inside & foreign - SHAPES, loop.name


def test_threads_share_a_loop() -> None:
    windows, vocabulary = making.random_windows(64, seed=61), making.vocabulary()
    expected = (encode.tokens(Batch.of(windows), vocabulary), aggregates(Batch.of(windows)))
    wrong: list[int] = []

    def run(number: int) -> None:
        for _ in range(30):
            batch = Batch.of(windows)
            found = (encode.tokens(batch, vocabulary), aggregates(batch))
            if not all(np.array_equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_runs_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """As in a read-only image: no folder beside the module, none of the user's."""
    copy = tmp_path / "loop.py"
    copy.write_text(
        "from worker.scoring.compiled import compiled\n\n\n@compiled\ndef twice(value):\n    return 2 * value\n"
    )
    code = (
        "import sys\n"
        "from numba.core import caching\n"
        "caching._CacheLocator.ensure_cache_path = lambda self: (_ for _ in ()).throw(OSError('read-only'))\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import loop\n"
        "print(loop.twice(21))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert (run.stdout.strip(), run.returncode) == ("42", 0), run.stderr


LOOP = """
from worker.scoring.compiled import compiled


@compiled
def twice(value):
    return 2 * value
"""
CALL = """
import sys
sys.path.insert(0, {folder!r})
import loop
print(loop.twice(21), sum(loop.twice.stats.cache_hits.values()))
"""
FULL = """
from numba.core import caching
caching.IndexDataCacheFile._save_data = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
"""


def call(folder: Path, *, before: str = "") -> tuple[str, int]:
    """What a process says that calls the loop, whose folder keeps it; and its exit code."""
    source = folder / "loop.py"
    if not source.exists():  # numba goes by its date
        source.write_text(LOOP)
    run = subprocess.run(
        [sys.executable, "-c", before + CALL.format(folder=str(folder))],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder / "kept")},
        timeout=100,
        check=False,
    )
    return run.stdout.strip() or run.stderr, run.returncode


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_what_a_crash_of_the_machine_left_empty_is_made_anew(tmp_path: Path, kind: str) -> None:
    assert [call(tmp_path), call(tmp_path)] == [("42 0", 0), ("42 1", 0)]
    (kept,) = tmp_path.rglob(f"*.{kind}")
    kept.write_bytes(b"")
    assert [call(tmp_path), call(tmp_path)] == [("42 0", 0), ("42 1", 0)]


def test_it_runs_on_a_full_disk(tmp_path: Path) -> None:
    assert call(tmp_path, before=FULL) == ("42 0", 0)


def test_the_counts_have_a_logarithm_each() -> None:
    full = max(making.random_windows(20, seed=62, longest=200), key=len)
    assert Batch.of([full]).lengths.tolist() == [64]
    assert module._COUNTS[64] == np.float32(np.log1p(64))
    assert len(module._COUNTS) == 513  # the longest that a network may have positions for
