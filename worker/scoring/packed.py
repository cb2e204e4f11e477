"""The forward pass without padding, over the tensors of a plain BERT and our head.

All windows of a batch are one row of tokens: for each window its first position, then its events. Linears, norms and
embeddings do not care where a window ends; attention does, so it is passed in (`tiles` for any device, `graphs` for
CUDA). Query, key and value are one matrix; the last layer computes keys and values for all tokens and everything else
for the windows' first positions only, which is all that the head reads. The pooler, the head and the calibration follow
in the same pass, in float32 whatever the rest is in: only probabilities leave the device.

A product is added to its residual as it is computed, in place. The bias between them is in the residual beforehand:
the norm that makes the residual adds it, and what else reads the residual, a linear layer, has it taken out of its own
bias.

Knows tensors and shapes; neither queues nor devices' memory. A parity test holds it to `IntentModel.forward`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.errors import IntentError
from worker.scoring import aggregates, encode
from worker.scoring.batch import Batch, Floats, Ints
from worker.scoring.head import Head
from worker.scoring.weights import Weights

Attend = Callable[[Tensor], Tensor]
"""[T, 3 * hidden] queries, keys, values -> [T, hidden]; each window by itself."""

WIDTH = len(encode.FIELDS) + 1
"""Rows of the one embedding table that add up to a position: an event's fields, and where it stands."""


class Linear(NamedTuple):
    """Weight [out, in] and bias [out]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[M, in] -> [M, out]."""
        return functional.linear(x, self.weight, self.bias)


