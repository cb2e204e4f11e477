"""A page of a running worker, asked for from outside. Knows no page's content."""

import urllib.error
import urllib.request
from typing import Final

_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The worker is on this machine, and `http_proxy` of the environment somewhere else."""


def body(name: str, *, host: str, port: int, timeout_s: float) -> bytes | None:
    """What the page holds; `None` while it is not answered with 200."""
    try:
        with _DIRECT.open(f"http://{host}:{port}/{name}", timeout=timeout_s) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except OSError:
        return None
