"""One episode: workers and traffic start, faults strike as planned, all drains, and what came out is audited.

Owns the order of these steps. Knows neither how a fault is injected nor what is compared.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos import audit, story
from tests.chaos.audit import Findings, Seen
from tests.chaos.faults import KINDS
from tests.chaos.plan import Episode, Planned
from tests.chaos.process import Scorer
from tests.chaos.pulse import Pulse, well_again
from tests.chaos.traffic import Sent, Traffic
from tests.chaos.workers import START_S, Exit, Workers, identities
from tests.chaos.world import DRAIN_S, World, await_
from tests.integration.deployment import read_all
from tests.integration.verdict import Verdict
from worker import config
from worker.kafka import topics
from worker.kafka.broker import EmbeddedBroker
from worker.settings import Settings

PARTITIONS: Final = 4
RATE: Final = 150.0
"""Events a second."""
_GUESTS: Final = 2
_SETTLE_S: Final = 60.0
_AFTERMATH_S: Final = 12.0
"""An exit so long after all was well again may still be a fault's doing: time-outs of sessions and transactions come
late, and may strike one who works already.
"""
_CALM_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that was injected, and what it did. `broken`: what it found not to hold."""

    planned: Planned
    began_s: float
    ended_s: float
    did: str
    broken: str | None


@dataclass(slots=True)
class Result:
    """An episode's. `recoveries_s` runs in parallel to `struck`; `None` where no event came afterwards."""

    episode: Episode
    events: int
    struck: list[Struck]
    recoveries_s: list[float | None]
    exits: list[Exit]
    findings: Findings
    seconds: float
    fates: dict[str, int] = field(default_factory=dict)


def run(
    episode: Episode, broker: EmbeddedBroker, *, scorer: Scorer, folder: Path, tell: Callable[[str], None]
) -> Result:
    """Blocks for a minute or so. Leaves nothing running; logs and state stay below `folder`."""
    began_s = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(episode, broker, folder)
    topics.create(settings)
    each = identities(settings, count=episode.residents + _GUESTS, static=episode.static, folder=folder)
    tale = story.story(random.Random(episode.seed), partitions=PARTITIONS, hot=episode.hot)
    world = World(
        settings=settings,
        broker=broker,
        workers=Workers(each, residents=episode.residents, scorer=scorer, folder=folder),
        traffic=Traffic(settings.kafka.bootstrap_servers, settings.topics.events, tale, rate=RATE),
    )
    other: list[str] = []
    pulse = Pulse(lambda: world.workers.all_ready and world.lag < RATE)
    try:
        tell("starts")
        world.workers.start()
        world.traffic.start()
        if not await_(lambda: bool(world.published.arrivals), START_S):
            other.append(f"no score within {START_S:.0f} s of the start")
        struck = _strike(episode.faults, world, tell)
        tell("drains, and is audited")
        time.sleep(_CALM_S)
        verdict, findings = conclude(world, scorer=scorer)
    finally:
        pulse.close()
        world.close()
    findings.other += other
    findings.other += [f"{one.planned.kind}: {one.broken}" for one in struck if one.broken]
    first_s = world.published.arrivals[0][0] if world.published.arrivals else 0
    findings.other += unexplained(world.workers.exits, struck, since_s=first_s, beats=pulse.beats)
    return Result(
        episode=episode,
        events=len(verdict.fates),
        struck=struck,
        recoveries_s=[
            recovery_s(one, sent=world.traffic.sent, arrivals=world.published.arrivals, verdict=verdict)
            for one in struck
        ],
        exits=world.workers.exits,
        findings=findings,
        seconds=time.monotonic() - began_s,
        fates=dict(verdict.counts),
    )


def conclude(world: World, *, scorer: Scorer) -> tuple[Verdict, Findings]:
    """No more events: all drains, every worker ends in order, and what readers saw is audited."""
    other: list[str] = []
    world.traffic.stop()
    if not world.await_drained():
        lines = "\n".join(place.said() for place in world.workers.places if place.wanted)
        other.append(
            f"not drained within {DRAIN_S:.0f} s, {world.lag} events are left: {world.progress()}; the workers said:\n"
            f"{lines}"
        )
    other += _stop(world)
    world.published.end_life()
    verdict, findings = audit.audit(_seen(world), tolerance=audit.TOLERANCE[scorer])
    findings.other += [*other, *world.traffic.failures, *world.published.errors]
    return verdict, findings


def _settings(episode: Episode, broker: EmbeddedBroker, folder: Path) -> Settings:
    """Time-outs as short as the machine allows, so that a fault of seconds exceeds them.

    Three nodes hold up a heartbeat for 5 s without any fault: it waits in the connection behind a commit of the group's
    offsets, and that for its copies (`offsets.commit.timeout.ms`). A session that ends then ends a worker that is well.
    """
    session_s = 3 if episode.nodes == 1 else 8
    mark = f"chaos-{episode.seed:08x}-{episode.number}"
    replicas = min(3, episode.nodes)
    return config.load(
        {
            "kafka": {"bootstrap_servers": broker.bootstrap_servers},
            "topics": {
                **{name: f"{mark}.{name}" for name in ("events", "scores", "latest", "dead_letters", "shadow")},
                "partitions": PARTITIONS,
                "replication_factor": replicas,
                "min_insync_replicas": min(2, replicas),
            },
            "worker": {
                "application_id": mark,
                "data_dir": folder / "state",
                "max_batch_events": 300,
                "session_timeout_s": session_s,
                "request_timeout_s": session_s + 1,
                "transaction_timeout_s": 2 * session_s,
                "recovery_timeout_s": 30,
                "shutdown_timeout_s": 10,
            },
            "model": {"device": "cpu"},
            "log": {"level": "info", "format": "json"},
        }
    )


