"""What callers share and what they do not: one thread, one queue; nobody's score, failure or patience."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.scoring import making
from tests.unit.scoring.runners import Around
from worker import window
from worker.errors import Fatal, IntentError, SettingError
from worker.scores import Model
from worker.scoring import reasons, risk
from worker.scoring.answer import Scores
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.device import Device, Pending, Runner
from worker.scoring.engine import SHADOW_QUEUE_TOKENS, SHADOW_TOKENS, Engine
from worker.scoring.forward import TOLERANCE
from worker.scoring.packed import Network
from worker.scoring.percentile import Percentiles
from worker.settings import Model as ModelSettings

WINDOWS = making.random_windows(120, seed=41)
BROKEN = b"no window"
LONGEST = max(WINDOWS, key=window.length)


def tokens(windows: Sequence[bytes]) -> int:
    return sum(1 + window.length(one) for one in windows)


@dataclass(frozen=True)
class Gate(Device):
    """A device that holds each batch until it is opened, remembers the batches, and fails as it is told."""

    batches: list[tuple[str, list[int]]] = field(default_factory=list)
    """(model's name, the windows' lengths)"""
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    opened: threading.Event = field(default_factory=threading.Event)
    faults: list[Exception] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    """Tokens that fit into memory; empty: any."""

    def prepare(self, bundle: Bundle, warm_up: Sequence[bytes], *, max_tokens: int) -> Generator[None, None, Runner]:
        runner = yield from super().prepare(bundle, warm_up, max_tokens=max_tokens)
        return Held(runner, self)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


@dataclass(frozen=True)
class Held(Around):
    gate: Gate

    def begin(self, batch: Batch) -> Pending:
        gate = self.gate
        gate.batches.append((self.bundle.name, batch.lengths.tolist()))
        gate.entered.release()
        assert gate.opened.wait(30)
        if gate.faults:
            raise gate.faults.pop(0)
        if gate.limits and (batch.lengths + 1).sum() > gate.limits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.runner.begin(batch)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate(torch.device("cpu"))
    yield made
    made.opened.set()


@pytest.fixture
def engine(bundle: Bundle, gate: Gate) -> Iterator[Engine]:
    """Its batches hold 32 full windows, its queue 64."""
    full = 1 + window.EVENTS
    with Engine(
        lambda: bundle, device=gate, max_batch_tokens=32 * full, max_queued_tokens=64 * full, threads=1
    ) as made:
        yield made
        gate.opened.set()


@pytest.fixture
def free(engine: Engine, gate: Gate) -> Engine:
    gate.opened.set()
    return engine


@pytest.fixture
def heir() -> Bundle:
    return replace(making.bundle(name="heir", seed=4), version="2")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is awaited is a number behind the engine's lock; nothing sets an event
            await asyncio.sleep(0)


def test_scores_are_ranked_where_the_bundle_has_a_reference(free: Engine, bundle: Bundle) -> None:
    plain, ranks = free.score_now(WINDOWS), free.ranks
    assert plain.intent_percentile is None
    free.swap(replace(bundle, percentiles=Percentiles.fit(plain.intent, np.ones(plain.intent.shape, np.bool_))))
    assert (ranks, free.ranks) == (False, True)
    ranked = free.score_now(WINDOWS).intent_percentile
    assert ranked is not None
    for at in range(3):
        lowest, highest = plain.intent[:, at].argmin(), plain.intent[:, at].argmax()
        assert ranked[lowest, at] < 0.01
        assert ranked[highest, at] > 0.99
        assert 0.4 < np.median(ranked[:, at]) < 0.6


def test_row_i_is_window_is(free: Engine, bundle: Bundle) -> None:
    scores = free.score_now(WINDOWS)
    assert scores.model == free.model == Model("test", bundle.version)
    assert scores.intent.shape == (120, 3)
    assert scores.intent.dtype == np.dtype(np.float32)
    assert scores.risk_reasons.dtype == np.dtype(np.uint8)
    assert np.ptp(scores.intent[:, 1]) > 0.1
    backwards = free.score_now(WINDOWS[::-1])
    assert scores.intent[::-1] == pytest.approx(backwards.intent, abs=TOLERANCE)
    assert np.array_equal(scores.reason_codes[::-1], backwards.reason_codes)


def test_neighbours_do_not_change_a_score(free: Engine) -> None:
    """Alone, beside its like, beside full windows: what is left is rounding."""
    together = free.score_now(WINDOWS).intent
    alone = np.concatenate([free.score_now([window]).intent for window in WINDOWS])
    assert alone == pytest.approx(together, abs=TOLERANCE)
    for one in WINDOWS[:20]:
        assert free.score_now([one, LONGEST]).intent[0] == pytest.approx(free.score_now([one]).intent[0], abs=TOLERANCE)


def test_the_same_batch_twice_is_the_same_to_the_bit(free: Engine) -> None:
    first, second = free.score_now(WINDOWS[:30]), free.score_now(WINDOWS[:30])
    assert np.array_equal(first.intent, second.intent)


async def test_nothing_to_score(engine: Engine) -> None:
    assert len(await engine.score([])) == len(engine.score_now([])) == 0
    assert engine.offer([]) is None


async def test_concurrent_callers_share_batches_and_get_their_own_rows(engine: Engine, gate: Gate) -> None:
    wanted = [asyncio.create_task(engine.score(WINDOWS[:1]))]
    await gate.wait_entered()
    wanted += [asyncio.create_task(engine.score(WINDOWS[at : at + 7])) for at in range(1, 29, 7)]
    await until(lambda: engine.queued == 28)
    gate.opened.set()
    found = np.concatenate([(await task).intent for task in wanted])
    assert [len(lengths) for _, lengths in gate.batches] == [1, 28]
    assert found == pytest.approx(engine.score_now(WINDOWS[:29]).intent, abs=TOLERANCE)


async def test_a_job_larger_than_a_batch_is_split_and_answered_whole(engine: Engine, gate: Gate) -> None:
    first = asyncio.create_task(engine.score(WINDOWS[:1]))
    await gate.wait_entered()
    large = asyncio.create_task(engine.score([LONGEST] * 60))
    await until(lambda: engine.queued == 60)
    small = asyncio.create_task(engine.score(WINDOWS[1:3]))
    await until(lambda: engine.queued == 62)
    gate.opened.set()
    assert [len(await task) for task in (first, small, large)] == [1, 2, 60]
    counts = [len(lengths) for _, lengths in gate.batches]
    assert counts[0] == 1
    assert sum(counts) == 63
    assert all(tokens_ <= engine.max_batch_tokens for tokens_ in (sum(ls) + len(ls) for _, ls in gate.batches))
    assert any(length != 64 for length in gate.batches[1][1])  # the small one is in the next batch


async def test_a_failure_fails_only_its_own_callers(engine: Engine, gate: Gate) -> None:
    first = asyncio.create_task(engine.score(WINDOWS[:1]))
    await gate.wait_entered()
    good = asyncio.create_task(engine.score(WINDOWS[1:5]))
    bad = asyncio.create_task(engine.score([WINDOWS[5], BROKEN]))
    also_good = asyncio.create_task(engine.score(WINDOWS[6:9]))
    await until(lambda: engine.queued == 9)
    gate.opened.set()
    assert [len(await task) for task in (first, good, also_good)] == [1, 4, 3]
    with pytest.raises(IntentError, match="window"):
        await bad
    assert engine.alive
    assert len(engine.score_now(WINDOWS[:3])) == 3


async def test_a_cancelled_caller_leaves_the_queue_and_disturbs_nobody(engine: Engine, gate: Gate) -> None:
    under_way = asyncio.create_task(engine.score(WINDOWS[:2]))
    await gate.wait_entered()
    waiting = asyncio.create_task(engine.score(WINDOWS[2:6]))
    staying = asyncio.create_task(engine.score(WINDOWS[6:8]))
    await until(lambda: engine.queued == 6)
    for task in (under_way, waiting):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.opened.set()
    assert len(await staying) == 2
    assert [len(lengths) for _, lengths in gate.batches] == [2, 2]


async def test_callers_past_the_bound_wait_for_room(engine: Engine, gate: Gate) -> None:
    tasks = [asyncio.create_task(engine.score(WINDOWS[:1]))]
    await gate.wait_entered()
    tasks += [asyncio.create_task(engine.score([LONGEST] * 30)) for _ in range(5)]
    await until(lambda: len(engine._room) == 3)
    assert engine.queued == 60
    tasks[-1].cancel()  # one that waits for room may go, too
    with pytest.raises(asyncio.CancelledError):
        await tasks[-1]
    gate.opened.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [len(scores) for scores in found if isinstance(scores, Scores)] == [1, 30, 30, 30, 30]
    assert isinstance(found[-1], asyncio.CancelledError)
    assert engine.queued == 0


async def test_who_waits_for_room_is_not_overtaken_by_those_that_need_less(engine: Engine, gate: Gate) -> None:
    """Else a large job would find no room for as long as small ones keep coming."""
    tasks = [asyncio.create_task(engine.score(WINDOWS[:1]))]
    await gate.wait_entered()
    tasks += [asyncio.create_task(engine.score([LONGEST] * 30)) for _ in range(2)]
    await until(lambda: engine.queued == 60)
    tasks.append(asyncio.create_task(engine.score([LONGEST] * 60)))
    await until(lambda: len(engine._room) == 1)
    tasks.append(asyncio.create_task(engine.score(WINDOWS[:2])))  # for which there is room
    await until(lambda: len(engine._room) == 2 or engine.queued > 60)
    assert engine.queued == 60
    gate.opened.set()
    assert [len(scores) for scores in await asyncio.gather(*tasks)] == [1, 30, 30, 60, 2]
    assert engine.queued == len(engine._room) == 0


async def test_who_waits_for_room_hears_that_the_engine_is_closed(engine: Engine, gate: Gate) -> None:
    under_way = asyncio.create_task(engine.score(WINDOWS[:1]))
    await gate.wait_entered()
    waiting = [asyncio.create_task(engine.score([LONGEST] * 60)) for _ in range(2)]
    await until(lambda: len(engine._room) == 1)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    for task in waiting:
        with pytest.raises(IntentError, match="closed before"):
            await task
    gate.opened.set()
    assert len(await under_way) == 1
    await closing


def test_more_windows_than_the_queue_holds_are_scored_when_it_is_empty(free: Engine) -> None:
    assert len(free.score_now([LONGEST] * 120)) == 120


async def test_close_finishes_what_is_under_way_and_fails_what_waits(engine: Engine, gate: Gate) -> None:
    under_way = asyncio.create_task(engine.score(WINDOWS[:2]))
    await gate.wait_entered()
    waiting = asyncio.create_task(engine.score(WINDOWS[2:4]))
    await until(lambda: engine.queued == 2)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    with pytest.raises(IntentError, match="closed before"):
        await waiting
    gate.opened.set()
    assert len(await under_way) == 2
    await closing
    engine.close()
    assert not engine.alive
    with pytest.raises(IntentError, match="is closed"):
        await engine.score(WINDOWS[:1])


@pytest.mark.parametrize("device", ["tpu", "cuda:9"])
def test_a_device_that_is_not_there_is_named(bundle: Bundle, device: str) -> None:
    with pytest.raises(SettingError, match=f"`model.device` is '{device}'"):
        Engine(lambda: bundle, device=device)


def test_the_first_score_is_not_the_first_to_be_told_its_reasons(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells them is compiled when it is first called, for seconds on a new machine: a worker that is ready has."""
    told: list[str] = []
    for module, name in ((reasons, "top"), (risk, "risk")):
        monkeypatch.setattr(module, name, noted(told, name, getattr(module, name)))
    with Engine(lambda: bundle, device="cpu") as made:
        at_first = set(told)
        made.score_now(WINDOWS[:1])
    assert at_first == {"top", "risk"} == set(told[-2:])


