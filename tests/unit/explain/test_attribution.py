"""What the methods say, against models and folds that are known."""

import numpy as np
import pytest
import torch

from tests.unit.explain import planted
from tests.unit.scoring import making
from worker import facts, window
from worker.events import Item
from worker.explain import parts
from worker.explain.gradients import integrated_gradients
from worker.explain.occlusion import occlusion
from worker.explain.parts import GROUPS, only, without_each
from worker.explain.scorer import Scorer
from worker.scoring import encode, forward
from worker.scoring.aggregates import NAMES, aggregates
from worker.scoring.batch import Batch
from worker.scoring.bundle import Bundle


def test_each_column_is_in_one_group() -> None:
    assert sorted(np.concatenate(list(GROUPS.values())).tolist()) == list(range(len(NAMES)))


def test_a_window_without_an_event_is_that_of_a_fold_that_never_saw_it() -> None:
    rng = np.random.default_rng(3)
    events = sorted(making.random_events(rng, 20), key=lambda one: one.time_ms)
    encoded = making.window_of(events)
    kept = [row.id for row in window.view(encoded).rows]
    by_id = {facts.of(one).id: one for one in events}
    for left, changed in enumerate(without_each(encoded)):
        rest = making.window_of([by_id[one] for place, one in enumerate(kept) if place != left])
        size = window.ROWS_AT + (len(kept) - 1) * window.ROW.size
        assert changed[2] == rest[2] == len(kept) - 1
        assert window.newest_ms(changed) == window.newest_ms(rest)
        assert changed[window.ROWS_AT :] == rest[window.ROWS_AT : size]


def test_all_events_are_the_window_itself() -> None:
    for encoded in making.random_windows(20, seed=4):
        n = window.length(encoded)
        mine, whole = Batch.of([only(encoded, range(n))]), Batch.of([encoded])
        for one, other in zip((*mine.rows, *mine.heads), (*whole.rows, *whole.heads), strict=True):
            assert np.array_equal(one, other)


def test_the_only_event_cannot_be_left_out(driven: Bundle) -> None:
    alone = making.window_of([making.event(1)])
    assert without_each(alone) == []
    assert np.isnan(occlusion(Scorer(driven), [alone], horizon=1)[0].events).all()
    assert np.isnan(integrated_gradients(driven, [alone], horizon=1)[0].attribution.events).all()


def test_logits_are_those_of_the_forward_and_its_calibration(bundle: Bundle) -> None:
    windows = making.random_windows(40, seed=5)
    raw = forward.logits(bundle.weights, bundle.vocabulary, Batch.of(windows), device=torch.device("cpu"))
    expected = raw * bundle.calibration.slopes + bundle.calibration.intercepts
    assert Scorer(bundle).logits(windows) == pytest.approx(expected, abs=1e-5)


def test_occlusion_is_the_difference_of_two_scores(bundle: Bundle) -> None:
    """Part by part, by the model's own forward instead of the packed one."""
    windows = making.random_windows(3, seed=6, longest=9)
    scorer = Scorer(bundle)

    def logit(encoded: bytes, columns: np.ndarray | None = None, field: int | None = None) -> float:
        batch = Batch.of([encoded])
        sums, known = aggregates(batch), encode.contexts(batch, bundle.vocabulary)
        if columns is not None:
            sums[:, columns] = bundle.weights.head.means.numpy()[columns]
        if field is not None:
            known[:, field] = parts.UNKNOWN
        grid = encode.padded(batch, encode.tokens(batch, bundle.vocabulary), np.arange(1))
        with torch.inference_mode():
            out = bundle.model(*(torch.from_numpy(array) for array in (grid, known, sums)))[0, 2]
        return float(out) * float(bundle.calibration.slopes[2]) + float(bundle.calibration.intercepts[2])

    for encoded, found in zip(windows, occlusion(scorer, windows, horizon=2), strict=True):
        whole = logit(encoded)
        expected = [whole - logit(rest) for rest in without_each(encoded)] or [np.nan]
        assert found.events == pytest.approx(expected, abs=1e-4, nan_ok=True)
        assert found.aggregates == pytest.approx(
            [whole - logit(encoded, columns=columns) for columns in GROUPS.values()], abs=1e-4
        )
        fields = range(len(encode.COLUMNS))
        assert found.context == pytest.approx([whole - logit(encoded, field=field) for field in fields], abs=1e-4)


def test_integrated_gradients_add_up(bundle: Bundle) -> None:
    windows = making.random_windows(6, seed=7, longest=30)
    for found in integrated_gradients(bundle, windows, horizon=1, steps=512):
        assert abs(found.gap) < 0.02 * max(abs(found.change), 1.0)
        assert found.direct.any()
        assert found.attribution.context.any()
        assert found.attribution.aggregates.any()


def test_an_events_embedding_counts_for_that_event() -> None:
    """Where one item's row is all that says anything, its event is all that has a part."""
    made = making.bundle()
    item = next(name for name in (f"sku{n}" for n in range(30)) if facts.hash32(name) in made.vocabulary.items)
    row = made.vocabulary.bases["item"] + made.vocabulary.items.tolist().index(facts.hash32(item))
    table = made.model.head.events.weight
    with torch.no_grad():
        table[torch.arange(len(table)) != row] = 0
    events = [making.event(n, event_time=making.START_MS + n, items=(Item(item),) if n == 1 else ()) for n in range(5)]
    (found,) = integrated_gradients(made, [making.window_of(events)], horizon=1)
    assert np.flatnonzero(found.direct).tolist() == [1]


def test_a_window_is_explained_alike_alone_and_among_others(bundle: Bundle) -> None:
    windows = making.random_windows(5, seed=8, longest=20)
    together = integrated_gradients(bundle, windows, horizon=0)
    for encoded, found in zip(windows, together, strict=True):
        alone = integrated_gradients(bundle, [encoded], horizon=0)[0]
        assert alone.attribution.events == pytest.approx(found.attribution.events, abs=1e-4, nan_ok=True)


def test_both_methods_find_what_drives_a_score_and_chance_does_not(driven: Bundle) -> None:
    windows = [one for one in planted.windows(200, seed=9) if planted.drivers(one).sum() == 1]
    assert len(windows) > 40
    truth = [int(planted.drivers(one).argmax()) for one in windows]
    rng = np.random.default_rng(10)
    hits = {
        "occlusion": [one.events for one in occlusion(Scorer(driven), windows, horizon=1)],
        "gradients": [one.attribution.events for one in integrated_gradients(driven, windows, horizon=1)],
        "random": [rng.random(one[2]) for one in windows],
    }
    share = {
        name: np.mean([values.argmax() == at for values, at in zip(each, truth, strict=True)])
        for name, each in hits.items()
    }
    assert share["occlusion"] > 0.9
    assert share["gradients"] > 0.7
    assert share["random"] < 0.3
