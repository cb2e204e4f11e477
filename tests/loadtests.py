"""A load test that is small enough for a test."""

from pathlib import Path

from loadtest import pipeline


def run_light(folder: Path, servers: str) -> None:
    """One run on brokers of the user's own."""
    pipeline.pipeline(
        job="light",
        contender=[pipeline.Contender.BARE],
        runs=1,
        scale=0.001,
        bootstrap_servers=servers,
        folder=folder,
    )
