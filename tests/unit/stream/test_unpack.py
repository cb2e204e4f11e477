"""Whatever a batch unpacks to, no more than the bound is held; what is within it is what aiokafka made of it."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from aiokafka import codec
from pydantic import ValidationError

from worker.errors import Invalid
from worker.settings import Worker
from worker.stream import transaction, unpack

BOUND = Worker().max_unpacked_batch_bytes

Encode = Callable[[bytes], bytes]

ENCODE: dict[str, Encode] = {
    "gzip": codec.gzip_encode,
    "snappy": codec.snappy_encode,
    "snappy in one block": lambda plain: codec.snappy_encode(plain, xerial_compatible=False),
    "lz4": codec.lz4_encode,
    "zstd": codec.zstd_encode,
}
codecs = pytest.mark.parametrize("name", ENCODE)


def ours(name: str, packed: bytes) -> bytes:
    unpacked: bytes = getattr(unpack, name.split(maxsplit=1)[0])(packed)
    return unpacked


def theirs(name: str, packed: bytes) -> bytes:
    unpacked: bytes = getattr(codec, f"{name.split(maxsplit=1)[0]}_decode")(packed)
    return unpacked


@pytest.fixture
def bound() -> Iterator[int]:
    unpack.at_most(3 << 20)
    yield 3 << 20
    unpack.at_most(BOUND)


@codecs
@pytest.mark.parametrize("size", [1, 20, 500, 100_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_what_is_within_the_bound_is_what_aiokafka_makes_of_it(name: str, size: int, bound: int) -> None:
    assert size <= bound
    plain = random.Random(size).randbytes(1000) * 4000
    packed = bytes(ENCODE[name](plain[:size]))
    before = unpack.hand().bytes
    assert ours(name, packed) == theirs(name, packed) == plain[:size]
    assert unpack.hand().bytes - before == size


@codecs
def test_a_batch_is_not_changed_by_the_next(name: str) -> None:
    first, second = (ours(name, bytes(ENCODE[name](plain))) for plain in (b"first", b"second"))
    assert (first, second) == (b"first", b"second")


@codecs
def test_what_exceeds_the_bound_by_a_byte_is_given_up(name: str, bound: int) -> None:
    packed, before = bytes(ENCODE[name](bytes(bound + 1))), unpack.hand().bytes
    with pytest.raises(Invalid, match=r"unpacks to more than 3145728 bytes \(setting `worker.max_un") as refused:
        ours(name, packed)
    assert refused.value.reason == "too_large"
    assert unpack.hand().bytes - before == bound, "the work counts, too"


@codecs
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[: len(packed) // 2], id="half of it"),
        pytest.param(lambda packed: b"\xff" * 20 + packed[20:], id="another beginning"),
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"\x05junk", id="junk"),
        pytest.param(lambda packed: packed[:17], id="its beginning"),
    ],
)
def test_what_is_damaged_is_told(name: str, damage: Encode) -> None:
    packed, before = damage(bytes(ENCODE[name](random.Random(1).randbytes(5000) * 2))), unpack.hand().bytes
    with pytest.raises(Invalid, match="the record's batch cannot be unpacked: ") as refused:
        ours(name, packed)
    assert refused.value.reason == "unreadable"
    assert unpack.hand().bytes - before >= BOUND, "it may have been found at the very end"


BOMB = """
import sys
import cramjam
from worker.errors import Invalid
from worker.stream import unpack
from worker.stream.unpack import _XERIAL

def kib(name):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1])

zeros, name = bytes(1 << 20), sys.argv[1]
if name == "snappy":
    block = bytes(cramjam.snappy.compress_raw(zeros))
    packed = _XERIAL + 512 * (len(block).to_bytes(4, "big") + block)
else:
    packed = 512 * bytes(getattr(cramjam, name).compress(zeros))
before = kib("VmHWM:")
for _ in range(3):
    try:
        getattr(unpack, name)(packed)
    except Invalid as error:
        assert error.reason == "too_large"
    else:
        raise AssertionError("it was unpacked")
print(kib("VmHWM:") - before)
"""


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
def test_a_bomb_of_half_a_gigabyte_takes_not_much_more_than_the_bound(name: str) -> None:
    """The memory of cramjam is not Python's: a process of its own tells it."""
    run = subprocess.run([sys.executable, "-c", BOMB, name], capture_output=True, text=True, check=True, timeout=120)
    assert int(run.stdout) * 1024 < 2 * BOUND


def test_a_block_that_says_to_be_large_is_given_up_before_any_memory_is_asked_for() -> None:
    with pytest.raises(Invalid, match="unpacks to more than") as refused:
        unpack.snappy(b"\xff\xff\xff\xff\x0f" + b"junk")
    assert refused.value.reason == "too_large"


def test_whatever_a_worker_writes_can_be_read_back() -> None:
    with pytest.raises(ValidationError):
        Worker(max_unpacked_batch_bytes=transaction.MAX_REQUEST_BYTES - 1)
    Worker(max_unpacked_batch_bytes=transaction.MAX_REQUEST_BYTES)
