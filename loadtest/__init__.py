"""Load on a real Kafka and a real worker, measured from outside: what a reader of the scores sees."""
