"""The real sample's tables as events, on tables made here; and the sample's own numbers where it is present."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.training import samples
from tests.unit.training.samples import hit, product, session, write
from worker import events
from worker.errors import IntentError, SettingError
from worker.events import Context, Event
from worker.shop.ga360 import Sample, parse_time
from worker.training.labels import START

REAL = Path(os.environ.get("INTENT_GA360", Path(__file__).parents[4] / "shared" / "data" / "ga360"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a made-up sample of 600 visitors."""
    return samples.shop(tmp_path_factory.mktemp("shop"), visitors=600, seed=8)


def read(folder: Path, *hits: dict[str, object], sessions: list[dict[str, object]] | None = None) -> list[Event]:
    numbered = [one | {"hit_number": number} for number, one in enumerate(hits, start=1)]
    return list(Sample(write(folder, numbered, sessions or [session()])).events())


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        pytest.param({}, "page_view", id="page"),
        pytest.param({"impressions": 4}, "view_item_list", id="list"),
        pytest.param({"action_type": "1", "type": "EVENT"}, "select_item", id="click on a product"),
        pytest.param({"action_type": "2", "impressions": 3}, "view_item", id="product"),
        pytest.param({"action_type": "3", "type": "EVENT"}, "add_to_cart", id="add"),
        pytest.param({"action_type": "4", "page_path": "/basket.html"}, "remove_from_cart", id="remove"),
        pytest.param({"action_type": "5", "checkout_step": 1}, "begin_checkout", id="step 1"),
        pytest.param({"action_type": "5", "checkout_step": 2}, "add_payment_info", id="step 2"),
        pytest.param({"action_type": "5", "checkout_step": 3}, "review_order", id="step 3"),
        pytest.param({"action_type": "6", "transaction_id": "T1"}, "purchase", id="purchase"),
        pytest.param({"event_action": "Promotion Click", "type": "EVENT"}, "select_promotion", id="promotion"),
        pytest.param({"page_path": "/asearch.html", "impressions": 9}, "search", id="search"),
        pytest.param({"page_path": "/basket.html"}, "view_cart", id="basket"),
        pytest.param({"page_path": "/signin.html"}, "login", id="sign in"),
        pytest.param({"page_path": "/registersuccess.html"}, "sign_up", id="register"),
        pytest.param({"event_action": "Onsite Click", "type": "EVENT"}, "click", id="click on the page"),
    ],
)
def test_a_hit_is_named(tmp_path: Path, fields: dict[str, object], kind: str) -> None:
    assert [event.type for event in read(tmp_path, hit(**fields))] == [kind]


def test_a_transaction_reported_twice_is_one_purchase(tmp_path: Path) -> None:
    done = {"action_type": "6", "page_path": "/ordercompleted.html", "transaction_revenue": 12.5}
    found = read(
        tmp_path, hit(**done, transaction_id="A"), hit(**done, transaction_id="A"), hit(**done, transaction_id="B")
    )
    assert [event.type for event in found] == ["purchase", "page_view", "purchase"]
    assert [(event.value, event.currency) for event in found] == [(12.5, "USD"), (None, None), (12.5, "USD")]


def test_every_event_carries_its_session_and_the_context_of_its_start(tmp_path: Path) -> None:
    """A session over midnight has two rows; what was known at its start counts."""
    sessions = [session(start_ms=START + 5, country="Canada", visit_number=2), session(start_ms=START)]
    context = Context("Direct", "(direct)", "(none)", "Chrome", "Linux", "desktop", "United States", 1)
    found = read(tmp_path, hit(), hit(), sessions=sessions)
    assert [(event.event_id, event.session_id, event.user_id, event.context) for event in found] == [
        ("1-100-1", "1-100", "1", context),
        ("1-100-2", "1-100", "1", context),
    ]


def test_what_no_shop_would_say_is_left_out(tmp_path: Path) -> None:
    odd = [
        product("S1", category="(not set)", quantity=10**16),
        product("S2", category="${escCatTitle}", quantity=None),
        product(""),
    ]
    (event,) = read(tmp_path, hit(products=odd, page_path=None))
    assert [(item.item_id, item.item_category, item.quantity) for item in event.items] == [
        ("S1", None, None),
        ("S2", None, None),
    ]
    assert event.page is None


