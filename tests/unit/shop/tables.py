"""A shop's events as GA4's export has them, flattened: one row an item, microseconds, URLs, its own names."""

import csv
from collections.abc import Iterable
from pathlib import Path

from worker.events import Event

COLUMNS = (
    *("user_pseudo_id", "event_timestamp", "event_name", "ga_session_id", "ga_session_number", "page_location"),
    *("search_term", "transaction_id", "value", "currency", "item_id", "item_name", "item_category", "price"),
    *("quantity", "channel", "source", "medium", "browser", "os", "device", "country"),
)


def row(**fields: object) -> dict[str, object]:
    given: dict[str, object] = {
        "user_pseudo_id": "0071.5",
        "event_timestamp": 1_714_521_600_123_456,
        "event_name": "page_view",
        "ga_session_id": 17145,
        "ga_session_number": 2,
        "page_location": "https://shop.example/mugs?utm_source=x#top",
        "channel": "Direct",
        "device": "mobile",
    }
    return given | fields


def write(path: Path, rows: Iterable[dict[str, object]], columns: Iterable[str] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    return path


def of_events(events: Iterable[Event]) -> list[dict[str, object]]:
    """Events as such rows: what a shop would have exported."""
    rows: list[dict[str, object]] = []
    for event in events:
        context = event.context
        common = row(
            user_pseudo_id=event.user_id,
            event_timestamp=event.time_ms * 1000,
            event_name=event.type,
            ga_session_id=event.session_id,
            ga_session_number=context.visit_number if context else None,
            page_location=event.page and f"https://shop.example{event.page}?x=1",
            channel=context and context.channel,
            device=context and context.device,
            country=context and context.country,
            transaction_id=event.event_id if event.type == "purchase" else None,
        )
        rows += [
            common | {"item_id": item.item_id, "item_category": item.item_category, "price": item.price}
            for item in event.items
        ] or [common]
    return rows
