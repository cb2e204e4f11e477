"""The deployment files, checked as far as that goes without Docker: linters, schemas, names that the code knows,
queries as Prometheus would parse them. The command lines in them and in the READMEs.
"""

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from typer.main import get_command

from worker import cli, config
from worker.ops.metrics import FATES, Metrics
from worker.settings import Settings, leaves

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = ["compose.yaml", "compose.gpu.yaml"]
TEXTS = [
    *(DEPLOY.parent / name for name in ("README.md", "CONTRIBUTING.md", "loadtest/README.md", "loadtest/results.md")),
    DEPLOY.parent / "worker/training/README.md",
    *sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".md", ".yaml", ".yml", ".toml"}),
]


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def program(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    if found is None:
        pytest.skip(f"{name} is not installed; it comes with the extra `dev`")
    return found


def settings_names() -> set[str]:
    return {f"INTENT_{name.replace('.', '__').upper()}" for name, _ in leaves(Settings.model_construct())}


def exposed_names() -> set[str]:
    """Every name a query may use: of samples, and of families; the worker's own, and the process's beside them."""
    metrics = Metrics(CollectorRegistry())
    ProcessCollector(registry=metrics.registry)
    metrics.show_model(name="m", version="1")
    metrics.show_progress(partition=0, watermark=0, lag_events=lambda: 0)
    metrics.dead_letters_total.labels(reason="json")
    metrics.show_drift(psi={"channel": 0.0}, unseen_items=0.0, events=1)
    return set(
        re.findall(r"^(?:# HELP )?((?:intent|process)_\w+)", generate_latest(metrics.registry).decode(), re.MULTILINE)
    )


def test_dockerfile_lint() -> None:
    done = subprocess.run([program("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_yaml_lint() -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(DEPLOY / ".yamllint.yaml"), str(DEPLOY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_yaml_hook_lets_through_what_there_is() -> None:
    root = DEPLOY.parent
    hooks = {
        each["id"]: each for each in yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    }
    named, *options = hooks["yamllint"]["entry"].split()
    files = [".pre-commit-config.yaml", *DEPLOY.glob("*.y*ml"), *(root / "schemas").glob("*.yaml")]
    command = [sys.executable, "-m", Path(named).name, *options, *map(str, files)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_follows_its_specification(name: str) -> None:
    spec = importlib.util.find_spec("check_jsonschema")  # carries the schema; found without importing it
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(
            "check-jsonschema, which carries the Compose schema, is not installed; it comes with the extra `dev`"
        )
    (package,) = spec.submodule_search_locations
    schema = json.loads((Path(package) / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    jsonschema.validate(load(name), schema)


def test_compose_services_wait_for_what_they_need() -> None:
    services = load("compose.yaml")["services"]
    assert services["worker"]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services["worker"]["stop_grace_period"] == "30s"
    assert Settings.model_fields["worker"].default.shutdown_timeout_s < 30
    for service in services.values():
        image = service["image"]
        assert "build" in service or re.fullmatch(r".+:v?\d+\.\d+\.\d+", image), f"{image} has no exact version"


def command_lines(text: str) -> list[str]:
    """Of `intent`: the lines of code blocks, and what stands in backticks."""
    block = re.compile(r"```.*?```", re.DOTALL)
    lines = [line.partition("#")[0] for part in block.findall(text) for line in re.split(r"\n|&&", part)]
    lines += [" ".join(found.split()) for found in re.findall(r"`([^`]*)`", block.sub("", text))]
    return [line.strip() for line in lines if re.match(r"\s*(INTENT_\w+=\S+ )*intent \S", line)]


def unknown(line: str) -> list[str]:
    """The sub-commands and options of a command line that `intent` does not have. `a|b` in a table is either."""
    command: Any = get_command(cli.app)
    wrong: list[str] = []
    words = line.partition("intent ")[2].split()
    for before, word in zip(["", *words], words, strict=False):
        known = getattr(command, "commands", {})
        if word.startswith("--"):
            options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            wrong += [word] if word.partition("=")[0] not in {*options, "--help"} else []
        elif known and not before.startswith("--"):
            names = word.split(r"\|")
            wrong += [name for name in names if name not in known]
            command = known.get(names[0])
            if command is None:
                break
    return wrong


def test_command_lines_can_be_run() -> None:
    found = {line for path in TEXTS for line in command_lines(path.read_text())}
    assert len(found) >= 40
    assert {line: wrong for line in found if (wrong := unknown(line))} == {}
    services = load("compose.yaml")["services"]
    assert unknown(f"intent {' '.join(services['topics']['command'])}") == []
    assert unknown("intent simulate --bootstrap-servers x") == ["--bootstrap-servers"]
    assert unknown("intent topics make") == ["make"]


def test_settings_named_in_deploy_exist() -> None:
    files = ("Dockerfile", *COMPOSE, "kubernetes.yaml", "intent-worker@.service")
    text = "".join((DEPLOY / name).read_text() for name in files)
    named = set(re.findall(r"\bINTENT_[A-Z_]*__[A-Z_]+[A-Z]\b", text))
    assert len(named) >= 6
    assert named <= settings_names()


def kubernetes() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def test_pods_keep_their_place_and_are_given_time_to_stop() -> None:
    objects = kubernetes()
    told = Settings.model_fields["worker"].default
    worker = objects["StatefulSet"]["spec"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > told.shutdown_timeout_s
    assert worker["replicas"] <= int(objects["ConfigMap"]["data"]["INTENT_TOPICS__PARTITIONS"])
    name = {"fieldRef": {"fieldPath": "metadata.name"}}
    assert {"name": "INTENT_WORKER__INSTANCE_ID", "valueFrom": name} in container["env"]
    state = f"INTENT_WORKER__DATA_DIR={container['volumeMounts'][0]['mountPath']}/"
    assert container["volumeMounts"][0]["name"] == worker["volumeClaimTemplates"][0]["metadata"]["name"]
    assert state in (DEPLOY / "Dockerfile").read_text()


def test_pods_are_probed_run_and_reached_as_the_image_has_it() -> None:
    objects, image = kubernetes(), (DEPLOY / "Dockerfile").read_text()
    pods = [objects[kind]["spec"]["template"]["spec"] for kind in ("StatefulSet", "Job")]
    for pod in pods:
        (container,) = pod["containers"]
        assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in image
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert unknown(f"intent {' '.join(container['args'])}") == []
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["secrets"] == objects["ConfigMap"]["data"]["INTENT_SECRETS_DIR"]
        claimed = {claim["metadata"]["name"] for claim in objects["StatefulSet"]["spec"]["volumeClaimTemplates"]}
        assert mounts.keys() <= claimed | {volume["name"] for volume in pod["volumes"]}
    (worker,) = pods[0]["containers"]
    (port,) = worker["ports"]
    assert f"INTENT_WORKER__WEB_PORT={port['containerPort']}" in image
    assert [each["port"] for each in objects["Service"]["spec"]["ports"]] == [port["containerPort"]]
    assert {probe: worker[probe]["httpGet"]["path"] for probe in worker if probe.endswith("Probe")} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    labels = objects["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    selected = [objects["Service"]["spec"]["selector"], objects["StatefulSet"]["spec"]["selector"]["matchLabels"]]
    selected += [objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    selected += [objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]]
    assert all(each == labels for each in selected)


def test_a_kubernetes_volume_of_secrets_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files there are links into a folder whose name begins with two dots, by way of another link."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "intent_kafka__sasl_password").write_text("hunter2")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "intent_kafka__sasl_password").symlink_to("..data/intent_kafka__sasl_password")
    monkeypatch.setenv("INTENT_SECRETS_DIR", str(tmp_path))
    password = config.load().kafka.sasl_password
    assert password is not None
    assert password.get_secret_value() == "hunter2"


def test_unit_stops_as_the_worker_does_and_starts_it_again() -> None:
    unit = (DEPLOY / "intent-worker@.service").read_text()
    told = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert int(told["TimeoutStopSec"]) > Settings.model_fields["worker"].default.shutdown_timeout_s
    assert told["Restart"] == "always"
    assert told["StartLimitIntervalSec"] == "0"
    assert told["SuccessExitStatus"] == str(128 + signal.SIGTERM)  # of one that is stopped before it serves
    assert unknown(told["ExecStart"].replace("/opt/intent/bin/intent", "intent")) == []


def test_image_runs_as_nobody_in_particular() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["intent"]' in lines  # exec form: signals reach the worker


def test_metrics_named_in_alerts_exist() -> None:
    text = (DEPLOY / "alerts.yml").read_text() + (DEPLOY / "prometheus.yml").read_text()
    named = set(re.findall(r"\b(?:intent|process)_\w+", text))
    assert len(named) >= 5
    assert named <= exposed_names()
    assert set(re.findall(r'fate="(\w+)"', text)) <= set(FATES)


@pytest.mark.parametrize("path", sorted((DEPLOY / "grafana").glob("*.json")), ids=lambda path: path.stem)
def test_metrics_named_in_dashboards_exist(path: Path) -> None:
    board = json.loads(path.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert queries
    for query in queries:
        named = set(re.findall(r"\b(?:intent|process)_\w+", query))
        assert named
        assert named <= exposed_names()
        promql_parser.parse(query.replace("$__rate_interval", "1m"))  # as Grafana does before it asks
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_alerts_are_complete() -> None:
    (group,) = load("alerts.yml")["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert {"summary", "description"} == rule["annotations"].keys()
        promql_parser.parse(rule["expr"])


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("IntentWorkerDown", 'absent(up{job="intent-worker"})'),
        ("IntentStalled", "sum by (instance)"),
        ("IntentEventsDeletedUnread", "unless intent_lost_offsets_total offset 15m"),
        ("IntentRebalances", "max("),
    ],
)
def test_no_alert_is_hidden_by_the_fleet(name: str, asked: str) -> None:
    """One worker of many that is stuck or gone; a counter's first value; a rebalance that each worker counts."""
    (expr,) = (rule["expr"] for rule in load("alerts.yml")["groups"][0]["rules"] if rule["alert"] == name)
    assert asked in expr


def test_prometheus_finds_worker_and_rules() -> None:
    prometheus = load("prometheus.yml")
    services = load("compose.yaml")["services"]
    assert [DEPLOY / name for name in prometheus["rule_files"]] == [DEPLOY / "alerts.yml"]
    mounted = {volume.split(":")[0] for volume in services["prometheus"]["volumes"]}
    assert {"./prometheus.yml", "./alerts.yml"} <= mounted
    (job,) = prometheus["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert set(discovery["names"]) <= services.keys()
    assert f"INTENT_WORKER__WEB_PORT={discovery['port']}" in (DEPLOY / "Dockerfile").read_text()
    for rule in load("alerts.yml")["groups"][0]["rules"]:
        assert set(re.findall(r'job="([\w-]+)"', rule["expr"])) <= {job["job_name"]}


def test_what_the_image_copies_reaches_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    let_through = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert sources == {line.removeprefix("!") for line in let_through if line.startswith("!")}
    assert all((DEPLOY.parent / source).exists() for source in sources)
