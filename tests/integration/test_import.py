"""`intent import table` on a real broker: each row is part of an event in the topic, left out, or rejected and counted.

What is due is worked out here from the file alone, with `csv` and dictionaries. A replay of the topic and `intent score
table` of the file then have to agree, with one another and with the oracle's windows.
"""

import csv
import datetime as dt
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import MakeSettings
from tests.integration.commands import called
from tests.integration.deployment import Read, read_all
from tests.integration.test_replay import CLOSE
from tests.integration.verdict import Verdict

pytestmark = pytest.mark.broker

GA4 = Path(__file__).parents[2] / "deploy" / "mappings" / "ga4-export.toml"
OWN = """
[columns]
user_id = "customer"
event_time = "at"
type = "what"
item_id = "sku"
price = "cents"
[time]
zone = "Europe/Berlin"
[types]
view = "view_item"
basket = "add_to_cart"
buy = "purchase"
ping = ""
[money]
scale = 0.01
"""
SUMMER = dt.datetime(2024, 6, 3, 9)  # noqa: DTZ001 - Berlin's, as the table has it
SUMMER_MS = 1_717_398_000_000  # the same: seven o'clock UTC

Body = dict[str, Any]


@dataclass
class Account:
    """What is due of a file."""

    events: list[Body] = field(default_factory=list)
    used: int = 0
    left_out: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unscored: set[str] = field(default_factory=set)
    """Events on a page that only buyers see."""

    @property
    def made(self) -> dict[str, int]:
        rejected = self.rejected.total()
        rows = self.used + self.left_out + rejected
        return {
            "rows": rows,
            "in_events": self.used,
            "left_out": self.left_out,
            "rejected": rejected,
            "outside": 0,
        }


def ga4_export(path: Path) -> None:
    """As BigQuery gives it: purchases of several rows, one told twice, events of GA4's own; and rows that are none."""
    rng = random.Random(3)
    header = (
        *("user_pseudo_id", "event_timestamp", "event_name", "ga_session_id", "ga_session_number", "page_location"),
        *("search_term", "transaction_id", "value", "currency", "item_id", "item_name", "item_category", "price"),
        *("quantity", "channel", "source", "medium", "browser", "os", "device", "country"),
    )
    rows: list[dict[str, object]] = []
    for number in range(500):
        user = f"00{rng.randrange(40)}.7"
        common: dict[str, object] = {
            "user_pseudo_id": user,
            "event_timestamp": 1_717_398_000_000_000 + number * 20_000_123,
            "event_name": rng.choice(["page_view", "view_item", "add_to_cart", "scroll", "view_search_results", "zap"]),
            "ga_session_id": f"s{user}",
            "ga_session_number": rng.randrange(1, 4),
            "page_location": f"https://shop.example/p{rng.randrange(9)}?utm=1#top",
            "channel": rng.choice(["Direct", "Paid, Social"]),
            "country": "Österreich",
        }
        items: list[dict[str, object]] = [{}]
        if number % 25 == 0:
            common |= {"event_name": "purchase", "transaction_id": f"T{number // 50}", "value": 25.5, "currency": "EUR"}
            common["page_location"] = "https://shop.example/order-confirmation/5"
            items = [
                {"item_id": f"sku{n}", "item_category": 'mugs, "large"', "price": 9.5, "quantity": n} for n in (1, 2)
            ]
        elif common["event_name"] in {"view_item", "add_to_cart"}:
            items = [{"item_id": f"sku{rng.randrange(30)}", "price": rng.randrange(1, 90)}]
        elif common["event_name"] == "view_search_results":
            common["search_term"] = "mug\nblue"
        rows += [common | item for item in items]
    some = {"user_pseudo_id": "7", "event_timestamp": 1_717_398_000_000_000, "event_name": "view_item"}
    rows[40:40] = [
        some | {"event_timestamp": "noon"},
        some | {"user_pseudo_id": ""},
        some | {"item_id": "a", "price": "cheap"},
        some | {"event_name": "add_to_cart", "item_id": "b", "quantity": -1},
    ]
    rng.shuffle(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows[:200])
        file.write("7,1717398000000000,view_item\n")
        writer.writerows(rows[200:])


