"""`intent dlq`: what it takes and how it says what came of it. The work is done next door."""

import base64
import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worker import options
from worker.errors import IntentError, SettingError
from worker.terminal import err, line, out, printable, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.dlq.letters import Letter
    from worker.replay.plan import Plan
    from worker.settings import Settings

dlq_app = typer.Typer(
    no_args_is_help=True,
    help="Dead letters: events that could not be used, kept as they came with the reason.",
)

_From = Annotated[str, typer.Option("--from", help="Start: earliest, a date, a time with offset, or partition:offset.")]
_To = Annotated[
    str, typer.Option("--to", help="End, exclusive: latest, a date, a time with offset, or partition:offset.")
]
_Reason = Annotated[list[str] | None, typer.Option("--reason", help="Only letters with this reason; may be repeated.")]
_ALL = ("earliest", "latest")


@dlq_app.command("list")
def dlq_list(
    *,
    begin: _From = _ALL[0],
    end: _To = _ALL[1],
    reason: _Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest so many of each partition.")] = 20,
    as_json: options.Json = False,
) -> None:
    """List dead letters, and count them by reason.

    The times listed are those of the records that failed; --from and --to go by when the letters were written. Keys and
    values are not shown: `intent dlq show ID` does that.
    """
    from worker.config import load

    counts: Counter[str] = Counter()
    others: Counter[str] = Counter()
    newest: dict[str, list[tuple[Letter, int]]] = {}  # with the value's length, which is all that is told of it
    with err.status("reading dead letters"):
        settings = load()
        for letter in _letters(settings, _range(settings, begin, end), reason, others):
            counts[letter.reason] += 1
            kept = newest.setdefault(letter.id.partition(":")[0], [])
            kept.append((letter.bare(), len(letter.value or b"")))
            del kept[:-limit]
    shown = sorted((one for kept in newest.values() for one in kept), key=lambda one: one[0].time_ms)
    if as_json:
        listed = [{**_why(letter), "value_bytes": value_bytes} for letter, value_bytes in shown]
        say_json({"count": counts.total(), "reasons": counts, "letters": listed})
        return
    if not counts:
        _none(others)
        return
    table = Table()
    table.add_column("id", no_wrap=True)  # whole on the narrowest terminal: `intent dlq show` asks for it
    for column in ("record's time", "reason", "message"):
        table.add_column(column, overflow="fold")
    for letter, _ in shown:
        row = (letter.id, letter.time, letter.reason, letter.message)
        table.add_row(*(escape(printable(cell)) for cell in row))
    out.print(table)
    line(f"{counts.total():,} dead letters: {_counts(counts)}; {len(shown):,} shown")


def _none(others: Counter[str]) -> None:
    """Says so, and which letters there are that have another reason than those asked for."""
    there_are = f" with this reason; there are {_counts(others)}" if others else ""
    line(f"no dead letters in this range{there_are}")


def _counts(by_reason: Counter[str]) -> str:
    return ", ".join(f"{count:,} {printable(name) or 'without a reason'}" for name, count in by_reason.most_common())


