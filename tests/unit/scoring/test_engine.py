"""What callers share and what they do not: one thread, one queue; nobody's score, failure or patience."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from tests.unit.scoring import making
from worker.errors import IntentError, SettingError
from worker.scores import Model
from worker.scoring.bundle import Bundle
from worker.scoring.engine import Engine, Scores
from worker.scoring.forward import TOLERANCE, groups

WINDOWS = making.random_windows(120, seed=41)
BROKEN = b"no window"


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    with Engine(bundle, device="cpu", max_batch_windows=32, max_queued_windows=64, threads=1) as made:
        yield made


class Gate:
    """Holds the engine's thread inside a batch until it is opened, and remembers the batches."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[bytes]] = []
        self.entered, self.opened = threading.Semaphore(0), threading.Event()
        score = engine._score

        def held(windows: Sequence[bytes]) -> Scores:
            self.batches.append(list(windows))
            self.entered.release()
            assert self.opened.wait(30)
            return score(windows)

        monkeypatch.setattr(engine, "_score", held)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


@pytest.fixture
def gate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(engine, monkeypatch)
    yield made
    made.opened.set()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is awaited is a number behind the engine's lock; nothing sets an event
            await asyncio.sleep(0)


def test_row_i_is_window_is(engine: Engine, bundle: Bundle) -> None:
    scores = engine.score_now(WINDOWS)
    assert engine.model == Model("test", bundle.version)
    assert scores.intent.shape == (120, 3)
    assert scores.intent.dtype == np.dtype(np.float32)
    assert scores.risk_reasons.dtype == np.dtype(np.uint8)
    assert np.ptp(scores.intent[:, 1]) > 0.1
    backwards = engine.score_now(WINDOWS[::-1])
    assert scores.intent[::-1] == pytest.approx(backwards.intent, abs=TOLERANCE)
    assert np.array_equal(scores.reason_codes[::-1], backwards.reason_codes)


def test_neighbours_do_not_change_a_score(engine: Engine) -> None:
    """Alone, beside its like, beside full windows: padding and masks leave nothing but rounding."""
    together = engine.score_now(WINDOWS).intent
    alone = np.concatenate([engine.score_now([window]).intent for window in WINDOWS])
    assert alone == pytest.approx(together, abs=TOLERANCE)
    longest = max(WINDOWS, key=len)
    for window in WINDOWS[:20]:
        assert engine.score_now([window, longest]).intent[0] == pytest.approx(
            engine.score_now([window]).intent[0], abs=TOLERANCE
        )


def test_the_same_batch_twice_is_the_same_to_the_bit(engine: Engine) -> None:
    first, second = engine.score_now(WINDOWS[:30]), engine.score_now(WINDOWS[:30])
    assert np.array_equal(first.intent, second.intent)


async def test_nothing_to_score(engine: Engine) -> None:
    assert len(await engine.score([])) == len(engine.score_now([])) == 0


async def test_concurrent_callers_share_batches_and_get_their_own_rows(engine: Engine, gate: Gate) -> None:
    wanted = [asyncio.create_task(engine.score(WINDOWS[:1]))]
    await gate.wait_entered()
    wanted += [asyncio.create_task(engine.score(WINDOWS[at : at + 7])) for at in range(1, 29, 7)]
    await until(lambda: engine.queued == 28)
    gate.opened.set()
    found = np.concatenate([(await task).intent for task in wanted])
    assert [len(batch) for batch in gate.batches] == [1, 28]
    assert found == pytest.approx(engine.score_now(WINDOWS[:29]).intent, abs=TOLERANCE)


async def test_a_failure_fails_only_its_own_callers(engine: Engine, gate: Gate) -> None:
    first = asyncio.create_task(engine.score(WINDOWS[:1]))
    await gate.wait_entered()
    good = asyncio.create_task(engine.score(WINDOWS[1:5]))
    bad = asyncio.create_task(engine.score([WINDOWS[5], BROKEN]))
    also_good = asyncio.create_task(engine.score(WINDOWS[6:9]))
    await until(lambda: engine.queued == 9)
    gate.opened.set()
    assert len(await first) == 1
    assert len(await good) == 4
    assert len(await also_good) == 3
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
    assert [len(batch) for batch in gate.batches] == [2, 2]


async def test_callers_past_the_bound_wait_for_room(engine: Engine, gate: Gate) -> None:
    tasks = [asyncio.create_task(engine.score(WINDOWS[:1]))]
    await gate.wait_entered()
    tasks += [asyncio.create_task(engine.score(WINDOWS[:30])) for _ in range(5)]
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


def test_more_windows_than_the_queue_holds_are_scored_when_it_is_empty(engine: Engine) -> None:
    assert len(engine.score_now(WINDOWS)) == 120


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
        Engine(bundle, device=device)


def test_groups_hold_every_window_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 3000)
    found = list(groups(lengths, max_windows=256))
    assert sorted(np.concatenate(found).tolist()) == list(range(3000))
    for chosen in found:
        assert len(chosen) <= 256
        assert (lengths[chosen].max() - lengths[chosen]).sum() <= 1024
