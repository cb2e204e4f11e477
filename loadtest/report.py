"""What was measured, as a table, a plot and JSON, with what a number needs to mean something: where it was taken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from loadtest import taken
from loadtest.latency import PERCENTILES, Result

_PLOT_PERCENTILES: Final = tuple(100 * (1 - 10 ** (-step / 20)) for step in range(81))  # 0 to 99.99, even on the axis


def table(results: Sequence[Result], *, title: str) -> Table:
    """For people: a row a rate, latencies in milliseconds."""
    shown = Table(title=title, title_justify="left", caption_justify="left")
    shown.caption = (
        "milliseconds from an event's scheduled send to its committed score in a reader's hand; "
        "'sender' is the generator's own delay at p99, contained in them"
    )
    columns = ("events/s", *(f"p{percentile:g}" for percentile in PERCENTILES), "max", "sender", "missing")
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    for result in results:
        missing = result.missing + result.repeated
        shown.add_row(
            f"{result.load.rate:,.0f}",
            *(f"{result.percentile_ms(percentile):,.1f}" for percentile in PERCENTILES),
            f"{result.max_ms:,.1f}",
            f"{result.sent.p99_late_us / 1000:,.1f}",
            f"[red]{missing:,}[/]" if missing else "0",
        )
    return shown


def document(results: Sequence[Result], *, scorer: str, partitions: int, load_before: float) -> dict[str, Any]:
    """For programs; plain JSON values. `load_before` is the load average (1 min) before anything was started."""
    return {
        "taken": taken.provenance(load_before=load_before),
        "scorer": scorer,
        "partitions": partitions,
        "loads": [
            {
                "rate": result.load.rate,
                "seconds": result.load.seconds,
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
                "sent_late_ms": {"p99": result.sent.p99_late_us / 1000, "max": result.sent.max_late_us / 1000},
                # whole distribution: decodes with any HdrHistogram, and adds up with other runs'
                "hdr_us": result.histogram.encode().decode(),
            }
            for result in results
        ],
    }


def plot(results: Sequence[Result], path: Path, *, title: str) -> None:
    """Latency over percentile, a line a rate. The axis is spread towards the tail, where the promise is made."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for result in results:
        axes.plot(
            [1 / (1 - percentile / 100) for percentile in _PLOT_PERCENTILES],
            [result.percentile_ms(percentile) for percentile in _PLOT_PERCENTILES],
            label=f"{result.load.rate:,.0f} events/s",
        )
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel="milliseconds", title=title)
    axes.set_xticks([1, 10, 100, 1000, 10000], ["0", "90", "99", "99.9", "99.99"])
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
