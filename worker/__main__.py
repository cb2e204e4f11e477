"""What the console script starts, also `python -m worker`: signals are heard before anything slow is imported."""

import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

_INTERRUPTED: Final = 130


def main() -> None:
    """Entry of the console script."""
    try:
        open_closed_streams()
        unwind_at_sigterm()
        from worker import cli

        cli.main()
    except KeyboardInterrupt:  # while modules are imported; later typer hears it
        sys.exit(_INTERRUPTED)


def open_closed_streams() -> None:
    """A standard stream that whoever started this has closed (`>&-`) is the null device.

    Python has no stream then, and the next file that is opened, of RocksDB perhaps, would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - for the life of the process


def unwind_at_sigterm() -> None:
    """SIGTERM unwinds any command, until one that serves installs a handler of its own.

    The kernel's default would leave windows and half-written files behind, and in a container, as its first process,
    do nothing at all.
    """
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # not by `sys.exit`, whose exception confluent-kafka's C code cannot pass on


if __name__ == "__main__":
    main()
