"""Windows in, calibrated scores out: all that knows torch. Imports neither Faust nor Kafka."""
