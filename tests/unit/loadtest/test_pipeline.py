"""The comparison's own arithmetic: jobs, places, targets, what a frame counts as."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import orjson
import pytest
from rich.console import Console

from loadtest import parts, pipeline, standings, workload
from loadtest.contenders import light
from loadtest.contenders.jobs import MODEL, RATING, Full, Light
from loadtest.contenders.task import Taken, Task
from loadtest.sampler import Sampler
from loadtest.stages import STAGES
from loadtest.standings import Place, Target
from tests.loadtests import run_light
from worker import scores, window
from worker.errors import IntentError, SettingError
from worker.fold import fold
from worker.kafka import clients
from worker.stream import output
from worker.watermark import Watermark

TOPIC = "clickstream.events.v1"
FOUND = workload.make("full", 3000, sample=None)


def place(name: str, *seconds: float, events: int = 1000) -> Place:
    return Place(name, tuple(Taken(events=events, seconds=each, cpu_s=0.5 * each) for each in seconds))


def records(some: list[tuple[bytes, bytes]]) -> list[Any]:
    return [
        SimpleNamespace(key=key, value=value, offset=offset, timestamp=workload._LIGHT_START_MS + 10**9, headers=[])
        for offset, (key, value) in enumerate(some)
    ]


def test_a_ratio_compares_medians() -> None:
    assert place("bare", 4.0, 2.0, 100.0).ratio(place("intent", 1.0, 0.5, 2.0)) == 4.0


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (Target("light", "stock-faust", 35), (40.0, True)),
        (Target("light", "stock-faust", 41), (40.0, False)),
        (Target("full", None, 500), (500.0, True)),
        (Target("full", None, 499), (500.0, False)),
        (Target("light", "bare", 0.45), None),
    ],
)
def test_a_target_is_met_missed_or_not_measured(target: Target, found: tuple[float, bool] | None) -> None:
    assert standings.check(target, [place("intent", 1.0), place("stock-faust", 40.0)]) == found


def test_the_standings_say_what_was_not_met() -> None:
    places = [place("intent", 1.0), place("stock-faust", 20.0)]
    written = io.StringIO()
    Console(file=written, width=80).print(standings.table("light", places, source="made up"))
    assert "…" not in written.getvalue()
    assert "20.00 x as fast" in written.getvalue()
    assert "at least 35: 20.00, not met" in written.getvalue()
    (target,) = standings.document({"light": places}, sources={"light": "made up"})["light"]["targets"]
    assert target == {"against": "stock-faust", "bound": 35, "found": 20.0, "met": False}


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    standings.plot({"light": [place("intent", 1.0), place("bare", 0.5)]}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_task_survives_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: name for name in ("servers", "events", "scores", "latest", "dead_letters", "group", "folder")}
    task = Task(job="full", partitions=4, count=7, **names)
    monkeypatch.setattr("sys.argv", ["contender", task.dump()])
    assert Task.of_command_line() == task


def test_light_one_by_one_and_in_batches_write_the_same() -> None:
    some = records(workload.make("light", 300, sample=None).records * 3)
    windows: dict[bytes, bytes] = {}
    step, singly = Light(TOPIC), []
    for record in some:
        done = step(
            windows.get(record.key), record.value, key=record.key, partition=1, offset=record.offset, timestamp_ms=0
        )
        assert done.window is not None
        windows[record.key] = done.window
        singly.append(done.score)
    batch = light.fold(some, windows=lambda _: None, start=Watermark())
    ratings = [RATING] * len(some)
    rendered = light.render(batch, ratings, topic=TOPIC, partition=1, application="a", scored_at="")
    assert [record.value for record in rendered.scores] == singly
    assert {record.key: record.value for record in rendered.changelog[:-1]} == windows
    assert max(map(len, windows.values())) <= 320


def test_full_one_by_one_is_what_the_worker_does() -> None:
    some = records(FOUND.records)
    windows: dict[bytes, bytes] = {}
    step, scored, dead = Full(TOPIC, "intent"), [], 0
    for record in some:
        done = step(
            windows.get(record.key),
            record.value,
            key=record.key,
            partition=1,
            offset=record.offset,
            timestamp_ms=record.timestamp,
        )
        if done.window is not None:
            windows[record.key] = done.window
        if done.score is not None:
            scored.append({**orjson.loads(done.score), "scored_at": ""})
        dead += done.dead is not None
    batch = fold(some, windows=lambda _: None, start=Watermark(), rules=window.Rules(), mode="every")
    rendered = output.render(
        batch, [RATING] * len(batch.updated), topic=TOPIC, partition=1, application="intent", scored_at=""
    )
    assert [orjson.loads(record.value or b"") for record in rendered.scores] == scored
    assert batch.changed == windows
    assert dead == len(rendered.dead_letters) == FOUND.dead(3000) == 3
    assert scores.decode(rendered.scores[0].value or b"").model == MODEL


def test_the_innermost_listed_frame_names_the_stage() -> None:
    sampler = Sampler(STAGES)

    def frame(path: str, name: str, back: Any = None) -> Any:
        return SimpleNamespace(f_code=SimpleNamespace(co_filename=path, co_name=name), f_back=back)

    fold = frame("/x/worker/fold.py", "fold", frame("/x/asyncio/events.py", "_run"))
    assert sampler._stage(frame("/x/worker/window.py", "fold", fold)) == "fold a window"
    assert sampler._stage(frame("/x/json/decoder.py", "decode", fold)) == "the loop around these"
    assert sampler._stage(frame("/x/nowhere.py", "anything")) == "other Python"


def test_each_part_of_the_worker_is_timed(tmp_path: Path) -> None:
    found = parts.measure(workload.make("full", 2 * parts.BATCH, sample=None).records, tmp_path)
    assert found.keys() == set(parts.PARTS)
    assert all(found[part] > 0 for part in ("decode", "fold a window", "encode scores", "append records"))


def test_an_address_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"kafka.bootstrap_servers.*'no address'"):
        run_light(tmp_path, "no address")


def test_brokers_that_do_not_answer_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ANSWER_S", 0.2)
    with pytest.raises(IntentError, match=r"Kafka at localhost:1 .* does not answer"):
        run_light(tmp_path, "localhost:1")


@pytest.mark.parametrize("job", ["full", "both"])
def test_a_sample_that_is_not_there_is_told_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, job: Literal["full", "both"]
) -> None:
    started: list[str | None] = []
    monkeypatch.setenv("INTENT_GA360", str(tmp_path / "nowhere"))
    monkeypatch.setattr(pipeline, "_brokers", started.append)
    with pytest.raises(IntentError, match=r"nowhere/hits.parquet does not exist"):
        pipeline.pipeline(job=job, contender=[pipeline.Contender.BARE], folder=tmp_path / "out")
    assert started == []


def test_topics_that_the_brokers_do_not_list_yet_are_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = SimpleNamespace(topics={"loadtest-1-changelog": None, "theirs": None})
    monkeypatch.setattr(clients, "admin", lambda _: SimpleNamespace(list_topics=lambda **_: listed))
    monkeypatch.setattr(pipeline, "_make_topics", lambda *_: None)
    removed: list[str] = []
    monkeypatch.setattr(pipeline, "_drop_topics", lambda _, names: removed.extend(names))
    task: Any = SimpleNamespace(group="loadtest-1", **dict.fromkeys(("scores", "latest", "dead_letters"), ""))
    task.scores, task.latest, task.dead_letters = (f"loadtest-1.{name}" for name in ("scores", "latest", "dlq"))
    kafka: Any = None
    with pipeline._outputs(kafka, task):
        assert not removed
    assert sorted(removed) == ["loadtest-1-changelog", "loadtest-1.dlq", "loadtest-1.latest", "loadtest-1.scores"]
