"""Decoded windows through the network: encode, group by length, run, back in order. Engine and training share it.

Windows of like length run together, padded to the longest of their group. What stands beside a window must not move
its score: padding is masked, and what is left is rounding (`TOLERANCE`). Knows neither queues nor calibration.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from worker.scoring import aggregates, encode
from worker.scoring.batch import Batch, Floats, Ints
from worker.scoring.model import IntentModel

TOLERANCE: Final = 1e-5
"""Most that a probability differs between two batches which the same window is part of (float32, any grouping)."""

PADDING: Final = 1024
"""Positions of padding that a group may hold: about what another forward pass costs to begin."""


def logits(
    model: IntentModel, vocabulary: encode.Vocabulary, batch: Batch, *, device: torch.device, max_windows: int
) -> Floats:
    """[B, HORIZONS] float32, in the batch's order. The model is in eval mode on `device`. Blocks."""
    tokens = encode.tokens(batch, vocabulary)
    contexts = encode.contexts(batch, vocabulary)
    sums = aggregates.aggregates(batch)
    out = np.empty((len(batch), 3), np.float32)
    with torch.inference_mode():
        parts = []
        for chosen in groups(batch.lengths, max_windows=max_windows):
            inputs = (encode.padded(batch, tokens, chosen), contexts[chosen], sums[chosen])
            parts.append((chosen, model(*(torch.from_numpy(array).to(device) for array in inputs))))
        for chosen, part in parts:  # read back after all are under way: the first read waits for the device
            out[chosen] = part.float().cpu().numpy()
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
