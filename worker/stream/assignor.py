"""Who of the group reads which partition: Faust's own rule, but never on metadata that lacks a topic or a partition.

A broker that has just come up may list no topics for a moment. Faust would leave out what it does not see, assign
nothing to anybody, and the group would stand still until somebody joins or leaves. Topics of unlike numbers of
partitions it assigns each by itself: events to one worker, and the windows and the watermark of that partition, without
which it begins anew, to another.
"""

from typing import Any

from faust.assignor.partition_assignor import PartitionAssignor

from worker.errors import Fatal


class Assignor(PartitionAssignor):
    """Runs in the group's leader only."""

    def assign(self, cluster: Any, member_metadata: Any) -> Any:
        """Raises `Fatal` for topics that do not go together: the leader's process ends, and with it this assignment."""
        subscribed = sorted({topic for member in member_metadata.values() for topic in member.subscription})
        partitions = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in subscribed}
        missing = [topic for topic, count in partitions.items() if not count]
        if missing:
            raise Fatal(f"the brokers do not list {', '.join(missing)}: no assignment without all topics")
        if len(set(partitions.values())) > 1:
            told = ", ".join(f"{topic} has {count}" for topic, count in partitions.items())
            raise Fatal(f"the topics have unlike numbers of partitions ({told}): none may be added to a topic in use")
        return super().assign(cluster, member_metadata)
