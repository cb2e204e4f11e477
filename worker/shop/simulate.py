"""A simulated shop: an endless, repeatable stream of the events of many visitors, with the faults of real traffic.

Owns who is in the shop and when each event is due; what a visitor does is `shoppers`' affair. Pure: seed and start time
decide every byte. Knows nothing of Kafka, of the wall clock, or of who sends.

The shop has a time of its own, `speed` times as fast as the sender's. As many visits are under way at once as the rate
needs for dwell times to be natural in shop time; where `users` are too few for that, they hurry.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from random import Random
from typing import Final

import msgspec
from xxhash import xxh32_hexdigest

from worker.errors import SettingError
from worker.events import Event, encode
from worker.shop.outgoing import Outgoing
from worker.shop.poison import POISONS, Record
from worker.shop.shoppers import Shoppers, Visit, mean_dwell_s
from worker.shop.statistics import Statistics

FAULTS: Final = ("duplicates", "out_of_order", "late", "poison")

_MOST: Final = 1e9  # of rate, users and speed: beyond, visits at once and event times have no number that fits
_MAX_SHARE: Final = 0.9  # faults are made from good events: some must be left
_RECENT: Final = 64  # faults are made from one of so many newest events: a repeat is among its user's last 128
_STRAY_MS: Final = (1_000, 120_000)  # out of order, and far from late
_LATE_MS: Final = (11 * 60_000, 60 * 60_000)  # beyond the 10 minutes that the window allows by default
_GONE_S: Final = 1e9  # who leaves for good comes back only when nobody else is left
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Who shops, and how badly their events travel. `rate` is in events per second of the sender's time.

    `speed` is shop time over the sender's; shares are of all events; `daily_rhythm` lets the rate follow the hours of
    the shop's day. Raises `SettingError` for what makes no stream.
    """

    rate: float = 100.0
    users: int = 10_000
    speed: float = 1.0
    bots: float = 0.0
    duplicates: float = 0.0
    out_of_order: float = 0.0
    late: float = 0.0
    poison: float = 0.0
    daily_rhythm: bool = False

    def __post_init__(self) -> None:
        for name in ("rate", "users", "speed"):
            value = getattr(self, name)
            if not 0 < value <= _MOST:
                raise SettingError(f"`{name}` is {value:g}; a number above 0, at most {_MOST:g}, is needed")
        shares = {name: getattr(self, name) for name in ("bots", *FAULTS)}
        for name, share in shares.items():
            if not 0 <= share <= _MAX_SHARE:
                raise SettingError(f"`{name}` is {share}; a share of the events, from 0 to {_MAX_SHARE}, is needed")
        total = sum(shares.values())
        if total > _MAX_SHARE:
            raise SettingError(f"the shares of {', '.join(shares)} add up to {total:.2f}; {_MAX_SHARE} is the most")


