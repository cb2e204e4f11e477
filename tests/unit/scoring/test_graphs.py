"""The CUDA path: what of it is the host's and can be shown anywhere, and parity and bits on a device."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.unit.scoring import making, networks
from worker.scoring import graphs
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.device import Device
from worker.scoring.engine import Engine
from worker.scoring.graphs import Graphs, Inputs, Key
from worker.scoring.packed import Network, Packed, pack

gpu = pytest.mark.gpu
on_a_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
LENGTHS = [64, 1, 30, 30, 2, 7, 64, 1]


@pytest.fixture(scope="module")
def made() -> Bundle:
    return networks.bundle(networks.SMALL)


def test_keys_go_down_by_steps_with_room_for_the_usual_mix_and_for_the_shortest() -> None:
    assert graphs.keys(600) == [
        *((1024, 512), (1024, 204), (1024, 64)),
        *((768, 384), (768, 153), (768, 48)),
        *((512, 256), (512, 102), (512, 32)),
        *((384, 192), (384, 76), (384, 24)),
        *((256, 128), (256, 51), (256, 16)),
    ]


def filled(network: Network, packed: Packed, key: Key) -> Inputs[NDArray[Any]]:
    """In memory that held something else before, which no table has a row for."""
    memory = np.full(graphs.words(key, columns=network.columns), 1 << 30, np.int32)
    inputs = Inputs.of(memory, key, columns=network.columns)
    graphs.fill(inputs, packed, longest=network.positions)
    return inputs


def test_the_largest_key_has_room_for_each() -> None:
    first, *others = (graphs.words(key, columns=9) for key in graphs.keys(16_384))
    assert all(words < first for words in others)


def test_arrays_lie_in_their_memory_apart_and_aligned() -> None:
    key = Key(256, 51)
    memory = torch.zeros(graphs.words(key, columns=9), dtype=torch.int32)
    inputs = Inputs.of(memory, key, columns=9)
    arrays = (inputs.bags, inputs.ends, inputs.contexts, inputs.sums)
    for number, array in enumerate(arrays, 1):
        array.fill_(number)
        assert array.data_ptr() % 16 == 0
        assert (array.data_ptr() - memory.data_ptr()) % 256 == 0
    assert [int(array.view(-1)[place]) for array in arrays for place in (0, -1)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert inputs.sums.dtype == torch.float32
    assert (memory != 0).sum() == sum(array.numel() for array in arrays)


def test_a_batch_is_written_with_its_tail_covered(made: Bundle) -> None:
    network = networks.network(made)
    packed = pack(networks.batch(LENGTHS), made.vocabulary, network, longest_first=False)
    inputs = filled(network, packed, Key(512, 20))
    ends = inputs.ends.tolist()
    assert ends[:9] == [0, *np.cumsum(np.array(LENGTHS) + 1)]
    assert ends[-1] == 512
    steps = np.diff(ends)
    assert steps.max() <= network.positions
    assert (steps[8 : graphs.room(packed, longest=network.positions, tokens=512)] > 0).all()
    assert (inputs.bags[len(packed.bags) :] == 0).all()


def reference(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, *_: object, **__: object) -> Tensor:
    """What `varlen_attn` is to do, a window at a time: [T, heads, depth]."""
    out = torch.zeros_like(q)
    for window in range(len(ends_q) - 1):
        queries, keys = slice(*ends_q[window : window + 2].tolist()), slice(*ends_k[window : window + 2].tolist())
        if keys.start < keys.stop:
            mine, theirs, values = (part.transpose(0, 1) for part in (q[queries], k[keys], v[keys]))
            out[queries] = torch.nn.functional.scaled_dot_product_attention(mine, theirs, values).transpose(0, 1)
    return out


@pytest.fixture
def varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference)


@pytest.mark.usefixtures("varlen")
def test_what_is_captured_gives_eagers_scores_and_mixing_would_be_seen(made: Bundle) -> None:
    """With a stand-in for the one kernel that needs a device."""
    given = networks.batch(LENGTHS)
    network = networks.network(made)
    key = Key(256, 24)
    written = filled(network, pack(given, made.vocabulary, network, longest_first=False), key)
    inputs = Inputs.of(torch.from_numpy(written.memory), key, columns=network.columns)
    with torch.inference_mode():
        found = graphs.compute(network, inputs)[: len(given)].numpy()
        inputs.ends[1] -= 1
        broken = graphs.compute(network, inputs)[: len(given)].numpy()
    assert found == pytest.approx(networks.eager(made, given), abs=1e-5)
    assert np.abs(broken - found).max() > 1e-3


# -- on a device -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda(made: Bundle, request: pytest.FixtureRequest) -> Iterator[Engine]:
    dtype, deterministic = getattr(request, "param", ("bfloat16", False))
    with Engine(lambda: made, device="cuda", dtype=dtype, deterministic=deterministic, max_batch_tokens=2048) as engine:
        yield engine


WINDOWS = making.random_windows(120, seed=23)


@gpu
@on_a_device
@pytest.mark.parametrize(
    ("cuda", "within"),
    [
        pytest.param(("float32", False), 1e-5, id="float32"),
        pytest.param(("bfloat16", False), 0.01, id="bfloat16"),
        pytest.param(("bfloat16", True), 0.01, id="bfloat16, deterministic"),
    ],
    indirect=["cuda"],
)
@pytest.mark.parametrize("count", [1, 7, 120])
def test_parity_on_cuda(cuda: Engine, made: Bundle, within: float, count: int) -> None:
    wanted = networks.eager(made, Batch.of(WINDOWS[:count]))
    assert cuda.score_now(WINDOWS[:count]).intent == pytest.approx(wanted, abs=within)


@gpu
@on_a_device
@pytest.mark.parametrize("cuda", [("bfloat16", True), ("float32", True)], indirect=True, ids=["bfloat16", "float32"])
def test_deterministic_scores_on_cuda_are_equal_to_the_bit(cuda: Engine) -> None:
    alone = np.concatenate([cuda.score_now([one]).intent for one in WINDOWS])
    assert np.array_equal(cuda.score_now(WINDOWS).intent, alone)
    assert np.array_equal(cuda.score_now(WINDOWS[::-1]).intent[::-1], alone)


@gpu
@on_a_device
def test_a_score_on_cuda_does_not_depend_on_its_neighbours(cuda: Engine) -> None:
    alone = np.concatenate([cuda.score_now([one]).intent for one in WINDOWS[:30]])
    assert cuda.score_now(WINDOWS).intent[:30] == pytest.approx(alone, abs=0.005)


@gpu
@on_a_device
def test_a_graph_gives_what_the_same_code_gives_without_one(made: Bundle) -> None:
    network = networks.network(made, dtype=torch.bfloat16, device=torch.device("cuda"))
    plain = Graphs(made, network, max_tokens=1024, fixed=False)
    captured = Graphs(made, network, max_tokens=1024, fixed=False)
    for _ in captured.capture():
        pass
    assert captured._graphs.keys() == set(graphs.keys(1024))
    for count in (1, 5, 30):
        batch = Batch.of(WINDOWS[:count])
        assert captured.begin(batch).wait() == pytest.approx(plain.begin(batch).wait(), abs=0.005)
    batches = [Batch.of(WINDOWS[at : at + 10]) for at in range(0, 60, 10)]
    under_way = [captured.begin(batch) for batch in batches]  # more than there are slots
    for batch, launched in zip(batches, under_way, strict=True):
        assert launched.wait() == pytest.approx(plain.begin(batch).wait(), abs=0.005)
    assert not captured._under_way


@gpu
@on_a_device
def test_memory_that_is_short_on_cuda_is_told_from_a_device_that_is_lost() -> None:
    device = Device.named("cuda")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert device.exhausted(caught.value)
    assert not device.lost(caught.value)


@gpu
@on_a_device
def test_little_memory_on_cuda_makes_fewer_graphs_and_smaller_batches_and_loses_no_score(made: Bundle) -> None:
    windows = WINDOWS * 70
    tokens = 1 << 18  # more than the windows have
    wanted = networks.eager(made, Batch.of(WINDOWS))
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (320 << 20)) / total)
    try:
        with Engine(lambda: made, device="cuda", dtype="bfloat16", max_batch_tokens=tokens) as engine:
            found = engine.score_now(windows).intent
            assert engine.max_batch_tokens < tokens
            assert len(engine._champion._graphs) < len(graphs.keys(tokens))  # type: ignore[attr-defined]  # a runner of CUDA's
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found == pytest.approx(np.tile(wanted, (70, 1)), abs=0.01)


LOST = """
import os
import torch
from tests.unit.scoring import making, networks
from worker.errors import Fatal
from worker.scoring.engine import Engine

made, windows = networks.bundle(networks.SMALL), making.random_windows(3, seed=1)
engine = Engine(lambda: made, device="cuda", dtype="bfloat16", max_batch_tokens=2048)
assert engine.score_now(windows).intent.shape == (3, 3)
try:
    torch.zeros(1, device="cuda")[torch.ones(1, dtype=torch.int64, device="cuda")].item()  # behind the end
except RuntimeError:
    pass
try:
    engine.score_now(windows)
except Fatal as error:
    print("fatal:", error, flush=True)
engine._thread.join(10.0)
print("alive" if engine.alive else "ended", flush=True)
os._exit(0)  # without what libraries do at the end, on a device that computes nothing any more
"""


@gpu
@on_a_device
def test_a_device_that_is_lost_ends_the_engine() -> None:
    """Of a process of its own: nothing computes on the device any more in one that lost it."""
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=100, check=False)
    assert "fatal: the device cuda is lost" in done.stdout, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "ended"
