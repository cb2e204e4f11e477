"""The demo's course: start everything, play the events, watch, stop, check. Owns every process and thread it starts.

What is shown is `view`'s, what is checked `ledger`'s and `summary`'s affair.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.live import Live

from worker import config
from worker.demo.audit import audit
from worker.demo.board import Board, Latency
from worker.demo.follow import Follower
from worker.demo.subject import Subject
from worker.demo.summary import Check, Outcome, judge, named
from worker.demo.view import Scene, plain_line, users_that_fit
from worker.errors import IntentError
from worker.kafka import topics
from worker.kafka.broker import EmbeddedBroker
from worker.ports import free_port
from worker.settings import Settings
from worker.shop.outgoing import Outgoing
from worker.shop.publish import Publisher, connect

_LOOK_S: Final = 0.25
_ASK_EVERY: Final = 2  # looks
_LINE_S: Final = 5.0
_STUCK_S: Final = 60.0
_RECOVERING: Final = "starting again"
_HINT: Final = "Ctrl-C ends and checks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for. `seconds` of None: until the events end or Ctrl-C."""

    title: str
    records: Iterable[Outgoing]
    seconds: float | None
    mode: Literal["every", "latest"]
    kill_after_s: float | None


class Sender(threading.Thread):
    """Publishes the records until they end or `close`; a failure is kept in `error`."""

    def __init__(self, publisher: Publisher, records: Iterable[Outgoing]) -> None:
        super().__init__(name="sender", daemon=True)
        self.publisher = publisher
        self.error: BaseException | None = None
        self._records = records
        self._ending = threading.Event()

    def run(self) -> None:
        """The thread's body."""
        try:
            self.publisher.run(self._records, stopped=self._ending.is_set)
        except Exception as error:  # raised again by `close`
            self.error = error

    def close(self) -> None:
        """Stops, waits for the acknowledgements, and raises what went wrong."""
        self._ending.set()
        self.join()
        if self.error is not None:
            raise self.error
        self.publisher.finish()


def perform(plan: Plan, console: Console) -> Outcome:
    """The whole demo. `console` gets the progress and the view.

    The first Ctrl-C ends the sending, and all is checked; a second one raises `KeyboardInterrupt`. Whatever happens, no
    process is left. Raises `IntentError` when a part does not start or ends on its own; its logs are then kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="intent-demo-"))
    try:
        with ExitStack() as stack:
            outcome = _Demo(plan, console, folder, stack).run()
    except IntentError as error:
        raise type(error)(f"{error} (logs are kept in {folder})") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if outcome.holds:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"logs are kept in {folder}", style="red")
    return outcome


@contextmanager
def shown(console: Console) -> Iterator[Live | None]:
    """The live view on a terminal; None where there is nothing to draw over, and a line now and then must do."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield live


