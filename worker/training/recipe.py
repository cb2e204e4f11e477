"""How a bundle was trained, as it carries it, so that the same can be done again on later data.

Reads no more of the data than its checksums.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import msgspec

from worker.errors import IntentError
from worker.scoring.bundle import RECIPE, Bundle
from worker.shop.source import Source
from worker.training.finetune import Plan
from worker.training.runs import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a run chose, or was told."""

    plan: Plan
    windows: int
    """Of the plan's schedule, after which the run was best."""
    until_ms: int
    """UTC ms. No label that became known later has taught the bundle."""
    data: tuple[str, ...]
    """SHA-256 of each file that taught it."""

    @classmethod
    def by(cls, source: Source, plan: Plan, *, windows: int, until_ms: int) -> Self:
        """Of a run on this source."""
        return cls(plan=plan, windows=windows, until_ms=until_ms, data=tuple(fingerprint(source.files).values()))

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Raises `IntentError` where the bundle carries none, or one that no run can have left."""
        whose = f"{bundle.name} {bundle.version}"
        if bundle.recipe is None:
            raise IntentError(
                f"{whose} does not carry how it was trained ({RECIPE}); take one that `intent train` of this version "
                "made without --from"
            )
        try:
            found = msgspec.convert(bundle.recipe, cls)
        except msgspec.ValidationError as error:
            raise IntentError(f"{RECIPE} of {whose} is not what `intent train` writes: {error}") from None
        plan = found.plan
        if plan.shape != bundle.shape or plan.batch_windows < 1 or not 0 <= found.windows <= plan.windows:
            raise IntentError(f"{RECIPE} of {whose} is not what `intent train` writes: it is of another network")
        return found

    def knows(self, source: Source) -> bool:
        """Whether the source's test slice has taught the bundle. Another shop's may be of the same weeks, or older."""
        return self.until_ms > source.splits.test and not set(self.data).isdisjoint(fingerprint(source.files).values())

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)
