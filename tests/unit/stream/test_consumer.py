"""What the consumer says of its place in the group."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import InvalidSessionTimeoutError

from worker.errors import Fatal
from worker.settings import Settings
from worker.stream.consumer import Consumer


def test_a_session_that_the_brokers_do_not_allow_is_told_by_the_setting() -> None:
    class Coordinator:
        def check_errors(self) -> None:
            raise InvalidSessionTimeoutError

    consumer: Any = SimpleNamespace(
        app=SimpleNamespace(settings=Settings()),
        _thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=Coordinator())),
    )
    with pytest.raises(Fatal, match=r"no session of `worker\.session_timeout_s`, which is 10; choose one"):
        Consumer.check_group(consumer)
