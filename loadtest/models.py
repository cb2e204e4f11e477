"""What a model that changes, and one that challenges, cost the champion: its latency without, with, and in between.

One worker, one load, three phases in turn, several rounds: *plain*, *reload* (the alias moves again and again) and
*shadow* (a challenger of the same size scores every user). Phases are compared with those beside them, not across runs.
"""

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from hdrh.histogram import HdrHistogram
from rich.table import Table

from loadtest import openloop, taken
from loadtest.conclude import conclude
from loadtest.generator import APART, MAX_US, Load
from loadtest.options import Json, out
from loadtest.scrape import scrape
from worker.errors import CheckFailed, IntentError
from worker.ops import logs
from worker.registry.alias import CHALLENGER, CHAMPION, promoted
from worker.registry.store import Store
from worker.scores import rfc3339
from worker.settings import Settings
from worker.terminal import err

Phase = Literal["plain", "reload", "shadow"]
PHASES: Final[tuple[Phase, ...]] = ("plain", "reload", "shadow")
PERCENTILES: Final = (50.0, 99.0, 99.9)
_LOOK_S: Final = 0.1  # the worker looks so often where the alias points
_SETTLE_S: Final = 30.0


class Registry:
    """Three versions of one bundle, that differ in their cards alone. Raises `SettingError` where it is none."""

    def __init__(self, folder: Path, bundle: Path | None) -> None:
        from worker.registry.source import push
        from worker.scoring import bundle as bundles

        source = bundle or bundles.SHIPPED
        bundles.verify(source)  # what is wrong is to be told of it, not of a copy
        self.store = Store(str(folder / "store"))
        self.versions: list[str] = []
        for number in range(3):
            copy = Path(shutil.copytree(source, folder / f"bundle-{number}"))
            with (copy / bundles.CARD).open("a") as card:
                card.write(f"\nCopy {number}.\n")
            bundles.seal(copy)
            loaded, _ = push(self.store, copy)
            self.name = loaded.name
            self.versions.append(loaded.version)
        self._champions = cycle(self.versions[:2])
        self.swap()

    def point(self, alias: str, version: str) -> None:
        """Move the alias."""
        now = rfc3339(time.time_ns() // 1_000_000)
        self.store.move(self.name, alias, promoted(self.store.alias(self.name, alias), version, at=now))

    def swap(self) -> None:
        """The champion is the other one of two versions."""
        self.point(CHAMPION, next(self._champions))

    def settings(self, share: float) -> Mapping[str, object]:
        """For a worker that follows it."""
        return {
            "store": self.store.url,
            "name": self.name,
            "reload_interval_s": _LOOK_S,
            "shadow_share": share,
        }


def models(
    *,
    rate: Annotated[float, typer.Option(min=1, help="Events a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long each phase is measured.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each phase comes.")] = 3,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two reloads.")] = 2.0,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of users in the shadow.")] = 1.0,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of each topic.")] = 4,
    bundle: Annotated[Path | None, typer.Option(help="Bundle folder; default: the one shipped.")] = None,
    folder: Annotated[Path, out("models.json")] = Path("runs/models"),
    as_json: Json = False,
) -> None:
    """Measure the champion's latency while its model is reloaded, and while a challenger is scored in the shadow.

    Open loop, from an event's scheduled send to its committed score in a reader's hand, as `latency`. Exit code 3 when
    a score is missing or comes twice, or when no model moved in or no challenger scored: then nothing was measured.
    """
    from loadtest.system import running

    logs.quiet()
    load_before = taken.load_before(err)
    histograms = {phase: HdrHistogram(1, MAX_US, 3) for phase in PHASES}
    wrong = reloads = 0
    with (
        tempfile.TemporaryDirectory(prefix="intent-models-") as place,
        err.status("starting Kafka and the worker") as status,
    ):
        registry = Registry(Path(place), bundle)
        with running(program="bundle", partitions=partitions, servers=None, model=registry.settings(share)) as workers:
            firsts = count(step=APART)
            for number in range(rounds):
                for phase in PHASES:
                    status.update(f"round {number + 1} of {rounds}: {phase}")
                    before = _moved_in(workers)
                    with _phase(phase, registry, workers, every_s=every):
                        load = Load(rate=rate, seconds=2 + seconds, users=2_000, seed=number, first=next(firsts))
                        found = openloop.measure(workers, load, warmup_s=2)
                    if phase == "reload":  # the challenger's coming and going counts as well
                        reloads += _moved_in(workers) - before
                    histograms[phase].add(found.histogram)
                    wrong += found.missing + found.repeated
            time.sleep(1)  # until the last shadow scores are acknowledged, and told
            counted = scrape(workers)
    document: dict[str, Any] = {
        "taken": taken.provenance(load_before=load_before),
        "rate": rate,
        "seconds": seconds * rounds,
        "phases": {phase: _document(histogram) for phase, histogram in histograms.items()},
        "models_moved_in": reloads,
        "shadow": {
            "scores": counted.get(("intent_shadow_scores_total",), 0),
            "dropped": {key[1]: value for key, value in counted.items() if key[0] == "intent_shadow_dropped_total"},
        },
        "missing_or_repeated": wrong,
    }
    conclude(document, folder, "models", lambda: [_table(document)], as_json=as_json)
    if wrong:
        raise CheckFailed(f"{wrong} scores are missing or came twice")
    shadowed = document["shadow"]["scores"]
    if not reloads or not shadowed:
        raise CheckFailed(f"{reloads} models moved in and {shadowed:.0f} shadow scores came: nothing was measured")


