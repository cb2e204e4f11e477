"""Becomes another program that dies with its parent. Run as a script: `leash.py PARENT_PID PROGRAM ARGUMENT...`.

The kernel kills the program when the thread that started this script ends, however it ends. A script of its own,
because code between fork and exec in a process with threads may deadlock. Imports nothing of the project, to be quick.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns: becomes the program, or exits."""
    parent, *program = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):
        sys.exit(1)  # the parent ended before the kernel knew whom to tell
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
