"""Fine-tuning few parameters of the BERT, and merging them into it: what a worker serves is a plain bundle again.

LoRA, AdaLoRA, IA3 and prefix tuning are the `peft` library's; a bottleneck adapter, which it lacks, is a module here.
The BERT and the embedding tables stay as they are. Knows networks; neither data, nor files, nor the loop.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import peft
import torch
from torch import Tensor, nn

from worker.scoring.model import IntentModel

RANK: Final = 8
"""Of LoRA's matrices; AdaLoRA begins with half as much again and prunes to this."""

PREFIX: Final = 8
"""Virtual positions before each window."""

WIDTH: Final = 16
"""Of the bottleneck."""

_MATRICES: Final = ["query", "key", "value", "dense"]
"""All of a `BertModel`: projections, feed-forward, pooler."""

_ORTHOGONALITY: Final = 0.5  # AdaLoRA's weight of its penalty, as in peft


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to adapt. `merges`: its result is a change of the weights, so serving it costs nothing."""

    merges: bool
    learning_rate: float
    """That suits it: the fewer the parameters, the larger."""


METHODS: Final = {
    "head": Method(merges=True, learning_rate=5e-4),  # no adapter: the fusion head alone
    "lora": Method(merges=True, learning_rate=2e-3),  # Hu et al. 2021
    "adalora": Method(merges=True, learning_rate=2e-3),  # Zhang et al. 2023
    "ia3": Method(merges=True, learning_rate=1e-2),  # Liu et al. 2022
    "prefix": Method(merges=False, learning_rate=1e-2),  # Li and Liang 2021
    "bottleneck": Method(merges=False, learning_rate=1e-3),  # Houlsby et al. 2019
}


class Bottleneck(nn.Module):
    """Down, a non-linearity, up, beside a shortcut; at the start it changes nothing."""

    def __init__(self, hidden: int, *, width: int = WIDTH) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, width), nn.Linear(width, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        out: Tensor = x + self.up(nn.functional.gelu(self.down(x)))
        return out


class Adapted:
    """A copy of a model in training: all of it, or a method's parameters and, if wanted, the head's.

    `steps` is how many the loop will take; AdaLoRA plans its pruning by it.
    """

    def __init__(self, network: IntentModel, method: str | None, *, steps: int, head: bool = True) -> None:
        self.method = method
        self.network = copy.deepcopy(network)
        if method is not None:
            bert, tables = self.network.bert, (self.network.head.events, self.network.head.contexts)
            self.network.head.requires_grad_(head)
            for frozen in (bert, *tables, self.network.head.first):
                frozen.requires_grad_(False)
            self.network.bert = _WRAP[method](bert, steps)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def penalty(self) -> Tensor | None:
        """To be added to the loss: AdaLoRA's singular vectors are to stay orthogonal."""
        if self.method != "adalora":
            return None
        each = []
        for name, matrix in self.network.bert.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
                each.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return _ORTHOGONALITY * torch.stack(each).mean()

    def stepped(self, step: int) -> None:
        """After the optimiser's step number `step`, while its gradients are still there."""
        if self.method == "adalora":
            bert: Any = self.network.bert
            bert.base_model.update_and_allocate(step)

    def merged(self) -> IntentModel:
        """A plain model that computes the same, to rounding. Raises `ValueError` where the method does not merge."""
        if self.method is not None and not METHODS[self.method].merges:
            raise ValueError(f"{self.method} does not merge into the weights")
        whole = copy.deepcopy(self.network)
        bert: Any = whole.bert
        if isinstance(bert, peft.PeftModel):
            whole.bert = bert.merge_and_unload(safe_merge=True)
        return whole.requires_grad_().eval()


def _lora(bert: Any, steps: int) -> Any:
    del steps
    return peft.get_peft_model(bert, peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=_MATRICES))


def _adalora(bert: Any, steps: int) -> Any:
    """Full rank for a tenth of the run, the final one for its last third."""
    config = peft.AdaLoraConfig(
        init_r=RANK * 3 // 2,
        target_r=RANK,
        lora_alpha=2 * RANK,
        total_step=max(3, steps),
        tinit=steps // 10,
        tfinal=steps // 3,
        target_modules=_MATRICES,
    )
    return peft.get_peft_model(bert, config)


def _ia3(bert: Any, steps: int) -> Any:
    del steps
    feed_forward = ["output.dense"]
    config = peft.IA3Config(target_modules=["key", "value", *feed_forward], feedforward_modules=feed_forward)
    return peft.get_peft_model(bert, config)


def _prefix(bert: Any, steps: int) -> Any:
    """A prefix holds no events, so it takes none of their positions: they count from the newest event."""
    del steps
    bert.embeddings.register_forward_pre_hook(
        lambda _, args, given: (args, given | {"past_key_values_length": 0}), with_kwargs=True
    )
    return peft.get_peft_model(
        bert, peft.PrefixTuningConfig(task_type=peft.TaskType.FEATURE_EXTRACTION, num_virtual_tokens=PREFIX)
    )


def _bottleneck(bert: Any, steps: int) -> Any:
    """Twice a layer, before each shortcut; the norms behind them learn along, as in the paper."""
    del steps
    for layer in bert.encoder.layer:
        for output in (layer.attention.output, layer.output):
            output.dropout = nn.Sequential(output.dropout, Bottleneck(bert.config.hidden_size))
            output.LayerNorm.requires_grad_()
    return bert


_WRAP: Final[dict[str, Callable[[Any, int], Any]]] = {
    "head": lambda bert, _: bert,
    "lora": _lora,
    "adalora": _adalora,
    "ia3": _ia3,
    "prefix": _prefix,
    "bottleneck": _bottleneck,
}
