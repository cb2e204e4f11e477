"""A table's columns as they are read: CSV as text, Parquet as typed, times as UTC ms; and what became of bad rows.

Knows the file and how a time is written, nothing of events.
"""

import datetime as dt
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worker.errors import IntentError, SettingError
from worker.events import MAX_TIME_MS
from worker.shop import quoting
from worker.shop.mapping import Time

BAD: Final = -1
"""Stands for a time that could not be read."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_PER_MS: Final[dict[str, int | Decimal]] = {"s": Decimal("0.001"), "ms": 1, "us": 1000, "ns": 1_000_000}
_NULLS: Final = ["", "NULL", "null", "NaN", "nan", r"\N"]
TEXT: Final = pa.large_string()
"""Of every text here: Arrow puts a column in one piece at times, and of its other kind one holds 2 GiB at most."""

_SHOWN: Final = 500
_BYTES: Final = (
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view),
    pa.types.is_string_view,  # for which Arrow lacks most of its functions
)


class Rejects:
    """Rows that became no event, by reason, with the first of each in a sentence. A row counts once."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.left_out = 0
        self._seen: set[tuple[str, int]] = set()

    @property
    def total(self) -> int:
        """Of all reasons, without what the mapping leaves out."""
        return self.counts.total()

    def add(self, reason: str, row: int, sentence: str, *, rows: int = 1) -> None:
        """Counts `rows` rows, the first of which is the file's `row`-th below its header."""
        if (reason, row) in self._seen:
            return
        self._seen.add((reason, row))
        self.counts[reason] += rows
        shown = sentence if len(sentence) <= _SHOWN else f"{sentence[:_SHOWN]} …"  # it may quote a whole field
        self.examples.setdefault(reason, f"row {row}: {shown}")

    def leave_out(self, row: int, *, rows: int = 1) -> None:
        """Counts rows that the mapping does not want."""
        if ("", row) not in self._seen:
            self._seen.add(("", row))
            self.left_out += rows

    def document(self) -> dict[str, dict[str, object]]:
        """For programs."""
        return {reason: {"rows": count, "first": self.examples[reason]} for reason, count in self.counts.items()}

    def __str__(self) -> str:
        parts = [f"{reason} {count:,} ({self.examples[reason]})" for reason, count in self.counts.most_common()]
        return f"{self.total:,} rows rejected: " + "; ".join(parts) if parts else "no row rejected"


def read(path: Path, columns: Sequence[str], rejects: Rejects) -> tuple[pa.Table, NDArray[np.int64]]:
    """The named columns, and which of the file's rows each row is. A CSV's are text, so that an id keeps its zeros.

    Raises `SettingError` for a file that is not there, `IntentError` for one that cannot be read, for a column that is
    not there, is there twice or cannot be read as text, a number or a time, and for a CSV whose quoted values do not
    end. A CSV line of another width is rejected; an empty field is nothing.
    """
    parquet = path.suffix == ".parquet"
    try:
        if not parquet:
            quoting.check(path)
        there = pq.read_schema(path).names if parquet else _header(path)
        missing = [name for name in columns if name not in there]
        if missing:
            raise IntentError(
                f"{path} has no column {missing[0]!r}, which the mapping names; it has {', '.join(there)}"
            )
        several = [name for name in columns if there.count(name) > 1]
        if several:
            raise IntentError(f"{path} has several columns {several[0]!r}, which the mapping names; rename all but one")
        if not parquet:
            return _csv(path, columns, rejects)
        table = pq.read_table(path, columns=list(columns))
    except FileNotFoundError:
        raise SettingError(f"{path} does not exist; give a CSV or Parquet file") from None
    except UnicodeDecodeError as error:
        raise IntentError(f"{path} is not in UTF-8 ({error}); save it in UTF-8") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise IntentError(f"{path} cannot be read as {'Parquet' if parquet else 'CSV in UTF-8'}: {error}") from None
    plain = [_plain(table[name], f"{path}: the column {name!r}") for name in table.column_names]
    return pa.table(plain, table.column_names), np.arange(1, len(table) + 1)


