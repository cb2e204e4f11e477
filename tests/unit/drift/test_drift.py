"""Traffic that shifts rings and traffic that does not stays silent: live gauges, job and command line."""

import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console
from typer.testing import CliRunner

from tests.unit.drift import shops
from tests.unit.drift.shops import MIX, SHIFTED, folded, shop
from tests.unit.scoring import making
from tests.unit.shop.tables import of_events, write
from tests.unit.shop.test_table import GA4
from worker import cli, facts
from worker.drift import learn, matured, values
from worker.drift.findings import findings, unseen_items
from worker.drift.matured import Rows, calibrations
from worker.drift.monitor import PARTS, SHARE, TELL_S, Monitor
from worker.drift.reference import Feature, Reference
from worker.drift.report import Watch
from worker.drift.topic import WatchSink
from worker.errors import CheckFailed, IntentError, SettingError
from worker.events import Event, decode, encode
from worker.ops.metrics import Metrics
from worker.scores import HORIZONS, Intent
from worker.scoring import bundle as bundles
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.engine import Engine

MINUTE = 60_000


@pytest.fixture(scope="module")
def watched() -> Bundle:
    return shops.watched()


def reference(bundle: Bundle) -> Reference:
    assert bundle.drift is not None
    return bundle.drift


def scored(bundle: Bundle, events: list[Event]) -> tuple[list[bytes], np.ndarray]:
    windows = list(folded(events))
    with Engine(lambda: bundle, device="cpu") as engine:
        return windows, engine.score_now(windows).intent


def moved(bundle: Bundle, events: list[Event]) -> dict[str, str]:
    windows, intent = scored(bundle, events)
    counts = values.count(Batch.of(windows), intent, bundle.vocabulary, reference(bundle))
    return {finding.feature: finding.verdict for finding in findings(reference(bundle), counts)}


def test_the_alarm_stays_silent_where_nothing_shifts(watched: Bundle) -> None:
    for seed in range(2, 6):
        found = moved(watched, shop(seed, visitors=1000))
        assert set(found) >= {
            "kind",
            "item",
            "category",
            "channel",
            "gap_ms",
            "price_cents",
            "window_events",
            *HORIZONS,
        }
        assert set(found.values()) == {"fine"}, found


def test_the_alarm_comes_where_the_mix_shifts(watched: Bundle) -> None:
    found = moved(watched, shop(7, visitors=1000, mix=SHIFTED))
    assert found["channel"] == "act"
    assert found["price_cents"] == found["window_events"] == "fine"
    assert moved(watched, shop(8, visitors=1000, new_items=1.0))["item"] == "act"


def test_a_handful_of_visitors_is_too_few(watched: Bundle) -> None:
    found = moved(watched, shop(9, visitors=12))
    assert "act" not in found.values()
    assert found["price_cents"] == "too few"


def test_the_unseen_share_is_that_of_a_plain_count(watched: Bundle) -> None:
    events = shop(10, visitors=300, new_items=0.3)
    known = set(watched.vocabulary.items.tolist())
    with_item = [event for event in events if event.items]
    wanted = np.mean([facts.hash32(event.items[0].item_id) not in known for event in with_item])
    windows, intent = scored(watched, events)
    counts = values.count(Batch.of(windows), intent, watched.vocabulary, reference(watched))
    assert unseen_items(reference(watched), counts) == pytest.approx(wanted)


def test_sessions_count_once(watched: Bundle) -> None:
    events = shop(11, visitors=200)
    windows, intent = scored(watched, events)
    counts = values.count(Batch.of(windows), intent, watched.vocabulary, reference(watched))
    found = {finding.feature: finding.seen for finding in findings(reference(watched), counts)}
    assert found["channel"] == 200
    assert found["kind"] == len(events)


def test_a_bundle_carries_its_reference_and_old_ones_have_none(watched: Bundle, tmp_path: Path) -> None:
    version = bundles.save(tmp_path, watched)
    again = bundles.load(tmp_path)
    assert again.version == version
    assert reference(again).document() == reference(watched).document()
    content = json.loads((tmp_path / "drift.json").read_text())
    content["features"][0]["counts"].append(-1)
    (tmp_path / "drift.json").write_text(json.dumps(content))
    with pytest.raises(SettingError, match=r"drift\.json does not match"):
        bundles.load(tmp_path)
    bundles.seal(tmp_path)
    with pytest.raises(SettingError, match=r"drift\.json does not hold what it should: kind has"):
        bundles.load(tmp_path)
    assert bundles.save(tmp_path, replace(watched, drift=None)) != version
    assert not (tmp_path / "drift.json").exists()
    assert bundles.load(tmp_path).drift is None
    (tmp_path / "drift.json").write_text("{}")  # not among the checksums: not the bundle's
    assert bundles.load(tmp_path).drift is None


