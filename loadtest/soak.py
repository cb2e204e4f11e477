"""Endurance: a steady load for a long time, and whether anything grows: memory, file handles, threads, tasks, lag.

Samples from outside (the process table, the worker's metrics) while the load runs open loop; what the second half's
slope says, decides.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.progress import Progress
from rich.table import Table

from loadtest import fleet, taken
from loadtest.conclude import conclude
from loadtest.fleet import Member
from loadtest.options import Json, out
from loadtest.steady import Stream, sending
from worker.errors import CheckFailed, IntentError, SettingError
from worker.kafka.broker import EmbeddedBroker
from worker.terminal import err

_READY_S: Final = 120.0
_DRAIN_S: Final = 60.0
_BURST: Final = 200_000
_FEWEST: Final = 10
"""Samples of a soak: of one or two in the second half, a line says nothing."""
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The worker at one moment, `at_s` after the load began."""

    at_s: float
    memory_mb: float
    """Resident."""
    handles: int
    threads: int
    tasks: float
    lag_events: float
    queued_events: float
    done_events: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How much a quantity may grow over the second half, by its fitted line: a share of its mean, at least `floor`."""

    share: float
    floor: float


BOUNDS: Final[Mapping[str, Bound]] = {
    "memory_mb": Bound(share=0.05, floor=10),
    "handles": Bound(share=0.05, floor=5),
    "threads": Bound(share=0.05, floor=2),
    "tasks": Bound(share=0.05, floor=5),
    "lag_events": Bound(share=0.25, floor=5000),
    "queued_events": Bound(share=0.25, floor=5000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One quantity over the second half."""

    mean: float
    growth: float
    allowed: float

    @property
    def flat(self) -> bool:
        """It does not grow."""
        return self.growth <= self.allowed


def judge(samples: Sequence[Sample]) -> dict[str, Verdict]:
    """A line through the second half's samples of each quantity: what it gains from the half's begin to its end."""
    half = samples[len(samples) // 2 :]
    at_s = np.array([sample.at_s for sample in half])
    verdicts = {}
    for name, bound in BOUNDS.items():
        values = np.array([getattr(sample, name) for sample in half], dtype=np.float64)
        slope = np.polyfit(at_s, values, 1)[0] if len(half) > 1 else 0.0
        mean = float(values.mean())
        verdicts[name] = Verdict(
            mean=round(mean, 1),
            growth=round(float(slope * (at_s[-1] - at_s[0])), 2),
            allowed=max(bound.share * mean, bound.floor),
        )
    return verdicts


def soak(
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 30.0,
    rate: Annotated[
        float | None, typer.Option(min=1, help="Events a second; default: `share` of what a first burst reaches.")
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of the capacity.")] = 0.5,
    users: Annotated[
        int, typer.Option(min=1, help="How many users the events are of: few enough that their windows soon are full.")
    ] = 10_000,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of each topic.")] = 4,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between samples.")] = 5.0,
    folder: Annotated[Path, out("soak.json and soak.png")] = Path("runs/soak"),
    as_json: Json = False,
) -> None:
    """Soak: a steady load, and whether memory, file handles, threads, queue and lag stay flat.

    Each is judged by a line through the second half of its samples. Exit code 3 when one grows beyond its bound, or
    events are missing at the end.
    """
    if minutes * 60 < every_s * _FEWEST:
        raise SettingError(
            f"--every is {every_s:g} s, of which --minutes {minutes:g} has {minutes * 60 / every_s:.1f}; accepted is "
            f"what gives {_FEWEST} samples at least, half of them for a line"
        )
    load_before = taken.load_before(err)
    with (
        tempfile.TemporaryDirectory(prefix="intent-soak-") as temporary,
        EmbeddedBroker(Path(temporary) / "kafka") as kafka,
    ):
        place = Path(temporary)
        settings = fleet.deployment(place, servers=kafka.bootstrap_servers, partitions=partitions)
        member = Member(settings, place, name="soaked")
        with fleet.stopped_at_the_end(member):
            member.start()
            member.until(member.ready, "the worker is ready", within_s=_READY_S)
            capacity = None if rate is not None else _capacity(member, users=users)
            chosen = rate or round((capacity or 0) * share)
            samples, missing = _run(
                member, Stream(rate=chosen, seconds=minutes * 60, users=users, name="soak"), every_s=every_s
            )
    verdicts = judge(samples)
    document = {
        "taken": taken.provenance(load_before=load_before),
        "rate": chosen,
        "capacity": capacity,
        "minutes": minutes,
        "missing": missing,
        "verdicts": {name: asdict(verdict) | {"flat": verdict.flat} for name, verdict in verdicts.items()},
        "samples": [asdict(sample) for sample in samples],
    }
    title = f"{minutes:g} minutes at {chosen:,.0f} events/s"
    conclude(
        document,
        folder,
        "soak",
        lambda: [_table(verdicts, title=f"{title}, {missing} events missing")],
        as_json=as_json,
        plot=partial(plot, samples, title=title),
    )
    growing = [name for name, verdict in verdicts.items() if not verdict.flat]
    if growing or missing:
        raise CheckFailed(f"growing: {', '.join(growing) or 'nothing'}; events missing: {missing}")


