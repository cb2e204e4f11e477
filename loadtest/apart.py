"""A function in a process of its own, so that nothing else delays it, and its memory is its own. Knows no function."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def started(target: Callable[..., object], *args: Any) -> BaseProcess:
    """A process that runs it, and ends with this one. Both must be importable: nothing else is inherited."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(target, *args), daemon=True)
    process.start()
    return process


def _run(target: Callable[..., object], *args: Any) -> None:
    try:
        target(*args)
    except KeyboardInterrupt:  # a terminal sends it to all of a command's processes: one of them tells of it
        raise SystemExit(130) from None
