"""Where an event's time goes in this worker, stage by stage: its parts by themselves, and the live worker sampled."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from rich.table import Table

from loadtest import taken
from loadtest.conclude import conclude
from loadtest.options import Json, Sample, out
from worker.terminal import err

STAGES: Final = (
    ("worker/events.py", None, "decode"),
    ("worker/facts.py", None, "facts"),
    ("worker/window.py", "fold", "fold a window"),
    ("worker/window.py", "_insert", "fold a window"),
    ("worker/window.py", "_header", "fold a window"),
    ("worker/scores.py", "headers", "headers"),
    ("worker/scores.py", "_common_headers", "headers"),
    ("worker/scores.py", None, "encode scores"),
    ("worker/stream/output.py", None, "render the rest"),
    ("loadtest/contenders/light.py", "render", "render the rest"),
    ("worker/stream/transaction.py", "_send", "append records"),
    ("aiokafka/producer/message_accumulator.py", "_build", "compress records"),
    ("aiokafka/producer/message_accumulator.py", "get_data_buffer", "compress records"),
    ("worker/stream/table.py", "look_up", "read RocksDB"),
    ("worker/stream/table.py", "browse", "sweep"),
    ("worker/stream/table.py", None, "write RocksDB"),
    ("worker/stream/partition.py", "store", "write RocksDB"),
    ("worker/stream/partition.py", "window", "read RocksDB"),
    ("worker/fold.py", "sweep", "sweep"),
    ("worker/pipeline.py", "ratings", "score and rate"),
    ("loadtest/constant.py", None, "score and rate"),
    ("worker/fold.py", "fold", "the loop around these"),
    ("aiokafka/consumer/fetcher.py", None, "parse the fetch"),
    ("aiokafka/record/", None, "parse the fetch"),
    ("worker/ops/", None, "metrics"),
    ("worker/cache.py", None, "cache of windows"),
    ("worker/pipeline.py", None, "pipeline, metrics"),
    ("worker/stream/", None, "stream: queues, fetches handed over"),
    ("aiokafka/producer/", None, "producer: send, acknowledge, commit"),
    ("aiokafka/", None, "aiokafka: connections, protocol"),
    ("faust/", None, "Faust and mode"),
    ("mode/worker.py", None, "event loop, sockets"),  # uvloop has no frames of its own, and runs under these two
    ("mode/threads.py", None, "event loop, sockets"),
    ("mode/", None, "Faust and mode"),
    ("asyncio/", None, "event loop, sockets"),
)
"""For the sampler: what a frame of the worker's process is at."""


def stages(
    *,
    count: Annotated[int, typer.Option("--events", min=20_000, help="Of the full job.")] = 200_000,
    sample: Sample = None,
    folder: Annotated[Path, out("stages.json and stages.png")] = Path("runs/stages"),
    as_json: Json = False,
) -> None:
    """Profile this worker: microseconds of an event by stage.

    *alone* is each part in one process without a broker, the median over batches of 2,000 events. *live* is the CPU of
    the real worker on a real Kafka at full speed, shared out by sampling its stacks; what is live and not alone is the
    stream's: connections, the event loop, caches that other work has emptied.
    """
    from loadtest import parts, pipeline, workload
    from loadtest.contenders.task import Taken

    load_before = taken.load_before(err)
    with err.status("making events") as status, tempfile.TemporaryDirectory(prefix="intent-stages-") as temporary:
        load = workload.make("full", count, sample=sample or workload.sample_folder())
        status.update("each part alone")
        alone = parts.measure(load.records[: min(count, 100_000)], Path(temporary))
        status.update("the live worker")
        samples = Path(temporary) / "samples.json"
        took: Taken = pipeline.profiled(load, count=count, samples=samples)
        live = {stage: seconds / count * 1e6 for stage, seconds in orjson.loads(samples.read_bytes()).items()}
    document = {
        "taken": taken.provenance(load_before=load_before),
        "events": {"source": load.source, "count": count},
        "live": {"events_per_s": round(count / took.seconds), "cpu_us_per_event": round(took.cpu_s / count * 1e6, 2)},
        "us_per_event": {
            stage: {"alone": _rounded(alone.get(stage)), "live": _rounded(live.get(stage))}
            for stage in dict.fromkeys((*parts.PARTS, *sorted(live, key=lambda name: -live[name])))
        },
    }
    plot = partial(_plot, document)
    conclude(document, folder, "stages", lambda: [_table(document)], as_json=as_json, plot=plot)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _table(document: dict[str, dict[str, dict[str, float | None]]]) -> Table:
    shown = Table(title="Microseconds of an event, by stage", title_justify="left", show_footer=True)
    rows = document["us_per_event"]
    sums = {how: sum(row[how] or 0.0 for row in rows.values()) for how in ("alone", "live")}
    shown.add_column("stage", footer="all")
    for how, total in sums.items():
        shown.add_column(how, justify="right", footer=f"{total:.1f}")
    for stage, row in rows.items():
        shown.add_row(stage, *("" if row[how] is None else f"{row[how]:.2f}" for how in sums))
    return shown


def _plot(document: dict[str, dict[str, dict[str, float | None]]], path: Path) -> None:
    """Two bars a stage."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = document["us_per_event"]
    names = list(reversed(rows))
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(names) + 1.2), layout="constrained")
    for shift, how in ((0.2, "alone"), (-0.2, "live")):
        axes.barh(
            [place + shift for place in range(len(names))], [rows[name][how] or 0 for name in names], 0.4, label=how
        )
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="µs an event", title="Where an event's time goes")
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
