"""Who scores windows in `python -m loadtest engine`: the engine's own forward and its rivals, a process each."""
