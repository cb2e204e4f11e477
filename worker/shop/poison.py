"""Events that no worker may accept, one way to be broken each. Knows nothing of shoppers.

Every entry of `POISONS` makes a record of which `worker.events.decode` raises `Invalid` with the reason noted.
"""

from collections.abc import Callable
from typing import Final

import orjson

from worker.events import MAX_VALUE_BYTES

Record = tuple[bytes | None, bytes | None]
"""Key and value."""


def _with(value: bytes, **fields: object) -> bytes:
    return orjson.dumps(orjson.loads(value) | fields)


def _without(value: bytes, field: str) -> bytes:
    return orjson.dumps({name: content for name, content in orjson.loads(value).items() if name != field})


POISONS: Final[dict[str, tuple[str, Callable[[bytes, bytes], Record]]]] = {
    "tombstone": ("empty", lambda key, _: (key, None)),
    "truncated": ("json", lambda key, value: (key, value[:-7])),
    "not_json": ("json", lambda key, _: (key, b"user=" + key)),
    "not_utf8": ("json", lambda key, value: (key, value.replace(b'"type":"', b'"type":"\xff\xfe', 1))),
    "nested": ("json", lambda key, value: (key, value[:-1] + b',"deep":' + b"[" * 5000)),
    "not_finite": ("json", lambda key, value: (key, value[:-1] + b',"value":NaN}')),
    "oversize": ("too_large", lambda key, value: (key, _with(value, page="/" * MAX_VALUE_BYTES))),
    "no_event_id": ("schema", lambda key, value: (key, _without(value, "event_id"))),
    "time_is_text": ("schema", lambda key, value: (key, _with(value, event_time="yesterday"))),
    "list_for_object": ("schema", lambda key, value: (key, b"[" + value + b"]")),
    "wild_quantity": ("schema", lambda key, value: (key, _with(value, items=[{"item_id": "1", "quantity": 10**16}]))),
    "too_many_items": ("schema", lambda key, value: (key, _with(value, items=[{"item_id": "1"}] * 51))),
    "far_future": ("future", lambda key, value: (key, _with(value, event_time="2199-12-31T00:00:00Z"))),
    "no_key": ("wrong_key", lambda _, value: (None, value)),
    "wrong_key": ("wrong_key", lambda key, value: (b"not-" + key, value)),
}
"""Name -> (the reason it must be refused for, how to break a good key and value). All are cheap but `oversize`."""
