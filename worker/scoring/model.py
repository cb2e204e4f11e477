"""The network as a module: a plain BERT over the window's events, joined in the head by its aggregates and context.

Training, evaluation and explanations compute with it, and a test holds the packed forward to it. Importing transformers
takes seconds, and nothing that serves does. Knows neither bytes, nor files, nor calibration.
"""

import json

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from worker.scoring import encode
from worker.scoring.head import HORIZONS, Head, Shape
from worker.scoring.weights import Weights


def config(shape: Shape) -> BertConfig:
    """A plain BERT's; its word embeddings are never used and have one row."""
    return BertConfig(
        architectures=["BertModel"],
        vocab_size=1,
        type_vocab_size=1,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=shape.positions,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
    )


class IntentModel(nn.Module):
    """Windows to logits."""

    def __init__(self, bert: BertModel, head: Head) -> None:
        super().__init__()
        self.bert = bert
        self.head = head

    def forward(self, tokens: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        """`encode.padded`, `encode.contexts`, `aggregates.aggregates` of the same b windows -> [b, HORIZONS] logits."""
        return self.each(tokens, contexts, sums).mean(dim=1)

    def each(self, tokens: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        """As `forward`, of every member of the head: [b, members, HORIZONS]. Training has a loss for each."""
        inputs, mask = self.head.positions(tokens)
        window = self.bert(inputs_embeds=inputs, attention_mask=mask).pooler_output
        return self.head.each(window, contexts, sums)


def build(shape: Shape, vocabulary: encode.Vocabulary, *, targets: int = HORIZONS) -> IntentModel:
    """A fresh model, randomly initialised from torch's seed. Training may have it answer more than is served."""
    bert = BertModel(config(shape))  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    head = Head(shape, event_rows=vocabulary.rows, context_rows=vocabulary.context_sizes(), targets=targets)
    return IntentModel(bert, head)


def weights(model: IntentModel) -> Weights:
    """Its tensors, not copies of them."""
    return Weights(config=json.loads(model.bert.config.to_json_string()), bert=model.bert.state_dict(), head=model.head)


def of(made: Weights) -> IntentModel:
    """The module of these very tensors, ready to score (dropout off)."""
    with torch.inference_mode(mode=False):  # whoever asks first may be in it, and who asks next may want gradients
        bert = BertModel(BertConfig.from_dict(dict(made.config)))  # type: ignore[no-untyped-call]
        bert.load_state_dict(dict(made.bert), assign=True)
        return IntentModel(bert, made.head).eval()
