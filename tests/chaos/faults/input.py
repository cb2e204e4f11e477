"""What comes in is bad, or too large."""

import random

from tests.chaos import story
from tests.chaos.world import World


def poison_burst(world: World, rng: random.Random) -> str:
    """A hundred bad records in a row."""
    count = 100
    world.traffic.inject(story.poison(rng, world.settings.topics.partitions) for _ in range(count))
    return f"{count} bad records"


def oversized_record(world: World, rng: random.Random) -> str:
    """Records beyond every bound."""
    giants = list(story.oversized(rng, world.settings.topics.partitions))
    world.traffic.inject(giants)
    return f"{len(giants)} records of up to {max(len(giant.value or b'') for giant in giants):,} bytes"