@contextmanager
def _phase(phase: Phase, registry: Registry, workers: Sequence[Settings], *, every_s: float) -> Iterator[None]:
    """What goes on beside the load."""
    if phase == "plain":
        yield
        return
    if phase == "shadow":
        registry.point(CHALLENGER, registry.versions[2])
        _until(lambda: _challenged(workers), "the worker has the challenger")
        yield
        registry.store.forget(registry.name, CHALLENGER)
        _until(lambda: not _challenged(workers), "the worker has let the challenger go")
        return
    over = threading.Event()

    def move() -> None:
        while not over.wait(every_s):
            registry.swap()

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    try:
        yield
    finally:
        over.set()
        mover.join()
        time.sleep(every_s)  # the last one moves in before the next phase begins


def _challenged(workers: Sequence[Settings]) -> bool:
    return any(key[0] == "intent_challenger_info" for key in scrape(workers))


def _moved_in(workers: Sequence[Settings]) -> int:
    """Models, of any alias."""
    return int(scrape(workers).get(("intent_model_reloads_total", "done"), 0))


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while not condition():
        if time.monotonic() > deadline:
            raise IntentError(f"not within {_SETTLE_S:g} s: {what}")
        time.sleep(_LOOK_S)


def _document(histogram: HdrHistogram) -> dict[str, float]:
    shown = {f"p{each:g}": histogram.get_value_at_percentile(each) / 1000 for each in PERCENTILES}
    return shown | {"max": histogram.get_max_value() / 1000, "events": histogram.get_total_count()}


def _table(document: Mapping[str, Any]) -> Table:
    shown = Table("phase", title=f"Champion's latency at {document['rate']:,.0f} events/s, ms", title_justify="left")
    names = [*(f"p{each:g}" for each in PERCENTILES), "max"]
    for name in (*names, "p50 to plain", "p99 to plain", "events"):
        shown.add_column(name, justify="right", no_wrap=True)
    plain = document["phases"]["plain"]
    for phase, found in document["phases"].items():
        ratios = (f"{found[name] / (plain[name] or math.nan):.2f}" for name in ("p50", "p99"))  # nothing may have come
        shown.add_row(phase, *(f"{found[name]:,.1f}" for name in names), *ratios, f"{found['events']:,.0f}")
    shadow = document["shadow"]
    dropped = ", ".join(f"{count:,.0f} {reason}" for reason, count in shadow["dropped"].items() if count) or "none"
    shown.caption = (
        f"{document['models_moved_in']} models moved in; {shadow['scores']:,.0f} shadow scores, dropped: {dropped}"
    )
    shown.caption_justify = "left"
    return shown
