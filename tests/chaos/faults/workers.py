"""Workers are killed, asked to end, frozen beyond their session, joined by others; their scorer fails."""

import random
import signal
import time
from typing import Final

from tests.chaos.workers import START_S
from tests.chaos.world import Broken, World, await_

_LEAVE_S: Final = 15.0


def killed(world: World, rng: random.Random) -> str:
    """SIGKILL."""
    with world.workers.one(rng) as place:
        place.kill()
        return f"{place.name} killed"


def stopped(world: World, rng: random.Random) -> str:
    """SIGTERM: drained, committed, exit code 0; another one is judged as an end that nobody asked for."""
    with world.workers.one(rng) as place:
        code = place.stop(within_s=world.settings.worker.shutdown_timeout_s + 5)
        time.sleep(rng.uniform(0, 1))
        place.start()
        if code is None:
            raise Broken(f"{place.name} took too long to stop; it said:\n{place.said()}")
        return f"{place.name} stopped"


def frozen(world: World, rng: random.Random) -> str:
    """SIGSTOP past the session's time-out, then SIGCONT: a zombie that believes it still owns its partitions."""
    with world.workers.one(rng) as place:
        place.send(signal.SIGSTOP)
        seconds = world.settings.worker.session_timeout_s + rng.uniform(0.5, 3)
        time.sleep(seconds)
        place.send(signal.SIGCONT)
        return f"{place.name} frozen for {seconds:.1f} s"


def join_and_leave(world: World, rng: random.Random) -> str:
    """A further worker joins, perhaps while another is a guest already; it leaves in order or by SIGKILL."""
    with world.workers.one(rng, guest=True) as place:
        place.start()
        await_(lambda: place.ready, rng.uniform(1, START_S / 4))
        time.sleep(rng.uniform(0, 2))
        if rng.random() < 0.5:
            place.kill(rest=True)
            return f"{place.name} joined, was killed"
        code = place.stop(within_s=_LEAVE_S)
        return f"{place.name} joined, left with {code}"


def scorer_raises(world: World, rng: random.Random) -> str:
    """The next few forward passes raise."""
    return _scorer(world, rng, "raise")


def device_out_of_memory(world: World, rng: random.Random) -> str:
    """The next few forward passes find no memory on the device."""
    return _scorer(world, rng, "out_of_memory")


def _scorer(world: World, rng: random.Random, order: str) -> str:
    with world.workers.one(rng) as place:
        times = rng.randint(1, 6)
        place.order("raise" if order == "raise" else "out_of_memory", times)
        return f"{times} forward passes of {place.name}"
