"""Every number that the worker tells Prometheus, in one place. Owns names, help texts and buckets.

Knows neither where a number comes from nor how it is served. Labels are only what is bounded by the deployment
(fate, reason, partition, model): never a user and never an offset, since each label value is a time series for ever.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

FATES: Final = ("scored", "coalesced", "duplicate", "late", "erased", "dead")
"""What can become of an event; each read offset has exactly one of these."""

RELOADS: Final = ("done", "refused", "unusable")
"""What can come of a look at an alias that has moved."""

DROPS: Final = ("busy", "gone", "failed", "kafka")
"""Why a challenger's score is not published."""

BATCH_EVENTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
"""A quiet shop commits single events, a catch-up whole fetches of thousands: 1-2-5 steps over four decades."""

STEP_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""One step (a transaction, a scoring call): 1-2-5 from the fastest seen (1.3 ms) to the time-outs that end a worker."""

END_TO_END_SECONDS: Final = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1, 2, 5, 10, 30, 60, 300, 900, 3600),
)
"""Dense between 20 and 300 ms, where p50 to p99 lie and where a promise to readers is made; coarse up to an outage."""

SHARE_DIFFERENCE: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
"""Between two probabilities: from what two ways to compute the same model differ by, to opposite answers."""


class BatchHistogram(Collector):
    """A histogram without labels that takes whole arrays.

    `prometheus_client.Histogram.observe` takes one value in about 1 µs, which at 88k events/s would be a tenth of a
    core; one array of 100 values here takes about 10 µs. Written by one thread, without a lock: a scrape on another may
    find a sum that is one array ahead.
    """

    def __init__(self, name: str, documentation: str, *, buckets: Iterable[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.array(sorted(buckets), dtype=np.float64)
        self._counts = np.zeros(len(self._bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: ArrayLike) -> None:
        """Count values (any shape, in the unit of the name). A negative one, from a clock set back, counts as 0."""
        array = np.maximum(np.asarray(values, dtype=np.float64).ravel(), 0.0)
        at = np.searchsorted(self._bounds, array, side="left")  # a bound belongs to its bucket: `le`
        self._counts += np.bincount(at, minlength=len(self._counts))
        self._sum += float(array.sum())

    def collect(self) -> Iterable[Metric]:
        """The family for a scrape, buckets cumulative as Prometheus wants them."""
        cumulative = np.cumsum(self._counts).tolist()
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], list(zip(bounds, cumulative, strict=True)), self._sum)
        yield family

    def describe(self) -> Iterable[Metric]:
        """What registration checks for clashes of names, without a scrape."""
        yield HistogramMetricFamily(self._name, self._documentation)


class Metrics:
    """The worker's metrics, registered once in `registry`. An attribute is named as its metric, without `intent_`.

    Events/s, error shares and percentiles are not here: Prometheus derives them from these (`rate`,
    `histogram_quantile`), over any time range.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._page: bytes | None = None
        # Else each counter has a second series, its birth time, which nothing here asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations

        self.events_total = Counter(
            "intent_events_total",
            "Source events whose fate is committed, by fate. The sum over all fates is the number of events read.",
            ["fate"],
            registry=registry,
        )
        self.scores_total = Counter(
            "intent_scores_total",
            "Scores published in committed transactions.",
            registry=registry,
        )
        self.dead_letters_total = Counter(
            "intent_dead_letters_total",
            "Events committed to the dead-letter topic, by reason; late events are among them.",
            ["reason"],
            registry=registry,
        )

        self.lost_offsets_total = Counter(
            "intent_lost_offsets_total",
            "Source offsets that were deleted from the topic before this worker had read them.",
            registry=registry,
        )

        self.batch_events = Histogram(
            "intent_batch_events",
            "Source events in one committed batch of one partition.",
            buckets=BATCH_EVENTS,
            registry=registry,
        )
        self.score_seconds = Histogram(
            "intent_score_seconds",
            "Time a batch waited for its scores, the engine's queue included.",
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self.transaction_seconds = Histogram(
            "intent_transaction_seconds",
            "Time of one Kafka transaction, from its begin to its acknowledged commit.",
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self.event_to_score_seconds = BatchHistogram(
            "intent_event_to_score_seconds",
            "Time from an event's record timestamp to the commit of the transaction that holds its fate.",
            buckets=END_TO_END_SECONDS,
            registry=registry,
        )

        self.stream_queue_events = Gauge(
            "intent_stream_queue_events",
            "Events fetched and not yet taken into a batch, over all assigned partitions.",
            registry=registry,
        )
        self.engine_queue_windows = Gauge(
            "intent_engine_queue_windows",
            "Windows that wait for the device.",
            registry=registry,
        )
        self.lag_events = Gauge(
            "intent_lag_events",
            "Source offsets behind the end of an assigned partition. Transaction markers hold offsets too.",
            ["partition"],
            registry=registry,
        )
        self.watermark_offset = Gauge(
            "intent_watermark_offset",
            "The last source offset of an assigned partition that is done: its fate is committed.",
            ["partition"],
            registry=registry,
        )
        self.model_info = Gauge(
            "intent_model_info",
            "1 for the model that scores now.",
            ["name", "version"],
            registry=registry,
        )

        self.model_reloads_total = Counter(
            "intent_model_reloads_total",
            "Models that an alias moved to, by result: done, refused (the model), unusable (the store).",
            ["result"],
            registry=registry,
        )
        self.model_refused = Gauge(
            "intent_model_refused",
            "1 while the alias names a version that this worker has refused: it goes on with the one before.",
            ["alias"],
            registry=registry,
        )
        self.model_store_seen = Gauge(
            "intent_model_store_seen_timestamp_seconds",
            "When the model store last said what its aliases name, Unix time; 0 without a store.",
            registry=registry,
        )
        self.challenger_info = Gauge(
            "intent_challenger_info",
            "1 for the model that scores beside the champion; no series without one.",
            ["name", "version"],
            registry=registry,
        )
        self.shadow_scores_total = Counter(
            "intent_shadow_scores_total",
            "Scores of the challenger that Kafka has acknowledged.",
            registry=registry,
        )
        self.shadow_dropped_total = Counter(
            "intent_shadow_dropped_total",
            "Scores of the challenger that will not be, by reason: busy (no capacity), gone (it has), failed, kafka.",
            ["reason"],
            registry=registry,
        )
        self.shadow_difference = BatchHistogram(
            "intent_shadow_difference",
            "Absolute difference of champion and challenger for one window, in probability of a purchase in 24 h.",
            buckets=SHARE_DIFFERENCE,
            registry=registry,
        )

        self.drift_psi = Gauge(
            "intent_drift_psi",
            "Population stability index of a feature of what was scored lately, against the model's reference. "
            "No series for a model without one, or while too few events make chance alone exceed 0.1.",
            ["feature"],
            registry=registry,
        )
        self.unseen_items_ratio = Gauge(
            "intent_unseen_items_ratio",
            "Share of the events with an item whose item has no embedding of its own, of what was scored lately; NaN "
            "where nothing is known.",
            registry=registry,
        )
        self.drift_window_events = Gauge(
            "intent_drift_window_events",
            "Events that the drift gauges rest on: a sample of what was scored lately.",
            registry=registry,
        )

        self.rebalances_total = Counter(
            "intent_rebalances_total",
            "Assignments of partitions that this worker has received from its group.",
            registry=registry,
        )
        self.recovered_records_total = Counter(
            "intent_recovered_records_total",
            "Changelog records read back into local state.",
            registry=registry,
        )

        self.recovery_remaining_records = Gauge(
            "intent_recovery_remaining_records",
            "Changelog offsets to be read until this worker's own partitions are recovered: at most so many records.",
            registry=registry,
        )

        self.ready = Gauge(
            "intent_ready",
            "1 while /readyz answers 200: events that arrive now get scores.",
            registry=registry,
        )
        self.tasks = Gauge(
            "intent_tasks",
            "Tasks of the event loop: a number that only grows is a leak.",
            registry=registry,
        )

        self.forget_drift()
        for fate in FATES:  # at 0 from the start: `rate` misses a counter's first step when it appears with a value
            self.events_total.labels(fate=fate)
        for result in RELOADS:
            self.model_reloads_total.labels(result=result)
        for reason in DROPS:
            self.shadow_dropped_total.labels(reason=reason)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it. Called on an event loop.

        Rendered once for all who ask in the same turn of the loop: it takes milliseconds, and a hundred callers with
        many requests each kept the health pages from being answered in time.
        """
        if self._page is None:
            self._page = generate_latest(self.registry)
            asyncio.get_running_loop().call_soon(self._forget_page)
        return self._page

    def _forget_page(self) -> None:
        self._page = None

    def count_fates(self, counts: Mapping[str, int]) -> None:
        """Add a committed batch's events by fate."""
        for fate, count in counts.items():
            self.events_total.labels(fate=fate).inc(count)

    def show_model(self, *, name: str, version: str) -> None:
        """Tell which model scores from now on; the former one disappears from the next scrape."""
        self.model_info.clear()
        self.model_info.labels(name=name, version=version).set(1)

    def show_challenger(self, *, name: str, version: str | None) -> None:
        """Tell which model scores beside the champion from now on; none without a version."""
        self.challenger_info.clear()
        if version is not None:
            self.challenger_info.labels(name=name, version=version).set(1)

    def show_drift(self, *, psi: Mapping[str, float], unseen_items: float | None, events: int) -> None:
        """Tell how far each feature has moved; those that are not named say nothing any more."""
        self.forget_drift()
        for feature, value in psi.items():
            self.drift_psi.labels(feature=feature).set(value)
        self.unseen_items_ratio.set(float("nan") if unseen_items is None else unseen_items)
        self.drift_window_events.set(events)

    def forget_drift(self) -> None:
        """Nothing is known of drift."""
        self.drift_psi.clear()
        self.unseen_items_ratio.set(float("nan"))
        self.drift_window_events.set(0)

    def show_progress(self, *, partition: int, watermark: int, lag_events: Callable[[], int]) -> None:
        """Tell how far an assigned partition is.

        `lag_events` is asked at each scrape: lag grows most while nothing is committed, so while nobody would tell.
        """
        label = str(partition)
        self.watermark_offset.labels(partition=label).set(watermark)
        self.lag_events.labels(partition=label).set_function(lag_events)

    def forget_partition(self, partition: int) -> None:
        """Drop the series of a revoked partition: its new owner tells them, and two truths add up to a false lag."""
        label = str(partition)
        self.watermark_offset.remove(label)
        self.lag_events.remove(label)