def noted(told: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        told.append(name)
        return function(*arguments)

    return call


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_type_that_is_not_there_is_named(bundle: Bundle, dtype: str) -> None:
    with pytest.raises(SettingError, match=f"`model.dtype` is '{dtype}'"):
        Engine(lambda: bundle, device="cpu", dtype=dtype)


def test_a_model_is_loaded_when_torch_s_threads_are_the_engine_s(bundle: Bundle) -> None:
    seen = []

    def load() -> Bundle:
        seen.append(torch.get_num_threads())
        return bundle

    torch.set_num_threads(2)
    with Engine(load, device="cpu", threads=1) as made:
        assert made.bundle is bundle
    assert seen == [1]


def test_an_engine_as_the_settings_have_it(bundle: Bundle) -> None:
    settings = ModelSettings(dtype="bfloat16", deterministic=True, max_batch_tokens=256, threads=1, device="cpu")
    with Engine.configured(lambda: bundle, settings) as made:
        assert made.max_batch_tokens == 256
        assert np.array_equal(made.score_now(WINDOWS[:20]).intent, made.score_now(WINDOWS[:20][::-1]).intent[::-1])


# -- memory and loss ---------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batches_and_goes_on(free: Engine, gate: Gate) -> None:
    before = free.score_now([*WINDOWS[:20], LONGEST])
    gate.limits.append(tokens([LONGEST]) * 5)
    after = free.score_now([*WINDOWS[:20], LONGEST])
    assert after.intent == pytest.approx(before.intent, abs=TOLERANCE)
    assert free.max_batch_tokens <= gate.limits[0]
    fitting = len(gate.batches)
    assert len(free.score_now([LONGEST] * 60)) == 60
    assert all(sum(lengths) + len(lengths) <= gate.limits[0] for _, lengths in gate.batches[fitting:])


def test_a_window_for_which_there_is_no_memory_fails_its_caller(free: Engine, gate: Gate) -> None:
    gate.limits.append(10)
    with pytest.raises(torch.OutOfMemoryError):
        free.score_now([LONGEST, making.window_of([making.event(1)])])
    assert free.max_batch_tokens == 1 + window.EVENTS
    gate.limits.clear()
    assert len(free.score_now([LONGEST] * 3)) == 3


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("CUDA error: unspecified launch failure"), id="by what it says"),
        pytest.param(torch.AcceleratorError("device-side assert"), id="by its type"),
    ],
)
async def test_a_lost_device_ends_everything(engine: Engine, gate: Gate, error: Exception) -> None:
    under_way = asyncio.create_task(engine.score(WINDOWS[:2]))
    await gate.wait_entered()
    waiting = asyncio.create_task(engine.score(WINDOWS[2:4]))
    await until(lambda: engine.queued == 2)
    gate.faults.append(error)
    gate.opened.set()
    for task in (under_way, waiting):
        with pytest.raises(Fatal, match="device cpu is lost"):
            await task
    assert not engine.alive
    with pytest.raises(IntentError, match="is closed"):
        engine.swap(making.bundle())


