"""`intent model`: what it says to people and to programs, and with which exit code."""

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import structlog
from typer.testing import CliRunner, Result

from tests.unit.registry.models import NAME, Versions
from tests.unit.scoring import making
from worker.errors import CheckFailed, IntentError, SettingError
from worker.ops import logs
from worker.registry.alias import promoted
from worker.registry.commands import _move, model_app
from worker.registry.source import Source
from worker.registry.store import Store
from worker.scoring import bundle as bundles
from worker.scoring.bundle import Bundle

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """With a store of its own, and as quiet as the program is."""
    logs.quiet()
    monkeypatch.setenv("INTENT_MODEL__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INTENT_MODEL__NAME", NAME)
    monkeypatch.setenv("INTENT_MODEL__CACHE_DIR", str(tmp_path / "cache"))
    yield lambda *arguments: CliRunner().invoke(model_app, [str(argument) for argument in arguments])
    structlog.reset_defaults()


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def aliases(tmp_path: Path) -> dict[str, str]:
    return {name: alias.version for name, alias in Store(str(tmp_path / "store")).aliases(NAME).items()}


def test_a_card_does_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    bundles.save(tmp_path / "made", replace(making.bundle(), card="# mine\n\x1b[2Jgone\n"))
    shown = run("show", tmp_path / "made").output
    assert "# mine\n\\x1b[2Jgone\n" in shown
    assert "\x1b" not in shown


def test_neither_do_names_in_a_folder_or_a_store(run: Run, made: Versions, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.folder / "first", tmp_path / "\x1b]0;mine"))
    safetensors.numpy.save_file({"\x1b[2J": np.zeros(1, np.float32)}, folder / "head.safetensors")
    bundles.seal(folder)
    listed = run("list", tmp_path).output
    assert "tensor \\x1b[2J" in listed.replace("\n", "")
    run("push", made.folder / "first")
    Store(str(tmp_path / "store")).move(NAME, "champion", promoted(None, made.first, at="\x1b[2Jnow"))
    shown = run("show", NAME).output
    assert "\\x1b[2Jnow" in shown
    assert "\x1b" not in listed + shown


def test_from_push_to_rollback(run: Run, made: Versions, tmp_path: Path) -> None:
    assert said(run("list", "--json")) == []
    assert "yet; `intent model push FOLDER` puts one there" in run("list").output
    pushed = said(run("push", made.folder / "first", "--json"))
    assert pushed == {"name": NAME, "version": made.first, "new": True, "challenger": False}
    assert said(run("promote", NAME, made.first, "--json"))["before"] is None
    assert said(run("push", made.folder / "second", "--challenger", "--json"))["challenger"] is True
    assert aliases(tmp_path) == {"champion": made.first, "challenger": made.second}
    assert run("verify").exit_code == 0
    promoted = said(run("promote", "--json"))
    assert promoted == {
        "name": NAME,
        "alias": "champion",
        "before": made.first,
        "version": made.second,
        "moved": True,
        "comparison": [],
    }
    listed = {entry["version"]: entry["aliases"] for entry in said(run("list", "--json"))}
    assert listed == {made.first: [], made.second: ["challenger", "champion"]}
    shown = said(run("show", "--json"))
    assert [move["version"] for move in shown["aliases"]["champion"]["moves"]] == [made.first, made.second]
    assert (shown["version"], shown["card"]) == (made.second, "# test\n")
    back = said(run("rollback", "--json"))
    assert (back["before"], back["version"]) == (made.second, made.first)
    assert aliases(tmp_path)["champion"] == made.first
    assert said(run("retire", "--json"))["version"] is None
    assert aliases(tmp_path).keys() == {"champion"}
    for command in ("list", "show"):
        text = run(command).stdout
        assert made.first in text
        assert "champion" in text


def test_there_is_a_challenger_to_retire_or_a_sentence_on_every_store(run: Run, filled: Store) -> None:
    result = run("retire", "--store", filled.url)
    assert isinstance(result.exception, SettingError)
    assert str(result.exception) == f"the model {NAME} in {filled.url} has no alias challenger; nothing was changed"


def test_of_a_model_that_is_not_there_no_challenger_is_retired(run: Run, store: Store) -> None:
    result = run("retire", "--store", store.url)
    assert isinstance(result.exception, SettingError)
    assert str(result.exception) == f"{store.url} holds no model {NAME}, nor any other; nothing was changed"


