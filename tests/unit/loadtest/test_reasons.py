"""The clock beside the score: every part is timed, and too dear a part fails the run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest import gather, reasons
from loadtest.__main__ import app
from tests.unit.scoring import making
from worker.errors import CheckFailed
from worker.scoring import bundle as bundles
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.training import habits


def learnt() -> Bundle:
    batches = [Batch.of(making.random_windows(60, seed=61))]
    return replace(making.bundle(), habits=habits.learn(batches, batches))


def test_each_part_is_timed() -> None:
    found = reasons.measure(learnt(), [making.random_windows(64, seed=62)] * 2, rounds=2)
    assert list(found) == ["the whole score", "reason codes", "risk by habits", "risk by the rule"]
    assert min(found.values()) > 0
    assert found["the whole score"] > found["risk by habits"]


@pytest.mark.parametrize("there", [3, 9])
def test_a_sample_of_few_windows_fills_every_batch(there: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Sequence[bytes]] = []

    def measured(_: Bundle, batches: Sequence[Sequence[bytes]], *, rounds: int) -> dict[str, float]:
        given.extend(batches)
        return dict.fromkeys(("the whole score", "reason codes", "risk by habits"), float(rounds))

    monkeypatch.setattr(gather, "real_windows", lambda *_, **__: (making.random_windows(there, seed=63), "made up"))
    monkeypatch.setattr(bundles, "load", learnt)
    monkeypatch.setattr(reasons, "measure", measured)
    CliRunner().invoke(app, ["reasons", "--batch", "4", "--out", str(tmp_path)])
    assert [len(batch) for batch in given] == [4, 4, 4, 4]


@pytest.mark.parametrize("share", [0.04, 0.06])
def test_more_than_a_tenth_fails(share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"the whole score": 100.0, "reason codes": 100 * share, "risk by habits": 100 * share}
    monkeypatch.setattr(gather, "real_windows", lambda _, count: (making.random_windows(count, seed=63), "made up"))
    monkeypatch.setattr(bundles, "load", learnt)
    monkeypatch.setattr(reasons, "measure", lambda *_, **__: parts)
    run = CliRunner().invoke(app, ["reasons", "--batch", "4", "--out", str(tmp_path), "--json"])
    assert (tmp_path / "reasons.json").exists()
    if share > 0.05:
        assert isinstance(run.exception, CheckFailed)
        assert "12.0 %" in str(run.exception)
    else:
        assert run.exit_code == 0, run.output