# -- other models ------------------------------------------------------------------------------------------------------


async def test_a_swap_waits_for_no_batch_and_no_job_is_of_two_models(engine: Engine, gate: Gate, heir: Bundle) -> None:
    under_way = asyncio.create_task(engine.score([LONGEST] * 60))
    await gate.wait_entered()  # with half of its windows
    swapping = asyncio.create_task(asyncio.to_thread(engine.swap, heir))
    await until(lambda: bool(engine._changes))
    later = asyncio.create_task(engine.score(WINDOWS[:2]))
    await until(lambda: engine.queued == 30)
    gate.opened.set()
    await swapping
    assert engine.model == Model("heir", "2")
    assert (await under_way).model.name == "test"
    assert len(await under_way) == 60
    assert (await engine.score(WINDOWS[:2])).model == Model("heir", "2")
    assert len(await later) == 2
    assert [name for name, _ in gate.batches] == sorted((name for name, _ in gate.batches), reverse=True)


@dataclass(frozen=True)
class Stepping(Gate):
    """Tells of each step in which a model is made ready, beside the batches; makes one of another name in ten more."""

    def prepare(self, bundle: Bundle, warm_up: Sequence[bytes], *, max_tokens: int) -> Generator[None, None, Runner]:
        if bundle.name == "heir":
            for _ in range(10):
                self.batches.append(("a step", []))
                yield
        return (yield from super().prepare(bundle, warm_up, max_tokens=max_tokens))


