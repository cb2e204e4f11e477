"""What each client library is told of the same settings."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import SecretStr

from worker.errors import IntentError, SettingError
from worker.kafka import clients, properties, topics
from worker.ports import HOST
from worker.replay import plan
from worker.replay.lookup import look_up
from worker.replay.plan import EARLIEST, LATEST
from worker.settings import Kafka, Settings
from worker.shop import publish

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


def test_a_certificate_that_librdkafka_does_not_take_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(SettingError, match=r"the settings `kafka\.\*` are not accepted: .*ssl\.ca\.location"):
        clients.admin(Kafka(security_protocol="SSL", ssl_ca_file=path))


@pytest.mark.parametrize(
    ("code", "text", "advice"),
    [
        pytest.param(KafkaError._SSL, "verify failed", "ssl_ca_file", id="a certificate"),
        pytest.param(KafkaError._AUTHENTICATION, "invalid credentials", "password", id="a password"),
        pytest.param(KafkaError._RESOLVE, "not known", "bootstrap_servers", id="a name"),
        pytest.param(KafkaError._TRANSPORT, "SSL handshake failed: closed", "security_protocol", id="no TLS there"),
    ],
)
def test_what_can_be_mended_in_the_settings_is_kept(code: int, text: str, advice: str) -> None:
    trouble = clients.Trouble()
    trouble(KafkaError(code, text))
    trouble(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    trouble(KafkaError(KafkaError._TRANSPORT, "Disconnected"))
    assert trouble.cause == text
    assert advice in trouble.advice
    assert trouble.advice != clients.Trouble().advice


ASKING: dict[str, Callable[[Settings], object]] = {
    "topics": topics.check,
    "lookup": lambda settings: look_up(
        settings.kafka, "t", EARLIEST, LATEST, warmup_ms=0, named="setting `topics.events`"
    ),
    "publish": publish.connect,
}
"""All who tell of brokers that do not answer."""


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is waited for; on a busy machine one second is too short for a first handshake to fail."""
    monkeypatch.setattr(topics, "_TIMEOUT_S", 3.0)
    monkeypatch.setattr(plan, "ASK_TIMEOUT_S", 3.0)
    monkeypatch.setattr(publish, "_ANSWER_S", 3.0)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda taken: taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), id="another protocol"),
        pytest.param(lambda _: None, id="hangs up, as Kafka does"),
    ],
)
def test_a_broker_without_tls_is_told_from_one_that_is_down(
    answer: Callable[[socket.socket], None], ask: Callable[[Settings], object]
) -> None:
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # one side has closed: the test is over
                while True:
                    taken, _ = listener.accept()
                    with taken:
                        taken.recv(4096)
                        answer(taken)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        where = f"{HOST}:{listener.getsockname()[1]}"
        with pytest.raises(IntentError, match=r"SSL handshake failed.*; check `kafka\.security_protocol`"):
            ask(Settings(kafka=Kafka(bootstrap_servers=where, security_protocol="SSL")))
        listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        thread.join(10)
    assert not thread.is_alive()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_of_one_that_is_down_it_is_asked_whether_it_runs(ask: Callable[[Settings], object]) -> None:
    with pytest.raises(IntentError, match=r"Kafka at 127\.0\.0\.1:1 .* does not answer \(.*\); is it running\?"):
        ask(Settings(kafka=Kafka(bootstrap_servers="127.0.0.1:1")))


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_a_certificate_that_is_none_is_named_by_all(tmp_path: Path, ask: Callable[[Settings], object]) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(SettingError, match=r"the settings `kafka\.\*` are not accepted: .*ssl\.ca\.location"):
        ask(Settings(kafka=Kafka(security_protocol="SSL", ssl_ca_file=path)))


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


NO_ID = KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED))


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        pytest.param(NO_ID, "Cluster authorization failed", id="as it is"),
        pytest.param(
            raised(SystemError("<class 'X'> returned a result with an exception set"), NO_ID),
            "Cluster authorization failed",
            id="as a cause",
        ),
        pytest.param(
            SystemError("<method 'flush'> returned NULL without setting an exception"),
            "librdkafka's line",
            id="dropped",
        ),
    ],
)
def test_a_producer_of_no_use_is_told_in_a_sentence_whatever_became_of_its_error(error: Exception, why: str) -> None:
    with pytest.raises(IntentError, match=f"events takes nothing more from here: .*{why}"), clients.of_use("events"):
        raise error


def test_another_error_of_the_interpreter_s_is_raised_as_it_is() -> None:
    with pytest.raises(SystemError, match="bad call"), clients.of_use("events"):
        raise SystemError("bad call")