def test_every_event_is_valid_on_the_wire(shop: Path) -> None:
    for event in Sample(shop).events():
        assert events.decode(events.encode(event), key=event.user_id.encode(), timestamp_ms=event.time_ms) == event


def test_a_range_gives_the_same_events_as_the_whole(shop: Path) -> None:
    sample = Sample(shop)
    whole = list(sample.events())
    assert len(whole) == len(sample) > 2000
    cut = whole[1234].time_ms
    part = [event for event in whole if cut <= event.time_ms < cut + 10**9]
    assert list(sample.events(cut, cut + 10**9)) == part
    assert sample.count(cut, cut + 10**9) == len(part) > 100
    assert list(sample.events(cut, cut)) == []


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        pytest.param("2016-10-01", 1_475_305_200_000, id="the shop's day"),
        pytest.param("2016-10-01T00:00:00Z", 1_475_280_000_000, id="UTC"),
        pytest.param("2016-10-01T00:00:00-07:00", 1_475_305_200_000, id="offset"),
    ],
)
def test_times(text: str, time_ms: int) -> None:
    assert parse_time(text) == time_ms


@pytest.mark.parametrize("text", ["yesterday", "2016-10-01T00:00:00", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"(give a date|no offset)"):
        parse_time(text)


def test_broken_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"hits\.parquet does not exist; give the folder"):
        Sample(tmp_path)
    (tmp_path / "one.csv").touch()
    with pytest.raises(SettingError, match=r"one\.csv.hits\.parquet does not exist; give the folder"):
        Sample(tmp_path / "one.csv")
    write(tmp_path, [hit(timestamp_ms=START + 1), hit()], [session()])
    with pytest.raises(IntentError, match="not sorted by `timestamp_ms`"):
        Sample(tmp_path)
    for times in (pa.array(["soon"]), pa.array([None], pa.int64())):
        table = pq.read_table(tmp_path / "hits.parquet").slice(0, 1)
        at = table.column_names.index("timestamp_ms")
        pq.write_table(table.set_column(at, "timestamp_ms", times), tmp_path / "hits.parquet")
        with pytest.raises(IntentError, match=r"`timestamp_ms` holds .*, or gaps; int64"):
            Sample(tmp_path)
    write(tmp_path, [hit()], [{"session_id": "1-100"}])
    with pytest.raises(IntentError, match=r"sessions\.parquet has no column 'start_ms'"):
        Sample(tmp_path)
    (tmp_path / "hits.parquet").write_bytes(b"no parquet")
    with pytest.raises(IntentError, match=r"hits\.parquet cannot be read as parquet"):
        Sample(tmp_path)


@pytest.mark.parametrize(
    ("table", "column"), [("hits", "page_path"), ("hits", "timestamp_ms"), ("sessions", "country")]
)
def test_damage_behind_the_footer_is_told_as_such(shop: Path, tmp_path: Path, table: str, column: str) -> None:
    damaged = Path(shutil.copytree(shop, tmp_path / "damaged")) / f"{table}.parquet"
    footer = pq.read_metadata(damaged).row_group(0)
    chunk = next(part for part in map(footer.column, range(footer.num_columns)) if part.path_in_schema == column)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    with damaged.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * chunk.total_compressed_size)
    with pytest.raises(IntentError, match=rf"{table}\.parquet cannot be read as parquet"):
        list(Sample(damaged.parent).events())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the GA360 sample is not at {REAL}; set INTENT_GA360 to its folder")
def test_the_real_sample_is_what_its_description_says() -> None:
    sample = Sample(REAL)
    assert len(sample) == 1_066_236
    day = list(sample.events(parse_time("2016-10-01"), parse_time("2016-10-02")))
    assert len({event.event_id for event in day}) == len(day) == 7399
    assert Counter(event.type for event in day)["purchase"] > 5
    assert all(event.context is not None for event in day)
