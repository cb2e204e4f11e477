"""The intent worker: clickstream events in, one calibrated intent score per updated user window out, exactly once.

The data's way, one module a step: `events` (decode) → `facts` (hash) → `window` (fold) → `scoring` (score) → `scores`
(encode) → one Kafka transaction. `pipeline` holds the order of the steps; `stream` runs it live, `replay` over history.
"""

__version__ = "0.1.0"
