"""The shop that the events come from: a real one in its tables, a simulated one, and the way into Kafka for both."""
