"""What the measurements of state, recovery, scaling and endurance conclude from what they see. No broker, no speeds."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest import scale, soak, state
from loadtest.fleet import Member
from loadtest.population import Population
from loadtest.recovery import Rebuilt
from loadtest.scale import Seen
from loadtest.soak import Sample
from loadtest.steady import Stream
from worker import config, facts, window
from worker.errors import IntentError, SettingError
from worker.events import decode

CALM = Sample(
    at_s=0, memory_mb=300, handles=100, threads=20, tasks=60, lag_events=500, queued_events=100, done_events=0
)


def window_of(events: int) -> bytes:
    made: bytes | None = None
    for number in range(events):
        body = b'{"event_id":"e%d","user_id":"ann","event_time":%d,"type":"view_item"}' % (number, 10**12 + number)
        made = window.fold(made, facts.of(decode(body, key=b"ann", timestamp_ms=10**12)), rules=window.Rules()).window
    assert made is not None
    return made


PEOPLE = Population([window_of(1), window_of(9)], "a test")


def test_a_population_draws_windows_for_users_that_are_told_apart() -> None:
    users = list(PEOPLE.users(500, seed=1))
    assert len(dict(users)) == 500
    assert {value for _, value in users} == set(PEOPLE.windows)
    assert users == list(PEOPLE.users(500, seed=1))
    assert PEOPLE.mean_events == 5


@pytest.mark.parametrize("name", state.CASES)
def test_every_choice_of_options_holds_the_users(name: str, tmp_path: Path) -> None:
    size = state.measure(name, PEOPLE, tmp_path, users=1000, events=400)
    assert size.disk_bytes > 20
    assert size.event_us > 0


@pytest.mark.parametrize("name", soak.BOUNDS)
def test_what_grows_in_the_second_half_is_found(name: str) -> None:
    calm = [replace(CALM, at_s=second) for second in range(0, 600, 5)]
    assert all(verdict.flat for verdict in soak.judge(calm).values())
    growing = [replace(sample, **{name: getattr(sample, name) + sample.at_s * 20}) for sample in calm]
    assert [found for found, verdict in soak.judge(growing).items() if not verdict.flat] == [name]


def test_growth_of_the_first_half_alone_is_a_warm_up() -> None:
    warming = [replace(CALM, at_s=second, memory_mb=min(second, 300)) for second in range(0, 600, 5)]
    assert soak.judge(warming)["memory_mb"].flat


def test_a_pause_is_the_longest_silence_of_one_partition() -> None:
    came = [(0, 1.0, 0.01), (1, 1.1, 0.02), (0, 1.2, 0.01), (1, 4.1, 3.0), (0, 4.2, 3.0)]
    seen = [Seen(f"e{number}", *one) for number, one in enumerate(came)]
    phase = scale._phase("joined", seen, begin=1, end=5)
    assert phase.pause_ms == 3000
    assert scale._phase("killed", seen, begin=1, end=9).pause_ms == 4900, "silent to the end"
    assert phase.max_ms == 3000
    assert phase.p50_ms == 20


def test_a_stretch_does_not_end_before_each_partition_is_scored_again(tmp_path: Path) -> None:
    """Scores from before do not count, nor do many of some."""
    seen = [Seen("e", partition, 1.0, 0.1) for partition in range(8)]
    coming = iter([0, 1, 2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 0])

    class Working(Member):
        def check(self) -> None:
            seen.append(Seen("e", next(coming), 2.0, 0.1))

    scale._scored_again(Working(config.load({}), tmp_path, name="one"), seen)
    assert list(coming) == [0]


def test_events_that_are_done_at_one_look_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast machine is through with few events before it is asked again."""
    member = Member(config.load({}), tmp_path, name="one")
    monkeypatch.setattr(Member, "metrics", lambda *_: {"intent_events_total": 1000.0})
    monkeypatch.setattr(scale, "_cpu_s", lambda _: 0.5)
    with pytest.raises(IntentError, match="1,000 events were done before they could be timed; give more --events"):
        scale._worked_off([member], 1000)


def test_a_stretch_without_scores_is_told() -> None:
    with pytest.raises(IntentError, match=r"no score came in 2\.0 s \(killed\); give a higher --rate"):
        scale._phase("killed", [Seen("e", 0, 1.0, 0.1)], begin=5, end=7)


def test_a_repeated_score_does_not_stand_in_for_a_missing_one() -> None:
    seen = [Seen(event, 0, 1.0, 0.1) for event in ("e0", "e1", "e1", "e3")]
    assert scale.missing_and_repeated(seen, 4) == (1, 1)


def test_a_soak_of_few_samples_is_refused() -> None:
    with pytest.raises(SettingError, match=r"--every is 5 s, of which --minutes 0\.5 has 6\.0"):
        soak.soak(minutes=0.5, every_s=5.0)


def test_rates_and_counts() -> None:
    assert Rebuilt(1000, 0.5).rate == 2000
    assert Stream(rate=50, seconds=3, users=1, name="x").count == 150
