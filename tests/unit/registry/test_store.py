"""A store shows whole versions and whole aliases or none, wherever a writer is cut off, and lets nobody out of it."""

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from tests.unit.registry.models import AT, NAME, Versions
from tests.unit.registry.sftp import Sftp
from worker.errors import IntentError, SettingError
from worker.registry.alias import promoted, rolled_back
from worker.registry.source import Source, push
from worker.registry.store import LAST, Store
from worker.scoring import bundle as bundles


class Killed(BaseException):
    """The process ends here."""


def test_the_last_file_of_a_version_is_its_checksums() -> None:
    assert LAST == bundles.CHECKSUMS


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.names() == store.versions(NAME) == []
    assert store.aliases(NAME) == {}
    assert store.alias(NAME, "champion") is None


def test_what_was_pushed_is_there_once(store: Store, made: Versions) -> None:
    loaded, new = push(store, made.folder / "first")
    assert (loaded.version, new) == (made.first, True)
    assert push(store, made.folder / "first")[1] is False
    push(store, made.folder / "second")
    assert store.names() == [NAME]
    store.move(NAME, "champion", promoted(None, made.first, at=AT))
    assert store.versions(NAME) == sorted([made.first, made.second])  # what lies beside them is none
    for file in (*bundles.FILES, bundles.CHECKSUMS):
        into = io.BytesIO()
        store.read(NAME, made.first, file, into, limit=1 << 30)
        assert into.getvalue() == (made.folder / "first" / file).read_bytes()


