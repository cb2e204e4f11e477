"""One's own shop, from a table: the same training, evaluation and scores, by the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.unit.scoring import making
from tests.unit.shop.tables import of_events, row, write
from tests.unit.shop.test_table import GA4
from worker import cli
from worker.scoring import bundle as bundles
from worker.shop.ga360 import SPLITS, Sample
from worker.shop.table import Table
from worker.training import windows
from worker.training.labels import labels, member


@pytest.fixture(scope="session")
def table(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sample as GA4 would have exported it, with two rows that are none."""
    rows = of_events(Sample(shop).events())
    rows[3:3] = [rows[3] | {"event_timestamp": "noon"}, rows[3] | {"user_pseudo_id": ""}]
    return write(tmp_path_factory.mktemp("table") / "events.csv", rows)


@pytest.fixture(scope="session")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, with this shop's confirmation page and the sample's slices."""
    text = GA4.read_text().replace('"/order-confirmation"', '"/ordercompleted.html"')
    text = text.replace('"Europe/Berlin"', '"America/Los_Angeles"')
    text = text.replace("validation = 0.7 ", "validation = 2016-09-24 ").replace("test = 0.85", "test = 2016-10-01")
    path = tmp_path_factory.mktemp("mapping") / "mapping.toml"
    path.write_text(f"{text}start = 2016-08-01\nend = 2016-10-16\n")
    return path


def test_a_table_trains_as_the_sample_does(shop: Path, table: Path, mapping: Path, tmp_path: Path) -> None:
    """The same windows but for what GA4 does not tell, the same labels and the same slices."""
    ours, kept = windows.build(Table(table, mapping), tmp_path)
    theirs, _ = windows.build(Sample(shop), tmp_path)
    assert ours.splits == replace(SPLITS, outages=())  # a mapping knows of none
    for name in ("visitor", "session", "time_ms", "kind", "instant", "purchase"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert np.array_equal(labels(ours), labels(theirs))
    assert np.array_equal(member(ours, "test"), member(theirs, "test"))
    assert len(kept) == len(theirs.time_ms)


def test_train_evaluate_and_score_on_the_command_line(table: Path, mapping: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    source, runs = ["--data", str(table), "--map", str(mapping)], ["--runs", str(tmp_path / "runs")]
    bundle = ["--bundle", str(tmp_path / "b")]
    size = [
        "--windows",
        "1000",
        "--head-windows",
        "1000",
        "--no-refit",
        "--members",
        "1",
        "--draws",
        "10",
        "--precision",
        "float32",
    ]
    (tmp_path / "notes.md").write_text("## What was tried\n\nNothing yet.\n")
    named = ["--name", "own", "--notes", str(tmp_path / "notes.md"), "--out", str(tmp_path / "b")]
    trained = run(cli.app, ["train", *source, *runs, *size, *named, "--json"])
    assert trained.exit_code == 0, trained.output
    assert "2 rows rejected: time 1 (row 4: 'noon' is not a time by 'us')" in trained.output
    card = bundles.load(tmp_path / "b").card
    assert "`events.csv`" in card
    assert card.endswith("## What was tried\n\nNothing yet.\n")
    assert "Merchandise" not in card.split("## Limits")[0]
    measured = run(cli.app, ["evaluate", *source, *runs, *bundle, "--draws", "10", "--slice", "validation", "--json"])
    assert {line["horizon"] for line in json.loads(measured.stdout)["lines"]} >= {"30 min", "24 h"}
    out = ["--out", str(tmp_path / "s.parquet")]
    scored = run(cli.app, ["score", "table", str(table), "--map", str(mapping), *bundle, *out, "--json"])
    assert scored.exit_code == 0, scored.output
    told = json.loads(scored.stdout)
    assert told["model"].keys() == {"name", "version"}
    scores = pq.read_table(tmp_path / "s.parquet")
    assert scores.column_names[:4] == ["user_id", "session_id", "event_id", "timestamp_ms"]
    again = Table(table, mapping)
    newest = {event.user_id: event for event in again.events()}.values()
    event = next(event for event in newest if again.scored(event))
    one = ["--visitor", event.user_id, "--method", "occlusion", "--json"]
    explained = run(cli.app, ["explain", *source, *one, *bundle])
    assert explained.exit_code == 0, explained.output
    (score,) = scores.filter(pc.field("event_id") == event.event_id)["purchase_24h"].to_pylist()
    assert json.loads(explained.stdout)["probability"] == pytest.approx(score, abs=1e-4)
    assert told["rows"] == len(scores) == sum(map(again.scored, again.events()))
    assert {reason: entry["rows"] for reason, entry in told["table"]["rejected"].items()} == {"time": 1, "user": 1}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["evaluate", "--rivals", "none", "--draws", "10", "--bundle"], id="evaluate"),
        pytest.param(["explain", "check", "--windows", "10", "--least", "3", "--bundle"], id="explain check"),
        pytest.param(["train", "--since", "2016-09-17", "--windows", "1000", "--draws", "10", "--from"], id="train"),
        pytest.param(["drift", "reference", "--bundle"], id="drift reference"),
    ],
)
def test_rows_that_are_no_events_are_told_by_whatever_reads_them(
    table: Path, mapping: Path, tmp_path: Path, command: list[str]
) -> None:
    bundles.save(tmp_path / "b", making.bundle())
    data = [str(table)] if command[0] == "drift" else ["--data", str(table)]
    out = [] if command[0] == "evaluate" else ["--out", str(tmp_path / "out")]
    arguments = [*command, str(tmp_path / "b"), *data, "--map", str(mapping), "--runs", str(tmp_path / "runs"), *out]
    done = CliRunner().invoke(cli.app, arguments)
    assert "2 rows rejected: time 1 (row 4: 'noon' is not a time by 'us')" in done.stderr, done.output


def test_a_table_too_short_to_train_on_is_told(table: Path, mapping: Path, tmp_path: Path) -> None:
    first = "".join(table.read_text().splitlines(keepends=True)[:40])
    (tmp_path / "short[a].csv").write_text(first)
    short = mapping.read_text().split("[splits]")[0]
    (tmp_path / "m.toml").write_text(short)
    arguments = ["train", "--data", str(tmp_path / "short[a].csv"), "--map", str(tmp_path / "m.toml"), "--out", "b"]
    done = CliRunner().invoke(cli.app, [*arguments, "--runs", str(tmp_path / "runs")])
    assert "for every horizon" in str(done.exception)
    assert "/short[a].csv into windows\n" in done.output  # a name is no markup, a line is whole


def test_a_table_of_too_few_visitors_to_train_on_is_told(tmp_path: Path) -> None:
    """Each slice has instants of theirs, but none is of those who choose the checkpoint, or of those who calibrate."""
    start_us, day_us = 1_714_521_600_000_000, 86_400_000_000
    rows = [
        row(user_pseudo_id=visitor, event_timestamp=start_us + day * day_us + number * 60_000_000, event_name=kind)
        for day in range(60)
        for visitor in ("a", "b", "c")
        for number, kind in enumerate(["view_item", "purchase"] if visitor == "a" else ["view_item"])
    ]
    table = write(tmp_path / "few.csv", rows)
    arguments = ["train", "--data", str(table), "--map", str(GA4), "--out", "b", "--runs", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli.app, [*arguments, "--windows", "1000", "--head-windows", "0", "--teacher", "0"])
    assert "for every horizon" in str(done.exception)
    assert "dozens of visitors" in str(done.exception)


def test_score_table_refuses_what_it_cannot_read(table: Path, mapping: Path, tmp_path: Path) -> None:
    bundles.save(tmp_path / "b", making.bundle())
    arguments = ["score", "table", str(table), "--map", str(mapping), "--bundle", str(tmp_path / "b")]
    refused = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / "s.parquet"), "--from", "yesterday"])
    assert refused.exit_code == 2
    assert "yesterday" in refused.output


def test_notes_that_are_no_text_are_told(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_bytes(b"\xff")
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "b"), "--notes", str(notes)]
    run = CliRunner().invoke(cli.app, ["train", *arguments], env={"COLUMNS": "400"})
    assert run.exit_code == 2
    assert "notes.md is not in UTF-8" in run.output
