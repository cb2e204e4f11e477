"""How a table's columns become events: the TOML file that says so, checked. Knows no table.

==================== ===============================================================================================
``[columns]``        event field = "column"; `user_id`, `event_time` and `type` are needed, `FIELDS` has the others.
                     `event_id` may be a list of columns; rows with the same one are one event with several items,
                     so it is an event's own id: rows with another type or time than its first are rejected
``[time]``           `format`: "s", "ms", "us" or "ns" since 1970, "rfc3339", or as `strptime` has it; `zone`: an IANA
                     name, for times that say none, and for where the shop's day begins
``[types]``          "the table's name" = "one of ours"; "" leaves such rows out. Our own names need no line
``[defaults]``       `type`: what an unknown type becomes ("other"); without it such rows are rejected
``[missing]``        `values`: texts that stand for nothing, such as "(not set)", in all columns but type and time
``[money]``          `scale`: what a price or value is multiplied by (0.01 for cents); `currency`: where no column says
``[pages]``          `confirmation`: what paths that are reached only by buying begin with; they are not scored
``[splits]``         `validation` and `test`: where these slices begin, dates or shares of the time; `start` and `end`
==================== ===============================================================================================
"""

import tomllib
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from worker.errors import SettingError
from worker.events import KINDS

FIELDS: Final = (
    *("session_id", "page", "search_term", "value", "currency", "transaction_id"),
    *("item_id", "item_name", "item_category", "price", "quantity"),
    *("channel", "source", "medium", "browser", "os", "device", "country", "visit_number"),
)
"""What may be mapped beside `user_id`, `event_time`, `type` and `event_id`."""

_Column = Annotated[str, Field(min_length=1)]
_Moment = date | datetime | Annotated[float, Field(gt=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Part):
    """Which column is which field."""

    user_id: _Column
    event_time: _Column
    type: _Column
    event_id: _Column | Annotated[list[_Column], Field(min_length=1)] | None = None
    session_id: _Column | None = None
    page: _Column | None = None
    search_term: _Column | None = None
    value: _Column | None = None
    currency: _Column | None = None
    transaction_id: _Column | None = None
    item_id: _Column | None = None
    item_name: _Column | None = None
    item_category: _Column | None = None
    price: _Column | None = None
    quantity: _Column | None = None
    channel: _Column | None = None
    source: _Column | None = None
    medium: _Column | None = None
    browser: _Column | None = None
    os: _Column | None = None
    device: _Column | None = None
    country: _Column | None = None
    visit_number: _Column | None = None

    @property
    def ids(self) -> list[str]:
        """The columns that an event's id is made of; none where a row is an event."""
        return [self.event_id] if isinstance(self.event_id, str) else list(self.event_id or ())

    @property
    def named(self) -> dict[str, str]:
        """Field -> column, of those in `FIELDS` that are mapped."""
        return {field: column for field in FIELDS if (column := getattr(self, field)) is not None}

    @property
    def used(self) -> list[str]:
        """Every column that is read, once."""
        return list(dict.fromkeys([self.user_id, self.event_time, self.type, *self.ids, *self.named.values()]))


class Time(_Part):
    """How a time is written."""

    format: str = "rfc3339"
    zone: str | None = None

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in {"s", "ms", "us", "ns", "rfc3339"} and "%" not in value:
            raise ValueError("give s, ms, us, ns, rfc3339, or a format such as %Y-%m-%d %H:%M:%S")
        return value

    @field_validator("zone")
    @classmethod
    def _on_the_map(cls, value: str | None) -> str | None:
        try:
            ZoneInfo("UTC" if value is None else value)
        except (LookupError, ValueError, OSError):
            raise ValueError("give a time zone's name, such as Europe/Berlin") from None
        return value


class Defaults(_Part):
    """What stands in where nothing is known."""

    type: Literal["other"] | None = None


class Missing(_Part):
    """What the table writes where there is nothing, beside empty fields."""

    values: tuple[str, ...] = ()


class Money(_Part):
    """What prices and values are in."""

    scale: float = Field(1.0, gt=0)
    currency: str | None = Field(None, min_length=3, max_length=3)


class Pages(_Part):
    """Of the shop."""

    confirmation: tuple[str, ...] = ()


class Slices(_Part):
    """Where training ends and where the test begins."""

    start: date | datetime | None = None
    validation: _Moment = 0.7
    test: _Moment = 0.85
    end: date | datetime | None = None


class Mapping(_Part):
    """The whole file."""

    columns: Columns
    time: Time = Time()
    types: dict[str, str] = {}
    defaults: Defaults = Defaults()
    missing: Missing = Missing()
    money: Money = Money()
    pages: Pages = Pages()
    splits: Slices = Slices()

    @field_validator("types")
    @classmethod
    def _ours(cls, value: dict[str, str]) -> dict[str, str]:
        for theirs, ours in value.items():
            if ours and ours not in KINDS:
                raise ValueError(f"{theirs} = {ours!r} is none of {', '.join(KINDS)}")
        return value


def load(path: Path) -> Mapping:
    """Raises `SettingError`, one sentence that names the file, the entry, its value and what is accepted."""
    try:
        return Mapping(**tomllib.loads(path.read_text()))
    except OSError as error:
        raise SettingError(f"--map is {str(path)!r}, which cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(f"--map is {str(path)!r}, which is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][:2]))  # section and entry; what follows is pydantic's way to an answer
        if first["type"] == "missing":
            raise SettingError(f"{path}: `{place}` is missing; name the column that holds it") from None
        if first["type"] == "extra_forbidden":
            raise SettingError(f"{path}: `{place}` is nothing that a mapping may say") from None
        message = first["msg"].removeprefix("Value error, ")
        shown = "" if first["loc"] == ("types",) else f" is {first['input']!r}"
        raise SettingError(f"{path}: `{place}`{shown}: {message[0].lower()}{message[1:]}") from None
