"""What an episode's readers saw, held against the oracle and against what no correct log can show.

Pure: topics as lists of records in, differences out. Shares no code with `worker`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from tests.chaos import changelog, history
from tests.chaos.history import Poll, Send
from tests.chaos.world import Life
from tests.integration.deployment import Read
from tests.integration.verdict import Verdict, value
from tests.oracle import hashed

TOLERANCE: Final = {"digest": 0.0, "bundle": 1e-5}
"""How far two scores of one window by one model may lie apart: whoever shares its batch shows in the last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that readers saw of one episode. `polls` are of readers that followed while it ran."""

    topic: str
    source: Sequence[Read]
    lives: Sequence[Life]
    latest: Sequence[Read]
    dead_letters: Sequence[Read]
    changelog: Sequence[Read]
    sends: Sequence[Send]
    source_polls: Sequence[Poll]
    committed_polls: Sequence[Poll]
    uncommitted_polls: Sequence[Poll]


@dataclass(slots=True)
class Findings:
    """Differences by what they are, each a sentence. All are empty when the contract held."""

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unrepeatable: list[str] = field(default_factory=list)
    windows: list[str] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    """Scores that no reader of uncommitted records got."""
    other: list[str] = field(default_factory=list)
    """Dead letters, latest scores, order, and the anomalies of histories."""


def audit(seen: Seen, *, tolerance: float) -> tuple[Verdict, Findings]:
    """What was due, and every difference."""
    verdict = Verdict(seen.topic, seen.source)
    committed = [record for life in seen.lives for record in life.committed]
    uncommitted = [record for life in seen.lives for record in life.uncommitted]
    found = Findings(
        lost=verdict.lost(committed),
        twice=verdict.repeated(committed),
        unrepeatable=list(unrepeatable([*committed, *uncommitted], tolerance=tolerance)),
        windows=[*verdict.wrong_scores(committed), *wrong_windows(verdict, seen.changelog)],
        uncommitted=verdict.lost(uncommitted),
        other=[
            *chain.from_iterable(verdict.disorder(life.committed) for life in seen.lives),
            *verdict.wrong_latest(seen.latest),
            *verdict.wrong_dead_letters(seen.dead_letters, seen.source),
            *_anomalies(seen),
        ],
    )
    return verdict, found


def unrepeatable(scores: Iterable[Read], *, tolerance: float) -> Iterator[str]:
    """Two records of one score and one model version that differ in the window or in what they say about it."""
    first: dict[tuple[str, str, str], tuple[str, dict[str, float]]] = {}
    for record in scores:
        score = value(record)
        name = (score["score_id"], score["model"]["name"], score["model"]["version"])
        digest, intent = first.setdefault(name, (score["window"]["digest"], score["intent"]))
        apart = max(abs(intent[horizon] - score["intent"][horizon]) for horizon in intent)
        if digest != score["window"]["digest"] or apart > tolerance:
            yield f"{name}: windows {digest} and {score['window']['digest']}, scores {apart:g} apart"


def wrong_windows(verdict: Verdict, records: Sequence[Read]) -> Iterator[str]:
    """Users whose newest changelog record is not the oracle's window; watermarks that are not the input's end."""
    tables = changelog.newest(records)
    ends: dict[int, int] = defaultdict(int)
    for number, offset in verdict.fates:
        ends[number] = max(offset, ends[number])
    for number, end in ends.items():
        table = dict(tables.get(number, {}))
        partition = verdict.partitions[number]
        mark = table.pop(changelog.WATERMARK, None)
        due = (end, partition.newest or 0)
        if mark is None or changelog.watermark(mark) != due:
            found = None if mark is None else changelog.watermark(mark)
            yield f"partition {number}: the watermark is {found}, due is {due}"
        for user in table.keys() | {user.encode() for user in partition.users}:
            name = user.decode()
            stored = table.get(user)
            kept = partition.users.get(name)
            if stored is None:
                if kept is not None and not partition.expired(name):
                    yield f"user {name}: no window, {len(kept.kept)} events are due"
            elif kept is None:
                yield f"user {name}: a window, though the user was erased"
            else:
                window = changelog.window(stored)
                if window.kept != tuple((time, hashed(id_)) for time, _, id_ in kept.kept):
                    yield f"user {name}: another window of {len(window.kept)} events, {len(kept.kept)} are due"
                elif window.recent != tuple(map(hashed, kept.folded[-changelog.RECENT :])):
                    yield f"user {name}: remembers other ids than those of the last folded events"


def _anomalies(seen: Seen) -> Iterator[str]:
    """The histories' own. The topics' final contents are one more reader's poll, who came last."""
    committed_end = [_final(life.committed, number) for number, life in enumerate(seen.lives)]
    uncommitted_end = [_final(life.uncommitted, number) for number, life in enumerate(seen.lives)]
    for topic, found in (
        (
            "source",
            # Repeats are the sender's own: where one partition loses its place, librdkafka goes on in all of them under
            # a new epoch, and sends again what is under way. The worker takes the copies for duplicates.
            history.anomalies(seen.sends, [*seen.source_polls, Poll("final", _source(seen.source))], repeats=True),
        ),
        ("committed scores", history.anomalies([], [*seen.committed_polls, *committed_end])),
        ("uncommitted scores", history.anomalies([], [*seen.uncommitted_polls, *uncommitted_end], repeats=True)),
        ("aborted read", history.lost_writes(_as_sends(seen.committed_polls), committed_end)),
    ):
        yield from (f"{topic}: {anomaly.kind}: {anomaly.text}" for anomaly in found)


def _as_sends(polls: Iterable[Poll]) -> list[Send]:
    """What a reader of committed records got was promised to all later ones: the final reader must find it too."""
    return [Send(poll.reader, entry) for poll in polls for entry in poll.entries]


def _final(records: Sequence[Read], life: int) -> Poll:
    entries = (
        history.Entry(f"{record.partition}" + "'" * life, record.offset, record.headers["ce_id"].decode())
        for record in sorted(records, key=lambda record: (record.partition, record.offset))
    )
    return Poll("final", tuple(entries))


def _source(records: Sequence[Read]) -> tuple[history.Entry, ...]:
    return tuple(
        history.Entry(str(record.partition), record.offset, record.headers["send"].decode())
        for record in sorted(records, key=lambda record: (record.partition, record.offset))
    )
