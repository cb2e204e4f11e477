"""Whether a CSV's quoted values end where they should. Knows nothing of columns.

A reader that allows line breaks inside quotes takes all that follows a quote which is never closed for one value: the
rows are gone without a word. This is found out before anything is read.
"""

import csv
import io
from pathlib import Path
from typing import Final

import pyarrow as pa

from worker.errors import IntentError

_CHUNK: Final = 1 << 20  # bytes


def check(path: Path) -> None:
    """Reads the whole file if it has a quote at all: a second for 100 MB. Compressed as Arrow takes it.

    Raises `IntentError` for a quoted value that never ends or has text behind its end, and for any value over `csv`'s
    limit (most likely its closing quote is missing), `OSError` for an unreadable file.
    """
    if not _quotes(path):
        return
    # Quotes are ASCII, so what is not UTF-8 does not matter here: whoever reads the columns tells it.
    with io.TextIOWrapper(pa.input_stream(path), encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, strict=True)
        begins = 1
        try:
            for _ in reader:
                begins = reader.line_num + 1
        except csv.Error as error:
            raise IntentError(
                f"{path}: the row that begins in line {begins} has a broken quoted value ({error}); write a quote "
                f'inside a quoted value twice ("24"" screen"), and at most {csv.field_size_limit():,} characters in one'
            ) from None


def _quotes(path: Path) -> bool:
    with pa.input_stream(path) as file:
        while chunk := file.read(_CHUNK):
            if b'"' in chunk:
                return True
    return False
