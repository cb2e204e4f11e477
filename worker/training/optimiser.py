"""How gradients become steps: AdamW with warm-up and decay. Knows neither data nor losses."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from worker.scoring.fusion import Linears


class Optimiser:
    """AdamW over so many steps: warm-up, decay, clipped gradients.

    `trained` are modules and what each one's learning rate is multiplied by; a part of a module that is named before it
    has its own. Parameters that need no gradient are left as they are.
    """

    def __init__(
        self,
        trained: Iterable[tuple[nn.Module, float]],
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float,
        warm_up: float,
    ) -> None:
        groups: list[dict[str, Any]] = []
        self.parameters: list[nn.Parameter] = []
        for module, share in trained:
            for parameters, decay in zip(_decayed(module), (weight_decay, 0.0), strict=True):
                named = {id(parameter) for parameter in self.parameters}
                if rest := [parameter for parameter in parameters if id(parameter) not in named]:
                    groups.append({"params": rest, "weight_decay": decay, "lr": learning_rate * share})
                    self.parameters += rest
        self.adamw = torch.optim.AdamW(groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, lambda step: _rate(step, steps, warm_up))

    def step(self) -> None:
        """Applies the gradients and clears them."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.schedule.step()

    def state(self) -> dict[str, Any]:
        """Of which `restore` makes the same optimiser."""
        return {"adamw": self.adamw.state_dict(), "schedule": self.schedule.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """To where it was when `state` was taken."""
        self.adamw.load_state_dict(state["adamw"])
        self.schedule.load_state_dict(state["schedule"])


def _rate(step: int, steps: int, warm_up: float) -> float:
    """Linear warm-up, cosine decay to nothing."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _decayed(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weight matrices, which decay; biases, norms and embeddings, which do not."""
    modules = list(network.modules())
    matrices = [module.weight for module in modules if isinstance(module, nn.Linear | Linears)]
    chosen = {id(parameter) for parameter in matrices}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [p for p in trained if id(p) in chosen], [p for p in trained if id(p) not in chosen]
