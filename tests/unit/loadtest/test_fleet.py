"""Workers as processes: other programs stand in their place."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from loadtest import fleet, system
from loadtest.fleet import Member
from loadtest.scrape import scrape
from worker import config
from worker.errors import IntentError


def member(folder: Path, module: str) -> Member:
    return Member(config.load({}), folder, name="one", module=module)


def stopped(waiting: Member) -> bool:
    return waiting.process.status() == psutil.STATUS_STOPPED


def test_one_that_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    ended = member(tmp_path, "loadtest.nothing")
    ended.check()  # not started yet
    ended.start()
    with pytest.raises(IntentError, match=r"(?s)the worker ended, with 1:.*No module named loadtest\.nothing"):
        ended.until(lambda: False, "it is ready", within_s=30)
    with pytest.raises(IntentError, match="the worker ended"):
        ended.check()


def test_what_does_not_come_in_time_is_told(tmp_path: Path) -> None:
    waiting = member(tmp_path, "http.server --bind 127.0.0.1 0")
    with fleet.stopped_at_the_end(waiting):
        waiting.start()
        with pytest.raises(IntentError, match="not within 0 s: it is ready"):
            waiting.until(lambda: False, "it is ready", within_s=0)
    waiting.stop()  # once more changes nothing


def test_the_paused_go_on_whatever_happens(tmp_path: Path) -> None:
    waiting = member(tmp_path, "http.server --bind 127.0.0.1 0")
    with fleet.stopped_at_the_end(waiting):
        waiting.start()
        with suppress(ZeroDivisionError), fleet.paused(waiting):
            waiting.until(lambda: stopped(waiting), "it is paused", within_s=30)
            raise ZeroDivisionError
        waiting.until(lambda: not stopped(waiting), "it goes on", within_s=30)


def test_a_worker_too_busy_to_answer_has_not_done_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = member(tmp_path, "loadtest.nothing")
    busy.log.touch()
    page = b'intent_events_total{fate="scored"} 5.0\nintent_events_total{fate="late"} 2.0\nintent_tasks 9.0\n'
    pages = iter([None, None, page])
    monkeypatch.setattr(busy, "page", lambda _: next(pages))
    assert busy.metrics("intent_events_total", "intent_tasks") == {"intent_events_total": 7.0, "intent_tasks": 9.0}
    monkeypatch.setattr(busy, "page", lambda _: None)
    monkeypatch.setattr(fleet, "_ANSWER_TIMEOUT_S", 0.0)
    with pytest.raises(IntentError, match="not within 0 s: it answers for its metrics"):
        busy.metrics("intent_tasks")


def test_one_that_ends_under_load_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a page that cannot be reached."""

    @contextmanager
    def ended(members: Sequence[Member], *, within_s: float) -> Iterator[None]:
        for each in members:
            each.start()
            with suppress(IntentError):
                each.until(lambda: False, "it ends", within_s=within_s)
        yield

    monkeypatch.setattr(fleet, "deployment", lambda *_, **__: config.load({}))
    monkeypatch.setattr(fleet, "at_work", ended)
    monkeypatch.setattr(system, "_module", lambda *_: "loadtest.nothing")
    with (
        pytest.raises(IntentError, match=r"(?s)the worker ended, with 1:.*No module named loadtest\.nothing"),
        system.running(program="constant", partitions=1, servers="127.0.0.1:1") as workers,
    ):
        scrape(workers)
