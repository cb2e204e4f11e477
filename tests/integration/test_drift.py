"""`intent drift topic` on a real broker: silent while the mix stays, an alarm where it shifts, else a sentence.

A topic holds two stretches, told apart by when their records arrived.
"""

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import MakeSettings
from tests.integration.commands import Called, called
from tests.integration.deployment import publish, read_all
from tests.integration.stories import Record, bad
from tests.integration.test_replay import assert_no_trace
from tests.unit.drift import shops
from tests.unit.shop.tables import of_events, write
from tests.unit.shop.test_table import GA4
from worker.events import Event, encode
from worker.scores import HORIZONS
from worker.scoring import bundle as bundles
from worker.settings import Settings

pytestmark = pytest.mark.broker

Drift = Callable[..., Called]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    bundles.save(folder, shops.watched())
    return folder


@pytest.fixture
def drift(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Drift:
    """`intent drift topic` with the bundle that knows the shop."""

    def call(settings: Settings, *options: object, bundle: Path = bundle) -> Called:
        return called(capsys, monkeypatch, settings, "drift", "topic", "--bundle", bundle, *options)

    return call


def records(events: list[Event]) -> list[Record]:
    return [(event.user_id.encode(), encode(event), {}) for event in events]


def test_an_alarm_comes_where_the_mix_shifts(settings: MakeSettings, drift: Drift) -> None:
    made = settings()
    servers, topic = made.kafka.bootstrap_servers, made.topics.events
    before = shops.shop(2, visitors=900)
    publish(servers, topic, records(before))
    border_ms = max(record.timestamp_ms for record in read_all(servers, topic)) + 1
    after = shops.shop(3, visitors=900, mix=shops.SHIFTED)
    poison = list(bad("trouble"))
    publish(servers, topic, [*records(after), *records(after[-50:]), *poison])
    border = dt.datetime.fromtimestamp(border_ms / 1000, dt.UTC).isoformat()

    same = drift(made, "--to", border, "--json")
    assert same.code == 0, same.err
    told = json.loads(same.out)
    assert (told["events"], told["act"], told["records"]) == (len(before), [], {"scored": len(before)})

    shifted = drift(made, "--from", border, "--to", "latest", "--json")
    assert shifted.code == 3
    assert "drift to act on: channel" in shifted.err
    told = json.loads(shifted.out)
    assert "channel" in told["act"]
    assert told["events"] == len(after)
    assert told["records"] == {"scored": len(after), "duplicate": 50, "dead": len(poison)}
    (channel,) = [found for found in told["findings"] if found["feature"] == "channel"]
    visits = Counter({event.user_id: event.context.channel for event in after if event.context}.values())
    assert channel["seen"] == visits.total() == 900
    assert channel["now"] == visits[channel["moved"]] / 900
    assert_no_trace(made)


def test_a_topic_tells_what_its_file_does(
    settings: MakeSettings,
    drift: Drift,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    tmp_path: Path,
) -> None:
    """A table that was imported: the same features, counts and verdicts by way of Kafka and without it."""
    made = settings()
    table = [write(tmp_path / "events.csv", of_events(shops.shop(4, visitors=300))), "--map", GA4]
    assert called(capsys, monkeypatch, made, "import", "table", *table).code == 0
    streamed = json.loads(drift(made, "--json").out)
    filed = json.loads(called(capsys, monkeypatch, made, "drift", "data", *table, "--bundle", bundle, "--json").out)
    assert streamed["events"] == filed["events"] > 1000
    assert (streamed["unseen_items"], streamed["act"]) == (filed["unseen_items"], filed["act"])
    for one, other in zip(streamed["findings"], filed["findings"], strict=True):
        if one["feature"] in HORIZONS:  # a score at a bin's border may fall to either side, by the batch it was in
            assert one["psi"] == pytest.approx(other["psi"], abs=0.01)
        else:
            assert one == other


def test_what_cannot_be_compared_is_one_sentence(
    settings: MakeSettings, drift: Drift, bundle: Path, tmp_path: Path
) -> None:
    made = settings()
    publish(made.kafka.bootstrap_servers, made.topics.events, bad("trouble"))
    bundles.save(tmp_path / "old", replace(bundles.load(bundle), drift=None))
    nothing = "there is nothing to compare: "
    cases: list[tuple[int, str, Called]] = [
        (2, "the topic nowhere (--topic) is not there", drift(made, "--topic", "nowhere")),
        (2, "--from is 'yesterday': accepted are earliest, latest, a date", drift(made, "--from", "yesterday")),
        (
            2,
            "--from is 2024-05-02T00:00:00Z and --to 2024-05-01T00:00:00Z: --from has to lie before --to",
            drift(made, "--from", "2024-05-02", "--to", "2024-05-01"),
        ),
        (2, "--warmup is 'long': accepted are 0 and numbers", drift(made, "--warmup", "long")),
        (
            1,
            f"{nothing}{made.topics.events} holds no record from --from 2016-01-01 to --to 2016-02-01",
            drift(made, "--from", "2016-01-01", "--to", "2016-02-01"),
        ),
        (1, f"{nothing}{made.topics.events}, earliest to latest has no event that is scored (dead 16)", drift(made)),
        (2, "holds no reference; `intent drift reference` makes", drift(made, bundle=tmp_path / "old")),
        (2, f"bundle {tmp_path / 'absent'} is not a folder", drift(made, bundle=tmp_path / "absent")),
    ]
    for code, sentence, found in cases:
        assert (found.code, found.out) == (code, ""), sentence
        assert sentence in found.err
        assert found.err.count("\n") == 1, found.err
