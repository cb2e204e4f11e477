"""An alias: which version it names now, and every move that led there. Pure: a value, its moves and its codec.

Rolling back undoes the newest promotion that was not undone yet: after the moves A, B, C two rollbacks lead to A.
"""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from worker.errors import SettingError

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
FORMAT: Final = 1
MOVES: Final = 200
"""So many moves are kept, the newest; what lies before them cannot be rolled back to."""

MAX_BYTES: Final = 64 << 10
"""More than `MOVES` moves need."""

How = Literal["promote", "rollback"]


class Move(Struct, frozen=True):
    """The alias came to name `version`."""

    version: str
    at: str
    """RFC 3339."""
    how: How


class Alias(Struct, frozen=True):
    """Its moves, oldest first, at least one."""

    moves: tuple[Move, ...]
    format: int = FORMAT

    @property
    def version(self) -> str:
        """What it names now."""
        return self.moves[-1].version

    @property
    def before(self) -> str | None:
        """What a rollback would lead to."""
        undone = _standing(self.moves)
        return undone[-2] if len(undone) > 1 else None


def promoted(alias: Alias | None, version: str, *, at: str) -> Alias:
    """The alias, made if need be, names `version`. The same alias where it does already: nothing to undo."""
    if alias is not None and alias.version == version:
        return alias
    return _moved(alias, Move(version, at, "promote"))


def rolled_back(alias: Alias, *, at: str) -> Alias:
    """The alias names what it named before. Raises `SettingError` where it never named anything else."""
    if alias.before is None:
        raise SettingError(f"there is nothing to go back to: {alias.version} is the first version that it names")
    return _moved(alias, Move(alias.before, at, "rollback"))


def encode(alias: Alias) -> bytes:
    """As it lies in the store."""
    return msgspec.json.format(msgspec.json.encode(alias), indent=1) + b"\n"


def decode(content: bytes) -> Alias:
    """The inverse of `encode`. Raises `ValueError` for anything else; what the versions are is not looked at."""
    try:
        alias = msgspec.json.decode(content, type=Alias)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if alias.format != FORMAT:
        raise ValueError(f"it has format {alias.format}; this version reads {FORMAT}")
    if not alias.moves:
        raise ValueError("it names no version")
    return alias


def _moved(alias: Alias | None, move: Move) -> Alias:
    moves = () if alias is None else alias.moves
    return Alias((*moves, move)[-MOVES:])


def _standing(moves: tuple[Move, ...]) -> list[str]:
    """The versions whose promotion was not undone, the one named now last."""
    standing: list[str] = []
    for move in moves:
        if move.how == "promote":
            standing.append(move.version)
            continue
        del standing[-2:]  # what was undone, and what is named again, which stands anew
        standing.append(move.version)
    return standing