class Simulator:
    """An endless stream of `Outgoing`, in the order of their due times; about 100,000 a second on one core.

    Equal statistics, crowd, `seed` and `start_ms` (shop time of the start, UTC ms) give equal bytes. Event times follow
    the due times: start + due x `speed`. `sent` counts what was made: shopper, bot, and each fault.
    """

    def __init__(self, statistics: Statistics, crowd: Crowd, *, seed: int, start_ms: int) -> None:
        self.sent: Counter[str] = Counter()
        self._crowd = crowd
        self._start_ms = start_ms
        self._rng = Random(seed)
        self._random = self._rng.random
        # Part of every id, so that two runs into one topic are not duplicates of each other.
        self._run = xxh32_hexdigest(f"{seed} {start_ms}".encode())
        self._serial = 0
        self._shoppers = Shoppers(statistics, self._rng)
        self._recent: list[tuple[Event, bytes, bytes]] = []
        self._away: list[tuple[float, int, int]] = []  # (back at shop time, user, visits so far)
        self._users = 0
        self._bots = 0
        self._bot_events = 0  # of the bots that have entered, those to come included
        self._total = 0

        mean_events = statistics.events / statistics.sessions
        dwell_s = mean_dwell_s(statistics)
        mean_dwell_of_all_s = (1 - crowd.bots) * dwell_s + crowd.bots * self._shoppers.bot_mean_dwell_s
        at_once = crowd.rate / crowd.speed * mean_dwell_of_all_s
        opening_s = 2 * dwell_s * mean_events  # visits begin spread over two mean lengths, not all at the opening
        self._visits: list[tuple[float, int, Visit]] = []
        for _ in range(max(1, min(crowd.users, round(at_once)))):
            self._visits.append((self._random() * opening_s, self._serial, self._enter(0.0)))
        heapify(self._visits)

        hours = statistics.hours if crowd.daily_rhythm else [1]
        mean = sum(hours) / len(hours)
        self._gaps_s = [mean / max(hour, mean / 100) / crowd.rate for hour in hours]
        self._faults = [(name, getattr(crowd, name)) for name in FAULTS]
        self._fault_share = sum(share for _, share in self._faults)

    def __iter__(self) -> Iterator[Outgoing]:
        return self.before(math.inf)

    def before(self, end_s: float) -> Iterator[Outgoing]:
        """Those due before `end_s`; what would come next is not made, nor counted."""
        random, gaps_s, hours = self._random, self._gaps_s, len(self._gaps_s)
        fault_share, speed_ms, start_ms = self._fault_share, self._crowd.speed * 1000, self._start_ms
        time_ms, due_s = start_ms, 0.0
        while True:
            due_s -= math.log(1.0 - random()) * gaps_s[time_ms // _HOUR_MS % hours]  # visitors act independently
            if due_s >= end_s:
                return
            time_ms = start_ms + int(due_s * speed_ms)
            self._total += 1
            if fault_share and random() < fault_share and self._recent:
                key, value = self._fault()
            else:
                key, value = self._act(time_ms)
            yield Outgoing(due_s, key, value)

    def _act(self, time_ms: int) -> Record:
        """The event of the visit whose turn it is."""
        shop_s, _, visit = self._visits[0]
        event = self._shoppers.event(visit, event_id=self._new_id(), time_ms=time_ms)
        self.sent["shopper" if visit.bot_events_left is None else "bot"] += 1
        dwell_s = self._shoppers.go_on(visit)
        if dwell_s is None:
            self._leave(visit, shop_s)
            heapreplace(self._visits, (shop_s, self._serial, self._enter(shop_s)))
        else:
            heapreplace(self._visits, (shop_s + dwell_s, self._serial, visit))
        key, value = event.user_id.encode(), encode(event)
        if len(self._recent) < _RECENT:
            self._recent.append((event, key, value))
        else:
            self._recent[self._serial % _RECENT] = (event, key, value)
        return key, value

    def _leave(self, visit: Visit, shop_s: float) -> None:
        if visit.bot_events_left is None:
            away_s = self._shoppers.away_s()
            heappush(self._away, (shop_s + (_GONE_S if away_s is None else away_s), visit.user, visit.visits))

    def _enter(self, shop_s: float) -> Visit:
        """The next visit: of a bot when one is due, else of a returning user, a new one, or who would be back first."""
        session = self._new_id()
        if self._crowd.bots * self._total > self._bot_events + self._shoppers.bot_mean_events / 2:
            self._bots += 1
            bot = self._shoppers.bot_visit(user=self._crowd.users + self._bots, session=session)
            self._bot_events += bot.bot_events_left or 0
            return bot
        if self._away and (self._away[0][0] <= shop_s or self._users >= self._crowd.users):
            _, user, visits = heappop(self._away)
        else:
            self._users += 1
            user, visits = self._users, 0
        return self._shoppers.visit(user=user, visits=visits + 1, session=session)

    def _fault(self) -> Record:
        """A record made from a recent good event. None changes what any visitor does next."""
        event, key, value = self._recent[int(self._random() * len(self._recent))]
        name = self._which_fault()
        self.sent[name] += 1
        if name == "duplicates":
            return key, value
        if name == "poison":
            poison = list(POISONS)[int(self._random() * len(POISONS))]
            return POISONS[poison][1](key, value)
        back_ms = self._rng.randint(*(_LATE_MS if name == "late" else _STRAY_MS))
        return key, encode(msgspec.structs.replace(event, event_id=self._new_id(), event_time=event.time_ms - back_ms))

    def _which_fault(self) -> str:
        place = self._random() * self._fault_share
        for name, share in self._faults:
            place -= share
            if place < 0:
                return name
        return FAULTS[-1]

    def _new_id(self) -> str:
        self._serial += 1
        return f"{self._run}-{self._serial:x}"