@dlq_app.command("show")
def dlq_show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="partition:offset, as `intent dlq list` shows it.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Show one dead letter whole: why it failed, its key, its headers and its raw bytes.

    This is the user's data. Bytes that are not printable are escaped; with --json key, value and headers are base64.
    The value is the last line, whole; its bytes: `intent dlq show ID --json | jq -r .value | base64 -d`
    """
    from worker.config import load
    from worker.dlq.letters import escaped

    letter = _one(load(), letter_id)
    if as_json:
        document = {
            **_why(letter),
            "key": _base64(letter.key),
            "headers": [[name, _base64(content)] for name, content in letter.headers],
            "value": _base64(letter.value),
        }
        say_json(document)
        return
    table = Table(show_header=False, title=f"dead letter {letter.id}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "came from": letter.source,
        "record's time": letter.time,
        "failed at": letter.stage,
        "reason": letter.reason,
        "message": letter.message,
        "key": escaped(letter.key),
        **{f"header {name}": escaped(content) for name, content in letter.headers},
    }
    for name, content in rows.items():
        table.add_row(escape(printable(name)), escape(printable(content)))
    out.print(table)
    line(f"value, {len(letter.value or b''):,} bytes:")
    line(escaped(letter.value))  # as JSON is copied, and piped on: folded in a cell it is none


@dlq_app.command("redrive")
def dlq_redrive(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Which letters; none: all of the range.")
    ] = None,
    *,
    begin: _From = _ALL[0],
    end: _To = _ALL[1],
    reason: _Reason = None,
    force: Annotated[bool, typer.Option("--force", help="Send also what would fail again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    as_json: options.Json = False,
) -> None:
    """Send dead letters again to the topic and partition they came from, with their key, value and headers.

    A letter that would fail again is skipped and counted, unless --force: one that is still not a valid event, or a
    late one. A letter from another topic than the setting topics.events is never sent, nor one that does not tell where
    it came from. The letters themselves stay where they are until their retention ends. A repeated redrive does little
    harm: the worker counts an event once while its id is among the user's last 128. One that is stopped says with which
    --from to go on.
    """
    from worker import clock
    from worker.config import load
    from worker.dlq.letters import behind
    from worker.dlq.redrive import KEPT, Outcome, Redriver, Unacknowledged, obstacle

    if ids and (reason or (begin, end) != _ALL):
        raise typer.BadParameter("name letters, or choose them by --from, --to and --reason; not both", param_hint="ID")
    settings = load()
    outcome = Outcome()
    others: Counter[str] = Counter()
    now_ms = clock.now_ms()
    with err.status("looking for dead letters"):
        asked = None if ids else _range(settings, begin, end)

    def chosen() -> "Iterator[Letter]":
        # all that are named are there before the first is sent
        named = [_one(settings, one) for one in dict.fromkeys(ids or ())]
        for letter in named if asked is None else _letters(settings, asked, reason, others):
            why = obstacle(letter, topic=settings.topics.events, now_ms=now_ms)
            if why is None or (force and why not in KEPT):
                yield letter
            else:
                outcome.skipped[why] += 1

    with err.status("reading dead letters"):
        if dry_run:
            outcome.sent = sum(1 for _ in chosen())
        else:
            redriver = Redriver(settings.kafka, dead_letters=settings.topics.dead_letters)
            try:
                outcome.sent = redriver.send(chosen())
            except Unacknowledged:  # it went through to the end, and says how many
                raise
            except BaseException:  # a signal's as well: who runs it again wants to know what is done
                if redriver.last:
                    line(f"ended early: {redriver.acknowledged:,} sent again, the last {redriver.last}", to=err)
                    rest = "" if asked is None else behind(asked, redriver.last)
                    if rest and redriver.acknowledged == redriver.sent:
                        line(f"the same command with --from {rest} does the rest", to=err)
                raise
    if as_json:
        say_json({"dry_run": dry_run, "sent": outcome.sent, "skipped": outcome.skipped})
        return
    if not (outcome.sent or outcome.skipped):
        _none(others)
        return
    line(f"{outcome.sent:,} {'would be sent' if dry_run else 'sent'} again")
    for why, count in outcome.skipped.most_common():
        line(f"{count:,} skipped, {'cannot be sent' if why in KEPT else 'would fail again'}: {why}")
    if outcome.skipped.keys() - KEPT and not force:
        line("--force sends also what would fail again")
    if "other_topic" in outcome.skipped:
        topic = settings.topics.events
        line(f"other_topic: not from {topic} (setting topics.events), the only topic to send to")


def _range(settings: "Settings", begin: str, end: str) -> "Plan":
    from worker.dlq import letters
    from worker.replay.plan import parse_bound

    return letters.plan(settings, parse_bound(begin, option="--from"), parse_bound(end, option="--to"))


def _letters(
    settings: "Settings", chosen: "Plan", reasons: list[str] | None, others: Counter[str]
) -> "Iterator[Letter]":
    """Those of the range with one of the reasons; of none, all. `others` counts the rest."""
    from worker.dlq import letters

    for letter in letters.read(settings, chosen):
        if not reasons or letter.reason in reasons:
            yield letter
        else:
            others[letter.reason] += 1


def _one(settings: "Settings", letter_id: str) -> "Letter":
    from worker.dlq import letters
    from worker.replay.plan import OFFSET, Offsets

    if not re.fullmatch(OFFSET, letter_id):
        raise SettingError(f"ID is {letter_id!r}; accepted is partition:offset, as `intent dlq list` shows it")
    partition, offset = map(int, letter_id.split(":"))
    chosen = letters.plan(settings, Offsets({partition: offset}), Offsets({partition: offset + 1}))
    for letter in letters.read(settings, chosen):
        if letter.id == f"{partition}:{offset}":
            return letter
    raise IntentError(f"{chosen.topic} holds no dead letter {letter_id}; `intent dlq list` shows those there are")


def _why(letter: "Letter") -> dict[str, object]:
    """For programs: what carries nothing of the event."""
    return {
        "id": letter.id,
        "time": letter.time,
        "source": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
        "stage": letter.stage,
        "reason": letter.reason,
        "message": letter.message,
    }


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()
