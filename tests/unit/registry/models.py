"""What the tests of the registry share."""

from pathlib import Path
from typing import NamedTuple

NAME = "test"
AT = "2026-01-01T00:00:00.000Z"


class Versions(NamedTuple):
    """`folder` holds the bundles `first` and `second`, of these versions."""

    folder: Path
    first: str
    second: str
