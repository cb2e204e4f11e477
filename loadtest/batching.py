"""`python -m loadtest batching`: what a batch waits for, and what that does to latency, from light load to nearly full.

Owns the loads and who runs when. The policies are in `queueing` (simulated) and `schedulers` (real threads).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import psutil
import typer
from rich.table import Table

from loadtest import devices, taken
from loadtest.conclude import conclude
from loadtest.options import Json, Sample, out
from loadtest.queueing import POLICIES, Costs, Seconds, poisson, simulate
from worker.ops import logs
from worker.terminal import err


class Size(StrEnum):
    """Of the model; `scorers.sizes` has the layers."""

    TINY = "tiny"
    MINI = "mini"
    SMALL = "small"


LOADS: Final = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
ENGINE: Final = "the engine itself"
_SIMULATED: Final = 100_000
_FITTED: Final = (0.02, 0.1, 0.3, 0.6, 1.0)
"""Batches of so much of the budget, from which costs are fitted."""

_FIT_ROUNDS: Final = 7
_WARM_SHARE: Final = 0.1
_SEED: Final = 1

Latencies = dict[tuple[str, float], Seconds]


def batching(
    *,
    size: Annotated[
        Size, typer.Option(help="Of the model, whose forward is the service: tiny is the shipped one.")
    ] = Size.TINY,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where.")] = "auto",
    budget: Annotated[int, typer.Option(min=64, help="Positions in a batch, at most.")] = 4096,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch. Default: one core is left to the host.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of arrivals, for each policy, load and run.")] = 3.0,
    runs: Annotated[int, typer.Option(min=1, help="Of each policy and load, in turn; they are put together.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="Two loads, one run of a second.")] = False,
    sample: Sample = None,
    folder: Annotated[Path, out("batching.json and batching.png")] = Path("runs/batching"),
    as_json: Json = False,
) -> None:
    """Compare batching policies: late freeze, greedy in turn, timers of 2 and 10 ms, at 20 to 95 % of capacity.

    Windows arrive one by one, at random (Poisson), by a schedule that waits for nobody; a window's latency runs from
    when it was due. Once simulated, with costs fitted to this machine's own; once on real threads with real batches,
    every policy in front of the same forward; the worker's engine as it is runs beside them, at shares of what it can
    do itself.
    """
    from loadtest import schedulers, workload
    from loadtest.scorers import sizes, work
    from loadtest.scorers.serve import ENGINE_FORWARD, SCORERS
    from loadtest.scorers.task import Task
    from worker.scoring.engine import Engine

    logs.quiet()
    where = devices.of(device)
    loads, seconds, runs = ((0.4, 0.9), 1.0, 1) if quick else (LOADS, seconds, runs)
    threads = threads or max(1, len(psutil.Process().cpu_affinity() or ()) - 1)
    load_before = taken.load_before(err)
    with err.status("making windows") as status:
        source = sample or workload.sample_folder()
        pool = work.made(source, events=40_000) if quick else work.made(source)
        windows = pool.windows["real"]
        tokens = work.positions(windows)
        _set_threads(threads)
        bundle = sizes.load(size)
        task = Task(scorer=ENGINE_FORWARD[where], size=size, device=where, threads=threads, folder="")
        scorer = SCORERS[task.scorer](bundle, task)
        status.update("fitting costs")
        costs = fit(scorer, windows, budget=budget)

        def player(name: str) -> Callable[[Sequence[bytes], Seconds], Seconds]:
            if name == ENGINE:
                return lambda some, due: schedulers.play_engine(own, some, due)
            (policy,) = (each for each in POLICIES if each.name == name)
            return lambda some, due: schedulers.Scheduler(scorer, policy, budget=budget).play(some, due)

        with Engine(lambda: bundle, device=where, max_batch_tokens=budget, threads=threads) as own:
            status.update("capacity")
            most = {name: schedulers.saturated(player(name), windows) for name in (POLICIES[0].name, ENGINE)}
            capacity = most[POLICIES[0].name]
            names = [*(policy.name for policy in POLICIES), ENGINE]
            found: dict[tuple[str, float], list[Seconds]] = {}
            rng = np.random.default_rng(_SEED)
            for number in range(runs):
                for load in loads:
                    apart = poisson(1.0, max(100, int(load * capacity * seconds)), rng)
                    some = [windows[place] for place in rng.integers(len(windows), size=len(apart))]
                    for name in names:
                        status.update(f"run {number + 1} of {runs}, {load:.0%} of capacity: {name}")
                        due = apart / (load * most.get(name, capacity))
                        found.setdefault((name, load), []).append(player(name)(some, due)[_warm(due) :])
        status.update("simulating")
        by_costs = costs.capacity(float(tokens.mean()))
        simulated = _simulated(costs, tokens, capacity=by_costs, loads=loads)
    real = {key: np.concatenate(parts) for key, parts in found.items()}
    document = {
        "taken": taken.provenance(load_before=load_before, packages=("numpy", "torch", "transformers")),
        "model": size,
        "device": devices.shown(where),
        "threads": threads,
        "windows": {"source": pool.source, "mean_positions": round(float(tokens.mean()), 1)},
        "costs": {
            "budget": budget,
            "host_us": round(costs.host_s * 1e6, 1),
            "host_us_per_position": round(costs.host_token_s * 1e6, 3),
            "device_us": round(costs.device_s * 1e6, 1),
            "device_us_per_position": round(costs.device_token_s * 1e6, 3),
        },
        "capacity_windows_per_s": {
            "measured": round(capacity),
            "by_costs": round(by_costs),
            "of_the_engine_itself": round(most[ENGINE]),
        },
        "real_ms": _percentiles(real),
        "simulated_ms": _percentiles(simulated),
    }
    conclude(
        document,
        folder,
        "batching",
        lambda: [
            _table(
                real,
                title="On real threads",
                caption=f"{capacity:,.0f} windows/s are all that can be done, {most[ENGINE]:,.0f} by the engine itself",
            ),
            _table(
                simulated,
                title="Simulated",
                caption=f"{by_costs:,.0f} windows/s are all that the costs, fitted on this machine, allow",
            ),
            _costs(costs),
        ],
        as_json=as_json,
        plot=partial(
            _plot,
            real,
            simulated,
            title=f"{size}, {document['device']}: {capacity:,.0f} windows/s at most, {pool.source}",
        ),
    )


def fit(scorer: Any, windows: Sequence[bytes], *, budget: int) -> Costs:
    """Preparing and computing, timed on batches from small to full and laid through by least squares.

    Neither begins below 0: a small batch's noise could have it so.
    """
    from loadtest.scorers import work

    sizes: list[int] = []
    prepared: list[float] = []
    computed: list[float] = []
    for share in _FITTED:
        (some,) = work.batches(windows, f"{max(1, int(budget * share))}t", most=1)
        spent = []
        for _ in range(_FIT_ROUNDS):
            begin = time.perf_counter()
            arranged = scorer.arrange(some)
            middle = time.perf_counter()
            scorer.forward(arranged)
            spent.append((middle - begin, time.perf_counter() - middle))
        sizes.append(int(work.positions(some).sum()))
        for times, place in ((prepared, 0), (computed, 1)):
            times.append(float(np.median([one[place] for one in spent])))
    host_token_s, host_s = (max(0.0, float(each)) for each in np.polyfit(sizes, prepared, 1))
    device_token_s, device_s = (max(0.0, float(each)) for each in np.polyfit(sizes, computed, 1))
    return Costs(
        host_s=host_s, host_token_s=host_token_s, device_s=device_s, device_token_s=device_token_s, budget=budget
    )


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _warm(due: Seconds) -> int:
    """How many of the first are not measured."""
    return int(len(due) * _WARM_SHARE)


def _simulated(costs: Costs, tokens: np.ndarray, *, capacity: float, loads: Sequence[float]) -> Latencies:
    """Shares are of what the costs allow: those of another minute could be overloaded by what was real in this one."""
    rng = np.random.default_rng(_SEED)
    found = {}
    for load in loads:
        due = poisson(load * capacity, _SIMULATED, rng)
        some = tokens[rng.integers(len(tokens), size=len(due))]
        for policy in POLICIES:
            found[policy.name, load] = simulate(due, some, costs, policy)[_warm(due) :]
    return found


def _percentiles(latencies: Mapping[tuple[str, float], Seconds]) -> dict[str, dict[str, dict[str, float]]]:
    listed: dict[str, dict[str, dict[str, float]]] = {}
    for (name, load), found in latencies.items():
        listed.setdefault(name, {})[f"{load:.0%}"] = {
            **{f"p{percentile}": round(float(np.percentile(found, percentile)) * 1e3, 2) for percentile in (50, 99)},
            "windows": len(found),
        }
    return listed


def _table(latencies: Mapping[tuple[str, float], Seconds], *, title: str, caption: str) -> Table:
    loads = list(dict.fromkeys(load for _, load in latencies))
    shown = Table(title=title, title_justify="left", caption_justify="left")
    shown.caption = f"p50 / p99 in milliseconds from due to scored; {caption}"
    shown.add_column("share of capacity")
    for load in loads:
        shown.add_column(f"{load:.0%}", justify="right", no_wrap=True)
    for name in dict.fromkeys(name for name, _ in latencies):
        cells = [np.percentile(latencies[name, load], (50, 99)) * 1e3 for load in loads]
        shown.add_row(
            name,
            *(f"{p50:,.1f} / {p99:,.1f}" for p50, p99 in cells),
            style="bold" if name in {ENGINE, POLICIES[0].name} else "",
        )
    return shown


def _costs(costs: Costs) -> str:
    return (
        f"a batch of n positions: {costs.host_s * 1e6:,.0f} + {costs.host_token_s * 1e6:.2f} n µs to prepare, "
        f"{costs.device_s * 1e6:,.0f} + {costs.device_token_s * 1e6:.2f} n µs to compute; n is {costs.budget:,} at most"
    )


def _plot(
    real: Mapping[tuple[str, float], Seconds],
    simulated: Mapping[tuple[str, float], Seconds],
    path: Path,
    *,
    title: str,
) -> None:
    """p50 and p99 over the load, a colour a policy; on the left as simulated, on the right on real threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained", sharey=True)
    colours = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(name for name, _ in real))}
    for axes, latencies, what in ((panels[0], simulated, "simulated"), (panels[1], real, "on real threads")):
        loads = list(dict.fromkeys(load for _, load in latencies))
        for name in dict.fromkeys(name for name, _ in latencies):
            for percentile, style in ((99, "-"), (50, ":")):
                values = [np.percentile(latencies[name, load], percentile) * 1e3 for load in loads]
                label = name if percentile == 99 else None
                axes.plot([100 * load for load in loads], values, style, marker="o", color=colours[name], label=label)
        axes.set(title=what, xlabel="% of capacity", yscale="log")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("milliseconds from due to scored: p99 (lines), p50 (dotted)")
    panels[1].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
