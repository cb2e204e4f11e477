"""What a recorded shop is to the rest: events in stream order, which of them are scored, how time splits them.

`ga360.Sample` and `table.Table` are such sources; whatever trains, evaluates, scores or watches drift takes either.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from worker.errors import SettingError
from worker.events import Event

WEEK_MS: Final = 7 * 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Where the slices begin and end, UTC ms: training, then validation, then test, up to `end`."""

    start: int
    validation: int
    test: int
    end: int
    outages: tuple[tuple[int, int], ...] = ()
    """From when to when no purchase was recorded: what looks into one is no example."""

    @property
    def week_validation(self) -> int:
        """Where the 7-day horizon's validation begins: its labels end with the shorter horizons' validation."""
        return self.validation - WEEK_MS

    def to_the_end(self) -> "Splits":
        """The same, later by the test slice, which is empty then: for what learns from all that there is."""
        return replace(self, validation=self.validation + self.end - self.test, test=self.end)


class Source(Protocol):
    """A shop's recorded events."""

    @property
    def name(self) -> str:
        """For messages: where it lies."""

    @property
    def files(self) -> list[Path]:
        """What it is read from: files, or a folder of them."""

    @property
    def about(self) -> str:
        """For a model card: a paragraph on what the data is and how it is split."""

    @property
    def key(self) -> list[Any]:
        """For JSON. Changes with the content, and with how it is read: what a cache goes by."""

    @property
    def splits(self) -> Splits:
        """Training, validation, test."""

    def events(self, from_ms: int | None = None, to_ms: int | None = None) -> Iterator[Event]:
        """The events with from <= time < to (UTC ms) in stream order, the same whichever range they are read in."""

    def count(self, from_ms: int | None = None, to_ms: int | None = None) -> int:
        """How many that are at most."""

    def names(self, field: str) -> list[str]:
        """The values that a text field of the events' `events.Context` takes, sorted."""

    def scored(self, event: Event) -> bool:
        """Whether the event is an instant: not on a page that is reached only by buying."""

    def losses(self) -> str:
        """What of it became no event, in a sentence, once all events were read; empty for nothing."""

    def time(self, text: str) -> int:
        """RFC 3339, or a date: the start of the shop's day. UTC ms. `ValueError` with what is accepted."""


def opened(path: Path, mapping: Path | None) -> Source:
    """The GA360 sample in a folder; with a mapping, a table of any shop's events.

    Raises `SettingError` for a path that is not there, a file without a mapping and a mapping that is none,
    `IntentError` for what is there and cannot be used.
    """
    from worker.shop.ga360 import Sample
    from worker.shop.table import Table

    if mapping is not None:
        return Table(path, mapping)
    if path.is_file():
        raise SettingError(f"{path} is a file: --map tells how its columns become events; the GA360 sample is a folder")
    return Sample(path)
