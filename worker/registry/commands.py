"""`intent model`: bundles in folders and in a store, and the aliases that say which of them scores."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markdown import Markdown
from rich.markup import escape

from worker import options
from worker.clock import now_ms
from worker.errors import CheckFailed, IntentError, SettingError
from worker.registry import meant
from worker.terminal import err, folded, line, out, printable, say_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.registry.alias import Alias
    from worker.registry.compare import Row
    from worker.registry.source import Source
    from worker.registry.store import Store
    from worker.scoring.bundle import Bundle
    from worker.shop.source import Source as Recorded


_DRAWS = 200  # resamples of the visitors behind an interval

model_app = typer.Typer(
    help="Models: what is there, whether it is intact, and which version scores.", no_args_is_help=True
)

_Store = Annotated[
    str | None, typer.Option("--store", help="Folder or URL of a model store; default: the setting model.store.")
]
_Which = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        help="A bundle's folder; or, in a store, NAME, NAME:VERSION or NAME:ALIAS. Default: what a worker would load.",
    ),
]
_Name = Annotated[str | None, typer.Argument(help="The model; default: the setting model.name.")]
_Alias = Annotated[str | None, typer.Option("--alias", help="The alias to move; default: the setting model.alias.")]


@model_app.command("list")
def list_models(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of bundles; default: the store, or else those shipped.")
    ] = None,
    *,
    store: _Store = None,
    as_json: options.Json = False,
) -> None:
    """The bundles in a folder, or the versions in a store with the aliases that name them.

    In a folder, a damaged one is said to be so; a store's are looked at by `intent model verify`.
    """
    url = store if store is not None or folder is not None else meant.model_settings().store
    if url is None:
        _list_folder(folder, as_json=as_json)
        return
    if folder is not None:
        raise typer.BadParameter("a folder of bundles and a store are two things; name one", param_hint="folder")
    from worker.registry.store import Store

    opened = Store(url)
    found: list[dict[str, object]] = []
    for name in opened.names():
        aliases, versions = opened.aliases(name), opened.versions(name)
        for alias, value in aliases.items():
            if value.version not in versions:
                line(f"{alias} of {name} names the version {value.version}, which is not in {url}", to=err)
        for version in versions:
            naming = [alias for alias, value in aliases.items() if value.version == version]
            found.append({"name": name, "version": version, "aliases": naming})
    if as_json:
        say_json(found)
        return
    if not found:
        line(f"no models in {url} yet; `intent model push FOLDER` puts one there")
        return
    table = folded("name", "version", "aliases", title=escape(f"models in {url}"))
    for entry in found:
        those = entry["aliases"]
        shown = ", ".join(those) if isinstance(those, list) else ""
        table.add_row(str(entry["name"]), str(entry["version"]), shown)
    out.print(table)


def _list_folder(folder: Path | None, *, as_json: bool) -> None:
    from worker.scoring.bundle import SHIPPED, load

    folder = folder or SHIPPED.parent
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is not a folder", param_hint="folder")
    found: list[dict[str, object]] = []
    for path in sorted(path for path in folder.iterdir() if (path / "config.json").exists()):
        entry: dict[str, object] = {"folder": str(path)}
        try:
            loaded = load(path)
            entry |= {"name": loaded.name, "version": loaded.version, "parameters": _size(loaded), "state": "intact"}
        except IntentError as error:
            entry |= {"name": path.name, "version": None, "parameters": None, "state": str(error)}
        found.append(entry)
    if as_json:
        say_json(found)
        return
    if not found:
        line(f"no bundles in {folder}: `intent train` makes one, in a folder of its own below")
        return
    table = folded("name", "version", "parameters", "folder", "state")
    for entry in found:
        count = entry["parameters"]
        shown = f"{count:,}" if isinstance(count, int) else ""
        cells = (entry["name"], entry["version"] or "", shown, entry["folder"], entry["state"])
        table.add_row(*(escape(printable(str(cell))) for cell in cells))
    out.print(table)


@model_app.command("show")
def show_model(which: _Which = None, *, store: _Store = None, as_json: options.Json = False) -> None:
    """The model card: data, command, numbers with their intervals, limits. In a store, its aliases' moves as well."""
    loaded, where, source = meant.loaded(which, store)
    aliases = {} if source is None else source.store.aliases(source.name)
    if as_json:
        document = {"name": loaded.name, "version": loaded.version, "parameters": _size(loaded), "where": where}
        say_json(
            document | {"aliases": {name: _document(value) for name, value in aliases.items()}, "card": loaded.card}
        )
        return
    line(f"{loaded.name} {loaded.version} in {where}")
    for name, alias in aliases.items():
        table = folded("at", "how", "version", title=f"{name} is {alias.version}")
        for move in reversed(alias.moves):
            table.add_row(escape(printable(move.at)), move.how, move.version)
        out.print(table)
    card = "\n".join(map(printable, loaded.card.split("\n")))
    if out.is_terminal:
        out.print(Markdown(card))
    else:
        typer.echo(card)


