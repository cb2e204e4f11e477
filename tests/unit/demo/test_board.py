from worker.demo import board
from worker.demo.board import Act, Board

MODEL = {"name": "tiny", "version": "1"}


def scored(
    shown: Board, place: tuple[int, int], *, at_ms: int = 0, now_s: float = 0.0, user: str, chance: float
) -> None:
    shown.score(place, at_ms=at_ms, now_s=now_s, user=user, chance=chance, reasons=["cart_added"], model=MODEL)


def test_latency_pairs_events_and_scores_whichever_is_seen_first() -> None:
    shown = Board()
    shown.event((0, 0), timestamp_ms=1000, user="u", act=Act("page_view"))
    scored(shown, (0, 0), at_ms=1040, user="u", chance=0.1)
    scored(shown, (0, 1), at_ms=1080, user="u", chance=0.1)
    shown.event((0, 1), timestamp_ms=1000, user="u", act=Act("page_view"))
    snapshot = shown.snapshot(1.0, users=0)
    assert (snapshot.events, snapshot.scores, snapshot.model) == (2, 2, MODEL)
    assert (snapshot.latency_all.count, snapshot.latency_all.p50, snapshot.latency_all.p99) == (2, 40, 80)


def test_the_recent_latency_forgets() -> None:
    shown = Board()
    shown.snapshot(10.0, users=0)
    shown.event((0, 0), timestamp_ms=1000, user="u", act=Act("page_view"))
    scored(shown, (0, 0), at_ms=1040, user="u", chance=0.1)
    counts = [shown.snapshot(float(second), users=0).latency_now.count for second in (12, 16, 22, 28)]
    assert counts == [1, 1, 0, 0]
    assert shown.snapshot(30.0, users=0).latency_all.count == 1


def test_rates_are_over_the_last_snapshots() -> None:
    shown = Board()
    for second in range(10):
        for number in range(20):
            shown.event((0, second * 20 + number), timestamp_ms=0, user="u", act=None)
        if second < 9:
            shown.snapshot(float(second), users=0)
    snapshot = shown.snapshot(9.0, users=0)
    assert snapshot.events_per_s == 20
    assert snapshot.scores_per_s == 0
    assert list(snapshot.history) == [20.0] * 6


def test_users_whose_intent_rises_come_first_with_their_last_acts() -> None:
    shown = Board()
    courses = {
        "steady": [0.5, 0.5],
        "falls": [0.6, 0.1],
        "rises": [0.1, 0.2, 0.4],
        "soars": [0.3, 0.1, 0.9],
        "once": [0.9],
    }
    for user, course in courses.items():
        for number, chance in enumerate(course):
            shown.event((0, number), timestamp_ms=0, user=user, act=Act("view_item", f"shoe {number}"))
            scored(shown, (0, number), now_s=100.0, user=user, chance=chance)
    rising = shown.snapshot(101.0, users=5).rising
    assert [one.user for one in rising] == ["soars", "rises"]
    assert rising[0].acts[-1] == Act("view_item", "shoe 2")
    assert rising[0].reasons == ("cart_added",)
    assert [one.user for one in shown.snapshot(101.0, users=1).rising] == ["soars"]
    assert shown.snapshot(200.0, users=5).rising == [], "what happened long ago is no news"


def test_dead_letters_are_counted_by_reason() -> None:
    shown = Board()
    shown.event((0, 0), timestamp_ms=0, user=None, act=None)
    shown.dead((0, 0), "json")
    shown.dead((0, 1), "late")
    assert shown.snapshot(0.0, users=0).dead == {"json": 1, "late": 1}


def test_memory_is_bounded() -> None:
    shown = Board()
    for number in range(board._MAX_USERS + 500):
        shown.event((0, number), timestamp_ms=0, user=f"u{number}", act=Act("page_view"))
    assert len(shown._users) == board._MAX_USERS
