"""What is wrong stops the start with one sentence that names it, before anything is read or written."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MakeSettings
from tests.integration.deployment import variables
from worker.kafka import clients
from worker.run import LOCK
from worker.scoring.bundle import SHIPPED
from worker.settings import Settings

pytestmark = pytest.mark.broker

Break = Callable[[Settings, Path], dict[str, str]]


def start(settings: Settings, overrides: dict[str, str]) -> tuple[int, str]:
    """The exit code and what the program said on stderr, its log lines left out."""
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "worker"],
        env=os.environ | dict(variables(settings)) | overrides,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return ended.returncode, "\n".join(line for line in ended.stderr.splitlines() if not line.startswith("{"))


def wrong_setting(_settings: Settings, _folder: Path) -> dict[str, str]:
    return {"INTENT_WORKER__MODE": "sometimes"}


def no_broker(_settings: Settings, _folder: Path) -> dict[str, str]:
    return {"INTENT_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}


def missing_topic(settings: Settings, _folder: Path) -> dict[str, str]:
    admin = clients.admin(settings.kafka)
    for done in admin.delete_topics([settings.topics.latest], operation_timeout=10).values():
        done.result(10)
    while settings.topics.latest in admin.list_topics(timeout=10).topics:
        pass  # the deletion is asynchronous; list_topics asks the broker each time
    return {}


def other_partitions(_settings: Settings, _folder: Path) -> dict[str, str]:
    return {"INTENT_TOPICS__PARTITIONS": "5"}


def tampered_bundle(_settings: Settings, folder: Path) -> dict[str, str]:
    bundle = folder / "bundle"
    shutil.copytree(SHIPPED, bundle)
    with (bundle / "calibration.json").open("a") as file:
        file.write(" ")
    return {"INTENT_MODEL__BUNDLE": str(bundle)}


def no_bundle(_settings: Settings, folder: Path) -> dict[str, str]:
    return {"INTENT_MODEL__BUNDLE": str(folder / "nowhere")}


def unwritable_folder(_settings: Settings, folder: Path) -> dict[str, str]:
    (folder / "file").touch()
    return {"INTENT_WORKER__DATA_DIR": str(folder / "file" / "state")}


def folder_of_another(_settings: Settings, folder: Path) -> dict[str, str]:
    fcntl.flock(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)  # until the tests end
    return {"INTENT_WORKER__DATA_DIR": str(folder)}


def foreign_host(_settings: Settings, _folder: Path) -> dict[str, str]:
    return {"INTENT_WORKER__WEB_HOST": "192.0.2.1"}


@pytest.mark.parametrize(
    ("breaks", "code", "names"),
    [
        pytest.param(wrong_setting, 2, ["worker.mode", "sometimes", "'every' or 'latest'"], id="setting"),
        pytest.param(no_broker, 1, ["127.0.0.1:1", "kafka.bootstrap_servers"], id="broker"),
        pytest.param(missing_topic, 2, [".latest", "missing", "intent topics create"], id="topic"),
        pytest.param(other_partitions, 2, ["partitions is 4, wanted 5"], id="partitions"),
        pytest.param(tampered_bundle, 2, ["calibration.json"], id="bundle"),
        pytest.param(no_bundle, 2, ["nowhere"], id="no bundle"),
        pytest.param(unwritable_folder, 2, ["worker.data_dir", "file/state"], id="folder"),
        pytest.param(folder_of_another, 2, ["worker.data_dir", "another worker has"], id="folder of another"),
        pytest.param(foreign_host, 2, ["worker.web_host", "192.0.2.1"], id="host"),
    ],
)
def test_one_sentence(settings: MakeSettings, tmp_path: Path, breaks: Break, code: int, names: list[str]) -> None:
    made = settings()
    returned, said = start(made, breaks(made, tmp_path))
    assert returned == code, said
    assert len(said.splitlines()) == 1
    assert said.startswith("intent: ")
    assert all(name in said for name in names), said
