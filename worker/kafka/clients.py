"""How each Kafka client library is told where the brokers are and how to be let in. Knows no topic and sends nothing.

librdkafka (confluent-kafka) serves admin, tools, replay and load; aiokafka serves the stream worker.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from worker.errors import IntentError, SettingError
from worker.settings import Kafka

_ADVICE: Final = {
    KafkaError._SSL: (  # noqa: SLF001 - librdkafka's own codes begin with an underscore
        "check `kafka.security_protocol` and the certificates of `kafka.ssl_ca_file` and `kafka.ssl_certificate_file`"
    ),
    KafkaError._AUTHENTICATION: (  # noqa: SLF001 - as above
        "check `kafka.security_protocol`, `kafka.sasl_mechanism`, the user and the password"
    ),
    KafkaError._RESOLVE: "check the names in `kafka.bootstrap_servers`",  # noqa: SLF001 - as above
}

_NO_CAUSE: Final = (
    "is it running? `intent broker start` starts one here; if it is, check `kafka.security_protocol`, and the port in "
    "`kafka.bootstrap_servers`"
)
"""A listener that wants TLS or a login hangs up on who brings none, and librdkafka tells no cause."""


class Trouble:
    """What keeps a client from its brokers. librdkafka raises a mere time-out, and tells its `error_cb` the cause."""

    def __init__(self) -> None:
        self.cause = ""
        """In librdkafka's words; empty while none was told that a person can mend in the settings."""
        self.advice = _NO_CAUSE
        """What to do about the cause, or for want of one."""

    def __call__(self, error: KafkaError) -> None:
        """To be the client's `error_cb`."""
        # A broker without TLS hangs up on a handshake, which has the code of any lost connection.
        code = KafkaError._SSL if "SSL handshake failed" in error.str() else error.code()  # noqa: SLF001 - as above
        if code in _ADVICE:
            self.cause, self.advice = error.str(), _ADVICE[code]

    def hear(self, client: AdminClient | Consumer | Producer) -> None:
        """Let the client tell what it has not told yet: it does so when it is polled."""
        client.poll(0)

    def unanswered(self, client: AdminClient | Consumer | Producer, kafka: Kafka, reason: str) -> IntentError:
        """The sentence for brokers that did not answer the client. `reason` is what was raised, for want of a cause."""
        self.hear(client)
        return IntentError(
            f"Kafka at {kafka.bootstrap_servers} (setting `kafka.bootstrap_servers`) does not answer "
            f"({self.cause or reason}); {self.advice}"
        )


@contextmanager
def accepted() -> Iterator[None]:
    """Around the making of a confluent-kafka client.

    Raises `SettingError` for what librdkafka does not accept, such as a certificate that is none.
    """
    try:
        yield
    except KafkaException as error:
        raise SettingError(f"the settings `kafka.*` are not accepted: {error.args[0].str()}; correct them") from None


IN_ORDER: Final = {"enable.idempotence": True, "max.in.flight.requests.per.connection": 1}
"""What a confluent-kafka producer needs to come through changes of leaders. One that is not leader yet may refuse a
partition's first batch and take its second, were that under way: the first then is out of order, and the producer of no
further use (librdkafka issue 3584).
"""


@contextmanager
def of_use(topic: str) -> Iterator[None]:
    """Around the polls of a producer of records for the topic: they raise once, where it is of no further use.

    Raises `IntentError`, one sentence.
    """
    try:
        yield
    except (KafkaException, SystemError) as error:
        # The latter where a delivery was told with the error pending already: it is the cause then, or it was dropped.
        cause = error if isinstance(error, KafkaException) else error.__cause__
        if isinstance(cause, KafkaException):
            why = cause.args[0].str()
        elif "without setting an exception" in str(error):
            why = "its producer failed, and librdkafka's line on standard error says why"
        else:
            raise
        raise IntentError(
            f"{topic} takes nothing more from here: {why}; allow this user WRITE on the topic where that is not "
            "authorized, else try again"
        ) from None


def librdkafka(kafka: Kafka, trouble: Trouble | None = None) -> dict[str, Any]:
    """The connection part of a confluent-kafka client's configuration. `trouble` may hear what keeps it from brokers.

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
    if trouble is not None:
        config["error_cb"] = trouble
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


def admin(kafka: Kafka, trouble: Trouble | None = None) -> AdminClient:
    """An admin client; connects when first used. `trouble` may hear from it what keeps it from the brokers.

    Raises `SettingError` for what librdkafka does not accept.
    """
    with accepted():
        return AdminClient(librdkafka(kafka, trouble))


def _file(kafka: Kafka, setting: str) -> Path | None:
    path: Path | None = getattr(kafka, setting)
    if path is not None and not path.is_file():
        raise SettingError(f"the setting `kafka.{setting}` names {path}, which is not a file")
    return path
