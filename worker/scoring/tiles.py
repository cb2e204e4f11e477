"""The packed forward in tiles: whole windows, longest first, so many tokens that a tile's tensors stay in the cache.

Attention runs by windows of one length: they lie beside each other, so that a group is a view and nothing is padded.
For the CPU, in float32 and bfloat16, and for float32 on CUDA, whose packed attention knows half precision only.

How far a score depends on its batch. The rows of a matrix product do not depend on each other, but a library chooses
its kernel by the shape, so that another number of rows may round otherwise. With `fixed`, every product has one shape:
tiles of `FIXED` tokens and of `ROWS` windows, filled up with empty rows; attention has the shape of one window. Then
scores are equal to the bit, alone and in any batch, in any order (shown for one and for several threads by
`tests/unit/scoring/test_tiles.py`). Without it the last tile has what rows there are (bfloat16: a multiple of `STEP`,
since oneDNN compiles a kernel for each shape it meets, about 1 ms each), and scores differ by rounding
(`forward.TOLERANCE`). What fixed shapes cost is the filling up: little for full batches, most for a window that comes
alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worker.scoring.batch import Floats
from worker.scoring.packed import Network, Packed

TILE: Final = 512
"""Tokens. A longer window is a tile of its own."""

FIXED: Final = 256
"""Tokens of a tile where all have one shape; more where the model has more positions."""

ROWS: Final = 32
"""Windows in one tile behind the attention of the last layer."""

STEP: Final = 32
"""Rows by which the shapes of bfloat16 differ."""

Run = tuple[int, int]
"""So many windows of so many tokens each."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Windows [windows[0], windows[1]) are tokens [tokens[0], tokens[1])."""

    windows: tuple[int, int]
    tokens: tuple[int, int]
    runs: list[Run]


def tiles(lengths: np.ndarray, limit: int) -> Iterator[Tile]:
    """Cuts descending lengths into tiles of at most `limit` tokens, or of one window that is longer."""
    ends = np.cumsum(lengths)
    changes = np.flatnonzero(np.diff(lengths)) + 1
    start = 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        inner = changes[np.searchsorted(changes, start, side="right") : np.searchsorted(changes, end)]
        bounds = [start, *inner.tolist(), end]
        runs = [(b - a, int(lengths[a])) for a, b in pairwise(bounds)]
        yield Tile((start, end), (before, int(ends[end - 1])), runs)
        start = end


@torch.inference_mode()
def logits(network: Network, packed: Packed, *, fixed: bool = False) -> Tensor:
    """[B, HORIZONS] float32 on the network's device, in `packed.order`."""
    device = network.device
    limit = max(FIXED, network.positions) if fixed else TILE
    last = network.layers[-1]
    bags = torch.from_numpy(packed.bags).to(device)
    starts = torch.from_numpy(packed.starts).to(device)
    firsts, attention = [], []
    step = _step(network, whole=limit, fixed=fixed)
    # From 32,768 elements on torch shares a sum out to its threads, by the number of windows, and it rounds otherwise.
    alone = fixed and device.type == "cpu"
    for tile in tiles(packed.lengths, limit):
        (a, b), (begin, end) = tile.windows, tile.tokens
        rows = filled(bags[begin:end], step)  # [M, WIDTH]
        x = network.tokens(rows, lambda qkv, runs=tile.runs: attend(qkv, runs, network.heads))  # type: ignore[misc]
        first = x[starts[a:b] - begin]  # [b - a, hidden]
        firsts.append(first)
        query = last.query(filled(first, _step(network, whole=ROWS, fixed=fixed)))
        runs = [(1, length) for count, length in tile.runs for _ in range(count)] if alone else tile.runs
        attention.append(attend_first(query, last.keys_values(x), runs, network.heads))
    x, attended = torch.cat(firsts), torch.cat(attention)  # [B, hidden]
    contexts, sums = torch.from_numpy(packed.contexts).to(device), torch.from_numpy(packed.sums).to(device)
    size = len(x) if not fixed else ROWS
    parts = []
    for at in range(0, len(x), size):
        inputs = (part[at : at + size] for part in (x, attended, contexts, sums))
        padded = (filled(part, _step(network, whole=ROWS, fixed=fixed)) for part in inputs)
        parts.append(network.logits(*padded)[: len(x) - at])
    return torch.cat(parts)


def probabilities(network: Network, packed: Packed, *, fixed: bool = False) -> Floats:
    """[B, HORIZONS], in the batch's order."""
    with torch.inference_mode():
        found = network.probabilities(logits(network, packed, fixed=fixed)).cpu().numpy()
    out = np.empty_like(found)
    out[packed.order] = found
    return out


def attend(qkv: Tensor, runs: list[Run], heads: int) -> Tensor:
    """[M, 3 * hidden] -> [M, hidden]: each window by itself. Rows behind the runs stay zero."""
    rows, width = len(qkv), qkv.shape[1] // 3
    out = qkv.new_zeros(rows, width)
    at = 0
    for count, length in runs:
        end = at + count * length
        q, k, v = qkv[at:end].view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4)  # [count, heads, length, depth]
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out[at:end].view(count, length, heads, -1).copy_(mixed.transpose(1, 2))
        at = end
    return out


def attend_first(query: Tensor, kv: Tensor, runs: list[Run], heads: int) -> Tensor:
    """[b, hidden] queries of first positions, [M, 2 * hidden] keys and values of all -> [b, hidden].

    On a CPU by elements: a product of one row is another kernel with several threads, and rounds otherwise. On CUDA it
    is the sum of elements that goes by the number of windows, and the attention of one query that does not.
    """
    depth = query.shape[1] // heads
    out = []
    at = window = 0
    for count, length in runs:
        k, v = kv[at : at + count * length].view(count, length, 2, heads, depth).unbind(2)  # [count, length, heads, d]
        q = query[window : window + count].view(count, 1, heads, depth)
        if query.is_cuda:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [count, heads, 1 or length, depth]
            out.append(functional.scaled_dot_product_attention(q, k, v).flatten(1))
        else:
            weights = (k * (q * depth**-0.5)).sum(-1).softmax(1)  # [count, length, heads]
            out.append((v * weights[..., None]).sum(1).flatten(1))  # [count, hidden]
        at, window = at + count * length, window + count
    return torch.cat(out)


def filled(rows: Tensor, step: int) -> Tensor:
    """Zeros behind the rows, up to a multiple of `step`."""
    missing = -len(rows) % step
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _step(network: Network, *, whole: int, fixed: bool) -> int:
    """What the number of rows is a multiple of."""
    if fixed:
        return whole
    return STEP if network.dtype == torch.bfloat16 and network.device.type == "cpu" else 1
