"""Any shop's table as events: what a mapping can say, and that no row is lost in silence."""

import datetime as dt
import gzip
import re
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.unit.shop.tables import COLUMNS, of_events, row, write
from tests.unit.training import samples
from worker import cli, events
from worker.errors import IntentError, SettingError
from worker.events import Context, Item
from worker.shop.columns import Rejects, read
from worker.shop.ga360 import Sample
from worker.shop.source import Splits, opened
from worker.shop.table import Table

GA4 = Path(__file__).parents[3] / "deploy" / "mappings" / "ga4-export.toml"
TIME_US = 1_714_521_600_000_000
LEAST = '[columns]\nuser_id = "u"\nevent_time = "t"\ntype = "n"\n'


VISITS = {"timestamp": 1_430_622_000_123, "visitorid": 7, "event": "view", "itemid": 42, "transactionid": ""}
SESSIONS = {
    "event_time": "2019-10-01 00:00:00 UTC",
    "event_type": "view",
    "product_id": 42,
    "category_code": "",
    "price": 9.5,
    "user_id": 7,
    "user_session": "s",
}


def mapped(folder: Path, text: str) -> Path:
    path = folder / "mapping.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "first", "steps"),
    [
        pytest.param(
            "views-carts-transactions",
            VISITS,
            [{"event": "addtocart"}, *({"event": "transaction", "transactionid": 5, "itemid": n} for n in (42, 43))],
            id="transactions",
        ),
        pytest.param(
            "views-carts-sessions",
            SESSIONS,
            [{"event_type": "cart"}, *({"event_type": "purchase", "product_id": n} for n in (42, 43))],
            id="sessions",
        ),
    ],
)
def test_the_examples_without_pages_count_an_order_once(
    name: str, first: dict[str, object], steps: list[dict[str, object]], tmp_path: Path
) -> None:
    """One that the table reports twice, line by line, is one event each."""
    rows = [first, *(first | step for step in steps)]
    file = write(tmp_path / "e.csv", [*rows, *rows], first)
    table = Table(file, GA4.with_name(f"{name}.toml"))
    found = list(table.events())
    assert table.account() == {"rows": 8, "in_events": 8, "left_out": 0, "rejected": 0, "outside": 0}
    assert [event.type for event in found] == ["view_item", "add_to_cart", "purchase", "page_view"]
    assert [event.items[0].item_id for event in found] == ["42", "42", "42", "43"]


def small(folder: Path, rows: Sequence[tuple[object, object, object]], text: str = LEAST) -> Table:
    file = write(folder / "t.csv", [dict(zip("utn", each, strict=True)) for each in rows], "utn")
    return Table(file, mapped(folder, text))


