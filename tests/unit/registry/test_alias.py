"""An alias moves, and goes back the way it came."""

import pytest

from tests.unit.registry.models import AT
from worker.errors import SettingError
from worker.registry import alias as aliases
from worker.registry.alias import Alias, promoted, rolled_back


def walked(path: str) -> Alias:
    """A letter promotes, `<` rolls back."""
    alias = None
    for step in path:
        if step != "<":
            alias = promoted(alias, step, at=AT)
            continue
        assert alias is not None
        alias = rolled_back(alias, at=AT)
    assert alias is not None
    return alias


@pytest.mark.parametrize(
    ("path", "version", "before"),
    [
        pytest.param("A", "A", None, id="the first"),
        pytest.param("AB", "B", "A", id="promoted"),
        pytest.param("AB<", "A", None, id="back to the first"),
        pytest.param("ABC<", "B", "A", id="back"),
        pytest.param("ABC<<", "A", None, id="back twice"),
        pytest.param("AB<C", "C", "A", id="what was undone is not gone back to"),
        pytest.param("AB<C<", "A", None, id="back to before what was undone"),
        pytest.param("ABA<", "B", "A", id="a version that came again"),
        pytest.param("AA", "A", None, id="promoted twice is once"),
        pytest.param("AAB", "B", "A", id="and then another"),
    ],
)
def test_moves(path: str, version: str, before: str | None) -> None:
    alias = walked(path)
    assert (alias.version, alias.before) == (version, before)
    assert aliases.decode(aliases.encode(alias)) == alias


def test_what_lies_in_stores_is_read() -> None:
    stored = b'{"moves": [{"version": "a", "at": "now", "how": "promote"}], "format": 1}'
    assert aliases.decode(stored) == Alias((aliases.Move("a", "now", "promote"),))


def test_every_move_is_kept() -> None:
    assert [(move.how, move.version) for move in walked("AB<").moves] == [
        ("promote", "A"),
        ("promote", "B"),
        ("rollback", "A"),
    ]


@pytest.mark.parametrize("path", ["A", "AB<"])
def test_nothing_to_go_back_to_is_refused(path: str) -> None:
    with pytest.raises(SettingError, match="nothing to go back to: A"):
        rolled_back(walked(path), at=AT)


def test_old_moves_are_forgotten_and_the_file_keeps_within_its_bound() -> None:
    alias = None
    for number in range(2 * aliases.MOVES):
        alias = promoted(alias, f"{number:012x}", at=AT)
    assert alias is not None
    assert len(alias.moves) == aliases.MOVES
    assert len(aliases.encode(alias)) <= aliases.MAX_BYTES
    gone_back = []
    while alias.before is not None:  # each rollback is a move too, and pushes the oldest promotion out
        alias = rolled_back(alias, at=AT)
        gone_back.append(int(alias.version, 16))
    newest = 2 * aliases.MOVES - 1
    assert gone_back == list(range(newest - 1, newest - 1 - aliases.MOVES // 2, -1))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b'{"moves": [], "format": 1}', id="no move"),
        pytest.param(b'{"more": ' + b"[" * 30_000, id="deep"),
        pytest.param(b'{"moves": [{"version": "a", "at": "", "how": "promote"}], "format": 2}', id="a newer format"),
        pytest.param(b'{"moves": [{"version": "a", "at": "", "how": "steal"}], "format": 1}', id="unknown move"),
        pytest.param(b'{"moves": [{"version": 7, "at": "", "how": "promote"}], "format": 1}', id="a number"),
    ],
)
def test_what_is_no_alias_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        aliases.decode(content)
