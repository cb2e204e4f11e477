"""Options that several measurements take in the same words."""

from pathlib import Path
from typing import Annotated

import typer

Sample = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the GA360 sample; default: INTENT_GA360, or else simulated shoppers, "
        "but for peft and continual, which need the sample."
    ),
]

Json = Annotated[bool, typer.Option("--json", help="The JSON on standard output too, in place of the tables.")]
