"""What each client library is told of the same settings."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from worker.config import Kafka
from worker.errors import SettingError
from worker.kafka import clients, properties

SCRAM = Kafka(
    bootstrap_servers="broker:9092",
    security_protocol="SASL_PLAINTEXT",
    sasl_mechanism="SCRAM-SHA-256",
    sasl_username="shop",
    sasl_password=SecretStr("secret"),
)


def test_a_plain_connection_says_nothing_of_secrets() -> None:
    told = clients.librdkafka(Kafka(bootstrap_servers="a:1,b:2"))
    assert told["bootstrap.servers"] == "a:1,b:2"
    assert not [name for name in told if name.startswith(("sasl.", "ssl."))]
    assert clients.aiokafka(Kafka(bootstrap_servers="a:1,b:2")) == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "PLAINTEXT",
        "ssl_context": None,
    }


def test_both_libraries_log_in_alike() -> None:
    told = clients.librdkafka(SCRAM)
    assert (told["sasl.mechanism"], told["sasl.username"], told["sasl.password"]) == ("SCRAM-SHA-256", "shop", "secret")
    same = clients.aiokafka(SCRAM)
    assert (same["sasl_mechanism"], same["sasl_plain_username"]) == ("SCRAM-SHA-256", "shop")
    assert same["sasl_plain_password"] == "secret"


def test_tls_verifies_the_broker_and_its_name() -> None:
    context = clients.ssl_context(Kafka(security_protocol="SSL"))
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("setting", ["ssl_ca_file", "ssl_certificate_file"])
def test_a_missing_certificate_is_named(setting: str, tmp_path: Path) -> None:
    kafka = Kafka.model_validate({"security_protocol": "SSL", setting: tmp_path / "gone.pem"})
    for tell in (clients.librdkafka, clients.aiokafka):
        with pytest.raises(SettingError, match=rf"the setting `kafka.{setting}` names .*gone.pem, which is not a file"):
            tell(kafka)


def test_a_file_that_is_no_certificate_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(SettingError, match=r"`kafka.ssl_\*` is not usable PEM"):
        clients.ssl_context(Kafka(security_protocol="SSL", ssl_ca_file=path))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        ("C:\\x", "C:\\u005cx"),
        ("Müller", "M\\u00fcller"),
        ("😀", "\\ud83d\\ude00"),
        ("a\nb", "a\\u000ab"),
    ],
    ids=["plain", "backslash", "umlaut", "beyond 16 bits", "line"],
)
def test_java_reads_back_what_is_rendered(value: str, text: str) -> None:
    assert properties.render({"name": value}) == f"name={text}\n"
