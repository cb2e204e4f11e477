"""What is loaded from a store is exactly what its version says, or nothing."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.registry.models import NAME, Versions
from tests.unit.scoring import making
from worker.errors import IntentError, SettingError
from worker.registry.alias import promoted
from worker.registry.source import ABANDONED_S, KEPT, Source, configured, push
from worker.registry.store import Store
from worker.scoring import bundle as bundles
from worker.scoring.batch import Batch
from worker.settings import Model as ModelSettings
from worker.training import habits


@pytest.fixture
def source(filled: Store, tmp_path: Path) -> Source:
    return Source(filled, NAME, cache=tmp_path / "cache")


def put(store: Store, version: str, file: str, content: bytes) -> None:
    store._put(store._path(NAME, version, file), content)


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / NAME
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_version_is_loaded_and_a_remote_one_kept(source: Source, made: Versions, tmp_path: Path) -> None:
    for version in (made.first, made.second, made.first):
        assert source.load(version).version == version
    local = source.store.folder(NAME, made.first) is not None
    assert cached(tmp_path) == ([] if local else sorted([made.first, made.second]))


def test_optional_files_travel_with_a_bundle(store: Store, copy: Path, tmp_path: Path) -> None:
    (copy / bundles.METRICS).write_text('{"slice": "test", "lines": []}')
    version = bundles.seal(copy)
    push(store, copy)
    assert Source(store, NAME, cache=tmp_path / "cache").load(version).metrics == {"slice": "test", "lines": []}


def test_a_remote_version_is_fetched_once(made: Versions, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.load(made.first)
    monkeypatch.setattr(source, "_fetch", lambda *_: pytest.fail("fetched again"))
    assert source.load(made.first).version == made.first


def other_file(store: Store, version: str, _: Path) -> None:
    put(store, version, "head.safetensors", b"another")


def cut_off(store: Store, version: str, folder: Path) -> None:
    put(store, version, "head.safetensors", (folder / "head.safetensors").read_bytes()[:-1])


def file_gone(store: Store, version: str, _: Path) -> None:
    store._fs.rm(store._path(NAME, version, "card.md"))


def huge(store: Store, version: str, _: Path) -> None:
    put(store, version, "card.md", b"x" * 20_000_000)


def other_version(store: Store, version: str, folder: Path) -> None:
    """Sound in itself, under another's name."""
    (folder / "card.md").write_text("# another\n")
    bundles.seal(folder)
    for file in (*bundles.FILES, bundles.CHECKSUMS):
        put(store, version, file, (folder / file).read_bytes())


def without_checksums(store: Store, version: str, _: Path) -> None:
    put(store, version, bundles.CHECKSUMS, b"")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(other_file, r"head\.safetensors does not match", id="wrong checksum"),
        pytest.param(cut_off, r"head\.safetensors does not match", id="cut off"),
        pytest.param(file_gone, r"card\.md (is not there|cannot be read)", id="a file is gone"),
        pytest.param(huge, r"card\.md is larger than", id="too large"),
        pytest.param(other_version, "holds test [0-9a-f]{12}", id="another bundle"),
        pytest.param(without_checksums, "does not name", id="no checksums"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_in_a_sentence_and_nothing_is_kept(
    source: Source,
    made: Versions,
    copy: Path,
    tmp_path: Path,
    spoil: Callable[[Store, str, Path], None],
    says: str,
) -> None:
    spoil(source.store, made.first, copy)
    with pytest.raises(SettingError, match=says) as refused:
        source.load(made.first)
    assert "\n" not in str(refused.value)
    assert cached(tmp_path) == []
    assert source.load(made.second).version == made.second


@pytest.mark.parametrize("version", ["0" * 12, "../first"])
def test_a_version_that_is_not_there_is_refused(source: Source, version: str) -> None:
    with pytest.raises(SettingError, match=r"is not in|is no version"):
        source.load(version)


def test_what_a_worker_would_refuse_is_not_pushed(store: Store, copy: Path) -> None:
    value = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(value | {"format": 99}))
    bundles.seal(copy)
    with pytest.raises(SettingError, match="format 99"):
        push(store, copy)
    assert store.names() == []


def test_a_name_that_leads_out_of_the_store_is_not_pushed(store: Store, copy: Path, tmp_path: Path) -> None:
    value = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(value | {"name": "../out"}))
    bundles.seal(copy)
    with pytest.raises(SettingError, match="is no model name"):
        push(store, copy)
    assert not (tmp_path / "out").exists()


def remote(made: Versions, tmp_path: Path) -> Source:
    """A store elsewhere, as far as the source can see."""
    store = Store(str(tmp_path / "store"))
    push(store, made.folder / "first")
    store.folder = lambda *_: None  # type: ignore[method-assign]  # no folder of this machine
    return Source(store, NAME, cache=tmp_path / "cache")


def test_a_cached_version_that_was_damaged_is_fetched_again(made: Versions, tmp_path: Path) -> None:
    source = remote(made, tmp_path)
    folder = source.folder(made.first)
    (folder / "card.md").write_text("scribbled")
    with pytest.raises(SettingError, match=r"card\.md does not match"):
        source.load(made.first)
    assert source.load(made.first).version == made.first


