"""What was measured, as a table, a plot and JSON, with what a number needs to mean something: where it was taken."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from loadtest import taken
from loadtest.openloop import PERCENTILES, Result
from loadtest.waits import AN_EVENT, PARTS

BEYOND: Final = "batch committed to score read"
_PLOT_PERCENTILES: Final = tuple(100 * (1 - 10 ** (-step / 20)) for step in range(81))  # 0 to 99.99, even on the axis


Found = Mapping[str, Sequence[Result]]
"""By who was measured, this worker first; of each a result a rate, the same rates for all."""


def table(found: Found, *, title: str) -> Table:
    """For people: a row a rate, latencies in milliseconds; rows of others say how they stand to the first's."""
    shown = Table(title=title, title_justify="left", caption_justify="left")
    shown.caption = (
        "milliseconds from an event's scheduled send to its committed score in a reader's hand; "
        "'sender' is the generator's own delay at p99, contained in them"
    )
    columns = ("events/s", *(f"p{percentile:g}" for percentile in PERCENTILES), "max", "sender", "missing")
    several = len(found) > 1
    if several:
        shown.add_column("", no_wrap=True)
        shown.caption += "; 'x' is how many times the first's p50 and p99 that is"
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    if several:
        shown.add_column("x", justify="right", no_wrap=True)
    first = next(iter(found.values()))
    for name, results in found.items():
        for result, mine in zip(results, first, strict=True):
            missing = result.missing + result.repeated
            ratios = " / ".join(f"{ratio:.2f}" for ratio in (times(result, mine, 50), times(result, mine, 99)))
            shown.add_row(
                *([name] if several else []),
                f"{result.load.rate:,.0f}",
                *(f"{result.percentile_ms(percentile):,.1f}" for percentile in PERCENTILES),
                f"{result.max_ms:,.1f}",
                f"{result.sent.p99_late_us / 1000:,.1f}",
                f"[red]{missing:,}[/]" if missing else "0",
                *(["" if result is mine else ratios] if several else []),
                end_section=several and result is results[-1],
            )
    return shown


def times(result: Result, other: Result, percentile: float) -> float:
    """How many times the other's latency that is; NaN where nothing came of the other."""
    theirs = other.percentile_ms(percentile)
    return result.percentile_ms(percentile) / theirs if theirs else math.nan


def parts(results: Sequence[Result]) -> Table:
    """Where a batch's time went: a row a part, a column a rate, means in milliseconds."""
    shown = Table(title="Where the time goes, on average", title_justify="left", caption_justify="left")
    shown.caption = (
        f"milliseconds a batch; '{AN_EVENT}': an event; the last: what a reader waits beyond it, for the "
        "commit's markers and its own fetch, and what the sender was late; negative where readers have the "
        "score before the worker knows that they do"
    )
    shown.add_column("part", no_wrap=True)
    for result in results:
        shown.add_column(f"{result.load.rate:,.0f}/s", justify="right", no_wrap=True)
    shown.add_row("workers' CPU, µs an event", *(f"{result.cpu_us:,.0f}" for result in results))
    shown.add_row("events a batch", *(f"{result.measured / max(result.batches, 1):,.0f}" for result in results))
    for part in PARTS:
        times = (result.parts_ms.get(part) for result in results)
        shown.add_row(part, *("" if time is None else f"{time:,.1f}" for time in times))
    shown.add_row(BEYOND, *(f"{beyond_ms(result):,.1f}" for result in results))
    return shown


def beyond_ms(result: Result) -> float:
    """Mean from a batch's commit to the score in the reader's hand, with what the sender was late."""
    mean_ms = float(result.histogram.get_mean_value()) / 1000
    return mean_ms - result.parts_ms.get(AN_EVENT, 0.0)


def document(
    found: Found, *, scorer: str, job: str, partitions: int, workers: int, load_before: float
) -> dict[str, Any]:
    """For programs; plain JSON values. `load_before` is the load average (1 min) before anything was started.

    So many `workers` are the first's; what is beside it is one process.
    """
    first = next(iter(found.values()))
    return {
        "taken": taken.provenance(load_before=load_before),
        "scorer": scorer,
        "job": job,
        "partitions": partitions,
        "loads": [
            {
                "of": name,
                "workers": workers if results is first else 1,
                "rate": result.load.rate,
                "warmup_seconds": result.warmup_s,
                "seconds": result.load.seconds - result.warmup_s,  # that were measured
                "users": result.load.users,
                "seed": result.load.seed,
                "sent": result.load.count,
                "measured": result.measured,
                "missing": result.missing,
                "repeated": result.repeated,
                "latency_ms": {
                    **{f"p{percentile:g}": result.percentile_ms(percentile) for percentile in PERCENTILES},
                    "max": result.max_ms,
                    "mean": round(result.histogram.get_mean_value() / 1000, 3),
                },
                # null: nobody has told, as those beside the worker do not
                "batches": result.batches or None,
                "cpu_us_per_event": round(result.cpu_us, 2) if result.batches else None,
                "parts_ms": {**result.parts_ms, BEYOND: beyond_ms(result)} if result.parts_ms else {},
                "sent_late_ms": {"p99": result.sent.p99_late_us / 1000, "max": result.sent.max_late_us / 1000},
                # whole distribution: decodes with any HdrHistogram, and adds up with other runs'
                "hdr_us": result.histogram.encode().decode(),
            }
            for name, results in found.items()
            for result in results
        ],
    }


def plot(found: Found, path: Path, *, title: str) -> None:
    """Latency over percentile, a colour a rate, others dashed. The axis is spread towards the tail, where it counts."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for style, (name, results) in zip(("-", "--", ":"), found.items(), strict=False):
        for number, result in enumerate(results):
            axes.plot(
                [1 / (1 - percentile / 100) for percentile in _PLOT_PERCENTILES],
                [result.percentile_ms(percentile) for percentile in _PLOT_PERCENTILES],
                style,
                color=f"C{number}",
                label=f"{result.load.rate:,.0f} events/s" + (f", {name}" if len(found) > 1 else ""),
            )
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel="milliseconds", title=title)
    axes.set_xticks([1, 10, 100, 1000, 10000], ["0", "90", "99", "99.9", "99.99"])
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