@pytest.mark.parametrize(
    ("place", "change", "says"),
    [
        pytest.param(0, {"name": "colour"}, "'colour' is no feature that this version watches", id="not known"),
        pytest.param(1, {"names": [0, 1, 7]}, r"the names of item are \[0, 1, 7\]", id="no such bin"),
    ],
)
def test_a_reference_of_what_is_not_watched_is_refused_with_the_bundle(
    watched: Bundle, tmp_path: Path, place: int, change: dict[str, object], says: str
) -> None:
    """A worker would watch nothing any more, and a job would end in a traceback."""
    bundles.save(tmp_path, watched)
    content = json.loads((tmp_path / "drift.json").read_text())
    content["features"][place] |= change
    (tmp_path / "drift.json").write_text(json.dumps(content))
    bundles.seal(tmp_path)
    with pytest.raises(SettingError, match=rf"drift\.json does not hold what it should: {says}"):
        bundles.load(tmp_path)


def test_a_reference_of_nothing_is_refused_with_the_bundle(watched: Bundle, tmp_path: Path) -> None:
    bundles.save(tmp_path, watched)
    content = json.loads((tmp_path / "drift.json").read_text())
    (tmp_path / "drift.json").write_text(json.dumps(content | {"features": []}))
    bundles.seal(tmp_path)
    with pytest.raises(SettingError, match=r"drift\.json does not hold what it should: it has no feature"):
        bundles.load(tmp_path)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001  # what it takes to get here
        return self.now


def gauge(metrics: Metrics, feature: str) -> float | None:
    return metrics.registry.get_sample_value("intent_drift_psi", {"feature": feature})


def test_the_worker_tells_of_a_shift_and_of_its_end(watched: Bundle) -> None:
    metrics, clock, cpu = Metrics(CollectorRegistry()), Clock(), Clock()
    monitor = Monitor(metrics, window_events=4000, clock=clock, cpu=cpu)

    def play(seed: int, mix: dict[str, float]) -> None:
        windows, intent = scored(watched, shop(seed, visitors=1200, mix=mix))
        for start in range(0, len(windows), 200):
            clock.now += 10
            cpu.now += 5
            monitor.see(Batch.of(windows[start : start + 200]), intent[start : start + 200], watched)

    assert gauge(metrics, "channel") is None
    play(21, MIX)
    assert gauge(metrics, "channel") == pytest.approx(0, abs=0.1)
    assert gauge(metrics, "purchase_24h") == pytest.approx(0, abs=0.1)
    play(22, SHIFTED)
    shifted = gauge(metrics, "channel")
    assert shifted is not None
    assert shifted > 0.25
    play(23, MIX)  # the window has moved on
    assert gauge(metrics, "channel") == pytest.approx(0, abs=0.1)
    events = metrics.registry.get_sample_value("intent_drift_window_events")
    assert events == pytest.approx(4000, abs=2 * 4000 / PARTS)
    unseen = metrics.registry.get_sample_value("intent_unseen_items_ratio")
    assert unseen is not None
    assert 0 <= unseen < 1
    batch = Batch.of(list(folded(shop(24, visitors=3))))
    monitor.see(batch, np.zeros((len(batch), 3), np.float32), making.bundle(name="b"))
    assert gauge(metrics, "channel") is None  # another model, without a reference


def test_of_too_few_nothing_is_told_and_nothing_at_each_batch(watched: Bundle) -> None:
    metrics, clock, cpu = Metrics(CollectorRegistry()), Clock(), Clock()
    monitor = Monitor(metrics, window_events=4000, clock=clock, cpu=cpu)
    windows, intent = scored(watched, shop(27, visitors=5))
    told = []
    for _ in range(2):
        clock.now += TELL_S / 2
        cpu.now += 5
        monitor.see(Batch.of(windows), intent, watched)
        told.append(metrics.registry.get_sample_value("intent_drift_window_events"))
    assert told == [0, 2 * len(windows)]
    assert gauge(metrics, "kind") is None  # noise alone may reach what is to be watched


