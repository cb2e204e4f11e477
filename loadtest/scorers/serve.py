"""A scorer's process: `python -m loadtest.scorers.serve TASK`. Loads, scores once, then measures what it is told to.

Owns the clocks of what is measured and the memory of the process. Which scorer runs when is the parent's affair.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import psutil
import torch

from loadtest.scorers import eager, ours, sizes, work
from loadtest.scorers.eager import DTYPES
from loadtest.scorers.peak import Peak
from loadtest.scorers.task import Ready, Task, Turn, say
from worker.scoring.batch import Floats
from worker.scoring.bundle import Bundle

CHECKED: Final = 256
"""The first windows of *real* whose scores are compared; a random model is spread over the same."""

_PARTS: Final = (0, 1, 3, 7, 15, 31)
"""Where the first of them are cut to be scored once more, in small batches: what a score owes to its batch. All of them
again would take a large model as long as the comparison itself.
"""

_MOST_BATCHES: Final = 8
_WARM_BATCHES: Final = 2


class Scorer(Protocol):
    """What is measured: `forward`, with its inputs arranged beforehand; by several `callers` where it has that many."""

    def arrange(self, windows: Sequence[bytes]) -> Any:
        """The host's part."""

    def forward(self, arranged: Any) -> Floats:
        """The device's part, waited for: [n, HORIZONS] probabilities."""


def _runtime(name: str, precision: str = "") -> Callable[[Bundle, Task], Scorer]:
    """One of the runtimes; their packages are looked for only when it is made."""

    def make(bundle: Bundle, task: Task) -> Scorer:
        from loadtest.scorers import runtimes

        grouped = task.scorer.endswith("-grouped")
        model = Path(task.folder) / (runtimes.QUANTISED if precision == "int8" else runtimes.EXPORTED)
        if name == "ort":
            return runtimes.OnnxRuntime(bundle, model=model, threads=task.threads, grouped=grouped)
        return runtimes.OpenVino(bundle, model=model, threads=task.threads, grouped=grouped, precision=precision)

    return make


def _padded(attention: str, dtype: str, *, compiled: bool = False) -> Callable[[Bundle, Task], Scorer]:
    return lambda bundle, task: eager.Padded(
        bundle, attention=attention, dtype=DTYPES[dtype], device=torch.device(task.device), compiled=compiled
    )


SCORERS: Final[Mapping[str, Callable[[Bundle, Task], Scorer]]] = {
    **{f"packed-{name}": partial(ours.Forward, dtype=dtype) for name, dtype in DTYPES.items()},
    **{f"score-now-{name}": partial(ours.Whole, dtype=dtype) for name, dtype in DTYPES.items()},
    **{f"score-now-fixed-{name}": partial(ours.Whole, dtype=dtype, fixed=True) for name, dtype in DTYPES.items()},
    "eager-fp32": _padded("eager", "fp32"),
    "sdpa-bf16": _padded("sdpa", "bf16"),
    "compile-fp32": _padded("sdpa", "fp32", compiled=True),
    "compile-bf16": _padded("sdpa", "bf16", compiled=True),
    "ort-fp32": _runtime("ort"),
    "ort-int8": _runtime("ort", "int8"),
    "ort-int8-grouped": _runtime("ort", "int8"),
    "openvino-fp32": _runtime("openvino", "f32"),
    "openvino-bf16": _runtime("openvino", "bf16"),
    "openvino-bf16-grouped": _runtime("openvino", "bf16"),
}
"""Each by its name; `serve` makes the one that its task names."""

ENGINE_FORWARD: Final = {"cpu": "packed-fp32", "cuda": "packed-bf16"}
"""What the engine runs on a device unless it is told otherwise."""


def main() -> None:
    """The process."""
    began_s = psutil.Process().create_time()
    task = Task.of_command_line()
    sys.path.append(task.packages)
    # On a CPU an engine leaves its caller one thread, from before the model is loaded: here that is before it is made.
    torch.set_num_threads(1 if task.scorer.startswith("score-now") and task.device == "cpu" else task.threads)
    if task.scorer.startswith("peak-"):
        _serve_peak(task)
        return
    # Below the parent's folder, which is removed even where this process is killed.
    with tempfile.TemporaryDirectory(prefix="inductor-", dir=task.folder) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # of its own: a warm-up is to be a whole one
        _serve(task, began_s=began_s)


