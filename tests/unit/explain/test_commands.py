"""From a file of events to a table, a document and a page."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from tests.unit.scoring import making
from worker import events
from worker.cli import app
from worker.errors import IntentError
from worker.events import Context, Event, Item
from worker.explain import story
from worker.explain.explanation import OCCLUSION, explain, tables
from worker.explain.picture import write_page
from worker.facts import hash32
from worker.scores import HORIZONS
from worker.scoring import encode
from worker.scoring.batch import Batch
from worker.scoring.engine import Engine

EVIL = "<script>alert('x')</script>"


def visit() -> list[Event]:
    kinds = ["page_view", "view_item", "add_to_cart", "view_cart"]
    told = [
        making.event(
            number,
            type=kind,
            event_time=making.START_MS + 20_000 * number,
            session_id="s1" if number < 2 else "s2",
            items=(Item(item_id="sku1", item_name=EVIL),) if kind == "add_to_cart" else (),
            page=f"/{kind}",
            context=Context(channel="Direct", country="France", visit_number=2),
        )
        for number, kind in enumerate(kinds)
    ]
    return [*told, told[1]]  # the last: a duplicate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "user.jsonl"
    path.write_bytes(b"\n".join(events.encode(one) for one in visit()) + b"\n\n")
    return path


def test_a_story_is_the_fold_of_its_events() -> None:
    told = story.tell(visit())
    assert told.window == making.window_of(visit()[:4])
    assert [step.kind for step in told.steps] == ["page_view", "view_item", "add_to_cart", "view_cart"]
    assert told.dropped == 1
    assert told.context["country"] == "France"
    assert told.context["browser"] == ""
    assert (told.context["newest_page"], told.context["newest_category"]) == ("/view_cart", "")


@pytest.mark.parametrize(
    ("sessions", "opens"),
    [
        pytest.param(["a", "a", "b", "b"], [True, False, True, False], id="by name, whatever the pause"),
        pytest.param([None, None, None, None], [True, False, False, True], id="without names after a pause"),
    ],
)
def test_sessions_begin_where_the_model_sees_them_begin(sessions: list[str | None], opens: list[bool]) -> None:
    times = [0, 1_800_000, 1_800_000, 3_600_001]
    told = story.tell(
        making.event(number, event_time=making.START_MS + time, session_id=session)
        for number, (time, session) in enumerate(zip(times, sessions, strict=True))
    )
    assert [step.opens for step in told.steps] == opens


def test_a_longer_horizon_is_never_less_likely_than_a_shorter_one() -> None:
    made = making.bundle()
    calibration = replace(made.calibration, slopes=np.ones(3, np.float32), intercepts=np.array([-3, 5, -5], np.float32))
    crossed = replace(made, calibration=calibration)
    told = [
        explain(crossed, story.tell(visit()), horizon=horizon, methods=(), device="cpu").probability
        for horizon in HORIZONS
    ]
    with Engine(lambda: crossed, device="cpu", threads=1) as engine:
        assert told == pytest.approx(engine.score_now([making.window_of(visit()[:4])]).intent[0].tolist(), abs=1e-5)
    assert told[0] < told[1] == told[2]


def test_nothing_is_shown_as_minus_zero(tmp_path: Path) -> None:
    found = explain(making.bundle(), story.tell(visit()), horizon=HORIZONS[0], methods=(OCCLUSION,), device="cpu")
    one = found.methods[OCCLUSION]
    slight = replace(
        one, **{part: np.full_like(getattr(one, part), -0.001) for part in ("events", "aggregates", "context")}
    )
    found = replace(found, methods={OCCLUSION: slight}, logit=-0.001, codes={"cart": -0.001})
    console = Console(width=160, file=io.StringIO())
    console.print(tables(found))
    write_page(found, tmp_path / "why.html")
    for shown in (console.file.getvalue(), (tmp_path / "why.html").read_text()):  # type: ignore[attr-defined]  # a StringIO
        assert "(logit +0.00)" in shown
        assert "-0.00" not in shown


def test_a_model_that_gives_no_numbers_explains_nothing() -> None:
    """Programs would read of it what is no JSON."""
    broken = making.bundle(name="broken")
    broken.weights.head.first.data.fill_(torch.nan)
    with pytest.raises(IntentError, match=r"broken.*not numbers"):
        explain(broken, story.tell(visit()), horizon=HORIZONS[0], methods=(), device="cpu")


def test_the_newest_events_words_are_those_that_its_facts_hash() -> None:
    """A page falls back to what was searched for, then to the first item; a category is the first item's."""
    for searched, page in (("socks", "socks"), (None, "i")):
        found = making.event(2, page=None, search_term=searched, items=(Item(item_id="i", item_category="Apparel"),))
        told = story.tell([making.event(1, page="/before"), found])
        assert (told.context["newest_page"], told.context["newest_category"]) == (page, "Apparel")
        held = Batch.of([told.window])
        assert encode.context_hashes(held)[0, -2:].tolist() == [hash32(page), hash32("Apparel")]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(
            [making.event(1, page="/gone"), making.event(2, type=events.ERASE)],
            id="erased",
        ),
        pytest.param(
            [
                making.event(2, event_time=making.START_MS + 3_600_000),
                making.event(1, event_time=making.START_MS, page="/late"),
            ],
            id="late",
        ),
        pytest.param(
            [
                making.event(1, page="/129 ids ago"),
                *(making.event(number, event_time=making.START_MS + number) for number in range(2, 130)),
            ],
            id="forgotten",
        ),
    ],
)
def test_an_id_that_comes_again_is_told_as_the_event_that_is_in_the_window(before: list[Event]) -> None:
    again = making.event(1, event_time=making.START_MS + 3_600_001, page="/again")
    (step,) = (step for step in story.tell([*before, again]).steps if step.event_id == again.event_id)
    assert step.page == "/again"


