"""The scoring engine: one thread owns the models and the device; whoever has windows to score shares its batches.

Whatever waits when the device is free is scored together, up to a budget of tokens: no timer. Owns the thread, what a
failure and a cancellation mean, and that the challenger never delays the champion. Knows neither Kafka nor the
pipeline; what waits is `lanes`' business, which model is to come `changes`', what a batch's answers are `flight`'s.
"""

import asyncio
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, Self

import structlog
import torch
from msgspec import structs

from worker import facts, window
from worker.errors import Fatal, IntentError
from worker.scores import Model as ModelName
from worker.scoring.answer import Scores
from worker.scoring.batch import Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.changes import Change, Changes
from worker.scoring.device import Device, Runner
from worker.scoring.flight import Flight, beside
from worker.scoring.lanes import Job, Lane, Part, halves
from worker.scoring.pace import Pace
from worker.settings import Model as ModelSettings

CLOSE_TIMEOUT_S: Final = 30.0

Observer = Callable[[Batch, Floats, Bundle], None]
"""Hears of each batch that the champion has scored, on the engine's thread: it must neither raise nor wait."""

SHADOW_TOKENS: Final = 1024
"""Of a challenger's batch, at most: what a champion's job may have to wait for. 2 full windows of 512 events."""

SHADOW_QUEUE_TOKENS: Final = 16 * SHADOW_TOKENS
"""May wait for the challenger; what is offered beyond is dropped."""

LOOK_S: Final = 1e-4
"""How often the engine looks whether the device has ended sooner than was expected."""

LEAST_TOKENS: Final = 1 + window.EVENTS
"""No shortage of memory makes batches smaller than one full window."""

log = structlog.get_logger(__name__)


def cpu_threads(wanted: int | None) -> int:
    """How many threads of torch score on the CPU, where `model.threads` is `wanted`."""
    return wanted or max(1, len(os.sched_getaffinity(0)) - 1)


def own_threads() -> int:
    """How many torch takes by itself, to be asked before there is an engine: `OMP_NUM_THREADS`, or else all cores.

    For a process that does nothing beside its scoring.
    """
    return torch.get_num_threads()


