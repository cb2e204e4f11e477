"""What readers of a deployment see when its input is done, against the oracle: the audit without histories."""

from collections.abc import Iterator
from dataclasses import fields

from tests.chaos.audit import Findings, unrepeatable, wrong_windows
from tests.integration.deployment import read_all
from tests.integration.verdict import Verdict
from worker.settings import Settings

NAMES = {
    "lost": "scores lost",
    "twice": "scores twice",
    "unrepeatable": "scores unrepeatable",
    "windows": "windows differ",
    "uncommitted": "scores never seen uncommitted",
    "other": "other differences",
}


def examine(settings: Settings, *, servers: str | None = None) -> tuple[Verdict, Findings]:
    """What was due, and every difference. `servers` serve plain readers, where the worker's own do not."""
    servers = servers or settings.kafka.bootstrap_servers
    topics = settings.topics
    source, scores, latest, letters, changelog = (
        read_all(servers, topic)
        for topic in (topics.events, topics.scores, topics.latest, topics.dead_letters, settings.changelog)
    )
    uncommitted = read_all(servers, topics.scores, isolation="read_uncommitted")
    verdict = Verdict(topics.events, source)
    return verdict, Findings(
        lost=verdict.lost(scores),
        twice=verdict.repeated(scores),
        unrepeatable=list(unrepeatable([*scores, *uncommitted], tolerance=0)),
        windows=[*verdict.wrong_scores(scores), *wrong_windows(verdict, changelog)],
        uncommitted=verdict.lost(uncommitted),
        other=[
            *verdict.disorder(scores),
            *verdict.wrong_latest(latest),
            *verdict.wrong_dead_letters(letters, source),
        ],
    )


def summary(found: Findings) -> str:
    """How many of each; empty when there are none."""

    def counts() -> Iterator[str]:
        for kind in fields(found):
            if some := getattr(found, kind.name):
                yield f"{len(some)} {NAMES[kind.name]}"

    return ", ".join(counts())
