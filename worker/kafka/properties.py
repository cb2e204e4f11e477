"""The server properties of the embedded Kafka, and how it logs: what every node of a cluster has in common.

Chosen for one machine that development, demos and tests share; not advice for a production cluster.
"""

from collections.abc import Mapping
from typing import Final

LOG4J: Final = """\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %-5p %c{1} - %m%n
logger.values.name = org.apache.kafka.common.config.AbstractConfig
logger.values.level = WARN
"""


def cluster(nodes: int) -> dict[str, str]:
    """The properties that all nodes of a cluster of this size share."""
    replicas = str(min(3, nodes))
    in_sync = str(min(2, nodes))
    return {
        "process.roles": "broker,controller",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # Kafka's 50 partitions of each state topic are for many groups; here they would cost a second at the first use.
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "8",
        "share.coordinator.state.topic.num.partitions": "4",
        # A lone worker need not wait for others, and a fault test wants short sessions.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # A killed node that comes back is let in only when its former life's session has ended: 9 s by Kafka's default.
        "broker.heartbeat.interval.ms": "500",
        "broker.session.timeout.ms": "4000",
        # The last nodes of a cluster that ends have no quorum left to sign off from, and would wait for one.
        "controlled.shutdown.enable": "true" if nodes == 1 else "false",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 * 2**20),  # Kafka's 128 MB would be a quarter of the heap
    }


def render(properties: Mapping[str, str]) -> str:
    """The text of a properties file. Java reads it as Latin-1 with escapes."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items())


def _escaped(value: str) -> str:
    units = value.encode("utf-16-be", "surrogatepass")
    codes = (int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2))
    return "".join(chr(code) if 32 <= code < 127 and code != 92 else f"\\u{code:04x}" for code in codes)
