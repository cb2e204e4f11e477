"""What the live view shows: rates, latency, fates and the users whose intent rises. Pure; bounded in memory.

Fed by one thread and read by another: every method takes the lock. Knows neither Kafka nor the terminal.
"""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hdrh.histogram import HdrHistogram

from worker.demo.ledger import Place

_MAX_USERS: Final = 20_000
_MAX_UNPAIRED: Final = 200_000
_RECENT_EVENTS: Final = 10
_RECENT_SCORES: Final = 14
_MAX_LATENCY_MS: Final = 3_600_000
_SPAN_S: Final = 5.0  # "now" is the last 5 to 10 seconds
_FRESH_S: Final = 12.0
_LEAST_RISE: Final = 0.02
_HISTORY: Final = 60
_RATE_OVER: Final = 4  # samples


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a user did, for people: the event's type and the item's short name."""

    kind: str
    item: str = ""


@dataclass(slots=True)
class _User:
    acts: deque[Act] = field(default_factory=lambda: deque(maxlen=_RECENT_EVENTS))
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_SCORES))
    reasons: tuple[str, ...] = ()
    scored_at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rising:
    """A user whose probability to buy has grown: its course, oldest first, and what was done last."""

    user: str
    scores: Sequence[float]
    acts: Sequence[Act]
    reasons: Sequence[str]

    @property
    def rise(self) -> float:
        """From the lowest of the course to now."""
        return self.scores[-1] - min(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds from an event's scheduled send to its score's arrival at a reader of committed records."""

    count: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look at the board."""

    events: int
    scores: int
    dead: dict[str, int]
    events_per_s: float
    scores_per_s: float
    history: Sequence[float]
    latency_now: Latency
    latency_all: Latency
    rising: Sequence[Rising]
    model: Mapping[str, str]
    """As the newest score names it; empty before the first."""


class Board:
    """Times are seconds of one monotonic clock; `at_ms` and timestamps are wall-clock milliseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events = 0
        self._scores = 0
        self._dead: Counter[str] = Counter()
        self._model: Mapping[str, str] = {}
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._sent_ms: OrderedDict[Place, int] = OrderedDict()
        self._arrived_ms: OrderedDict[Place, int] = OrderedDict()
        self._all = _histogram()
        self._now, self._before = _histogram(), _histogram()
        self._turned_s = 0.0
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=_HISTORY)

    def event(self, place: Place, *, timestamp_ms: int, user: str | None, act: Act | None) -> None:
        """A source record was seen; user and act are None when it cannot be read."""
        with self._lock:
            self._events += 1
            arrived_ms = self._arrived_ms.pop(place, None)
            if arrived_ms is None:
                _put(self._sent_ms, place, timestamp_ms)
            else:
                self._record(arrived_ms - timestamp_ms)
            if user is not None and act is not None:
                self._user(user).acts.append(act)

    def score(
        self,
        place: Place,
        *,
        at_ms: int,
        now_s: float,
        user: str,
        chance: float,
        reasons: Sequence[str],
        model: Mapping[str, str],
    ) -> None:
        """A score was seen; `chance` is the probability that the view follows."""
        with self._lock:
            self._scores += 1
            self._model = model
            sent_ms = self._sent_ms.pop(place, None)
            if sent_ms is None:
                _put(self._arrived_ms, place, at_ms)
            else:
                self._record(at_ms - sent_ms)
            track = self._user(user)
            track.scores.append(chance)
            track.reasons = tuple(reasons)
            track.scored_at_s = now_s

    def dead(self, place: Place, reason: str) -> None:
        """A dead letter was seen."""
        with self._lock:
            self._dead[reason] += 1
            self._sent_ms.pop(place, None)

    def snapshot(self, now_s: float, *, users: int) -> Snapshot:
        """The state at `now_s`, with at most so many rising users. Rates are over the last few snapshots."""
        with self._lock:
            self._samples.append((now_s, self._events, self._scores))
            if now_s - self._turned_s >= _SPAN_S:
                self._before, self._now = self._now, _histogram()
                self._turned_s = now_s
            recent = _histogram()
            recent.add(self._now)
            recent.add(self._before)
            rates = self._rates()
            return Snapshot(
                events=self._events,
                scores=self._scores,
                dead=dict(self._dead),
                events_per_s=rates[-1][0] if rates else 0.0,
                scores_per_s=rates[-1][1] if rates else 0.0,
                history=[events for events, _ in rates],
                latency_now=_latency(recent),
                latency_all=_latency(self._all),
                rising=self._rising(now_s, users),
                model=self._model,
            )

    def _rates(self) -> list[tuple[float, float]]:
        samples = list(self._samples)
        rates = []
        for (then_s, events_then, scores_then), (at_s, events, scores) in zip(
            samples, samples[_RATE_OVER:], strict=False
        ):
            span_s = max(at_s - then_s, 1e-9)
            rates.append(((events - events_then) / span_s, (scores - scores_then) / span_s))
        return rates

    def _rising(self, now_s: float, count: int) -> list[Rising]:
        found = [
            Rising(user=name, scores=tuple(user.scores), acts=tuple(user.acts), reasons=user.reasons)
            for name, user in self._users.items()
            if len(user.scores) > 1 and now_s - user.scored_at_s <= _FRESH_S
        ]
        risen = [one for one in found if one.rise >= _LEAST_RISE]
        return sorted(risen, key=lambda one: one.rise, reverse=True)[:count]

    def _user(self, name: str) -> _User:
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = _User()
            if len(self._users) > _MAX_USERS:
                self._users.popitem(last=False)
        else:
            self._users.move_to_end(name)
        return user

    def _record(self, latency_ms: int) -> None:
        value = min(max(latency_ms, 1), _MAX_LATENCY_MS)
        self._all.record_value(value)
        self._now.record_value(value)


def _put(places: OrderedDict[Place, int], place: Place, value: int) -> None:
    """A place whose partner never comes (a duplicate has no score) must not stay for ever."""
    places[place] = value
    if len(places) > _MAX_UNPAIRED:
        places.popitem(last=False)


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, _MAX_LATENCY_MS, 2)


def _latency(histogram: HdrHistogram) -> Latency:
    return Latency(
        count=histogram.get_total_count(),
        p50=histogram.get_value_at_percentile(50),
        p99=histogram.get_value_at_percentile(99),
    )
