"""The head's ensemble: what each member computes, and that bundles of every format come back as they went."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.unit.scoring import making
from worker.scoring import aggregates, encode, forward
from worker.scoring import bundle as bundles
from worker.scoring.batch import Batch
from worker.scoring.fusion import Ensemble, Linears
from worker.scoring.head import HORIZONS, Head, Shape

WINDOW, SIDE = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.linspace(-2, 2, 90).view(3, 6, 5)


def plain(ensemble: Ensemble, member: int) -> torch.Tensor:
    """One member out of torch's own layers, step by step."""

    def linear(layer: Linears, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, layer.weight[member].T, layer.bias[member])

    known = SIDE[member]
    for layer in (ensemble.read, ensemble.digest):
        known = nn.functional.gelu(linear(layer, known))
    both = torch.cat([WINDOW, known], dim=1)
    return linear(ensemble.answer, nn.functional.gelu(linear(ensemble.join, both)))


def test_each_member_is_a_network_of_its_own() -> None:
    torch.manual_seed(1)
    ensemble = Ensemble(4, 5, members=3, width=8, outputs=2, dropout=0.5).eval()
    with torch.inference_mode():
        out = ensemble(WINDOW, SIDE)
        assert out.shape == (6, 3, 2)
        for member in range(3):
            assert torch.allclose(out[:, member], plain(ensemble, member), atol=1e-6)
    assert (out.std(dim=1) > 1e-3).all()


def test_a_loss_of_one_member_leaves_the_others_alone() -> None:
    ensemble = Ensemble(4, 5, members=3, width=8, outputs=2, dropout=0.0)
    ensemble(WINDOW, SIDE)[:, 1].sum().backward()
    for parameter in ensemble.parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().sum(dim=1) > 0
        assert moved.tolist() == [False, True, False]


def inputs(head: Head) -> tuple[torch.Tensor, ...]:
    contexts = torch.zeros(50, len(head.context_base), dtype=torch.int64)
    return torch.randn(50, 32), contexts, torch.rand(50, len(head.means))


def test_members_that_are_apart_share_nothing() -> None:
    head = making.bundle(members=2, aside=2, apart=True).weights.head
    head.each(*inputs(head))[:, 2].sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    grad = head.contexts.weight.grad
    assert grad is not None
    width = making.bundle().shape.context_width
    moved = grad.abs().sum(dim=0).view(4, width) > 0
    assert moved.any(dim=1).tolist() == [False, False, True, False]


def test_heads_that_were_trained_alone_answer_alike_once_seated() -> None:
    whole = making.bundle(members=2, aside=2, apart=True).weights.head
    alone = [making.bundle(seed=seed).weights.head for seed in range(4)]
    for place, head in enumerate(alone):
        whole.seat(place, head)
    given = inputs(whole)
    with torch.inference_mode():
        for head in (whole, *alone):
            head.means.copy_(given[2].mean(dim=0))
        wanted = torch.stack(
            [
                head.fuse(given[0] * (place < 2), *given[1:])  # who stands aside sees no window
                for place, head in enumerate(alone)
            ],
            dim=1,
        )
        assert torch.allclose(whole.each(*given), wanted, atol=1e-6)
    assert (wanted.std(dim=1) > 1e-3).all()


def test_the_members_are_served_as_their_mean() -> None:
    head = making.bundle(members=3, aside=2).weights.head
    given = inputs(head)
    with torch.inference_mode():
        each = head.each(*given)
        assert each.shape == (50, 5, HORIZONS)
        assert torch.allclose(head.fuse(*given), each.mean(dim=1))
        without = head.each(given[0] * 0, *given[1:])
    assert torch.equal(each[:, 3:], without[:, 3:])  # they stand aside
    assert not torch.equal(each[:, :3], without[:, :3])


def test_a_mute_head_does_not_hear_the_bert() -> None:
    head = making.bundle(members=3).weights.head
    window, contexts, sums = inputs(head)
    with torch.inference_mode():
        heard = head.fuse(window, contexts, sums)
        head.mute()
        assert torch.equal(head.fuse(window, contexts, sums), head.fuse(window * 0, contexts, sums))
        assert not torch.equal(head.fuse(window, contexts, sums), heard)
    head.each(window, contexts, sums).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    grad = head.fusion.join.weight.grad
    assert grad is not None
    assert (grad[:, :32].abs().sum(dim=(1, 2)) > 0).all()  # but may learn to


@pytest.mark.parametrize("aside", [0, 2])
def test_a_narrowed_head_answers_the_horizons_as_before(aside: int) -> None:
    shape = Shape(layers=1, hidden=32, heads=1, head_width=32, members=2, aside=aside, apart=True)
    wide = Head(shape, event_rows=9, context_rows=[3] * len(encode.CONTEXT), targets=HORIZONS + 4).eval()
    given = (
        torch.randn(5, 32),
        torch.ones(5, len(encode.CONTEXT), dtype=torch.int64),
        torch.randn(5, len(aggregates.NAMES)),
    )
    before = wide.each(*given)
    assert before.shape == (5, 2 + aside, HORIZONS + 4)
    narrow = wide.narrowed()
    assert torch.allclose(narrow.each(*given), before[:, :, :HORIZONS], atol=1e-6)
    assert torch.equal(wide.each(*given), before)
    plain = Head(shape, event_rows=9, context_rows=[3] * len(encode.CONTEXT)).state_dict()
    assert {name: one.shape for name, one in narrow.state_dict().items()} == {
        name: one.shape for name, one in plain.items()
    }
    assert narrow.narrowed() is narrow


