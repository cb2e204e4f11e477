"""What a demo came to: the checks, as pure judgement over counts, and how they are told to people and programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worker.demo.board import Latency
from worker.demo.ledger import Place, Verdict

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, whether it held, and the numbers that show it."""

    promise: str
    holds: bool
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished demo. `seconds` is how long events were sent; `lives` how often the worker was started."""

    verdict: Verdict
    checks: Sequence[Check]
    seconds: float
    latency: Latency
    lives: int
    model: Mapping[str, str]
    """Its name and version; empty where nothing was scored."""

    @property
    def holds(self) -> bool:
        """Whether every check held."""
        return all(check.holds for check in self.checks)


def judge(
    verdict: Verdict, *, acknowledged: int, done: int, counted: Mapping[str, int] | None, exit_code: int
) -> list[Check]:
    """The checks.

    `acknowledged` is what the publisher knows to be in Kafka, `done` what the worker says to be done with, `counted`
    its own fates, or None where a kill has cut them short. Only `verdict`, counted from the topics, is trusted.
    """
    fates = {fate: count for fate, count in verdict.fates.items() if count}
    told = " + ".join(f"{count:,} {fate}" for fate, count in fates.items()) or "0"
    scores = verdict.scored
    checks = [
        Check(
            "all that was sent is read",
            acknowledged == verdict.events == done,
            f"{acknowledged:,} sent, {verdict.events:,} in Kafka, {done:,} done",
        ),
        Check(
            "no event is lost",
            not verdict.lost and sum(fates.values()) == verdict.events,
            _places(verdict.lost) or f"{verdict.events:,} = {told}",
        ),
        Check(
            "each score is published once",
            not verdict.twice and not verdict.repeated,
            _places(sorted({*verdict.twice, *verdict.repeated})) or f"{scores:,} scores, {scores:,} score ids",
        ),
        Check(
            "each score is of its event",
            not verdict.mistaken,
            _places(verdict.mistaken) or "event and user are the source's",
        ),
    ]
    if counted is not None:
        agrees = {fate: counted.get(fate, 0) for fate in verdict.fates} == verdict.fates
        difference = ", ".join(
            f"{fate}: {counted.get(fate, 0):,} counted, {count:,} found"
            for fate, count in verdict.fates.items()
            if counted.get(fate, 0) != count
        )
        checks.append(Check("the worker's counters agree", agrees, difference or "in every fate"))
    checks.append(Check("the worker stops cleanly", exit_code == 0, f"exit code {exit_code}"))
    return checks


def as_table(outcome: Outcome) -> RenderableType:
    """For people."""
    verdict = outcome.verdict
    numbers = Table(
        title="what became of every event",
        title_justify="left",
        title_style="bold",
        show_header=False,
        caption_justify="left",
    )
    numbers.add_column()
    numbers.add_column(justify="right")
    numbers.add_column(style="grey62")
    numbers.add_row("read", f"{verdict.events:,}", f"in {outcome.seconds:.1f} s, {_rate(outcome):,.0f} a second")
    numbers.add_section()
    reasons = dict.fromkeys(verdict.fates, "")
    reasons["dead"] = ", ".join(
        f"{reason} {count:,}" for reason, count in sorted(verdict.dead.items()) if reason != "late"
    )
    if outcome.latency.count:
        latency = outcome.latency
        reasons["scored"] = f"after p50 {latency.p50:,.0f} ms, p99 {latency.p99:,.0f} ms"
    for fate, count in verdict.fates.items():
        numbers.add_row(fate, f"{count:,}", reasons[fate])
    numbers.add_section()
    numbers.add_row("lost", f"{len(verdict.lost):,}", _through(outcome))
    numbers.caption = f"model {named(outcome.model)}" if outcome.model else None
    checks = Table.grid(padding=(0, 2))
    checks.add_column(no_wrap=True)
    checks.add_column(no_wrap=True)
    checks.add_column()
    for check in outcome.checks:
        mark = Text("holds", style="bold green") if check.holds else Text("BROKEN", style="bold red")
        checks.add_row(mark, check.promise, Text(check.shown, style="grey62"))
    return Group(numbers, checks)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """For programs."""
    verdict = outcome.verdict
    return {
        "holds": outcome.holds,
        "events": verdict.events,
        "fates": verdict.fates,
        "dead_letters": dict(verdict.dead),
        "lost": len(verdict.lost),
        "seconds": round(outcome.seconds, 3),
        "events_per_s": round(_rate(outcome), 1),
        "latency_ms": {"p50": outcome.latency.p50, "p99": outcome.latency.p99} if outcome.latency.count else None,
        "worker_starts": outcome.lives,
        "model": dict(outcome.model) or None,
        "checks": [asdict(check) for check in outcome.checks],
    }


def named(model: Mapping[str, str]) -> str:
    """A score's model, for people; empty where there is none."""
    return f"{model['name']} {model['version']}" if model else ""


def _rate(outcome: Outcome) -> float:
    return outcome.verdict.events / outcome.seconds if outcome.seconds else 0.0


def _through(outcome: Outcome) -> str:
    kills = outcome.lives - 1
    return f"through {kills} kill{'s' * (kills > 1)} with SIGKILL" if kills else ""


def _places(places: Sequence[Place]) -> str:
    """The first few of the places, by partition and offset; empty when there are none."""
    if not places:
        return ""
    named = ", ".join(f"{partition}:{offset}" for partition, offset in places[:_SHOWN])
    return f"{len(places):,}, the first at {named}"
