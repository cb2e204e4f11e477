"""Who is next, how a job is split and when it is answered."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.scoring import making
from worker.scores import Model
from worker.scoring.answer import Scores
from worker.scoring.lanes import Job, Lane, halves

EVENT = making.event(0)
SHORT, LONG = (making.window_of([making.event(number) for number in range(count)]) for count in (1, 9))
"""2 and 10 tokens."""


def lane(*jobs: tuple[Hashable, int, bytes]) -> tuple[Lane, list[Job]]:
    """(caller, windows, window) each."""
    made = Lane(max_tokens=1_000)
    queued = [Job([one] * count, caller) for caller, count, one in jobs]
    for job in queued:
        made.put(job)
    return made, queued


def scored(count: int, first: int = 0, model: str = "1") -> Scores:
    intent = np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], 3, axis=1)
    zeros = np.zeros(count, np.float32)
    codes = np.zeros((count, 3), np.uint8)
    return Scores(intent, zeros, zeros.astype(np.uint8), codes, codes.astype(np.float32), Model("m", model))


def taken(made: Lane, jobs: list[Job], budget: int) -> list[tuple[int, int, int]]:
    return sorted((jobs.index(part.job), part.start, part.end) for part in made.take(budget))


def test_what_fits_goes_together() -> None:
    made, jobs = lane(("a", 3, SHORT), ("b", 2, LONG))
    assert (made.windows, made.tokens) == (5, 26)
    assert taken(made, jobs, 26) == [(0, 0, 3), (1, 0, 2)]
    assert not made
    assert (made.windows, made.tokens) == (0, 0)


def test_a_flood_leaves_the_others_their_share() -> None:
    made, jobs = lane(("flood", 90, LONG), ("flood", 5, LONG), ("b", 4, SHORT), ("c", 3, LONG))
    assert taken(made, jobs, 90) == [(0, 0, 5), (2, 0, 4), (3, 0, 3)]  # what b and c do not need goes to the flood
    assert taken(made, jobs, 90) == [(0, 5, 14)]


def test_callers_that_got_nothing_come_first_in_the_next_batch() -> None:
    made, jobs = lane(*((caller, 2, LONG) for caller in "abc"))
    first, second, third = (made.take(20) for _ in range(3))
    assert [part.job for part in first] == jobs[:2]
    assert [part.job for part in second] == [jobs[2], jobs[0]]
    assert [part.job for part in third] == [jobs[1], jobs[2]]
    assert not made


def test_a_batch_is_shared_by_tokens_however_long_the_windows_are() -> None:
    made, jobs = lane(("a", 9, LONG), ("b", 90, SHORT))
    assert taken(made, jobs, 40) == [(0, 0, 2), (1, 0, 10)]


def test_a_window_that_found_no_place_begins_the_next_batch() -> None:
    made, jobs = lane(("a", 90, SHORT), ("b", 2, LONG))
    assert taken(made, jobs, 8) == [(0, 0, 4)]
    assert taken(made, jobs, 8) == [(1, 0, 1)]


def test_a_window_larger_than_the_budget_goes_alone() -> None:
    made, jobs = lane(("a", 2, LONG), ("b", 1, SHORT))
    assert taken(made, jobs, 5) == [(0, 0, 1)]
    assert taken(made, jobs, 5) == [(1, 0, 1)]
    assert taken(made, jobs, 5) == [(0, 1, 2)]


def test_what_is_no_window_is_left_to_whoever_decodes_it() -> None:
    assert Job([b"", SHORT], "a").tokens == 1 + 2


def test_a_callers_jobs_keep_their_order() -> None:
    made, jobs = lane(("a", 3, LONG), ("a", 1, SHORT))
    assert taken(made, jobs, 25) == [(0, 0, 2)]
    assert taken(made, jobs, 25) == [(0, 2, 3), (1, 0, 1)]


def test_only_what_is_begun() -> None:
    made, jobs = lane(("a", 3, LONG), ("b", 3, LONG))
    made.take(10)
    assert made.begun()
    assert [(part.job, part.start, part.end) for part in made.take(100, only_begun=True)] == [(jobs[0], 1, 3)]
    assert not made.begun()
    assert made.take(100, only_begun=True) == []
    assert taken(made, jobs, 100) == [(1, 0, 3)]


def test_nobody_waits_for_a_cancelled_job() -> None:
    made, jobs = lane(("a", 5, LONG), ("a", 1, SHORT), ("b", 1, LONG))
    made.take(20)
    jobs[0].answer.cancel()
    jobs[2].answer.cancel()
    assert taken(made, jobs, 100) == [(1, 0, 1)]
    assert (made.windows, made.tokens) == (0, 0)


def test_a_lane_is_emptied_of_what_somebody_waits_for() -> None:
    made, jobs = lane(("a", 5, LONG), ("a", 1, SHORT), ("b", 1, LONG))
    made.take(10)
    jobs[1].answer.cancel()
    assert made.drop() == [jobs[2], jobs[0]]  # the caller that got something is behind the other
    assert not made
    assert (made.windows, made.tokens) == (0, 0)
    assert made.take(100) == []


def test_parts_make_one_answer_in_the_windows_order() -> None:
    job = Job([SHORT] * 5, "a")
    job.add(3, scored(2, first=3))
    assert not job.answer.done()
    job.add(0, scored(3))
    assert job.answer.result().intent[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_percentiles_are_parted_and_joined_like_the_scores_they_belong_to() -> None:
    whole = replace(scored(4), intent_percentile=np.arange(12).reshape(4, 3) / 12)
    assert whole.intent_percentile is not None
    again = Scores.joined([whole.part(0, 1), whole.part(1, 4)])
    assert again.intent_percentile is not None
    assert again.intent_percentile.tolist() == whole.intent_percentile.tolist()
    assert Scores.joined([scored(1), scored(2)]).part(0, 2).intent_percentile is None


def test_an_answer_is_of_one_model() -> None:
    job = Job([SHORT] * 2, "a")
    job.add(0, scored(1))
    with pytest.raises(ValueError, match="different models"):
        job.add(1, scored(1, model="2"))


def test_a_failed_part_fails_the_job_once_and_for_all() -> None:
    made, (job,) = lane(("a", 4, LONG))
    made.take(20)
    job.fail(RuntimeError("first"))
    job.fail(RuntimeError("second"))
    job.add(2, scored(2))
    with pytest.raises(RuntimeError, match="first"):
        job.answer.result()
    assert made.take(100) == []


class Raced(Future[Any]):
    """Answered by another thread right after it was asked whether it is."""

    def done(self) -> bool:
        before = super().done()
        if not before:
            super().set_exception(RuntimeError("sooner"))
        return before


@pytest.mark.parametrize("end", [Job.fail, lambda job, _: job.add(0, scored(4))], ids=["failed", "answered"])
def test_of_two_threads_that_end_a_job_one_does(end: Callable[[Job, Exception], None]) -> None:
    """Who closes the engine, and the engine's own thread."""
    job = Job([LONG] * 4, "a")
    job.answer = Raced()
    end(job, RuntimeError("later"))
    job.fail(RuntimeError("last"))
    assert str(job.answer.exception(0)) != "last"