def test_a_value_on_an_edge_belongs_above_it() -> None:
    feature = Feature(name="gap_ms", edges=np.array([1.0, 2.0]), counts=np.zeros(3, np.int64), effect=1)
    assert feature.places(np.array([0.5, 1.0, 1.5, 2.0, 9.0])).tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("found", "edges"),
    [
        pytest.param([0.0] * 60 + [*range(1, 41)], [1, 4, 8, 12, 16, 20, 24, 28, 32, 36], id="none apart"),
        pytest.param([*range(100)], [9, 19, 29, 39, 49, 59, 69, 79, 89], id="deciles"),
        pytest.param([3.0] * 10, [], id="the same everywhere"),
    ],
)
def test_numbers_are_cut_at_deciles_and_none_is_apart(found: list[float], edges: list[float]) -> None:
    assert learn._edges(np.array(found, np.float64)).tolist() == edges


def test_counting_keeps_to_its_budget(watched: Bundle) -> None:
    """Counting that takes a millisecond, beside scoring that takes 9: a batch in eleven."""
    cpu = Clock()
    monitor = Monitor(Metrics(CollectorRegistry()), window_events=10**9, cpu=cpu)
    windows, intent = scored(watched, shop(25, visitors=5))
    batch = Batch.of(windows)
    for _ in range(1000):
        cpu.now += 0.008
        monitor.see(batch, intent, watched)
    assert monitor._parts[-1][0] / len(batch) == pytest.approx(1000 * SHARE * 9, abs=2)


def test_a_monitor_that_fails_leaves_the_scoring_alone(watched: Bundle) -> None:
    metrics = Metrics(CollectorRegistry())
    monitor = Monitor(metrics, window_events=100)
    windows, intent = scored(watched, shop(26, visitors=5))
    for _ in range(2):
        monitor.see(Batch.of(windows), intent[:, :1], watched)
    assert metrics.registry.get_sample_value("intent_drift_window_events") == 0
    heard = []
    with Engine(lambda: watched, device="cpu") as engine:
        engine.observer = lambda batch, intent, bundle: heard.append((len(batch), intent.shape, bundle.name))
        engine.score_now(windows)
    assert heard == [(len(windows), (len(windows), 3), "test")]


def test_a_monitor_that_failed_watches_the_next_model(watched: Bundle) -> None:
    metrics, clock, cpu = Metrics(CollectorRegistry()), Clock(), Clock()
    monitor = Monitor(metrics, window_events=100, clock=clock, cpu=cpu)
    windows, intent = scored(watched, shop(26, visitors=5))
    monitor.see(Batch.of(windows), intent[:, :1], watched)
    cpu.now, clock.now = 5, TELL_S
    monitor.see(Batch.of(windows), intent, replace(watched, name="next"))
    assert metrics.registry.get_sample_value("intent_drift_window_events") == len(windows)


@pytest.mark.parametrize(
    ("off", "verdict"),
    [pytest.param(1.0, "fine", id="calibrated"), pytest.param(3.0, "act", id="three times too high")],
)
def test_calibration_on_matured_labels(off: float, verdict: str) -> None:
    """Scores that come true as often as they say, and scores that promise more; those not yet mature do not count."""
    rng = np.random.default_rng(31)
    n, rows, p = 6000, Rows(), []
    for user in range(n):
        promised = float(rng.uniform(0.02, 0.3))
        rows.add(str(user), user, instant=True, purchase=False)
        p.append(promised * off)
        if rng.random() < promised:
            rows.add(str(user), user + 20 * MINUTE, instant=False, purchase=True)
            p.append(0.9)  # at no instant: never counted
    rows.add("late", n - 1 + 30 * MINUTE, instant=True, purchase=False)  # the last one's horizon just ends
    p.append(1.0)
    found = calibrations(rows.events(), np.repeat(np.array(p, np.float32)[:, None], 3, axis=1))
    (half_hour,) = found  # a day and a week have not passed for anybody
    assert (half_hour.scores, half_hour.verdict) == (n, verdict)
    assert half_hour.ratio == pytest.approx(1 / off, rel=0.1)
    assert half_hour.low < 1 / off < half_hour.high


