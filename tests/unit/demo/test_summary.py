import io
import json

import pytest
from rich.console import Console

from worker.demo.board import Latency
from worker.demo.ledger import Verdict
from worker.demo.summary import Outcome, as_json, as_table, judge

VERDICT = Verdict(events=12, scored=8, coalesced=0, duplicate=1, erased=0, dead={"late": 2, "json": 1})
COUNTED = {"scored": 8, "duplicate": 1, "late": 2, "dead": 1, "coalesced": 0, "erased": 0}


def changed(**fields: object) -> Verdict:
    return Verdict(**{name: fields.get(name, getattr(VERDICT, name)) for name in Verdict.__slots__})  # type: ignore[arg-type]


def broken(
    verdict: Verdict = VERDICT,
    *,
    acknowledged: int = 12,
    done: int = 12,
    counted: dict[str, int] | None = None,
    exit_code: int = 0,
) -> list[str]:
    checks = judge(verdict, acknowledged=acknowledged, done=done, counted=counted, exit_code=exit_code)
    return [check.promise for check in checks if not check.holds]


def test_all_holds_when_everything_adds_up() -> None:
    assert broken() == []
    assert broken(counted=COUNTED) == []
    assert len(judge(VERDICT, acknowledged=12, done=12, counted=None, exit_code=0)) == 5


@pytest.mark.parametrize(
    ("verdict", "values", "promise"),
    [
        pytest.param(VERDICT, {"acknowledged": 13}, "all that was sent is read", id="an event is not in Kafka"),
        pytest.param(VERDICT, {"done": 11}, "all that was sent is read", id="an event is not done"),
        pytest.param(changed(scored=7, lost=[(0, 3)]), {}, "no event is lost", id="lost"),
        pytest.param(changed(scored=7), {}, "no event is lost", id="does not add up"),
        pytest.param(changed(twice=[(1, 1)]), {}, "each score is published once", id="twice"),
        pytest.param(changed(repeated=[(1, 1)]), {}, "each score is published once", id="a duplicate scored"),
        pytest.param(changed(mistaken=[(1, 1)]), {}, "each score is of its event", id="another event"),
        pytest.param(VERDICT, {"counted": COUNTED | {"late": 1}}, "the worker's counters agree", id="counters"),
        pytest.param(VERDICT, {"counted": {}}, "the worker's counters agree", id="no counters"),
        pytest.param(VERDICT, {"exit_code": 1}, "the worker stops cleanly", id="exit code"),
    ],
)
def test_each_broken_promise_is_named(verdict: Verdict, values: dict[str, int], promise: str) -> None:
    assert broken(verdict, **values) == [promise]  # type: ignore[arg-type]  # one table for all arguments


@pytest.mark.parametrize("lost", [[], [(0, 3), (1, 4), (2, 5), (3, 6)]], ids=["holds", "lost"])
def test_is_told_to_people_and_programs(lost: list[tuple[int, int]]) -> None:
    verdict = changed(scored=8 - len(lost), lost=lost)
    outcome = Outcome(
        verdict=verdict,
        checks=judge(verdict, acknowledged=12, done=12, counted=None, exit_code=0),
        seconds=4.0,
        latency=Latency(count=8, p50=40, p99=90),
        lives=2,
        model={"name": "tiny", "version": "1"},
    )
    assert outcome.holds == (not lost)
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(as_table(outcome))
    text = console.export_text()
    assert "through 1 kill with SIGKILL" in text
    assert ("4, the first at 0:3, 1:4, 2:5" in text) == bool(lost)
    assert ("BROKEN" in text) == bool(lost)
    told = json.loads(json.dumps(as_json(outcome)))
    assert told["holds"] == (not lost)
    assert told["lost"] == len(lost)
    assert told["events_per_s"] == 3.0
    assert told["latency_ms"] == {"p50": 40, "p99": 90}
    assert "model tiny 1" in text
    assert told["model"] == {"name": "tiny", "version": "1"}