@model_app.command("verify")
def verify_model(which: _Which = None, *, store: _Store = None, as_json: options.Json = False) -> None:
    """Check every file against its checksum, and that the model loads and scores. Exit code 3 when it does not hold.

    In a store these are the store's files as they are now, whatever this machine has kept of them.
    """
    from worker.scoring.engine import tried

    try:
        loaded, where, _ = meant.loaded(which, store, fresh=True)
        tried(loaded)
    except SettingError as error:
        if as_json:
            say_json({"ok": False, "error": str(error)})
        raise CheckFailed(str(error)) from None
    if as_json:
        say_json({"ok": True, "name": loaded.name, "version": loaded.version, "where": where})
        return
    line(f"{loaded.name} {loaded.version} in {where}: checksums right, loads, scores")


@model_app.command("push")
def push_model(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder, as `intent train` wrote it.")],
    *,
    challenger: Annotated[bool, typer.Option("--challenger", help="Make it the challenger as well.")] = False,
    store: _Store = None,
    as_json: options.Json = False,
) -> None:
    """Put a bundle into the store, as a version of the model that it says it is. It scores nothing yet.

    One that a worker would refuse is refused here. A version that is there is left as it is, but files of it that are
    gone or damaged are written again; an interrupted push is completed by the next. With --challenger, workers with
    `model.shadow_share` score it in the shadow from now on.

    Example: `intent model push my-bundle --challenger`
    """
    from worker.registry.alias import CHALLENGER, promoted
    from worker.registry.source import push

    opened = meant.opened(store)
    loaded, new = push(opened, bundle)
    if challenger:
        now = opened.alias(loaded.name, CHALLENGER)
        _move(opened, loaded.name, CHALLENGER, now, promoted(now, loaded.version, at=_now()))
    if as_json:
        say_json({"name": loaded.name, "version": loaded.version, "new": new, "challenger": challenger})
        return
    done = "is now in" if new else "was in"
    line(f"{loaded.name} {loaded.version} {done} {opened.url}")
    if challenger:
        line(f"{CHALLENGER} is {loaded.version}")


@model_app.command("promote")
def promote_model(
    name: _Name = None,
    version: Annotated[str | None, typer.Argument(help="The version; default: the challenger's.")] = None,
    *,
    alias: _Alias = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the numbers say that it is worse, or cannot be compared.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, help="Recorded events to compare the two on now, as `intent train` takes them."),
    ] = None,
    mapping: options.Map = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="With --data: labels that became known after this day; neither should have learnt from them."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="The last of them. Default: where the test slice begins.")] = None,
    runs: Annotated[Path, typer.Option(help="Where `intent train` keeps the folded windows.")] = Path("runs"),
    store: _Store = None,
    as_json: options.Json = False,
) -> None:
    """Let a version be the champion: workers that follow the alias load it, verify it, and score with it.

    It is verified here first, from the store's own files. Where both bundles carry numbers of the same instants, they
    are compared, or else on the --data given; one that is worse beyond the interval is not promoted (exit code 3)
    without --force, nor (exit code 2) one whose predecessor is gone or damaged. `intent model rollback` takes it back.

    Examples: `intent model promote shop`; `intent model promote shop 68c373a72826 --alias challenger`;
    `intent model promote shop --data ../shared/data/ga360 --since 2016-09-24 --until 2016-10-01`
    """
    from worker.registry.alias import CHALLENGER, promoted
    from worker.registry.compare import comparison
    from worker.scoring.engine import tried
    from worker.shop.source import opened

    for option, given in {"--map": mapping, "--since": since, "--until": until}.items():
        if given is not None and data is None:
            raise typer.BadParameter("it needs --data, the events to compare on", param_hint=option)
    settings = meant.model_settings()
    source = meant.model(name, store, settings)
    moved = settings.alias if alias is None else alias
    now = source.store.alias(source.name, moved)
    before = None if now is None else now.version
    if version is None:
        version = _challenger(source, unlike=moved)
    rows: list[Row] = []
    with source.fresh() as there:
        loaded = tried(there.load(version))
        if before is not None and before != version and moved != CHALLENGER:
            if data is None:
                way = partial(_carried, there, before, version)
            else:
                recorded = opened(data, mapping)
                way = partial(_measured, there, before, loaded, recorded, since=since, until=until, runs=runs)
            rows = _compared(way, before=before, version=version, alias=moved, force=force)
        elif data is not None:
            line(f"{version} was not compared: there is no other {moved} to compare it with", to=err)
    worse = [row for row in rows if row.worse]
    goes = force or not worse
    if goes:
        _move(source.store, source.name, moved, now, promoted(now, version, at=_now()))
    if as_json:
        document = {"name": source.name, "alias": moved, "before": before, "version": version}
        say_json(document | {"moved": goes, "comparison": [asdict(row) | {"worse": row.worse} for row in rows]})
    elif before is not None and rows:
        out.print(comparison(rows, before=before, after=version))
    if not goes:
        raise CheckFailed(
            f"{version} is worse than {before} in {len(worse)} of {len(rows)} numbers, beyond their intervals; "
            f"{moved} stays (--force moves it)"
        )
    if not as_json:
        line(f"{moved} of {source.name} is {version}, it was {before or 'nothing'}")


