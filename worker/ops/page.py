"""A page of a running worker, asked for from outside. Knows no page's content."""

import urllib.error
import urllib.request


def body(name: str, *, host: str, port: int, timeout_s: float) -> bytes | None:
    """What the page holds; `None` while it is not answered with 200."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/{name}", timeout=timeout_s) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except OSError:
        return None
