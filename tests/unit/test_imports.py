"""Who may import whom. What is pure stays pure: a window folds without Faust, a model scores without Kafka."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker

PACKAGE = Path(worker.__file__).parent
STREAM = {"faust", "mode", "rocksdict"}
KAFKA = {"aiokafka", "confluent_kafka"}
MODEL = {"torch", "transformers", "safetensors"}

FORBIDDEN = {
    "window": STREAM | KAFKA | MODEL,
    "events": STREAM | KAFKA | MODEL,
    "facts": STREAM | KAFKA | MODEL,
    "scores": STREAM | KAFKA | MODEL,
    "watermark": STREAM | KAFKA | MODEL,
    "deadletter": STREAM | KAFKA | MODEL,
    "fold": STREAM | KAFKA | MODEL,
    "cache": STREAM | KAFKA | MODEL,
    "pipeline": STREAM | KAFKA | MODEL,
    "scoring": STREAM | KAFKA,
    "registry": STREAM | KAFKA,
    "training": STREAM | KAFKA,
    "evaluation": STREAM | KAFKA,
    "explain": STREAM | KAFKA,
    "kafka": STREAM | MODEL,
    "shop": STREAM | MODEL,
    "stream": MODEL,
    "replay": MODEL,
    "drift/psi": STREAM | KAFKA | MODEL,
    "drift/reference": STREAM | KAFKA | MODEL,
    "drift/values": STREAM | KAFKA | MODEL,
    "drift/findings": STREAM | KAFKA | MODEL,
    "drift/monitor": STREAM | KAFKA,
}


def modules(name: str) -> list[str]:
    """A module, or a package with all its modules, by dotted names."""
    folder = PACKAGE / name
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{name}.py"]
    dotted = (".".join(["worker", *file.relative_to(PACKAGE).with_suffix("").parts]) for file in files)
    return [name.removesuffix(".__init__") for name in dotted]


def imports(module: str) -> Iterator[str]:
    """Every module that the source of this one names in an import, wherever it stands in the file."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_forbidden_import_is_written(name: str) -> None:
    found = {
        (module, imported)
        for module in modules(name)
        for imported in imports(module)
        if imported.partition(".")[0] in FORBIDDEN[name]
    }
    assert not found


@pytest.mark.parametrize("name", ["window", "events", "facts", "scores", "scoring", "registry"])
def test_no_forbidden_module_is_loaded(name: str) -> None:
    """Written imports do not show what an import drags along."""
    loading = f"import sys, {', '.join(modules(name))}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", loading], capture_output=True, text=True, timeout=200, check=True)
    assert not FORBIDDEN[name] & set(run.stdout.split())


def test_a_worker_serves_without_transformers_and_torchs_compiler() -> None:
    """Importing them takes as long as all else of a start; only who needs the BERT as a module pays for that."""
    serving = """
import sys, worker.run, worker.stream.app
from worker.registry.source import configured
from worker.scoring.engine import WARM_UP, Engine
from worker.settings import Settings
model = Settings().model.model_copy(update={"device": "cpu"})
_, load = configured(model)
assert len(Engine.configured(load, model).score_now(WARM_UP).intent) == len(WARM_UP)
print(*(name in sys.modules for name in ("transformers", "torch._dynamo", "torch")))
"""
    run = subprocess.run([sys.executable, "-c", serving], capture_output=True, text=True, timeout=200, check=True)
    assert run.stdout.split()[-3:] == ["False", "False", "True"]


def test_the_core_knows_nothing_of_its_edges() -> None:
    core = ("window", "events", "facts", "scores", "watermark", "pipeline", "scoring")
    edges = {"worker.stream", "worker.kafka", "worker.replay", "worker.cli", "worker.demo"}
    for name in core:
        for written in modules(name):
            assert not {edge for edge in edges for imported in imports(written) if imported.startswith(edge)}, written


def test_help_is_quick_because_commands_import_when_they_run() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import sys, worker.cli; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not (STREAM | KAFKA | MODEL) & set(run.stdout.split())
