"""What is usual in a shop, and how far a window is from it: signs of a machine, each with its rarity among shoppers.

======================  ================================================================================================
sign                    measured on the window
======================  ================================================================================================
burst                   most events within 10 s
machine_pace            share of gaps below 1 s in the newest session, from 10 gaps on
repetition              longest run of the same kind, item and page
no_dwell                share of pages left within 2 s, from 20 page views of the session on
unusual_sequence        surprise of the steps under a smoothed Markov chain, in standard deviations of its own
regular_pace            how little the gaps within sessions vary (their logarithms' deviation), from 12 gaps on
repeated_sequence       share of three events in a row that the window has had before, from 10 such on
overlapping_sessions    sessions that begin within 30 min of the event before
======================  ================================================================================================

The chain's symbols are an event's kind, how long after the one before it came, and whether it is about the same item or
page. A sign's rarity is the share of ordinary windows that show it at least as much, in decades. The rarest sign speaks
for the window, and how rare so rare a one is, is the score: a percentile, however many signs there are and however they
depend on each other. (The sum of rarities found less of the synthetic abuse of `python -m loadtest risk`.)

Owns measuring and the tables; `worker.training.habits` learns them. Knows no labels: there are none.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.events import KINDS
from worker.scores import RISK_REASONS
from worker.scoring.batch import KIND, SESSION_PAUSE_MS, Batch, Floats, Heads, Ints, Kinds, Rows
from worker.scoring.compiled import compiled

BURST_MS: Final = 10_000
FAST_MS: Final = 1_000
DWELL_MS: Final = 2_000
LEAST_GAPS: Final = 10
LEAST_PAGES: Final = 20
LEAST_PACE: Final = 12
LEAST_TRIPLES: Final = 10

GAPS: Final = 7
"""Buckets of an event's gap: below 1 s, 3 s, 10 s, 1 min, longer; a session that opens after a pause, or without."""

_KINDS = 16
assert len(KINDS) == _KINDS, "raise `_KINDS` with `worker.events.KINDS`, and train the bundles again"

SYMBOLS: Final = _KINDS * GAPS * 2
STEPS: Final = 10
"""Of a decade of rarity: where levels are kept."""

LEVELS: Final = 5 * STEPS + 1
"""From all windows to one in 100,000."""

FAR: Final = 1e30
"""Beyond every level; minus it: not measured. Finite, for a bundle refuses other numbers."""

SHOWN: Final = 2.0
"""Decades of rarity from which a sign's code is given: one window in a hundred."""

_SLOTS = 1024
_PAUSE_MS = 1_800_000  # as `_KINDS`, said again: a compiled loop reads its own module only
assert _PAUSE_MS == SESSION_PAUSE_MS


class Chain(NamedTuple):
    """The Markov chain, for the loop. Empty: no surprise is measured."""

    surprise: Floats  # [SYMBOLS, SYMBOLS] -ln p(symbol | the symbol before)
    expected: Floats  # [SYMBOLS] mean of the surprise after each symbol, under the chain
    variance: Floats  # [SYMBOLS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What a bundle keeps of a shop's ordinary windows."""

    chain: Chain
    levels: Floats  # [signs, LEVELS] ascending: the least value that 10 ** -(t / STEPS) of the windows reach
    joined: Floats  # [LEVELS] the same of the rarest sign's decades


_NO_CHAIN = Chain(np.zeros((0, 0), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32))


def signs(batch: Batch, known: Habits | None = None) -> Floats:
    """[B, len(RISK_REASONS)] as measured, `-FAR` where there is too little to measure."""
    out = np.empty((len(batch), len(RISK_REASONS)), np.float32)
    _signs(batch.heads, batch.rows, KIND, _NO_CHAIN if known is None else known.chain, out)
    return out


def rarity(measured: Floats, known: Habits) -> tuple[Floats, NDArray[np.uint8]]:
    """[B] percentile in [0, 1) and [B] mask of the signs that are rare by themselves."""
    score, mask = np.empty(len(measured), np.float32), np.empty(len(measured), np.uint8)
    _rarity(measured, known.levels, known.joined, SHOWN, score, mask)
    return score, mask


def decades(measured: Floats, levels: Floats) -> NDArray[np.float64]:
    """[B, signs] rarity of each sign: 3 is one window in a thousand."""
    out = np.empty(measured.shape, np.float64)
    _decades_of(measured, levels, out)
    return out


def symbols(batch: Batch) -> Ints:
    """[N] the chain's symbol of each row; -1 for a window's oldest row, which has no row before."""
    out = np.empty(batch.events, np.int64)
    _symbols(batch.rows, out)
    return out


@compiled
def _symbols(rows: Rows, out: Ints) -> None:
    for n in range(len(out)):
        out[n] = _symbol(rows, n)


@compiled
def _symbol(rows: Rows, n: int) -> int:
    gap = rows.gap_ms[n]
    if gap < 0:
        return -1
    if rows.opens[n]:
        bucket = 5 if gap >= _PAUSE_MS else 6
    else:
        bucket = (gap >= 1_000) + (gap >= 3_000) + (gap >= 10_000) + (gap >= 60_000)
    about = rows.item if rows.item[n] != 0 else rows.page
    symbol: int = (min(rows.kind[n], _KINDS - 1) * GAPS + bucket) * 2 + (about[n] == about[n - 1])
    return symbol


