"""A trained network under another vocabulary: what one shop's model knows, as the start of another shop's.

Whatever the new vocabulary gives a row of its own begins as the sum of the rows that stood for it before: for a known
item its own, for others the tail's shared ones. The network computes what it did, to the rounding, for all that the
old vocabulary does not know better; training then tells the new shop's items apart.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.scoring import encode, model
from worker.scoring.batch import Batch, Hashes, Heads, Rows
from worker.scoring.bundle import Bundle

_SHARED = ("kind", "item_tail", "page_tail", "price", "gap", "age", "session")
_OWNED = {"item": ("items", (1, 2)), "category": ("categories", (3,)), "page": ("pages", (4,))}
"""A field's hashes in a vocabulary, and the columns of `encode.FIELDS` that stand for one."""


def transplant(bundle: Bundle, vocabulary: encode.Vocabulary) -> model.IntentModel:
    """The bundle's network for `vocabulary`, whose tails must have as many buckets, and its context the same columns.

    The bundle's own network stays as it is.
    """
    old = bundle.vocabulary
    if old.columns != vocabulary.columns:
        raise ValueError("the contexts of the two vocabularies have different columns")
    if (old.item_buckets, old.page_buckets) != (vocabulary.item_buckets, vocabulary.page_buckets):
        raise ValueError("the tails of the two vocabularies have different sizes")
    network = model.build(bundle.shape, vocabulary)
    state = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    state["head.events.weight"] = _events(state["head.events.weight"], old, vocabulary)
    state["head.contexts.weight"] = _contexts(state["head.contexts.weight"], old, vocabulary)
    network.load_state_dict(state)
    return network


def _events(table: Tensor, old: encode.Vocabulary, new: encode.Vocabulary) -> Tensor:
    """[new.rows, hidden]."""
    out = torch.zeros(new.rows, table.shape[1])
    ends = dict(zip(old.bases, [*old.bases.values()][1:], strict=False))
    for field in _SHARED:
        size = ends[field] - old.bases[field]
        out[new.bases[field] : new.bases[field] + size] = table[old.bases[field] : ends[field]]
    out[new.bases["category"]] = table[old.bases["category"]]  # any other category
    for field, (hashes, columns) in _OWNED.items():
        values: Hashes = getattr(new, hashes)
        if len(values):
            stood = encode.tokens(_rows(values), old)[:, columns].astype(np.int64)
            start = new.bases[field] + (field == "category")
            out[start : start + len(values)] = table[torch.from_numpy(stood)].sum(dim=1)
    return out


def _contexts(table: Tensor, old: encode.Vocabulary, new: encode.Vocabulary) -> Tensor:
    """[sum of new.context_sizes(), width]."""
    parts, start = [], 0
    for at, (name, size) in enumerate(zip(old.columns, old.context_sizes(), strict=True)):
        own = table[start : start + size]
        batch = _rows(new.contexts[name])
        stood = encode.contexts(batch, old)[:, at].astype(np.int64) if len(batch) else np.zeros(0, np.int64)
        parts += [own[:2], own[torch.from_numpy(stood)]]
        start += size
    return torch.cat(parts)


def _rows(hashes: Hashes) -> Batch:
    """A window of one event for each hash, which is its item, category, page and all of its context."""
    n = len(hashes)
    zeros: NDArray[np.int64] = np.zeros(n, np.int64)
    context = np.repeat(hashes[:, None], len(encode.CONTEXT), axis=1)
    heads = Heads(zeros + 1, np.arange(n), zeros + 1, zeros, context, zeros)
    rows = Rows(
        item=hashes,
        category=hashes,
        page=hashes,
        kind=zeros.astype(np.uint8),
        price_cents=zeros.astype(np.int32),
        age_ms=zeros,
        gap_ms=zeros - 1,
        sessions_back=zeros.astype(np.uint8),
        opens=np.ones(n, np.bool_),
    )
    return Batch(heads, rows)
