"""When batches freeze, simulated: arrivals and costs in, latencies out. Knows no clock, no thread and no model.

A server has a host, which prepares a batch, and a device, which computes it. A batch is *frozen* when the host takes
what waits: what arrives later goes with the next one. Policies differ in when that is.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`overlap`: the next batch is prepared while the device computes, and frozen just early enough to be ready for it.

    Without, host and device take turns. A policy with a timer freezes only a full batch, or when the first of it has
    waited for `timer_s`.
    """

    name: str
    overlap: bool
    timer_s: float = 0.0


LATE_FREEZE: Final = Policy(name="late freeze", overlap=True)
GREEDY: Final = Policy(name="greedy, serial", overlap=False)
POLICIES: Final = (
    LATE_FREEZE,
    GREEDY,
    Policy(name="timer 2 ms", overlap=True, timer_s=0.002),
    Policy(name="timer 10 ms", overlap=True, timer_s=0.010),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Affine in a batch's tokens, which are at most `budget`."""

    host_s: float
    host_token_s: float
    device_s: float
    device_token_s: float
    budget: int

    def host(self, tokens: float) -> float:
        """Seconds to prepare a batch."""
        return self.host_s + self.host_token_s * tokens

    def device(self, tokens: float) -> float:
        """Seconds to compute it."""
        return self.device_s + self.device_token_s * tokens

    def capacity(self, mean_tokens: float) -> float:
        """Windows a second of full batches, when the host hides behind the device or is the slower one."""
        return self.budget / mean_tokens / max(self.device(self.budget), self.host(self.budget))


def poisson(rate: float, count: int, rng: np.random.Generator) -> Seconds:
    """[count] arrival times."""
    return np.cumsum(rng.exponential(1 / rate, count))


def simulate(due: Seconds, tokens: NDArray[np.int64], costs: Costs, policy: Policy) -> Seconds:
    """[n] arrival times, ascending, and [n] tokens of each -> [n] seconds from arrival to the end of its batch."""
    ends = np.concatenate(([0], np.cumsum(tokens)))
    latency = np.empty(len(due))
    first = 0
    slot_free = device_free = lead = 0.0  # when the batch before began, and ended; how long it was prepared
    while first < len(due):
        full = max(first + 1, int(np.searchsorted(ends, ends[first] + costs.budget, side="right")) - 1)
        frozen = max(due[first], slot_free, device_free - lead)
        if policy.timer_s:
            # what would exceed the budget shows that the batch is full
            filled = due[full] if full < len(due) else np.inf
            frozen = max(frozen, min(filled, due[first] + policy.timer_s))
        end = max(first + 1, min(full, int(np.searchsorted(due, frozen, side="right"))))
        batch = float(ends[end] - ends[first])
        prepared = costs.host(batch)
        begun = max(frozen + prepared, device_free)
        device_free = begun + costs.device(batch)
        latency[first:end] = device_free - due[first:end]
        slot_free, lead = (begun, prepared) if policy.overlap else (device_free, 0.0)
        first = end
    return latency
