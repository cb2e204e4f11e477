"""Whether a CSV's lines and quoted values end where they should. Knows nothing of columns.

A reader that allows line breaks inside quotes takes all that follows a quote which is never closed for one value: the
rows are gone without a word. This is found out before anything is read.
"""

import csv
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final, TextIO

import pyarrow as pa

from worker.errors import IntentError

_LINE: Final = 1 << 20  # characters; a longer row fits into none of Arrow's blocks


def check(path: Path) -> None:
    """Reads the whole file, a line at a time: a second for 100 MB with quotes. Compressed as Arrow takes it.

    Raises `IntentError` for a line of over a million characters, and behind the file's first quote for a quoted value
    that never ends or has text behind its end, and for any value over `csv`'s limit (most likely its closing quote is
    missing); `OSError` for an unreadable file.
    """
    # Quotes are ASCII, so what is not UTF-8 does not matter here: whoever reads the columns tells it.
    with io.TextIOWrapper(pa.input_stream(path), encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = _lines(file, path)
        unquoted = 0
        for first in lines:
            if '"' in first:
                break
            unquoted += 1
        else:
            return
        reader = csv.reader(chain([first], lines), strict=True)
        begins = unquoted + 1
        try:
            for _ in reader:
                begins = unquoted + reader.line_num + 1
        except csv.Error as error:
            raise IntentError(
                f"{path}: the row that begins in line {begins} has a broken quoted value ({error}); write a quote "
                f'inside a quoted value twice ("24"" screen"), and at most {csv.field_size_limit():,} characters in one'
            ) from None


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 1
    while line := file.readline(_LINE):
        if len(line) == _LINE:
            raise IntentError(
                f"{path}: line {number} is longer than {_LINE:,} characters; is it a CSV, with a line a row?"
            )
        yield line
        number += 1