class Engine:
    """Scores windows on one thread of its own. `score` for tasks, `score_now` for threads; both may be used at once.

    `load` makes the first champion: it is called here, once torch's threads are the engine's, and what it raises comes
    through. `device`, `dtype` and `deterministic` are those of `Device`. A batch holds up to `max_batch_tokens` (a
    token an event and one a window). At most `max_queued_tokens` wait (default: 16 batches): callers beyond wait for
    room. `threads` are torch's on the CPU; the default leaves one core to the rest of the process. Raises
    `SettingError` for a device that is not there, `IntentError` for one that cannot take the model, whose scores
    must be numbers.
    """

    def __init__(
        self,
        load: Callable[[], Bundle],
        *,
        device: str | Device = "auto",
        dtype: str = "auto",
        deterministic: bool = False,
        max_batch_tokens: int = 16_384,
        max_queued_tokens: int | None = None,
        threads: int | None = None,
    ) -> None:
        # Of the calling thread, before it computes anything, which loading does. GNU's OpenMP counts the threads of all
        # pools that were made, an idle one of the main thread too. Where they exceed the processors, a thread that
        # waits for its like sleeps at once: an engine of two threads took 3,718 windows/s where it takes 6,185.
        torch.set_num_threads(1)
        self.max_batch_tokens = max_batch_tokens
        self.observer: Observer | None = None
        self._device = (
            device if isinstance(device, Device) else Device.named(device, dtype, deterministic=deterministic)
        )
        self._threads = cpu_threads(threads)
        self._lock = threading.Condition()
        self._champions = Lane(max_tokens=max_queued_tokens or 16 * max_batch_tokens)
        self._shadows = Lane(max_tokens=SHADOW_QUEUE_TOKENS)
        self._room: deque[Job] = deque()
        """Jobs that wait for room. Empty where the champion's lane is: an empty one takes any job."""
        self._pace = Pace(time.perf_counter)
        self._free_s = 0.0
        self._changes = Changes(self._prepare)
        self._champion: Runner
        self._challenger: Runner | None = None
        self._closed = False
        bundle = load()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        try:
            self.swap(bundle)
        except BaseException as error:
            self.close()
            if isinstance(error, IntentError) or not isinstance(error, Exception):
                raise
            raise IntentError(
                f"model {bundle.name} {bundle.version} cannot be made ready with the settings `model.device` "
                f"{str(self.device)!r}, `model.dtype` {str(self._device.dtype).removeprefix('torch.')!r} and "
                f"`model.max_batch_tokens` {max_batch_tokens}: {' '.join(str(error).split())[:300]}; "
                "choose another device or fewer tokens"
            ) from error

    @classmethod
    def configured(cls, load: Callable[[], Bundle], settings: ModelSettings) -> Self:
        """As the settings have it."""
        return cls(
            load,
            device=settings.device,
            dtype=settings.dtype,
            deterministic=settings.deterministic,
            max_batch_tokens=settings.max_batch_tokens,
            threads=settings.threads,
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device.place

    @property
    def bundle(self) -> Bundle:
        """The champion now, whole."""
        return self._champion.bundle

    @property
    def model(self) -> ModelName:
        """The champion now. What scored a window is told by its scores."""
        return self._champion.bundle.label

    @property
    def ranks(self) -> bool:
        """Whether the champion's scores come with percentiles now."""
        return self._champion.bundle.percentiles is not None

    @property
    def challenger(self) -> ModelName | None:
        """Whom offers go to now."""
        return None if self._challenger is None else self._challenger.bundle.label

    @property
    def queued(self) -> int:
        """Windows that wait, without those being scored."""
        return self._champions.windows

    @property
    def alive(self) -> bool:
        """Whether the thread still takes work."""
        return self._thread.is_alive() and not self._closed

    async def score(self, windows: Sequence[bytes]) -> Scores:
        """Row i is window i's. An error is that of these windows alone; cancelling takes them out of the queue.

        `Fatal` when the device is lost: nothing will be scored any more.
        """
        if not windows:
            return Scores.empty(self.model)
        job = Job(windows, asyncio.current_task())
        self._enter(job)
        return await asyncio.wrap_future(job.answer)

    def score_now(self, windows: Sequence[bytes]) -> Scores:
        """As `score`, blocking the calling thread: for offline use."""
        if not windows:
            return Scores.empty(self.model)
        job = Job(windows, threading.get_ident())
        self._enter(job)
        return job.answer.result()

    def swap(self, bundle: Bundle) -> None:
        """Replaces the champion. Blocks the calling thread, not the scoring: the new one is made ready beside the old.

        It takes its place between two batches, once each job that the old one has begun is done; a job's rows are all
        of one model. On any error it is raised here, and the old one stays.
        """
        self._ask(Change("champion", bundle))

    def set_challenger(self, bundle: Bundle | None) -> None:
        """Sets whom offers go to; `None` for nobody. Blocks as `swap`; what waits for the former one is cancelled."""
        self._ask(Change("challenger", bundle))

    def offer(self, windows: Sequence[bytes]) -> "Future[Scores] | None":
        """The challenger's scores of the windows, some time; `None` when there is no challenger or no capacity.

        Never blocks. Scored in batches of `SHADOW_TOKENS`, only while nothing waits for the champion; what is offered
        while `SHADOW_QUEUE_TOKENS` wait is not taken. The answer is cancelled when the challenger changes.
        """
        if not windows:
            return None
        job = Job(windows, "offers")
        with self._lock:
            if self._challenger is None or self._closed or not self._shadows.has_room(job):
                return None
            self._shadows.put(job)
            self._lock.notify_all()
        return job.answer

    def close(self) -> None:
        """Ends the thread after the batch under way; what still waits fails. May be called twice."""
        self._end(IntentError("the scoring engine was closed before these windows were scored"))
        self._thread.join(CLOSE_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- any thread ----------------------------------------------------------------------------------------------------

    def _enter(self, job: Job) -> None:
        """Queues the job; where there is no room, behind those that wait for it."""
        with self._lock:
            if self._closed or not self._thread.is_alive():
                raise IntentError("the scoring engine is closed; it takes no more windows")
            self._room.append(job)
            self._admit()
            self._lock.notify_all()

    def _admit(self) -> None:
        """Under the lock: who has waited longest for room comes first, and is not overtaken by those that need less.

        Else a large job would wait for as long as small ones keep coming.
        """
        while self._room and (self._room[0].over or self._champions.has_room(self._room[0])):
            job = self._room.popleft()
            if not job.over:
                self._champions.put(job)

    def _ask(self, change: Change) -> None:
        with self._lock:
            if self._closed:
                raise IntentError("the scoring engine is closed; it takes no other model")
            self._changes.ask(change)
            self._lock.notify_all()
        try:
            change.done.result()
        finally:  # an error would hold this frame, and so itself and the model that was refused
            del change

    def _end(self, error: IntentError) -> None:
        """No more work; whoever waits for anything hears why."""
        with self._lock:
            self._closed = True
            jobs = [*self._champions.drop(), *self._room]
            offers, changes = self._shadows.drop(), self._changes.drop()
            self._room.clear()
            self._lock.notify_all()
        for job in jobs:
            job.fail(error)
        for job in offers:
            job.answer.cancel()
        for change in changes:
            change.done.set_exception(error)

    # -- the engine's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.set_num_threads(self._threads)  # of this thread, which is the one that computes
        under_way: deque[Flight] = deque()
        try:
            while under_way or self._work():
                self._change()
                while len(under_way) < self._device.in_flight and (parts := self._take(under_way)):
                    self._begin(parts, under_way)
                if under_way:
                    self._finish(under_way.popleft())
                else:
                    self._shadow()
        except BaseException as error:  # a lost device, or a mistake of ours: nobody may wait for ever
            fatal = error if isinstance(error, Fatal) else Fatal(f"the scoring engine ended: {error}")
            fatal.__cause__ = None if fatal is error else error
            for flight in under_way:
                for part in flight.parts:
                    part.job.fail(fatal)
            self._end(fatal)
        self._changes.fail(IntentError("the scoring engine was closed before the change of models"))

    def _work(self) -> bool:
        """Blocks until there is something to do; false once closed."""
        with self._lock:
            while not (self._closed or self._champions or self._shadows or self._changes):
                self._lock.wait()
            return not self._closed

    def _take(self, under_way: Sequence[Flight]) -> list[Part]:
        """The next batch of the champion; behind one under way, as late as its preparation allows."""
        if under_way:
            self._linger(under_way[-1])
        with self._lock:
            parts = self._champions.take(self.max_batch_tokens, only_begun=self._changes.ready is not None)
            self._admit()
        return parts

    def _linger(self, flight: Flight) -> None:
        """Until the next batch has to be taken, or the device has ended the last one sooner than was expected."""
        with suppress(Exception):  # it fails again where its jobs hear of it
            flight.beside()
        tokens = min(max(flight.tokens, self._champions.tokens), self.max_batch_tokens)
        running = False
        while (spare_s := self._pace.spare_s(tokens)) > 0:
            if flight.pending.done():
                flight.ended_s = time.perf_counter() if running else None
                break
            running = True
            time.sleep(min(spare_s, LOOK_S))

    def _begin(self, parts: list[Part], under_way: deque[Flight]) -> None:
        try:
            flight = Flight.launch(parts, self._champion)
        except Exception as error:
            self._failed(parts, self._champion, error)
            return
        self._pace.begun(flight.began_s, flight.tokens)
        under_way.append(flight)

    def _finish(self, flight: Flight) -> None:
        since_s = max(flight.launched_s, self._free_s)
        try:
            self._deliver(flight)
        except Exception as error:
            self._failed(flight.parts, flight.runner, error)
        self._pace.ended(since_s, flight.ended_s)
        now_s = time.perf_counter()
        self._free_s = now_s if flight.ended_s is None else flight.ended_s

    def _deliver(self, flight: Flight) -> None:
        intent = flight.deliver()
        if self.observer is not None and flight.runner is self._champion:
            self.observer(flight.batch, intent, flight.runner.bundle)

    def _failed(self, parts: list[Part], runner: Runner, error: Exception) -> None:
        """What becomes of the jobs of a batch that failed. Raises what ends the thread, after telling them."""
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that there was no memory for
        try:
            self._retry(parts, runner, error)
        except BaseException as end:
            for part in parts:
                part.job.fail(end)
            raise

    def _retry(self, parts: list[Part], runner: Runner, error: Exception) -> None:
        """In smaller batches where memory was short; else each job alone, so that it shows whose fault it is."""
        self._end_if_lost(error)
        pieces: Sequence[list[Part]] = ()
        if self._device.exhausted(error):
            pieces = halves(parts)
            if pieces and runner is not self._challenger:
                tokens = min(self.max_batch_tokens, sum(part.tokens for part in parts)) // 2
                self.max_batch_tokens = max(LEAST_TOKENS, tokens)
                log.warning("out of memory: smaller batches from now on", max_batch_tokens=self.max_batch_tokens)
        elif len(parts) > 1:
            pieces = [[part] for part in parts]
        if not pieces:
            parts[0].job.fail(error)
        for piece in pieces:
            self._again(piece, runner)

    def _again(self, parts: list[Part], runner: Runner) -> None:
        try:
            self._deliver(Flight.launch(parts, runner))
        except Exception as error:
            self._failed(parts, runner, error)

    def _end_if_lost(self, error: Exception | None) -> None:
        """Ends the thread where the device is lost."""
        if error is not None and self._device.lost(error):
            raise Fatal(f"the device {self._device.place} is lost: {error}") from error

    def _shadow(self) -> None:
        """One small batch of the challenger."""
        with self._lock:
            if self._champions or self._challenger is None:
                return
            parts, runner = self._shadows.take(SHADOW_TOKENS), self._challenger
        if parts:
            self._again(parts, runner)

    def _prepare(self, bundle: Bundle) -> Generator[None, None, Runner]:
        """Ready for whole scores: on a new machine what they say beside the device's is compiled for seconds."""
        runner = yield from self._device.prepare(bundle, WARM_UP, max_tokens=self.max_batch_tokens)
        beside(Batch.of(WARM_UP), bundle)
        return runner

    def _change(self) -> None:
        """One step of the change of models that is asked for, if any."""
        with self._lock:
            self._changes.begin()
        self._end_if_lost(self._changes.step())  # which this frame must not name: the traceback holds the frame
        change = self._changes.ready
        if change is None:
            return
        offers: list[Job] = []
        with self._lock:
            if change.place == "champion" and self._champions.begun():
                return
            runner = self._changes.take()
            if change.place == "challenger":
                self._challenger, offers = runner, self._shadows.drop()
            elif runner is not None:
                self._champion = runner
        for job in offers:
            job.answer.cancel()
        change.done.set_result(None)


def _warm_up() -> list[bytes]:
    """One short and one full window: the first real scores need not wait for what torch sets up on first use."""
    rules = window.Rules()
    event = facts.Facts(1, 0, 1, 0, 0, 0, 0, 0, facts.NO_CONTEXT)
    short = window.fold(None, event, rules=rules).window
    full = short
    for number in range(2, window.EVENTS + 1):
        full = window.fold(full, structs.replace(event, id=number, time_ms=number * 1000), rules=rules).window
    return [short, full]


WARM_UP: Final = _warm_up()


def tried(bundle: Bundle) -> Bundle:
    """The bundle, whose scores of a short and a full window are numbers: on the CPU and the calling thread, at once.

    Raises `SettingError` where they are not, which an engine would refuse as well.
    """
    for _ in Device(torch.device("cpu")).prepare(bundle, WARM_UP, max_tokens=LEAST_TOKENS):
        pass
    return bundle
