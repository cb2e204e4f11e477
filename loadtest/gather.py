"""What the host does for a window before the device can begin: bytes to arrays, part by part, without a broker."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.table import Table

from loadtest import taken, workload
from loadtest.conclude import conclude
from loadtest.options import Json, Sample, out
from worker.errors import Invalid
from worker.terminal import err

DEVICE: Final = ("decode", "tokens", "contexts", "aggregates")
"""What the model waits for."""
BESIDE: Final = ("reasons", "risk")
"""What is told beside the intent; a device may compute meanwhile."""
PARTS: Final = (*DEVICE, *BESIDE)

TARGET_US: Final = 1.5
"""For `DEVICE` together, with the windows that shoppers really have."""

_BATCHES: Final = 16
"""Different ones, in turn: the bytes of the one at hand are not in a core's cache, as they would not be live."""
_PACKAGES: Final = ("numba", "numpy")


def gather(
    *,
    count: Annotated[int, typer.Option("--batch", min=1, max=65_536, help="Windows a batch.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each of the 16 batches is gathered.")] = 40,
    sample: Sample = None,
    folder: Annotated[Path, out("gather.json")] = Path("runs/gather"),
    as_json: Json = False,
) -> None:
    """Measure the host's part of scoring: microseconds of a window from `list[bytes]` to arrays, by part.

    *real* are the windows taken at even steps through the sample's events, *full* those of them that hold 64 events.
    One thread; the median over batches.
    """
    load_before = taken.load_before(err)
    with err.status("loading the model") as status:
        start = _Start()
        from worker.scoring import bundle as bundles

        start.ends("import the scoring")
        bundle = bundles.load()
        start.ends("load the bundle")
        status.update("making windows")
        windows, source = real_windows(sample or workload.sample_folder(), count=_BATCHES * count)
        longest = max(window[2] for window in windows)
        mixes = {"real": windows, "full": [window for window in windows if window[2] == longest]}
        status.update("gathering")
        start.begin()
        for _ in _steps(windows[:count], bundle):
            pass
        start.ends("first batch")
        found = {
            mix: measure(batched(chosen, count, of=_BATCHES), bundle, rounds=rounds) for mix, chosen in mixes.items()
        }
    document = {
        "taken": taken.provenance(load_before=load_before, packages=_PACKAGES),
        "windows": {
            "source": source,
            "batch": count,
            "events": {mix: round(float(np.mean([w[2] for w in chosen])), 2) for mix, chosen in mixes.items()},
        },
        "start_ms": start.milliseconds,
        "us_per_window": {
            mix: {
                **{part: round(us, 3) for part, us in parts.items()},
                "for the device": round(sum(parts[part] for part in DEVICE), 3),
            }
            for mix, parts in found.items()
        },
    }
    conclude(document, folder, "gather", lambda: [_table(document)], as_json=as_json)


def measure(batches: Sequence[Sequence[bytes]], bundle: Any, *, rounds: int) -> dict[str, float]:
    """Microseconds a window for each of `PARTS`, the median over all batches and rounds."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for windows in batches:
            at = time.perf_counter()
            for part in _steps(windows, bundle):
                now = time.perf_counter()
                seconds[part].append((now - at) / len(windows))
                at = now
    return {part: median(seconds[part]) * 1e6 for part in PARTS}


def _steps(windows: Sequence[bytes], bundle: Any) -> Iterator[str]:
    """Gathers the batch as the engine does, and says after each part which it was."""
    from worker.scoring import aggregates, encode, reasons, risk
    from worker.scoring.batch import Batch

    batch = Batch.of(windows)
    yield "decode"
    encode.tokens(batch, bundle.vocabulary)
    yield "tokens"
    encode.contexts(batch, bundle.vocabulary)
    yield "contexts"
    aggregates.aggregates(batch)
    yield "aggregates"
    reasons.top(batch, bundle.surrogate)
    yield "reasons"
    risk.risk(batch, bundle.habits)
    yield "risk"


class _Start:
    """What is paid once, in milliseconds by what it was."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        self._at = time.perf_counter()

    def ends(self, what: str) -> None:
        """It took the time since it began, or since what was before ended."""
        now = time.perf_counter()
        self.milliseconds[what] = round((now - self._at) * 1e3, 1)
        self._at = now


def real_windows(sample: Path | None, *, count: int) -> tuple[list[bytes], str]:
    """About so many windows, or as many as there are, as they are after an event, and where they are from.

    In an order of no meaning.
    """
    from worker import events, facts, window
    from worker.shop.ga360 import Sample
    from worker.training.windows import fold_all

    if sample is not None:
        real = Sample(sample)
        step = max(1, len(real) // count)
        windows = [folded for _, folded in islice(fold_all(real.events()), 0, None, step)]
        source = "the GA360 sample"
    else:
        held: dict[bytes, bytes] = {}
        windows = []
        for key, value in workload.make("full", 4 * count, sample=None).records:
            try:
                event = events.decode(value, key=key, timestamp_ms=events.MAX_TIME_MS)
            except Invalid:
                continue
            held[key] = window.fold(held.get(key), facts.of(event), rules=window.Rules()).window
            windows.append(held[key])
        windows, source = windows[3::4], "simulated shoppers"
    Random(1).shuffle(windows)
    return windows, source


def batched(windows: Sequence[bytes], count: int, *, of: int) -> list[list[bytes]]:
    """So many batches `of` `count` windows; where there are too few windows, some come again."""
    endless = cycle(windows)
    return [list(islice(endless, count)) for _ in range(of)]


def _table(document: dict[str, Any]) -> Table:
    events, times = document["windows"]["events"], document["us_per_window"]
    shown = Table(
        title=f"The host's microseconds of a window, {document['windows']['batch']:,} a batch", title_justify="left"
    )
    shown.add_column("part")
    for mix in times:
        shown.add_column(f"{mix}: {events[mix]:.1f} events", justify="right")
    for part in (*DEVICE, "for the device", *BESIDE):
        shown.add_row(
            part, *(f"{times[mix][part]:.2f}" for mix in times), end_section=part in {DEVICE[-1], "for the device"}
        )
    start = ", ".join(f"{what} {ms:,.0f} ms" for what, ms in document["start_ms"].items())
    shown.caption = (
        f"target for the device, real: {TARGET_US}; once: {start}; windows of {document['windows']['source']}"
    )
    shown.caption_justify = "left"
    return shown
