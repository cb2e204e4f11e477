"""Masked events: what is hidden, what is not seen of it, and that what can be guessed is."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.scoring import making
from worker.events import KINDS
from worker.scoring import encode, model
from worker.scoring.batch import Batch
from worker.scoring.head import Shape
from worker.training import loop, pretrain
from worker.training.examples import Examples
from worker.training.windows import Windows

SHAPE = Shape(layers=1, hidden=32, heads=2, head_width=16, dropout=0.0)
KINDS_SEEN = ("view_item", "add_to_cart")


def alternating(count: int) -> list[bytes]:
    """Windows in which two kinds take turns: alone, a kind is a coin; beside its neighbours, it is certain."""
    rng = np.random.default_rng(3)
    made = []
    for _ in range(count):
        start = int(rng.integers(2))
        events = [
            making.event(at, event_time=making.START_MS + 1000 * at, type=KINDS_SEEN[(start + at) % 2])
            for at in range(int(rng.integers(4, 9)))
        ]
        made.append(making.window_of(events))
    return made


def examples_of(encoded: list[bytes]) -> Examples:
    content = np.frombuffer(b"".join(encoded), np.uint8)
    count = len(encoded)
    return Examples(
        windows=Windows(content, np.cumsum([len(one) for one in encoded])),
        y=np.zeros((count, 3), np.bool_),
        counted=np.ones((count, 3), np.bool_),
        session=np.arange(count),
        visitor=np.arange(count),
        time_ms=np.zeros(count, np.int64),
    )


def test_what_alternates_is_learnt_to_be_certain() -> None:
    encoded = alternating(200)
    known = making.vocabulary()
    torch.manual_seed(1)
    network = model.build(SHAPE, known)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plan = pretrain.Plan(windows=16_000, batch_windows=64, learning_rate=3e-3, hidden=0.1, newest=0.2, bf16=False)
    guesser, _ = pretrain.pretrain(
        network, known, examples_of(encoded), plan, stage="masked events", report=lambda _: None
    )
    guesser.eval()
    batch = Batch.of(encoded)
    tokens = torch.from_numpy(encode.padded(batch, encode.tokens(batch, known), np.arange(len(batch))))
    newest = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    newest[:, 0] = True
    with torch.inference_mode():
        kind = guesser(tokens, newest)[:, 0]
    assert float(kind.mean()) < 0.1 < math.log(2)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("bert.encoder") for name in changed)
    assert "head.events.weight" in changed
    assert not any(name.startswith(("head.side", "head.out", "bert.pooler", "head.contexts")) for name in changed)


def test_a_guess_sees_nothing_of_what_is_hidden() -> None:
    """The hidden event is replaced by another: the distribution that it is judged by stays."""
    known = making.vocabulary()
    torch.manual_seed(1)
    guesser = pretrain.MaskedEvents(model.build(SHAPE, known), known).eval()
    batch = Batch.of(making.random_windows(8, seed=2, longest=20))
    tokens = torch.from_numpy(encode.padded(batch, encode.tokens(batch, known), np.arange(len(batch))))
    hidden = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    hidden[:, 0] = True
    start = known.bases["kind"]
    surprise = []
    with torch.inference_mode():
        for kind in range(len(KINDS)):
            other = tokens.clone()
            other[:, 0, 0] = start + kind
            surprise.append(guesser(other, hidden)[:, 0])
    p = torch.stack(surprise).neg().exp().sum(dim=0)  # over all kinds; the class of nothing has the rest
    assert ((p > 0.5) & (p < 1 + 1e-4)).all()
    other = tokens.clone()
    other[:, 0, 1:] = encode.NOTHING
    with torch.inference_mode():
        assert torch.allclose(guesser(other, hidden)[:, 0], guesser(tokens, hidden)[:, 0], atol=1e-6)
        assert not torch.allclose(guesser(other, hidden)[:, 1:], guesser(tokens, hidden)[:, 1:])


def test_lone_events_stay_and_the_newest_is_hidden_more_often() -> None:
    lone = [making.window_of(making.random_events(np.random.default_rng(at), 1)) for at in range(50)]
    batch = Batch.of(lone + making.random_windows(400, seed=5, longest=30))
    chosen = pretrain.hidden(batch, np.random.default_rng(1), share=0.15, newest=0.3)
    assert not chosen[:50].any()
    several = batch.lengths > 1
    newest = batch.newest[several]
    rest = np.setdiff1d(np.flatnonzero(np.repeat(several, batch.lengths)), newest)
    assert chosen[newest].mean() == pytest.approx(1 - 0.85 * 0.7, abs=0.08)
    assert chosen[rest].mean() == pytest.approx(0.15, abs=0.03)


def test_a_stage_of_pretraining_repeats() -> None:
    encoded = alternating(60)
    known = making.vocabulary()
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(5)
        network = model.build(replace(SHAPE, dropout=0.1), known)
        plan = pretrain.Plan(windows=512, batch_windows=64, seed=seed, bf16=False)
        pretrain.pretrain(network, known, examples_of(encoded), plan, stage="s", report=lambda _: None)
        weights.append(network.head.first.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_sessions_are_shown_by_their_last_counted_instant() -> None:
    given = examples_of(alternating(6))
    counted = np.ones((6, 3), np.bool_)
    counted[5] = False
    found = replace(given, session=np.array([0, 1, 0, 1, 2, 2]), counted=counted)
    assert found.sessions().tolist() == [2, 3, 4]
    assert found.pool.tolist() == [0, 1, 2, 3, 4]
    assert found.weights() is None
    assert weights(found, even=1.0) == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.0])


def test_what_is_older_is_drawn_less_often() -> None:
    """Days before the newest instant that counts; the sixth is newer, and does not."""
    given = examples_of(alternating(6))
    counted = np.ones((6, 3), np.bool_)
    counted[5] = False
    days = np.array([0, 7, 14, 20, 21, 70])
    found = replace(given, session=np.array([0, 1, 0, 1, 2, 2]), counted=counted, time_ms=days * 86_400_000)
    assert weights(found, half_life_days=7.0) == pytest.approx([0.125, 0.25, 0.5, 0.5 ** (1 / 7), 1.0])
    assert weights(found, even=1.0, half_life_days=7.0) == pytest.approx([0.0625, 0.125, 0.25, 0.5 ** (8 / 7), 1.0])


def weights(found: Examples, **how: float) -> list[float]:
    made = found.weights(**how)
    assert made is not None
    return [float(weight) for weight in made]


def test_progress_counts_windows() -> None:
    seen: list[loop.Progress] = []
    known = making.vocabulary()
    plan = pretrain.Plan(windows=256, batch_windows=64, bf16=False)
    pretrain.pretrain(
        model.build(SHAPE, known), known, examples_of(alternating(80)), plan, stage="s", report=seen.append
    )
    assert [progress.windows for progress in seen] == [64, 128, 192, 256]
    assert {progress.of_windows for progress in seen} == {256}
