"""Decoded windows to logits outside of an engine, and windows in padded groups: what training and evaluation need.

Logits come from the packed forward that serves. Knows neither queues nor calibration.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from worker.scoring import encode, tiles
from worker.scoring.batch import Batch, Floats, Ints
from worker.scoring.head import HORIZONS
from worker.scoring.packed import Network, pack
from worker.scoring.weights import Weights

TOLERANCE: Final = 1e-5
"""Most that a probability differs between two batches which the same window is part of (float32, any batches)."""

PADDING: Final = 1024
"""Positions of padding that a group may hold: about what another forward pass costs to begin."""


def logits(weights: Weights, vocabulary: encode.Vocabulary, batch: Batch, *, device: torch.device) -> Floats:
    """[B, HORIZONS] float32, in the batch's order, computed on `device` in float32. Blocks."""
    none = np.zeros(HORIZONS, np.float32)
    network = Network.of(weights, slopes=none, intercepts=none, dtype=torch.float32, device=device)
    packed = pack(batch, vocabulary, network, longest_first=True)
    out = np.empty((len(batch), HORIZONS), np.float32)
    out[packed.order] = tiles.logits(network, packed).cpu().numpy()
    return out


def groups(lengths: Ints, *, max_windows: int) -> Iterator[Ints]:
    """Places of the windows, longest first, cut where padding exceeds `PADDING` or the group `max_windows`."""
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    start = 0
    while start < len(order):
        window = sorted_lengths[start : start + max_windows]
        padding = np.cumsum(window[0] - window)
        end = start + int(np.searchsorted(padding, PADDING, side="right"))
        yield order[start:end]
        start = end
