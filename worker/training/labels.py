"""What is to be predicted, and on what: instants, horizons, labels, slices. Times are UTC ms.

An instant is an event; its label for a horizon H says whether the same visitor's next purchase lies in (t, t + H].
Events on the order-completed page are never instants: one gets there only by buying. Knows neither windows nor models.

The slices are split by time, at the shop's midnights, and an instant belongs to one only if its whole horizon does: no
label of training looks into validation. The 7-day horizon therefore ends its training a week before its validation
begins, and its validation lies in the last week of the shorter horizons' training; visitors chosen by hash are held
out of that week's training, whatever the horizon, and alone validate the 7 days: no label that taught looks into
their week.

Validation has two parts, by visitor: the checkpoint is chosen on one (`choice`) and calibrated on the other
(`calibration`). Two more slices serve the refit: what was chosen is trained again on all that ends before the test
slice begins (`refit`), but for some visitors' last two weeks, on which it is calibrated (`refit calibration`): no label
that taught it looks into them. Nothing before the splits' start teaches anything.

Auxiliary labels say what else the visitor does: whether they look at an item, whether they come back. Each has one of
the horizons and counts where that horizon's label does, so what keeps slices apart holds for them too. They teach what
a visit is like, of which purchases, one instant in fourteen, say little (multitask learning: Caruana 1997).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.errors import IntentError
from worker.shop.ga360 import SPLITS
from worker.shop.source import Splits

Times = NDArray[np.int64]
Codes = NDArray[np.int64]
Bools = NDArray[np.bool_]

HORIZONS_MS: Final = (30 * 60_000, 24 * 3_600_000, 7 * 24 * 3_600_000)
NAMES: Final = ("30 min", "24 h", "7 d")

START: Final = SPLITS.start
END: Final = SPLITS.end
VALIDATION: Final = SPLITS.validation
TEST: Final = SPLITS.test
WEEK_VALIDATION: Final = SPLITS.week_validation
"""The GA360 sample's; another source has its own."""

HELD_OUT: Final = 3
"""One visitor in so many is held out in the week that validates 7 days."""

CALIBRATING: Final = 4
"""One of validation's visitors in so many calibrates (`calibration`); the others choose the checkpoint (`choice`)."""

AUXILIARY: Final = (("views an item", 0), ("views an item", 1), ("comes back", 1), ("comes back", 2))
"""Auxiliary labels: what the visitor does, and the place in `HORIZONS_MS` of within what time."""

REFIT_HELD_OUT: Final = 6
"""One visitor in so many is held out of the refit from `WEEK_VALIDATION` on: enough for a slope and an intercept."""

SLICES: Final = ("train", "validation", "choice", "calibration", "test", "refit", "refit calibration")


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """A source's events in stream order, as far as labels need them."""

    visitor: Codes  # [n] 0, 1, ... by first appearance
    session: Codes  # [n] likewise
    time_ms: Times  # [n] ascending
    kind: Codes  # [n] index into `events.KINDS`
    instant: Bools  # [n] not on the order-completed page
    purchase: Bools  # [n] the first report of a transaction
    splits: Splits = SPLITS


def next_purchase_ms(events: Events) -> Times:
    """[n] time of the same visitor's first purchase strictly after the event; the largest integer where none came."""
    return _next_ms(events, events.purchase)


def labels(events: Events) -> Bools:
    """[n, horizons] a purchase within (t, t + H]."""
    ahead = next_purchase_ms(events) - events.time_ms
    return np.stack([ahead <= horizon for horizon in HORIZONS_MS], axis=1)


def auxiliary(events: Events) -> Bools:
    """[n, AUXILIARY] whether the same visitor views an item, or begins another session, within (t, t + horizon]."""
    ahead = {
        "views an item": _next_ms(events, events.kind == _VIEW_ITEM) - events.time_ms,
        "comes back": _next_ms(events, ordinal(events.session) == 1) - events.time_ms,
    }
    return np.stack([ahead[what] <= HORIZONS_MS[at] for what, at in AUXILIARY], axis=1)


