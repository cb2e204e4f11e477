"""The jars of Apache Kafka: which ones, each with its checksum, and how they reach this machine's cache.

`jars.lock` beside this file pins every jar (Maven coordinate, bytes, SHA-256), as the Python lock does for packages;
jgo fetches them without Maven or Java. Knows nothing of brokers. `python -m worker.kafka.jars` fetches; with `lock` as
its argument it writes the list anew.
"""

import hashlib
import os
import ssl
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from worker.alone import alone
from worker.errors import IntentError

KAFKA_VERSION = "4.3.0"
# Kafka logs through SLF4J and brings Log4j but not the bridge between them: without it a broker says nothing.
_ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")
_LOCK = Path(__file__).with_name("jars.lock")
_FETCHERS = 8
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned jar: `coordinate` is group:artifact:version, `sha256` is hexadecimal."""

    coordinate: str
    size_bytes: int
    sha256: str

    def path(self, repository: Path) -> Path:
        """Its place in a Maven repository folder."""
        group, artifact, version = self.coordinate.split(":")
        return repository.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.jar")

    def stands(self, repository: Path) -> bool:
        """Whether the folder holds exactly the pinned bytes."""
        path = self.path(repository)
        return (
            path.is_file()
            and path.stat().st_size == self.size_bytes
            and hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256
        )


def pinned() -> tuple[Jar, ...]:
    """The jars of the lock file, in its order."""
    rows = (line.split() for line in _LOCK.read_text().splitlines() if not line.startswith("#"))
    return tuple(Jar(coordinate, int(size), sha256) for coordinate, size, sha256 in rows)


def repository() -> Path:
    """The folder that keeps the jars between runs, below the user's cache folder.

    Raises `IntentError` for a user without a home, as a container's may be.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise IntentError(
            "this user has no home folder to keep Apache Kafka's jars in; point XDG_CACHE_HOME to a folder that can be "
            "written"
        ) from None
    return Path(base) / "intent-worker" / "maven"


def classpath() -> str:
    """The Java class path of a broker. Fetches what is missing, 45 MB at first, and checks every jar.

    Blocks for seconds to minutes the first time, then for 0.1 s. Safe to call from several processes at once.
    """
    folder = repository()
    jars = pinned()
    with _only_one(folder):
        missing = [jar for jar in jars if not jar.stands(folder)]
        if missing:
            _fetch(missing, folder)
    return os.pathsep.join(str(jar.path(folder)) for jar in jars)


def _fetch(jars: Sequence[Jar], folder: Path) -> None:
    from jgo.maven import MavenContext, PythonResolver  # 0.3 s to import, and needed only the first time

    console = Console(stderr=True)
    total = sum(jar.size_bytes for jar in jars)
    console.print(f"fetching Apache Kafka {KAFKA_VERSION} ({len(jars)} jars, {total / 1e6:.0f} MB, first time only)")
    bar = Progress(TextColumn("  "), BarColumn(), DownloadColumn(), console=console, disable=not console.is_terminal)

    def fetch(jar: Jar) -> Jar:
        # A resolver of its own: jgo hands its resolver's context from call to call.
        context = MavenContext(resolver=PythonResolver(), repo_cache=folder, timeout=_TIMEOUT_S)
        group, artifact, version = jar.coordinate.split(":")
        jar.path(folder).unlink(missing_ok=True)  # left by an interrupted fetch
        context.project(group, artifact).at_version(version).artifact().resolve()
        if not jar.stands(folder):
            jar.path(folder).unlink()
            raise IntentError(f"{jar.coordinate} came with another checksum than jars.lock pins, and was not kept")
        return jar

    with _system_certificates(), bar, ThreadPoolExecutor(_FETCHERS) as threads:
        task = bar.add_task("", total=total)
        try:
            for jar in threads.map(fetch, jars):
                bar.advance(task, jar.size_bytes)
        except IntentError:
            raise
        except Exception as error:  # jgo raises what requests, urllib3 and its own checks raise
            threads.shutdown(cancel_futures=True)
            raise IntentError(
                f"the jars of Apache Kafka {KAFKA_VERSION} could not be fetched into {folder} "
                f"({type(error).__name__}: {error}); check the network, or HTTPS_PROXY behind a proxy, and try again"
            ) from error


@contextmanager
def _system_certificates() -> Iterator[None]:
    """Trust whom this machine trusts: behind a company's proxy, the authorities that requests brings are not enough."""
    standing = ssl.get_default_verify_paths()
    trusted = next((place for place in (standing.cafile, standing.capath) if place), None)
    named = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} & os.environ.keys()
    if named or trusted is None or (Path(trusted).is_dir() and not any(Path(trusted).iterdir())):
        yield
        return
    os.environ["REQUESTS_CA_BUNDLE"] = trusted
    try:
        yield
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two processes that start at once must not write the same jar."""
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(folder / ".lock"))
        except OSError as error:
            raise IntentError(
                f"the cache folder {folder} cannot be written ({error.strerror}); point XDG_CACHE_HOME to one that can"
            ) from error
        yield


def _write_lock() -> None:
    """Resolves the roots anew and pins what came. Where two roots want the same jar, the earlier root's version stays:
    resolved together, Log4j's own build list would pull Kafka's client back to an older release.
    """
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=repository(), timeout=_TIMEOUT_S)
    lines: dict[tuple[str, str], str] = {}
    for root in _ROOTS:
        direct, transitive = context.resolver.resolve([context.create_dependency(root)])
        for dependency in [*direct, *transitive]:
            name = dependency.groupId, dependency.artifactId
            if dependency.scope in {None, "compile", "runtime"} and name not in lines:
                content = dependency.artifact.resolve().read_bytes()
                coordinate = ":".join([*name, dependency.version])
                lines[name] = f"{coordinate} {len(content)} {hashlib.sha256(content).hexdigest()}"
    header = "# Written by `make lock`: Maven coordinate, bytes, SHA-256."
    _LOCK.write_text("\n".join([header, *sorted(lines.values())]) + "\n")


if __name__ == "__main__":
    try:
        _write_lock() if sys.argv[1:] == ["lock"] else classpath()
    except IntentError as error:
        sys.exit(str(error))
