"""Which faults strike when: pure, from a seed. The same seed, number and kinds give the same plan.

A campaign is cut into episodes of a few thousand events, each with topics and an application of its own, so that a
check that fails names a handful of faults.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from tests.chaos.story import Hot

FAULTS_PER_EPISODE: Final = 10
_CLUSTER: Final = 3
_GAP_S: Final = (0.3, 4.0)
"""Between the beginnings of two faults. Most faults take longer: they overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a kind of fault asks of its episode. `nodes` of `None`: any cluster will do.

    `alone`: nothing else is broken while it lasts.
    """

    nodes: int | None = None
    residents: int = 1
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: so long after the one before began. `seed` decides the rest of it."""

    kind: str
    after_s: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """`residents` workers run throughout; `static` ones are members of their group by name."""

    number: int
    seed: int
    nodes: int
    residents: int
    static: bool
    hot: Hot
    faults: tuple[Planned, ...]

    def __str__(self) -> str:
        member = "static" if self.static else "dynamic"
        kinds = ", ".join(fault.kind for fault in self.faults)
        return f"episode {self.number} ({self.nodes} nodes, {self.residents} {member}, hot: {self.hot}): {kinds}"


def plan(seed: int, *, faults: int, kinds: Mapping[str, Needs]) -> tuple[Episode, ...]:
    """So many faults, every kind as often as any other, in random order."""
    rng = random.Random(seed)
    chosen = list(islice(cycle(kinds), faults))
    rng.shuffle(chosen)
    anywhere = [kind for kind in chosen if kinds[kind].nodes is None]
    small, large = ([kind for kind in chosen if kinds[kind].nodes == nodes] for nodes in (1, _CLUSTER))
    among = len(large)  # so many other faults strike while leaders change
    large += anywhere[:among]
    small += anywhere[among:]
    episodes: list[Episode] = []
    for nodes, mine in ((1, small), (_CLUSTER, large)):
        rng.shuffle(mine)
        for at in range(0, len(mine), FAULTS_PER_EPISODE):
            episodes.append(_episode(rng, len(episodes), mine[at : at + FAULTS_PER_EPISODE], nodes=nodes, kinds=kinds))
    return tuple(episodes)


def _episode(
    rng: random.Random, number: int, chosen: Sequence[str], *, nodes: int, kinds: Mapping[str, Needs]
) -> Episode:
    return Episode(
        number=number,
        seed=rng.getrandbits(32),
        nodes=nodes,
        residents=max(rng.choice((1, 2)), *(kinds[kind].residents for kind in chosen)),
        static=rng.random() < 0.5,
        hot=rng.choice(("no", "user", "partition")),
        faults=tuple(Planned(kind, rng.uniform(*_GAP_S), rng.getrandbits(32)) for kind in chosen),
    )
