"""What our files and our forward say of a BERT is what transformers says of it."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.unit.scoring import making
from worker.scoring import bundle as bundles
from worker.scoring import codecs, model
from worker.scoring.head import SIZES
from worker.scoring.weights import Sizes, Weights


def shapes(bert: BertModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in bert.state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param(model.config(shape), id=name) for name, shape in SIZES.items()),
        pytest.param(
            BertConfig(hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=7, vocab_size=5),
            id="odd",
        ),
    ],
)
def test_tensors_have_the_names_and_shapes_of_transformers(config: BertConfig) -> None:
    with torch.device("meta"):
        bert = BertModel(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    assert Sizes.of(config.to_diff_dict()).tensors() == shapes(bert)


def test_what_a_config_leaves_out_is_as_in_transformers() -> None:
    theirs = BertConfig()
    assert {name: getattr(theirs, name) for name in asdict(Sizes())} == asdict(Sizes.of({}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"hidden_size": "128"}, "hidden_size is '128'"),
        ({"vocab_size": 1 << 21}, "vocab_size"),
        ({"num_attention_heads": 5}, "do not divide"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps"),
        ({"max_position_embeddings": 64}, "64 positions"),
    ],
)
def test_a_bert_that_would_be_computed_wrongly_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Sizes.of({"hidden_size": 128, "num_attention_heads": 4, **change})


def test_a_tensor_that_is_missing_unknown_or_of_another_shape_is_named() -> None:
    made = making.bundle().weights
    pooler = "pooler.dense.weight"
    for change, says in (
        ({pooler: None}, "pooler.dense.weight is missing"),
        ({"cls.bias": torch.zeros(1)}, "cls.bias is none of a BERT"),
        ({pooler: torch.zeros(32, 31)}, r"\[32, 31\]; \[32, 32\] is wanted"),
    ):
        tensors = {name: tensor for name, tensor in {**made.bert, **change}.items() if tensor is not None}
        with pytest.raises(ValueError, match=says):
            codecs.read_bert(codecs.write_tensors(tensors), made.sizes)


def test_half_precision_is_read_as_float32() -> None:
    made = making.bundle().weights
    halves = {name: tensor.half() for name, tensor in made.bert.items()}
    read = codecs.read_bert(codecs.write_tensors(halves), made.sizes)
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}


def test_a_module_that_was_asked_for_in_inference_mode_has_gradients_too() -> None:
    made = making.bundle()
    copied = Weights(config=made.weights.config, bert=made.weights.bert, head=made.weights.head)
    with torch.inference_mode():
        bert = copied.model.bert
    assert not any(tensor.is_inference() for tensor in (*bert.buffers(), *bert.parameters()))


def test_the_module_has_the_very_tensors_and_is_made_once() -> None:
    loaded = bundles.load()
    parameters = dict(loaded.model.bert.named_parameters())
    assert loaded.model is loaded.model
    assert {name: tensor.data_ptr() for name, tensor in loaded.weights.bert.items()} == {
        name: parameters[name].data_ptr() for name in loaded.weights.bert
    }
    assert not loaded.model.training