def test_ga4s_export_becomes_events(tmp_path: Path) -> None:
    bought = row(event_name="purchase", transaction_id="T1", value=25.5, currency="EUR", event_timestamp=TIME_US + 9)
    rows = [
        row(event_name="view_item_list", item_id="007", price=9.5),
        bought | {"item_id": "a", "quantity": 2},
        bought | {"item_id": "b", "item_category": "Mugs"},
        row(event_name="view_search_results", search_term="mug", event_timestamp=TIME_US + 2_000_000),
        bought | {"event_timestamp": TIME_US + 5_000_000},
        row(event_name="scroll", event_timestamp=TIME_US + 5),
        row(event_name="level_up", event_timestamp=TIME_US + 6_000_000, page_location="/relative"),
    ]
    table = Table(write(tmp_path / "e.csv", rows), GA4)
    found = list(table.events())
    assert [event.type for event in found] == ["purchase", "view_item_list", "search", "page_view", "other"]
    purchase, listed, search, again, last = found
    assert purchase.event_id == f"0071.5-{TIME_US + 9}-purchase"
    assert (purchase.user_id, purchase.time_ms, purchase.value) == ("0071.5", TIME_US // 1000, 25.5)
    assert purchase.items == (Item("a", quantity=2), Item("b", item_category="Mugs"))
    assert listed.items == (Item("007", price=9.5),)
    assert (listed.page, last.page) == ("/mugs", "/relative")
    assert listed.context == Context(channel="Direct", device="mobile", visit_number=2)
    assert (search.search_term, listed.session_id) == ("mug", "17145")
    assert again.user_id == purchase.user_id  # the transaction's second report is a page view
    assert (table.rows, table.rejects.left_out, table.rejects.total) == (7, 1, 0)


def test_what_a_shop_exports_comes_back_as_its_events(tmp_path: Path) -> None:
    """The GA360 importer's events, written as GA4 would and read again: the same people, times, kinds and things."""
    wanted = list(Sample(samples.shop(tmp_path, visitors=60, seed=3)).events())
    table = Table(write(tmp_path / "e.csv", of_events(wanted)), GA4)
    found = list(table.events())
    facts = [
        [(e.user_id, e.time_ms, e.type if e.type != "click" else "other", e.page, e.session_id) for e in each]
        for each in (found, wanted)
    ]
    assert facts[0] == facts[1]
    assert [[(i.item_id, i.price) for i in e.items] for e in found] == [
        [(i.item_id, i.price) for i in e.items] for e in wanted
    ]
    assert [events.decode(events.encode(e), key=e.user_id.encode(), timestamp_ms=e.time_ms) for e in found] == found
    cut = wanted[50].time_ms
    assert list(table.events(cut, cut + 10**9)) == [e for e in found if cut <= e.time_ms < cut + 10**9]
    arrow = pacsv.read_csv(
        tmp_path / "e.csv", convert_options=pacsv.ConvertOptions(column_types={"price": pa.float64()})
    )
    pq.write_table(arrow, tmp_path / "e.parquet")
    assert list(Table(tmp_path / "e.parquet", GA4).events()) == found  # typed columns say the same


@pytest.mark.parametrize(
    ("how", "text", "time_ms"),
    [
        pytest.param('format = "s"', "1714521600.5", 1_714_521_600_500, id="seconds"),
        pytest.param('format = "s"', "1714521600.123", 1_714_521_600_123, id="a fraction that no double holds"),
        pytest.param('format = "s"', "1714521600.1239", 1_714_521_600_123, id="a finer fraction of seconds is cut off"),
        pytest.param('format = "ms"', "1714521600123", 1_714_521_600_123, id="ms"),
        pytest.param('format = "ns"', "1714521600123999999", 1_714_521_600_123, id="ns"),
        pytest.param("", "2024-05-01T00:00:00+02:00", 1_714_514_400_000, id="offset"),
        pytest.param("", "2024-05-01 00:00:00.25 UTC", 1_714_521_600_250, id="as BigQuery writes it"),
        pytest.param('zone = "Europe/Berlin"', "2024-05-01 00:00:00", 1_714_514_400_000, id="summer time"),
        pytest.param('zone = "Europe/Berlin"', "2024-01-01 00:00:00", 1_704_063_600_000, id="winter time"),
        pytest.param('format = "%d.%m.%Y %H:%M"\nzone = "UTC"', "01.05.2024 00:00", 1_714_521_600_000, id="own format"),
        pytest.param("", "2024-05-01T00:00:00.999999Z", 1_714_521_600_999, id="a finer fraction is cut off"),
    ],
)
def test_times(tmp_path: Path, how: str, text: str, time_ms: int) -> None:
    table = small(tmp_path, [("1", text, "page_view")], f"{LEAST}[time]\n{how}")
    assert [event.time_ms for event in table.events()] == [time_ms]


@pytest.mark.parametrize(
    ("shown", "time_ms"),
    [
        pytest.param("2024-05-01 00:00:00.999999", 1_714_514_400_999, id="a finer fraction"),
        pytest.param("2024-03-31 02:30:00", 1_711_848_600_000, id="an hour that is left out"),
        pytest.param("2024-10-27 02:30:00", 1_729_989_000_000, id="an hour that is there twice"),
    ],
)
def test_a_typed_time_is_what_a_written_one_is(tmp_path: Path, shown: str, time_ms: int) -> None:
    plan = LEAST + '[time]\nzone = "Europe/Berlin"'
    written = small(tmp_path, [("1", shown, "page_view")], plan)
    typed = pa.array([dt.datetime.fromisoformat(shown)], pa.timestamp("us"))
    pq.write_table(pa.table({"u": ["a"], "t": typed, "n": ["page_view"]}), tmp_path / "t.parquet")
    for table in (written, Table(tmp_path / "t.parquet", tmp_path / "mapping.toml")):
        assert [event.time_ms for event in table.events()] == [time_ms]


@pytest.mark.parametrize(
    ("unit", "count"),
    [("s", 1_714_521_600.123), ("s", 1_714_521_600.1239), ("ms", 1_714_521_600_123.9), ("us", 1_714_521_600_123_999.0)],
)
def test_a_count_that_pandas_made_a_float_is_cut_off_too(tmp_path: Path, unit: str, count: float) -> None:
    (tmp_path / "mapping.toml").write_text(f'{LEAST}[time]\nformat = "{unit}"')
    pq.write_table(pa.table({"u": ["a"], "t": [count], "n": ["page_view"]}), tmp_path / "t.parquet")
    table = Table(tmp_path / "t.parquet", tmp_path / "mapping.toml")
    assert [event.time_ms for event in table.events()] == [1_714_521_600_123]


def test_every_row_has_its_fate(tmp_path: Path) -> None:
    rows: list[tuple[object, object, object]] = [
        *[("1", 10, "page_view"), ("1", "soon", "page_view"), ("1", "", "page_view"), ("1", -5, "page_view")],
        *[("", 11, "page_view"), ("1", 12, "zap"), ("1", 13, "noise"), ("1", 14, "zap"), ("x" * 300, 15, "page_view")],
    ]
    small(tmp_path, rows, LEAST + '[time]\nformat = "ms"\n[types]\nnoise = ""')
    with (tmp_path / "t.csv").open("a") as file:
        file.write("a,line,of,another,width\n")
    table = Table(tmp_path / "t.csv", tmp_path / "mapping.toml")
    for _ in range(2):  # read again, a row counts once
        assert len(list(table.events())) == 1
    assert dict(table.rejects.counts) == {"columns": 1, "time": 3, "user": 2, "type": 2}
    assert 1 + table.rejects.total + table.rejects.left_out == table.rows == 10
    said = str(table.rejects)
    assert "9" not in said.split(maxsplit=1)[0]
    assert said.startswith("8 rows rejected: time 3 (row 2: 'soon' is not a time by 'ms')")
    assert "type 2 (row 6: the type 'zap' is none of ours; map it in [types])" in said
    assert table.rejects.document()["user"] == {"rows": 2, "first": "row 5: a user's id has 1 to 256 bytes, not 0"}


def test_an_event_is_one_users(tmp_path: Path) -> None:
    """An id that two users share makes two events; rows that name none are an event each."""
    text = LEAST + 'event_id = "i"\nitem_id = "k"\n[time]\nformat = "ms"'
    rows = [
        {"u": "a", "t": 1, "n": "purchase", "i": "1", "k": "x"},
        {"u": "b", "t": 2, "n": "view_item", "i": "1", "k": "y"},
        {"u": "a", "t": 1, "n": "purchase", "i": "1", "k": "z"},
        {"u": "a", "t": 4, "n": "view_item", "k": "v"},
        {"u": "a", "t": 5, "n": "view_item", "k": "w"},
    ]
    table = Table(write(tmp_path / "t.csv", rows, "utnik"), mapped(tmp_path, text))
    found = [(event.user_id, event.event_id, [item.item_id for item in event.items]) for event in table.events()]
    assert found == [
        *[("a", "1", ["x", "z"]), ("b", "1", ["y"])],
        *[("a", "t-4", ["v"]), ("a", "t-5", ["w"])],
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_id_that_is_an_orders_hides_no_event(tmp_path: Path, place: int) -> None:
    """Rows under an id that another event has are told, wherever the id's first row is in the file."""
    rows = [
        {"u": "a", "t": 2, "n": "begin_checkout", "i": "o-7", "k": "y"},
        {"u": "a", "t": 3, "n": "purchase", "i": "o-7", "k": "x"},
    ]
    rows.insert(place, {"u": "a", "t": 1, "n": "begin_checkout", "i": "o-7", "k": "x"})
    rows += [
        {"u": "a", "t": 1, "n": "purchase", "i": "o-7", "k": "x"},
        {"u": "a", "t": 1, "n": "begin_checkout", "i": "o-7", "k": "z"},
        {"u": "b", "t": 9, "n": "purchase", "i": "o-7", "k": "x"},
    ]
    text = LEAST + 'event_id = "i"\nitem_id = "k"\n[time]\nformat = "ms"'
    table = Table(write(tmp_path / "t.csv", rows, "utnik"), mapped(tmp_path, text))
    found = [(event.user_id, event.type, [item.item_id for item in event.items]) for event in table.events()]
    assert found == [("a", "begin_checkout", ["x", "z"]), ("b", "purchase", ["x"])]
    assert table.account() == {"rows": 6, "in_events": 3, "left_out": 0, "rejected": 3, "outside": 0}
    assert table.rejects.counts == {"id": 3}
    said = (
        f"row 4: its event_id 'o-7' is that of row {place + 1}, which has another type or time; map event_id to an id"
    )
    assert str(table.rejects.document()["id"]["first"]).startswith(said)  # of those rejected the first by time
    assert table.account(0, 5) == {"rows": 6, "in_events": 2, "left_out": 0, "rejected": 3, "outside": 1}


def test_columns_that_make_the_same_id_in_two_ways_hide_no_event(tmp_path: Path) -> None:
    """The second would be the first one's duplicate in every window, and be counted as an event all the same."""
    rows = [
        {"u": "a", "t": 1, "n": "view_item", "i": "7-1", "k": "2"},
        {"u": "a", "t": 2, "n": "view_item", "i": "7", "k": "1-2"},
    ]
    text = LEAST + 'event_id = ["i", "k"]\n[time]\nformat = "ms"'
    table = Table(write(tmp_path / "t.csv", rows, "utnik"), mapped(tmp_path, text))
    assert [event.event_id for event in table.events()] == ["7-1-2"]
    assert table.rejects.counts == {"id": 1}


def test_a_row_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    lines = ["u,t,n", "1,10,page_view", "1,2", "1,soon,page_view", "1,12", "1,13,zap", "1,14,page_view"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table = Table(tmp_path / "t.csv", mapped(tmp_path, LEAST + '[time]\nformat = "ms"'))
    assert [event.event_id for event in table.events()] == ["t-1", "t-6"]
    firsts = {reason: str(entry["first"]).split(":")[0] for reason, entry in table.rejects.document().items()}
    assert firsts == {"columns": "row 2", "time": "row 3", "type": "row 5"}


def test_an_id_is_the_same_however_it_is_typed(tmp_path: Path) -> None:
    """As pandas writes whole numbers where one is missing."""
    columns = {"u": [71.0, 72.5, None], "t": [1, 2, 3], "n": ["page_view"] * 3, "s": [9.0, None, 1.0]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = Table(
        tmp_path / "t.parquet",
        mapped(tmp_path, LEAST + 'session_id = "s"\nevent_id = ["u", "t"]\n[time]\nformat = "ms"'),
    )
    found = [(event.user_id, event.session_id, event.event_id) for event in table.events()]
    assert found == [("71", "9", "71-1"), ("72.5", None, "72.5-2")]
    assert table.rejects.counts == {"user": 1}


def test_the_account_of_a_part_adds_up(tmp_path: Path) -> None:
    rows: list[tuple[object, object, object]] = [
        *[("1", 10, "page_view"), ("1", "soon", "page_view"), ("1", 20, "noise"), ("", 21, "page_view")],
        *[("1", 30, "page_view"), ("1", 40, "page_view"), ("1", 50, "zap")],
    ]
    table = small(tmp_path, rows, LEAST + '[time]\nformat = "ms"\n[types]\nnoise = ""')
    assert [event.time_ms for event in table.events(20, 40)] == [30]
    assert table.account(20, 40) == {"rows": 7, "in_events": 1, "left_out": 1, "rejected": 2, "outside": 3}
    list(table.events())
    assert table.account() == {"rows": 7, "in_events": 3, "left_out": 1, "rejected": 3, "outside": 0}


def test_money_and_confirmation_pages(tmp_path: Path) -> None:
    text = LEAST + 'item_id = "i"\nprice = "p"\npage = "g"\n[time]\nformat = "ms"\n[money]\nscale = 0.01\n'
    text += '[pages]\nconfirmation = ["/thanks"]'
    rows = [
        {"u": 1, "t": 1, "n": "view_item", "i": "a", "p": 1250, "g": "/a"},
        {"u": 1, "t": 2, "n": "view_item", "i": "a", "p": "cheap", "g": "/a"},
        {"u": 1, "t": 3, "n": "purchase", "i": "a", "p": -1, "g": "/a"},
        {"u": 1, "t": 4, "n": "page_view", "g": "/thanks/5"},
    ]
    table = Table(write(tmp_path / "t.csv", rows, "utnipg"), mapped(tmp_path, text))
    first, last = table.events()
    assert first.items == (Item("a", price=12.5),)
    assert (table.scored(first), table.scored(last)) == (True, False)
    assert table.rejects.counts == {"bounds": 2}  # a price in words, and one below nothing


BUYING = LEAST + 'transaction_id = "o"\nitem_id = "i"\nprice = "p"\n[time]\nformat = "ms"'


def bought(folder: Path, transactions: Sequence[object], prices: Sequence[object] | None = None) -> Table:
    """One purchase a second under these transactions, as Parquet."""
    count = len(transactions)
    columns = {
        "u": ["1"] * count,
        "t": [1000 * second for second in range(count)],
        "n": ["purchase"] * count,
        "o": transactions,
        "i": ["a"] * count,
        "p": prices or ["1"] * count,
    }
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return Table(folder / "t.parquet", mapped(folder, BUYING))


@pytest.mark.parametrize("none", ["", "(not set)", "(none)", None])
def test_what_stands_for_no_transaction_is_none(tmp_path: Path, none: str | None) -> None:
    table = bought(tmp_path, [none, none, "T", none, "T"])
    assert [event.type for event in table.events()] == [*["purchase"] * 4, "page_view"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "dictionary"])
def test_what_stands_for_nothing_is_nothing(tmp_path: Path, kind: str) -> None:
    """In every column but the type's: a visit has no session, a user no name, an event no id."""
    text = LEAST + 'session_id = "s"\nevent_id = ["e", "n"]\nitem_id = "i"\nchannel = "c"\n'
    text += '[time]\nformat = "ms"\n[types]\n"(not set)" = "page_view"\n'
    nothing = "(not set)"
    columns = {
        "u": ["1", "1", nothing],
        "t": ["1", "2", "3"],
        "n": ["view_item", nothing, "view_item"],
        "s": ["7", nothing, "7"],
        "e": ["a", "-", nothing],
        "i": ["mug", nothing, "mug"],
        "c": [nothing, "Direct", nothing],
    }
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    if kind == "dictionary":
        table = pa.table({name: table[name].dictionary_encode() for name in columns})
    file = tmp_path / ("t.csv" if kind == "csv" else "t.parquet")
    if kind == "csv":
        pacsv.write_csv(table, file)
    else:
        pq.write_table(table, file)
    literal = Table(file, mapped(tmp_path, text))
    assert [(e.session_id, e.context and e.context.channel) for e in literal.events()][1] == (nothing, "Direct")
    told = Table(file, mapped(tmp_path, f'{text}[missing]\nvalues = ["{nothing}", "-"]'))
    found = [(e.type, e.session_id, e.event_id, [i.item_id for i in e.items], e.context) for e in told.events()]
    assert found == [
        ("view_item", "7", "a-view_item", ["mug"], None),
        ("page_view", None, "-(not set)", [], Context(channel="Direct")),
    ]
    assert told.rejects.counts == {"user": 1}
    assert told.names("channel") == ["Direct"]


def test_a_transaction_is_its_first_valid_report(tmp_path: Path) -> None:
    """A report that is rejected leaves the purchase to the next, whichever range is read."""
    table = bought(tmp_path, ["T", "S", "T", "S", "T", "R", "R"], ["-1", "2", "3", "cheap", "5", "-6", "-7"])
    found = list(table.events())
    assert [(event.time_ms, event.type) for event in found] == [
        *[(1000, "purchase"), (2000, "purchase"), (4000, "page_view")],
    ]
    assert table.rejects.counts == {"bounds": 4}
    assert [list(table.events(at, at + 1)) for at in (1000, 2000, 4000)] == [[event] for event in found]
    assert table.account() == {"rows": 7, "in_events": 3, "left_out": 0, "rejected": 4, "outside": 0}


def test_many_reports_are_looked_at_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.shop.table._ROWS", 2)
    table = bought(tmp_path, ["A", "B", "C", "A", "B", "C", "A"], ["-1", *["1"] * 6])
    assert [event.type for event in table.events()] == [*["purchase"] * 3, *["page_view"] * 3]


@pytest.mark.parametrize(
    ("field", "told", "why"),
    [
        *(
            pytest.param(field, told, "is no number; give one in digits, with a point", id=f"{field} {told}")
            for field in ("price", "value")
            for told in ("12,50", "$1", "1.234,5")
        ),
        pytest.param("page", "http://[x", "is no URL: Invalid IPv6 URL", id="page"),
    ],
)
def test_a_field_that_is_none_is_named(tmp_path: Path, field: str, told: str, why: str) -> None:
    rows = [{"u": 1, "t": 1, "n": "view_item", "q": told}, {"u": 1, "t": 2, "n": "view_item", "q": "1.5"}]
    text = f'{LEAST}item_id = "u"\n{field} = "q"\n[time]\nformat = "ms"'
    table = Table(write(tmp_path / "t.csv", rows, "utnq"), mapped(tmp_path, text))
    assert len(list(table.events())) == 1
    assert table.rejects.document() == {"bounds": {"rows": 1, "first": f"row 1: {field} is {told!r}, which {why}"}}


@pytest.mark.parametrize("number", ["inf", "-inf", "1e999"])
@pytest.mark.parametrize("field", ["quantity", "visit_number"])
def test_a_number_without_end_is_out_of_bounds(tmp_path: Path, field: str, number: str) -> None:
    text = f'{LEAST}item_id = "u"\n{field} = "q"\n[time]\nformat = "ms"'
    rows = [{"u": 1, "t": 1, "n": "view_item", "q": number}, {"u": 1, "t": 2, "n": "view_item", "q": "2.0"}]
    table = Table(write(tmp_path / "t.csv", rows, "utnq"), mapped(tmp_path, text))
    assert [event.time_ms for event in table.events()] == [2]
    assert table.rejects.document() == {
        "bounds": {"rows": 1, "first": f"row 1: {field} is {number!r}, which is no whole number; give one in digits"}
    }


def test_typed_numbers_are_bounded_too(tmp_path: Path) -> None:
    """What is no number at all, and what has no end, as Parquet has them."""
    columns = {"u": ["1"] * 2, "t": [1, 2], "n": ["view_item"] * 2, "v": [float("inf"), 2.0]}
    columns["d"] = pa.array([1, 2], pa.timestamp("ms"))
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for field, column in (("visit_number", "v"), ("value", "v"), ("visit_number", "d"), ("value", "d")):
        text = f'{LEAST}{field} = "{column}"\n[time]\nformat = "ms"'
        table = Table(tmp_path / "t.parquet", mapped(tmp_path, text))
        assert [event.time_ms for event in table.events()] == ([2] if column == "v" else [])
        assert set(table.rejects.counts) == {"bounds"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("[columns]\nuser_id = 'u'\ntype = 'n'", "`columns.event_time` is missing", id="a field"),
        pytest.param(LEAST + "colour = 'c'", "`columns.colour` is nothing that a mapping may say", id="unknown"),
        pytest.param(LEAST + "[types]\nzap = 'zing'", r"zap = 'zing' is none of other, page_view", id="type"),
        pytest.param(LEAST + "[time]\nformat = 'soon'", "`time.format` is 'soon': give s, ms", id="format"),
        pytest.param(LEAST + "[time]\nzone = 'Mars'", "`time.zone` is 'Mars': give a time zone", id="zone"),
        pytest.param(LEAST + "[time]\nzone = ''", "`time.zone` is '': give a time zone", id="empty zone"),
        pytest.param(LEAST + "[money]\nscale = 0", "`money.scale` is 0: input should be greater than 0", id="scale"),
        pytest.param(LEAST + "[missing]\nvalues = '-'", "`missing.values` is '-': input should be", id="missing"),
        pytest.param(LEAST + "event_id = 3", "`columns.event_id` is 3: input should be", id="a name or several"),
        pytest.param(LEAST + "[splits]\ntest = 'May'", "`splits.test` is 'May': input should be", id="a date or share"),
        pytest.param("[columns", "which is not TOML", id="not TOML"),
        pytest.param("a = " + 5000 * "[", "which is not TOML", id="too deep"),
    ],
)
def test_a_mapping_that_is_none_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        small(tmp_path, [], text)


def test_tables_that_are_none_are_told(tmp_path: Path) -> None:
    mapping = mapped(tmp_path, LEAST)
    with pytest.raises(SettingError, match=r"absent\.csv does not exist"):
        Table(tmp_path / "absent.csv", mapping)
    with pytest.raises(IntentError, match="has no column 'n', which the mapping names; it has u, t"):
        Table(write(tmp_path / "t.csv", [], "ut"), mapping)
    with pytest.raises(
        IntentError, match=r"t\.csv has several columns 'n', which the mapping names; rename all but one"
    ):
        Table(write(tmp_path / "t.csv", [{"u": 1, "t": 1, "n": "page_view"}], "utnn"), mapping)
    pq.write_table(pa.table([["1"]] * 4, names=list("uttn")), tmp_path / "several.parquet")
    with pytest.raises(IntentError, match=r"several\.parquet has several columns 't'"):
        Table(tmp_path / "several.parquet", mapping)
    with pytest.raises(IntentError, match=r"no usable row: 1 rows rejected: time 1 \(row 1: '1' is not a time"):
        small(tmp_path, [("1", "1", "page_view")])
    with pytest.raises(IntentError, match="has no offset from UTC; set `zone`"):
        small(tmp_path, [("1", "2024-05-01 00:00", "page_view")])
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(IntentError, match="cannot be read as Parquet"):
        Table(tmp_path / "t.parquet", mapping)
    with pytest.raises(SettingError, match="is a file: --map tells"):  # bad usage
        opened(tmp_path / "t.csv", None)
    with pytest.raises(SettingError, match=r"mapping\.toml.*cannot be read"):
        opened(tmp_path / "t.csv", tmp_path / "absent" / "mapping.toml")


QUOTED = LEAST + 'item_id = "i"\nitem_name = "k"\n[time]\nformat = "ms"'
HEADER = "u,t,n,i,k\n"


def quoted(folder: Path, content: str) -> Table:
    """A compressed CSV with this content; `k` is an item's name."""
    path = folder / "t.csv.gz"
    path.write_bytes(gzip.compress(content.encode()))
    return Table(path, mapped(folder, QUOTED))


@pytest.mark.parametrize(
    ("lines", "line", "why"),
    [
        pytest.param('1,5,view_item,i,"24 inch\n' + "1,6,view_item,i,mug\n" * 3, 5, "unexpected end", id="never ends"),
        pytest.param('1,5,view_item,i,"24 inch\n1,6,view_item,i,"a mug"\n', 5, "expected after", id="ends in another"),
        pytest.param('1,5,view_item,i,mug\n1,6,view_item,i,"24" inch"\n', 6, "expected after", id="goes on"),
        pytest.param('1,5,view_item,i,"24 inch\n' + "1,6,view_item,i,mug\n" * 9000, 5, "field limit", id="too long"),
    ],
)
def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path: Path, lines: str, line: int, why: str) -> None:
    good = '1,1,view_item,i,"a mug,\nor ""two"""\n1,3,view_item,i,mug\n'
    with pytest.raises(
        IntentError, match=rf"t\.csv\.gz: the row that begins in line {line} has .*{why}.*write a quote"
    ):
        quoted(tmp_path, HEADER + good + lines)


def test_what_is_quoted_well_is_read(tmp_path: Path) -> None:
    """Line breaks, commas and doubled quotes inside; quotes within a value that is not quoted; a byte order mark."""
    names = ['a "blue" mug,\r\n\nfor two', "x" * 500, 'mug 24"', ""]
    lines = [f'"1",{at},view_item,i,"{name.replace(chr(34), chr(34) * 2)}"\r\n' for at, name in enumerate(names)]
    table = quoted(tmp_path, f'\ufeff"u",t,"n",i,k\r\n{"".join(lines)}1,9,view_item,i,mug 7"')
    assert [item.item_name for event in table.events() for item in event.items] == [*names[:3], None, 'mug 7"']
    assert table.account()["in_events"] == table.rows == 5


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_csv_that_is_not_utf_8_is_told(tmp_path: Path, encoding: str, rows: int) -> None:
    (tmp_path / "t.csv").write_text("u,t,n\n" + '"ä",1,page_view\n' * rows, encoding=encoding)
    with pytest.raises(IntentError, match=r"t\.csv .*UTF-8"):
        Table(tmp_path / "t.csv", mapped(tmp_path, LEAST))


def test_a_row_of_another_width_that_is_not_utf_8_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # which prints
    (tmp_path / "t.csv").write_text("u,t,n\nu,1,page_view\nä,1,page_view,1\n", encoding="latin-1")
    with pytest.raises(IntentError, match=r"t\.csv .*UTF-8"):
        Table(tmp_path / "t.csv", mapped(tmp_path, LEAST))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("quote", ['"', ""], ids=["a quote before", "no quote"])
def test_a_line_without_an_end_is_told_and_not_held(tmp_path: Path, quote: str) -> None:
    """Compressed, it is as long as one likes."""
    endless = gzip.compress(f"{HEADER}1,5,view_item,i,{quote}mug{quote}\n".encode() + b"x" * (64 << 20))
    (tmp_path / "t.csv.gz").write_bytes(endless)
    tracemalloc.start()
    try:
        with pytest.raises(IntentError, match=r"t\.csv\.gz: line 3 is longer than 1,048,576 characters"):
            Table(tmp_path / "t.csv.gz", mapped(tmp_path, QUOTED))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_an_example_of_a_long_field_is_a_sentence(tmp_path: Path) -> None:
    table = small(tmp_path, [(1, "9" * 5000, "view_item"), (1, 5, "view_item")], LEAST + '[time]\nformat = "ms"')
    assert len(table.rejects.examples["time"]) < 600


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_may_hold_more_text_than_an_arrow_string_does(tmp_path: Path, kind: str) -> None:
    """2 GiB, and it would need them to show: which pieces a column is put into is Arrow's business."""
    table = pa.table({"u": ["1"], "t": ["5"], "n": ["view_item"]})
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        pacsv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    found, _ = read(path, "utn", Rejects())
    assert {column.type for column in found.columns} == {pa.large_string()}


NO_TEXT = pa.array([b"a", b"\xff"])


@pytest.mark.parametrize("field", ["u", "t", "n", "e", "i"])
@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        pytest.param(pa.array([["a"], ["b"]]), "holds list<.*>; map a column of text, numbers", id="list"),
        pytest.param(pa.array([{"a": 1}, None]), "holds struct<.*>; map a column of text, numbers", id="struct"),
        pytest.param(NO_TEXT, "holds binary that is not UTF-8 .*; save it as text", id="binary"),
        pytest.param(NO_TEXT.view(pa.string()), "holds string that is not UTF-8 .*; save it as text", id="text"),
        pytest.param(
            NO_TEXT.dictionary_encode(), "holds binary that is not UTF-8 .*; save it as text", id="dictionary"
        ),
    ],
)
def test_a_column_that_is_no_text_is_told(tmp_path: Path, field: str, column: pa.Array, sentence: str) -> None:
    columns = {"u": ["1", "2"], "t": ["1", "2"], "n": ["view_item"] * 2, "e": ["a", "b"], "i": ["a", "b"]}
    pq.write_table(pa.table(columns | {field: column}), tmp_path / "t.parquet")
    mapping = mapped(tmp_path, f'{LEAST}event_id = "e"\nitem_id = "i"\n[time]\nformat = "ms"')
    with pytest.raises(IntentError, match=rf"t\.parquet: the column '{field}' {sentence}"):
        Table(tmp_path / "t.parquet", mapping)