def test_events_to_compare_on_that_are_not_there_are_wrong_usage(run: Run, filled: Store) -> None:
    result = run("promote", NAME, "--data", "/nowhere", "--store", filled.url)
    assert (result.exit_code, "'/nowhere' does not exist" in result.output) == (2, True)


def test_a_model_that_is_not_there_lacks_no_version(run: Run, filled: Store) -> None:
    """A version given in a name's place: to name one, or push one, would not help."""
    result = run("promote", "68c373a72826", "--store", filled.url)
    assert isinstance(result.exception, SettingError)
    assert f"holds no model 68c373a72826, only {NAME}" in str(result.exception)


def test_a_model_that_nobody_has_promoted_is_said_to_be_so(run: Run, filled: Store) -> None:
    result = run("show", NAME, "--store", filled.url)
    assert isinstance(result.exception, SettingError)
    assert str(result.exception).endswith("has no alias champion; `intent model list` shows what there is")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        pytest.param(["verify", f"{NAME}:champion"], CheckFailed, id="verify"),
        pytest.param(["promote", NAME], SettingError, id="promote"),
        pytest.param(["rollback", NAME], SettingError, id="rollback"),
    ],
)
def test_the_store_is_looked_at_and_not_what_this_machine_has_kept(
    run: Run, filled: Store, made: Versions, tmp_path: Path, command: list[str], error: type[Exception]
) -> None:
    """Each would come upon the first version: as the champion, the challenger, or what was promoted before."""
    at = {
        "verify": {"champion": [made.first]},
        "promote": {"champion": [made.second], "challenger": [made.first]},
        "rollback": {"champion": [made.first, made.second]},
    }[command[0]]
    for alias, versions in at.items():
        value = None
        for version in versions:
            value = promoted(value, version, at="")
        assert value is not None
        filled.move(NAME, alias, value)
    for version in (made.first, made.second):
        Source(filled, NAME, cache=tmp_path / "cache").load(version)
    filled._put(filled._path(NAME, made.first, "card.md"), b"scribbled")
    result = run(*command, "--store", filled.url)
    assert isinstance(result.exception, error)
    assert "card.md does not match" in str(result.exception)
    assert {alias: value.version for alias, value in filled.aliases(NAME).items()} == {
        alias: versions[-1] for alias, versions in at.items()
    }
    assert run("push", made.folder / "first", "--store", filled.url).exit_code == 0
    assert run(*command, "--store", filled.url).exit_code == 0


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_what_somebody_else_does_meanwhile_is_not_undone_unseen(
    run: Run, made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Loading and comparing take from seconds to minutes: what was compared with is the champion no more."""
    for folder in ("first", "second"):
        run("push", made.folder / folder, "--challenger")
        run("promote")
    run("push", made.folder / "first", "--challenger")
    store, load = Store(str(tmp_path / "store")), Source.load

    def meanwhile(source: Source, version: str) -> Bundle:
        store.move(NAME, "champion", promoted(store.alias(NAME, "champion"), "0" * 12, at=""))
        return load(source, version)

    monkeypatch.setattr(Source, "load", meanwhile)
    result = run(command)
    assert isinstance(result.exception, IntentError)
    assert str(result.exception).startswith(f"champion of {NAME} was moved meanwhile")
    assert aliases(tmp_path)["champion"] == "0" * 12


def test_of_two_moves_at_the_same_moment_one_is_refused(
    run: Run, made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("first", "second"):
        run("push", made.folder / folder)
    store, alias, both = Store(str(tmp_path / "store")), Store.alias, threading.Barrier(2)

    def seen(*arguments: Any) -> Any:
        found = alias(*arguments)
        with suppress(threading.BrokenBarrierError):  # nobody comes who waits for the other's end
            both.wait(timeout=0.5)
        return found

    def moved(version: str) -> bool:
        try:
            _move(store, NAME, "champion", None, promoted(None, version, at=""))
        except IntentError:
            return False
        return True

    monkeypatch.setattr(Store, "alias", seen)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(moved, (made.first, made.second))) == [False, True]


@pytest.mark.parametrize("option", ["--since", "--until", "--map"])
def test_what_says_how_to_compare_on_events_needs_events(run: Run, made: Versions, tmp_path: Path, option: str) -> None:
    run("push", made.folder / "first", "--challenger")
    result = run("promote", NAME, option, "2016-09-24")
    assert result.exit_code == 2
    assert "it needs --data" in result.output
    assert aliases(tmp_path).keys() == {"challenger"}


def test_events_that_there_is_nothing_to_compare_on_are_told(run: Run, made: Versions, tmp_path: Path) -> None:
    run("push", made.folder / "first")
    result = run("promote", NAME, made.first, "--data", tmp_path)
    assert result.exit_code == 0
    assert f"{made.first} was not compared: there is no other champion" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["list", "--store", ""], id="the store of a list"),
        pytest.param(["show", "--store", ""], id="the store of a model"),
        pytest.param(["push", "FOLDER", "--store", ""], id="the store of a push"),
        pytest.param(["promote", NAME, "VERSION", "--alias", ""], id="the alias of a promotion"),
        pytest.param(["rollback", "--alias", ""], id="the alias of a rollback"),
        pytest.param(["rollback", ""], id="the name"),
        pytest.param(["retire", ""], id="the name of what is retired"),
    ],
)
def test_what_is_given_and_empty_is_not_taken_for_the_setting(
    run: Run, made: Versions, tmp_path: Path, arguments: list[str]
) -> None:
    """As a script's unset variable is: it would have moved the champion."""
    for version in ("first", "second"):
        run("push", made.folder / version, "--challenger")
        run("promote")
    before = aliases(tmp_path)
    given = {"FOLDER": str(made.folder / "first"), "VERSION": made.first}
    result = run(*(given.get(argument, argument) for argument in arguments))
    assert isinstance(result.exception, SettingError), result.output
    assert "''" in str(result.exception)
    assert aliases(tmp_path) == before


@pytest.mark.parametrize("url", ["nope://x", "a::b"])
def test_a_store_that_is_none_is_not_laid_to_the_setting(run: Run, url: str) -> None:
    said = str(run("list", "--store", url).exception)
    assert said.startswith(f"--store or the setting `model.store` is '{url}'")


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "damaged"])
def test_a_champion_that_cannot_be_read_holds_its_successor_up_without_force(
    run: Run, made: Versions, tmp_path: Path, gone: bool
) -> None:
    run("push", made.folder / "first")
    run("push", made.folder / "second")
    run("promote", NAME, made.first)
    former = tmp_path / "store" / NAME / made.first
    if gone:
        shutil.rmtree(former)
    else:
        (former / "card.md").write_text("scribbled")
    result = run("promote", NAME, made.second)
    assert isinstance(result.exception, SettingError)
    assert str(result.exception).startswith(
        f"{made.second} cannot be compared with {made.first}, which champion names: "
    )
    assert str(result.exception).endswith("; --force promotes it all the same")
    assert aliases(tmp_path) == {"champion": made.first}
    result = run("promote", NAME, made.second, "--force", "--json")
    assert said(result)["moved"] is True
    assert f"{made.second} was not compared with {made.first}: " in result.stderr
    assert aliases(tmp_path) == {"champion": made.second}


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_bundle_is_a_folder_or_a_place_in_the_store(run: Run, made: Versions, command: str) -> None:
    run("push", made.folder / "second", "--challenger")
    cases = {
        str(made.folder / "first"): made.first,
        f"{NAME}:{made.second}": made.second,
        f"{NAME}:challenger": made.second,
        ":challenger": made.second,
    }
    for which, version in cases.items():
        assert said(run(command, which, "--json"))["version"] == version


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["promote"], "which version", id="no challenger"),
        pytest.param(["promote", NAME, "0" * 12], "is not in", id="unknown version"),
        pytest.param(["promote", "../x", "0" * 12], "is no model name", id="up"),
        pytest.param(["promote", NAME, "0" * 12, "--alias", "../x"], "is no alias", id="an alias that leads up"),
        pytest.param(["rollback"], "holds no model", id="nothing to roll back"),
        pytest.param(["show"], "holds no model", id="nothing to show"),
        pytest.param(["push", "nowhere"], "is not a folder", id="no bundle"),
        pytest.param(["list", "--store", "nowhere://x"], "no folder or URL", id="no store"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_bad_usage(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, SettingError)  # the program makes 2 of it
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)


