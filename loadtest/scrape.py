"""A worker's `/metrics` page as numbers: the one place that reads it. Knows no metric by name."""

import urllib.request
from collections import defaultdict
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

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
        url = f"http://{settings.worker.web_host}:{settings.worker.web_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = samples(answer.read().decode())
        for sample, value in page.items():
            sums[sample] += value
    return sums