@pytest.mark.parametrize(
    ("user", "told"),
    [
        pytest.param(pa.array([b"\xc3\xa4"]), "ä", id="binary"),
        pytest.param(pa.array([b"abcd"], pa.binary(4)), "abcd", id="binary of a width"),
        pytest.param(pa.array(["a"]).dictionary_encode(), "a", id="dictionary"),
        pytest.param(pa.array(["a"], pa.string_view()), "a", id="view"),
        pytest.param(pa.array([7], pa.timestamp("ns")), "1970-01-01 00:00:00.000000007", id="nanoseconds"),
        pytest.param(pa.array([2**48], pa.timestamp("ms")), "10889-08-02 05:31:50.656", id="far from here"),
        pytest.param(pa.array([UUID(int=7).bytes], pa.binary(16)).cast(pa.uuid()), str(UUID(int=7)), id="UUID"),
    ],
)
def test_what_can_be_told_as_text_is_a_user(tmp_path: Path, user: pa.Array, told: str) -> None:
    pq.write_table(pa.table({"u": user, "t": [1], "n": ["view_item"]}), tmp_path / "t.parquet")
    mapping = mapped(tmp_path, LEAST + 'event_id = "u"\n[time]\nformat = "ms"')
    assert [(e.user_id, e.event_id) for e in Table(tmp_path / "t.parquet", mapping).events()] == [(told, told)]


