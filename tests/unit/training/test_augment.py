"""What augmentation leaves of a window is what the fold would have made of the same events."""

import numpy as np
import pytest

from tests.unit.scoring import making
from worker.scoring import aggregates, encode
from worker.scoring.batch import Batch
from worker.training import augment

WINDOWS = making.random_windows(60, seed=11)
BATCH = Batch.of(WINDOWS)


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def test_a_cropped_window_is_that_of_its_newest_events() -> None:
    """Cut out of the bytes: a window's rows lie oldest first behind its head."""
    cropped = augment.crop(BATCH, rng(), share=1.0)
    left = cropped.lengths
    assert (left >= 1).all()
    assert (left <= BATCH.lengths).all()
    assert (left < BATCH.lengths).sum() > 40
    by_hand = []
    for encoded, kept, length in zip(WINDOWS, left.tolist(), BATCH.lengths.tolist(), strict=True):
        head = bytearray(encoded[:42])
        head[2] = kept
        by_hand.append(bytes(head) + encoded[42 + 22 * (length - kept) : 42 + 22 * length])
    wanted = Batch.of(by_hand)
    for name, mine, theirs in zip(wanted.rows._fields, cropped.rows, wanted.rows, strict=True):
        assert np.array_equal(mine, theirs), name
    for name, mine, theirs in zip(wanted.heads._fields, cropped.heads, wanted.heads, strict=True):
        assert np.array_equal(mine, theirs), name
    assert np.array_equal(aggregates.aggregates(cropped), aggregates.aggregates(wanted))


def test_a_share_of_the_windows_is_cropped() -> None:
    many = Batch.of(WINDOWS * 10)
    cut = (augment.crop(many, rng(), share=0.3).lengths < many.lengths).mean()
    assert 0.2 < cut < 0.31  # some are cut at their whole length
    assert np.array_equal(augment.crop(many, rng(), share=0.0).rows.age_ms, many.rows.age_ms)


def test_time_is_stretched_by_one_factor_a_window() -> None:
    stretched = augment.stretch(BATCH, rng(), deviation=0.5)
    factors = []
    for first, length in zip(BATCH.first.tolist(), BATCH.lengths.tolist(), strict=True):
        before, after = (one.rows.age_ms[first : first + length] for one in (BATCH, stretched))
        if before[0] > 10**6:
            factors.append(after[0] / before[0])
            assert after == pytest.approx(before * factors[-1], abs=1)
            gaps, was = (one.rows.gap_ms[first : first + length] for one in (stretched, BATCH))
            assert gaps[0] == was[0] == -1
            assert gaps[1:] == pytest.approx(was[1:] * factors[-1], abs=1)
    assert np.log(factors).std() == pytest.approx(0.5, abs=0.15)
    assert np.log(factors).mean() == pytest.approx(0.0, abs=0.25)


def test_what_is_hidden_is_nothing_to_the_encoder() -> None:
    tokens = encode.tokens(BATCH, making.vocabulary())
    hidden = augment.hide(tokens, rng(), share=0.4)
    gone = (hidden == encode.NOTHING).all(axis=1)
    assert gone.mean() == pytest.approx(0.4, abs=0.05)
    assert np.array_equal(hidden[~gone], tokens[~gone])
    assert not (tokens[:, 0] == encode.NOTHING).any()  # the mask of `Head.positions` tells them apart
