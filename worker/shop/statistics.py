"""How a real shop's visitors behave, as aggregate numbers: what is counted, and the file that holds it.

`statistics.json` beside this module was counted from the GA360 sample with `python -m worker.shop.statistics DIR`. It
holds counts and quantiles only: no visitor, no session, no product code (items are numbered by popularity), and nothing
that was counted fewer than `RARE` times. Knows nothing of how shoppers are played from it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import typer
from msgspec import Struct

from worker.events import Context, Event
from worker.shop import ga360

FILE: Final = Path(__file__).with_name("statistics.json")
SOURCE: Final = "Google Merchandise Store, public GA360 sample, 2016-08-01 to 2016-10-15"
END: Final = "end"
RARE: Final = 10
_QUANTILES: Final = np.linspace(0, 1, 41)
_MAX_CONTEXTS: Final = 90
_MAX_PAGES: Final = 40
_MAX_ITEMS: Final = 900
_DAY_HOURS: Final = 24

Counts = dict[str, int]


class Segment(Struct, frozen=True, kw_only=True):
    """Sessions of one sort. Kinds are event types; `END` stands for the session's end.

    The first event has transitions of its own: half of all sessions end with it, which a chain over kinds alone misses.
    Quantiles are evenly spaced, the minimum and the maximum included.
    """

    sessions: int
    events: int
    opening: Counts
    after_opening: dict[str, Counts]
    transitions: dict[str, Counts]
    dwell_ms: dict[str, list[int]]
    length_events: list[int]
    contexts: list[tuple[Context, int]]


class Statistics(Struct, frozen=True, kw_only=True):
    """The whole shop. `items` are (place in `categories`, usual price in cents, events), the most popular first."""

    source: str
    events: int
    sessions: int
    visitors: int
    purchases: int
    buying: Segment
    looking: Segment
    gap_s: list[int]
    pages: dict[str, list[tuple[str, int]]]
    categories: list[str]
    items: list[tuple[int, int, int]]
    hours: list[int]

    @property
    def returns(self) -> float:
        """The share of sessions that another one of the same visitor follows."""
        return 1 - self.visitors / self.sessions


def load(path: Path = FILE) -> Statistics:
    """The statistics in `path`, by default those shipped with the package."""
    return msgspec.json.decode(path.read_bytes(), type=Statistics)


def summarise(events: Iterable[Event], *, source: str) -> Statistics:
    """Counts a stream in which each session's events come in order. Holds it in memory: about 1 GB a million."""
    sessions: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.session_id is not None:
            sessions[event.session_id].append(event)
    everything = [event for session in sessions.values() for event in session]
    buying = [session for session in sessions.values() if any(event.type == "purchase" for event in session)]
    looking = [session for session in sessions.values() if all(event.type != "purchase" for event in session)]
    categories, items = _items(everything)
    hours = Counter(event.time_ms // 3_600_000 % _DAY_HOURS for event in everything)
    return Statistics(
        source=source,
        events=len(everything),
        sessions=len(sessions),
        visitors=len({event.user_id for event in everything}),
        purchases=sum(event.type == "purchase" for event in everything),
        buying=_segment(buying),
        looking=_segment(looking),
        gap_s=_gaps(sessions.values()),
        pages=_pages(everything),
        categories=categories,
        items=items,
        hours=[hours[hour] for hour in range(_DAY_HOURS)],
    )


def _segment(sessions: Sequence[Sequence[Event]]) -> Segment:
    opening: Counter[str] = Counter()
    after_opening: dict[str, Counter[str]] = defaultdict(Counter)
    transitions: dict[str, Counter[str]] = defaultdict(Counter)
    dwell_ms: dict[str, list[int]] = defaultdict(list)
    contexts: Counter[Context] = Counter()
    for session in sessions:
        kinds = [event.type for event in session]
        opening[kinds[0]] += 1
        for place, (kind, following) in enumerate(zip(kinds, [*kinds[1:], END], strict=True)):
            (transitions if place else after_opening)[kind][following] += 1
        for event, following_event in pairwise(session):
            dwell_ms[event.type].append(following_event.time_ms - event.time_ms)
        if session[0].context is not None:
            contexts[msgspec.structs.replace(session[0].context, visit_number=None)] += 1
    return Segment(
        sessions=len(sessions),
        events=sum(map(len, sessions)),
        opening=_frequent(opening),
        after_opening={kind: _frequent(after_opening[kind]) for kind in sorted(_frequent(opening))},
        transitions={kind: _frequent(counts) for kind, counts in sorted(transitions.items())},
        dwell_ms={kind: _quantiles(values) for kind, values in sorted(dwell_ms.items())},
        length_events=_quantiles([len(session) for session in sessions]),
        contexts=[(context, count) for context, count in contexts.most_common(_MAX_CONTEXTS) if count >= RARE],
    )


def _frequent(counts: Counter[str]) -> Counts:
    """The counts that tell nobody apart; all of them where none is frequent, so that each kind leads somewhere."""
    return {kind: count for kind, count in counts.most_common() if count >= RARE} or {END: 1}


def _quantiles(values: Sequence[float]) -> list[int]:
    return [round(value) for value in np.quantile(values, _QUANTILES).tolist()] if values else []


def _gaps(sessions: Iterable[Sequence[Event]]) -> list[int]:
    """Seconds from one session's last event to the same visitor's next first one."""
    visits: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for session in sessions:
        visits[session[0].user_id].append((session[0].time_ms, session[-1].time_ms))
    gaps = []
    for spans in visits.values():
        spans.sort()
        gaps += [max(start - end, 0) / 1000 for (_, end), (start, _) in pairwise(spans)]
    return _quantiles(gaps)


def _pages(events: Iterable[Event]) -> dict[str, list[tuple[str, int]]]:
    """The usual paths by kind. What stands behind a `?` may be about one visitor."""
    pages: dict[str, Counter[str]] = defaultdict(Counter)
    for event in events:
        if event.page:
            pages[event.type][event.page.partition("?")[0]] += 1
    return {
        kind: [(path, count) for path, count in counts.most_common(_MAX_PAGES) if count >= RARE]
        for kind, counts in sorted(pages.items())
    }


def _items(events: Iterable[Event]) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Category names, and the items by popularity; an item counts under its usual category and price."""
    seen: Counter[str] = Counter()
    category_of: dict[str, Counter[str]] = defaultdict(Counter)
    price_of: dict[str, Counter[float]] = defaultdict(Counter)
    for event in events:
        for item in event.items[:1]:
            seen[item.item_id] += 1
            category_of[item.item_id][item.item_category or ""] += 1
            price_of[item.item_id][item.price or 0.0] += 1
    usual = {name: category_of[name].most_common(1)[0][0] for name in seen}
    ranked = [(name, count) for name, count in seen.most_common(_MAX_ITEMS) if count >= RARE]
    categories = sorted({usual[name] for name, _ in ranked})
    cents = {name: round(price_of[name].most_common(1)[0][0] * 100) for name, _ in ranked}
    return categories, [(categories.index(usual[name]), cents[name], count) for name, count in ranked]


def main(folder: Path) -> None:
    """Counts the sample in `folder` into `FILE`."""
    sample = ga360.Sample(folder)
    statistics = summarise(sample.events(), source=SOURCE)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(statistics), indent=0) + b"\n")
    typer.echo(
        f"{statistics.sessions:,} sessions, {statistics.events:,} events -> {FILE} ({FILE.stat().st_size:,} bytes)"
    )


if __name__ == "__main__":
    typer.run(main)