@pytest.mark.parametrize(
    "command",
    [
        "score table {place} --out {place}.parquet",
        "drift data {place}",
        "drift reference {place} --out {place}-b",
        "import table {place}",
    ],
)
@pytest.mark.parametrize("begin", ["2024-05-02", "2024-05-03"])
def test_a_range_that_ends_before_it_begins_is_bad_usage(tmp_path: Path, command: str, begin: str) -> None:
    small(tmp_path, [(1, "2024-05-01T10:00:00Z", "view_item")])
    options = ["--map", str(tmp_path / "mapping.toml"), "--from", begin, "--to", "2024-05-02"]
    done = CliRunner().invoke(cli.app, [*command.format(place=tmp_path / "t.csv").split(), *options])
    assert done.exit_code == 2, done.output
    assert f"--from: {begin} is not before --to, which is 2024-05-02" in " ".join(done.output.replace("│", " ").split())


def test_a_typed_time_that_is_none_is_told_as_a_written_one(tmp_path: Path) -> None:
    typed = pa.array([1, None], pa.timestamp("ms", "UTC")), pa.array([7, 2**30], pa.date32())
    for times in typed:
        pq.write_table(pa.table({"u": ["a", "b"], "t": times, "n": ["view_item"] * 2}), tmp_path / "t.parquet")
        table = Table(tmp_path / "t.parquet", mapped(tmp_path, LEAST + '[time]\nzone = "UTC"'))
        assert len(table) == 1
        assert "is not a time by 'rfc3339'" in table.rejects.examples["time"]


