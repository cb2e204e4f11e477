"""Is this worker alive, and may it be relied on? Pure judgement over a few facts; knows no web server and no clock.

Liveness asks "would a restart help?" and readiness "is it doing its job?". They differ where the trouble is outside:
a broker that cannot be reached makes a worker not ready, but restarting it would only add a recovery to the outage.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NamedTuple

import orjson

STALLED_AFTER_S: Final = 120.0
"""No progress for this long while there is work is a stall, at least: see `stalled_after_s`."""

CONTENT_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known of the worker at one instant. Taking it must not wait for anything.

    `recovered`: its tables are, and what former owners of its partitions left open in the output topics is ended.
    `lag_events` is the work left: source events of the partitions that run. One that is being recovered has none yet;
    if it stands still the watchdog ends the worker. `since_progress_s` is the age of the newest of: a commit, a
    recovered record, the arrival of work when none was left. `led`: each of these partitions has a leader. Without one
    nobody tells of new events, and the lag stays what it was.
    """

    recovered: bool
    engine_alive: bool
    broker_reachable: bool
    led: bool
    lag_events: int
    since_progress_s: float


class Answer(NamedTuple):
    """An HTTP answer: status 200 or 503, and a JSON body that names each check."""

    status: int
    body: bytes


def stalled_after_s(transaction_timeout_s: float) -> float:
    """Four times a transaction's limit: that ends a worker which merely waits for the broker well before."""
    return max(STALLED_AFTER_S, 4 * transaction_timeout_s)


def liveness(state: State, *, stalled_after_s: float = STALLED_AFTER_S) -> Answer:
    """503 only where a restart helps: a dead engine, or work that does not move although the broker is there."""
    return _answer(
        state,
        engine=state.engine_alive,
        progress=not state.broker_reachable or not stalled(state, stalled_after_s),
    )


def readiness(state: State, *, stalled_after_s: float = STALLED_AFTER_S) -> Answer:
    """200 when events that arrive now get scores: recovered, connected, with leaders, engine alive, and moving."""
    return _answer(
        state,
        recovered=state.recovered,
        broker=state.broker_reachable,
        leaders=state.led,
        engine=state.engine_alive,
        progress=not stalled(state, stalled_after_s),
    )


def stalled(state: State, after_s: float) -> bool:
    """Whether work is left and none was done for so long."""
    return state.lag_events > 0 and state.since_progress_s > after_s


def _answer(state: State, **checks: bool) -> Answer:
    holds = all(checks.values())
    body = {
        "status": "ok" if holds else "failing",
        "checks": checks,
        "lag_events": state.lag_events,
        "since_progress_s": round(state.since_progress_s, 3),
    }
    return Answer(HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE, orjson.dumps(body))
