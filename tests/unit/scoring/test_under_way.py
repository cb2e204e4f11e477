"""Two batches under way: what a device that computes beside the host asks of the engine. The device is a stand-in."""

import contextlib
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.scoring import making, networks
from tests.unit.scoring.runners import Around
from worker import window
from worker.errors import IntentError, SettingError
from worker.scoring import faults, graphs
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.device import Device, Pending, Runner
from worker.scoring.engine import Engine
from worker.scoring.graphs import Graphs, Key, Slot
from worker.scoring.head import Shape

BUDGET = 2 * (1 + window.EVENTS)
"""Of the engine's batches: two full windows."""


@dataclass(frozen=True)
class Beside(Device):
    """Has ended a batch when it was looked at once."""

    in_flight: int = 2

    def prepare(self, bundle: Bundle, warm_up: Sequence[bytes], *, max_tokens: int) -> Generator[None, None, Runner]:
        runner = yield from super().prepare(bundle, warm_up, max_tokens=max_tokens)
        return Looked(runner)


@dataclass(frozen=True)
class Looked(Around):
    def begin(self, batch: Batch) -> Pending:
        return Later(self.runner.begin(batch).wait())


@dataclass
class Later:
    found: Floats
    looks: int = 0

    def done(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def wait(self) -> Floats:
        return self.found


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return replace(making.bundle(), version="1")


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    with Engine(lambda: bundle, device=Beside(torch.device("cpu")), max_batch_tokens=BUDGET, threads=1) as made:
        yield made


def scored(engine: Engine, windows: list[bytes], *, callers: int = 1) -> list[Floats]:
    """Each caller's scores, asked for at once. Fails where one has none after half a minute."""
    found: dict[int, Floats] = {}

    def ask(caller: int) -> None:
        found[caller] = engine.score_now(windows).intent

    threads = [threading.Thread(target=ask, args=(caller,), daemon=True) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(callers)), "an answer did not come"
    return [found[caller] for caller in range(callers)]


@pytest.mark.parametrize("callers", [1, 3])
def test_the_last_batch_is_answered_when_nothing_comes_behind_it(engine: Engine, bundle: Bundle, callers: int) -> None:
    windows = making.random_windows(9, seed=71)
    wanted = networks.eager(bundle, Batch.of(windows))
    for found in scored(engine, windows, callers=callers):
        assert found == pytest.approx(wanted, abs=1e-5)
    assert scored(engine, windows[:1])[0] == pytest.approx(wanted[:1], abs=1e-5)


def test_closing_answers_what_is_under_way_and_ends(engine: Engine) -> None:
    scored(engine, making.random_windows(9, seed=72))
    engine.close()
    assert not engine.alive


def test_a_device_that_is_faster_than_expected_is_not_left_idle(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end that is expected in a thousand seconds; nothing would be scored meanwhile."""
    monkeypatch.setattr(engine._pace, "spare_s", lambda _: 1000.0)
    assert len(scored(engine, making.random_windows(20, seed=73))[0]) == 20


def test_a_device_that_cannot_take_the_model_stops_the_start_with_the_settings_names(bundle: Bundle) -> None:
    class Full(Device):
        def prepare(self, *_: object, **__: object) -> Generator[None, None, Runner]:
            yield from ()
            raise torch.OutOfMemoryError("CUDA out of memory.\n Tried to allocate")

    with pytest.raises(IntentError, match=r"`model\.device` 'cpu'.*`model\.max_batch_tokens` 16384: CUDA out of mem"):
        Engine(lambda: bundle, device=Full(torch.device("cpu")))


def test_older_cuda_devices_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert Device.named("auto").dtype == torch.float32
    with pytest.raises(SettingError, match=r"`model\.dtype` is 'bfloat16'.*older than compute capability 8\.0"):
        Device.named("cuda", "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert Device.named("auto").dtype == torch.bfloat16


def test_a_batch_that_was_too_large_is_gone_before_its_halves_are_tried(bundle: Bundle) -> None:
    """Else the device would hold both, and the halves of halves."""
    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    most = 0

    @dataclass(frozen=True)
    class Small(Looked):
        def begin(self, batch: Batch) -> Pending:
            nonlocal most
            held = Held()
            alive.add(held)
            most = max(most, len(alive))
            if len(batch) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().begin(batch)

    class Tight(Beside):
        def prepare(self, *given: Any, **named: Any) -> Generator[None, None, Runner]:
            runner = yield from Device.prepare(self, *given, **named)
            return Small(runner)

    windows = making.random_windows(8, seed=76)
    with Engine(lambda: bundle, device=Tight(torch.device("cpu")), max_batch_tokens=4096, threads=1) as engine:
        assert scored(engine, windows)[0] == pytest.approx(networks.eager(bundle, Batch.of(windows)), abs=1e-5)
    assert most == 1


class Held:
    """Something large."""


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), False),
        (ValueError("no"), False),
    ],
)
def test_what_an_error_of_a_device_means(error: Exception, exhausted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of CUDA's that is no shortage ends the worker only where the device computes nothing any more."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: np.zeros(1))
    assert faults.exhausted(error) is exhausted
    assert not faults.lost(error, cuda)

    def broken(_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    assert faults.lost(error, cuda) is ("CUDA error" in str(error) and not exhausted)


def test_heads_that_the_attention_does_not_take_are_refused() -> None:
    made = networks.bundle(Shape(layers=1, hidden=36, heads=3, head_width=16))
    with pytest.raises(IntentError, match=r"attention heads of 12 numbers.*multiples of 8 up to 256"):
        next(graphs.prepare(made, networks.network(made), max_tokens=1024, fixed=False))


# -- graphs, with stand-ins for CUDA's streams and events --------------------------------------------------------------


class Anything:
    """A stream or an event that has nothing to do."""

    def __getattr__(self, _: str) -> object:
        return lambda *_: True


@pytest.fixture
def launching(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Anything)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(graphs, "compute", lambda _, inputs: inputs.sums[:, :3].clone())

    def slot(self: Graphs, _: object = None) -> Slot:
        key: Key = self._largest
        host, staged = self._zeros(key), self._zeros(key)
        return Slot(host, staged, torch.zeros(key.windows, 3), Anything(), Anything())  # type: ignore[arg-type]

    monkeypatch.setattr(Graphs, "_slot", slot)
    return Graphs(bundle, networks.network(bundle), max_tokens=1024, fixed=False)


def test_nothing_is_kept_of_a_batch_that_was_collected(launching: Graphs) -> None:
    """Whoever replaces a model would keep it, and every batch's scores."""
    batch = Batch.of(making.random_windows(10, seed=74))
    first = launching.begin(batch).wait()
    for _ in range(20):
        assert np.array_equal(launching.begin(batch).wait(), first)
    assert not launching._under_way
    assert len(launching._free) == graphs.SLOTS


def test_more_batches_than_slots_may_be_under_way(launching: Graphs) -> None:
    batches = [Batch.of(making.random_windows(10, seed=seed)) for seed in range(80, 85)]
    under_way = [launching.begin(batch) for batch in batches]
    assert len(launching._under_way) == graphs.SLOTS
    for batch, launched in zip(batches, under_way, strict=True):
        assert launched.done()
        assert np.array_equal(launched.wait(), launching.begin(batch).wait())
    assert not launching._under_way


def test_a_launch_that_fails_gives_its_slot_back(launching: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is short for a while must not leave a worker that can score nothing."""
    batch = Batch.of(making.random_windows(10, seed=77))
    wanted = launching.begin(batch).wait()

    def short(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(graphs, "compute", short)
        for _ in range(graphs.SLOTS + 1):
            with pytest.raises(torch.OutOfMemoryError):
                launching.begin(batch)
    assert np.array_equal(launching.begin(batch).wait(), wanted)
    assert len(launching._free) == graphs.SLOTS


def test_a_batch_whose_device_failed_says_so_each_time_it_is_asked(
    launching: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = launching.begin(Batch.of(making.random_windows(10, seed=75)))

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    ticket = launched.tickets[0]
    assert ticket._slot is not None
    monkeypatch.setattr(ticket._slot.done, "synchronize", fail, raising=False)
    with pytest.raises(RuntimeError, match="illegal memory"):
        launched.wait()
    with pytest.raises(IntentError, match="the device failed"):
        launched.wait()
    assert not launching._under_way
