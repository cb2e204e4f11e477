"""The ramps and the ensemble: what they make of numbers, and that a bundle with them comes back as it went."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.scoring import making
from worker.scoring import bundle as bundles
from worker.scoring import forward
from worker.scoring.batch import Batch
from worker.scoring.fusion import NARROWEST, Ensemble, Ramps
from worker.scoring.model import HORIZONS


def fitted(column: list[float], *, bins: int) -> Ramps:
    ramps = Ramps(1, bins=bins)
    ramps.fit(torch.tensor(column)[:, None])
    return ramps


@pytest.mark.parametrize(
    ("value", "ramp"),
    [
        pytest.param(-1.0, [-1, -1, -1, -1], id="below all"),
        pytest.param(0.0, [-1, -1, -1, -1], id="at the lowest"),
        pytest.param(1.0, [1, -1, -1, -1], id="at the first edge"),
        pytest.param(1.5, [1, 0, -1, -1], id="within the second"),
        pytest.param(9.0, [1, 1, 1, 1], id="above all"),
    ],
)
def test_a_number_rises_through_its_quantiles(value: float, ramp: list[float]) -> None:
    """Half of the column is at its lowest, and takes no bin from the rest."""
    ramps = fitted([0.0] * 4 + [1.0, 2.0, 3.0, 4.0], bins=4)
    assert ramps(torch.tensor([[value]])).tolist()[0] == pytest.approx(ramp)


@pytest.mark.parametrize(
    "column",
    [
        pytest.param([2.0, 2.0, 2.0], id="does not vary"),
        pytest.param([0.0, 1.0, 1.0], id="yes or no"),
        pytest.param([0.0, 1e-7, 2e-7], id="hardly varies"),
    ],
)
def test_no_ramp_is_a_step(column: list[float]) -> None:
    ramps = fitted(column, bins=4)
    assert (ramps.widths >= NARROWEST).all()
    values = torch.linspace(-3, 3, 600)[:, None]
    assert ramps(values).diff(dim=0).abs().max() <= 2 * 6 / 599 / NARROWEST + 1e-4


def test_members_answer_apart_and_are_served_as_their_mean() -> None:
    torch.manual_seed(1)
    ensemble = Ensemble(5, members=3, width=8, outputs=2, dropout=0.0)
    out = ensemble(torch.randn(4, 5))
    assert out.shape == (4, 3, 2)
    assert (out.std(dim=1) > 1e-3).all()
    head = making.bundle(bins=4, members=3).model.head
    assert head.ensemble is not None
    inputs = (torch.randn(4, 32), torch.zeros(4, 7, dtype=torch.int64), torch.rand(4, len(head.means)))
    with torch.inference_mode():
        each = head.each(*inputs)
        assert each.shape == (4, 3, HORIZONS)
        assert torch.allclose(head.fuse(*inputs), each.mean(dim=1))


@pytest.mark.parametrize("members", [0, 3])
def test_rescaled_logits_have_no_mean_and_a_deviation_of_one(members: int) -> None:
    head = making.bundle(bins=4, members=members).model.head
    inputs = (torch.randn(50, 32), torch.zeros(50, 7, dtype=torch.int64), torch.rand(50, len(head.means)))
    with torch.inference_mode():
        before = head.fuse(*inputs)
        head.rescale(before.mean(dim=0), before.std(dim=0))
        after = head.fuse(*inputs)
    assert after.mean(dim=0).tolist() == pytest.approx([0.0] * HORIZONS, abs=1e-4)
    assert after.std(dim=0).tolist() == pytest.approx([1.0] * HORIZONS, abs=1e-4)


@pytest.mark.parametrize(("bins", "members"), [(0, 3), (4, 0), (4, 3)], ids=["ensemble", "ramps", "both"])
def test_a_bundle_with_them_comes_back_as_it_went(tmp_path: Path, bins: int, members: int) -> None:
    made = making.bundle(bins=bins, members=members)
    bundles.save(tmp_path / "bundle", made)
    loaded = bundles.load(tmp_path / "bundle")
    assert loaded.shape == made.shape
    batch = Batch.of(making.random_windows(20, seed=31))
    before, after = (
        forward.logits(one.model, one.vocabulary, batch, device=torch.device("cpu")) for one in (made, loaded)
    )
    assert np.array_equal(before, after)
