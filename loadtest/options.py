"""Options that several measurements take in the same words."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from worker import options
from worker.errors import SettingError

Sample = Annotated[
    Path | None,
    typer.Option(exists=True, help="Folder of the GA360 sample; default: INTENT_GA360, or else simulated shoppers."),
]

RealSample = Annotated[
    Path | None,
    typer.Option(
        exists=True, help="Folder of the GA360 sample, without which this is no study; default: INTENT_GA360."
    ),
]

Json = Annotated[bool, typer.Option("--json", help="The JSON on standard output too, in place of the tables.")]


def out(files: str) -> Any:
    """`--out`, refused before hours of work where it cannot be a folder."""
    return typer.Option("--out", callback=options.folder, help=f"Folder for {files}.")


def chosen(option: str, names: Collection[str] | None, known: Collection[str]) -> list[str]:
    """All that are known, or those that were named, once each, in the order of the known."""
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise SettingError(f"{option} is {unknown[0]!r}; accepted are {', '.join(known)}")
    return [name for name in known if not names or name in names]
