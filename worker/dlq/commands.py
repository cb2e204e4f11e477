"""`intent dlq`: what it takes and how it says what came of it. The work is done next door."""

import base64
import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worker.errors import IntentError, SettingError
from worker.terminal import err, out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.dlq.letters import Letter
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
_Json = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]


@dlq_app.command("list")
def dlq_list(
    *,
    begin: _From = "earliest",
    end: _To = "latest",
    reason: _Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest so many of each partition.")] = 20,
    as_json: _Json = False,
) -> None:
    """List dead letters, and count them by reason.

    Times are those of the records that failed. Keys and values are not shown: `intent dlq show ID` does that.
    """
    from worker.config import load
    from worker.dlq.letters import printable

    counts: Counter[str] = Counter()
    newest: dict[str, list[Letter]] = {}
    with err.status("reading dead letters"):
        for letter in _letters(load(), begin, end, reason):
            counts[letter.reason] += 1
            kept = newest.setdefault(letter.id.partition(":")[0], [])
            kept.append(letter)
            del kept[:-limit]
    shown = sorted((letter for kept in newest.values() for letter in kept), key=lambda letter: letter.time_ms)
    if as_json:
        listed = [
            {
                "id": letter.id,
                "time": letter.time,
                "source": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
                "stage": letter.stage,
                "reason": letter.reason,
                "message": letter.message,
                "value_bytes": len(letter.value or b""),
            }
            for letter in shown
        ]
        typer.echo(json.dumps({"count": counts.total(), "reasons": counts, "letters": listed}))
        return
    if not counts:
        out.print("no dead letters in this range")
        return
    table = Table()
    for column in ("id", "record's time", "reason"):
        table.add_column(column, no_wrap=True)
    table.add_column("message")
    for letter in shown:
        row = (letter.id, letter.time, letter.reason, letter.message)
        table.add_row(*(escape(printable(cell)) for cell in row))
    out.print(table)
    by_reason = ", ".join(
        f"{count:,} {escape(printable(name) or 'without a reason')}" for name, count in counts.most_common()
    )
    out.print(f"{counts.total():,} dead letters: {by_reason}; {len(shown):,} shown", highlight=False)


@dlq_app.command("show")
def dlq_show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="partition:offset, as `intent dlq list` shows it.")],
    *,
    as_json: _Json = False,
) -> None:
    """Show one dead letter whole: why it failed, its key, its headers and its raw bytes.

    This is the user's data. Bytes that are not printable are escaped; with --json key, value and headers are base64.
    """
    from worker.config import load
    from worker.dlq.letters import escaped, printable

    letter = _one(load(), letter_id)
    if as_json:
        document = {
            "id": letter.id,
            "time": letter.time,
            "source": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
            "stage": letter.stage,
            "reason": letter.reason,
            "message": letter.message,
            "key": _base64(letter.key),
            "headers": [[name, _base64(content)] for name, content in letter.headers],
            "value": _base64(letter.value),
        }
        typer.echo(json.dumps(document))
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
        f"value, {len(letter.value or b''):,} bytes": escaped(letter.value),
    }
    for name, content in rows.items():
        table.add_row(escape(printable(name)), escape(printable(content)))
    out.print(table)


@dlq_app.command("redrive")
def dlq_redrive(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Which letters; none: all of the range.")
    ] = None,
    *,
    begin: _From = "earliest",
    end: _To = "latest",
    reason: _Reason = None,
    force: Annotated[bool, typer.Option("--force", help="Send also what would fail again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    as_json: _Json = False,
) -> None:
    """Send dead letters again to the topic and partition they came from, with their key, value and headers.

    A letter that would fail again is skipped and counted, unless --force: one that is still not a valid event, or a
    late one. The letters themselves stay where they are until their retention ends. A repeated redrive does little
    harm: the worker counts an event once while its id is among the user's last 128.
    """
    from worker import clock
    from worker.config import load
    from worker.dlq.redrive import Outcome, Redriver, obstacle

    settings = load()
    outcome = Outcome()
    now_ms = clock.now_ms()

    def chosen() -> "Iterator[Letter]":
        letters = (_one(settings, one) for one in ids) if ids else _letters(settings, begin, end, reason)
        for letter in letters:
            why = obstacle(letter, now_ms=now_ms)
            if why is None or (force and why != "no_source"):
                yield letter
            else:
                outcome.skipped[why] += 1

    with err.status("reading dead letters"):
        if dry_run:
            outcome.sent = sum(1 for _ in chosen())
        else:
            outcome.sent = Redriver(settings.kafka, dead_letters=settings.topics.dead_letters).send(chosen())
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "sent": outcome.sent, "skipped": outcome.skipped}))
        return
    out.print(f"{outcome.sent:,} {'would be sent' if dry_run else 'sent'} again", highlight=False)
    for why, count in outcome.skipped.most_common():
        out.print(f"{count:,} skipped, would fail again: {why}", highlight=False)
    if outcome.skipped and not force:
        out.print("--force sends these too, but not those without a source")


def _letters(settings: "Settings", begin: str, end: str, reasons: list[str] | None) -> "Iterator[Letter]":
    from worker.dlq import letters
    from worker.replay.plan import parse_bound

    chosen = letters.plan(settings, parse_bound(begin, option="--from"), parse_bound(end, option="--to"))
    for letter in letters.read(settings, chosen):
        if not reasons or letter.reason in reasons:
            yield letter


def _one(settings: "Settings", letter_id: str) -> "Letter":
    from worker.dlq import letters
    from worker.replay.plan import Offsets, parse_bound

    bound = parse_bound(letter_id, option="ID")
    if not isinstance(bound, Offsets) or len(bound.of) != 1:
        raise SettingError(f"ID is {letter_id!r}; accepted is partition:offset, as `intent dlq list` shows it")
    ((partition, offset),) = bound.of.items()
    chosen = letters.plan(settings, bound, Offsets({partition: offset + 1}))
    for letter in letters.read(settings, chosen):
        if letter.id == letter_id:
            return letter
    raise IntentError(f"{chosen.topic} holds no dead letter {letter_id}; `intent dlq list` shows those there are")


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()
