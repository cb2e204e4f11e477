"""Apache Kafka at arm's length: the embedded broker, the topics' declarations, and the client settings all share."""