def test_what_looks_like_marks_is_said_as_it_is(
    run: Run, made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INTENT_MODEL__STORE")
    monkeypatch.delenv("INTENT_MODEL__NAME")
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(made.folder / "first", Path("[") / "red]"))
    assert f"in {folder}:" in run("verify", folder).stdout
    assert f"no bundles in {folder / 'bert'}:" in run("list", folder / "bert").stdout
    store = Path("[") / "blue]"
    assert f"is now in {store}" in run("push", folder, "--store", store).stdout
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"name": "[/x]"}))
    bundles.seal(folder)
    assert "'[/x]'" in "".join(run("list", folder.parent).stdout.split())
    assert f"models in {store}" in run("list", "--store", store).stdout


def test_a_list_tells_of_an_alias_whose_version_is_gone(run: Run, made: Versions, tmp_path: Path) -> None:
    run("push", made.folder / "first")
    run("promote", NAME, made.first)
    shutil.rmtree(tmp_path / "store" / NAME / made.first)
    result = run("list")
    assert f"champion of {NAME} names the version {made.first}, which is not in" in result.stderr


def test_going_back_before_the_first_is_refused(run: Run, made: Versions, tmp_path: Path) -> None:
    run("push", made.folder / "first")
    run("promote", NAME, made.first)
    result = run("rollback")
    assert isinstance(result.exception, SettingError)
    assert aliases(tmp_path) == {"champion": made.first}


