"""The engine follows the aliases: what moves in is whole, what is refused stays out and is not hammered."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.unit.registry.models import AT, NAME, Versions
from worker.errors import IntentError, SettingError
from worker.ops.metrics import Metrics
from worker.registry.alias import promoted
from worker.registry.reload import RETRY_AT_MOST_S, Reloader
from worker.registry.source import Source
from worker.registry.store import Store
from worker.scoring.bundle import Bundle

INTERVAL_S = 10.0


@dataclass
class Engine:
    """Writes down what it is told; refuses the next change on order."""

    champion: str
    challenger: str | None = None
    refuse: Exception | None = None
    told: int = 0

    def _obey(self) -> None:
        self.told += 1
        error, self.refuse = self.refuse, None
        if error is not None:
            raise error

    def swap(self, bundle: Bundle) -> None:
        self._obey()
        self.champion = bundle.version

    def set_challenger(self, bundle: Bundle | None) -> None:
        self._obey()
        self.challenger = None if bundle is None else bundle.version


@dataclass
class Setup:
    store: Store
    source: Source
    engine: Engine
    metrics: Metrics
    reloader: Reloader
    made: Versions
    now_s: list[float]
    challenged: list[bool]
    loads: list[str] = field(default_factory=list)

    def point(self, alias: str, version: str) -> None:
        self.store.move(NAME, alias, promoted(self.store.alias(NAME, alias), version, at=AT))

    def damage(self, version: str) -> bytes:
        """Returns what was there."""
        path = self.store._path(NAME, version, "card.md")
        before: bytes = self.store._fs.cat_file(path)
        self.store._put(path, b"scribbled")
        return before

    def after(self, seconds: float) -> None:
        self.now_s[0] += seconds
        self.reloader.look()

    def scoring(self) -> tuple[str, str | None]:
        return self.engine.champion, self.engine.challenger

    def sample(self, name: str, /, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def setup(filled: Store, made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """The first version scores; nobody challenges."""
    source = Source(filled, NAME, cache=tmp_path / "cache")
    metrics, engine = Metrics(CollectorRegistry()), Engine(made.first)
    now_s, challenged = [0.0], list[bool]()
    reloader = Reloader(
        source,
        engine,
        champion="champion",
        loaded=made.first,
        challenger="challenger",
        challenging=challenged.append,
        interval_s=INTERVAL_S,
        metrics=metrics,
        clock=lambda: now_s[0],
    )
    setup = Setup(filled, source, engine, metrics, reloader, made, now_s, challenged)
    setup.point("champion", made.first)
    load = source.load

    def counted(version: str) -> Bundle:
        setup.loads.append(version)
        return load(version)

    monkeypatch.setattr(source, "load", counted)
    return setup


def test_nothing_is_loaded_while_nothing_moves(setup: Setup) -> None:
    setup.after(0)
    setup.after(INTERVAL_S)
    assert setup.loads == []
    assert setup.engine.told == 0


def test_the_engine_follows_there_and_back(setup: Setup) -> None:
    setup.point("champion", setup.made.second)
    setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.second
    assert setup.sample("intent_model_info", name=NAME, version=setup.made.second) == 1
    assert setup.sample("intent_model_reloads_total", result="done") == 1
    setup.point("champion", setup.made.first)
    setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.first
    assert setup.loads == [setup.made.second, setup.made.first]


def test_when_the_store_last_answered_is_told(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs is neither an error nor a line."""
    name, version = "intent_model_store_seen_timestamp_seconds", setup.source.version
    assert setup.sample(name) == 0
    setup.after(INTERVAL_S)
    seen = setup.sample(name)
    assert seen == pytest.approx(time.time(), abs=60)

    def unreachable(_: str) -> str:
        raise IntentError("it does not answer")

    monkeypatch.setattr(setup.source, "version", unreachable)
    setup.after(INTERVAL_S)
    assert setup.sample(name) == seen
    monkeypatch.setattr(setup.source, "version", version)
    setup.after(INTERVAL_S)
    assert (setup.sample(name) or 0) > (seen or 0)


def test_a_bad_bundle_is_refused_and_tried_ever_more_rarely(setup: Setup) -> None:
    setup.damage(setup.made.second)
    setup.point("champion", setup.made.second)
    for _ in range(100):
        setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.first
    assert len(setup.loads) == 7  # after 1, 2, 4, ... intervals
    assert setup.sample("intent_model_refused", alias="champion") == 1
    assert setup.sample("intent_model_reloads_total", result="refused") == 7
    setup.after(RETRY_AT_MOST_S)
    setup.after(RETRY_AT_MOST_S)
    assert len(setup.loads) == 9


