"""The packed forward gives what Hugging Face's eager forward gives, and no window sees another."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.scoring import making, networks
from worker.errors import IntentError
from worker.scoring import bundle as bundles
from worker.scoring import model, tiles
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.head import SIZES, Shape
from worker.scoring.packed import Network, Packed, pack

SHAPES = {
    "one layer": Shape(layers=1, hidden=32, heads=2, head_width=16),
    "two layers": networks.SMALL,
    "members": replace(networks.SMALL, members=2, aside=2),
    "members apart": replace(networks.SMALL, members=2, aside=2, apart=True),
}
CASES = [
    pytest.param(list(range(1, 65)), id="each length once"),
    pytest.param([1], id="one event"),
    pytest.param([64] * 9, id="full windows"),
    pytest.param([3, 64, 3, 1, 1, 3, 64, 17], id="some alike"),
    *(pytest.param(np.random.default_rng(seed).integers(1, 65, 40).tolist(), id=f"random {seed}") for seed in range(5)),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several wait for each other at every step, long when the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=SHAPES)
def made(request: pytest.FixtureRequest) -> Bundle:
    return networks.bundle(SHAPES[request.param])


def scores(made: Bundle, given: Batch, *, dtype: torch.dtype = torch.float32) -> np.ndarray:
    network = networks.network(made, dtype=dtype)
    return tiles.probabilities(network, pack(given, made.vocabulary, network, longest_first=True))


@pytest.mark.parametrize("lengths", CASES)
def test_float32_is_eager_to_the_fifth_digit(made: Bundle, lengths: list[int]) -> None:
    given = networks.batch(lengths)
    wanted = networks.eager(made, given)
    assert scores(made, given) == pytest.approx(wanted, abs=1e-5)
    if len(lengths) > 20:
        assert np.ptp(wanted[:, 1]) > 0.05  # there is something to tell apart


@pytest.mark.parametrize("lengths", CASES)
def test_bfloat16_is_eager_to_a_hundredth(made: Bundle, lengths: list[int]) -> None:
    given = networks.batch(lengths, seed=1)
    assert scores(made, given, dtype=torch.bfloat16) == pytest.approx(networks.eager(made, given), abs=0.01)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)], ids=["float32", "bf16"])
@pytest.mark.parametrize("size", ["tiny, as shipped", "mini"])
def test_larger_models_too(size: str, dtype: torch.dtype, within: float) -> None:
    larger = networks.bundle(SIZES["mini"]) if size == "mini" else bundles.load()
    given = Batch.of(making.random_windows(30, seed=9))
    assert scores(larger, given, dtype=dtype) == pytest.approx(networks.eager(larger, given), abs=within)


def test_windows_of_511_events_where_the_model_has_the_positions() -> None:
    made = networks.bundle(Shape(layers=2, hidden=32, heads=2, head_width=16, positions=512))
    given = networks.batch([511, 1, 300, 64, 511, 130])
    assert scores(made, given) == pytest.approx(networks.eager(made, given), abs=1e-5)
    network = networks.network(made)
    assert network.positions == 512
    with pytest.raises(IntentError, match=r"513 tokens.*512 positions"):
        pack(networks.batch([512]), made.vocabulary, network, longest_first=True)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_names(name: str) -> None:
    shape = SIZES[name]
    config = model.config(shape)
    assert config.hidden_size % config.num_attention_heads == 0
    assert (config.num_hidden_layers, config.hidden_size) == {
        "tiny": (2, 128),
        "mini": (4, 256),
        "small": (4, 512),
        "base": (12, 768),
    }[name]


# -- windows do not mix ------------------------------------------------------------------------------------------------

NEIGHBOURS = [5, 12, 12, 3, 40, 64, 12, 1]


def test_a_score_does_not_depend_on_the_neighbours(made: Bundle) -> None:
    """Every window of a batch is replaced but one, by windows of the same lengths and of others: what is left is
    rounding, stated in `forward.TOLERANCE`.
    """
    given = networks.batch(NEIGHBOURS)
    alone = np.concatenate([scores(made, networks.part(given, at, at + 1)) for at in range(len(given))])
    for others in (networks.batch(NEIGHBOURS, seed=7), networks.batch([64] * 30, seed=8), networks.batch([1], seed=9)):
        beside = scores(made, networks.joined(given, others))[: len(given)]
        assert beside == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("broken", ["a length too many", "no lengths at all"])
def test_mixing_would_be_seen(made: Bundle, broken: str) -> None:
    """The same check with attention that goes over a window's end, and over all ends as with `position_ids` alone."""
    given = networks.batch(NEIGHBOURS)
    network = networks.network(made)
    sound = pack(given, made.vocabulary, network, longest_first=True)
    wrong = mixed(network, sound, broken)
    assert np.abs(wrong - tiles.probabilities(network, sound)[sound.order]).max() > 1e-4  # rounding may do a tenth


def mixed(network: Network, sound: Packed, broken: str) -> np.ndarray:
    lengths = sound.lengths.tolist()
    if broken == "a length too many":
        runs = [(1, lengths[0] + 1), (1, lengths[1] - 1), *((1, length) for length in lengths[2:])]
    else:
        runs = [(1, sum(lengths))]
    bags, starts = torch.from_numpy(sound.bags), torch.from_numpy(sound.starts)
    last = network.layers[-1]
    with torch.inference_mode():
        x = network.tokens(bags, lambda qkv: tiles.attend(qkv, runs, network.heads))
        attended = tiles.attend(last.qkv(x), runs, network.heads)
        sides = torch.from_numpy(sound.contexts), torch.from_numpy(sound.sums)
        return network.probabilities(network.logits(x[starts], attended[starts], *sides)).numpy()


def test_the_check_of_mixing_is_sound_itself(made: Bundle) -> None:
    """With the true lengths, the same code gives the true scores: what the broken ones show is the mixing."""
    given = networks.batch([12, 12, 5])
    network = networks.network(made)
    sound = pack(given, made.vocabulary, network, longest_first=True)
    runs = replace(sound, lengths=np.array([13, 13, 6]))
    bags, starts = torch.from_numpy(runs.bags), torch.from_numpy(runs.starts)
    last = network.layers[-1]
    with torch.inference_mode():
        x = network.tokens(bags, lambda qkv: tiles.attend(qkv, [(2, 13), (1, 6)], network.heads))
        attended = tiles.attend(last.qkv(x), [(2, 13), (1, 6)], network.heads)
        sides = torch.from_numpy(sound.contexts), torch.from_numpy(sound.sums)
        found = network.probabilities(network.logits(x[starts], attended[starts], *sides)).numpy()
    assert found == pytest.approx(networks.eager(made, given), abs=1e-5)


def test_what_is_no_number_stays_none(made: Bundle) -> None:
    network = networks.network(made)
    logits = torch.tensor([[0.0, torch.inf, 0.0], [0.0, 0.0, torch.nan], [1.0, -1.0, 2.0]])
    found = network.probabilities(logits)
    assert found.isfinite().all(dim=1).tolist() == [False, False, True]
    assert found[2].numpy() == pytest.approx(made.calibration.probabilities(logits[2:].numpy())[0], abs=1e-7)
