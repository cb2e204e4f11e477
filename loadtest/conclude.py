"""How a measurement ends: its numbers in the `--out` folder, and on standard output as tables or JSON.

Knows no measurement.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import RenderableType

from worker.terminal import out


def conclude(
    document: Mapping[str, Any],
    folder: Path,
    name: str,
    shown: Callable[[], Iterable[RenderableType]],
    *,
    as_json: bool,
    plot: Callable[[Path], object] | None = None,
) -> None:
    """Writes `name`.json and, by `plot`, `name`.png into the folder; then prints the JSON, or else what is `shown`.

    Hours may be behind the numbers: they are in the file before anything is drawn.
    """
    written = [save(document, folder, name)]
    if plot is not None:
        written.append(folder / f"{name}.png")
        plot(written[1])
    if as_json:
        typer.echo(orjson.dumps(document).decode())
        return
    for each in (*shown(), f"written: {', '.join(map(str, written))}"):
        out.print(each, highlight=False, soft_wrap=isinstance(each, str))


def save(document: Mapping[str, Any], folder: Path, name: str) -> Path:
    """Writes `name`.json into the folder, which may have to be made."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return file