def test_one_that_was_mended_moves_in(setup: Setup) -> None:
    whole = setup.damage(setup.made.second)
    setup.point("champion", setup.made.second)
    setup.after(INTERVAL_S)
    setup.store._put(setup.store._path(NAME, setup.made.second, "card.md"), whole)
    assert setup.sample("intent_model_refused", alias="champion") == 1
    setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.second
    assert setup.sample("intent_model_refused", alias="champion") == 0


def test_one_that_is_refused_for_weeks_stays_the_model_s_fault(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(_: str) -> Bundle:
        raise SettingError("another format")

    monkeypatch.setattr(setup.source, "load", bad)
    setup.point("champion", setup.made.second)
    for _ in range(1100):
        setup.after(RETRY_AT_MOST_S)
    assert setup.sample("intent_model_reloads_total", result="refused") == 1100
    assert setup.sample("intent_model_reloads_total", result="unusable") == 0


def test_an_alias_that_moves_on_from_a_bad_version_is_followed_at_once(setup: Setup) -> None:
    setup.damage(setup.made.second)
    setup.point("champion", setup.made.second)
    setup.after(INTERVAL_S)
    setup.point("champion", setup.made.first)
    setup.after(INTERVAL_S / 100)
    assert setup.sample("intent_model_refused", alias="champion") == 0
    assert setup.engine.champion == setup.made.first


@pytest.mark.parametrize(
    "error",
    [RuntimeError("out of memory"), SettingError("another format"), IntentError("closed")],
    ids=["device", "format", "engine"],
)
def test_what_the_engine_refuses_stays_out(setup: Setup, error: Exception) -> None:
    setup.engine.refuse = error
    setup.point("champion", setup.made.second)
    setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.first
    assert setup.sample("intent_model_refused", alias="champion") == 1
    assert setup.sample("intent_model_reloads_total", result="unusable") == 0
    assert setup.sample("intent_model_info", name=NAME, version=setup.made.second) is None
    setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.second


def test_a_version_that_is_not_there_is_refused(setup: Setup) -> None:
    setup.point("champion", "0" * 12)
    setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.first
    assert setup.sample("intent_model_reloads_total", result="refused") == 1


def test_a_store_that_fails_changes_nothing_and_is_asked_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise ConnectionResetError

    setup.point("champion", setup.made.second)
    with capture_logs() as said:
        for wanted in (setup.made.first, setup.made.second):  # twice out of reach, and back each time
            with monkeypatch.context() as patch:
                patch.setattr(setup.store._fs, "open", broken)
                setup.after(INTERVAL_S)
                setup.after(INTERVAL_S)
            assert setup.engine.champion == wanted
            setup.after(0)
            assert setup.engine.champion == setup.made.second
    assert setup.sample("intent_model_reloads_total", result="unusable") == 4
    assert [line["log_level"] for line in said] == ["warning", "info", "warning"]  # once a failure, not at each look


def test_an_alias_that_is_gone_leaves_the_champion(setup: Setup) -> None:
    setup.store._fs.rm(setup.store._path(NAME, "aliases", "champion.json"))
    setup.after(INTERVAL_S)
    assert setup.engine.champion == setup.made.first
    assert setup.sample("intent_model_refused", alias="champion") == 1


def test_a_challenger_comes_and_when_it_is_promoted_has_nobody_to_challenge(setup: Setup) -> None:
    setup.point("challenger", setup.made.second)
    setup.after(INTERVAL_S)
    assert setup.scoring() == (setup.made.first, setup.made.second)
    assert setup.sample("intent_challenger_info", name=NAME, version=setup.made.second) == 1
    setup.point("champion", setup.made.second)
    setup.after(INTERVAL_S)
    assert setup.scoring() == (setup.made.second, None)
    assert setup.sample("intent_challenger_info", name=NAME, version=setup.made.second) is None
    assert setup.challenged == [True, False]


def test_a_bad_challenger_does_not_hold_up_the_champion(setup: Setup) -> None:
    setup.point("challenger", "0" * 12)
    setup.after(INTERVAL_S)
    setup.point("champion", setup.made.second)
    setup.after(INTERVAL_S)
    assert setup.scoring() == (setup.made.second, None)
    assert setup.sample("intent_model_refused", alias="challenger") == 1
    assert setup.sample("intent_model_refused", alias="champion") == 0


def test_the_thread_ends_when_it_is_told(setup: Setup) -> None:
    setup.reloader.start()
    setup.reloader.stop()
    setup.reloader._thread.join(10)
    assert not setup.reloader._thread.is_alive()