def member(events: Events, which: str) -> Bools:
    """[n, horizons] whether the event is an instant of the slice (one of `SLICES`) for each horizon."""
    columns = [_inside(events, which, horizon) & events.instant for horizon in HORIZONS_MS]
    return np.stack(columns, axis=1)


def untested(splits: Splits) -> str:
    """Which horizons the test slice is too short to measure, and what to do, in a sentence; empty for none."""
    spans = splits.end - splits.test
    names = " and ".join(name for name, horizon in zip(NAMES, HORIZONS_MS, strict=True) if horizon >= spans)
    if not names:
        return ""
    return (
        f"the test slice spans {spans / 86_400_000:.1f} days, so that nothing in it is measured at {names}: "
        "whether somebody bought within that is known of none; let `test` begin earlier in the mapping's [splits]"
    )


def require(inside: Bools, which: str, *, of: str, why: str) -> None:
    """Raises `IntentError` where a slice, or what was drawn of it, has no instant for one of the [n, horizons]."""
    if not inside.any(axis=0).all():
        raise IntentError(f"{of} has no {which} instants for every horizon; {why}")


def _inside(events: Events, which: str, horizon: int) -> Bools:
    time, week, splits = events.time_ms, horizon == HORIZONS_MS[-1], events.splits
    held = held_out(events.visitor)
    kept = held_out(events.visitor, one_in=REFIT_HELD_OUT)
    ends = time + horizon
    sound = time >= splits.start
    for begin, end in splits.outages:
        sound &= (ends <= begin) | (time >= end)
    if which == "train":
        return sound & (ends <= np.where(held | week, splits.week_validation, splits.validation))
    if which in {"validation", "choice", "calibration"}:
        inside = (ends <= splits.test) & (
            held & (time >= splits.week_validation) & (time < splits.validation) if week else time >= splits.validation
        )
        calibrating = held_out(events.visitor, one_in=CALIBRATING)
        return inside if which == "validation" else inside & (calibrating == (which == "calibration"))
    if which == "refit":
        return sound & (ends <= np.where(kept, splits.week_validation, splits.test))
    if which == "refit calibration":
        return (ends <= splits.test) & kept & (time >= splits.week_validation)
    return (time >= splits.test) & (ends <= splits.end)


def _next_ms(events: Events, marked: Bools) -> Times:
    """[n] time of the same visitor's first marked event strictly after the event; the largest integer for none."""
    moments, moment = np.unique(events.time_ms, return_inverse=True)
    at = events.visitor * len(moments) + moment  # one axis, visitor by visitor; of times it might not fit into 64 bits
    ahead = np.sort(at[marked])
    place = np.searchsorted(ahead, at, side="right")
    found = np.append(ahead, np.iinfo(np.int64).max)[place]
    same = found // len(moments) == events.visitor
    return np.where(same, moments[found % len(moments)], np.iinfo(np.int64).max)


def held_out(visitor: Codes, *, one_in: int = HELD_OUT) -> Bools:
    """One visitor in so many, by a fixed mix of their number."""
    mixed = (visitor.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    return np.asarray(mixed % np.uint64(one_in) == 0)


def ordinal(names: Codes) -> Codes:
    """[n] how often each name, a session's or a visitor's, has come by now: 1 where it comes first."""
    order = np.argsort(names, kind="stable")
    grouped = names[order]
    starts = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1]))
    counts = np.diff(np.append(starts, len(order)))
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - np.repeat(starts, counts) + 1
    return number


def decision_points(events: Events) -> dict[str, Bools]:
    """Populations of one instant a session: its 3rd, 5th, 10th event, its first add to cart; beside every instant."""
    number = ordinal(events.session)
    carts = np.flatnonzero(events.kind == _ADD_TO_CART)
    _, firsts = np.unique(events.session[carts], return_index=True)
    cart = np.zeros(len(number), np.bool_)
    cart[carts[firsts]] = True
    return {
        "every instant": events.instant,
        "3rd event": events.instant & (number == 3),
        "5th event": events.instant & (number == 5),
        "10th event": events.instant & (number == 10),
        "first add to cart": events.instant & cart,
    }


_VIEW_ITEM, _ADD_TO_CART = 4, 5  # their places in events.KINDS
