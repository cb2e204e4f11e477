"""The metrics as Prometheus would see them."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from worker.ops.metrics import FATES, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def sample(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_every_fate_is_there_from_the_start(metrics: Metrics) -> None:
    assert {fate: sample(metrics, "intent_events_total", fate=fate) for fate in FATES} == dict.fromkeys(FATES, 0.0)


async def test_all_who_ask_at_once_get_one_rendering(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[CollectorRegistry] = []

    def render(registry: CollectorRegistry) -> bytes:
        rendered.append(registry)
        return generate_latest(registry)

    async def ask() -> bytes:
        return metrics.page()

    monkeypatch.setattr("worker.ops.metrics.generate_latest", render)
    assert len(set(await asyncio.gather(*(ask() for _ in range(100))))) == len(rendered) == 1
    metrics.count_fates({"scored": 7})
    assert b'intent_events_total{fate="scored"} 7.0' in await ask()


def test_fates_add_up(metrics: Metrics) -> None:
    metrics.count_fates({"scored": 7, "duplicate": 2})
    metrics.count_fates({"scored": 1, "dead": 1})
    assert sample(metrics, "intent_events_total", fate="scored") == 8
    assert sum(sample(metrics, "intent_events_total", fate=fate) or 0 for fate in FATES) == 11


def test_arrays_fall_into_their_buckets(metrics: Metrics) -> None:
    metrics.event_to_score_seconds.observe([0.004, 0.005, 0.0051])
    metrics.event_to_score_seconds.observe([[9e9, -1.0]])
    name = "intent_event_to_score_seconds"
    assert sample(metrics, f"{name}_bucket", le="0.005") == 3  # a bound is inside its bucket; a negative time is 0
    assert sample(metrics, f"{name}_bucket", le="0.01") == 4
    assert sample(metrics, f"{name}_bucket", le="3600.0") == 4
    assert sample(metrics, f"{name}_bucket", le="+Inf") == 5
    assert sample(metrics, f"{name}_count") == 5
    assert sample(metrics, f"{name}_sum") == pytest.approx(9e9 + 0.0141)


def test_an_empty_array_changes_nothing(metrics: Metrics) -> None:
    metrics.event_to_score_seconds.observe([])
    assert sample(metrics, "intent_event_to_score_seconds_count") == 0


def test_a_revoked_partition_disappears(metrics: Metrics) -> None:
    metrics.show_progress(partition=3, watermark=41, lag_events=lambda: 2)
    metrics.show_progress(partition=4, watermark=7, lag_events=lambda: 5)
    assert sample(metrics, "intent_lag_events", partition="3") == 2
    metrics.forget_partition(3)
    metrics.forget_partition(9)  # never seen: nothing to do
    assert sample(metrics, "intent_lag_events", partition="3") is None
    assert sample(metrics, "intent_watermark_offset", partition="4") == 7


def test_lag_is_as_of_the_scrape(metrics: Metrics) -> None:
    lag = [5]
    metrics.show_progress(partition=0, watermark=7, lag_events=lambda: lag[0])
    lag[0] = 70  # nothing was committed since, and nobody told
    assert sample(metrics, "intent_lag_events", partition="0") == 70


def test_one_model_at_a_time(metrics: Metrics) -> None:
    metrics.show_model(name="shop", version="1")
    metrics.show_model(name="shop", version="2")
    assert sample(metrics, "intent_model_info", name="shop", version="1") is None
    assert sample(metrics, "intent_model_info", name="shop", version="2") == 1


def test_names_and_labels_keep_the_house_rules(metrics: Metrics) -> None:
    families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    assert len(families) >= 14
    for family in families:
        assert family.name.startswith("intent_")
        assert family.documentation
    counters = {family.name for family in families if family.type == "counter"}
    exposed = generate_latest(metrics.registry).decode()
    assert all(f"# TYPE {name}_total counter" in exposed for name in counters)


def test_two_workers_metrics_do_not_share_a_registry(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(metrics.registry)