def _strike(faults: Sequence[Planned], world: World, tell: Callable[[str], None]) -> list[Struck]:
    """Each at its time, beside those that still last; one that has to be alone waits until all is well."""
    active: set[str] = set()
    lock = threading.Lock()

    def strike(planned: Planned) -> Struck:
        with lock:
            active.add(planned.kind)
            tell(", ".join(sorted(active)))
        began_s, broken, did = time.monotonic(), None, ""
        try:
            did = KINDS[planned.kind].strike(world, random.Random(planned.seed))
        except Exception as error:  # whatever it is, it is a finding of this fault
            broken = f"{type(error).__name__}: {error}"
        with lock:
            active.discard(planned.kind)
            tell(", ".join(sorted(active)) or "calm")
        return Struck(planned, began_s, time.monotonic(), did, broken)

    running: list[Future[Struck]] = []
    with ThreadPoolExecutor(len(faults), thread_name_prefix="fault") as pool:
        for planned in faults:
            time.sleep(planned.after_s)
            if KINDS[planned.kind].needs.alone:
                wait(running)
                await_(lambda: world.workers.all_ready and world.lag < RATE, _SETTLE_S)
                running.append(pool.submit(strike, planned))
                wait(running)
            else:
                running.append(pool.submit(strike, planned))
    return [one.result() for one in running]


def _stop(world: World) -> list[str]:
    """All is well: every worker ends with 0 on SIGTERM."""
    await_(lambda: world.workers.all_ready, _SETTLE_S)
    within_s = world.settings.worker.shutdown_timeout_s + 5
    return [
        f"{place.name} exited {code} on SIGTERM at the end, 0 is due; it said:\n{place.said()}"
        for place in world.workers.places
        if place.wanted and (code := place.stop(within_s=within_s)) != 0
    ]


def _seen(world: World) -> Seen:
    settings = world.settings
    servers, names = settings.kafka.bootstrap_servers, settings.topics
    source = read_all(servers, names.events, isolation="read_uncommitted")
    ends: dict[int, int] = {}
    for record in source:
        ends[record.partition] = max(record.offset, ends.get(record.partition, -1))
    await_(lambda: all(world.source.furthest[number] >= end for number, end in ends.items()), DRAIN_S)
    world.source.close()
    return Seen(
        topic=names.events,
        source=source,
        lives=world.published.lives,
        latest=read_all(servers, names.latest),
        dead_letters=read_all(servers, names.dead_letters),
        changelog=read_all(servers, settings.changelog),
        sends=[one.send for one in world.traffic.sent],
        source_polls=world.source.polls,
        committed_polls=world.published.polls("read_committed"),
        uncommitted_polls=world.published.polls("read_uncommitted"),
    )


def unexplained(
    exits: Sequence[Exit], struck: Sequence[Struck], *, since_s: float, beats: Sequence[float]
) -> list[str]:
    """Ends that nobody asked for, and others than were asked for, of which no fault can be the reason.

    A worker that is told to stop while brokers are down may have to leave its batch uncommitted, and says so. From the
    first score on: before, a node of several may not have heard of the new topics, which ends a start.
    """
    reasons = [
        (fault.began_s, well_again(beats, fault.ended_s) + _AFTERMATH_S)
        for fault in struck
        if fault.planned.kind != "worker_stopped"
    ]
    return [
        f"{one.worker} ended with {one.code}, though nothing was broken: {_distances(one, reasons)}; "
        f"it said:\n{one.said}"
        for one in exits
        if not (one.due and one.code in {0, -signal.SIGKILL})
        and one.at_s >= since_s
        and not any(begin <= one.at_s <= end for begin, end in reasons)
    ]


def _distances(exit_: Exit, reasons: Sequence[tuple[float, float]]) -> str:
    """How far from each fault and its aftermath an end came, for who looks for its reason."""
    return ", ".join(
        f"{begin - exit_.at_s:.1f} s before a fault" if exit_.at_s < begin else f"{exit_.at_s - end:.1f} s behind one"
        for begin, end in reasons
    )


def recovery_s(
    struck: Struck, *, sent: Sequence[Sent], arrivals: Sequence[tuple[float, int, int]], verdict: Verdict
) -> float | None:
    """From the injection's end to the first committed score of an event sent since it began, in the partition that took
    longest. `None` when no partition got one. What other faults did meanwhile counts in.
    """
    new = {
        (int(one.send.entry.partition), one.send.entry.offset)
        for one in sent
        if one.at_s >= struck.began_s
        and verdict.fates.get((int(one.send.entry.partition), one.send.entry.offset)) == "scored"
    }
    first: dict[int, float] = {}
    for at_s, partition, offset in arrivals:
        if at_s >= struck.ended_s and (partition, offset) in new:
            first.setdefault(partition, at_s - struck.ended_s)
    return max(first.values(), default=None)
