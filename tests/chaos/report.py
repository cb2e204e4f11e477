"""What a campaign found: a row a kind of fault, as a table for people and as JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from rich.table import Table

from tests.chaos.audit import Findings
from tests.chaos.campaign import Campaign
from tests.chaos.episode import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault. Events and findings are those of the episodes in which it struck; recovery is in seconds."""

    kind: str
    injected: int
    events_read: int
    lost: int
    counted_twice: int
    unrepeatable: int
    windows_differing: int
    uncommitted_lost: int
    other: int
    recovery_p50_s: float | None
    recovery_max_s: float | None


def rows(results: Sequence[Result]) -> list[Row]:
    """In the order of names, and one for all."""
    kinds = sorted({one.planned.kind for result in results for one in result.struck})
    return [*(_row(kind, results) for kind in kinds), _row(None, results)]


def _row(kind: str | None, results: Sequence[Result]) -> Row:
    mine = [result for result in results if kind is None or any(one.planned.kind == kind for one in result.struck)]
    struck = [
        recovery
        for result in mine
        for one, recovery in zip(result.struck, result.recoveries_s, strict=True)
        if kind in {None, one.planned.kind}
    ]
    recoveries = [recovery for recovery in struck if recovery is not None]

    def count(name: str) -> int:
        return sum(len(getattr(result.findings, name)) for result in mine)

    return Row(
        kind=kind or "all",
        injected=len(struck),
        events_read=sum(result.events for result in mine),
        lost=count("lost"),
        counted_twice=count("twice"),
        unrepeatable=count("unrepeatable"),
        windows_differing=count("windows"),
        uncommitted_lost=count("uncommitted"),
        other=count("other"),
        recovery_p50_s=median(recoveries) if recoveries else None,
        recovery_max_s=max(recoveries, default=None),
    )


def found(result: Result) -> list[list[str]]:
    """All findings of an episode, by what they are."""
    return [getattr(result.findings, field.name) for field in fields(Findings)]


def clean(results: Iterable[Result]) -> bool:
    """Nothing at all was found."""
    return not any(some for result in results for some in found(result))


def table(results: Sequence[Result], campaign: Campaign) -> Table:
    """For people."""
    shown = Table(title=f"chaos, seed {campaign.seed}, scorer {campaign.scorer}", title_justify="left")
    shown.caption = (
        "events and findings are those of all episodes in which the fault struck; recovery: seconds from the "
        "injection's end to the first new committed score in the partition that took longest, other faults included"
    )
    shown.caption_justify = "left"
    shown.add_column("fault", no_wrap=True)
    for column in (
        "injected",
        "events read",
        "lost",
        "counted twice",
        "unrepeatable",
        "windows differing",
        "lost uncommitted",
        "other",
        "recovery p50",
        "max",
    ):
        shown.add_column(column, justify="right")
    every = rows(results)
    for row in every:
        counts = (
            row.lost,
            row.counted_twice,
            row.unrepeatable,
            row.windows_differing,
            row.uncommitted_lost,
            row.other,
        )
        shown.add_row(
            row.kind,
            f"{row.injected}",
            f"{row.events_read:,}",
            *(f"[red bold]{count}[/]" if count else "0" for count in counts),
            *("" if one is None else f"{one:.1f}" for one in (row.recovery_p50_s, row.recovery_max_s)),
            style="bold" if row.kind == "all" else "",
            end_section=row is every[-2],
        )
    return shown


def told(results: Sequence[Result]) -> Iterator[str]:
    """Each finding, after the episode and the faults that it belongs to."""
    for result in results:
        for field in fields(Findings):
            texts: list[str] = getattr(result.findings, field.name)
            if texts:
                yield f"{result.episode}\n  {field.name}: {len(texts)}"
                yield from (f"    {text}" for text in texts[:10])


def document(results: Sequence[Result], campaign: Campaign) -> dict[str, Any]:
    """For programs: plain JSON values."""
    return {
        "seed": campaign.seed,
        "scorer": campaign.scorer,
        "clean": clean(results),
        "kinds": [asdict(row) for row in rows(results)],
        "episodes": [
            {
                "episode": asdict(result.episode),
                "seconds": round(result.seconds, 1),
                "events": result.events,
                "fates": result.fates,
                "struck": [
                    {
                        "kind": one.planned.kind,
                        "seconds": round(one.ended_s - one.began_s, 3),
                        "did": one.did,
                        "broken": one.broken,
                        "recovery_s": recovery,
                    }
                    for one, recovery in zip(result.struck, result.recoveries_s, strict=True)
                ],
                "exits": [
                    {"worker": one.worker, "code": one.code, "said": one.said} for one in result.exits if not one.due
                ],
                "findings": asdict(result.findings),
            }
            for result in results
        ],
    }