class Norm(NamedTuple):
    """A layer norm of the last dimension."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """[M, hidden] -> [M, hidden]."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One transformer layer."""

    qkv: Linear  # [3 * hidden, hidden]
    out: Tensor  # [hidden, hidden]; its bias is in the residual
    attended: Norm
    up: Linear
    down: Tensor  # [hidden, intermediate]; its bias is in the residual
    fed: Norm

    def query(self, x: Tensor) -> Tensor:
        """[M, hidden] -> [M, hidden]."""
        hidden = x.shape[1]
        return functional.linear(x, self.qkv.weight[:hidden], self.qkv.bias[:hidden])

    def keys_values(self, x: Tensor) -> Tensor:
        """[T, hidden] -> [T, 2 * hidden]."""
        hidden = x.shape[1]
        return functional.linear(x, self.qkv.weight[hidden:], self.qkv.bias[hidden:])

    def behind(self, x: Tensor, attention: Tensor) -> Tensor:
        """All that follows the attention: two [M, hidden] -> [M, hidden]. Overwrites `x`."""
        x = self.attended(x.addmm_(attention, self.out.t()))
        return self.fed(x.addmm_(self._risen(x), self.down.t()))

    def _risen(self, x: Tensor) -> Tensor:
        """[M, hidden] -> [M, intermediate], behind the GELU."""
        if x.is_cuda and x.dtype != torch.float32:
            # One kernel, by the tanh formula: within 5e-4 of the exact one, an eighth of what bfloat16 rounds away.
            return torch._addmm_activation(self.up.bias, x, self.up.weight.t(), use_gelu=True)  # noqa: SLF001 - torch has no other name for it
        return functional.gelu(self.up(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model's tensors on their device, in the type they are computed in. Never written to."""

    table: Tensor  # [rows, hidden] float32: events' fields, the first position, positions
    first: int  # the first position's row of the table
    embedded: Norm
    layers: tuple[Layer, ...]
    heads: int
    pooler: Linear  # from here on float32
    head: Head
    slopes: Tensor  # [HORIZONS] float64
    intercepts: Tensor  # [HORIZONS] float64

    @classmethod
    def of(
        cls, weights: Weights, *, slopes: Floats, intercepts: Floats, dtype: torch.dtype, device: torch.device
    ) -> Self:
        """Copies a model's tensors to the device. The calibration is `Calibration`'s."""
        bert, head, sizes = weights.bert, weights.head, weights.sizes

        def tensor(*parts: Tensor, to: torch.dtype = dtype) -> Tensor:
            return torch.cat([part.detach().to(device, to) for part in parts])  # new memory, even of one

        def norm(name: str, added: str | None, to: torch.dtype = dtype) -> Norm:
            bias = bert[f"{name}.bias"]
            if added is not None:
                bias = bias + bert[f"{added}.bias"]
            return Norm(tensor(bert[f"{name}.weight"], to=to), tensor(bias, to=to), sizes.layer_norm_eps)

        def reading(added: str, *names: str) -> Linear:
            """A linear layer that reads what that bias was added to."""
            weights = [bert[f"{name}.weight"] for name in names]
            biases = [
                bert[f"{name}.bias"] - weight @ bert[f"{added}.bias"]
                for name, weight in zip(names, weights, strict=True)
            ]
            return Linear(tensor(*weights), tensor(*biases))

        layers = []
        ats = [f"encoder.layer.{layer}" for layer in range(sizes.num_hidden_layers)]
        outs = [f"{at}.attention.output.dense" for at in ats]
        for at, out, after in zip(ats, outs, [*outs[1:], None], strict=True):
            down = f"{at}.output.dense"
            layers.append(
                Layer(
                    qkv=reading(out, *(f"{at}.attention.self.{part}" for part in ("query", "key", "value"))),
                    out=tensor(bert[f"{out}.weight"]),
                    attended=norm(f"{at}.attention.output.LayerNorm", down),
                    up=reading(down, f"{at}.intermediate.dense"),
                    down=tensor(bert[f"{down}.weight"]),
                    fed=norm(f"{at}.output.LayerNorm", after),
                )
            )
        places = bert["embeddings.position_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
        rows = (head.events.weight, head.first[None], places)
        return cls(
            table=tensor(*rows, to=torch.float32),
            first=len(head.events.weight),
            embedded=norm("embeddings.LayerNorm", outs[0], torch.float32),
            layers=tuple(layers),
            heads=sizes.num_attention_heads,
            pooler=Linear(*(tensor(bert[f"pooler.dense.{part}"], to=torch.float32) for part in ("weight", "bias"))),
            head=copy.deepcopy(head).to(device, torch.float32).eval(),
            slopes=torch.from_numpy(slopes.astype(np.float64)).to(device),
            intercepts=torch.from_numpy(intercepts.astype(np.float64)).to(device),
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.table.device

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return self.layers[0].out.dtype

    @property
    def hidden(self) -> int:
        """Width of a token."""
        return self.table.shape[1]

    @property
    def columns(self) -> int:
        """Of the context."""
        return len(self.head.context_base)

    @property
    def positions(self) -> int:
        """Tokens of the longest window that it takes."""
        return self.table.shape[0] - self.first - 1

    def tokens(self, bags: Tensor, attend: Attend) -> Tensor:
        """[T, WIDTH] int32 -> [T, hidden], the input of the last layer."""
        x = self.embedded(functional.embedding_bag(bags, self.table, mode="sum")).to(self.dtype)
        for layer in self.layers[:-1]:
            x = layer.behind(x, attend(layer.qkv(x)))
        return x

    def logits(self, x: Tensor, attention: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        """The windows' first positions before and in the last attention, [B, hidden] each -> [B, HORIZONS] float32."""
        x = self.layers[-1].behind(x, attention).float()
        return self.head.fuse(torch.tanh(self.pooler(x)), contexts, sums)

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, HORIZONS] -> [B, HORIZONS] float32, as `Calibration.probabilities`. What is no number stays none."""
        each = torch.sigmoid((logits.double() * self.slopes + self.intercepts).clamp(-30.0, 30.0))
        return (each.cummax(dim=1).values + logits * 0.0).float()  # infinite * 0 is no number either


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as one row of tokens. Windows are in `order`, so that the runner may choose which lie together."""

    order: Ints  # [B] the windows' places in the batch
    lengths: Ints  # [B] tokens of each window, the first position included
    bags: NDArray[np.int32]  # [T, WIDTH] rows of `Network.table`
    contexts: NDArray[np.int32]  # [B, vocabulary.columns]
    sums: Floats  # [B, aggregates]

    @property
    def starts(self) -> Ints:
        """[B] the token of each window's first position."""
        return np.cumsum(self.lengths) - self.lengths


def pack(batch: Batch, vocabulary: encode.Vocabulary, network: Network, *, longest_first: bool) -> Packed:
    """Vectorised. Events stay oldest first: attention does not care, their position says how new they are.

    Raises `IntentError` for a window that is longer than the network has positions.
    """
    lengths = batch.lengths + 1
    if lengths.max() > network.positions:
        raise IntentError(
            f"a window of {lengths.max()} tokens is longer than the model's {network.positions} positions"
        )
    order = np.argsort(-lengths, kind="stable") if longest_first else np.arange(len(batch))
    starts = np.empty(len(batch), np.int64)
    starts[order] = np.cumsum(lengths[order]) - lengths[order]  # [B] in the batch's order
    return Packed(
        order=order,
        lengths=lengths[order],
        bags=encode.packed(batch, vocabulary, starts=starts, first=network.first),
        contexts=encode.contexts(batch, vocabulary)[order],
        sums=aggregates.aggregates(batch)[order],
    )