def test_a_damaged_version_does_not_verify_and_is_not_promoted(run: Run, made: Versions, tmp_path: Path) -> None:
    run("push", made.folder / "first")
    (tmp_path / "store" / NAME / made.first / "card.md").write_text("scribbled")
    result = run("verify", f"{NAME}:{made.first}", "--json")
    assert isinstance(result.exception, CheckFailed)  # 3
    assert json.loads(result.stdout)["ok"] is False
    assert isinstance(run("promote", NAME, made.first).exception, SettingError)
    assert aliases(tmp_path) == {}


def test_a_bundle_whose_scores_are_no_numbers_gets_nowhere(run: Run, tmp_path: Path) -> None:
    """Its numbers are finite, as a file may hold them; what comes of them is not, and a worker refuses it."""
    broken, folder = making.bundle(name=NAME), tmp_path / "broken"
    for parameter in broken.weights.head.parameters():
        parameter.data.mul_(1e30)
    version = bundles.save(folder, broken)
    result = run("verify", folder, "--json")
    assert isinstance(result.exception, CheckFailed)
    assert json.loads(result.stdout) == {
        "ok": False,
        "error": f"model {NAME} {version} gives scores that are not numbers",
    }
    assert isinstance(run("push", folder).exception, SettingError)
    shutil.copytree(folder, tmp_path / "store" / NAME / version)  # by somebody else's hand
    assert isinstance(run("promote", NAME, version).exception, SettingError)
    assert aliases(tmp_path) == {}


def carrying(bundle: Path, folder: Path, metrics: bytes) -> str:
    """A copy of the bundle with its numbers; the version."""
    shutil.copytree(bundle, folder)
    (folder / bundles.METRICS).write_bytes(metrics)
    return bundles.seal(folder)


def numbers(value: float, *, which: str = "test", **of: int) -> bytes:
    """What `intent evaluate --attach` would write."""
    estimate = {"value": value, "low": value - 0.01, "high": value + 0.01}
    line = {"horizon": "24h", "population": "every instant", **of, "metrics": {"ap": estimate, "auc": estimate}}
    return json.dumps({"slice": which, "lines": [line]}).encode()


