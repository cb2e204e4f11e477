"""When a worker counts as alive and when as ready."""

import dataclasses

import orjson
import pytest

from worker.ops.health import STALLED_AFTER_S, State, liveness, readiness, stalled_after_s

WELL = State(recovered=True, engine_alive=True, broker_reachable=True, led=True, lag_events=3, since_progress_s=0.25)


@pytest.mark.parametrize(
    ("change", "alive", "ready"),
    [
        pytest.param({}, True, True, id="all is well"),
        pytest.param({"recovered": False}, True, False, id="recovering"),
        pytest.param({"broker_reachable": False}, True, False, id="no broker: a restart would not help"),
        pytest.param(
            {"led": False, "lag_events": 0}, True, False, id="nobody leads a partition: a restart would not help"
        ),
        pytest.param({"engine_alive": False}, False, False, id="the engine's thread is dead"),
        pytest.param({"since_progress_s": 121.0}, False, False, id="work is left and nothing moves"),
        pytest.param({"since_progress_s": 119.0}, True, True, id="slow, not stalled"),
        pytest.param({"since_progress_s": 9e4, "lag_events": 0}, True, True, id="a quiet shop"),
        pytest.param({"since_progress_s": 9e4, "broker_reachable": False}, True, False, id="a long outage"),
        pytest.param(
            {"since_progress_s": 500.0, "recovered": False}, False, False, id="some recover, the others stand still"
        ),
    ],
)
def test_answers(change: dict[str, float], alive: bool, ready: bool) -> None:
    state = dataclasses.replace(WELL, **change)  # type: ignore[arg-type]  # a table of mixed fields
    assert liveness(state).status == (200 if alive else 503)
    assert readiness(state).status == (200 if ready else 503)


def test_the_body_names_the_check_that_does_not_hold() -> None:
    body = orjson.loads(readiness(dataclasses.replace(WELL, recovered=False)).body)
    assert body == {
        "status": "failing",
        "checks": {"recovered": False, "broker": True, "leaders": True, "engine": True, "progress": True},
        "lag_events": 3,
        "since_progress_s": 0.25,
    }


def test_a_stall_is_longer_than_any_transaction() -> None:
    assert stalled_after_s(30.0) == STALLED_AFTER_S
    assert stalled_after_s(600.0) == 2400.0


def test_the_limit_is_the_callers() -> None:
    assert liveness(WELL, stalled_after_s=0.1).status == 503
