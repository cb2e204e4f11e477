"""How each Kafka client library is told where the brokers are and how to be let in. Knows no topic and sends nothing.

librdkafka (confluent-kafka) serves admin, tools, replay and load; aiokafka serves the stream worker.
"""

import ssl
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from worker.config import Kafka
from worker.errors import SettingError


def librdkafka(kafka: Kafka) -> dict[str, Any]:
    """The connection part of a confluent-kafka client's configuration.

    Raises `SettingError` that names a certificate setting whose file is not there.
    """
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        "log_level": 0,  # librdkafka writes to stderr by itself; what matters comes back as an error
        "reconnect.backoff.max.ms": 1000,
    }
    if kafka.security_protocol in {"SSL", "SASL_SSL"}:
        for setting, name in (
            ("ssl_ca_file", "ssl.ca.location"),
            ("ssl_certificate_file", "ssl.certificate.location"),
            ("ssl_key_file", "ssl.key.location"),
        ):
            if (path := _file(kafka, setting)) is not None:
                config[name] = str(path)
    if kafka.security_protocol.startswith("SASL"):
        config["sasl.mechanism"] = kafka.sasl_mechanism
        config["sasl.username"] = kafka.sasl_username or ""
        config["sasl.password"] = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
    return config


def aiokafka(kafka: Kafka) -> dict[str, Any]:
    """The same as keyword arguments of an aiokafka client."""
    config: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "ssl_context": ssl_context(kafka),
    }
    if kafka.security_protocol.startswith("SASL"):
        config["sasl_mechanism"] = kafka.sasl_mechanism
        config["sasl_plain_username"] = kafka.sasl_username or ""
        config["sasl_plain_password"] = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
    return config


def ssl_context(kafka: Kafka) -> ssl.SSLContext | None:
    """The settings' TLS context, None for a protocol without TLS. Raises `SettingError` when a file is not usable."""
    if kafka.security_protocol not in {"SSL", "SASL_SSL"}:
        return None
    certificate = _file(kafka, "ssl_certificate_file")
    try:
        context = ssl.create_default_context(cafile=_file(kafka, "ssl_ca_file"))
        if certificate is not None:
            context.load_cert_chain(certificate, _file(kafka, "ssl_key_file"))
    except ssl.SSLError as error:
        raise SettingError(f"a file of the settings `kafka.ssl_*` is not usable PEM: {error}") from None
    return context


def admin(kafka: Kafka) -> AdminClient:
    """An admin client; connects when first used."""
    return AdminClient(librdkafka(kafka))


def _file(kafka: Kafka, setting: str) -> Path | None:
    path: Path | None = getattr(kafka, setting)
    if path is not None and not path.is_file():
        raise SettingError(f"the setting `kafka.{setting}` names {path}, which is not a file")
    return path
