"""Certificates, users and rules for brokers under test: what makes the CLIENT listener ask who is there.

The INTERNAL listener stays plain and may do everything: it is where the tests make users and rules, and read.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from worker.kafka import clients
from worker.kafka.broker import EmbeddedBroker
from worker.ports import HOST
from worker.settings import Kafka, Settings

SOON_S = 60
_POLL_S = 0.05
_WHOEVER: Any = None  # its types know of no filter that leaves one open
_EVERY_RULE = AclBindingFilter(
    ResourceType.ANY,
    _WHOEVER,
    ResourcePatternType.ANY,
    _WHOEVER,
    _WHOEVER,
    AclOperation.ANY,
    AclPermissionType.ANY,
)


class Certificates:
    """An authority of its own, the brokers' certificate, and a client's in files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self._authority = authority.cert_pem.bytes().decode()
        server, client = authority.issue_cert(HOST), authority.issue_cert("worker@example.org")
        self._chain = "".join(pem.bytes().decode() for pem in server.cert_chain_pems)
        self._key = _pkcs8(server.private_key_pem.bytes())
        self.ca_file, self.certificate_file, self.key_file = (
            folder / name for name in ("ca.pem", "client.pem", "client.key")
        )
        self.ca_file.write_text(self._authority)
        client.cert_chain_pems[0].write_to_path(str(self.certificate_file))
        client.private_key_pem.write_to_path(str(self.key_file))

    def properties(self) -> dict[str, str]:
        """TLS on CLIENT."""
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": self._chain,
            "ssl.keystore.key": self._key,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": self._authority,
        }


def mutual_tls(certificates: Certificates) -> dict[str, str]:
    """Server properties: clients show a certificate."""
    return {**certificates.properties(), **_client("SSL"), "listener.name.client.ssl.client.auth": "required"}


def scram_over_tls(certificates: Certificates) -> dict[str, str]:
    """Server properties: clients log in, and may do only what a rule allows."""
    return {
        **certificates.properties(),
        **_client("SASL_SSL"),
        "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def _client(protocol: str) -> dict[str, str]:
    return {"listener.security.protocol.map": f"CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"}


def _pkcs8(pem: bytes) -> str:
    """The one form of a private key in PEM that Kafka reads."""
    key = load_pem_private_key(pem, password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Guarded:
    """A broker whose CLIENT listener lets users in by SCRAM over TLS, and its users and rules."""

    def __init__(self, broker: EmbeddedBroker, certificates: Certificates) -> None:
        self.broker = broker
        self.certificates = certificates
        self._admin = AdminClient({"bootstrap.servers": self.inside, "log_level": 0})

    @property
    def inside(self) -> str:
        """The bootstrap servers that ask nobody and allow everything."""
        return inside(self.broker)

    def client(self, user: str, password: str) -> dict[str, object]:
        """The section `kafka` of a user's settings."""
        return {
            "bootstrap_servers": self.broker.bootstrap_servers,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": user,
            "sasl_password": password,
            "ssl_ca_file": self.certificates.ca_file,
        }

    def enrol(self, user: str, password: str) -> None:
        """Returns when the broker lets the user in, for the same reason."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        made = self._admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, info, password.encode())])
        for done in made.values():
            done.result(SOON_S)
        clients.admin(Kafka.model_validate(self.client(user, password))).list_topics(timeout=SOON_S)

    def allow(self, rules: Iterable[AclBinding]) -> None:
        """Returns when the broker goes by them: the controller acknowledges a rule a moment before."""
        due = list(rules)
        for done in self._admin.create_acls(due).values():
            done.result(SOON_S)
        deadline = time.monotonic() + SOON_S
        while not set(due) <= set(self._admin.describe_acls(_EVERY_RULE).result(SOON_S)):
            assert time.monotonic() < deadline, "the broker does not come to know of the rules"
            time.sleep(_POLL_S)


def inside(broker: EmbeddedBroker) -> str:
    """The bootstrap servers of the INTERNAL listeners."""
    return ",".join(f"{HOST}:{node.internal_port}" for node in broker.nodes)


def rights(settings: Settings, user: str) -> Mapping[str, list[AclBinding]]:
    """All that a worker's user needs, by what it is for."""
    topics, application = settings.topics, settings.worker.application_id
    topic, literal = ResourceType.TOPIC, ResourcePatternType.LITERAL

    def rules(
        kind: ResourceType, name: str, *operations: AclOperation, pattern: ResourcePatternType = literal
    ) -> list[AclBinding]:
        return [
            AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]

    read, write, look = AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS
    return {
        "group": rules(ResourceType.GROUP, application, read),
        "transactions": rules(
            ResourceType.TRANSACTIONAL_ID, f"{application}-", write, pattern=ResourcePatternType.PREFIXED
        ),
        "events": rules(topic, topics.events, read, look),
        "changelog": rules(topic, settings.changelog, read, write, look),
        "scores": rules(topic, topics.scores, write, look),
        "latest": rules(topic, topics.latest, write, look),
        "dead_letters": rules(topic, topics.dead_letters, write, look),
        "shadow": rules(topic, topics.shadow, AclOperation.DESCRIBE, look),
    }
