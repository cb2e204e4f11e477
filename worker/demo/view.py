"""The live view in the terminal: one screen from one `Snapshot`. Pure; fits 80 columns by 24 lines, grows with more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from worker.demo.board import Act, Latency, Rising, Snapshot

BARS: Final = "▁▂▃▄▅▆▇█"
_FRAME: Final = "grey42"
_NUMBERS_HEIGHT: Final = 8
_LINES_BESIDE: Final = 5  # title, frame of the users, dead letters, footer

_VERBS: Final = {
    "page_view": "page",
    "view_item_list": "list",
    "select_item": "clicks",
    "view_item": "views",
    "add_to_cart": "adds to cart",
    "remove_from_cart": "removes",
    "view_cart": "cart",
    "begin_checkout": "checkout",
    "add_payment_info": "payment",
    "review_order": "review",
    "purchase": "BUYS",
    "search": "searches",
    "select_promotion": "promotion",
    "login": "login",
    "sign_up": "signs up",
    "click": "click",
}
_TELLING: Final = frozenset({"adds to cart", "checkout", "payment", "review", "BUYS"})
"""The acts that stand out in the view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that one screen shows."""

    title: str
    clock: str
    snapshot: Snapshot
    lag: int
    fates: Mapping[str, int]
    note: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Takes the terminal's size as it is now."""
        height = options.height or console.height
        yield _screen(self, width=options.max_width, height=height)