@compiled
def _signs(heads: Heads, rows: Rows, kinds: Kinds, chain: Chain, out: Floats) -> None:
    """The order of columns is that of `RISK_REASONS`."""
    slots = np.zeros(_SLOTS, np.int64)
    for i in range(len(heads.lengths)):
        oldest, newest = heads.first[i], heads.first[i] + heads.lengths[i] - 1
        to = out[i]
        _haste(rows, oldest, newest, kinds, to)
        to[4] = _surprise(rows, oldest, newest, chain) if len(chain.expected) else -FAR
        to[5] = _evenness(rows, oldest, newest)
        to[6] = _again(rows, oldest, newest, slots, i + 1)
        overlapping = 0
        for n in range(oldest + 1, newest + 1):
            overlapping += rows.opens[n] and rows.gap_ms[n] < _PAUSE_MS
        to[7] = overlapping


@compiled
def _haste(rows: Rows, oldest: int, newest: int, kinds: Kinds, to: Floats) -> None:
    """The first four signs."""
    gaps = fast = pages = hurried = most = longest = run = 0
    since = oldest
    for n in range(oldest, newest + 1):
        while rows.age_ms[since] - rows.age_ms[n] > BURST_MS:
            since += 1
        most = max(most, n - since + 1)
        same = n > oldest and (
            rows.kind[n] == rows.kind[n - 1] and rows.item[n] == rows.item[n - 1] and rows.page[n] == rows.page[n - 1]
        )
        run = run + 1 if same else 1
        longest = max(longest, run)
        if rows.sessions_back[n] > 0:
            continue
        if not rows.opens[n]:
            gaps += 1
            fast += rows.gap_ms[n] < FAST_MS
        is_page = rows.kind[n] in (kinds.page_view, kinds.view_item_list, kinds.view_item, kinds.view_cart)
        if is_page and n < newest:  # the page still open is not left yet
            pages += 1
            hurried += rows.gap_ms[n + 1] < DWELL_MS
    to[0], to[2] = most, longest
    to[1] = fast / gaps if gaps >= LEAST_GAPS else -FAR
    to[3] = hurried / pages if pages >= LEAST_PAGES else -FAR


@compiled
def _surprise(rows: Rows, oldest: int, newest: int, chain: Chain) -> float:
    """The steps' surprise beyond what the chain expects, over the deviation that it expects."""
    beyond = variance = 0.0
    before = -1
    for n in range(oldest + 1, newest + 1):
        symbol = _symbol(rows, n)
        if before >= 0:
            beyond += chain.surprise[before, symbol] - chain.expected[before]
            variance += chain.variance[before]
        before = symbol
    return beyond / np.sqrt(variance) if variance > 0 else 0.0


@compiled
def _evenness(rows: Rows, oldest: int, newest: int) -> float:
    """Minus the standard deviation of the gaps' natural logarithms; gaps below 50 ms count as 50."""
    count = 0
    total = squares = 0.0
    for n in range(oldest + 1, newest + 1):
        if not rows.opens[n]:
            value = np.log(max(rows.gap_ms[n], 50))
            count += 1
            total += value
            squares += value * value
    if count < LEAST_PACE:
        return -FAR
    mean = total / count
    evenness: float = -np.sqrt(max(squares / count - mean * mean, 0.0))
    return evenness


@compiled
def _again(rows: Rows, oldest: int, newest: int, slots: Ints, mark: int) -> float:
    """`repeated_sequence`. `slots` is a hash table that nobody empties: an entry counts only under its own `mark`."""
    count = newest - oldest - 1
    if count < LEAST_TRIPLES:
        return -FAR
    again = 0
    two = one = np.int64(0)
    for n in range(oldest, newest + 1):
        this = np.int64(rows.kind[n]) * 0x9E3779B1 + np.int64(rows.item[n]) * 0x85EBCA77 + np.int64(rows.page[n])
        if n >= oldest + 2:
            mixed = (two * 31 + one) * 31 + this
            mixed = (mixed ^ (mixed >> 29)) * 0x27D4EB2F
            entry = mark << 32 | (mixed >> 7) & 0xFFFFFFFF
            slot = entry & (_SLOTS - 1)
            while slots[slot] != entry and slots[slot] >> 32 == mark:
                slot = (slot + 1) & (_SLOTS - 1)
            again += slots[slot] == entry
            slots[slot] = entry
        two, one = one, this
    return again / count


@compiled
def _rarity(
    measured: Floats, levels: Floats, joined: Floats, shown: float, score: Floats, mask: NDArray[np.uint8]
) -> None:
    for i in range(len(measured)):
        rarest, codes = 0.0, 0
        for at in range(levels.shape[0]):
            rare = _decades(levels[at], measured[i, at])
            rarest = max(rarest, rare)
            codes |= (rare >= shown) << at
        score[i], mask[i] = 1 - 10 ** -_decades(joined, rarest), codes


@compiled
def _decades_of(measured: Floats, levels: Floats, out: NDArray[np.float64]) -> None:
    for i in range(len(measured)):
        for at in range(levels.shape[0]):
            out[i, at] = _decades(levels[at], measured[i, at])


@compiled
def _decades(levels: Floats, value: float) -> float:
    """Between two levels in proportion; levels that are equal count as the rarest of them."""
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        if levels[middle] <= value:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return 0.0
    part = (value - levels[low - 1]) / (levels[low] - levels[low - 1]) if low < len(levels) else 0.0
    return (low - 1 + part) / STEPS
