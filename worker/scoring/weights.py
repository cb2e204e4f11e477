"""What a model has learnt: a plain BERT by its config and its tensors' names, and the head beside it.

Serving needs no more, and neither does a bundle. Knows not transformers, but its names: `bert/` of a bundle's folder is
what `BertModel.from_pretrained` loads, and a test holds `Sizes.tensors` to `BertModel.state_dict`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from torch import Tensor

from worker.scoring import encode
from worker.scoring.head import Head

if TYPE_CHECKING:
    from worker.scoring.model import IntentModel

_PLAIN: Final = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""What the packed forward computes; a config that says otherwise is of another network."""

_MOST: Final = {
    "num_hidden_layers": 48,
    "hidden_size": 4096,
    "num_attention_heads": 256,
    "intermediate_size": 8 * 4096,
    "max_position_embeddings": 1 << 16,
    "type_vocab_size": 1 << 10,
    "vocab_size": 1 << 20,
}
"""Bounds, so that a damaged config cannot ask for all the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A plain BERT's, under the names and with the defaults that `transformers.BertConfig` has."""

    num_hidden_layers: int = 12
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    vocab_size: int = 30522
    layer_norm_eps: float = 1e-12

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Those that a BERT's `config.json` tells. Raises `ValueError` for a BERT that is not plain, or too large."""
        for name, plain in _PLAIN.items():
            if config.get(name, plain) != plain:
                raise ValueError(f"{name} is {config[name]!r}; only {plain!r} is accepted")
        found = cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})
        for name, most in _MOST.items():
            size = getattr(found, name)
            if type(size) is not int or not 1 <= size <= most:
                raise ValueError(f"{name} is {size!r}; 1 to {most} are accepted")
        if found.hidden_size % found.num_attention_heads:
            raise ValueError(f"{found.num_attention_heads} heads do not divide hidden_size, {found.hidden_size}")
        if type(found.layer_norm_eps) is not float or not 0.0 < found.layer_norm_eps < 1.0:
            raise ValueError(f"layer_norm_eps is {found.layer_norm_eps!r}; a number between 0 and 1 is accepted")
        if found.max_position_embeddings < encode.MAX_POSITIONS:
            raise ValueError(f"{found.max_position_embeddings} positions; a full window needs {encode.MAX_POSITIONS}")
        return found

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of all that `BertModel` keeps."""
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {}

        def linear(name: str, rows: int, columns: int) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

        def norm(name: str) -> None:
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)

        shapes["embeddings.word_embeddings.weight"] = (self.vocab_size, hidden)
        shapes["embeddings.position_embeddings.weight"] = (self.max_position_embeddings, hidden)
        shapes["embeddings.token_type_embeddings.weight"] = (self.type_vocab_size, hidden)
        norm("embeddings.LayerNorm")
        for layer in range(self.num_hidden_layers):
            at = f"encoder.layer.{layer}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                linear(f"{at}.attention.{part}", hidden, hidden)
            norm(f"{at}.attention.output.LayerNorm")
            linear(f"{at}.intermediate.dense", inner, hidden)
            linear(f"{at}.output.dense", hidden, inner)
            norm(f"{at}.output.LayerNorm")
        linear("pooler.dense", hidden, hidden)
        return shapes


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors on one device, in float32, of the sizes that the config tells."""

    config: Mapping[str, Any]
    """The BERT's `config.json`."""
    bert: Mapping[str, Tensor]
    """As `BertModel.state_dict` names them."""
    head: Head

    @cached_property
    def sizes(self) -> Sizes:
        """Of the BERT."""
        return Sizes.of(self.config)

    @cached_property
    def model(self) -> "IntentModel":
        """The module of these very tensors, made when it is first asked for: takes seconds."""
        from worker.scoring import model

        return model.of(self)
