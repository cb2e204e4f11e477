"""A network under another vocabulary says what it said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.scoring import making
from worker.scoring import encode, forward, model
from worker.scoring.batch import Batch
from worker.training.transplant import transplant

CPU = torch.device("cpu")


def test_it_computes_what_it_did_under_a_vocabulary_that_knows_more() -> None:
    known = making.bundle()
    contexts = {**known.vocabulary.contexts, "country": known.vocabulary.contexts["country"][:2]}
    vocabulary = replace(known.vocabulary, contexts=contexts, categories=known.vocabulary.categories[1:])
    donor = replace(known, vocabulary=vocabulary, weights=model.weights(transplant(known, vocabulary)))
    windows = Batch.of(making.random_windows(60, seed=91))
    everything = encode.learn(
        [Batch.of(making.random_windows(300, seed=92)), windows], least=1, item_buckets=8, page_buckets=4
    )
    assert len(everything.items) > len(donor.vocabulary.items)
    assert everything.context_sizes() != donor.vocabulary.context_sizes()
    network = transplant(donor, everything).eval()
    before = forward.logits(donor.weights, donor.vocabulary, windows, device=CPU)
    after = forward.logits(model.weights(network), everything, windows, device=CPU)
    assert before == pytest.approx(after, abs=1e-5)
    with torch.no_grad():  # and it is another network
        network.head.events.weight.zero_()
    assert np.abs(forward.logits(model.weights(network), everything, windows, device=CPU) - before).max() > 1e-3
    assert forward.logits(donor.weights, donor.vocabulary, windows, device=CPU) == pytest.approx(before)


def test_what_the_new_vocabulary_lacks_shares_the_tail() -> None:
    """With nothing known but the tail, each item counts as it would have unseen."""
    donor = making.bundle()
    none = encode.Vocabulary(
        items=np.zeros(0, np.uint32),
        categories=np.zeros(0, np.uint32),
        pages=np.zeros(0, np.uint32),
        contexts={name: np.zeros(0, np.uint32) for name in encode.COLUMNS},
        item_buckets=8,
        page_buckets=4,
    )
    network = transplant(donor, none)
    assert network.head.events.weight.shape[0] == none.rows
    start, end = donor.vocabulary.bases["item_tail"], donor.vocabulary.bases["category"]
    kept = network.head.events.weight[none.bases["item_tail"] : none.bases["category"]]
    assert torch.equal(kept, donor.model.head.events.weight[start:end])


def test_tails_of_another_size_are_refused() -> None:
    other = encode.learn([Batch.of(making.random_windows(5, seed=93))], least=1, item_buckets=16, page_buckets=4)
    with pytest.raises(ValueError, match="different sizes"):
        transplant(making.bundle(), other)


def test_a_context_of_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="different columns"):
        transplant(making.bundle(columns=encode.CONTEXT), making.vocabulary())
