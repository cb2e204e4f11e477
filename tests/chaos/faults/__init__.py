"""The kinds of fault, by name: how each is injected, and what it asks of its episode.

A fault is a function of the world and a source of chance. It returns when the injection is over (what was stopped is
let go, what was taken away is back) and says in a few words what it did; it raises `Broken` when something that is
promised did not hold meanwhile. Whether anything was lost is for the audit to say.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.faults import brokers, input, output, state, workers  # noqa: A004 - the domain's word
from tests.chaos.plan import Needs
from tests.chaos.world import World

Strike = Callable[[World, random.Random], str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    strike: Strike
    needs: Needs = field(default_factory=Needs)


KINDS: Final[Mapping[str, Kind]] = {
    "worker_killed": Kind(workers.killed),
    "worker_stopped": Kind(workers.stopped, Needs(alone=True)),
    "worker_frozen": Kind(workers.frozen, Needs(residents=2)),
    "workers_join_and_leave": Kind(workers.join_and_leave),
    "scorer_raises": Kind(workers.scorer_raises),
    "device_out_of_memory": Kind(workers.device_out_of_memory),
    "broker_killed": Kind(brokers.killed, Needs(nodes=1)),
    "broker_stopped": Kind(brokers.stopped, Needs(nodes=1)),
    "broker_paused": Kind(brokers.paused, Needs(nodes=1)),
    "leader_killed": Kind(brokers.leader_killed, Needs(nodes=3)),
    "leader_paused": Kind(brokers.leader_paused, Needs(nodes=3)),
    "disk_full": Kind(state.disk_full),
    "state_deleted": Kind(state.deleted),
    "state_corrupted": Kind(state.corrupted),
    "changelog_compacted": Kind(state.changelog_compacted),
    "poison_burst": Kind(input.poison_burst),
    "oversized_record": Kind(input.oversized_record),
    "output_missing": Kind(output.missing, Needs(alone=True)),
    "output_refuses_size": Kind(output.refuses_size),
    "output_forbidden": Kind(output.forbidden, Needs(nodes=1)),
}
