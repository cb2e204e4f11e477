"""The output score: its type, its reason codes and its codec. Knows neither the model nor the transport.

The JSON Schema of the same contract is `schemas/intent.scores.v1.json`; a contract test holds the two together.
"""

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from worker import window as windows
from worker.events import Event

HORIZONS: Final = ("purchase_30m", "purchase_24h", "purchase_7d")
"""What the model predicts, in the order of its heads."""

REASONS: Final = (
    "purchase_in_window",
    "checkout_started",
    "payment_info_added",
    "cart_added",
    "cart_removed",
    "item_viewed_again",
    "many_item_views",
    "search_used",
    "returning_visitor",
    "fresh_session",
    "long_idle",
    "promotion_selected",
)
"""Reason codes of an intent; may be appended to, never reordered: bundles refer to them by place."""

NO_REASON: Final = 255

RISK_REASONS: Final = (
    "burst",
    "machine_pace",
    "repetition",
    "no_dwell",
    "unusual_sequence",
    "regular_pace",
    "repeated_sequence",
    "overlapping_sessions",
)
"""Reason codes of a risk, by bit of the engine's mask, which is full: a ninth needs a wider one."""

RISK_REASONS_OF_MASK: Final = tuple(
    tuple(code for bit, code in enumerate(RISK_REASONS) if mask >> bit & 1) for mask in range(1 << len(RISK_REASONS))
)

CONTENT_TYPE: Final = "application/json"
EVENT_TYPE: Final = "intent.score.v1"
SHADOW_TYPE: Final = "intent.score.shadow.v1"
"""Of a challenger's score: it says what would have been, and nobody should act on it."""

Headers = Sequence[tuple[str, bytes | None]]

_Probability = Annotated[float, Meta(ge=0, le=1)]
_EPOCH = dt.date(1970, 1, 1).toordinal()
_DAY_MS: Final = 86_400_000
_MINUTES = tuple(f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(24 * 60))
_SECONDS = tuple(f"{second:02d}" for second in range(60))
_MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))
_encoder = msgspec.json.Encoder()


class Source(Struct, frozen=True, gc=False):
    """The record that was scored."""

    topic: str
    partition: int
    offset: int


class Intent(Struct, frozen=True, gc=False):
    """Calibrated probabilities of a purchase within the horizon, in the order of `HORIZONS`."""

    purchase_30m: _Probability
    purchase_24h: _Probability
    purchase_7d: _Probability


class Percentile(Struct, frozen=True, gc=False):
    """The share of a reference's scores, of the past and of the same model, that each probability reaches."""

    purchase_30m: _Probability
    purchase_24h: _Probability
    purchase_7d: _Probability


class Risk(Struct, frozen=True, gc=False):
    """How little the window looks like a person's."""

    score: _Probability
    reasons: tuple[str, ...]


class WindowFacts(Struct, frozen=True, gc=False):
    """Which events the score rests on."""

    events: int
    first_event_time: str
    last_event_time: str
    digest: str


class Model(Struct, frozen=True, gc=False):
    """What scored."""

    name: str
    version: str


class Reason(Struct, frozen=True, gc=False):
    """One code and how much it moved the 24 h score, in logits."""

    code: str
    weight: float


class Score(Struct, frozen=True, gc=False):
    """One score as readers see it; fields they do not know are ignored."""

    score_id: str
    event_id: str
    user_id: str
    session_id: str | None
    event_time: str
    source: Source
    intent: Intent
    risk: Risk
    window: WindowFacts
    model: Model
    reasons: tuple[Reason, ...]
    scored_at: str
    schema_version: int = 1
    intent_percentile: Percentile | msgspec.UnsetType = msgspec.UNSET


class Rating(Struct, frozen=True, gc=False):
    """The engine's answer for one window: those parts of its score that are the model's."""

    intent: Intent
    risk: Risk
    reasons: tuple[Reason, ...]
    model: Model
    intent_percentile: Percentile | msgspec.UnsetType = msgspec.UNSET


def decode(value: bytes) -> Score:
    """A published score. Raises `msgspec.DecodeError` (its `ValidationError` included) for anything else."""
    return msgspec.json.decode(value, type=Score)


def score_id(topic: str, partition: int, offset: int) -> str:
    """The score's identity: where its event came from. The same in every retry and every replay."""
    return f"{topic}-{partition}-{offset}"


def rfc3339(time_ms: int) -> str:
    """UTC with milliseconds, e.g. ``2016-08-01T07:00:00.000Z``."""
    day, ms = divmod(time_ms, _DAY_MS)
    minute, ms = divmod(ms, 60_000)
    return f"{_date(day)}{_MINUTES[minute]}{_SECONDS[ms // 1000]}{_MILLISECONDS[ms % 1000]}"


@lru_cache(1 << 10)  # a window goes back 30 days; with the tables 0.3 µs a time, where `strftime` takes 2.8
def _date(day: int) -> str:
    return dt.date.fromordinal(_EPOCH + day).isoformat()


def encode(
    event: Event,
    window: bytes,
    rating: Rating,
    *,
    topic: str,
    partition: int,
    offset: int,
    scored_at: str,
) -> bytes:
    """The score as JSON."""
    kept, first_ms, last_ms = windows.extent(window)
    time_ms = event.time_ms
    event_time = rfc3339(time_ms)
    score = Score(
        score_id=score_id(topic, partition, offset),
        event_id=event.event_id,
        user_id=event.user_id,
        session_id=event.session_id,
        event_time=event_time,
        source=Source(topic, partition, offset),
        intent=rating.intent,
        risk=rating.risk,
        window=WindowFacts(
            events=kept,
            first_event_time=rfc3339(first_ms),
            last_event_time=event_time if last_ms == time_ms else rfc3339(last_ms),
            digest=windows.digest(window),
        ),
        model=rating.model,
        reasons=rating.reasons,
        scored_at=scored_at,
        intent_percentile=rating.intent_percentile,
    )
    return _encoder.encode(score)


def headers(score_id: str, *, source: str, scored_at: str, type_: str = EVENT_TYPE) -> Headers:
    """CloudEvents 1.0, Kafka binary binding. `source` is the application that scored."""
    return [("ce_id", score_id.encode()), *_common_headers(source, scored_at, type_)]


@lru_cache(64)  # the same for a whole batch
def _common_headers(source: str, scored_at: str, type_: str) -> Headers:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_type", type_.encode()),
        ("ce_source", source.encode()),
        ("ce_time", scored_at.encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]
