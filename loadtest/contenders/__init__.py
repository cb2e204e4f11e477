"""Who runs the same job: this worker, two stream libraries as they come, and a bare client loop.

Each is a program of its own (`python -m loadtest.contenders.NAME TASK`) that reads one topic to its end and prints what
that took. All of them decode, fold and encode with the same functions (`jobs`), so that what differs is the stream.
"""
