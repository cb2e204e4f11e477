"""The next batch is taken as late as its preparation allows."""

import pytest

from worker.scoring.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def run(pace: Pace, clock: Clock, *, host_s: float, device_s: float, tokens: int, seen: bool = True) -> None:
    """One batch by itself."""
    began_s = clock.s
    clock.s += host_s
    pace.begun(began_s, tokens)
    launched_s = clock.s
    clock.s += device_s
    pace.ended(launched_s, clock.s if seen else None)


def test_it_learns_how_long_a_preparation_and_a_batch_take(pace: Pace, clock: Clock) -> None:
    for _ in range(80):
        run(pace, clock, host_s=0.002, device_s=0.010, tokens=1000)
        run(pace, clock, host_s=0.004, device_s=0.016, tokens=2000)
    pace.begun(clock.s - 0.002, 1000)
    assert pace.spare_s(1000) == pytest.approx(0.008, rel=0.05)
    assert pace.spare_s(2000) == pytest.approx(0.006, rel=0.05)
    clock.s += 0.009
    assert pace.spare_s(1000) == 0.0


def test_nothing_is_waited_for_when_the_device_is_free(pace: Pace, clock: Clock) -> None:
    assert pace.spare_s(1000) == 0.0
    run(pace, clock, host_s=0.002, device_s=0.010, tokens=1000)
    clock.s += 1
    assert pace.spare_s(1000) == 0.0
    pace.begun(clock.s - 0.002, 1000)  # the pause does not count: this one has the device for itself
    assert pace.spare_s(1000) == pytest.approx(0.008)


def test_small_batches_say_nothing_of_large_ones(pace: Pace, clock: Clock) -> None:
    """8 tokens take nearly as long as 1,000; by the token a full batch would be waited for for seconds."""
    for _ in range(200):
        run(pace, clock, host_s=0.001, device_s=0.001, tokens=8)
    pace.begun(clock.s - 0.002, 16_384)
    assert pace.spare_s(8) == 0.0
    assert pace.spare_s(16_384) == 0.0


def test_a_device_that_became_faster_is_soon_expected_to_be(pace: Pace, clock: Clock) -> None:
    for _ in range(20):
        run(pace, clock, host_s=0.001, device_s=0.060, tokens=1000)
    for _ in range(40):
        run(pace, clock, host_s=0.001, device_s=0.004, tokens=1000)
    pace.begun(clock.s - 0.001, 1000)
    assert pace.spare_s(1000) == pytest.approx(0.003, rel=0.2)


def test_a_batch_behind_another_begins_when_that_has_ended(pace: Pace, clock: Clock) -> None:
    run(pace, clock, host_s=0.001, device_s=0.010, tokens=1000)
    for _ in range(2):
        pace.begun(clock.s - 0.001, 1000)
    assert pace.spare_s(1000) == pytest.approx(0.020 - 0.001)


def test_an_end_that_nobody_saw_teaches_nothing(pace: Pace, clock: Clock) -> None:
    run(pace, clock, host_s=0.001, device_s=0.004, tokens=1000)
    for _ in range(40):
        run(pace, clock, host_s=0.001, device_s=9.0, tokens=1000, seen=False)
    pace.begun(clock.s - 0.001, 1000)
    assert pace.spare_s(1000) == pytest.approx(0.003, rel=0.05)


def test_what_is_expected_begins_anew_at_each_end(pace: Pace, clock: Clock) -> None:
    """A batch that ended late delays the one behind it by as much, and no later one."""
    run(pace, clock, host_s=0.001, device_s=0.010, tokens=1000)
    since_s = clock.s
    pace.begun(clock.s, 1000)
    pace.begun(clock.s, 1000)
    clock.s += 0.5
    pace.ended(since_s, clock.s)
    learnt_s = 0.010 + (0.5 - 0.010) / 8
    assert pace.spare_s(1000) == pytest.approx(learnt_s, abs=0.001)