def test_who_was_erased_starts_anew() -> None:
    erase = making.event(9, type=events.ERASE, event_time=making.START_MS + 90_000)
    after = making.event(10, event_time=making.START_MS + 91_000)
    assert len(story.tell([*visit(), erase, after]).steps) == 1
    with pytest.raises(IntentError, match="erased"):
        story.tell([*visit(), erase])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"{}\n", "line 1 of FILE is no event", id="no user"),
        pytest.param(b"\n[1]\n", "line 2 of FILE is no event", id="array"),
        pytest.param(b"{nonsense\n", "line 1 of FILE is no event", id="no JSON"),
        pytest.param(b"", "FILE has no event", id="empty"),
    ],
)
def test_what_is_no_event_is_said_by_line(content: bytes, said: str) -> None:
    with pytest.raises(IntentError, match=said):
        story.read(content.splitlines(), source="FILE", user=None)


def test_two_users_are_one_too_many() -> None:
    lines = [events.encode(making.event(n, user_id=f"u{n}")) for n in range(2)]
    with pytest.raises(IntentError, match="name one with --visitor"):
        story.read(lines, source="FILE", user=None)
    assert [one.user_id for one in story.read(lines, source="FILE", user="u1")] == ["u1"]


def test_explain_as_a_document_and_a_page(file: Path, folder: Path) -> None:
    page = file.with_suffix(".html")
    run = CliRunner().invoke(
        app, ["explain", "--events", str(file), "--bundle", str(folder), "--page", str(page), "--json"]
    )
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["horizon"] == "purchase_24h"
    assert 0 < found["probability"] < 1
    assert set(found["contributions"]) == {"occlusion", "integrated gradients"}
    for one in found["contributions"].values():
        assert len(one["events"]) == len(found["events"]) == 4
        assert set(one["context"]) == set(found["context"])
    html = page.read_text()
    assert "<svg" in html
    assert EVIL not in html
    assert "&lt;script&gt;" in html
    assert not re.search(r"<(script|link|img|iframe)|url\(http|@import", html)


