"""A page is asked for on this machine, whatever the environment says of proxies."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from worker.ports import HOST, free_port

DOCKERFILE = Path(__file__).parents[2] / "deploy" / "Dockerfile"


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 503)
        self.end_headers()
        self.wfile.write(b"well")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's signature
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer((HOST, free_port()), Pages) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """By a Python of its own: that of the tests may have looked for proxies already."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("proxied", [False, True], ids=["plain", "behind a proxy"])
@pytest.mark.parametrize(("name", "found"), [("livez", "b'well'"), ("readyz", "None")])
def test_body(port: int, name: str, found: str, *, proxied: bool) -> None:
    proxy = {"http_proxy": f"http://{HOST}:1"} if proxied else {}
    asked = f"from worker.ops.page import body; print(body({name!r}, host={HOST!r}, port={port}, timeout_s=5))"
    done = run(asked, PYTHONPATH=str(DOCKERFILE.parents[1]), **proxy)
    assert done.stdout.strip() == found, done.stderr


def test_the_images_health_check_asks_no_proxy(port: int) -> None:
    check = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    assert check is not None
    (*_, code) = json.loads(check[1])
    done = run(code, http_proxy=f"http://{HOST}:1", INTENT_WORKER__WEB_PORT=str(port))
    assert done.returncode == 0, done.stderr
    assert run(code, INTENT_WORKER__WEB_PORT="1").returncode != 0
