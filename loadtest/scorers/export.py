"""Writes the model that ONNX Runtime and OpenVINO load: `python -m loadtest.scorers.export TASK`.

A process of its own, before any scorer is started, so that the exporter's memory is in no scorer's figures.
"""

import sys
from pathlib import Path

from loadtest.scorers.serve import bundle_of
from loadtest.scorers.task import Task


def main() -> None:
    """The process."""
    task = Task.of_command_line()
    sys.path.append(task.packages)
    from loadtest.scorers import runtimes

    bundle, checked = bundle_of(task)
    runtimes.export(bundle, checked[:8], Path(task.folder))


if __name__ == "__main__":
    main()