def _plain(column: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    """A column that Python and Arrow can both tell as text: an extension's values and binary ones become text here."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if isinstance(kind, pa.BaseExtensionType):  # a UUID, which Arrow would take for 16 bytes of text
        return pa.chunked_array([pa.array(map(text, column.to_pylist()), TEXT)])
    try:
        if any(bytes_(kind) for bytes_ in _BYTES) or pa.types.is_string(column.type):
            column = column.cast(TEXT)
        column.slice(0, 0).cast(TEXT)  # no value: only whether it could be
        column.validate(full=True)  # a writer may call anything text
    except pa.ArrowNotImplementedError:
        raise IntentError(
            f"{what} holds {kind}; map a column of text, numbers, booleans, dates or times, or flatten this one"
        ) from None
    except pa.ArrowInvalid as error:
        raise IntentError(f"{what} holds {kind} that is not UTF-8 ({error}); save it as text in UTF-8") from None
    return column


def blanked(column: pa.ChunkedArray, markers: Sequence[str]) -> pa.ChunkedArray:
    """The column with nothing where its text is one of the markers."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return column
    column = column.cast(TEXT)
    return pc.if_else(pc.is_in(column, value_set=pa.array(markers, TEXT)), None, column)


def _header(path: Path) -> list[str]:
    options = pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip")
    with _decoding(), pacsv.open_csv(path, parse_options=options) as reader:
        names: list[str] = reader.schema.names
    return names


def _csv(path: Path, columns: Sequence[str], rejects: Rejects) -> tuple[pa.Table, NDArray[np.int64]]:
    skipped: list[int] = []

    def skip(row: Any) -> str:
        skipped.append(row.number - 1)  # Arrow counts the header
        sentence = f"{row.actual_columns} fields where the header has {row.expected_columns}"
        rejects.add("columns", skipped[-1], sentence)
        return "skip"

    with _decoding():
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(use_threads=False),  # else a bad line has no number
            parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(columns),
                column_types=dict.fromkeys(columns, TEXT),
                strings_can_be_null=True,
                null_values=_NULLS,
            ),
        )
    numbers = np.setdiff1d(np.arange(1, len(table) + len(skipped) + 1), skipped, assume_unique=True)
    return table, numbers


@contextmanager
def _decoding() -> Iterator[None]:
    """Arrow decodes a row of another width for its handler, and where it cannot, prints a traceback: none is wanted.

    It refuses the file all the same.
    """
    before = sys.unraisablehook

    def hear(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, UnicodeDecodeError):
            before(unraisable)

    sys.unraisablehook = hear
    try:
        yield
    finally:
        sys.unraisablehook = before


def times(column: pa.ChunkedArray, time: Time, rejects: Rejects, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] UTC ms, `BAD` where the row's time cannot be read, which is told to `rejects` with the row's number.

    A finer fraction is cut off, as of events in the topic. Of an hour that a zone has twice it is the first; in one
    that it leaves out, the clock was not put forward yet.
    """
    if pa.types.is_timestamp(column.type):
        ms = pc.cast(column, pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
        values: list[Any] = ms.to_pylist()
        parse: Callable[[Any], int] = partial(_count, per_ms=1)
        if column.type.tz is None:
            if time.zone is None:
                raise IntentError('the times have no zone; set `zone` in the mapping\'s [time], e.g. "UTC"')
            parse = partial(_there, zone=ZoneInfo(time.zone))  # not Arrow's, which puts a left out hour into one moment
    else:
        values = listed(column)
        parse = _parser(time)
    found = np.full(len(values), BAD, np.int64)
    for place, value in enumerate(values):
        try:
            at = parse(value)
        except (ValueError, TypeError, OverflowError) as error:
            why = f"{value!r} is not a time by {time.format!r}" if isinstance(error, _Unreadable) else str(error)
            at = BAD
        else:
            why = f"{value!r} is not between 1970 and 9999"
        if 0 <= at <= MAX_TIME_MS:
            found[place] = at
        else:
            rejects.add("time", int(numbers[place]), why)
    return found


def listed(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """As Python has them; dates and times as text, for Python's own are neither as fine nor as far."""
    found: list[Any] = (column.cast(TEXT) if pa.types.is_temporal(column.type) else column).to_pylist()
    return found


def text(value: Any) -> str | None:
    """A field as text, None for nothing. A whole number is one however it is typed: pandas makes floats of ids."""
    if not says(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def says(value: Any) -> bool:
    """Whether a field holds anything; no number is nothing."""
    return value is not None and value != "" and value == value  # noqa: PLR0124 - NaN is not itself


class _Unreadable(ValueError):
    """A text that is no time in the format."""


def _parser(time: Time) -> Callable[[Any], int]:
    if time.format in _PER_MS:
        per_ms = _PER_MS[time.format]
        return lambda value: _count(value, per_ms)
    zone = None if time.zone is None else ZoneInfo(time.zone)

    def parse(value: Any) -> int:
        try:
            if time.format == "rfc3339":
                moment = dt.datetime.fromisoformat(str(value).replace(" UTC", "+00:00"))  # as BigQuery writes it
            else:
                moment = dt.datetime.strptime(str(value), time.format)  # noqa: DTZ007 - its zone may be the mapping's
        except ValueError:
            raise _Unreadable from None
        if moment.tzinfo is None:
            if zone is None:
                raise ValueError(f"{value!r} has no offset from UTC; set `zone` in the mapping's [time]")
            moment = moment.replace(tzinfo=zone)
        return (moment - _EPOCH) // _MILLISECOND

    return parse


def _there(local_ms: Any, zone: ZoneInfo) -> int:
    """UTC ms of a clock in the zone that shows so many since 1970."""
    shown = _EPOCH + _count(local_ms, 1) * _MILLISECOND
    return (shown.replace(tzinfo=zone) - _EPOCH) // _MILLISECOND


def _count(value: Any, per_ms: int | Decimal) -> int:
    try:
        if per_ms >= 1 and not isinstance(value, float):
            return int(value) // int(per_ms)
        return math.floor(Decimal(str(value)) / per_ms)  # by doubles .123 s may be 122.9999 ms
    except (ValueError, TypeError, ArithmeticError):  # the last one for what is no number, or has no end
        raise _Unreadable from None
