"""The packed forward on CUDA in half precision: captured graphs, pinned staging, copies beside the computing.

A graph is keyed by (tokens, windows) and serves any batch that fits: the offsets of the windows are read on the device,
the tail of the tokens is covered by windows that nobody asked for. Graphs are captured once, largest first, so that the
smaller live in the memory of the larger, until `BUDGET` of the free memory is used; a batch that fits into no graph is
computed without one. `SLOTS` batches may be under way: one computes while the next is packed into pinned memory and
copied on a stream of its own. The graphs read one set of inputs, filled from a slot's staging area on the computing
stream, so a copy never meets a graph that still reads.

Of torch, a batch calls as little as it can: each call lets go of the interpreter, and has to wait for it again while a
worker's stream is busy.

Attention does not split a window's keys: they are at most a few hundred, and it is then one kernel, FlashAttention's,
on all devices. With `fixed`, every window goes through one graph of one size: scores are equal to the bit whatever the
batch. Knows neither queues nor callers; used by the one thread that owns the device.
"""

import inspect
import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.errors import IntentError
from worker.scoring import aggregates, encode, faults, tiles
from worker.scoring.batch import Batch, Floats, Ints
from worker.scoring.bundle import Bundle
from worker.scoring.head import HORIZONS
from worker.scoring.packed import WIDTH, Network, Packed, pack

LEAST_TOKENS: Final = 256
"""Of the smallest graph; there is one of each power of two above, and one half way to the next."""

WINDOW_TOKENS: Final = (16, 5, 2)
"""Tokens a window, on average, for which each size of graph has room: the usual mix, the first steps of many visits,
and the shortest windows. Room that is not used costs: an L12 H768 scored 731 windows of 16,384 tokens in 8.9 ms with
room for 1,024, in 11.7 ms with room for 8,192 (H200).
"""

BUDGET: Final = 0.25
"""Of the memory that is free before the first capture."""

SLOTS: Final = 2

ALIGNED: Final = 64
"""Words: 256 bytes, as torch aligns what it allocates."""

MAX_DEPTH: Final = 256
"""Of a head, at most, in FlashAttention; and a multiple of 8."""

log = structlog.get_logger(__name__)

Array = TypeVar("Array", Tensor, NDArray[Any])
_FLOATS: Final[dict[type, Any]] = {Tensor: torch.float32, np.ndarray: np.float32}


class Key(NamedTuple):
    """What a graph has room for."""

    tokens: int
    windows: int


