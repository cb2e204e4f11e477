"""Kafka's classes, loaded and linked ahead of time: a node then starts with half the work (2.2 CPU seconds, not 4.9).

Java 25 writes such a cache when a process that was told so ends. Owns the file, one for each Java and set of jars, and
the run that makes it: `python -m worker.kafka.aot`. A node starts without it as well, and with one that does not fit.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from worker.errors import IntentError
from worker.kafka import jars, java

_OLDEST_JAVA = 25
_WRITE_TIMEOUT_S = 120  # the node that ends starts a second Java, which writes the cache in about 5 s


def options(program: Path) -> list[str]:
    """What to tell this Java so that it uses its cache; nothing when there is none."""
    cache = _file(program)
    # Java warns of each small thing in the cache that it then does without.
    return [f"-XX:AOTCache={cache}", "-Xlog:aot*=error"] if cache.exists() else []


def make() -> None:
    """Makes the cache if this Java can and it is missing: about 15 s, once."""
    from worker.kafka.broker import EmbeddedBroker

    program = java.find()
    cache, version = _file(program), java.version(program)
    if cache.exists() or isinstance(version, str) or version < _OLDEST_JAVA:
        return
    Console(stderr=True).print("teaching Java to start Apache Kafka quickly (about 15 s, first time only)")
    part = cache.with_suffix(".part")
    with tempfile.TemporaryDirectory() as folder:
        broker = EmbeddedBroker(Path(folder), java_options=[f"-XX:AOTCacheOutput={part}"])
        broker.start()
        broker.stop(timeout_s=_WRITE_TIMEOUT_S)
    if part.exists():
        part.replace(cache)


def _file(program: Path) -> Path:
    known = f"{program.resolve()} {program.stat().st_mtime_ns} {[jar.sha256 for jar in jars.pinned()]}"
    return (
        jars.repository().parent / f"kafka-{jars.KAFKA_VERSION}-{hashlib.sha256(known.encode()).hexdigest()[:16]}.aot"
    )


if __name__ == "__main__":
    try:
        make()
    except IntentError as error:
        sys.exit(str(error))
