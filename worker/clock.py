"""The wall clock: for what a record says of its making, for latency, and for how old a folder is. No outcome depends on
it; event time decides those.
"""

import time


def now_ms() -> int:
    """UTC milliseconds since 1970."""
    return time.time_ns() // 1_000_000
