"""Networks and batches for the packed forward's tests: any sizes, any lengths, and what Hugging Face makes of them."""

import numpy as np
import torch

from tests.unit.scoring import making
from worker.scoring import aggregates, encode, model
from worker.scoring.batch import HEADER, ROW, Batch, Floats
from worker.scoring.bundle import Bundle
from worker.scoring.packed import Network

SMALL = model.Shape(layers=2, hidden=64, heads=4, head_width=16)

CPU = torch.device("cpu")


def bundle(shape: model.Shape, *, seed: int = 3) -> Bundle:
    """As `making.bundle`, of another shape: weights large enough for scores to differ."""
    made = making.bundle(seed=seed)
    torch.manual_seed(seed)
    built = model.build(shape, made.vocabulary).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "LayerNorm" not in name:
                parameter.mul_(4.0 if "bert" in name else 2.5)
    object.__setattr__(made, "model", built)
    return made


def network(made: Bundle, *, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> Network:
    known = made.calibration
    return Network.of(made.model, slopes=known.slopes, intercepts=known.intercepts, dtype=dtype, device=device)


def batch(lengths: list[int], *, seed: int = 0) -> Batch:
    """Of windows of these lengths, longer ones than the fold keeps included."""
    rng = np.random.default_rng(seed)
    header, row = np.zeros(len(lengths), HEADER), np.zeros(sum(lengths), ROW)
    header["newest_ms"] = making.START_MS
    header["context"] = rng.integers(0, 3, (len(lengths), 7))
    ages = np.concatenate([np.sort(rng.integers(0, 3_000_000, length))[::-1] for length in lengths])
    row["time"] = (making.START_MS - ages).astype(np.uint32)
    for name in ("item", "category", "page"):
        row[name] = rng.integers(0, 2**32, len(row), dtype=np.uint32)
    row["kind_price"] = rng.integers(0, 12, len(row)) | (rng.integers(0, 20_000, len(row)) << 8)
    row["session"] = 1 + np.concatenate([np.arange(length) // 9 for length in lengths])
    return Batch(header, row, np.array(lengths, np.int64))


def eager(made: Bundle, given: Batch) -> Floats:
    """[B, HORIZONS] probabilities by Hugging Face's own forward, padded, in float32."""
    tokens = encode.padded(given, encode.tokens(given, made.vocabulary), np.arange(len(given)))
    inputs = (tokens, encode.contexts(given, made.vocabulary), aggregates.aggregates(given))
    with torch.inference_mode():
        logits = made.model(*(torch.from_numpy(array) for array in inputs))
    return made.calibration.probabilities(logits.numpy())
