"""Settings: sources in their order, and one sentence for each mistake."""

from pathlib import Path

import pytest

from worker import config
from worker.errors import SettingError


def test_a_later_source_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, secrets = tmp_path / "intent.toml", tmp_path / "secrets"
    file.write_text('[worker]\nmode = "latest"\nmax_batch_events = 10\nweb_port = 1\nsession_timeout_s = 5\n')
    secrets.mkdir()
    (secrets / "intent_worker__max_batch_events").write_text("20")
    (secrets / "intent_worker__web_port").write_text("2")
    monkeypatch.setenv("INTENT_CONFIG", str(file))
    monkeypatch.setenv("INTENT_SECRETS_DIR", str(secrets))
    monkeypatch.setenv("INTENT_WORKER__WEB_PORT", "3")
    monkeypatch.setenv("INTENT_WORKER__SESSION_TIMEOUT_S", "6")
    flags = config.flags(["worker.session_timeout_s=7"])
    worker = config.load(flags).worker
    assert (worker.mode, worker.max_batch_events, worker.web_port, worker.session_timeout_s) == ("latest", 20, 3, 7)
    origin = config.sources(flags)
    names = ("mode", "max_batch_events", "web_port", "session_timeout_s", "data_dir")
    assert [origin[f"worker.{name}"] for name in names] == [str(file), "secret file", "environment", "flag", "default"]


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("worker.mode=never", "the setting `worker.mode` is 'never': input should be 'every' or 'latest'"),
        (
            "worker.web_port=70000",
            "the setting `worker.web_port` is '70000': input should be less than or equal to 65535",
        ),
        ("kafka.bootstrap_servers=here", "the setting `kafka.bootstrap_servers` is 'here': write HOST:PORT"),
        ("topics.partitions=0", "the setting `topics.partitions` is '0': input should be greater than or equal to 1"),
        ("worker.nmae=x", "`worker.nmae` is no setting"),
        ("mode=latest", "`--set mode=latest` is no assignment; write SECTION.NAME=VALUE"),
        (
            "worker.session_timeout_s=60",
            "`worker.request_timeout_s` is 30.0: it must exceed `worker.session_timeout_s`",
        ),
        (
            "kafka.security_protocol=SASL_SSL",
            "`kafka.sasl_username` is missing: the security protocol SASL_SSL needs it",
        ),
        (
            "topics.min_insync_replicas=2",
            "`topics.min_insync_replicas` is 2: it must not exceed `topics.replication_factor`",
        ),
    ],
)
def test_a_mistake_is_one_sentence(assignment: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        config.load(config.flags([assignment]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTENT_WROKER__MODE", "latest")
    with pytest.raises(SettingError, match="INTENT_WROKER__MODE names no setting"):
        config.load()


def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "intent.toml").write_text("[worker\n")
    monkeypatch.setenv("INTENT_CONFIG", str(tmp_path / "intent.toml"))
    with pytest.raises(SettingError, match="cannot be read"):
        config.load()


def test_secrets_are_masked() -> None:
    settings = config.load({"kafka": {"sasl_password": "hush"}})
    assert "hush" not in str(dict(config.leaves(settings)))
    with pytest.raises(SettingError) as caught:
        config.load({"kafka": {"sasl_password": ["hush"]}})
    assert "hush" not in str(caught.value)