def bundle_of(task: Task) -> tuple[Bundle, list[bytes]]:
    """The task's model and the windows by which scores are compared."""
    bundle = sizes.load(task.size)
    checked = work.Pool.load(Path(task.folder), "real")[:CHECKED]
    if task.size != sizes.SHIPPED:
        sizes.spread(bundle, work.Columns.of(checked, bundle.vocabulary))
    return bundle, checked


def _serve(task: Task, *, began_s: float) -> None:
    bundle, checked = bundle_of(task)
    shape = bundle.shape
    before = _memory_bytes(task)
    begin = time.perf_counter()
    scorer = SCORERS[task.scorer](bundle, task)
    load_s = time.perf_counter() - begin
    scorer.forward(scorer.arrange(checked[:1]))
    first_score_s = time.time() - began_s
    scores = scorer.forward(scorer.arrange(checked))
    memory_mb = (_memory_bytes(task) - before) / 1e6
    parted = np.concatenate([scorer.forward(scorer.arrange(checked[a:b])) for a, b in pairwise(_PARTS)])
    ready = Ready(
        load_s=load_s,
        first_score_s=first_score_s,
        memory_mb=memory_mb,
        scores=scores.tolist(),
        parted=parted.tolist(),
    )
    say(asdict(ready))
    batches: list[tuple[Any, list[int]]] = []
    for line in sys.stdin:
        told = json.loads(line)
        if "mix" in told:
            pool = work.Pool.load(Path(task.folder), told["mix"])
            cut = work.batches(pool, told["batch"], most=_MOST_BATCHES)
            begin = time.perf_counter()
            for windows in cut[:_WARM_BATCHES]:
                scorer.forward(scorer.arrange(windows))
            warm_up_s = time.perf_counter() - begin
            batches = [(scorer.arrange(windows), work.positions(windows).tolist()) for windows in cut]
            say({"warm_up_s": warm_up_s, "memory_mb": (_memory_bytes(task) - before) / 1e6})
        else:
            say(asdict(_turn(scorer, batches, told["seconds"], layers=shape.layers, hidden=shape.hidden)))


def _turn(
    scorer: Scorer, batches: Sequence[tuple[Any, list[int]]], seconds: float, *, layers: int, hidden: int
) -> Turn:
    """Whole batches in their order, round and round, for at least so long; as many at once as a scorer has callers."""
    numbers, done = itertools.count(), list[int]()

    def call() -> None:
        while True:
            number = next(numbers)
            scorer.forward(batches[number % len(batches)][0])
            done.append(number)
            if time.perf_counter() - begin >= seconds:
                return

    begin, cpu_s = time.perf_counter(), time.process_time()
    callers = getattr(scorer, "callers", 1)
    if callers == 1:
        call()
    else:
        with ThreadPoolExecutor(callers) as pool:
            for ended in [pool.submit(call) for _ in range(callers)]:
                ended.result()
    took = time.perf_counter() - begin
    cpu_s = time.process_time() - cpu_s
    lengths = [np.array(batches[number % len(batches)][1]) for number in done]
    return Turn(
        windows=sum(map(len, lengths)),
        positions=int(sum(each.sum() for each in lengths)),
        batches=len(done),
        flops=sum(work.flops(each, layers=layers, hidden=hidden) for each in lengths),
        seconds=took,
        cpu_s=cpu_s,
    )


def _serve_peak(task: Task) -> None:
    peak = Peak(dtype=DTYPES[task.scorer.removeprefix("peak-")], device=torch.device(task.device))
    say({})
    for line in sys.stdin:
        say({"flops_per_s": peak.rate(json.loads(line)["seconds"])})


def _memory_bytes(task: Task) -> int:
    """Of the device, or of this process where the device is the host's own."""
    if task.device == "cuda":
        return torch.cuda.max_memory_reserved()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