@pytest.mark.parametrize(
    ("second", "force", "moved", "rows"),
    [
        pytest.param(numbers(0.52), [], True, 2, id="better"),
        pytest.param(numbers(0.485), [], True, 2, id="worse within the interval"),
        pytest.param(numbers(0.45), [], False, 2, id="worse"),
        pytest.param(numbers(0.45), ["--force"], True, 2, id="worse and forced"),
        pytest.param(numbers(0.45, which="validation"), [], True, 0, id="another slice"),
        pytest.param(numbers(0.45, instants=7), [], True, 0, id="the same slice of other instants"),
        pytest.param(numbers(0.45, visitors=3), [], True, 0, id="the same slice of other visitors"),
    ],
)
def test_two_that_carry_their_numbers_are_compared(
    run: Run,
    made: Versions,
    tmp_path: Path,
    second: bytes,
    force: list[str],
    moved: bool,
    rows: int,
) -> None:
    now = carrying(made.folder / "first", tmp_path / "first", numbers(0.5))
    after = carrying(made.folder / "second", tmp_path / "second", second)
    run("push", tmp_path / "first")
    run("push", tmp_path / "second", "--challenger")
    run("promote", NAME, now)
    result = run("promote", "--json", *force)
    document = json.loads(result.stdout)
    assert len(document["comparison"]) == rows
    assert document["moved"] is moved
    assert aliases(tmp_path)["champion"] == (after if moved else now)
    assert isinstance(result.exception, CheckFailed) is not moved
    assert ("was not compared" in result.stderr) is (rows == 0)
    if not moved:
        assert "every instant" in run("promote").stdout


@pytest.mark.parametrize("content", [b"{}", b"[" * 100_000], ids=["none", "deep"])
def test_numbers_that_cannot_be_read_are_a_sentence(content: bytes) -> None:
    from worker.registry.compare import compare

    with pytest.raises(SettingError, match=r"metrics\.json"):
        compare(("a", {"metrics.json": content}), ("b", {"metrics.json": numbers(0.5)}))


def paired(difference: float, *, against: str = "a") -> bytes:
    """What `intent train --from` writes beside a bundle."""
    estimate = {"value": difference, "low": difference - 0.01, "high": difference + 0.01}
    line = {
        "horizon": "24 h",
        "population": "every instant",
        "before": {"ap": 0.5, "auc": 0.9},
        "after": {"ap": 0.5 + difference, "auc": 0.9 + difference},
        "differences": {"ap": estimate, "auc": estimate},
    }
    return json.dumps({"slice": "judges", "against": against, "lines": [line]}).encode()


@pytest.mark.parametrize(
    ("former", "newer", "worse"),
    [
        pytest.param({}, paired(0.02), [False, False], id="better"),
        pytest.param({}, paired(-0.005), [False, False], id="worse within the interval"),
        pytest.param({}, paired(-0.02), [True, True], id="worse"),
        pytest.param(
            {"metrics.json": numbers(0.9)}, paired(-0.005), [False, False], id="its own intervals play no part"
        ),
        pytest.param({}, paired(math.nan), [True, True], id="not a number"),
        pytest.param({"metrics.json": numbers(0.5)}, numbers(math.nan), [True, True], id="not a number by itself"),
        pytest.param({"metrics.json": numbers(math.nan)}, numbers(math.nan), [False, False], id="nobody bought"),
        pytest.param({"metrics.json": numbers(0.9)}, paired(-0.02, against="c"), [], id="paired with another"),
        pytest.param({"metrics.json": paired(0.1, against="c")}, numbers(0.5), [], id="the former is paired"),
    ],
)
def test_a_successor_is_judged_by_its_paired_differences(
    former: dict[str, bytes], newer: bytes, worse: list[bool]
) -> None:
    from worker.registry.compare import compare

    rows = compare(("a", former), ("b", {"metrics.json": newer}))
    assert [row.worse for row in rows] == worse


def test_the_paired_differences_that_a_bundle_carries_hold_its_promotion_up(
    run: Run, made: Versions, tmp_path: Path
) -> None:
    """Through the store and its files, nothing replaced."""
    run("push", made.folder / "first")
    run("promote", NAME, made.first)
    carried = json.loads(paired(-0.02, against=made.first))
    version = bundles.save(tmp_path / "worse", replace(bundles.load(made.folder / "second"), metrics=carried))
    run("push", tmp_path / "worse", "--challenger")
    result = run("promote")
    assert isinstance(result.exception, CheckFailed)
    assert "-0.020 (-0.030 to -0.010)" in result.stdout
    assert aliases(tmp_path) == {"champion": made.first, "challenger": version}


def test_without_a_store_the_shipped_bundle_is_what_there_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTENT_MODEL__STORE")
    monkeypatch.delenv("INTENT_MODEL__NAME")
    (entry,) = said(run("list", "--json"))
    assert (entry["name"], entry["state"]) == (bundles.SHIPPED.name, "intact")
    assert said(run("verify", "--json"))["version"] == entry["version"]
    assert isinstance(run("push", bundles.SHIPPED).exception, SettingError)