def test_a_clock_that_is_ahead_makes_no_score_mature() -> None:
    """Half of the visitors buy 20 minutes after they came; of the last quarter's nobody has yet."""
    rows = Rows()
    n, hour = 400, 60 * MINUTE
    for i in range(n):
        came = i * hour // n
        rows.add(f"u{i}", came, instant=True, purchase=False)
        rows.add(f"v{i}", 10 * hour - came // 4, instant=True, purchase=False)
        if i % 2:
            rows.add(f"u{i}", came + 20 * MINUTE, instant=False, purchase=True)
    rows.add("ahead", 30 * hour, instant=True, purchase=False)
    p = np.full((len(rows), 3), 0.5, np.float32)
    (half_hour,) = calibrations(rows.events(), p, seen_ms=10 * hour)
    assert (half_hour.scores, half_hour.verdict) == (n, "fine")
    assert calibrations(rows.events(), p)[0].verdict == "act"  # where it is not known when they came


def test_of_a_topic_it_is_known_when_events_came(watched: Bundle) -> None:
    event = making.event(1, event_time=20 * MINUTE)
    updates = [SimpleNamespace(event=event, window=making.window_of([event]), record=SimpleNamespace(timestamp=7))]
    ratings = [SimpleNamespace(intent=Intent(0.1, 0.2, 0.3))]
    watch = Watch(watched)
    WatchSink(watch).write(0, SimpleNamespace(updated=updates), ratings)  # type: ignore[arg-type]  # all it looks at
    assert watch.seen_ms == 7


@pytest.mark.parametrize(
    ("low", "high", "buyers", "verdict"),
    [
        (0.5, 2.0, 30, "fine"),
        (1.2, 9.0, 30, "fine"),
        (1.3, 9.0, 30, "watch"),
        (1.6, 9.0, 30, "act"),
        (0.1, 0.85, 30, "fine"),
        (0.1, 0.75, 30, "watch"),
        (0.1, 0.6, 30, "act"),
        (1.6, 9.0, 29, "too few"),
    ],
)
def test_calibration_is_judged_by_the_end_that_is_nearer_to_1(
    low: float, high: float, buyers: int, verdict: str
) -> None:
    assert matured._verdict(low, high, buyers=buyers) == verdict


def test_the_job_on_the_command_line(watched: Bundle, tmp_path: Path) -> None:
    bundles.save(tmp_path / "b", watched)
    run = CliRunner().invoke
    files = {
        "same": write(tmp_path / "same.csv", of_events(shop(41, visitors=900))),
        "other": write(tmp_path / "other.csv", of_events(shop(42, visitors=900, mix=SHIFTED))),
    }
    arguments = ["--map", str(GA4), "--bundle", str(tmp_path / "b")]
    found = {name: run(cli.app, ["drift", "data", str(file), *arguments, "--json"]) for name, file in files.items()}
    told = {name: json.loads(done.stdout[: done.stdout.rindex("}") + 1]) for name, done in found.items()}
    assert "channel" in told["other"]["act"]
    assert isinstance(found["other"].exception, CheckFailed)  # exit code 3
    assert "channel" not in told["same"]["act"]
    shown = run(cli.app, ["drift", "data", str(files["other"]), *arguments]).stdout
    assert "what moved most" in shown
    assert any(f"{channel} " in shown for channel in MIX)  # no hash
    bundles.save(tmp_path / "old", replace(watched, drift=None))
    refused = run(cli.app, ["drift", "data", str(files["same"]), "--map", str(GA4), "--bundle", str(tmp_path / "old")])
    assert "`intent drift reference` makes" in str(refused.exception)


def test_a_report_says_what_is_to_be_done(watched: Bundle) -> None:
    watch = Watch(watched)
    events = shop(43, visitors=400, mix={"Social": 1.0})
    windows, intent = scored(watched, events)
    for start in range(0, len(events), 500):
        part = slice(start, start + 500)
        watch.add(events[part], windows[part], intent[part], [True] * len(events[part]))
    report = watch.report("test")
    assert report.events == len(events)
    with pytest.raises(CheckFailed, match=r"drift to act on: .*channel"):
        report.check()


def test_too_few_for_any_verdict_is_nothing_to_compare(watched: Bundle, tmp_path: Path) -> None:
    """A scheduler's alarm does not stay silent where a handful of events came and nothing could be judged."""
    bundles.save(tmp_path / "b", watched)
    file = write(tmp_path / "few.csv", of_events(shop(46, visitors=2)))
    arguments = ["drift", "data", str(file), "--map", str(GA4), "--bundle", str(tmp_path / "b")]
    run = CliRunner().invoke(cli.app, arguments)
    assert "too few" in run.stdout
    assert isinstance(run.exception, IntentError)
    assert run.exception.exit_code == 1
    assert "there is nothing to compare" in str(run.exception)


def test_a_reference_of_no_events_tells_which_days_were_meant(watched: Bundle, tmp_path: Path) -> None:
    """Nobody has named --from and --to."""
    bundles.save(tmp_path / "b", watched)
    first, *_, last = shop(46, visitors=2)
    file = write(tmp_path / "two.csv", of_events([first, last]))
    out, runs = tmp_path / "out", tmp_path / "runs"
    places = ["--bundle", str(tmp_path / "b"), "--out", str(out), "--runs", str(runs)]
    run = CliRunner().invoke(cli.app, ["drift", "reference", str(file), "--map", str(GA4), *places])
    assert run.exit_code == 1, run.output
    assert "by default its validation slice; name other days" in str(run.exception)
    assert not out.exists()


def test_a_watch_keeps_some_30_bytes_an_event(watched: Bundle) -> None:
    """Each event's user is a text of its own, as a record's is."""
    events = shop(47, visitors=200)
    records = [(encode(event), event.user_id.encode()) for event in events]
    windows, intent = list(folded(events)), np.zeros((len(events), 3), np.float32)
    watch, rounds, before = Watch(watched), 10, 0
    tracemalloc.start()
    try:
        for turn in range(rounds + 1):
            if turn == 1:  # users, names and what is loaded once
                before = tracemalloc.get_traced_memory()[0]
            decoded = [decode(value, key=key, timestamp_ms=making.START_MS + 10**10) for value, key in records]
            watch.add(decoded, windows, intent.copy(), [True] * len(events))
            del decoded
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held / (rounds * len(events)) < 40


def test_a_report_fits_a_terminal_and_is_json(watched: Bundle) -> None:
    """Nothing of a name is cut at 80 columns, and what there is no number of is null."""
    watch = Watch(watched)
    shown = Console(width=80, file=io.StringIO(), force_terminal=False)
    events = shop(44, visitors=100, mix={"Social": 1.0})
    windows, intent = scored(watched, events)
    watch.add(events, windows, intent, [True] * len(events))
    report = watch.report("test", fates={"scored": len(events), "dead": 3})
    evil = replace(report.findings[0], moved="c1\x1b[2J[red]")
    shown.print(replace(report, findings=[evil, *report.findings[1:]]).table(), highlight=False)
    assert isinstance(shown.file, io.StringIO)
    text = shown.file.getvalue()
    assert r"c1\x1b[2J[red]" in text
    assert "…" not in text
    assert all(feature.name in text for feature in reference(watched).features)
    assert f"of {len(events) + 3} records: scored {len(events)}, dead 3" in text
    nobody = json.dumps(Watch(watched).report("test").document(), allow_nan=False)
    assert json.loads(nobody)["findings"][0]["noise"] is None


@pytest.mark.parametrize(
    ("name", "place", "title"),
    [
        pytest.param("kind", 1, "page_view", id="a name"),
        pytest.param("kind", 0, "others", id="all others"),
        pytest.param("items", 0, "under 1", id="a count, whose logarithm is kept"),
        pytest.param("gap_ms", 0, "no event before", id="nothing"),
        pytest.param("purchase_24h", -1, "or more", id="the last"),
    ],
)
def test_bins_have_titles(watched: Bundle, name: str, place: int, title: str) -> None:
    found = {feature.name: feature for feature in reference(watched).features}
    edges = {"items": np.log1p(np.array([1.0, 2, 3, 5]))}.get(name)
    feature = (
        found.get(name) if edges is None else Feature(name=name, edges=edges, counts=np.zeros(5, np.int64), effect=1)
    )
    assert feature is not None
    assert values.title(feature, place % feature.bins).endswith(title)