def test_slices_by_dates_or_shares(tmp_path: Path) -> None:
    rows: list[tuple[object, object, object]] = [
        (1, f"2024-0{month}-01T00:00:00Z", "page_view") for month in (1, 2, 3, 4, 5)
    ]
    day = 86_400_000
    start = 1_704_067_200_000
    table = small(tmp_path, rows, LEAST + "[splits]\nvalidation = 2024-03-01\ntest = 0.75")
    assert table.splits == Splits(
        start=start, validation=start + 60 * day, test=start + round((121 * day + 1) * 0.75), end=start + 121 * day + 1
    )
    assert table.time("2024-03-01") == start + 60 * day
    with pytest.raises(SettingError, match="not in order"):
        _ = small(tmp_path, rows, LEAST + "[splits]\nvalidation = 2024-03-01\ntest = 0.1").splits


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Los_Angeles", "UTC"])
def test_days_are_told_in_the_zone_that_they_are_given_in(tmp_path: Path, zone: str) -> None:
    rows: list[tuple[object, object, object]] = [
        (1, f"2024-0{month}-01T12:00:00Z", "page_view") for month in (1, 2, 3, 4, 5)
    ]
    named = LEAST + f'[time]\nzone = "{zone}"\n[splits]\nvalidation = 2024-03-01\n'
    about = small(tmp_path, rows, named + "test = 2024-04-01").about
    assert f"validation from 2024-03-01, test from 2024-04-01 ({zone})" in about
    assert "2024-01-01 to 2024-05-01" in about
    with pytest.raises(SettingError, match=re.escape(f"from 2024-01-01 to 2024-05-01 ({zone})")):
        _ = small(tmp_path, rows, named + "test = 2024-02-01").splits


def test_the_example_maps_what_its_query_selects() -> None:
    query = (GA4.parent / "README.md").read_text()
    assert all(column in query for column in COLUMNS)
