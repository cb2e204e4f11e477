"""Settings: sources in their order, and one sentence for each mistake."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from worker import config
from worker.errors import SettingError
from worker.settings import ACCEPTED, Settings, leaves


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


def test_a_home_folder_is_found_where_no_shell_has_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("INTENT_WORKER__DATA_DIR", "~/state")
    found = config.load(config.flags(["model.bundle=~/a~b", "model.cache_dir=~nobody-of-that-name/x"]))
    assert (found.worker.data_dir, found.model.bundle) == (tmp_path / "state", tmp_path / "a~b")
    assert found.model.cache_dir == Path("~nobody-of-that-name/x")


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("worker.mode=never", "the setting `worker.mode` is 'never': input should be 'every' or 'latest'"),
        (
            "worker.web_port=70000",
            "the setting `worker.web_port` is '70000': input should be less than or equal to 65535",
        ),
        ("kafka.bootstrap_servers=here", "the setting `kafka.bootstrap_servers` is 'here': write HOST:PORT"),
        (
            "kafka.bootstrap_servers=here:90922",
            "is 'here:90922': write HOST:PORT, several separated by commas; a port is",
        ),
        ("kafka.bootstrap_servers=::1:9092", "is '::1:9092': write HOST:PORT"),
        ("topics.partitions=0", "the setting `topics.partitions` is '0': input should be greater than or equal to 1"),
        ("topics.scores=..", "`topics.scores` is '..': write 1 to 249 of the characters"),
        ("topics.scores=" + "x" * 250, "write 1 to 249 of the characters"),
        ("worker.nmae=x", "`worker.nmae` is no setting"),
        ("mode=latest", "`--set mode=latest` is no assignment; write SECTION.NAME=VALUE"),
        (
            "worker.session_timeout_s=30",
            "`worker.request_timeout_s` is 30.0: it must exceed `worker.session_timeout_s`",
        ),
        (
            "kafka.security_protocol=SASL_SSL",
            "`kafka.sasl_username` is missing or empty: the security protocol SASL_SSL needs it",
        ),
        (
            "kafka.ssl_key_file=key.pem",
            "`kafka.ssl_key_file` is 'key.pem': it is the key of `kafka.ssl_certificate_file`, which is missing",
        ),
        (
            "topics.min_insync_replicas=2",
            "`topics.min_insync_replicas` is 2: it must not exceed `topics.replication_factor`",
        ),
        ("model.name=shop", "`model.name` is 'shop': it chooses from `model.store`, which is missing"),
        ("model.shadow_share=0.5", "`model.shadow_share` is 0.5: a challenger needs `model.store`"),
        ("model.shadow_share=1.5", "`model.shadow_share` is '1.5': input should be less than or equal to 1"),
        ("model.store=s3://models", "`model.name` is missing: it chooses a model from `model.store`, 's3://models'"),
        ("model.store= ", "`model.store` is ' ': write a folder or a URL"),
        ("model.deterministic=perhaps", "the setting `model.deterministic` is 'perhaps': write true or false"),
        ("model.store=ftp://me:secret@host/models", "`model.store` holds a password: give it where"),
        ("model.name=../shop", "`model.name` is '../shop': write 1 to 100 of the characters"),
        ("worker.web_host=", "`worker.web_host` is '': write a name or an address of this machine"),
        ("worker.web_host=http://here", "`worker.web_host` is 'http://here': write a name or an address"),
        ("worker.data_dir=", "`worker.data_dir` is '': name a file or a folder"),
        ("worker.data_dir=a\0b", "`worker.data_dir` is 'a\\x00b': leave out the zero byte"),
        ("worker.data_dir=\udcff", "`worker.data_dir` is '\\udcff': write its name in UTF-8"),
        ("model.bundle=", "`model.bundle` is '': name a file or a folder"),
        ("worker.instance_id=", "`worker.instance_id` is '': write 1 to 100 of the characters"),
    ],
)
def test_a_mistake_is_one_sentence(assignment: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        config.load(config.flags([assignment]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("model.bundle=/bundle", "`model.store` is '/models': leave it or `model.bundle` out"),
        (
            "model.alias=challenger",
            "`model.alias` is 'challenger': with `model.shadow_share` it cannot be the champion",
        ),
    ],
)
def test_settings_of_a_store_that_contradict_each_other_are_one_sentence(more: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        config.load(config.flags(["model.store=/models", "model.name=shop", "model.shadow_share=0.1", more]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_boolean_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "intent.toml"
    monkeypatch.setenv("INTENT_CONFIG", str(file))
    file.write_text("[model]\ndeterministic = true\n")
    assert config.load().model.deterministic
    file.write_text("[worker]\nmax_batch_events = true\n")
    with pytest.raises(SettingError) as caught:
        config.load()
    said = f"the setting `worker.max_batch_events` is True: true and false are no value of it (it stands in: {file})"
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["x", "-", "x.", ".x", "xy", "...", "x" * 249])
def test_what_kafka_takes_for_a_topic_is_accepted(name: str) -> None:
    assert config.load(config.flags([f"topics.events={name}"])).topics.events == name


@pytest.mark.parametrize("password", [[], ["kafka.sasl_password="]], ids=["none", "empty"])
def test_a_name_without_its_password_is_refused(password: list[str]) -> None:
    with pytest.raises(SettingError, match=r"`kafka\.sasl_password` is missing or empty"):
        config.load(config.flags(["kafka.security_protocol=SASL_PLAINTEXT", "kafka.sasl_username=me", *password]))


def test_a_store_may_be_a_folder_with_a_space_in_its_name() -> None:
    assert config.load(config.flags(["model.store=/our models", "model.name=shop"])).model.store == "/our models"


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTENT_WROKER__MODE", "latest")
    with pytest.raises(SettingError, match="INTENT_WROKER__MODE names no setting"):
        config.load()


def test_what_kubernetes_says_of_services_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTENT", "INTENT_WORKER", "INTENT_WORKER_WEB"):
        monkeypatch.setenv(f"{name}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{name}_SERVICE_PORT", "6066")
        monkeypatch.setenv(f"{name}_SERVICE_PORT_HTTP", "6066")
        monkeypatch.setenv(f"{name}_PORT", "tcp://10.0.0.1:6066")
        monkeypatch.setenv(f"{name}_PORT_6066_TCP", "tcp://10.0.0.1:6066")
        for part in ("ADDR", "PORT", "PROTO"):
            monkeypatch.setenv(f"{name}_PORT_6066_TCP_{part}", "x")
    assert config.load() == Settings()
    monkeypatch.setenv("INTENT_WORKER_WEB_PORT", "6067")
    with pytest.raises(SettingError, match="INTENT_WORKER_WEB_PORT names no setting"):
        config.load()


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(Path.mkdir, id="a folder, as Docker makes of a mount without a file"),
        pytest.param(lambda path: path.symlink_to("gone"), id="a link that leads nowhere"),
    ],
)
def test_what_stands_in_the_place_of_the_file_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTENT_CONFIG", raising=False)
    place(tmp_path / "intent.toml")
    with pytest.raises(SettingError, match=r"^intent\.toml in this folder is no file that can be read: "):
        config.load()


@pytest.mark.parametrize("named", ["", ".", "/nonexistent/intent.toml"])
def test_a_file_of_settings_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("INTENT_CONFIG", named)
    with pytest.raises(SettingError, match=f"INTENT_CONFIG is '{named}': it must name a TOML file"):
        config.load()


@pytest.mark.parametrize("named", ["", "/nonexistent/secrets", "~nobody-of-this-name/secrets", __file__])
def test_a_folder_of_secrets_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("INTENT_SECRETS_DIR", named)
    with pytest.raises(SettingError, match=f"INTENT_SECRETS_DIR is '{named}': it must name a folder"):
        config.load()


def test_a_file_that_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "intent_kafka__sasl_password"
    file.write_bytes(b"\xff\xfe")
    with monkeypatch.context() as patch:
        patch.setenv("INTENT_SECRETS_DIR", str(tmp_path))
        with pytest.raises(SettingError, match=f"the secret file {file} is no UTF-8 text"):
            config.load()
    monkeypatch.setenv("INTENT_CONFIG", str(file))
    with pytest.raises(SettingError, match=f"the file of settings {file} is no TOML"):
        config.load()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1", "localhost", "worker-0.intent.svc"])  # noqa: S104
def test_a_host_may_be_a_name_or_an_address(host: str) -> None:
    assert config.load(config.flags([f"worker.web_host={host}"])).worker.web_host == host


@pytest.mark.parametrize("servers", ["kafka:9092", "a.b:1,[::1]:65535", "[fd00::2]:9092,10.0.0.1:10000"])
def test_brokers_may_be_names_or_addresses(servers: str) -> None:
    assert config.load({"kafka": {"bootstrap_servers": servers}}).kafka.bootstrap_servers == servers


@pytest.mark.parametrize("value", ["x", "3", '{"web_port": 7}'])
def test_a_section_given_a_value_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    file = tmp_path / "intent.toml"
    file.write_text("worker = 3\n")
    with monkeypatch.context() as patch:
        patch.setenv("INTENT_CONFIG", str(file))
        with pytest.raises(SettingError, match="`worker` is a section"):
            config.load()
        patch.setenv("INTENT_WORKER__MODE", "latest")  # of the two, pydantic keeps the table
        with pytest.raises(SettingError, match="`worker` is a section"):
            config.load()
    with monkeypatch.context() as patch:
        patch.setenv("INTENT_WORKER", value)
        with pytest.raises(SettingError, match="`worker` is a section"):
            config.load()
    (tmp_path / "intent_worker").write_text(value)
    monkeypatch.setenv("INTENT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingError, match="`worker` is a section"):
        config.load()


def test_the_origin_of_a_secret_file_in_capitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "INTENT_WORKER__WEB_PORT").write_text("7")
    monkeypatch.setenv("INTENT_SECRETS_DIR", str(tmp_path))
    assert config.load().worker.web_port == 7
    assert config.sources()["worker.web_port"] == "secret file"


@pytest.mark.parametrize(
    ("line", "said"), [("mode = 'all'", "`worker.mode` is 'all': "), ("mood = 'all'", "`worker.mood` is no setting")]
)
def test_a_refused_value_is_told_with_the_file_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    file = tmp_path / "intent.toml"
    file.write_text(f"[worker]\n{line}\n")
    monkeypatch.setenv("INTENT_CONFIG", str(file))
    with pytest.raises(SettingError, match=re.escape(f"(it stands in: {file})")) as caught:
        config.load()
    assert said in str(caught.value)


def test_a_refused_value_of_the_environment_or_a_secret_file_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "intent_worker__web_port").write_text("70000")
    monkeypatch.setenv("INTENT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingError, match=r"'70000': .*\(it stands in: secret file\)"):
        config.load()
    monkeypatch.setenv("INTENT_WORKER__WEB_PORT", "80000")
    with pytest.raises(SettingError, match=r"'80000': .*\(it stands in: environment\)"):
        config.load()


def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "intent.toml").write_text("[worker\n")
    monkeypatch.setenv("INTENT_CONFIG", str(tmp_path / "intent.toml"))
    with pytest.raises(SettingError, match=r"intent\.toml is no TOML"):
        config.load()


def test_every_pattern_is_told_in_words() -> None:
    schema = json.dumps(Settings.model_json_schema())
    patterns = {json.loads(found) for found in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', schema)}
    assert patterns == set(ACCEPTED)


def test_secrets_are_masked() -> None:
    settings = config.load({"kafka": {"sasl_password": "hush"}})
    assert "hush" not in str(dict(leaves(settings)))
    with pytest.raises(SettingError) as caught:
        config.load({"kafka": {"sasl_password": ["hush"]}})
    assert "hush" not in str(caught.value)
