"""How batches are cut into tiles, and that with fixed shapes a score is the same to the bit whatever its batch."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.scoring import making, networks
from worker.scoring import tiles
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.engine import Engine
from worker.scoring.head import HORIZONS, Shape
from worker.scoring.packed import pack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WINDOWS = making.random_windows(90, seed=17)


@pytest.mark.parametrize("limit", [64, 100, 512])
def test_tiles_are_whole_windows_in_order(limit: int) -> None:
    lengths = -np.sort(-np.random.default_rng(limit).integers(2, 66, 500))
    found = list(tiles.tiles(lengths, limit))
    assert [tile.windows[0] for tile in found[1:]] == [tile.windows[1] for tile in found[:-1]]
    assert (found[0].windows[0], found[-1].windows[1]) == (0, 500)
    for tile in found:
        (a, b), (start, end) = tile.windows, tile.tokens
        assert end - start <= limit or b - a == 1
        assert end - start == lengths[a:b].sum()
        assert b == len(lengths) or end - start + lengths[b] > limit  # no room is left
        assert [length for count, length in tile.runs for _ in range(count)] == lengths[a:b].tolist()
        assert len({length for _, length in tile.runs}) == len(tile.runs)


@pytest.fixture(scope="module", params=[0, 2], ids=["one member", "members"])
def made(request: pytest.FixtureRequest) -> Bundle:
    return networks.bundle(replace(networks.SMALL, members=1 + request.param, aside=request.param))


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_fixed_scores_are_equal_to_the_bit_whatever_the_batch(made: Bundle, dtype: str) -> None:
    network = networks.network(made, dtype=DTYPES[dtype])

    def scores(windows: list[bytes]) -> np.ndarray:
        packed = pack(Batch.of(windows), made.vocabulary, network, longest_first=True)
        return tiles.probabilities(network, packed, fixed=True)

    alone = np.concatenate([scores([one]) for one in WINDOWS[:15]])
    rng = np.random.default_rng(5)
    for beside in (0, 3, 75):
        chosen = rng.permutation(15 + beside)
        mine = chosen < 15
        assert np.array_equal(scores([WINDOWS[at] for at in chosen])[mine], alone[chosen[mine]])


@pytest.mark.usefixtures("threads")
def test_fixed_scores_of_a_wide_network_are_equal_to_the_bit_too() -> None:
    """Its windows' tensors are so large that torch shares single operations out to its threads."""
    wide = networks.bundle(Shape(layers=1, hidden=768, heads=12))
    network = networks.network(wide)

    def logits(windows: list[bytes]) -> np.ndarray:
        packed = pack(Batch.of(windows), wide.vocabulary, network, longest_first=True)
        out = np.empty((len(windows), HORIZONS), np.float32)
        out[packed.order] = tiles.logits(network, packed, fixed=True).numpy()
        return out

    full = sorted(WINDOWS, key=len)[-12:]  # of one length, so that several share a tile's attention
    assert np.array_equal(logits(full), np.concatenate([logits([one]) for one in full]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_deterministic_engines_scores_are_equal_to_the_bit(made: Bundle, dtype: str) -> None:
    with Engine(lambda: made, device="cpu", dtype=dtype, deterministic=True, max_batch_tokens=512, threads=1) as engine:
        alone = np.concatenate([engine.score_now([one]).intent for one in WINDOWS])
        assert np.array_equal(engine.score_now(WINDOWS).intent, alone)
        assert np.array_equal(engine.score_now(WINDOWS[::-1]).intent[::-1], alone)


def test_without_fixed_shapes_scores_differ_by_rounding_at_most(made: Bundle) -> None:
    network = networks.network(made)
    whole = pack(Batch.of(WINDOWS), made.vocabulary, network, longest_first=True)
    fixed = tiles.probabilities(network, whole, fixed=True)
    assert tiles.probabilities(network, whole) == pytest.approx(fixed, abs=1e-5)


def test_rows_are_filled_with_zeros() -> None:
    rows = torch.ones(5, 3)
    assert tiles.filled(rows, 4).shape == (8, 3)
    assert tiles.filled(rows, 4)[5:].eq(0).all()
    assert tiles.filled(rows, 5) is rows