class _Demo:
    """The parts of one run, in the order of their lives."""

    def __init__(self, plan: Plan, console: Console, folder: Path, stack: ExitStack) -> None:
        self.plan = plan
        self.console = console
        self.settings = self._start_kafka(folder, stack)
        self.subject = self._start_worker(folder, stack)
        self.board = Board()
        self.follower = Follower(self.settings, self.board)
        self.follower.start()
        stack.callback(self.follower.close)
        self.sender = Sender(Publisher(connect(self.settings), self.settings.topics.events), plan.records)
        self.began_s = time.monotonic()
        self.phase = _HINT
        self.news = ""
        self.killed_s: float | None = None
        self.looks = 0
        self.line_s = self.began_s

    def run(self) -> Outcome:
        """From the first event to the last check."""
        interrupted = False
        self.sender.start()
        with shown(self.console) as live:
            try:
                self._watch(live)
            except KeyboardInterrupt:
                interrupted = True
            self.phase = "stopped sending" if interrupted else "all is sent"
            self.sender.close()
            self._drain(live)
            snapshot = self.board.snapshot(time.monotonic(), users=0)
        return self._check(snapshot.model, snapshot.latency_all)

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start_kafka(self, folder: Path, stack: ExitStack) -> Settings:
        began_s = time.monotonic()
        self.console.print("starting Apache Kafka on this machine")
        broker = EmbeddedBroker(folder / "kafka")
        stack.callback(broker.stop, timeout_s=0)  # its data go with the demo
        servers = broker.start()
        settings = config.load(
            {
                "kafka": {"bootstrap_servers": servers, "security_protocol": "PLAINTEXT"},
                "topics": {"replication_factor": 1, "min_insync_replicas": 1},
                "worker": {
                    "application_id": "intent-demo",
                    "instance_id": "intent-demo-1",  # a restart joins at once, not after the session's time-out
                    "mode": self.plan.mode,
                    "data_dir": folder / "state",
                    "web_host": "127.0.0.1",
                    "web_port": free_port(),
                },
            }
        )
        made = topics.create(settings)
        self._done(f"{servers}, {len(made)} topics of {settings.topics.partitions} partitions", began_s)
        return settings

    def _start_worker(self, folder: Path, stack: ExitStack) -> Subject:
        began_s = time.monotonic()
        self.console.print("starting the worker: the model, its state, its partitions")
        subject = Subject(self.settings, folder / "worker.log")
        stack.callback(subject.stop)
        subject.start()
        with self.console.status("waiting until it is ready"):
            subject.await_ready()
        web = self.settings.worker
        self._done(f"ready, http://{web.web_host}:{web.web_port}/metrics", began_s)
        return subject

    def _done(self, what: str, began_s: float) -> None:
        self.console.print(f"  {what} [grey62]({time.monotonic() - began_s:.1f} s)[/]", highlight=False)

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch(self, live: Live | None) -> None:
        seconds = self.plan.seconds
        while self.sender.is_alive():
            elapsed_s = time.monotonic() - self.began_s
            if seconds is not None and elapsed_s >= seconds:
                return
            self._mind_the_worker(elapsed_s)
            self._look(live)
            time.sleep(_LOOK_S)

    def _mind_the_worker(self, elapsed_s: float) -> None:
        """Kills and restarts it when that is planned; raises when it has ended on its own."""
        kill_after_s = self.plan.kill_after_s
        if kill_after_s is not None and self.killed_s is None and elapsed_s >= kill_after_s:
            self.killed_s = time.monotonic()
            self.subject.kill()
            self.subject.start()
            self.news = f"kill -9 at {_clock(elapsed_s)}, {_RECOVERING}"
        self.subject.check_alive()
        if self.killed_s is not None and self.news.endswith(_RECOVERING) and self.subject.ready():
            away_s = time.monotonic() - self.killed_s
            self.news = f"kill -9 at {_clock(kill_after_s or 0)}, scoring again after {away_s:.1f} s"
        if self.follower.error is not None:
            raise IntentError(f"the topics cannot be followed: {self.follower.error}")

    def _look(self, live: Live | None) -> None:
        """Shows the present state."""
        if self.looks % _ASK_EVERY == 0:
            self.subject.ask()
        self.looks += 1
        now_s = time.monotonic()
        snapshot = self.board.snapshot(now_s, users=users_that_fit(self.console.height))
        elapsed_s, seconds = now_s - self.began_s, self.plan.seconds
        fates = self.subject.fates
        late = snapshot.dead.get("late", 0)
        seen = {"scored": snapshot.scores, "late": late, "dead": sum(snapshot.dead.values()) - late}
        scene = Scene(
            title=f"{self.plan.title} · mode {self.plan.mode} · {named(snapshot.model) or 'no score yet'}",
            clock=_clock(elapsed_s) if seconds is None else f"{_clock(min(elapsed_s, seconds))} / {_clock(seconds)}",
            snapshot=snapshot,
            lag=max(self.sender.publisher.acked - self.subject.done, 0),
            fates={
                fate: seen.get(fate, fates[fate])
                for fate in ("scored", "coalesced", "duplicate", "late", "erased", "dead")
            },
            note=" · ".join(filter(None, (self.phase, self.news and f"worker {self.news}"))),
        )
        if live is not None:
            live.update(scene, refresh=True)
        elif now_s - self.line_s >= _LINE_S:
            self.line_s = now_s
            self.console.print(plain_line(scene), highlight=False, soft_wrap=True)

    # -- ending --------------------------------------------------------------------------------------------------------

    def _drain(self, live: Live | None) -> None:
        """Until the worker has done with every event. Bounded: raises when nothing moves for a minute."""
        total, said = self.sender.publisher.acked, self.phase
        done, moved_s = -1, time.monotonic()
        while self.subject.done < total or not self.subject.ask():
            self._mind_the_worker(0.0)
            if self.subject.done > done:
                done, moved_s = self.subject.done, time.monotonic()
            elif time.monotonic() - moved_s > _STUCK_S:
                raise IntentError(f"the worker stands still with {total - done:,} events to do")
            self.phase = f"{said}, {total - max(done, 0):,} events to go"
            self._look(live)
            time.sleep(_LOOK_S)

    def _check(self, model: Mapping[str, str], latency: Latency) -> Outcome:
        publisher = self.sender.publisher
        counted = self.subject.fates if self.subject.lives == 1 else None
        self.console.print("stopping the worker, reading all topics again to check every event")
        exit_code = self.subject.stop()
        verdict = audit(self.settings).verdict(may_coalesce=self.plan.mode == "latest")
        checks: Sequence[Check] = judge(
            verdict, acknowledged=publisher.acked, done=self.subject.done, counted=counted, exit_code=exit_code
        )
        return Outcome(
            verdict=verdict,
            checks=checks,
            seconds=publisher.seconds,
            latency=latency,
            lives=self.subject.lives,
            model=model,
        )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"
