"""The topic of the scores is gone, or refuses what is written to it. Workers end, uncommitted, until it is mended."""

import random
import time

from tests.chaos.world import Broken, World

_REFUSED_BYTES = "100"
_MAX_MESSAGE_BYTES = str(2**20 + 12)


def missing(world: World, rng: random.Random) -> str:
    """The topic is deleted and made again. What it held goes with it: that is read before, while nothing is written."""
    world.traffic.pause()
    if not world.await_drained():
        raise Broken("not drained within the limit although nothing was broken")
    world.published.end_life()
    world.admin.delete(world.settings.topics.scores)
    world.traffic.resume()
    seconds = rng.uniform(0.5, 3)
    time.sleep(seconds)
    world.admin.create()
    world.published.begin_life()
    return f"deleted for {seconds:.1f} s"


def refuses_size(world: World, rng: random.Random) -> str:
    """Every score is too large for it."""
    topic = world.settings.topics.scores
    world.admin.configure(topic, max_message_bytes=_REFUSED_BYTES)
    seconds = rng.uniform(0.5, 3)
    time.sleep(seconds)
    world.admin.configure(topic, max_message_bytes=_MAX_MESSAGE_BYTES)
    return f"refused for {seconds:.1f} s"


def forbidden(world: World, rng: random.Random) -> str:
    """Nobody is authorised to write to it."""
    topic = world.settings.topics.scores
    world.admin.forbid(topic)
    seconds = rng.uniform(0.5, 3)
    time.sleep(seconds)
    world.admin.permit(topic)
    return f"forbidden for {seconds:.1f} s"
