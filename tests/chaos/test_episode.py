"""Which ends of a worker a fault explains."""

import pytest

from tests.chaos.episode import Struck, unexplained
from tests.chaos.plan import Planned
from tests.chaos.workers import Exit

FAULT = Struck(Planned("leader_paused", 1.0, 0), began_s=100.0, ended_s=106.0, did="", broken=None)
STOP = Struck(Planned("worker_stopped", 101.0, 0), began_s=200.0, ended_s=203.0, did="", broken=None)


@pytest.mark.parametrize(
    ("at_s", "code", "due", "beats", "explained"),
    [
        pytest.param(99.0, 1, False, [107.0], False, id="before any fault"),
        pytest.param(99.0, 0, True, [107.0], True, id="stopped"),
        pytest.param(99.0, -9, True, [107.0], True, id="killed"),
        pytest.param(99.0, 1, True, [107.0], False, id="stopped, not in order"),
        pytest.param(103.0, 1, True, [107.0], True, id="stopped while it lasted"),
        pytest.param(202.0, 1, True, [107.0], False, id="stopped alone"),
        pytest.param(103.0, 1, False, [107.0], True, id="while it lasted"),
        pytest.param(118.0, 1, False, [107.0], True, id="while time-outs may still strike"),
        pytest.param(120.0, 1, False, [105.0, 107.0], False, id="long after all was well again"),
        pytest.param(150.0, 1, False, [105.0, 145.0], True, id="slow to heal"),
        pytest.param(900.0, 1, False, [105.0], True, id="never well again"),
        pytest.param(20.0, 1, False, [107.0], True, id="before the first score"),
    ],
)
def test_an_end_is_explained_by_a_fault_until_all_is_well_again(
    at_s: float, code: int, due: bool, beats: list[float], explained: bool
) -> None:
    ends = [Exit(at_s, "worker-0", code, due, "it said so")]
    found = unexplained(ends, [FAULT, STOP], since_s=50.0, beats=beats)
    assert (found == []) is explained