async def test_a_batch_waits_for_one_step_of_a_swap_at_most(bundle: Bundle, heir: Bundle) -> None:
    gate = Stepping(torch.device("cpu"))
    tokens_a_batch = 10 * (1 + window.EVENTS)
    with Engine(lambda: bundle, device=gate, max_batch_tokens=tokens_a_batch, threads=1) as engine:
        scoring = asyncio.create_task(engine.score([LONGEST] * 60))
        await gate.wait_entered()
        swapping = asyncio.create_task(asyncio.to_thread(engine.swap, heir))
        await until(lambda: bool(engine._changes))
        gate.opened.set()
        assert (await scoring).model.name == "test"
        await swapping
    found = [name for name, _ in gate.batches]
    last = max(place for place, name in enumerate(found) if name == "test")
    assert found[: last + 1] == ["test", *["a step", "test"] * (found.count("test") - 1)]
    assert found.count("a step") == 10


async def test_after_a_swap_scores_are_the_new_models(free: Engine, heir: Bundle) -> None:
    old = await free.score(WINDOWS[:20])
    await asyncio.to_thread(free.swap, heir)
    new = await free.score(WINDOWS[:20])
    assert np.abs(new.intent - old.intent).max() > 0.01
    with Engine(lambda: heir, device="cpu", threads=1) as alone:
        assert new.intent == pytest.approx(alone.score_now(WINDOWS[:20]).intent, abs=TOLERANCE)