def due_of_ga4(path: Path) -> Account:
    """Rows of one user, time and name are one event."""
    ours = {"view_search_results": "search", "scroll": "", "zap": "other"}
    due, groups = Account(), defaultdict[tuple[str, str, str], list[dict[str, str]]](list)
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    for line in lines:
        row = {name: text for name, text in zip(header, line, strict=False) if text}
        if len(line) != len(header):
            due.rejected["columns"] += 1
        elif not row["event_timestamp"].isdigit():
            due.rejected["time"] += 1
        else:
            groups[row.get("user_pseudo_id", ""), row["event_timestamp"], row["event_name"]].append(row)
    told: set[str] = set()
    for (user, at, name), rows in sorted(groups.items(), key=lambda group: int(group[0][1]) // 1000):
        first = rows[0]
        kind = ours.get(name, name)
        items = [row for row in rows if "item_id" in row]
        if kind == "":
            due.left_out += len(rows)
        elif not user:
            due.rejected["user"] += len(rows)
        elif any(row.get("price") == "cheap" or row.get("quantity") == "-1" for row in items):
            due.rejected["bounds"] += len(rows)
        else:
            if kind == "purchase":
                kind = "page_view" if first["transaction_id"] in told else kind
                told.add(first["transaction_id"])
            page = first.get("page_location", "").removeprefix("https://shop.example").split("?")[0]
            body: Body = {
                "event_id": f"{user}-{at}-{name}",
                "user_id": user,
                "event_time": int(at) // 1000,
                "type": kind,
                "session_id": first.get("ga_session_id"),
                "page": page,
                "search_term": first.get("search_term"),
                "value": float(first["value"]) if "value" in first else None,
                "currency": first.get("currency"),
                "items": [item_of(row) for row in items],
                "context": {
                    "channel": first["channel"],
                    "country": first["country"],
                    "visit_number": int(first["ga_session_number"]),
                },
            }
            due.events.append({name: value for name, value in body.items() if value})
            due.used += len(rows)
            if page.startswith("/order-confirmation"):
                due.unscored.add(body["event_id"])
    return due


def item_of(row: dict[str, str]) -> Body:
    item: Body = {name: row[name] for name in ("item_id", "item_category") if name in row}
    item |= {"price": float(row["price"])} if "price" in row else {}
    return item | ({"quantity": int(row["quantity"])} if "quantity" in row else {})


def own_table(path: Path, mapping: Path) -> Account:
    """A Parquet as pandas writes it, whole numbers as floats, with what is due of it."""
    rng = random.Random(4)
    due = Account()
    rows = []
    for number in range(1, 301):
        customer = None if number % 97 == 0 else float(rng.randrange(20))
        what = rng.choice(["view", "view", "basket", "buy", "ping", "level up" if number % 10 == 0 else "view"])
        cents = None if what == "ping" else rng.randrange(100, 9000)
        rows.append((customer, SUMMER + dt.timedelta(minutes=number), what, f"sku{number % 7}", cents))
        if what == "ping":
            due.left_out += 1
        elif what == "level up":
            due.rejected["type"] += 1
        elif customer is None:
            due.rejected["user"] += 1
        else:
            assert cents is not None
            due.used += 1
            due.events.append(
                {
                    "event_id": f"{path.stem}-{number}",
                    "user_id": str(int(customer)),
                    "event_time": SUMMER_MS + number * 60_000,
                    "type": {"view": "view_item", "basket": "add_to_cart", "buy": "purchase"}[what],
                    "items": [{"item_id": f"sku{number % 7}", "price": pytest.approx(cents / 100)}],
                }
            )
    names = ("customer", "at", "what", "sku", "cents")
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), path)
    mapping.write_text(OWN)
    return due


def by_user(bodies: Iterable[Body]) -> dict[str, list[Body]]:
    found = defaultdict(list)
    for body in bodies:
        found[body["user_id"]].append(body)
    return found


def body(record: Read) -> Body:
    """The record's value; its key is the user."""
    assert record.value is not None
    read: Body = json.loads(record.value)
    assert record.key == read["user_id"].encode()
    return read


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_arrives_whole_and_scores_as_the_file_does(
    settings: MakeSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
) -> None:
    made = settings()
    table, mapping = tmp_path / f"events.{kind}", GA4
    if kind == "csv":
        ga4_export(table)
        due = due_of_ga4(table)
    else:
        mapping = tmp_path / "mapping.toml"
        due = own_table(table, mapping)
    assert due.left_out > 10
    assert due.rejected.total() > 4

    done = called(capsys, monkeypatch, made, "import", "table", table, "--map", mapping, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["sent"], told["acknowledged"]) == (len(due.events), len(due.events))
    assert told["made"] == due.made
    assert {reason: entry["rows"] for reason, entry in told["rejected"].items()} == due.rejected

    source = read_all(made.kafka.bootstrap_servers, made.topics.events)
    assert by_user(map(body, source)) == by_user(due.events)

    scored = called(
        capsys, monkeypatch, made, "score", "table", table, "--map", mapping, "--out", tmp_path / "s.parquet", "--json"
    )
    assert scored.code == 0, scored.err
    offline = {row["event_id"]: row for row in pq.read_table(tmp_path / "s.parquet").to_pylist()}
    replayed = called(capsys, monkeypatch, made, "replay", "--out", tmp_path / "r.parquet", "--json")
    assert replayed.code == 0, replayed.err
    streamed = {row["event_id"]: row for row in pq.read_table(tmp_path / "r.parquet").to_pylist()}
    assert json.loads(replayed.out)["fates"] == {"scored": len(due.events)}
    verdict = Verdict(made.topics.events, source)
    assert {row["score_id"]: row["window_digest"] for row in streamed.values()} == verdict.digests
    assert offline.keys() == streamed.keys() - due.unscored
    assert json.loads(scored.out)["rows"] == len(offline)
    for event_id, row in offline.items():
        same = streamed[event_id]
        assert (row["window_digest"], row["user_id"]) == (same["window_digest"], same["user_id"])
        for horizon in ("purchase_30m", "purchase_24h", "purchase_7d"):
            assert row[horizon] == pytest.approx(same[horizon], abs=CLOSE)
