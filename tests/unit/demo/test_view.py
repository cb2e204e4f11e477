import io

import pytest
from rich.console import Console

from worker.demo.board import Act, Latency, Rising, Snapshot
from worker.demo.play import shown
from worker.demo.view import Scene, plain_line, spark, story, users_that_fit

RISING = Rising(
    user="shopper-12",
    scores=(0.02, 0.05, 0.41),
    acts=(*(Act("view_item", f"Men's-T-Shirts ${number}.99") for number in range(9)), Act("add_to_cart", "Bags")),
    reasons=("cart_added", "item_viewed_again"),
)


def scene(rising: int = 0) -> Scene:
    latency = Latency(count=100, p50=48, p99=131)
    return Scene(
        title="simulated shop, 20x · mode every · tiny 1",
        clock="00:42 / 01:00",
        snapshot=Snapshot(
            events=12_345,
            scores=12_000,
            dead={"late": 12, "json": 3},
            events_per_s=201.4,
            scores_per_s=199.6,
            history=[1.0, 5.0, 9.0] * 30,
            latency_now=latency,
            latency_all=latency,
            rising=[RISING] * rising,
            model={"name": "tiny", "version": "1"},
        ),
        lag=7,
        fates={"scored": 12_000, "coalesced": 0, "duplicate": 9, "late": 12, "erased": 0, "dead": 3},
        note="Ctrl-C ends and checks",
    )


@pytest.mark.parametrize(
    ("terminal", "kind", "live"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_what_cannot_be_drawn_over_gets_lines(terminal: bool, kind: str, live: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": kind})
    with shown(console) as view:
        assert (view is not None) == live


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60), (60, 20)])
@pytest.mark.parametrize("rising", [0, 3, 40])
def test_fits_the_terminal(width: int, height: int, rising: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(scene(rising))
    lines = console.export_text().rstrip("\n").splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_shows_the_numbers_and_the_users_with_their_reasons() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, record=True)
    console.print(scene(2))
    text = console.export_text()
    for told in ("201", "200", "12,345", "131 ms", "late 12", "json 3", "00:42 / 01:00", "Ctrl-C ends and checks"):
        assert told in text, told
    for told in ("shopper-12", "2% →  41%", "cart added, item viewed again", "adds to cart Bags"):
        assert told in text, told


def test_a_taller_terminal_shows_more_users() -> None:
    assert [users_that_fit(height) for height in (10, 24, 40)] == [1, 5, 13]


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0, 0], "▁▁"), ([1, 2, 4, 8], "▂▃▅█"), ([9, 9, 9, 0, 8], "▁█"), ([-1, 1], "▁█")],
    ids=["nothing", "zeros", "scaled", "the last ones", "negative"],
)
def test_sparklines(values: list[float], bars: str) -> None:
    assert spark(values, 2 if len(values) == 5 else 10) == bars


def test_a_story_counts_what_is_done_again() -> None:
    acts = [Act("view_item", "Bags $5.00")] * 3 + [Act("add_to_cart", "Bags $5.00"), Act("wave")]
    assert story(acts).plain == "views Bags $5.00 x3 › adds to cart Bags $5.00 › wave"


def test_one_line_for_logs() -> None:
    line = plain_line(scene())
    assert line.startswith("00:42 / 01:00  201 events/s, 200 scores/s, lag 7, p50 48 ms, p99 131 ms; scored 12,000")
    assert "erased" not in line
    assert "\n" not in line
