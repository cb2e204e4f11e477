"""The input event: its type, its bounds and its codec. Knows neither where events come from nor what is done with them.

Names follow the GA4 e-commerce events. The JSON Schema of the same contract is `schemas/clickstream.events.v1.json`;
a contract test holds the two together.
"""

import datetime as dt
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from worker.errors import Invalid

MAX_VALUE_BYTES: Final = 64 * 1024
MAX_USER_BYTES: Final = 256
MAX_AHEAD_MS: Final = 24 * 3600 * 1000
MAX_TIME_MS: Final = 253_402_300_799_999  # 9999-12-31: the last instant that RFC 3339 can write

KINDS: Final = (
    "other",
    "page_view",
    "view_item_list",
    "select_item",
    "view_item",
    "add_to_cart",
    "remove_from_cart",
    "view_cart",
    "begin_checkout",
    "add_payment_info",
    "review_order",
    "purchase",
    "search",
    "select_promotion",
    "login",
    "sign_up",
)
"""Known event types; the index is the kind's number in stored windows, so the order may only be appended to."""

ERASE: Final = "user.erase"
"""The control event: removes the user's window, gets no score."""

_FRAMING = b"\x00"  # Confluent registry framing: this byte, a 4-byte schema id, then the JSON
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)

_Id = Annotated[str, Meta(min_length=1, max_length=128)]
_User = Annotated[str, Meta(min_length=1, max_length=MAX_USER_BYTES)]
_Text = Annotated[str, Meta(max_length=512)]
_Page = Annotated[str, Meta(max_length=2048)]
_Amount = Annotated[float, Meta(ge=-1e12, le=1e12)]
_Time = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)] | Annotated[dt.datetime, Meta(tz=True)]


class Item(Struct, frozen=True, gc=False, omit_defaults=True):
    """One product of an event. `price` is in currency units."""

    item_id: _Id
    item_name: _Text | None = None
    item_category: _Text | None = None
    price: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    quantity: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class Context(Struct, frozen=True, gc=False, omit_defaults=True):
    """What is known of a visit at its start."""

    channel: _Text | None = None
    source: _Text | None = None
    medium: _Text | None = None
    browser: _Text | None = None
    os: _Text | None = None
    device: _Text | None = None
    country: _Text | None = None
    visit_number: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class Event(Struct, frozen=True, gc=False, omit_defaults=True):
    """One thing a user did. `type` is any name; those not in `KINDS` count as `other`."""

    event_id: _Id
    user_id: _User
    event_time: _Time
    type: Annotated[str, Meta(min_length=1, max_length=64)]
    session_id: _Id | None = None
    items: Annotated[tuple[Item, ...], Meta(max_length=50)] = ()
    value: _Amount | None = None
    currency: Annotated[str, Meta(min_length=3, max_length=3)] | None = None
    search_term: _Text | None = None
    page: _Page | None = None
    context: Context | None = None
    schema_version: Annotated[int, Meta(ge=1, le=1)] = 1

    @property
    def time_ms(self) -> int:
        """Event time in UTC milliseconds since 1970; a finer fraction is cut off."""
        time = self.event_time
        return time if isinstance(time, int) else (time - _EPOCH) // _MILLISECOND


_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """The event as JSON, absent fields left out."""
    return _encoder.encode(event)


def decode(value: bytes | None, *, key: bytes | None, timestamp_ms: int) -> Event:
    """One record's value to an event; plain JSON or Confluent registry framing.

    The event's time is in ms then, however it was written. `timestamp_ms` is the record's own timestamp: an event time
    over a day ahead of it is refused, since it would make the user's true events late. Raises nothing but `Invalid`.
    """
    if value is None:
        raise Invalid("empty", "the record has no value; an event in JSON is expected")
    if len(value) > MAX_VALUE_BYTES:
        raise Invalid("too_large", f"the value has {len(value)} bytes; at most {MAX_VALUE_BYTES} are accepted")
    try:
        event = _decoder.decode(value[5:] if value[:1] == _FRAMING else value)
    except msgspec.ValidationError as error:
        raise Invalid("schema", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid("json", str(error)) from None
    except RecursionError:
        raise Invalid("json", "the value is nested too deeply") from None
    time_ms = event.event_time
    if not isinstance(time_ms, int):
        time_ms = event.time_ms
        force_setattr(event, "event_time", time_ms)  # ours alone yet; converted once, it is read three times
    user = event.user_id.encode()
    if len(user) > MAX_USER_BYTES:
        raise Invalid("schema", f"`user_id` has {len(user)} bytes in UTF-8; at most {MAX_USER_BYTES} are accepted")
    if key != user:
        raise Invalid("wrong_key", "the record's key is not the event's `user_id` in UTF-8")
    if time_ms < 0:
        raise Invalid("schema", "`event_time` is before 1970")
    if time_ms > MAX_TIME_MS:  # a local time of 9999 with an offset: in UTC it has a fifth digit
        raise Invalid("schema", "`event_time` is after the year 9999 in UTC")
    if time_ms > timestamp_ms + MAX_AHEAD_MS:
        if timestamp_ms < 0:  # Kafka takes -1 for none, and some clients send it
            raise Invalid("future", "the record has no timestamp, ahead of which `event_time` must not be")
        raise Invalid(
            "future", f"`event_time` is {(time_ms - timestamp_ms) / 3.6e6:.1f} h ahead of the record's timestamp"
        )
    return event