def test_an_empty_lane_takes_any_job_and_a_full_one_none() -> None:
    made = Lane(max_tokens=24)
    assert made.has_room(Job([LONG] * 9, "a"))
    made.put(Job([LONG] * 2, "a"))
    assert made.has_room(Job([SHORT] * 2, "b"))
    assert not made.has_room(Job([SHORT] * 3, "b"))


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        pytest.param([1], [], id="a single window"),
        pytest.param([4], [[(0, 0, 2)], [(0, 2, 4)]], id="one job"),
        pytest.param([1, 1], [[(0, 0, 1)], [(1, 0, 1)]], id="two jobs"),
        pytest.param([1, 5], [[(0, 0, 1), (1, 0, 2)], [(1, 2, 5)]], id="within the second"),
        pytest.param([2, 1], [[(0, 0, 1)], [(0, 1, 2), (1, 0, 1)]], id="within the first"),
    ],
)
def test_halves(counts: list[int], wanted: list[list[tuple[int, int, int]]]) -> None:
    made, jobs = lane(*((str(number), count, LONG) for number, count in enumerate(counts)))
    found = halves(made.take(1_000))
    assert [[(jobs.index(part.job), part.start, part.end) for part in half] for half in found] == wanted


def test_halves_keep_the_order_of_the_batch() -> None:
    made, jobs = lane(("a", 3, LONG), ("b", 1, SHORT))
    first, second = halves(made.take(1_000))
    assert first == [(jobs[0], 0, 1)]
    assert second == [(jobs[0], 1, 3), (jobs[1], 0, 1)]
