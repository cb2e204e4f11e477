"""What is known only later must not be readable: session totals, rows to come. See also `test_training` for labels."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.shop.tables import of_events, write
from tests.unit.shop.test_table import GA4
from worker.shop import ga360
from worker.shop.ga360 import Sample
from worker.shop.table import Table
from worker.training import windows
from worker.training.labels import labels

TOTALS = ("hits", "pageviews", "transactions", "transaction_revenue")
"""Of a session, as the real table has them: known at its end."""


def with_totals(shop: Path, folder: Path, number: int) -> Path:
    folder.mkdir()
    (folder / "hits.parquet").write_bytes((shop / "hits.parquet").read_bytes())
    sessions = pq.read_table(shop / "sessions.parquet")
    for name in TOTALS:
        sessions = sessions.append_column(name, pa.array([number] * len(sessions)))
    pq.write_table(sessions, folder / "sessions.parquet")
    return folder


def test_session_totals_reach_no_window(shop: Path, tmp_path: Path) -> None:
    """Two samples that differ in nothing but their totals give the same bytes."""
    assert not set(TOTALS) & {*ga360.SESSIONS, *ga360.HITS} - {"transaction_revenue"}
    built = []
    for number in (0, 999):
        folder = with_totals(shop, tmp_path / str(number), number)
        events, kept = windows.build(Sample(folder), tmp_path / f"cache{number}")
        built.append((kept.content.tobytes(), labels(events).tobytes()))
    assert built[0] == built[1]


def test_what_a_purchase_brought_reaches_no_window(shop: Path, tmp_path: Path) -> None:
    """A hit's revenue stands in the event for others to read; a window has no place for it."""
    hits = pq.read_table(shop / "hits.parquet")
    place = hits.schema.get_field_index("transaction_revenue")
    kept = []
    for revenue in (1.0, 1e6):
        folder = tmp_path / str(revenue)
        folder.mkdir()
        (folder / "sessions.parquet").write_bytes((shop / "sessions.parquet").read_bytes())
        changed = hits.set_column(place, "transaction_revenue", pa.array([revenue] * len(hits)))
        pq.write_table(changed, folder / "hits.parquet")
        kept.append(windows.build(Sample(folder), folder)[1].content.tobytes())
    assert kept[0] == kept[1]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_rows_to_come_change_no_earlier_event_of_a_table(shop: Path, tmp_path: Path, share: float) -> None:
    """Rows of one event are joined, repeated purchases found, rows sorted: none of it looks ahead."""
    rows = of_events(Sample(shop).events())
    times = np.array([int(str(row["event_timestamp"])) for row in rows])
    cut = int(np.quantile(times, share))
    rng = np.random.default_rng(6)
    order = rng.permutation(len(rows))  # a table need not be sorted
    whole = write(tmp_path / "whole.csv", [rows[at] for at in order])
    past = write(tmp_path / "past.csv", [rows[at] for at in order if times[at] < cut])
    before = list(windows.fold_all(Table(past, GA4).events()))
    after = list(windows.fold_all(Table(whole, GA4).events()))
    assert len(before) > 1000
    assert after[: len(before)] == before
