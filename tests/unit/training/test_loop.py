"""A stage that was interrupted ends where it would have ended; what is best is kept; steps always draw alike."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from worker.errors import IntentError
from worker.training import loop
from worker.training.checkpoints import Checkpoints
from worker.training.optimiser import Optimiser

X = torch.from_numpy(np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32))
Y = (X[:, :1] > 0).float()


class Killed(Exception):
    """Planted."""


def stage(**changed: object) -> loop.Stage:
    given: dict[str, object] = {"name": "some", "steps": 20, "batch_windows": 8, "seed": 1, "evaluations": 5}
    return loop.Stage(**(given | changed))  # type: ignore[arg-type]  # each test names fields that fit


def train(
    chosen: loop.Stage, *, keep: Checkpoints | None = None, kill_at: int | None = None, check: loop.Check | None = None
) -> tuple[list[torch.Tensor], loop.History]:
    """A small network with dropout on random batches; its weights and history."""
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.GELU(), nn.Linear(16, 1))
    optimiser = Optimiser([(network, 1.0)], steps=chosen.steps, learning_rate=1e-2, weight_decay=0.1, warm_up=0.1)
    draw = loop.Draw(np.arange(64), 8, seed=chosen.seed)

    def gradients(step: int, rng: np.random.Generator) -> float:
        if step == kill_at:
            raise Killed
        places = draw(step, rng)
        noise = torch.from_numpy(rng.normal(0, 0.1, (len(places), 6)).astype(np.float32))
        loss = nn.functional.binary_cross_entropy_with_logits(network(X[places] + noise), Y[places])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(loss.detach())

    history = loop.run(network, gradients, optimiser, chosen, report=lambda _: None, check=check, keep=keep)
    return [parameter.detach().clone() for parameter in network.parameters()], history


def accuracy(network: nn.Module) -> dict[str, float]:
    network.eval()
    with torch.inference_mode():
        return {"score": float(((network(X) > 0) == Y.bool()).float().mean())}


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kill_at", [1, 6, 13, 20])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_killed_stage_goes_on_to_the_same_weights(tmp_path: Path, kill_at: int, average: float) -> None:
    chosen = stage(average=average)
    whole, history = train(chosen, check=accuracy)
    keep = Checkpoints(tmp_path)
    with pytest.raises(Killed):
        train(chosen, keep=keep, kill_at=kill_at, check=accuracy)
    resumed, again = train(chosen, keep=keep, check=accuracy)
    assert same(whole, resumed)
    assert again == history
    done, _ = train(chosen, keep=keep, kill_at=1, check=accuracy)  # it had ended: no step is taken
    assert same(whole, done)


def test_without_the_checkpoint_the_test_above_could_not_pass(tmp_path: Path) -> None:
    """What goes on from half-trained weights, but with a fresh optimiser, ends elsewhere."""
    whole, _ = train(stage())
    keep = Checkpoints(tmp_path)
    with pytest.raises(Killed):
        train(stage(), keep=keep, kill_at=10)
    state = keep.load("some")
    assert state is not None
    state["optimiser"]["adamw"]["state"] = {}
    keep.save("some", state)
    resumed, _ = train(stage(), keep=keep)
    assert not same(whole, resumed)


def test_another_seed_or_stage_draws_otherwise() -> None:
    first = loop.randomness(1, "head", 3).random(4).tolist()
    assert first == loop.randomness(1, "head", 3).random(4).tolist()
    others = [loop.randomness(2, "head", 3), loop.randomness(1, "all", 3), loop.randomness(1, "head", 4)]
    assert all(first != other.random(4).tolist() for other in others)
    assert not same(train(stage())[0], train(stage(seed=2))[0])


def test_the_best_checkpoint_is_kept_and_patience_ends_the_stage() -> None:
    scores = iter([0.1, 0.5, 0.9, 0.3, 0.2, 0.1])
    seen: list[list[torch.Tensor]] = []

    def check(network: nn.Module) -> dict[str, float]:
        seen.append([parameter.detach().clone() for parameter in network.parameters()])
        return {"score": next(scores)}

    weights, history = train(stage(patience=2), check=check)
    assert [entry["score"] for entry in history] == [0.1, 0.5, 0.9, 0.3, 0.2]
    assert [entry["windows"] for entry in history] == [0, 32, 64, 96, 128]
    assert same(weights, seen[2])


def test_the_average_is_that_of_the_weights_of_each_step() -> None:
    def walk(average: float) -> tuple[list[float], float]:
        """Where the weight was before each step, and what is left at the end."""
        steps: list[float] = []
        torch.manual_seed(1)
        network = nn.Linear(1, 1, bias=False)
        optimiser = Optimiser([(network, 1.0)], steps=30, learning_rate=0.1, weight_decay=0.0, warm_up=0.1)

        def gradients(_: int, rng: np.random.Generator) -> float:
            steps.append(network.weight.item())
            network.weight.grad = torch.tensor([[rng.normal()]], dtype=torch.float32)
            return 0.0

        loop.run(network, gradients, optimiser, stage(steps=30, average=average), report=lambda _: None)
        return steps, network.weight.item()

    steps, last = walk(0.0)
    wanted = steps[10]  # as the 10th step left it; what was before is forgotten
    for weight in [*steps[11:], last]:
        wanted = 0.8 * wanted + 0.2 * weight
    again, served = walk(0.8)
    assert again == steps
    assert served == pytest.approx(wanted, rel=1e-5)
    assert served != pytest.approx(last, rel=1e-3)


def test_every_place_comes_once_an_epoch() -> None:
    draw = loop.Draw(np.arange(10, 34), 8, seed=3)
    rng = np.random.default_rng(0)
    epochs = [np.concatenate([draw(step, rng) for step in range(at, at + 3)]) for at in (1, 4)]
    for places in epochs:
        assert sorted(places.tolist()) == list(range(10, 34))
    assert epochs[0].tolist() != epochs[1].tolist()
    assert draw(2, rng).tolist() == epochs[0][8:16].tolist()  # whatever was asked for before


def test_weights_say_how_often_a_place_comes() -> None:
    draw = loop.Draw(np.array([5, 6, 7]), 3, seed=3, weights=np.array([1.0, 0.0, 3.0]))
    rng = np.random.default_rng(0)
    drawn = np.concatenate([draw(step, rng) for step in range(2000)])
    assert set(drawn.tolist()) == {5, 7}
    assert (drawn == 7).mean() == pytest.approx(0.75, abs=0.02)


def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path)
    assert keep.load("some stage") is None
    keep.save("some stage", {"step": 1})
    assert keep.load("some stage") == {"step": 1}
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"no zip")
    with pytest.raises(IntentError, match=r"some-stage\.pt cannot be read; delete it"):
        keep.load("some stage")


def test_a_full_disk_is_a_sentence_and_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    """A bound on the size of files stands for the disk's."""
    keep = Checkpoints(tmp_path)
    keep.save("some stage", {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(IntentError, match=r"some-stage\.pt cannot be written, most likely for want of room"):
            keep.save("some stage", {"step": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert keep.load("some stage") == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_rates_differ_by_module_and_what_needs_no_gradient_stays() -> None:
    slow, fast, fixed = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    fixed.requires_grad_(requires_grad=False)
    trained = [(slow, 0.1), (fast, 1.0), (fixed, 1.0)]
    before = [module.weight.item() for module, _ in trained]
    optimiser = Optimiser(trained, steps=10, learning_rate=0.01, weight_decay=0.0, warm_up=0.1)
    for module, _ in trained:
        module.weight.grad = torch.ones(1, 1)
    optimiser.step()
    moved = [abs(module.weight.item() - old) for (module, _), old in zip(trained, before, strict=True)]
    assert moved[0] == pytest.approx(0.1 * moved[1], rel=1e-3)
    assert moved[2] == 0.0


def test_a_part_named_before_its_whole_keeps_its_rate() -> None:
    part, rest = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    before = [part.weight.item(), rest.weight.item()]
    whole = nn.Sequential(part, rest)
    optimiser = Optimiser([(part, 0.1), (whole, 1.0)], steps=10, learning_rate=0.01, weight_decay=0.0, warm_up=0.1)
    assert len(optimiser.parameters) == 2
    part.weight.grad, rest.weight.grad = torch.ones(1, 1), torch.ones(1, 1)
    optimiser.step()
    moved = [abs(now.weight.item() - old) for now, old in zip((part, rest), before, strict=True)]
    assert moved[0] == pytest.approx(0.1 * moved[1], rel=1e-3)