def test_a_model_that_gives_no_numbers_is_refused_and_the_old_one_stays(free: Engine, bundle: Bundle) -> None:
    broken = making.bundle(name="broken")
    broken.model.head.first.data.fill_(torch.nan)
    for change in (free.swap, free.set_challenger):
        with pytest.raises(IntentError, match=r"broken.*not numbers"):
            change(broken)
    assert free.model == bundle.label
    assert free.challenger is None
    assert free.score_now(WINDOWS[:3]).model == bundle.label


def test_nothing_of_a_model_that_is_refused_stays(free: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: a worker collects garbage rarely, and one that is tried again and again would fill the device."""
    tables = list[weakref.ref[torch.Tensor]]()
    made = Network.of

    def noted(*arguments: Any, **named: Any) -> Network:
        network = made(*arguments, **named)
        tables.append(weakref.ref(network.table))
        return network

    monkeypatch.setattr(Network, "of", noted)
    broken = making.bundle(name="broken")
    broken.weights.head.first.data.fill_(torch.nan)
    weights = weakref.ref(broken.weights)
    gc.disable()
    try:
        for change in (free.swap, free.set_challenger):
            with pytest.raises(IntentError, match=r"broken.*not numbers"):
                change(broken)
        del broken
        assert [table() for table in tables] == [None, None]
        assert weights() is None
    finally:
        gc.enable()


def test_an_engine_whose_model_gives_no_numbers_does_not_start() -> None:
    broken = making.bundle(name="broken")
    broken.model.head.first.data.fill_(torch.nan)
    with pytest.raises(IntentError, match=r"broken.*not numbers"):
        Engine(lambda: broken, device="cpu")


# -- the shadow --------------------------------------------------------------------------------------------------------


def test_without_a_challenger_nothing_is_taken(free: Engine) -> None:
    assert free.offer(WINDOWS[:2]) is None


def test_offers_are_scored_by_the_challenger(free: Engine, heir: Bundle) -> None:
    free.set_challenger(heir)
    offered = free.offer(WINDOWS[:20])
    assert offered is not None
    assert offered.result(30).model == free.challenger == Model("heir", "2")
    assert free.score_now(WINDOWS[:20]).model.name == "test"
    with Engine(lambda: heir, device="cpu", threads=1) as alone:
        wanted = alone.score_now(WINDOWS[:20]).intent
    assert offered.result().intent == pytest.approx(wanted, abs=TOLERANCE)
    free.set_challenger(None)
    assert free.offer(WINDOWS[:2]) is None


async def test_offers_wait_for_the_champion_and_it_for_one_small_batch_at_most(
    engine: Engine, gate: Gate, heir: Bundle
) -> None:
    gate.opened.set()
    await asyncio.to_thread(engine.set_challenger, heir)
    gate.opened.clear()
    offered = engine.offer([LONGEST] * 100)
    assert offered is not None
    await gate.wait_entered()
    jobs = [asyncio.create_task(engine.score(WINDOWS[at : at + 2])) for at in (0, 2)]
    await until(lambda: engine.queued == 4)
    gate.opened.set()
    for job in jobs:
        await job
    assert [name for name, _ in gate.batches[:2]] == ["heir", "test"]
    assert len(await asyncio.to_thread(offered.result, 30)) == 100
    assert all(sum(lengths) + len(lengths) <= SHADOW_TOKENS for name, lengths in gate.batches if name == "heir")


async def test_what_is_offered_beyond_the_bound_is_dropped_at_once(engine: Engine, gate: Gate, heir: Bundle) -> None:
    gate.opened.set()
    await asyncio.to_thread(engine.set_challenger, heir)
    gate.opened.clear()
    full = SHADOW_QUEUE_TOKENS // tokens([LONGEST])
    first = engine.offer([LONGEST] * full)
    await gate.wait_entered()
    taken = len(gate.batches[-1][1])
    assert engine.offer([LONGEST] * (taken + 2)) is None
    assert engine.offer([LONGEST] * taken) is not None
    changing = asyncio.create_task(asyncio.to_thread(engine.set_challenger, None))
    await until(lambda: bool(engine._changes))
    gate.opened.set()
    await changing
    assert first is not None
    with pytest.raises(CancelledError):
        first.result(30)
    assert engine.alive


def test_a_failing_challenger_fails_its_offers_alone(free: Engine, gate: Gate, heir: Bundle) -> None:
    free.set_challenger(heir)
    gate.faults.append(RuntimeError("ordered"))
    offered = free.offer(WINDOWS[:2])
    assert offered is not None
    with pytest.raises(RuntimeError, match="ordered"):
        offered.result(30)
    assert len(free.score_now(WINDOWS[:2])) == 2
