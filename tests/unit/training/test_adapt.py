"""What is adapted and what is not; and that merging changes no score."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertModel

from tests.unit.scoring import making
from worker.scoring import aggregates, bundle, encode, forward
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle
from worker.scoring.model import weights
from worker.training.adapt import METHODS, RANK, Adapted

MERGING = [name for name, method in METHODS.items() if method.merges]
STEPS = 12


@pytest.fixture(scope="module")
def made() -> Bundle:
    return making.bundle()


@pytest.fixture(scope="module")
def inputs(made: Bundle) -> tuple[Tensor, Tensor, Tensor]:
    """Windows from one event to the longest, padded."""
    batch = Batch.of(making.random_windows(12, seed=4))
    tokens = encode.tokens(batch, made.vocabulary)
    grid = encode.padded(batch, tokens, np.arange(len(batch)))
    arrays = (grid, encode.contexts(batch, made.vocabulary), aggregates.aggregates(batch))
    first, second, third = (torch.from_numpy(array) for array in arrays)
    return first, second, third


def train(adapted: Adapted, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Some steps towards made-up labels, as the loop takes them."""
    torch.manual_seed(1)
    adapted.network.train()
    optimiser = torch.optim.AdamW(adapted.trained, lr=0.02)
    wanted = torch.rand(len(inputs[0]), 3).round()
    for step in range(1, STEPS + 1):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(adapted.network(*inputs), wanted)
        penalty = adapted.penalty()
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
        adapted.stepped(step)
        optimiser.zero_grad()
    adapted.network.eval()


@pytest.mark.parametrize("name", METHODS)
def test_only_the_adapter_learns_and_the_head_if_wanted(
    made: Bundle, inputs: tuple[Tensor, Tensor, Tensor], name: str
) -> None:
    before = {key: tensor.clone() for key, tensor in made.model.state_dict().items()}
    small = Adapted(made.model, name, steps=STEPS, head=False)
    assert {id(parameter) for parameter in small.trained}.isdisjoint(map(id, small.network.head.parameters()))
    count = sum(parameter.numel() for parameter in small.trained)
    assert (count == 0) is (name == "head")
    assert count < 0.6 * sum(parameter.numel() for parameter in made.model.bert.parameters())
    adapted = Adapted(made.model, name, steps=STEPS)
    was = adapted.network(*inputs)
    train(adapted, inputs)
    assert (adapted.network(*inputs) - was).abs().max() > 0.01
    after = adapted.network.head.state_dict()
    assert torch.equal(after["events.weight"], before["head.events.weight"])
    assert not torch.equal(after["fusion.answer.weight"], before["head.fusion.answer.weight"])
    for key, tensor in made.model.state_dict().items():  # the model it came from is left alone
        assert torch.equal(tensor, before[key])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "prefix"])
def test_it_begins_where_the_model_is(made: Bundle, inputs: tuple[Tensor, Tensor, Tensor], name: str) -> None:
    adapted = Adapted(made.model, name, steps=STEPS)
    adapted.network.eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted.network(*inputs), made.model(*inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MERGING)
def test_merged_it_computes_the_same_and_is_a_plain_bundle(
    made: Bundle, inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path, name: str
) -> None:
    adapted = Adapted(made.model, name, steps=STEPS)
    train(adapted, inputs)
    merged = adapted.merged()
    with torch.no_grad():
        wanted = torch.sigmoid(adapted.network(*inputs))
        assert (torch.sigmoid(merged(*inputs)) - wanted).abs().max() <= 1e-5
    assert merged.state_dict().keys() == made.model.state_dict().keys()
    saved = replace(made, weights=weights(merged))
    bundle.save(tmp_path, saved)
    loaded = bundle.load(tmp_path)
    assert type(loaded.model.bert) is BertModel
    batch = Batch.of(making.random_windows(12, seed=4))
    served = forward.logits(loaded.weights, loaded.vocabulary, batch, device=torch.device("cpu"))
    assert np.abs(1 / (1 + np.exp(-served)) - wanted.numpy()).max() <= 1e-5


def test_a_merge_that_forgets_the_adapter_would_be_seen(made: Bundle, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    adapted = Adapted(made.model, "lora", steps=STEPS, head=False)
    train(adapted, inputs)
    with torch.no_grad():
        assert (torch.sigmoid(adapted.merged()(*inputs)) - torch.sigmoid(made.model(*inputs))).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(METHODS.keys() - set(MERGING)))
def test_what_does_not_merge_says_so(made: Bundle, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} does not merge"):
        Adapted(made.model, name, steps=STEPS).merged()


def test_adalora_prunes_to_its_budget(made: Bundle, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    adapted = Adapted(made.model, "adalora", steps=STEPS)
    train(adapted, inputs)
    kept = [int((values != 0).sum()) for key, values in adapted.network.bert.named_parameters() if "lora_E" in key]
    assert sum(kept) == RANK * len(kept)


def test_a_prefix_moves_no_position(made: Bundle, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """The longest window fits, and its events stand where they stood."""
    adapted = Adapted(made.model, "prefix", steps=STEPS)
    embedded = []
    for network in (adapted.network, made.model):
        embeddings = next(module for name, module in network.bert.named_modules() if name.endswith("embeddings"))
        handle = embeddings.register_forward_hook(lambda _, __, output: embedded.append(output))
        with torch.no_grad():
            network.eval()(*inputs)
        handle.remove()
    assert inputs[0].shape[1] == encode.MAX_POSITIONS - 1
    assert torch.equal(*embedded)
