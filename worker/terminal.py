"""Where commands write: results to `out`, progress and what goes wrong to `err`."""

import sys
from typing import Final

from rich.console import Console

_PAGE: Final = 160
"""Columns of a file or a pipe, which has no width of its own: tables stay whole."""

out: Final = Console(width=None if sys.stdout.isatty() else _PAGE)
err: Final = Console(stderr=True)
