"""A worker's `/metrics` page as numbers: the one place that reads it. Knows no metric by name."""

from collections import defaultdict
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from worker.ops import page
from worker.settings import Settings

Samples = dict[tuple[str, ...], float]
"""By the sample's name and its labels' values."""


def samples(text: str) -> Samples:
    """Of a page in Prometheus' text format."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(workers: Iterable[Settings]) -> Samples:
    """Of the running workers, now; their sums. Raises `OSError` where one does not answer."""
    sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for settings in workers:
        host, port = settings.worker.web_host, settings.worker.web_port
        found = page.body("metrics", host=host, port=port, timeout_s=10)
        if found is None:
            raise OSError(f"no page of metrics is answered on {host}:{port}")
        for sample, value in samples(found.decode()).items():
            sums[sample] += value
    return sums
