"""Who of the group reads which partition: Faust's own rule, but never on metadata that lacks a topic.

A broker that has just come up may list no topics for a moment. Faust would leave out what it does not see, assign
nothing to anybody, and the group would stand still until somebody joins or leaves.
"""

from typing import Any

from faust.assignor.partition_assignor import PartitionAssignor

from worker.errors import Fatal


class Assignor(PartitionAssignor):
    """Runs in the group's leader only."""

    def assign(self, cluster: Any, member_metadata: Any) -> Any:
        """Raises `Fatal` where a topic has no partitions: the leader's process ends, and with it this assignment."""
        subscribed = {topic for member in member_metadata.values() for topic in member.subscription}
        missing = sorted(topic for topic in subscribed if not cluster.partitions_for_topic(topic))
        if missing:
            raise Fatal(f"the brokers do not list {', '.join(missing)}: no assignment without all topics")
        return super().assign(cluster, member_metadata)
