"""A worker's `/metrics` page as numbers: the one place that reads it. Knows no metric by name."""

import urllib.request

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


def scrape(settings: Settings) -> Samples:
    """Of the running worker, now. Raises `OSError` where it does not answer."""
    url = f"http://{settings.worker.web_host}:{settings.worker.web_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return samples(answer.read().decode())
