"""What an operator sees of a worker: metrics, logs and health. Knows neither Kafka nor the model."""
