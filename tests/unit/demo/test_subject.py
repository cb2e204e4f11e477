from pathlib import Path

import pytest

from worker import config
from worker.demo.subject import Subject, read_metrics, why
from worker.errors import IntentError

PAGE = """\
# HELP intent_events_total Source events by fate.
# TYPE intent_events_total counter
intent_events_total{fate="scored"} 12.0
intent_events_total{fate="late"} 3.0
# TYPE intent_watermark_offset gauge
intent_watermark_offset{partition="0"} 9.0
intent_watermark_offset{partition="3"} -1.0
"""


def test_reads_fates_and_watermarks() -> None:
    told = read_metrics(PAGE)
    assert told.fates == {"scored": 12, "late": 3}
    assert told.watermarks == {0: 9, 3: -1}


def test_counts_over_a_kill_and_knows_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(config.load({"worker": {"web_port": 1}}), tmp_path / "log")
    pages = iter([PAGE.encode(), PAGE.replace(" 9.0", " 19.0").encode(), None])
    monkeypatch.setattr(subject, "_page", lambda _: next(pages))
    assert subject.ask()
    assert (subject.fates["scored"], subject.done) == (12, 10)
    subject.kill()
    assert subject.fates["scored"] == 12
    assert subject.ask()
    assert (subject.fates["scored"], subject.done) == (24, 20)
    assert not subject.ask()
    assert subject.done == 20


def test_says_why_the_worker_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "worker" / "__main__.py"
    broken.parent.mkdir()
    (broken.parent / "__init__.py").touch()
    broken.write_text("import sys; print('out of paper'); sys.exit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    subject = Subject(config.load({"worker": {"web_port": 1}}), tmp_path / "log")
    subject.start()
    with pytest.raises(IntentError, match=r"exit code 7; .*out of paper"):
        subject.await_ready()
    assert subject.stop() == 7


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("", "it said nothing"),
        ('{"level":"info","event":"model"}\nintent: no bundle here\n', "no bundle here"),
        ('{"level":"info","event":"a"}\nsegmentation fault', "segmentation fault"),
        (
            'noise\n{"level":"error","event":"crashed","exception":"Trace\\nTypeError: bad"}\nTask was destroyed',
            "crashed TypeError: bad",
        ),
    ],
    ids=["nothing", "a sentence of its own", "no errors logged", "the first error"],
)
def test_finds_the_cause_in_a_log(said: str, cause: str) -> None:
    assert why(said) == cause