@model_app.command("rollback")
def rollback_model(
    name: _Name = None, *, alias: _Alias = None, store: _Store = None, as_json: options.Json = False
) -> None:
    """Let the alias name again what it named before its last promotion. Several in a row go back further.

    That version is verified here first, from the store's own files.
    """
    from worker.registry.alias import rolled_back
    from worker.scoring.engine import tried

    settings = meant.model_settings()
    source = meant.model(name, store, settings)
    moved = settings.alias if alias is None else alias
    now = source.store.alias(source.name, moved)
    if now is None:
        raise SettingError(source.store.lacks(source.name, moved))
    back = rolled_back(now, at=_now())
    with source.fresh() as there:
        tried(there.load(back.version))
    _move(source.store, source.name, moved, now, back)
    if as_json:
        say_json({"name": source.name, "alias": moved, "before": now.version, "version": back.version})
        return
    line(f"{moved} of {source.name} is {back.version} again, it was {now.version}")


@model_app.command("retire")
def retire_model(name: _Name = None, *, store: _Store = None, as_json: options.Json = False) -> None:
    """Let there be no challenger: nothing is scored in the shadow any more. Its version stays in the store.

    Exit code 2 where there is none.
    """
    from worker.registry.alias import CHALLENGER

    opened, model = meant.opened(store), meant.model_name(name)
    if not opened.forget(model, CHALLENGER):
        raise SettingError(f"{opened.lacks(model, CHALLENGER)}; nothing was changed")
    if as_json:
        say_json({"name": model, "alias": CHALLENGER, "version": None})
        return
    line(f"{model} has no {CHALLENGER} any more")


def _challenger(source: "Source", *, unlike: str) -> str:
    """The version that is promoted where none is named; `unlike` is the alias that is to name it."""
    from worker.registry.alias import CHALLENGER

    version = source.version(CHALLENGER)
    if version is None and source.name not in source.store.names():
        raise SettingError(f"which version of {source.name}? {source.store.lacks(source.name, CHALLENGER)}")
    if version is None or unlike == CHALLENGER:
        raise SettingError(f"which version of {source.name}? Name it, or push one with --challenger first")
    return version


def _compared(way: "Callable[[], list[Row]]", *, before: str, version: str, alias: str, force: bool) -> "list[Row]":
    """The version beside the one that the alias names; no rows where that cannot be, which is said, or refused."""
    try:
        rows = way()
    except SettingError as error:
        if not force:
            raise SettingError(
                f"{version} cannot be compared with {before}, which {alias} names: {error}; "
                "--force promotes it all the same"
            ) from None
        line(f"{version} was not compared with {before}: {error}", to=err)
        return []
    if not rows:
        line(
            f"{version} was not compared with {before}: they carry no numbers of the same instants; "
            "--data measures both",
            to=err,
        )
    return rows


def _carried(source: "Source", before: str, after: str) -> "list[Row]":
    """Both by the numbers in their bundles. The former need not load: its numbers outlive its format."""
    from worker.registry.compare import compare
    from worker.scoring.bundle import verify

    former, newer = (verify(source.folder(version)) for version in (before, after))
    return compare(former, newer)


def _measured(
    source: "Source",
    before: str,
    newer: "Bundle",
    recorded: "Recorded",
    *,
    since: str | None,
    until: str | None,
    runs: Path,
) -> "list[Row]":
    """Both on the labels of a slice of recorded events; minutes."""
    from worker.registry.compare import paired
    from worker.training.succession import compared

    former = source.load(before)
    since_ms = options.time_ms(recorded, since, "--since") or recorded.splits.test
    until_ms = options.time_ms(recorded, until, "--until") or recorded.splits.test
    if since_ms >= until_ms:
        raise typer.BadParameter("with --data, name a day before --until", param_hint="--since")
    say = partial(line, to=err)
    return paired(
        compared(former, newer, recorded, since_ms=since_ms, until_ms=until_ms, runs=runs, draws=_DRAWS, say=say)
    )


def _move(store: "Store", name: str, alias: str, now: "Alias | None", after: "Alias") -> None:
    """From what the alias was when the command looked, which may be minutes ago."""
    with store.moving(name):
        if store.alias(name, alias) != now:
            raise IntentError(
                f"{alias} of {name} was moved meanwhile, and stays as it is now; look at it, and try again"
            )
        if after != now:
            store.move(name, alias, after)


def _now() -> str:
    from worker.scores import rfc3339

    return rfc3339(now_ms())


def _size(bundle: "Bundle") -> int:
    kept = bundle.weights
    return sum(tensor.numel() for tensor in (*kept.bert.values(), *kept.head.parameters()))


def _document(alias: "Alias") -> dict[str, object]:
    moves = [{"at": move.at, "how": move.how, "version": move.version} for move in alias.moves]
    return {"version": alias.version, "before": alias.before, "moves": moves}