def _capacity(member: Member, *, users: int) -> float:
    """Events a second, of a burst as fast as one process can send it: at least what the worker can do."""
    burst = Stream(rate=10_000_000, seconds=_BURST / 10_000_000, users=users, name="burst")
    process = sending(member.settings, burst)
    member.until(lambda: _done(member) > 0, "the burst arrives", within_s=_DRAIN_S)
    began, done = time.monotonic(), _done(member)
    member.until(lambda: _done(member) >= burst.count, "the burst is done", within_s=_DRAIN_S)
    process.join()
    return (burst.count - done) / (time.monotonic() - began)


def _run(member: Member, stream: Stream, *, every_s: float) -> tuple[list[Sample], int]:
    """The samples, and how many events had no fate in the end."""
    before = _done(member)
    process = sending(member.settings, stream)
    began = time.monotonic()
    samples: list[Sample] = []
    with Progress(console=err, transient=True) as progress:
        shown = progress.add_task("soaking", total=stream.seconds)
        while process.is_alive():
            samples.append(_sample(member, began_s=began))
            progress.update(shown, completed=samples[-1].at_s)
            process.join(every_s)
    if process.exitcode:
        raise IntentError("the events could not be sent; the reason is above")
    deadline = time.monotonic() + _DRAIN_S
    while _done(member) - before < stream.count and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return samples, stream.count - round(_done(member) - before)


def _done(member: Member) -> float:
    return member.metrics("intent_events_total")["intent_events_total"]


def _sample(member: Member, *, began_s: float) -> Sample:
    process = member.process
    page = member.metrics("intent_tasks", "intent_lag_events", "intent_stream_queue_events", "intent_events_total")
    with process.oneshot():
        return Sample(
            at_s=round(time.monotonic() - began_s, 2),
            memory_mb=round(process.memory_info().rss / 1e6, 2),
            handles=process.num_fds(),
            threads=process.num_threads(),
            tasks=page["intent_tasks"],
            lag_events=page["intent_lag_events"],
            queued_events=page["intent_stream_queue_events"],
            done_events=page["intent_events_total"],
        )


def _table(verdicts: Mapping[str, Verdict], *, title: str) -> Table:
    shown = Table(title=title, title_justify="left", caption_justify="left")
    shown.caption = "growth is that of a line through the second half, from its begin to its end"
    for number, column in enumerate(("", "mean", "growth", "allowed", "")):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for name, verdict in verdicts.items():
        what = "flat" if verdict.flat else "[red]grows[/]"
        shown.add_row(
            name.replace("_", " "), f"{verdict.mean:,.1f}", f"{verdict.growth:+,.1f}", f"{verdict.allowed:,.1f}", what
        )
    return shown


def plot(samples: Sequence[Sample], path: Path, *, title: str) -> None:
    """A panel a quantity over the minutes; the second half, which is judged, is shaded."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [*BOUNDS, "done_events"]
    figure, panels = plt.subplots(len(names), 1, figsize=(9, 1.6 * len(names)), layout="constrained", sharex=True)
    minutes = [sample.at_s / 60 for sample in samples]
    for axes, name in zip(panels, names, strict=True):
        values = [getattr(sample, name) for sample in samples]
        axes.plot(minutes, values)
        axes.set_ylim(0, max(*values, 1) * 1.15)
        axes.set_ylabel(name.replace("_", "\n"))
        axes.axvspan(minutes[len(minutes) // 2], minutes[-1], alpha=0.1)
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_title(title)
    panels[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=120)
    plt.close(figure)