@pytest.mark.parametrize("aside", [0, 2])
def test_rescaled_logits_have_no_mean_and_a_deviation_of_one(aside: int) -> None:
    head = making.bundle(members=2, aside=aside).weights.head
    given = inputs(head)
    with torch.inference_mode():
        before = head.fuse(*given)
        head.rescale(before.mean(dim=0), before.std(dim=0))
        after = head.fuse(*given)
    assert after.mean(dim=0).tolist() == pytest.approx([0.0] * HORIZONS, abs=1e-4)
    assert after.std(dim=0).tolist() == pytest.approx([1.0] * HORIZONS, abs=1e-4)


@pytest.mark.parametrize("apart", [False, True])
def test_a_bundle_of_members_comes_back_as_it_went(tmp_path: Path, apart: bool) -> None:
    made = making.bundle(members=3, aside=2, apart=apart)
    bundles.save(tmp_path / "bundle", made)
    loaded = bundles.load(tmp_path / "bundle")
    assert loaded.shape == made.shape
    batch = Batch.of(making.random_windows(20, seed=31))
    before, after = (
        forward.logits(one.weights, one.vocabulary, batch, device=torch.device("cpu")) for one in (made, loaded)
    )
    assert np.array_equal(before, after)


def test_members_of_the_second_format_share_one_table(tmp_path: Path) -> None:
    """Its config does not say whether they do."""
    made = making.bundle(members=2, aside=1, columns=encode.CONTEXT)
    bundles.save(tmp_path, made)
    config = json.loads((tmp_path / "config.json").read_text()) | {"format": 2}
    del config["shape"]["apart"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    bundles.seal(tmp_path)
    loaded = bundles.load(tmp_path).weights.head
    given = inputs(loaded)
    with torch.inference_mode():
        assert torch.equal(loaded.fuse(*given), made.weights.head.fuse(*given))


def test_a_bundle_of_the_third_format_sees_the_session_alone_as_it_did(tmp_path: Path) -> None:
    """Also once it is written anew. Its vocabulary has no words for more, and whatever is newest changes no score."""
    made = making.bundle(members=2, aside=1, apart=True, columns=encode.CONTEXT)
    bundles.save(tmp_path, made)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["context"] == ["channel", "source", "medium", "browser", "os", "device", "country"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": 3}))
    bundles.seal(tmp_path)
    loaded = bundles.load(tmp_path)
    bundles.save(tmp_path / "anew", loaded)
    batch = Batch.of(making.random_windows(20, seed=32))
    for one in (loaded, bundles.load(tmp_path / "anew")):
        assert one.vocabulary.columns == encode.CONTEXT
        assert np.array_equal(
            forward.logits(one.weights, one.vocabulary, batch, device=torch.device("cpu")),
            forward.logits(made.weights, made.vocabulary, batch, device=torch.device("cpu")),
        )


def test_a_head_of_the_first_format_is_the_layers_that_it_was(tmp_path: Path) -> None:
    """Its file is written from torch's own layers, under the names that they had."""
    made = making.bundle(columns=encode.CONTEXT)
    bundles.save(tmp_path, made)
    head = made.weights.head
    width, side = made.shape.head_width, len(head.means) + 7 * made.shape.context_width
    sides = nn.Sequential(nn.Linear(side, width), nn.GELU(), nn.Identity(), nn.Linear(width, width), nn.GELU())
    outs = nn.Sequential(
        nn.Identity(), nn.Linear(32 + width, width), nn.GELU(), nn.Identity(), nn.Linear(width, HORIZONS)
    )
    file = tmp_path / "head.safetensors"
    tensors = {name: t for name, t in safetensors.torch.load_file(file).items() if not name.startswith("fusion.")}
    for name, layers in {"side": sides, "out": outs}.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in layers.state_dict().items()}
    safetensors.torch.save_file(tensors, file)
    config = json.loads((tmp_path / "config.json").read_text()) | {"format": 1}
    for name in ("members", "aside", "positions", "apart"):
        del config["shape"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    bundles.seal(tmp_path)
    loaded = bundles.load(tmp_path).weights.head
    window, contexts, sums = inputs(head)
    with torch.inference_mode():
        known = head.contexts(contexts + head.context_base).flatten(1)
        wanted = outs(torch.cat([window, sides(torch.cat([head.standard(sums), known], dim=1))], dim=1))
        assert torch.allclose(loaded.fuse(window, contexts, sums), wanted, atol=1e-5)
