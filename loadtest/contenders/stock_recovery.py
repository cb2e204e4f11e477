"""Faust as it comes, recovering a table from its changelog: no class of its own is replaced.

`python -m loadtest.contenders.stock_recovery SERVERS APPLICATION PARTITIONS FOLDER` prints, once it has recovered, the
records that its table holds and the seconds that Faust's own recovery took, and ends.
"""

import os
import sys
from pathlib import Path
from typing import Any

import faust


def application(servers: str, name: str, *, partitions: int, folder: Path) -> faust.App:
    """An app with one table of raw bytes, in RocksDB, and the topic that its agent reads."""
    app = faust.App(
        name,
        broker=f"kafka://{servers}",
        store="rocksdb://",
        key_serializer="raw",
        value_serializer="raw",
        datadir=folder,
        topic_partitions=partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        autodiscover=False,
        web_enabled=False,
    )
    table: Any = app.Table(
        "windows",
        partitions=partitions,
        key_type=bytes,
        value_type=bytes,
        options={"driver": "rocksdict"},
    )
    events = app.topic(f"{name}-events", key_type=bytes, value_type=bytes)

    @app.agent(events)
    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    async def report() -> None:
        recovery: Any = app.tables.recovery  # type: ignore[attr-defined]  # in the class, not in its interface
        await recovery.completed.wait()
        seconds = recovery._recovery_ended_at - recovery._recovery_started_at  # noqa: SLF001 - it tells nobody else
        print(f"\n{len(table.data)} {seconds}", flush=True)  # Faust leaves its spinner on the line before
        os._exit(0)

    app.task(report)
    return app


if __name__ == "__main__":
    where, name, count, datadir = sys.argv[1:5]
    made = application(where, name, partitions=int(count), folder=Path(datadir))
    faust.Worker(made, loglevel="error", quiet=True, redirect_stdouts=False).execute_from_commandline()
