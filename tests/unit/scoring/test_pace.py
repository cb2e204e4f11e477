"""The next batch is taken as late as its preparation allows."""

import pytest

from worker.scoring.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def run(pace: Pace, clock: Clock, *, host_s: float, device_s: float, tokens: int) -> None:
    """One batch by itself."""
    began_s = clock.s
    clock.s += host_s
    pace.begun(began_s, tokens)
    launched_s = clock.s
    clock.s += device_s
    pace.finished(launched_s, tokens)


def test_it_learns_how_long_a_preparation_and_a_batch_take() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(80):
        run(pace, clock, host_s=0.002, device_s=0.010, tokens=1000)
    pace.begun(clock.s - 0.002, 1000)
    assert pace.spare_s(1000) == pytest.approx(0.008, rel=0.05)
    assert pace.spare_s(2000) == pytest.approx(0.006, rel=0.05)
    clock.s += 0.009
    assert pace.spare_s(1000) == 0.0


def test_nothing_is_waited_for_when_the_device_is_free() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.spare_s(1000) == 0.0
    run(pace, clock, host_s=0.002, device_s=0.010, tokens=1000)
    clock.s += 1
    assert pace.spare_s(1000) == 0.0