def test_explain_as_tables_from_standard_input(file: Path, folder: Path) -> None:
    run = CliRunner().invoke(
        app,
        ["explain", "--events", "-", "--bundle", str(folder), "--method", "occlusion", "--last", "3"],
        input=file.read_bytes(),
    )
    assert run.exit_code == 0, run.output
    assert "after 3 events" in run.stdout  # add_to_cart, view_cart, and the former duplicate
    assert "integrated" not in run.stdout


def test_a_shops_words_are_shown_as_they_are(tmp_path: Path, folder: Path) -> None:
    """Marks are no marks, and nothing steers the terminal."""
    file = tmp_path / "user.jsonl"
    told = making.event(1, user_id="a[/x][bold]1", type="kind[/y]\x1b[2J", page="/\x1b]0;title\x07")
    file.write_bytes(events.encode(told))
    command = ["explain", "--events", str(file), "--bundle", str(folder), "--method", "occlusion"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    shown = "".join(run.stdout.split())
    assert "givesa[/x][bold]1purchase" in shown
    assert r"kind[/y]\x1b[2J" in shown
    assert r"/\x1b]0;title\x07" in shown
    assert "\x1b" not in run.stdout


def test_users_that_are_one_too_many_are_told_safely() -> None:
    lines = [events.encode(making.event(n, user_id=f"u{n}\x1b[2J")) for n in range(2)]
    with pytest.raises(IntentError, match=r"'u0\\x1b\[2J'"):
        story.read(lines, source="FILE", user=None)


def test_a_page_that_cannot_be_written_is_a_sentence(file: Path, folder: Path) -> None:
    command = ["explain", "--events", str(file), "--bundle", str(folder), "--method", "occlusion"]
    run = CliRunner().invoke(app, [*command, "--page", "/dev/full"])
    assert isinstance(run.exception, IntentError)
    assert "--page is '/dev/full', which cannot be written: No space left on device" in str(run.exception)


def test_a_page_takes_the_place_of_the_former_whole(file: Path, folder: Path, tmp_path: Path) -> None:
    page, former = tmp_path / "why.html", tmp_path / "former"
    page.write_text("former")
    former.hardlink_to(page)
    command = ["explain", "--events", str(file), "--bundle", str(folder), "--method", "occlusion", "--page", str(page)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert former.read_text() == "former"
    assert page.read_text().startswith("<!")


def test_a_page_that_is_closed_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    command = ["explain", "--events", "-", "--page", str(tmp_path / "why.html")]
    run = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert run.exit_code == 2
    assert "closed to this user" in run.output


def test_occlusion_does_without_captum_and_the_module(file: Path, folder: Path) -> None:
    """Neither is needed, and the module takes seconds to make."""
    program = (
        "import sys; sys.modules['captum'] = None; from worker.scoring.bundle import Bundle; Bundle.model = None; "
        "from worker.cli import app; app(sys.argv[1:])"
    )
    command = ["explain", "--events", str(file), "--bundle", str(folder), "--page", str(file.with_suffix(".html"))]
    run = subprocess.run(
        [sys.executable, "-c", program, *command, "--method", "occlusion"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "occlusion" in run.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param([], "--events", id="neither"),
        pytest.param(["--data", "."], "--visitor", id="no visitor"),
        pytest.param(["--events", "-", "--map", "m.toml"], "--map", id="events are mapped already"),
        pytest.param(["--events", "/nowhere/u.jsonl"], "/nowhere/u.jsonl cannot be read (No such", id="no file"),
        pytest.param(["--events", "-", "--until", "yesterday"], "--until", id="no time"),
        pytest.param(["--events", "-", "--page", "/nowhere/x.html"], "--page", id="no folder"),
    ],
)
def test_bad_options_are_named(options: list[str], said: str) -> None:
    run = CliRunner().invoke(app, ["explain", *options], env={"COLUMNS": "200"})
    assert run.exit_code == 2
    assert said in run.output
