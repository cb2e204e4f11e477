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
    """SIGSTOP for seconds: connections stay, nobody answers.

    At times for longer than the broker's own session with the controller (4 s), which sleeps in the same process: Kafka
    4.3 then drops marks of commits that it has acknowledged ("likely deleted already").
    """
    with world.brokers_lock:
        seconds = rng.uniform(0.5, 6)
        world.broker.pause(1)
        time.sleep(seconds)
        world.broker.resume(1)
        return f"node 1 paused for {seconds:.1f} s"


def leader_killed(world: World, rng: random.Random) -> str:
    """SIGKILL for the leader of a source, output or changelog partition; another takes over; the node comes back."""
    with world.brokers_lock:
        node, led = _leader(world, rng)
        world.broker.kill(node)
        time.sleep(rng.uniform(0.5, 5))
        world.broker.restart(node)
        return f"node {node} killed, leader of {led}"


def leader_paused(world: World, rng: random.Random) -> str:
    """SIGSTOP for such a leader, until others lead: it wakes believing that it still does."""
    with world.brokers_lock:
        node, led = _leader(world, rng)
        seconds = rng.uniform(5, 8)
        world.broker.pause(node)
        time.sleep(seconds)
        world.broker.resume(node)
        return f"node {node} paused for {seconds:.1f} s, leader of {led}"


def _leader(world: World, rng: random.Random) -> tuple[int, str]:
    """A node that can be spared, and what it leads."""
    settings = world.settings
    topic = rng.choice((settings.topics.events, settings.topics.scores, settings.changelog, "__transaction_state"))
    partition = rng.randrange(settings.topics.partitions)
    if not await_(lambda: _whole(world), _IN_SYNC_S):
        raise Broken("the replicas were not in sync within a minute of the last fault")
    return world.admin.leader(topic, partition), f"{topic}-{partition}"


def _whole(world: World) -> bool:
    """Whether one more node can be spared."""
    topics = (world.settings.topics.events, world.settings.topics.scores, world.settings.changelog)
    try:
        return all(world.admin.in_sync(topic, len(world.broker.nodes)) for topic in topics)
    except KafkaException:
        return False
