"""Networks and batches for the packed forward's tests: any sizes, any lengths, and what Hugging Face makes of them."""

from dataclasses import replace

import numpy as np
import torch

from tests.unit.scoring import making
from worker.scoring import aggregates, encode, model
from worker.scoring.batch import Batch, Floats, Heads, Rows
from worker.scoring.bundle import Bundle
from worker.scoring.head import Shape
from worker.scoring.packed import Network

SMALL = Shape(layers=2, hidden=64, heads=4, head_width=16)

CPU = torch.device("cpu")


def bundle(shape: Shape, *, seed: int = 3) -> Bundle:
    """As `making.bundle`, of another shape: weights large enough for scores to differ."""
    made = making.bundle(seed=seed)
    torch.manual_seed(seed)
    built = model.build(shape, made.vocabulary).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "LayerNorm" not in name:
                parameter.mul_(4.0 if "bert" in name else 2.5)
    return replace(made, weights=model.weights(built))


def network(made: Bundle, *, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> Network:
    known = made.calibration
    return Network.of(made.weights, slopes=known.slopes, intercepts=known.intercepts, dtype=dtype, device=device)


def batch(lengths: list[int], *, seed: int = 0) -> Batch:
    """Of windows of these lengths, longer ones than the fold keeps included."""
    rng = np.random.default_rng(seed)
    sizes = np.array(lengths, np.int64)
    first, total = np.cumsum(sizes) - sizes, int(sizes.sum())
    ages = np.concatenate([np.sort(rng.integers(0, 3_000_000, length))[::-1] for length in lengths])
    gaps = np.concatenate(([0], ages[:-1] - ages[1:]))
    gaps[first] = -1
    sessions = np.concatenate([np.arange(length) // 9 for length in lengths])
    opens = np.concatenate(([True], sessions[1:] != sessions[:-1]))
    opens[first] = True
    in_all = np.array([1 + (length - 1) // 9 for length in lengths], np.int64)
    heads = Heads(
        lengths=sizes,
        first=first,
        sessions=in_all,
        newest_ms=np.full(len(lengths), making.START_MS, np.int64),
        context=rng.integers(0, 3, (len(lengths), 7), dtype=np.uint32),
        visit_number=np.zeros(len(lengths), np.int64),
    )
    rows = Rows(
        item=rng.integers(0, 2**32, total, dtype=np.uint32),
        category=rng.integers(0, 2**32, total, dtype=np.uint32),
        page=rng.integers(0, 2**32, total, dtype=np.uint32),
        kind=rng.integers(0, 12, total, dtype=np.uint8),
        price_cents=rng.integers(0, 20_000, total, dtype=np.int32),
        age_ms=ages.astype(np.int64),
        gap_ms=gaps.astype(np.int64),
        sessions_back=(np.repeat(in_all - 1, sizes) - sessions).astype(np.uint8),
        opens=opens,
    )
    return Batch(heads, rows)


def part(given: Batch, start: int, end: int) -> Batch:
    """The windows [start, end)."""
    bounds = [*given.first.tolist(), given.events]
    heads = Heads(*(column[start:end] for column in given.heads))
    rows = Rows(*(column[bounds[start] : bounds[end]] for column in given.rows))
    return Batch(heads._replace(first=heads.first - bounds[start]), rows)


def joined(one: Batch, other: Batch) -> Batch:
    """Both, one behind the other."""
    heads = Heads(*map(np.concatenate, zip(one.heads, other.heads, strict=True)))
    rows = Rows(*map(np.concatenate, zip(one.rows, other.rows, strict=True)))
    return Batch(heads._replace(first=np.cumsum(heads.lengths) - heads.lengths), rows)


def eager(made: Bundle, given: Batch) -> Floats:
    """[B, HORIZONS] probabilities by Hugging Face's own forward, padded, in float32."""
    tokens = encode.padded(given, encode.tokens(given, made.vocabulary), np.arange(len(given)))
    inputs = (tokens, encode.contexts(given, made.vocabulary), aggregates.aggregates(given))
    with torch.inference_mode():
        logits = made.model(*(torch.from_numpy(array) for array in inputs))
    return made.calibration.probabilities(logits.numpy())