@pytest.mark.parametrize("survived", range(len(bundles.FILES) + 1))
def test_a_push_that_is_cut_off_shows_nothing_and_the_next_completes_it(
    store: Store, made: Versions, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    put = store._put
    left = iter(range(survived))

    def dying(path: str, content: bytes) -> None:
        if next(left, None) is None:
            raise Killed
        put(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_put", dying)
        with pytest.raises(Killed):
            push(store, made.folder / "first")
    assert store.versions(NAME) == []
    assert push(store, made.folder / "first")[1] is True
    assert store.versions(NAME) == [made.first]


@pytest.mark.parametrize("file", [bundles.CARD, bundles.CHECKSUMS])
@pytest.mark.parametrize("content", [b"", b"scribbled", b"x" * 100_000, None], ids=["empty", "short", "long", "gone"])
def test_pushing_a_damaged_version_again_puts_right_what_is_wrong_and_no_more(
    filled: Store, made: Versions, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes | None
) -> None:
    path = filled._path(NAME, made.first, file)
    if content is None:
        filled._fs.rm(path)
    else:
        filled._put(path, content)
    written: list[str] = []
    put = filled._put

    def noted(path: str, content: bytes) -> None:
        written.append(path)
        put(path, content)

    monkeypatch.setattr(filled, "_put", noted)
    assert push(filled, made.folder / "first")[1] is True
    if content is not None or file != LAST:  # without its checksums a version is not there, and is pushed as a whole
        assert written == [path]
    assert push(filled, made.folder / "first")[1] is False
    assert filled._fs.cat_file(path) == (made.folder / "first" / file).read_bytes()


def test_an_alias_goes_once_whatever_is_in_it(store: Store) -> None:
    assert store.forget(NAME, "challenger") is False
    store._put(store._path(NAME, "aliases", "challenger.json"), b"{")
    assert store.forget(NAME, "challenger") is True
    assert store.forget(NAME, "challenger") is False


STEPS = ("mkdir", "open", "fsync", "replace", "fsync of the folder")


def dying_at(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends as it takes this step of writing a file."""

    def die(*_: object, **__: object) -> object:
        raise Killed

    def late() -> Iterator[bool]:
        yield False
        yield True

    second = late()
    fsync = os.fsync

    def die_second(descriptor: int) -> None:
        if next(second):
            raise Killed
        fsync(descriptor)

    if step.startswith("fsync"):
        monkeypatch.setattr(os, "fsync", die_second if "folder" in step else die)
    else:
        monkeypatch.setattr(Path, step, die)


@pytest.mark.parametrize("step", STEPS)
def test_an_alias_whose_move_is_cut_off_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = Store(str(tmp_path / "store"))
    old = promoted(None, "a" * 12, at=AT)
    new = promoted(old, "b" * 12, at=AT)
    store.move(NAME, "champion", old)
    with monkeypatch.context() as patch:
        dying_at(step, patch)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # the dead tidy up nothing
        with pytest.raises(Killed):
            store.move(NAME, "champion", new)
    assert store.alias(NAME, "champion") == (new if step == STEPS[-1] else old)
    assert store.aliases(NAME).keys() == {"champion"}
    store.move(NAME, "champion", new)
    assert store.alias(NAME, "champion") == new


@pytest.mark.parametrize(("where", "step"), [(MemoryFile, "write"), (Sftp, "mv")])
def test_an_alias_whose_move_over_sftp_fails_is_the_old_one(
    sftp: str, monkeypatch: pytest.MonkeyPatch, where: type, step: str
) -> None:
    """There a file is written in place: whoever reads meanwhile, or after a lost connection, would see half of it."""

    def lost(*_: object) -> object:
        raise ConnectionResetError("by peer")

    store = Store(sftp)
    old = promoted(None, "a" * 12, at=AT)
    store.move(NAME, "champion", old)
    with monkeypatch.context() as patch:
        patch.setattr(where, step, lost)
        with pytest.raises(IntentError, match="by peer"):
            store.move(NAME, "champion", promoted(old, "b" * 12, at=AT))
    assert store.alias(NAME, "champion") == old
    assert [path.rpartition("/")[2] for path in Sftp.store] == ["champion.json"]


def test_a_listing_is_never_an_old_one(store: Store) -> None:
    """Whichever way the protocol's library takes that."""
    assert store._fs.dircache.use_listings_cache is False


def test_an_alias_moves_and_comes_back(filled: Store, made: Versions) -> None:
    alias = None
    for version in (made.first, made.second):
        alias = promoted(alias, version, at=AT)
        filled.move(NAME, "champion", alias)
    source = Source(filled, NAME, cache=Path("unused"))
    assert source.version("champion") == made.second
    assert alias is not None
    filled.move(NAME, "champion", rolled_back(alias, at=AT))
    assert source.version("champion") == made.first
    assert source.version("challenger") is None


@pytest.mark.parametrize(
    ("name", "version", "alias"),
    [
        pytest.param("..", "a" * 12, "champion", id="up"),
        pytest.param("../test", "a" * 12, "champion", id="up and down"),
        pytest.param("/etc", "a" * 12, "champion", id="absolute"),
        pytest.param("test", "../../../etc", "champion", id="up from a version"),
        pytest.param("test", "", "champion", id="no version"),
        pytest.param("test", "A" * 12, "champion", id="no hexadecimal"),
        pytest.param("test", "a" * 12, "../x", id="up from an alias"),
        pytest.param("test", "a" * 12, "champion/x", id="deeper"),
        pytest.param("test", "a" * 12, "Champion", id="upper case"),
        pytest.param("x" * 101, "a" * 12, "champion", id="long"),
        pytest.param("te\nst", "a" * 12, "champion", id="a line"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(store: Store, name: str, version: str, alias: str) -> None:
    def ask() -> None:
        store.has(name, version)
        store.alias(name, alias)

    with pytest.raises(SettingError, match="accepted are") as refused:
        ask()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"{", "cannot be used", id="cut off"),
        pytest.param(
            b'{"moves": [{"version": "../../etc", "at": "", "how": "promote"}], "format": 1}', "no version", id="up"
        ),
        pytest.param(b" " * (1 << 20), "larger than the 65536 bytes", id="huge"),
    ],
)
def test_an_alias_that_was_tampered_with_is_refused(store: Store, content: bytes, says: str) -> None:
    store._put(store._path(NAME, "aliases", "champion.json"), content)
    with pytest.raises(SettingError, match=says) as refused:
        store.alias(NAME, "champion")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("", ", which names no place", id="empty"),
        pytest.param("nowhere://models", ", which is no folder or URL", id="unknown protocol"),
        pytest.param("simplecache::memory://models", ": a chained URL", id="a cache"),
        pytest.param("s3://models", ", which needs a package", id="a library that is not installed"),
    ],
)
def test_a_store_that_cannot_be_used_is_named(url: str, says: str) -> None:
    with pytest.raises(SettingError, match=rf"`model\.store` is '{url}'{says}"):
        Store(url)


@pytest.mark.parametrize("error", [ImportError, ValueError])
def test_what_a_library_says_of_a_store_is_one_line_of_bounded_length(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise error("refused\n" + "by peer " * 1000)

    monkeypatch.setattr(MemoryFileSystem, "__init__", broken)
    with pytest.raises(SettingError, match=rf"{error.__name__}: refused by peer by") as failed:
        Store("memory://models")
    assert "\n" not in str(failed.value)
    assert len(str(failed.value)) < 500


def test_what_the_file_system_raises_is_one_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise ConnectionResetError("by\npeer")

    monkeypatch.setattr(store._fs, "open", broken)
    with pytest.raises(IntentError, match="ConnectionResetError: by peer") as failed:
        store.alias(NAME, "champion")
    assert not isinstance(failed.value, SettingError)


def test_a_store_that_cannot_be_asked_is_not_one_that_lacks_the_version(
    filled: Store, made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an outage would be the model's fault, and take the copy that this machine has kept."""
    source = Source(filled, NAME, cache=tmp_path / "cache")
    source.load(made.first)
    kept = sorted(tmp_path.glob("cache/**/*"))

    def broken(*_: object, **__: object) -> object:
        raise ConnectionResetError("by peer")

    with monkeypatch.context() as patch:
        patch.setattr(type(filled._fs), "info", broken)
        for ask in (filled.has, lambda _, version: source.load(version)):
            with pytest.raises(IntentError, match="ConnectionResetError: by peer") as failed:
                ask(NAME, made.first)
            assert not isinstance(failed.value, SettingError)
    assert sorted(tmp_path.glob("cache/**/*")) == kept
    assert filled.has(NAME, made.first)


def test_a_library_may_have_its_own_class_for_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of SMB does."""

    class Gone(OSError):
        pass

    def missing(*_: object, **__: object) -> object:
        raise Gone(errno.ENOENT, "no such object")

    for name in ("info", "ls", "open"):
        monkeypatch.setattr(MemoryFileSystem, name, missing)
    store = Store("memory://models")
    assert store.names() == []
    assert store.has(NAME, "a" * 12) is False
    assert store.alias(NAME, "champion") is None


def test_a_file_where_a_version_would_be_is_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / ("a" * 12)).write_text("no folder")
    assert store.has(NAME, "a" * 12) is False
    assert store.versions(NAME) == []


def test_a_file_is_no_empty_store(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")
    with pytest.raises(SettingError, match="models', a file; name a folder"):
        Store(str(tmp_path / "models")).names()
