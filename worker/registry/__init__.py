"""Models in a store: versions that never change, aliases that move. Imports neither Faust nor Kafka."""
