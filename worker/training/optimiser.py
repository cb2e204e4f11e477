"""How gradients become steps: AdamW with warm-up and decay. Knows neither data nor losses."""

import math

import torch
from torch import nn

from worker.scoring.fusion import Ensemble


class Optimiser:
    """AdamW over so many steps: warm-up, decay, clipped gradients."""

    def __init__(
        self, trained: nn.Module, *, steps: int, learning_rate: float, weight_decay: float, warm_up: float
    ) -> None:
        self.trained = trained
        self.adamw = torch.optim.AdamW(_decayed(trained, weight_decay), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, lambda step: _rate(step, steps, warm_up))

    def step(self) -> None:
        """Applies the gradients and clears them."""
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.schedule.step()


def _rate(step: int, steps: int, warm_up: float) -> float:
    """Linear warm-up, cosine decay to nothing."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _decayed(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight matrices decay; biases, norms, embeddings and the members' scales do not."""
    modules = list(network.modules())
    matrices = [module.weight for module in modules if isinstance(module, nn.Linear)]
    matrices += [module.last for module in modules if isinstance(module, Ensemble)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
