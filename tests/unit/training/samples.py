"""A small sample in the GA360 tables' shape: visitors who buy soon after they fill a cart, and visitors who look."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker.training.labels import END, START

_PRODUCT = pa.struct(
    {"sku": pa.string(), "name": pa.string(), "category": pa.string(), "price": pa.float64(), "quantity": pa.int64()}
)


def product(sku: str = "GGOE1", **fields: object) -> dict[str, object]:
    return {"sku": sku, "name": "A mug", "category": "Home/Drinkware/", "price": 9.99, "quantity": 1} | fields


def hit(**fields: object) -> dict[str, Any]:
    given: dict[str, object] = {
        "session_id": "1-100",
        "visitor_id": "1",
        "hit_number": 1,
        "timestamp_ms": START,
        "type": "PAGE",
        "action_type": "0",
        "checkout_step": 1,
        "page_path": "/home",
        "search_keyword": None,
        "event_action": None,
        "impressions": 0,
        "products": [],
        "transaction_id": None,
        "transaction_revenue": None,
    }
    return given | fields


def session(**fields: object) -> dict[str, Any]:
    given: dict[str, object] = {
        "session_id": "1-100",
        "visit_number": 1,
        "start_ms": START,
        "channel": "Direct",
        "source": "(direct)",
        "medium": "(none)",
        "browser": "Chrome",
        "operating_system": "Linux",
        "device_category": "desktop",
        "country": "United States",
    }
    return given | fields


def write(folder: Path, hits: list[dict[str, Any]], sessions: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(hits)
    table = table.set_column(
        table.schema.get_field_index("products"),
        "products",
        pa.array([one["products"] for one in hits], pa.list_(_PRODUCT)),
    )
    pq.write_table(table, folder / "hits.parquet", row_group_size=1000)
    pq.write_table(pa.Table.from_pylist(sessions), folder / "sessions.parquet")
    return folder


def shop(folder: Path, *, visitors: int, seed: int) -> Path:
    """Visits over the whole time that the slices cover. Half of the visitors who fill a cart buy within minutes."""
    rng = np.random.default_rng(seed)
    hits: list[dict[str, Any]] = []
    sessions = []
    for visitor in range(visitors):
        start = int(rng.integers(START, END - 86_400_000))
        name = f"{visitor}-{start // 1000}"
        sessions.append(session(session_id=name, start_ms=start, country=str(rng.choice(["United States", "India"]))))
        interested = rng.random() < 0.4
        steps: list[dict[str, object]] = [{"impressions": 12}, {"action_type": "2", "products": [product()]}]
        steps += [{"page_path": f"/p{rng.integers(9)}"} for _ in range(int(rng.integers(1, 6)))]
        if interested:
            added = product(f"GGOE{rng.integers(6)}")
            steps += [{"action_type": "3", "type": "EVENT", "products": [added]}, {"page_path": "/basket.html"}]
            if rng.random() < 0.5:
                steps += [{"action_type": "5", "checkout_step": step, "page_path": "/pay"} for step in (1, 2, 3)]
                order = {"page_path": "/ordercompleted.html", "transaction_id": f"T{visitor}"}
                steps += [{"action_type": "6", **order}, {"action_type": "6", **order}]
        time = start
        for number, step in enumerate(steps, start=1):
            hits.append(hit(session_id=name, visitor_id=str(visitor), hit_number=number, timestamp_ms=time, **step))
            time += int(rng.integers(500, 60_000))
    hits.sort(key=lambda one: one["timestamp_ms"])
    return write(folder, hits, sessions)
