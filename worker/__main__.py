"""What the console script starts, also `python -m worker`: signals are heard before anything slow is imported."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_Handler = Callable[[int, FrameType | None], NoReturn]
_INTERRUPTED: Final = 130
_AGAIN_S: Final = 0.02


def main() -> None:
    """Entry of the console script."""
    open_closed_streams()
    write_what_can_be()
    _hear(_ended, _ended)  # of what is raised while modules are imported some make an error of their own
    from worker import cli

    try:
        unwind_when_stopped()
        cli.main()
    except KeyboardInterrupt:  # in this moment; later typer hears it
        sys.exit(_INTERRUPTED)
    except Exception as error:  # a command may import more
        number = _raised_by(error.__cause__)
        if not number:
            raise
        sys.exit(128 + number)


def open_closed_streams() -> None:
    """A standard stream that whoever started this has closed (`>&-`) is the null device.

    Python has no stream then, and the next file that is opened, of RocksDB perhaps, would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - for the life of the process


def write_what_can_be() -> None:
    """What standard output has no characters for, in an old locale, it gets as escapes, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def unwind_when_stopped() -> None:
    """SIGTERM, the terminal's end and Ctrl-C unwind any command, until one that serves installs handlers of its own.

    The kernel's default would leave windows and half-written files behind, and in a container, as its first process,
    do nothing at all. Under `nohup` the terminal's end stays unheard, and Ctrl-C where the shell has it ignored.
    """
    _hear(_terminated, _interrupted)
    sys.unraisablehook = _again


def _again(told: "UnraisableHookArgs") -> None:
    """A stop that was raised where Python drops what is raised comes again a moment later: else it would go unheard.

    Each import ends with such a call, of a weak reference's; a finalizer is another.
    """
    number = _raised_by(told.exc_value)
    if not number:
        sys.__unraisablehook__(told)
        return
    if number == signal.SIGHUP:
        signal.signal(number, _terminated)
    with suppress(RuntimeError):  # no thread begins any more: the program ends anyway
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()


def _raised_by(error: BaseException | None) -> int:
    """The signal for which one of the two below raised it; 0 for any other error."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    code = error.code if isinstance(error, SystemExit) else 0
    return code - 128 if isinstance(code, int) and code > 128 else 0


def _hear(stop: _Handler, interrupt: _Handler) -> None:
    signal.signal(signal.SIGTERM, stop)
    for number, handler in ((signal.SIGHUP, stop), (signal.SIGINT, interrupt)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _ended(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _interrupted(_number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt  # an instance: of Python's own handler it is a class, which confluent-kafka's C code loses


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    if number == signal.SIGHUP:  # it may come twice, from the shell and from the kernel: not into what is being unwound
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)  # not by `sys.exit`, whose exception confluent-kafka's C code cannot pass on


if __name__ == "__main__":
    main()
