"""History through the live code: a range of a topic through `worker.pipeline`, with nothing written back to Kafka."""
