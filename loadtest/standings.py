"""How contenders compare: medians, ranges, ratios and the targets, as a table, a plot and JSON. Knows no Kafka."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.table import Table

from loadtest.contenders.task import Job, Taken

OURS: Final = "intent"
NAMES: Final[Mapping[str, str]] = {
    "intent": "this worker",
    "bare": "bare confluent-kafka loop (nothing durable)",
    "quix-exactly-once": "Quix Streams, exactly once",
    "quix-at-least-once": "Quix Streams, at least once",
    "stock-faust": "Faust as it comes",
}


@dataclass(frozen=True, slots=True)
class Target:
    """How many times as fast as a contender this worker is to be; or, without one, its CPU µs an event at most."""

    job: Job
    contender: str | None
    bound: float


TARGETS: Final = (
    Target("light", "stock-faust", 35),
    Target("light", "quix-exactly-once", 2.5),
    Target("light", "bare", 0.45),
    Target("full", "stock-faust", 18),
    Target("full", "quix-exactly-once", 1.6),
    Target("full", None, 22),
)


@dataclass(frozen=True, slots=True)
class Place:
    """One contender's runs of one job."""

    contender: str
    runs: tuple[Taken, ...]

    @property
    def rates(self) -> list[float]:
        """Events a second, a run each."""
        return [run.events / run.seconds for run in self.runs]

    @property
    def cpu_us(self) -> list[float]:
        """Microseconds of the process's CPU for an event, a run each."""
        return [run.cpu_s / run.events * 1e6 for run in self.runs]

    def ratio(self, ours: "Place") -> float:
        """How many times as fast as this one `ours` is, by the medians."""
        return median(ours.rates) / median(self.rates)


def check(target: Target, places: Sequence[Place]) -> tuple[float, bool] | None:
    """(what was measured, whether it meets the target); None where it was not measured."""
    by_name = {place.contender: place for place in places}
    ours = by_name.get(OURS)
    if ours is None:
        return None
    if target.contender is None:
        spent = median(ours.cpu_us)
        return spent, spent <= target.bound
    theirs = by_name.get(target.contender)
    if theirs is None:
        return None
    ratio = theirs.ratio(ours)
    return ratio, ratio >= target.bound


def table(job: Job, places: Sequence[Place], *, source: str) -> Table:
    """For people: a row a contender, the fastest first."""
    shown = Table(title=f"The {job} job, events: {source}", title_justify="left", caption_justify="left")
    runs = max(len(place.runs) for place in places)
    shown.caption = "\n".join(
        [
            f"median of {runs} alternating runs (smallest to largest); CPU is the contender's own process, all threads",
            *_targets(job, places),
        ]
    )
    shown.add_column("", min_width=12)  # names wrap, so that all fit into 80 columns
    for column in ("events/s", "range", "CPU µs/event", "this worker is"):
        shown.add_column(column, justify="right", no_wrap=True)
    ours = next((place for place in places if place.contender == OURS), None)
    for place in sorted(places, key=lambda each: -median(each.rates)):
        rates, spent = place.rates, place.cpu_us
        ratio = "" if ours is None or place is ours else f"{place.ratio(ours):.2f} x as fast"
        shown.add_row(
            NAMES[place.contender],
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f} – {max(rates):,.0f}",
            f"{median(spent):,.1f}",
            ratio,
            style="bold" if place is ours else "",
        )
    return shown


def _targets(job: Job, places: Sequence[Place]) -> Iterable[str]:
    for target in TARGETS:
        found = check(target, places) if target.job == job else None
        if found is None:
            continue
        what = "CPU µs/event, at most" if target.contender is None else f"against {NAMES[target.contender]}, at least"
        yield f"target {what} {target.bound:g}: {found[0]:.2f}, {'met' if found[1] else 'not met'}"


def document(standings: Mapping[Job, Sequence[Place]], *, sources: Mapping[Job, str]) -> dict[str, Any]:
    """For programs; plain JSON values."""
    return {
        job: {
            "events": sources[job],
            "contenders": {
                place.contender: {
                    "events_per_s": spread(place.rates),
                    "cpu_us_per_event": spread(place.cpu_us),
                    "runs": [
                        {"events": run.events, "seconds": round(run.seconds, 4), "cpu_s": round(run.cpu_s, 4)}
                        for run in place.runs
                    ],
                }
                for place in places
            },
            "targets": [
                {"against": target.contender, "bound": target.bound, "found": round(found[0], 3), "met": found[1]}
                for target in TARGETS
                if target.job == job and (found := check(target, places)) is not None
            ],
        }
        for job, places in standings.items()
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of several runs; for programs."""
    return {name: round(of(values), 2) for name, of in (("median", median), ("min", min), ("max", max))}


def plot(standings: Mapping[Job, Sequence[Place]], path: Path) -> None:
    """A bar a contender, its length the median, the line on it the range; a panel a job."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(standings), 1, figsize=(10, 0.6 + 2.4 * len(standings)), layout="constrained", squeeze=False
    )
    for axes, (job, places) in zip(panels[:, 0], standings.items(), strict=True):
        ordered = sorted(places, key=lambda each: median(each.rates))
        middles = [median(place.rates) for place in ordered]
        below = [middle - min(place.rates) for middle, place in zip(middles, ordered, strict=True)]
        above = [max(place.rates) - middle for middle, place in zip(middles, ordered, strict=True)]
        colours = ["tab:blue" if place.contender == OURS else "lightgrey" for place in ordered]
        axes.barh([NAMES[place.contender] for place in ordered], middles, color=colours, xerr=[below, above], capsize=3)
        for row, (middle, high) in enumerate(zip(middles, above, strict=True)):
            axes.annotate(
                f"{middle:,.0f}", (middle + high, row), xytext=(6, 0), textcoords="offset points", va="center"
            )
        axes.set(
            title=f"{job} job",
            xlabel="events a second",
            xlim=(0, 1.15 * max(map(sum, zip(middles, above, strict=True)))),
        )
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