def keys(max_tokens: int) -> list[Key]:
    """Largest first."""
    sizes = [LEAST_TOKENS]
    while sizes[-1] < max_tokens:
        sizes += [sizes[-1] * 3 // 2, sizes[-1] * 2]
    return sorted((Key(size, size // each) for size in sizes for each in WINDOW_TOKENS), reverse=True)


@dataclass(frozen=True, slots=True)
class Inputs(Generic[Array]):
    """One batch's arrays, behind one another in one piece of memory: one copy moves them all."""

    memory: Array  # [words] int32
    bags: Array  # [T, WIDTH] int32
    ends: Array  # [W + 1] int32: where each window begins, and the end
    contexts: Array  # [W, columns] int32
    sums: Array  # [W, aggregates] float32

    @classmethod
    def of(cls, memory: Array, key: Key, *, columns: int) -> Self:
        """In the beginning of int32 memory, for a context of so many columns."""
        shapes = _shapes(key, columns)
        *starts, size = accumulate(map(_words, shapes), initial=0)
        bags, ends, contexts, sums = (
            memory[start : start + math.prod(shape)].reshape(shape) for start, shape in zip(starts, shapes, strict=True)
        )
        return cls(memory[:size], bags, ends, contexts, sums.view(_FLOATS[type(memory)]))


def words(key: Key, *, columns: int) -> int:
    """Of memory, that a key's inputs take."""
    return sum(map(_words, _shapes(key, columns)))


def _shapes(key: Key, columns: int) -> tuple[tuple[int, ...], ...]:
    return (key.tokens, WIDTH), (key.windows + 1,), (key.windows, columns), (key.windows, len(aggregates.NAMES))


def _words(shape: tuple[int, ...]) -> int:
    """Whole lines: what reads an array may count on its beginning's alignment."""
    return -(-math.prod(shape) // ALIGNED) * ALIGNED


def fill(inputs: Inputs[NDArray[Any]], packed: Packed, *, longest: int) -> None:
    """Writes a batch that fits, and covers the tail with windows of at most `longest` tokens. Leaves nothing of what
    the memory held: of another key's batch it would be rows that no table has.
    """
    tokens, windows = len(packed.bags), len(packed.lengths)
    bags, ends = inputs.bags, inputs.ends
    bags[:tokens], bags[tokens:] = packed.bags, encode.NOTHING
    ends[0] = 0
    ends[1 : windows + 1] = np.cumsum(packed.lengths)
    steps = tokens + longest * np.arange(1, len(ends) - windows)
    ends[windows + 1 :] = np.minimum(steps, len(bags))
    for array, rows in ((inputs.contexts, packed.contexts), (inputs.sums, packed.sums)):
        array[:windows], array[windows:] = rows, 0


def room(packed: Packed, *, longest: int, tokens: int) -> int:
    """Windows that a key of so many tokens must have room for: the batch's, and those that cover its tail."""
    return len(packed.lengths) + -(-(tokens - len(packed.bags)) // longest)


def compute(network: Network, inputs: Inputs[Tensor]) -> Tensor:
    """[W, HORIZONS] float32 probabilities. All shapes are the inputs': the same code runs eagerly and in a graph."""
    heads, hidden, longest = network.heads, network.hidden, network.positions
    ends = inputs.ends
    attention = _attention()

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)  # [T, heads, depth]
        return attention(q, k, v, ends, ends, longest, longest).reshape(-1, hidden)

    x = network.tokens(inputs.bags, attend)  # [T, hidden]
    last = network.layers[-1]
    first = x.index_select(0, ends[:-1].clamp(max=len(x) - 1))  # [W, hidden]; windows of no tokens read some row
    k, v = last.keys_values(x).view(len(x), 2, heads, -1).unbind(1)
    q = last.query(first).view(len(first), heads, -1)
    each = torch.arange(len(ends), dtype=torch.int32, device=ends.device)  # one query a window
    mixed = attention(q, k, v, each, ends, 1, longest)
    logits = network.logits(first, mixed.reshape(-1, hidden), inputs.contexts, inputs.sums)
    return network.probabilities(logits)


def _attention() -> Callable[..., Tensor]:
    """Torch's attention over packed windows, told to split no window's keys.

    Before torch 2.12 it takes no such argument: there it splits none.
    """
    from torch.nn.attention.varlen import varlen_attn

    splits = {"num_splits": 1} if "num_splits" in inspect.signature(varlen_attn).parameters else {}
    return partial(varlen_attn, **splits)  # type: ignore[arg-type, return-value]  # a pair only with `return_aux`


@dataclass(slots=True)
class Slot:
    """Where a batch stands on its way to the device and back."""

    host: Tensor  # [words] int32, pinned
    staged: Tensor  # [words] int32, on the device
    answer: Tensor  # [W, HORIZONS], pinned
    copied: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    done: torch.cuda.Event = field(default_factory=torch.cuda.Event)


class Captured(NamedTuple):
    """A graph, and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    memory: Tensor  # [words] int32
    found: Tensor  # [W, HORIZONS]


class Ticket:
    """A piece of a batch under way. `collect` waits for it; its slot is free again then."""

    def __init__(self, slot: Slot, windows: int, give_back: Callable[["Ticket", Slot], None]) -> None:
        self._windows, self._give_back = windows, give_back
        self._slot: Slot | None = slot
        self._found: Floats | None = None

    def done(self) -> bool:
        """Whether the device has ended it."""
        return self._slot is None or self._slot.done.query()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def collect(self) -> Floats:
        """[windows, HORIZONS]. Raises `IntentError` where a former call ended with the device's error."""
        if self._slot is not None:
            slot, self._slot = self._slot, None
            try:
                slot.done.synchronize()
                self._found = slot.answer[: self._windows].numpy().copy()
            finally:
                self._give_back(self, slot)
        if self._found is None:
            raise IntentError("the device failed while it computed this batch")
        return self._found


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch under way, in one piece or several."""

    tickets: list[Ticket]
    order: Ints  # [B] which of the batch's windows each of the pieces' is

    def done(self) -> bool:
        """Whether the device has ended all of it."""
        return all(ticket.done() for ticket in self.tickets)

    def wait(self) -> Floats:
        """[B, HORIZONS] probabilities."""
        found = np.concatenate([ticket.collect() for ticket in self.tickets])
        out = np.empty_like(found)
        out[self.order] = found
        return out


class Graphs:
    """A model that is ready on CUDA."""

    def __init__(self, bundle: Bundle, network: Network, *, max_tokens: int, fixed: bool) -> None:
        self.bundle = bundle
        self.network = network
        self.fixed = fixed
        size = max(tiles.FIXED, network.positions) if fixed else max(max_tokens, network.positions)
        self._keys = [Key(size, size // 2)] if fixed else keys(size)
        self._largest = self._keys[0]
        self._inputs = self._zeros(self._largest, device=network.device)
        self._graphs: dict[Key, Captured] = {}
        self._copying, self._computing = (torch.cuda.Stream() for _ in range(2))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._free = deque(self._slot() for _ in range(SLOTS))
        self._under_way: deque[Ticket] = deque()

    def capture(self) -> Generator[None, None, None]:
        """One graph a step, largest first, none where memory is short for it. Ends when the budget is used up."""
        torch.cuda.empty_cache()  # what lies idle is neither free nor a graph's
        free, _ = torch.cuda.mem_get_info()
        pool = torch.cuda.graph_pool_handle()
        before = torch.cuda.memory_reserved()
        for key in self._keys:
            if torch.cuda.memory_reserved() - before > BUDGET * free:
                log.warning("no memory for more CUDA graphs", captured=len(self._graphs), of=len(self._keys))
                break
            try:
                self._capture(key, pool)
            except Exception as error:
                if not faults.exhausted(error):
                    raise
                log.warning("out of memory: no CUDA graph of this size", tokens=key.tokens, windows=key.windows)
            yield

    def begin(self, batch: Batch) -> Launched:
        """Packs, copies and launches; does not wait for the device. Of several pieces (`fixed`), all but the last."""
        packed = pack(batch, self.bundle.vocabulary, self.network, longest_first=self.fixed)
        tickets: list[Ticket] = []
        try:
            for piece in self._pieces(packed):
                tickets.append(self._launch(piece))  # noqa: PERF401 - those before one that fails are wanted
        except BaseException:
            for ticket in tickets:
                with suppress(Exception):  # what is wrong is told already
                    ticket.collect()
            raise
        return Launched(tickets, packed.order)

    def _pieces(self, packed: Packed) -> list[Packed]:
        if not self.fixed:
            return [packed]
        return [
            Packed(
                packed.order[a:b],
                packed.lengths[a:b],
                packed.bags[start:end],
                packed.contexts[a:b],
                packed.sums[a:b],
            )
            for (a, b), (start, end) in (
                (tile.windows, tile.tokens) for tile in tiles.tiles(packed.lengths, self._largest.tokens)
            )
        ]

    def _launch(self, packed: Packed) -> Ticket:
        longest = self.network.positions
        fitting = [
            key
            for key in self._keys
            if key.tokens >= len(packed.bags) and key.windows >= room(packed, longest=longest, tokens=key.tokens)
        ]
        key = min(fitting, default=None)
        while key is not None and not self._free:
            self._under_way[0].collect()
        slot = self._free.popleft() if key is not None else self._slot(packed)
        key = key or Key(len(packed.bags), len(packed.lengths))
        try:
            self._queue(slot, key, packed)
        except BaseException:
            self._abandon(slot)
            raise
        ticket = Ticket(slot, len(packed.lengths), self._give_back)
        self._under_way.append(ticket)
        return ticket

    def _queue(self, slot: Slot, key: Key, packed: Packed) -> None:
        """Puts all that the batch needs on the two streams."""
        columns, captured = self.network.columns, self._graphs.get(key)
        host = Inputs.of(slot.host.numpy(), key, columns=columns)
        fill(host, packed, longest=self.network.positions)
        size = len(host.memory)
        with torch.cuda.stream(self._copying):
            slot.staged[:size].copy_(slot.host[:size], non_blocking=True)
            slot.copied.record()
        with torch.inference_mode(), torch.cuda.stream(self._computing):
            self._computing.wait_event(slot.copied)
            if captured is not None:
                captured.memory.copy_(slot.staged[:size], non_blocking=True)
                captured.graph.replay()
                found = captured.found
            else:
                found = compute(self.network, Inputs.of(slot.staged, key, columns=columns))
            slot.answer[: key.windows].copy_(found, non_blocking=True)
            slot.done.record()

    def _abandon(self, slot: Slot) -> None:
        """Of a batch that failed half way. What was queued of it may still read the slot's memory."""
        try:
            self._copying.synchronize()
            self._computing.synchronize()
        finally:
            self._recycle(slot)

    def _capture(self, key: Key, pool: object) -> None:
        inputs = Inputs.of(self._inputs, key, columns=self.network.columns)
        self._inputs.zero_()  # it may hold another key's arrays
        inputs.ends.copy_(torch.arange(key.windows + 1).mul(self.network.positions).clamp(max=key.tokens))
        torch.cuda.synchronize()
        with torch.inference_mode():
            with torch.cuda.stream(self._computing):
                for _ in range(2):  # libraries set themselves up, which a capture must not see
                    compute(self.network, inputs)
            self._computing.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self._computing, capture_error_mode="thread_local"):  # type: ignore[arg-type]  # the pool is a pair
                found = compute(self.network, inputs)
            with torch.cuda.stream(self._computing):
                graph.replay()  # the first one uploads it, which may need memory too
            self._computing.synchronize()
        self._graphs[key] = Captured(graph, inputs.memory, found)

    def _slot(self, packed: Packed | None = None) -> Slot:
        """A slot for the largest graph, or for a batch that fits into none."""
        key = self._largest if packed is None else Key(len(packed.bags), len(packed.lengths))
        staged = self._zeros(key, device=self.network.device)
        self._copying.wait_stream(torch.cuda.current_stream())  # on which it is made
        return Slot(self._zeros(key, pin_memory=True), staged, torch.zeros(key.windows, HORIZONS, pin_memory=True))

    def _zeros(self, key: Key, **where: Any) -> Tensor:
        """Memory for a key's inputs."""
        return torch.zeros(words(key, columns=self.network.columns), dtype=torch.int32, **where)

    def _give_back(self, ticket: Ticket, slot: Slot) -> None:
        self._under_way.remove(ticket)  # nothing of a batch stays, or a model that was replaced would too
        self._recycle(slot)

    def _recycle(self, slot: Slot) -> None:
        if len(slot.host) == len(self._inputs) and len(self._free) < SLOTS:
            self._free.append(slot)


def prepare(bundle: Bundle, network: Network, *, max_tokens: int, fixed: bool) -> Generator[None, None, Graphs]:
    """Makes a model ready, a graph a step. Raises `IntentError` for heads that the attention does not take."""
    depth = network.hidden // network.heads
    if depth % 8 or depth > MAX_DEPTH:
        raise IntentError(
            f"model {bundle.name} has attention heads of {depth} numbers; in bfloat16 CUDA takes multiples of 8 up to "
            f"{MAX_DEPTH}: set `model.dtype` to 'float32'"
        )
    made = Graphs(bundle, network, max_tokens=max_tokens, fixed=fixed)
    yield
    yield from made.capture()
    return made
