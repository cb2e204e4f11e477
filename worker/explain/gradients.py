"""Integrated gradients (Sundararajan, Taly and Yan 2017): a score's gradient along the way from nothing to the window.

The way leads from events that say nothing, aggregates at their training means and a context never seen to the window
as it is, all at once, so that the contributions of embeddings, aggregates and context add up to the logit's change on
it. An event also acts through the aggregates: what these would be without it is known, and the mean gradient tells what
the difference is worth (the chain rule, the aggregates' derivative taken as that difference). An event's line has both
parts; the lines of the aggregates tell the second part again, by another division.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn

from worker.explain.parts import GROUPS, UNKNOWN, Attribution, Doubles, without_each
from worker.scoring import encode
from worker.scoring.aggregates import aggregates
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.forward import groups
from worker.scoring.model import IntentModel

STEPS: Final = 32
"""Points on the way, by the Gauss-Legendre rule: the sum is then within about 1 % of the logit's change."""

_CLIP: Final = 6.0  # deviations: the head looks no further, so no difference counts beyond
_TOGETHER: Final = 32  # windows in a pass, each `STEPS` times


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrated:
    """An attribution, and how well it adds up."""

    attribution: Attribution
    direct: Doubles  # [n] the events' part through their embeddings alone
    change: float  # of the calibrated logit from nothing to the window
    gap: float  # what the sum of `direct`, aggregates and context lacks of `change`


class _Inputs(nn.Module):
    """The model with a layer where the aggregates come in, so that captum finds all three at layers."""

    def __init__(self, model: IntentModel) -> None:
        super().__init__()
        self.model = model
        self.sums = nn.Identity()

    def forward(self, tokens: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens, contexts, self.sums(sums))
        return logits


def integrated_gradients(
    bundle: Bundle, windows: Sequence[bytes], *, horizon: int, steps: int = STEPS
) -> list[Integrated]:
    """One a window, of at least one, in calibrated logits. Computes where the bundle's model is; some 0.1 s each."""
    found: dict[int, Integrated] = {}
    batch = Batch.of(windows)
    for chosen in groups(batch.lengths, max_windows=_TOGETHER):
        some = [windows[place] for place in chosen]
        found |= dict(zip(chosen.tolist(), _integrate(bundle, some, horizon, steps), strict=True))
    return [found[place] for place in range(len(windows))]


def _integrate(bundle: Bundle, windows: list[bytes], horizon: int, steps: int) -> list[Integrated]:
    model, slope = bundle.model, float(bundle.calibration.slopes[horizon])
    head, device = model.head, model.head.means.device
    batch = Batch.of(windows)
    tokens = encode.padded(batch, encode.tokens(batch, bundle.vocabulary), np.arange(len(batch)))  # [b, L, FIELDS]
    known, sums = encode.contexts(batch, bundle.vocabulary), aggregates(batch)
    inputs = tuple(torch.from_numpy(array).to(device) for array in (tokens, known, sums))
    nothing = (
        torch.full_like(inputs[0], encode.NOTHING),
        torch.full_like(inputs[1], UNKNOWN),
        head.means.expand_as(inputs[2]),
    )
    whole = _Inputs(model).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Multiple layers provided")  # none of the three feeds on another
        method = LayerIntegratedGradients(whole, [head.events, head.contexts, whole.sums], multiply_by_inputs=False)
    slopes = method.attribute(inputs, baselines=nothing, target=horizon, n_steps=steps)  # mean gradients
    b, length = tokens.shape[:2]
    with torch.no_grad():
        base = head.context_base
        moved = [
            head.events(inputs[0].reshape(b * length, -1)),  # nothing's embedding is zero
            head.contexts(inputs[1] + base) - head.contexts(nothing[1] + base),
            inputs[2] - nothing[2],
        ]
        # without the mask of the window, whose events stay where they are, nothing would be no events at all
        start, end = (_logit(model, inputs, side, horizon) for side in (nothing, inputs))
    parts = [(gradient * move).detach().double() * slope for gradient, move in zip(slopes, moved, strict=True)]
    direct = parts[0].sum(-1).view(b, length).cpu().numpy()  # newest first
    context, by_column = parts[1].sum(-1).cpu().numpy(), parts[2].cpu().numpy()
    column_slopes = slopes[2].detach().double().cpu().numpy() * slope
    change = ((end - start) * slope).cpu().numpy()
    means, reach = (part.cpu().numpy() for part in (head.means, _CLIP * head.deviations))
    bounds = means - reach, means + reach
    seen = np.clip(sums, *bounds)
    out = []
    for i, encoded in enumerate(windows):
        own = direct[i, : batch.lengths[i]][::-1]
        through = np.full(len(own), np.nan)
        if lacking := without_each(encoded):
            through = (seen[i] - np.clip(aggregates(Batch.of(lacking)), means - reach, means + reach)) @ column_slopes[
                i
            ]
        attribution = Attribution(
            events=own + through,
            aggregates=np.array([by_column[i, columns].sum() for columns in GROUPS.values()]),
            context=context[i],
        )
        total = own.sum() + by_column[i].sum() + context[i].sum()
        out.append(
            Integrated(attribution=attribution, direct=own, change=float(change[i]), gap=float(change[i] - total))
        )
    return out


def _logit(model: IntentModel, inputs: tuple[Tensor, ...], at: tuple[Tensor, ...], horizon: int) -> Tensor:
    """[b] float64 at one end of the way: the embeddings of `at` under the mask of `inputs`."""
    embeddings, _ = model.head.positions(at[0])
    _, mask = model.head.positions(inputs[0])
    window = model.bert(inputs_embeds=embeddings, attention_mask=mask).pooler_output
    return model.head.fuse(window, at[1], at[2])[:, horizon].double()