def users_that_fit(height: int) -> int:
    """How many rising users a terminal of so many lines has room for, two lines each."""
    return max(1, (height - _NUMBERS_HEIGHT - _LINES_BESIDE) // 2)


def spark(values: Sequence[float], width: int) -> str:
    """The last `width` values as bars, scaled to the largest."""
    shown = list(values)[-width:]
    top = max(shown, default=0.0) or 1.0
    return "".join(BARS[min(int(max(value, 0.0) / top * len(BARS)), len(BARS) - 1)] for value in shown)


def story(acts: Sequence[Act]) -> Text:
    """What a user did, oldest first; the same thing again is counted."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for place, (said, times) in enumerate(_counted(acts)):
        text.append(" › " if place else "", style="grey50")
        verb = said.partition(" $")[0]
        telling = any(verb.startswith(word) for word in _TELLING)
        text.append(said, style="bold yellow" if telling else "")
        text.append(f" x{times}" if times > 1 else "", style="grey50")
    return text


def plain_line(scene: Scene) -> str:
    """The view as one line, for logs."""
    now, shot = scene.snapshot.latency_now, scene.snapshot
    latency = f"p50 {now.p50:.0f} ms, p99 {now.p99:.0f} ms" if now.count else "no scores yet"
    counted = ", ".join(f"{fate} {count:,}" for fate, count in scene.fates.items() if count)
    return (
        f"{scene.clock}  {shot.events_per_s:,.0f} events/s, {shot.scores_per_s:,.0f} scores/s, lag {scene.lag:,}, "
        f"{latency}; {counted or 'nothing scored yet'}" + (f"; {scene.note}" if scene.note else "")
    )


def _screen(scene: Scene, *, width: int, height: int) -> RenderableType:
    title = Table.grid(expand=True)
    title.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    title.add_column(justify="right", no_wrap=True)
    title.add_row(Text.assemble((" intent ", "bold black on yellow"), " ", scene.title), Text(scene.clock + " "))
    return Group(title, _numbers(scene, width), _users(scene, width, height), _dead_letters(scene), _footer(scene))


def _numbers(scene: Scene, width: int) -> Table:
    shot = scene.snapshot
    flow = _grid()
    flow.add_row("events/s", f"{shot.events_per_s:,.0f}")
    flow.add_row("scores/s", f"{shot.scores_per_s:,.0f}")
    flow.add_row("lag", Text(f"{scene.lag:,}", style="red" if scene.lag > max(shot.events_per_s * 5, 100) else ""))
    flow.add_row("events", f"{shot.events:,}")
    flow.add_row("scores", f"{shot.scores:,}")
    bars = spark(shot.history, max(width // 3 - 5, 8))
    fates = _grid()
    for fate, count in scene.fates.items():
        fates.add_row(fate, Text(f"{count:,}", style="" if count else "grey42"))
    three = Table.grid(expand=True)
    for _ in range(3):
        three.add_column(ratio=1)
    three.add_row(
        _panel(Group(flow, Text(bars, style="yellow", no_wrap=True)), "throughput"),
        _panel(_latency(shot.latency_now, shot.latency_all), "event to score"),
        _panel(fates, "fates"),
    )
    return three


def _latency(now: Latency, total: Latency) -> Table:
    table = _grid()
    table.add_row(Text("last seconds", style="grey62"), "")
    table.add_row("  p50", _milliseconds(now, now.p50, "bold"))
    table.add_row("  p99", _milliseconds(now, now.p99, "bold"))
    table.add_row(Text("from the start", style="grey62"), "")
    table.add_row("  p50", _milliseconds(total, total.p50, ""))
    table.add_row("  p99", _milliseconds(total, total.p99, ""))
    return table


def _milliseconds(latency: Latency, value: float, style: str) -> Text:
    return Text(f"{value:,.0f} ms" if latency.count else "-", style=style)


def _users(scene: Scene, width: int, height: int) -> Panel:
    room = users_that_fit(height)
    lines = [line for rising in scene.snapshot.rising[:room] for line in _user(rising, width - 4)]
    if not lines:
        lines = [Text("nobody yet: a user needs two scores", style="grey62")]
    lines += [Text()] * (2 * room - len(lines))
    return _panel(Group(*lines), "intent rises: will buy within 24 hours, why, and what they just did", height=None)


def _user(rising: Rising, width: int) -> tuple[Text, Text]:
    first = Text(no_wrap=True, overflow="ellipsis")
    first.append(f"{rising.user[:20]:<14} ", style="bold")
    first.append(f"{min(rising.scores):>4.0%} → ")
    first.append(f"{rising.scores[-1]:>4.0%} ", style="bold green")
    first.append(f"{spark(rising.scores, 14):<14} ", style="green")
    first.append(", ".join(reason.replace("_", " ") for reason in rising.reasons), style="cyan")
    first.truncate(width, overflow="ellipsis")
    second = Text("  ", no_wrap=True)
    second.append(_fitting(rising.acts, width - 2))
    return first, second


def _fitting(acts: Sequence[Act], width: int) -> Text:
    """The newest acts matter most: the oldest give way."""
    for start in range(len(acts)):
        text = story(acts[start:])
        if text.cell_len <= width:
            return text
    text = story(acts[-1:])
    text.truncate(width, overflow="ellipsis")
    return text


def _counted(acts: Sequence[Act]) -> list[tuple[str, int]]:
    said = (f"{_VERBS.get(act.kind, act.kind)} {act.item}".strip() for act in acts)
    return [(words, len(list(same))) for words, same in groupby(said)]


def _dead_letters(scene: Scene) -> Text:
    text = Text(" dead letters  ", style="grey62", no_wrap=True, overflow="ellipsis")
    ordered = sorted(scene.snapshot.dead.items(), key=lambda pair: -pair[1])
    text.append("  ".join(f"{reason} {count:,}" for reason, count in ordered) or "none", style="default")
    return text


def _footer(scene: Scene) -> Text:
    return Text(f" {scene.note}", style="grey62", no_wrap=True, overflow="ellipsis")


def _grid() -> Table:
    table = Table.grid(expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    return table


def _panel(content: RenderableType, title: str, *, height: int | None = _NUMBERS_HEIGHT) -> Panel:
    return Panel(content, title=title, title_align="left", border_style=_FRAME, height=height)
