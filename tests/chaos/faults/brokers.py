"""Brokers crash, restart, hang; leaders change."""

import random
import time

from confluent_kafka import KafkaException

from tests.chaos.world import Broken, World, await_

_IN_SYNC_S = 60.0


def killed(world: World, rng: random.Random) -> str:
    """SIGKILL, and up again."""
    with world.brokers_lock:
        world.broker.kill(1)
        time.sleep(rng.uniform(0, 2))
        world.broker.restart(1)
        return "node 1 killed and restarted"


def stopped(world: World, rng: random.Random) -> str:
    """SIGTERM, and up again."""
    with world.brokers_lock:
        process = world.broker.processes[1]
        process.terminate()
        process.wait(30)
        time.sleep(rng.uniform(0, 2))
        world.broker.restart(1)
        return "node 1 stopped and restarted"


def paused(world: World, rng: random.Random) -> str:
    """SIGSTOP for seconds: connections stay, nobody answers."""
    with world.brokers_lock:
        seconds = rng.uniform(0.5, 7)
        world.broker.pause(1)
        time.sleep(seconds)
        world.broker.resume(1)
        return f"node 1 paused for {seconds:.1f} s"


def leader_killed(world: World, rng: random.Random) -> str:
    """SIGKILL for the leader of a source, output or changelog partition; another takes over; the node comes back."""
    settings = world.settings
    topic = rng.choice((settings.topics.events, settings.topics.scores, settings.changelog, "__transaction_state"))
    partition = rng.randrange(settings.topics.partitions)
    with world.brokers_lock:
        if not await_(lambda: _whole(world), _IN_SYNC_S):
            raise Broken("the replicas were not in sync within a minute of the last fault")
        node = world.admin.leader(topic, partition)
        world.broker.kill(node)
        time.sleep(rng.uniform(0.5, 5))
        world.broker.restart(node)
        return f"node {node} killed, leader of {topic}-{partition}"


def _whole(world: World) -> bool:
    """Whether one more node can be spared."""
    topics = (world.settings.topics.events, world.settings.topics.scores, world.settings.changelog)
    try:
        return all(world.admin.in_sync(topic, len(world.broker.nodes)) for topic in topics)
    except KafkaException:
        return False
