"""The model as transformers runs it, in padded batches: eager, or compiled by inductor."""

import shutil
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from loadtest.scorers.work import Columns
from worker.scoring.batch import Floats
from worker.scoring.bundle import Bundle
from worker.scoring.model import IntentModel

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Whole(nn.Module):
    """The whole model with its BERT in `dtype`; what is before and behind the BERT stays in float32."""

    def __init__(self, model: IntentModel, *, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        model.bert.set_attn_implementation(attention)
        self.bert = model.bert.to(dtype)  # type: ignore[arg-type]  # transformers' wrapper hides the signature
        self.head = model.head
        self.dtype = dtype

    def forward(self, tokens: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        """[b, L, FIELDS], [b, CONTEXT], [b, aggregates] -> [b, HORIZONS] logits."""
        inputs, mask = self.head.positions(tokens)
        window = self.bert(inputs_embeds=inputs.to(self.dtype), attention_mask=mask).pooler_output
        return self.head.fuse(window.float(), contexts, sums)


class Padded:
    """Batches padded to their longest window; `compiled` by inductor with dynamic shapes."""

    def __init__(
        self, bundle: Bundle, *, attention: str, dtype: torch.dtype, device: torch.device, compiled: bool = False
    ) -> None:
        self._vocabulary, self._calibration = bundle.vocabulary, bundle.calibration
        self._device = device
        whole = Whole(bundle.model, attention=attention, dtype=dtype).eval().to(device)
        self._run: Any = torch.compile(whole, dynamic=True) if compiled else whole

    def arrange(self, windows: Sequence[bytes]) -> list[Tensor]:
        """The host's part: padded tensors on the device."""
        arrays = Columns.of(windows, self._vocabulary).padded(np.arange(len(windows)))
        return [torch.from_numpy(array).to(self._device) for array in arrays]

    def forward(self, arranged: list[Tensor]) -> Floats:
        """The device's part, waited for: [n, HORIZONS] probabilities."""
        with torch.inference_mode():
            logits: Tensor = self._run(*arranged)
            return self._calibration.probabilities(logits.float().cpu().numpy())


def no_compiler() -> str | None:
    """Why inductor cannot compile for this machine's CPU; None where it can."""
    found = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    return None if found else "no C++ compiler is found, and inductor needs one for a CPU"