def test_past_the_cache_a_source_gives_what_the_store_holds_now(
    source: Source, made: Versions, copy: Path, tmp_path: Path
) -> None:
    source.load(made.first)
    kept = cached(tmp_path)
    other_file(source.store, made.first, copy)
    with source.fresh() as there, pytest.raises(SettingError, match=r"head\.safetensors does not match") as refused:
        there.load(made.first)
    assert f"{source.store.url}/{NAME}/{made.first}:" in str(refused.value)  # no folder that is gone by now
    with source.fresh() as there:
        assert there.load(made.second).version == made.second
    assert cached(tmp_path) == kept
    if kept:  # workers go on with the copy that is sound
        assert source.load(made.first).version == made.first


def test_the_cache_keeps_what_was_used_last(made: Versions, copy: Path, tmp_path: Path) -> None:
    source = remote(made, tmp_path)
    versions = [made.first]
    for number in range(KEPT + 1):
        (copy / "card.md").write_text(f"# {number}\n")
        versions.append(bundles.seal(copy))
        push(source.store, copy)
    for used_s, version in enumerate(versions):
        os.utime(source.folder(version), (used_s, used_s))
    assert cached(tmp_path) == sorted(versions[-KEPT:])


def test_a_bundle_of_another_name_is_refused(source: Source, tmp_path: Path) -> None:
    version = bundles.save(tmp_path / "other", making.bundle(name="other"))
    for file in (*bundles.FILES, bundles.CHECKSUMS):
        put(source.store, version, file, (tmp_path / "other" / file).read_bytes())
    with pytest.raises(SettingError, match=f"holds other {version}"):
        source.load(version)


def test_what_another_process_forgets_meanwhile_is_no_error(
    made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = remote(made, tmp_path)
    other = tmp_path / "cache" / NAME / ("0" * 12)
    other.mkdir(parents=True)
    iterdir = Path.iterdir

    def raced(folder: Path) -> list[Path]:
        found = list(iterdir(folder))
        shutil.rmtree(other, ignore_errors=True)
        return found

    monkeypatch.setattr(Path, "iterdir", raced)
    assert source.load(made.first).version == made.first


def test_a_version_that_another_process_forgets_is_fetched_again(
    made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last moment: between seeing it and saying that it was used."""
    source = remote(made, tmp_path)
    folder = source.folder(made.first)
    is_dir = Path.is_dir

    def raced(path: Path) -> bool:
        there = is_dir(path)
        if path == folder:
            monkeypatch.undo()
            shutil.rmtree(folder)
        return there

    monkeypatch.setattr(Path, "is_dir", raced)
    source.folder(made.first)
    assert not folder.is_file()


def test_what_a_killed_process_left_behind_is_removed(made: Versions, tmp_path: Path) -> None:
    source = remote(made, tmp_path)
    folder = tmp_path / "cache" / NAME
    for name, age_s in ((".old", ABANDONED_S + 60), (".new", ABANDONED_S - 60)):
        (folder / name / "bert").mkdir(parents=True)
        os.utime(folder / name, (time.time() - age_s,) * 2)
    source.load(made.first)
    assert cached(tmp_path) == sorted([".new", made.first])


def test_a_cache_that_cannot_be_written_is_not_the_bundles_fault(made: Versions, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(IntentError, match=r"`model\.cache_dir`") as failed:
        remote(made, tmp_path).folder(made.first)
    assert not isinstance(failed.value, SettingError)


def test_a_disk_that_is_full_at_the_last_step_is_not_the_bundles_fault(
    made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = remote(made, tmp_path)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(IntentError, match="No space left") as failed:
        source.load(made.first)
    assert not isinstance(failed.value, SettingError)
    assert cached(tmp_path) == []


def test_the_settings_say_what_scores(filled: Store, made: Versions, tmp_path: Path) -> None:
    filled.move(NAME, "champion", promoted(None, made.second, at=""))
    model = ModelSettings(store=filled.url, name=NAME, cache_dir=tmp_path / "cache")
    source, load = configured(model)
    loaded = load()
    assert source is not None
    assert loaded.version == made.second
    assert configured(ModelSettings(bundle=made.folder / "first"))[1]().version == made.first
    assert configured(ModelSettings())[1]().name == bundles.SHIPPED.name


def test_an_alias_that_is_not_there_is_named(filled: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"has no alias champion \(settings .*`model\.alias`\)"):
        configured(ModelSettings(store=filled.url, name=NAME, cache_dir=tmp_path / "cache"))


def test_another_model_or_store_is_told_from_an_alias_that_is_missing(filled: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=rf"holds no model other, only {NAME} \(settings `model\.store`"):
        configured(ModelSettings(store=filled.url, name="other", cache_dir=tmp_path / "cache"))
    with pytest.raises(SettingError, match=rf"mistyped holds no model {NAME}, nor any other \("):
        configured(ModelSettings(store=str(tmp_path / "mistyped"), name=NAME, cache_dir=tmp_path / "cache"))
    assert not (tmp_path / "mistyped").exists()


def test_several_processes_may_share_a_cache(made: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = remote(made, tmp_path)
    fetch = source._fetch

    def raced(version: str, folder: Path) -> None:
        shutil.copytree(made.folder / "first", folder)  # another one was quicker
        fetch(version, folder)

    monkeypatch.setattr(source, "_fetch", raced)
    assert source.load(made.first).version == made.first
    assert cached(tmp_path) == [made.first]


def test_what_a_bundle_may_lack_travels_with_it(store: Store, copy: Path, tmp_path: Path) -> None:
    batches = [Batch.of(making.random_windows(40, seed=71))]
    version = bundles.save(copy, replace(making.bundle(), habits=habits.learn(batches, batches)))
    push(store, copy)
    loaded = Source(store, NAME, cache=tmp_path / "cache").load(version)
    assert loaded.habits is not None
    assert loaded.version == version
